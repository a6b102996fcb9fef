"""Runs the own tests of nflows, normflows, zuko, torchdiffeq or torchebm, without and with our patch, and compares.

    pip download --no-deps --no-binary :all: nflows normflows zuko -d SOURCES
    pip install torchtestcase                           # nflows' tests import it; nothing of ours does
    python tools/flow_suites.py SOURCES/*.tar.gz --record benchmarks/results/suites.md

The archives of torchdiffeq and torchebm leave their tests out: their repositories hold them.

A SOURCE is a library's source archive, or a folder that holds the library and its tests; the tests run against the
library in it. The exit status is 0 where, for each, every test has the same outcome both times and at least one call
ran on our kernels; where tests cannot be imported it is 1, and what is missing is said.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

import suite

LIBRARIES = ("nflows", "normflows", "zuko", "torchdiffeq", "torchebm")
# nflows names its test files *_test.py, and its base classes are tests only where they are imported; torchdiffeq
# names them *_tests.py, and they import one another as top-level modules: its folder of tests is no package.
_TESTS = re.compile(r"(test_.*|.*_tests?)\.py")


def _check(source: Path, arguments: list[str], record: Path | None) -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        suite.unpack(source, folder)
        inside = [path for path in folder.iterdir() if path.is_dir()]
        root = inside[0] if len(inside) == 1 and inside[0].name not in LIBRARIES else folder
        found = [library for library in LIBRARIES if (root / library / "__init__.py").exists()]
        if (root / "tests").is_dir() and found[:1] != ["torchdiffeq"]:
            (root / "tests" / "__init__.py").touch()  # or its modules are sought in any other package of that name
        files = sorted(file for file in root.rglob("*.py") if _TESTS.fullmatch(file.name))
        if len(found) != 1 or not files:
            sys.exit(f"{source} does not hold one of {', '.join(LIBRARIES)} and its tests")
        print(f"{found[0]}: {len(files)} files of tests", flush=True)
        plain, patched = (suite.run(found[0], root, files, on, arguments) for on in (False, True))
    if record is not None:
        suite.record(record, source.name.removesuffix(".tar.gz"), plain, patched)
    return suite.compare(plain, patched)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path, nargs="+", help="source archives, or folders")
    parser.add_argument("--pytest", nargs="+", default=[], metavar="ARGUMENT", help="further arguments of pytest")
    parser.add_argument(
        "--record", type=Path, metavar="FILE", help="a table of the outcomes, to write or bring up to date"
    )
    options = parser.parse_args()
    return max([_check(source, options.pytest, options.record) for source in options.sources])


if __name__ == "__main__":
    sys.exit(main())
