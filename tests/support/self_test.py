"""``csrc/common/self_test.cpp`` alone, compiled with the extension's flags and called through ctypes."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from build_config import host_flags

ROOT = Path(__file__).resolve().parents[2]
LEVELS = ("baseline", "avx2", "avx512")
SUFFIX = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
    compiler = os.environ.get("CXX") or shutil.which("c++")
    if not compiler:
        return None
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "self_test.so"
        sources = ["csrc/common/self_test.cpp", "csrc/common/levels.cpp"]
        command = [*compiler.split(), *host_flags([]), "-std=c++17", "-fvisibility=default", "-I", "csrc"]
        command += ["-fPIC", "-shared", *sources, "-o", str(output)]
        subprocess.run(command, cwd=ROOT, check=True)
        return ctypes.CDLL(str(output))


def library(level: str) -> ctypes.CDLL:
    """The library at a SIMD level; skips the test without a compiler or on a CPU without the level."""
    loaded = _library()
    if loaded is None:
        pytest.skip("no C++ compiler: neither $CXX nor c++ is there")
    if loaded.cgm_self_test_set_level(LEVELS.index(level)):
        pytest.skip(f"this CPU does not support {level}")
    return loaded


def call(function, *arguments: np.ndarray | int) -> None:
    """Arrays by their address, integers as 64 bits modulo 2⁶⁴."""
    converted = [
        ctypes.c_uint64(a & (2**64 - 1)) if isinstance(a, int) else ctypes.c_void_p(a.ctypes.data) for a in arguments
    ]
    function(*converted)


def math(level: str, name: str, x: np.ndarray) -> tuple[np.ndarray, ...]:
    """``exp`` and ``log`` give one array, ``sincos`` gives two."""
    results = tuple(np.full_like(x, 7.0) for _ in range(2 if name == "sincos" else 1))
    call(getattr(library(level), f"cgm_self_test_{name}_{SUFFIX[x.dtype]}"), x, *results, x.size)
    return results


def ulps(value: np.ndarray, high: np.ndarray, low: np.ndarray | float = 0.0) -> np.ndarray:
    """|value − (high + low)| in units in the last place of value's dtype at the true result high + low (float64)."""
    information = np.finfo(value.dtype)
    exponent = np.maximum(np.frexp(high)[1] - 1, information.minexp)
    return np.abs((value.astype(np.float64) - high) - low) / np.ldexp(1.0, exponent - information.nmant)
