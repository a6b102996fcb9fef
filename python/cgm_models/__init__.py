"""Generative models, every one with an optional context, built on the operations of ``cgm_kernels``."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import cnf, data, ebm, flows, metrics, model, nets, plots, registry, sampling, training, transport
    from .model import GenerativeModel, load

_PARTS = (
    "cnf",
    "data",
    "ebm",
    "flows",
    "metrics",
    "model",
    "nets",
    "plots",
    "registry",
    "sampling",
    "training",
    "transport",
)
_FROM_MODEL = ("GenerativeModel", "load")
__all__ = [
    "GenerativeModel",
    "cnf",
    "data",
    "ebm",
    "flows",
    "load",
    "metrics",
    "model",
    "nets",
    "plots",
    "registry",
    "sampling",
    "training",
    "transport",
]


def __getattr__(name: str) -> Any:
    # Parts are imported when first used: `cgm --help` needs no torch.
    if name in _PARTS:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _FROM_MODEL:
        return getattr(importlib.import_module(f"{__name__}.model"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
