"""What the logs of a GPU check say: pytest's report, and what compute-sanitizer found."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path
from typing import Any

TOO_SLOW = "stopped: too slow"


def read_report(path: Path) -> tuple[Counter[str], Counter[str]]:
    """How many tests passed, failed and were skipped, and why they were skipped."""
    counts: Counter[str] = Counter(passed=0, failed=0, skipped=0)
    reasons: Counter[str] = Counter()
    for case in ElementTree.parse(path).iter("testcase"):
        skip = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            counts["failed"] += 1
        elif skip is not None:
            counts["skipped"] += 1
            reasons[skip.get("message", "")] += 1
        else:
            counts["passed"] += 1
    return counts, reasons


def judge(tool: str, code: int, output: str) -> dict[str, Any]:
    """What a compute-sanitizer log says: any memory error fails, and any race that names one of our kernels."""
    cases = re.search(r"^\d+ cases ran.*$", output, re.MULTILINE)
    if cases is None:
        why = TOO_SLOW if code == 124 else "the run itself failed"
        return {"passed": False, "summary": why}
    reports = [line.removeprefix("=========").strip() for line in output.splitlines() if line.startswith("=========")]
    if tool == "racecheck":
        hazards = [line for line in reports if re.match(r"(Error|Warning): Race reported", line)]
        ours = [line for line in hazards if "cgm" in line]
        summary = f"{len(ours)} races in our kernels, {len(hazards) - len(ours)} elsewhere, {cases.group(0)}"
        return {"passed": not ours, "summary": summary, "races": ours[:20]}
    count = re.search(r"ERROR SUMMARY: (\d+) error", output)
    errors = int(count.group(1)) if count else -1
    return {
        "passed": errors == 0,
        "summary": f"{errors} errors, {cases.group(0)}" if count else "no error summary in the log",
        "errors": [line for line in reports if line.startswith(("Invalid", "Program hit", "Error"))][:20],
    }
