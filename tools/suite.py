"""Another library's own tests without and with our patch of it: runs them, records every outcome, compares.

The file is the pytest plugin of these runs too; the environment tells it which library, whether patched, and where to
write. Each test begins with the same seeds, so that both runs see the same random numbers. Subtests are compared too.
"""

from __future__ import annotations

import datetime
import json
import os
import random
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = "CGM_SUITE_LIBRARY"
RESULTS = "CGM_SUITE_RESULTS"
PATCHED = "CGM_SUITE_PATCHED"

_outcomes: dict[str, str] = {}
_not_collected: dict[str, str] = {}
_subtests: Counter[str] = Counter()


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get(PATCHED) == "1":
        from cgm_kernels import integrations

        integrations.patch(os.environ[LIBRARY])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    context = getattr(report, "context", None)  # a subtest's, from pytest 9; several may bear the same values
    if context is not None:
        values = ", ".join(f"{name}={value}" for name, value in context.kwargs.items())
        name = f"{report.nodeid} ({values})"
        _subtests[name] += 1
        _outcomes[f"{name} {_subtests[name]}"] = report.outcome
    elif report.when == "call" or report.outcome != "passed":
        _outcomes[report.nodeid] = report.outcome if report.when == "call" else f"{report.outcome} in {report.when}"


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _not_collected[report.nodeid] = str(report.longrepr).strip().splitlines()[-1].removeprefix("E").strip()


def pytest_sessionfinish() -> None:
    from cgm_kernels import integrations

    rows = [vars(calls) for calls in integrations.report()]
    found = {"outcomes": _outcomes, "not_collected": _not_collected, "report": rows}
    Path(os.environ[RESULTS]).write_text(json.dumps(found))


def unpack(source: Path, folder: Path, part: str = "") -> None:
    """The files of an archive, or the Python files of a folder, whose path has ``part`` in it."""
    if source.is_dir():
        for file in source.rglob("*.py"):
            copy = folder / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    else:
        with tarfile.open(source) as archive:
            members = [member for member in archive.getmembers() if part in member.name and member.isfile()]
            archive.extractall(folder, members, filter="data")


def run(
    library: str, folder: Path, files: list[Path], patched: bool, arguments: list[str], plugin: str = "suite"
) -> dict[str, Any]:
    """Outcomes and report of the tests in ``files`` of ``folder``, in a process of their own.

    Ends the program with the reasons where a file could not be collected: its tests would be missing from both runs.
    """
    results = folder / f"results-{int(patched)}.json"
    ours = Path(__file__).resolve().parent
    path = os.pathsep.join([str(ours.parent), str(ours), os.environ.get("PYTHONPATH", "")])
    settings = {LIBRARY: library, PATCHED: str(int(patched)), RESULTS: str(results)}
    names = [str(file.relative_to(folder)) for file in files]
    command = [sys.executable, "-m", "pytest", "-q", "-p", plugin, "-p", "no:cacheprovider", "--rootdir=."]
    done = subprocess.run(
        [*command, *arguments, *names],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, **settings},
        text=True,
        capture_output=True,
        check=False,
    )
    if not results.exists():
        sys.exit(f"pytest did not finish:\n{done.stdout}\n{done.stderr}")
    print(f"{'with' if patched else 'without'} the patch: {done.stdout.strip().splitlines()[-1]}", flush=True)
    found = json.loads(results.read_text())
    if found["not_collected"]:
        reasons = "; ".join(f"{why} ({n} files)" for why, n in Counter(found["not_collected"].values()).most_common())
        sys.exit(f"the tests of {library} cannot run here: {reasons}. Install what is missing, for these tests alone.")
    return found


def counted(outcomes: dict[str, str]) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in Counter(outcomes.values()).most_common())


def changed(plain: dict[str, Any], patched: dict[str, Any]) -> list[str]:
    """The tests that have another outcome under the patch, or ran in one of the two runs alone."""
    before, after = plain["outcomes"], patched["outcomes"]
    return sorted(test for test in before.keys() | after.keys() if before.get(test) != after.get(test))


def compare(plain: dict[str, Any], patched: dict[str, Any]) -> int:
    """Prints what differs and the report; 0 where nothing does and at least one call ran on our kernels."""
    before, after = plain["outcomes"], patched["outcomes"]
    differing = changed(plain, patched)
    for test in differing:
        print(f"differs: {test}: {before.get(test)} without the patch, {after.get(test)} with it")
    print(f"{len(before)} tests ({counted(before)}), {len(differing)} with another outcome under the patch")
    for row in patched["report"]:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in row["reasons"].items())
        print(f"  {row['function']}: {row['ours']} on our kernels, {row['passed_on']} passed on  {reasons}".rstrip())
    ran = sum(row["ours"] for row in patched["report"])
    return 0 if before and ran and not differing else 1


HEAD = """# Other libraries' own tests under our patches

Each library's tests ran without and with `cgm_kernels.integrations.patch`, on the source named, and every outcome was
compared; subtests count as tests. Written by `python tools/flow_suites.py SOURCES --record FILE`.

| source | tests | outcomes | changed by the patch | calls on our kernels | passed on | torch | commit | date |
|---|---|---|---|---|---|---|---|---|
"""


NOTES = {
    "torchdiffeq": """torchdiffeq's tests are those of its repository, which its archive leaves out. What changed is
`test_odeint_jump_t` with dopri8 in float32, with and without the adjoint: without the patch the estimate of a step's
error cancels to exactly 0, the next step is ten times as long and its result NaN; with it a rounding is left, and both
pass.
"""
}
"""Of a library whose line in the table asks for a word."""


def _commit() -> str:
    """Of what ran, as the benchmarks name it; "None" of a copy without git."""
    command = [sys.executable, "-c", "from benchmarks.machine import commit; print(commit())"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def record(file: Path, source: str, plain: dict[str, Any], patched: dict[str, Any]) -> None:
    """The outcomes as a line of the table in ``file``, in place of an earlier one of the same source."""
    import torch

    text = file.read_text(encoding="utf-8") if file.exists() else HEAD
    lines = text.splitlines()[len(HEAD.splitlines()) :]
    rows = {line.split("|")[1].strip(): line for line in lines if line.startswith("|")}
    calls = [sum(row[key] for row in patched["report"]) for key in ("ours", "passed_on")]
    outcomes, day = plain["outcomes"], datetime.datetime.now(datetime.timezone.utc).date()
    numbers = len(outcomes), counted(outcomes), len(changed(plain, patched)), *calls
    cells = source, *numbers, torch.__version__, _commit(), day
    rows[source] = "| " + " | ".join(map(str, cells)) + " |"
    table = HEAD + "\n".join(rows[name] for name in sorted(rows)) + "\n"
    notes = [note for library, note in NOTES.items() if any(name.startswith(library) for name in rows)]
    file.write_text("\n".join([table, *notes]), encoding="utf-8")
