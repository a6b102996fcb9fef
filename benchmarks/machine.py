"""The machine and the software of a run, as recorded in every result."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

import cgm_kernels

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = ("numpy", "POT", "triton", "matplotlib", "zuko", "normflows", "nflows", "torchdiffeq", "torchebm")
SOURCES = ("csrc", "cgm_kernels", "python", "benchmarks/*.py")


def facts(device: str) -> dict[str, Any]:
    """Machine, versions, threads, date and commit."""
    info = cgm_kernels.build_info()
    extension = info["extension"]
    return {
        "device": device_name(device),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "simd": extension["simd"] if isinstance(extension, dict) else extension,
        "platform": info["platform"],
        "python": info["python"],
        "torch": info["torch"],
        "cuda": info["cuda"],
        "cgm_kernels": info["version"],
        "libraries": {name: version(name) for name in LIBRARIES},
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
    }


def device_name(device: str) -> str:
    """The GPU's name, or the processor's with its number of threads."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_model()}, {torch.get_num_threads()} threads"


def slug(name: str) -> str:
    """A folder name: lower case, everything but letters and digits replaced by single hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def cpu_model() -> str:
    """The processor's model name, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def version(library: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """The commit of the working tree, with ``+`` where what is measured differs from it.

    Without git, of a copy of the sources, it is what CGM_COMMIT says; None without that.
    """
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", *SOURCES)
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("CGM_COMMIT")
    return head + ("+" if changed else "")


def names_sources(commit: str | None) -> bool:
    """Whether two runs of this ``commit`` measured the same: there is one, and nothing differed from it."""
    return commit is not None and not commit.endswith("+")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()
