"""Virtual environments for the Makefile: which torch goes in, what is announced, what is installed.

Standard library only; it runs on the machine's own Python before anything is installed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

SUPPORTED_PYTHON = ((3, 10), (3, 13))
SUPPORTED_TORCH = ((2, 11), (2, 14))
TORCH_FACTS = """
import json, sysconfig, sys, torch
from importlib.metadata import requires, version
print(json.dumps({
    "version": torch.__version__, "distribution": version("torch"), "cuda": torch.version.cuda, "file": torch.__file__,
    "site": sysconfig.get_path("purelib"), "in_venv": sys.prefix != sys.base_prefix,
    "brings_triton": any(r.startswith("triton") and "extra ==" not in r for r in requires("torch") or []),
}))
"""


class SetupProblem(RuntimeError):
    """The environment cannot be made; the message names the fix."""


def say(line: str) -> None:
    print(f"setup: {line}", flush=True)


def check_python(version: tuple[int, ...] = tuple(sys.version_info[:2])) -> None:
    low, high = SUPPORTED_PYTHON
    if not low <= tuple(version) <= high:
        raise SetupProblem(
            f"Python {version[0]}.{version[1]} is not supported (3.{low[1]} to 3.{high[1]} are); "
            "name another one, as in: make PYTHON=python3.12 ..."
        )


def supported_torch(version: str) -> bool:
    match = re.match(r"(\d+)\.(\d+)", version)
    return match is not None and SUPPORTED_TORCH[0] <= (int(match.group(1)), int(match.group(2))) <= SUPPORTED_TORCH[1]


def torch_facts(python: str | Path) -> dict[str, Any] | None:
    """Version, CUDA version and place of the torch that this Python imports; None when it imports none."""
    done = subprocess.run(
        [str(python), "-c", TORCH_FACTS], capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=os.path.sep
    )
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def create(venv: Path, reuse: dict[str, Any] | None) -> None:
    """A fresh virtual environment; `reuse` is the torch of the Python that runs this, made visible inside."""
    say(f"creating {venv.name} with Python {sys.version.split()[0]}")
    outer = reuse is not None and reuse["in_venv"]
    options = ["--system-site-packages"] if reuse is not None and not outer else []
    done = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", *options, str(venv)], stdin=subprocess.DEVNULL, capture_output=True
    )
    if done.returncode != 0:
        raise SetupProblem(
            f"`{sys.executable} -m venv` failed; install venv and pip for this Python "
            f"(on Debian: python{sys.version_info[0]}.{sys.version_info[1]}-venv)"
        )
    if outer:  # a venv made from a venv sees the base Python only, so the outer packages are named in a .pth file
        assert reuse is not None
        site = next(venv.glob("lib/python*/site-packages"), venv / "Lib" / "site-packages")
        (site / "zz_outer_environment.pth").write_text(reuse["site"] + "\n", encoding="utf-8")


def python_of(venv: Path) -> Path:
    return venv / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def works(venv: Path) -> bool:
    python = python_of(venv)
    command = [str(python), "-c", "import pip"]
    return python.exists() and subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL).returncode == 0


def pip_install(venv: Path, arguments: list[str], environment: dict[str, str] | None = None) -> None:
    command = [str(python_of(venv)), "-m", "pip", "install", "--no-input", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, env={**os.environ, **(environment or {})})
    if done.returncode != 0:
        raise SetupProblem(f"pip could not install the packages above; the command was: {' '.join(command)}")


# ---- the announced download


def download_sizes(report: dict[str, Any]) -> list[tuple[str, int | None]]:
    """(name and version, bytes to fetch; None when unknown) of every package in pip's installation report."""
    packages = [(p["metadata"]["name"], p["metadata"]["version"], p["download_info"]["url"]) for p in report["install"]]
    with ThreadPoolExecutor(8) as pool:
        sizes = list(pool.map(_size_of, [url for _, _, url in packages]))
    return [(f"{name} {version}", size) for (name, version, _), size in zip(packages, sizes, strict=True)]


def _size_of(url: str) -> int | None:
    try:
        parts = urlsplit(url)
        if parts.scheme == "file":
            return Path(unquote(parts.path)).stat().st_size
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10) as answer:
            return int(answer.headers["Content-Length"])
    except (OSError, ValueError, TypeError):
        return None


def announce(venv: Path, requirement: str) -> None:
    """Says how much `requirement` will download, before it does."""
    command = [str(python_of(venv)), "-m", "pip", "install", "-qq", "--no-input", "--dry-run", "--report", "-"]
    done = subprocess.run([*command, requirement], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    try:
        sizes = download_sizes(json.loads(done.stdout))
    except ValueError:
        sizes = []
    known = sum(size for _, size in sizes if size is not None)
    if not known:
        say(f"installing {requirement}: the download is 0.2 GB for a CPU build, up to 3 GB for one with CUDA libraries")
        return
    more = "at least " if any(size is None for _, size in sizes) else ""
    name = next((name for name, _ in sizes if name.startswith("torch ")), requirement)
    others = f" and {len(sizes) - 1} packages that it needs" if len(sizes) > 1 else ""
    say(f"installing {name}{others}: the download is {more}{known / 1e9:.2f} GB")


# ---- which versions


def constraints_for(text: str, facts: dict[str, Any]) -> str:
    """The tested versions, with the torch that is really there, and whatever triton that torch asks for."""
    kept = [line for line in text.splitlines() if not re.match(r"(torch|triton)\s*==", line)]
    wanted = re.search(r"^torch\s*==\s*([\w.]+)", text, re.MULTILINE)
    same = wanted is not None and facts["version"].split("+")[0] == wanted.group(1)
    triton = re.search(r"^triton\s*==.*$", text, re.MULTILINE)
    if same and triton is not None and not facts["brings_triton"]:
        kept.append(triton.group(0))
    return "\n".join([*kept, f"torch=={facts['distribution']}"]) + "\n"


def wanted_torch(constraints: str) -> str:
    match = re.search(r"^torch\s*==\s*[\w.]+", constraints, re.MULTILINE)
    if match is None:
        raise SetupProblem("constraints.txt names no torch version")
    return match.group(0)
