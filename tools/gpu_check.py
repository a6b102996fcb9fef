"""`make gpu-check [STAGE=build|test|sanitize|bench]`: what needs a GPU, with this machine's python3 and torch.

Installs nothing and downloads nothing. Each stage ends within 8 minutes, or is stopped and reported as such; results go
to benchmarks/results/<device>/gpu_check.json and .md.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu_logs import TOO_SLOW, judge, read_report
from gpu_machine import ROOT, commit, machine, slug
from gpu_parts import finished, run_parts

LOGS = ROOT / "build" / "gpu_check"
STAGE_SECONDS = 470
BENCH_SECONDS = 330  # after which no further row begins
ROW_SECONDS = 110  # for the row that has begun then: it may compile for a minute
START_SECONDS = 10  # what a benchmark takes before its first row
BENCHMARKS = (
    "models",
    "divergence",
    "coupling",
    "langevin",
    "masked_inverse",
    "potential",
    "sliced_ot",
    "runge_kutta",
    "flow_libraries",
)
"""Those first whose rows decide what only a GPU tells: which way stacks of couplings, flows and divergences take."""
LEAST_SECONDS = 30  # with less no part of the tests, or of the sanitizer's runs, begins
TESTS = {
    "native": ["tests/kernels", "-k", "not triton and not emulat"],
    "triton": ["tests/kernels", "-k", "triton and not emulat"],
    "rest": ["tests", "--ignore=tests/kernels", "--ignore=tests/models"],
    "models": ["tests/models"],
    "emulated": ["tests/kernels", "-k", "emulat"],
}
"""The tests by parts, and the arguments of pytest for each: what only a GPU tells first."""
SANITIZED = ("coupling", "divergence", "stacks", "masked", "langevin", "sliced_ot")
PASSES: dict[str, tuple[float, list[str]]] = {
    "headlines": (120, ["--headlines", "--without-compile"]),
    "all": (BENCH_SECONDS, []),
}
"""Seconds of a benchmark at most, and what it measures: the headlines of all of them, without torch.compile, which
takes most of their time and is in no target; only then every size."""


def say(line: str) -> None:
    print(f"gpu-check: {line}", flush=True)


def run(name: str, command: list[str], seconds: float, **variables: str) -> tuple[int, str]:
    """Runs a command with its output on screen and in a log; 124 when it was stopped for taking too long."""
    LOGS.mkdir(parents=True, exist_ok=True)
    paths = os.pathsep.join([str(ROOT), str(ROOT / "python"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1", **variables}
    log = LOGS / f"{name}.log"
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=max(seconds, 1))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its workers too
            process.wait()
            code = 124
    output = log.read_text(encoding="utf-8", errors="replace")
    print(output[-6000:], flush=True)
    return code, output


# ---- the stages: each returns what it found, with "passed" and "summary"


def build(_: Path) -> dict[str, Any]:
    code, output = run(
        "build", [sys.executable, "setup.py", "build_ext", "--inplace"], STAGE_SECONDS - 60, CGM_FORCE_CUDA="1"
    )
    if code != 0:
        return {"passed": False, "summary": TOO_SLOW if code == 124 else "the build failed"}
    code, output = run("build_info", [sys.executable, "-m", "cgm_kernels"], 60)
    native = re.search(r"native on cuda: (.*)", output)
    passed = code == 0 and native is not None and native.group(1).strip() == "yes"
    return {"passed": passed, "summary": "built, loads" if passed else "built, but does not load", "build_info": output}


def test(results: Path) -> dict[str, Any]:
    """Every test, CUDA and Triton for real (never Triton's interpreter), the native kernels first."""
    found = in_parts("test", results, list(TESTS), LEAST_SECONDS, test_part)
    counts: Counter[str] = Counter()
    for one in found["parts"].values():
        counts += Counter(one.get("counts", {}))
    total = ", ".join(f"{counts[kind]} {kind}" for kind in ("passed", "failed", "skipped"))
    return found | {"summary": "; ".join([total, *([found["summary"]] if found["summary"] else [])])}


def test_part(name: str, left: float) -> dict[str, Any]:
    report = LOGS / f"tests_{name}.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    command += [f"--junitxml={report}", *TESTS[name]]
    if importlib.util.find_spec("xdist") is not None:
        command += ["-n", str(max(1, min(8, (os.cpu_count() or 1) // 2)))]
    if importlib.util.find_spec("pytest_timeout") is not None:
        command += ["--timeout=150"]
    code, _output = run(f"tests_{name}", command, left, OMP_NUM_THREADS="2", TRITON_INTERPRET="0")
    if not report.exists():
        stopped = code == 124
        return {"passed": False, "stopped": stopped, "summary": TOO_SLOW if stopped else "pytest made no report"}
    counts, skipped = read_report(report)
    summary = ", ".join(f"{counts[kind]} {kind}" for kind in ("passed", "failed", "skipped"))
    passed = code == 0 and not counts["failed"]
    return {"passed": passed, "summary": summary, "counts": dict(counts), "skip_reasons": dict(skipped)}


def sanitize(results: Path) -> dict[str, Any]:
    """compute-sanitizer over a short run of every kernel; races are counted in our kernels only, not in torch's."""
    tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not os.access(tool, os.X_OK):
        return {"passed": True, "summary": "skipped: no compute-sanitizer here"}
    parts = [f"{check} {operation}" for check in ("memcheck", "racecheck") for operation in SANITIZED]
    found = in_parts("sanitize", results, parts, LEAST_SECONDS, functools.partial(sanitize_part, tool))
    return found | {"summary": found["summary"] or f"no errors and no races in {', '.join(SANITIZED)}"}


def sanitize_part(tool: str, name: str, left: float) -> dict[str, Any]:
    check, operation = name.split()
    # Without torch's caching allocator every tensor is an allocation of its own, and an overrun shows.
    command = [tool, "--tool", check, "--target-processes", "all", sys.executable, "tools/gpu_sanitize.py", operation]
    code, output = run(f"{check}_{operation}", command, left, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    return judge(check, code, output) | {"stopped": code == 124}


def in_parts(
    stage: str, results: Path, names: list[str], least: float, run_one: Callable[[str, float], dict[str, Any]]
) -> dict[str, Any]:
    """Runs the parts of a stage that are not finished, as far as its time goes."""
    now = commit()
    found, summary = run_parts(names, STAGE_SECONDS, least, run_one, finished(stored(results).get(stage, {}), now))
    passed = all(name in found and found[name]["passed"] for name in names)
    return {"passed": passed, "summary": summary, "commit": now, "parts": found}


def bench(results: Path) -> dict[str, Any]:
    """The benchmarks, as far as the stage's time goes; the stage run again goes on where it stopped."""
    began, states, failed, outputs = time.monotonic(), [], [], {}
    finished = finished_earlier(results)
    steps = [(name, which) for which in PASSES for name in BENCHMARKS if f"{name} {which}" not in finished]
    for number, (name, which) in enumerate(steps):
        left, (most, options) = BENCH_SECONDS - (time.monotonic() - began), PASSES[which]
        if left < START_SECONDS:
            states.append(f"{len(steps) - number} of {len(steps)} parts not begun")
            break
        command = [sys.executable, "-m", "benchmarks", name, "--device", "cuda", "--out", str(results), *options]
        seconds = min(left, most)
        command += ["--resume", "--seconds", f"{seconds:.1f}"]
        code, output = run(f"bench_{name}_{which}", command, seconds + ROW_SECONDS)
        outputs[f"{name} {which}"] = output[-4000:]
        if code != 0:
            failed.append(f"{name} {TOO_SLOW}" if code == 124 else f"{name} failed")
        elif rest := re.search(r"time is up: (.*)", output):
            states.append(f"{name}: {rest.group(1)}")
        else:
            finished.append(f"{name} {which}")
    missed, count = missed_targets(results)
    for line in missed:
        say(f"missed: {line}")
    now, said = commit(), [f"{len(missed)} of {count} targets missed", *failed, *states]
    if states:
        said.append("run the stage again to go on" if now else "no commit names these sources: another run begins anew")
    found = {"passed": not failed and count > 0, "summary": "; ".join(said), "missed": missed}
    return found | {"commit": now, "finished": finished, "output": outputs}


def finished_earlier(results: Path) -> list[str]:
    """The parts of the stage that an earlier run of this commit finished."""
    earlier, now = stored(results).get("bench", {}), commit()
    parts = earlier.get("finished", []) if now is not None and earlier.get("commit") == now else []
    return [part for part in parts if (results / f"{part.split()[0]}.json").exists()]


def stored(results: Path) -> dict[str, Any]:
    """What the stages found last."""
    path = results / "gpu_check.json"
    return json.loads(path.read_text(encoding="utf-8"))["stages"] if path.exists() else {}


def missed_targets(results: Path) -> tuple[list[str], int]:
    """Every target that the measurements miss, and of how many."""
    stored = [str(path) for name in BENCHMARKS if (path := results / f"{name}.json").exists()]
    limit = STAGE_SECONDS - BENCH_SECONDS - ROW_SECONDS
    _, output = (
        run("bench_targets", [sys.executable, "-m", "benchmarks", "check", *stored], limit) if stored else (0, "")
    )
    counts = re.findall(r"\d+ of (\d+) targets met", output)
    return re.findall(r"^missed: (.*)$", output, re.MULTILINE), sum(map(int, counts))


STAGES = {"build": build, "test": test, "sanitize": sanitize, "bench": bench}


def record(results: Path, facts: dict[str, Any], stage: str, found: dict[str, Any]) -> None:
    """Puts the stage into gpu_check.json beside those already there, and draws the table anew."""
    path = results / "gpu_check.json"
    whole = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    whole["machine"] = facts
    whole.setdefault("stages", {})[stage] = found
    path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    lines = [
        f"# GPU check on {facts['gpu']}",
        "",
        f"torch {facts['torch']}, CUDA {facts['cuda']}, Python {facts['python']}",
    ]
    lines += ["", "| stage | result | seconds | date |", "|---|---|---|---|"]
    for name in STAGES:
        if name in whole["stages"]:
            row = whole["stages"][name]
            verdict = "passed" if row["passed"] else "**failed**"
            lines.append(f"| {name} | {verdict}: {row['summary']} | {row['seconds']} | {row['date']} |")
    missed = whole["stages"].get("bench", {}).get("missed", [])
    lines += ["", "Missed targets:", "", *(f"- {line}" for line in missed)] if missed else []
    (results / "gpu_check.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", nargs="?", default="all", choices=["all", *STAGES])
    chosen = parser.parse_args().stage
    facts = machine()
    results = ROOT / "benchmarks" / "results" / slug(facts["gpu"])
    results.mkdir(parents=True, exist_ok=True)
    passed = True
    for name in STAGES if chosen == "all" else [chosen]:
        say(f"{name} on {facts['gpu']}, torch {facts['torch']}")
        started = time.monotonic()
        found = STAGES[name](results)
        found |= {"seconds": round(time.monotonic() - started), "date": datetime.date.today().isoformat()}
        record(results, facts, name, found)
        say(f"{name}: {'passed' if found['passed'] else 'FAILED'}: {found['summary']}")
        passed &= found["passed"]
        if name == "build" and not passed:
            break
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
