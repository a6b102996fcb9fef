"""Which implementation of an operation runs: the one place that chooses.

``"reference"``  plain PyTorch, differentiable to any order; the oracle of every test
``"native"``     the C++ kernels for CPU tensors, the CUDA kernels for CUDA tensors
``"triton"``     the Triton kernels (CUDA tensors; CPU tensors only under ``TRITON_INTERPRET=1``)
``"auto"``       native where it was built for the tensor's device, else Triton, else the reference
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from . import _extension

BACKENDS = ("auto", "native", "triton", "reference")
_Answer = TypeVar("_Answer")


def _checked(name: str, source: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"{source} must be one of {', '.join(BACKENDS)}: got {name!r}")
    return name


class _Choice(threading.local):
    """The backend of this thread: what ``use_backend`` asked for, else what ``set_backend`` set for the process."""

    def __init__(self) -> None:  # no attribute of the class: torch 2.11 traces that one and not the thread's
        self.override: str | None = None


_default = _checked(os.environ.get("CGM_KERNELS_BACKEND") or "auto", "CGM_KERNELS_BACKEND")
_choice = _Choice()


def get_backend() -> str:
    """The backend asked for in this thread, ``"auto"`` unless set otherwise."""
    return _choice.override or _default


def set_backend(name: str) -> None:
    """Choose the backend of the whole process; ``ValueError`` for an unknown name."""
    global _default
    _default = _checked(name, "name")


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Choose the backend inside a ``with`` block, for this thread alone."""
    previous, _choice.override = _choice.override, _checked(name, "name")
    try:
        yield
    finally:
        _choice.override = previous


def available_backends(device: str | torch.device = "cpu") -> tuple[str, ...]:
    """The backends that run tensors of ``device`` here, fastest first; ``"reference"`` is always among them."""
    kind = torch.device(device).type
    return tuple(name for name in ("native", "triton", "reference") if absence(name, kind) is None)


def absence(name: str, device_type: str) -> str | None:
    """Why backend ``name`` cannot run tensors of ``device_type`` here, or None where it can."""
    if name == "native":
        return _extension.absence(device_type)
    if name == "triton":
        return _triton_absence(device_type)
    return None


def _once(function: Callable[[str], _Answer]) -> Callable[[str], _Answer]:
    """Asked once a device, and a constant of graphs: Dynamo traces through a cache, fails (torch 2.11) or warns."""
    cached = functools.cache(function)

    @torch.compiler.assume_constant_result
    def answer(device_type: str) -> _Answer:
        return cached(device_type)

    return answer


@_once
def _triton_absence(device_type: str) -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install triton)"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return None
    if device_type != "cuda":
        return "Triton needs CUDA tensors (or its interpreter: TRITON_INTERPRET=1)"
    return None if torch.cuda.is_available() else "no CUDA device"


def select(device_type: str) -> str:
    """The backend that runs an operation on tensors of ``device_type`` now."""
    name = _choice.override or _default
    if name == "auto":
        return _automatic(device_type)
    if name != "reference" and (reason := absence(name, device_type)) is not None:
        raise RuntimeError(f"backend {name!r} cannot run {device_type} tensors: {reason}")
    return name


@_once
def _automatic(device_type: str) -> str:
    reason = absence("native", device_type)
    if reason is None:
        return "native"
    chosen = "triton" if device_type == "cuda" and absence("triton", device_type) is None else "reference"
    if device_type != "cpu":  # a CPU build that is missing or broken has already warned at import
        warnings.warn(f"cgm_kernels: {device_type} tensors run on {chosen!r}: {reason}", RuntimeWarning, stacklevel=5)
    return chosen
