"""A row measured in a process of its own, for environment variables that count only when a process begins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import torch

from . import registry
from .benchmark import Cell
from .machine import ROOT
from .timing import settle_allocator


def row(
    benchmark: str, cell: Cell, mode: str, settings: dict[str, Any], compiled: bool, environment: Mapping[str, str]
) -> dict[str, Any] | None:
    """What ``run.row`` gives there; RuntimeError with the last line of its errors where it fails."""
    question = {"benchmark": benchmark, "cell": cell, "mode": mode, "settings": settings, "compiled": compiled}
    question["threads"] = torch.get_num_threads()
    command = [sys.executable, "-m", "benchmarks.apart", json.dumps(question)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError((done.stderr.strip() or "no output").splitlines()[-1])
    *said, answer = done.stdout.splitlines()
    print("\n".join(said), flush=True)
    found: dict[str, Any] | None = json.loads(answer)
    return found


def main() -> None:
    from . import run

    question = json.loads(sys.argv[1])
    torch.set_num_threads(question["threads"])
    settle_allocator()
    benchmark = registry.find(question["benchmark"])
    found = run.row(benchmark, question["cell"], question["mode"], question["settings"], question["compiled"])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
