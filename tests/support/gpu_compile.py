"""Runs a compile tool of this folder, triton_compile*.py, in a process where Triton compiles and does not interpret."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def compiled_for_gpus(tool: str, cache: Path) -> list[str]:
    """What it prints of sm_80 and sm_90, a line a kernel, GPU or not; skips where this Triton has no ptxas."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)}
    code = "from triton.backends.nvidia.compiler import get_ptxas; get_ptxas(90)"
    probe = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"this triton has no ptxas: {probe.stderr.strip().splitlines()[-1]}")
    command = [sys.executable, f"tests/support/{tool}.py", "80", "90"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return [line for line in done.stdout.splitlines() if line.startswith("sm_")]
