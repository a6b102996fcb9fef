"""The backends and devices that this machine can run; a test of an operation takes each as a parameter."""

from __future__ import annotations

import pytest
import torch

import cgm_kernels

DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def running() -> list[pytest.ParameterSet]:
    """One parameter (backend, device) for each pair that runs here, and a skipped one with the reason for the rest."""
    pairs = []
    for device in DEVICES:
        for backend in ("reference", "native", "triton"):
            reason = cgm_kernels.backends.absence(backend, device)
            marks = [pytest.mark.skip(reason=reason)] if reason else []
            pairs.append(pytest.param((backend, device), id=f"{backend}-{device}", marks=marks))
    return pairs


def fused() -> list[pytest.ParameterSet]:
    """The pairs whose backend is not the reference."""
    return [pair for pair in running() if pair.values[0][0] != "reference"]
