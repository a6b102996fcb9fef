"""Runs POT's own tests of the functions we route, without and with the patch, and compares every outcome.

    pip download --no-deps --no-binary POT POT==0.9.7.post1 -d SOURCES
    python tools/pot_suite.py SOURCES/pot-0.9.7.post1.tar.gz

SOURCE is POT's source archive or a folder that holds its ``test`` folder. The exit status is 0 where every test has the
same outcome both times and at least one call ran on our kernels. The file is its own pytest plugin.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

import suite

FUNCTIONS = ("sliced_wasserstein_distance", "max_sliced", "wasserstein_1d", "emd2_1d", "emd_1d")

# What POT's tests expect of their conftest, which its source archives leave out; a conftest that is there comes first.


def _backends() -> list[Any]:
    from ot.backend import get_backend_list

    return get_backend_list()


@pytest.fixture(params=_backends() if suite.RESULTS in os.environ else [], ids=lambda backend: backend.__name__)
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


# The command.


def _test_files(folder: Path) -> list[Path]:
    files = sorted(folder.rglob("test_*.py"))
    return [file for file in files if any(name in file.read_text() for name in FUNCTIONS)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="POT's source archive, or a folder with its tests")
    parser.add_argument("pytest", nargs="*", help="further arguments of pytest (after --)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        suite.unpack(options.source, Path(name), "/test/")
        tests = next((f for f in sorted(Path(name).rglob("test")) if f.is_dir()), Path(name))
        files = _test_files(tests)
        if not files:
            sys.exit(f"{options.source} holds no test of {', '.join(FUNCTIONS)}")
        print("files:", ", ".join(str(file.relative_to(tests)) for file in files), flush=True)
        plugins = ["-p", "suite", *options.pytest]
        plain, patched = (suite.run("pot", tests, files, on, plugins, "pot_suite") for on in (False, True))
    return suite.compare(plain, patched)


if __name__ == "__main__":
    sys.exit(main())
