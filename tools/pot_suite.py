"""Runs POT's own tests of the functions we route, without and with the patch, and compares every outcome.

    pip download --no-deps --no-binary POT POT==0.9.7.post1 -d SOURCES
    python tools/pot_suite.py SOURCES/pot-0.9.7.post1.tar.gz

SOURCE is POT's source archive or a folder that holds its ``test`` folder. The exit status is 0 where every test has the
same outcome both times and at least one call ran on our kernels. The file is its own pytest plugin.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FUNCTIONS = ("sliced_wasserstein_distance", "max_sliced", "wasserstein_1d", "emd2_1d", "emd_1d")
RESULTS = "CGM_POT_SUITE_RESULTS"
PATCHED = "CGM_POT_SUITE_PATCHED"

_outcomes: dict[str, str] = {}


# What POT's tests expect of their conftest, which its source archives leave out; a conftest that is there comes first.


def _backends() -> list[Any]:
    from ot.backend import get_backend_list

    return get_backend_list()


@pytest.fixture(params=_backends() if RESULTS in os.environ else [], ids=lambda backend: backend.__name__)
def nx(request: pytest.FixtureRequest) -> Any:
    return request.param


def _skip_argument(name: Any, value: Any, reason: str = "not for this argument", getter: Any = lambda x: x) -> Any:
    """A decorator that skips a test where the argument(s) ``name``, seen through ``getter``, equal ``value``."""
    several = isinstance(name, (tuple, list))
    names, values = (tuple(name), tuple(value)) if several else ((name,), (value,))
    getters = tuple(getter) if isinstance(getter, (tuple, list)) else (getter,) * len(names)

    def decorate(function: Any) -> Any:
        @functools.wraps(function)
        def test(*args: Any, **kwargs: Any) -> Any:
            if all(n in kwargs and g(kwargs[n]) == v for n, g, v in zip(names, getters, values, strict=True)):
                pytest.skip(reason)
            return function(*args, **kwargs)

        return test

    return decorate


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    pytest.skip_arg = _skip_argument  # type: ignore[attr-defined]
    pytest.skip_backend = functools.partial(_skip_argument, "nx", getter=str)  # type: ignore[attr-defined]
    if os.environ.get(PATCHED) == "1":
        from cgm_kernels import integrations

        integrations.patch("pot")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":
        _outcomes[report.nodeid] = report.outcome if report.when == "call" else f"{report.outcome} in {report.when}"


def pytest_sessionfinish() -> None:
    from cgm_kernels import integrations

    rows = [vars(calls) for calls in integrations.report()]
    Path(os.environ[RESULTS]).write_text(json.dumps({"outcomes": _outcomes, "report": rows}))


# The command.


def _test_files(folder: Path) -> list[Path]:
    files = sorted(folder.rglob("test_*.py"))
    return [file for file in files if any(name in file.read_text() for name in FUNCTIONS)]


def _run(folder: Path, files: list[Path], patched: bool, arguments: list[str]) -> dict[str, Any]:
    results = folder / f"results-{int(patched)}.json"
    ours = Path(__file__).resolve().parent
    path = os.pathsep.join([str(ours.parent), str(ours), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, PATCHED: str(int(patched)), RESULTS: str(results)}
    names = [str(file.relative_to(folder)) for file in files]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "pot_suite", "-p", "no:cacheprovider", "--rootdir=."]
    done = subprocess.run(
        [*command, *arguments, *names], cwd=folder, env=environment, text=True, capture_output=True, check=False
    )
    if not results.exists():
        sys.exit(f"pytest did not finish:\n{done.stdout}\n{done.stderr}")
    print(f"{'with' if patched else 'without'} the patch: {done.stdout.strip().splitlines()[-1]}", flush=True)
    return json.loads(results.read_text())


def _unpacked(source: Path, folder: Path) -> Iterator[Path]:
    """The folders named ``test`` (or, without one, all of it) of a copy of the source."""
    if source.is_dir():
        for file in source.rglob("*.py"):
            copy = folder / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    else:
        with tarfile.open(source) as archive:
            members = [m for m in archive.getmembers() if "/test/" in m.name and m.isfile()]
            archive.extractall(folder, members, filter="data")
    found = [f for f in folder.rglob("test") if f.is_dir()]
    yield from found or [folder]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="POT's source archive, or a folder with its tests")
    parser.add_argument("pytest", nargs="*", help="further arguments of pytest (after --)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        tests = next(_unpacked(options.source, Path(name)))
        files = _test_files(tests)
        if not files:
            sys.exit(f"{options.source} holds no test of {', '.join(FUNCTIONS)}")
        print("files:", ", ".join(str(file.relative_to(tests)) for file in files), flush=True)
        plain, patched = (_run(tests, files, on, options.pytest) for on in (False, True))
    return _compare(plain, patched)


def _compare(plain: dict[str, Any], patched: dict[str, Any]) -> int:
    before, after = plain["outcomes"], patched["outcomes"]
    changed = {test for test in before.keys() | after.keys() if before.get(test) != after.get(test)}
    for test in sorted(changed):
        print(f"differs: {test}: {before.get(test)} without the patch, {after.get(test)} with it")
    counts = ", ".join(f"{count} {outcome}" for outcome, count in Counter(before.values()).most_common())
    print(f"{len(before)} tests ({counts}), {len(changed)} with another outcome under the patch")
    for row in patched["report"]:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in row["reasons"].items())
        print(f"  {row['function']}: {row['ours']} on our kernels, {row['passed_on']} passed on  {reasons}".rstrip())
    ran = sum(row["ours"] for row in patched["report"])
    return 0 if before and ran and not changed else 1


if __name__ == "__main__":
    sys.exit(main())
