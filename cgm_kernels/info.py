"""What was built, what is running, and why a backend is absent."""

from __future__ import annotations

import platform
import sys
from typing import Any

import torch

from . import backends, integrations
from ._extension import _C, absence


def build_info() -> dict[str, Any]:
    """Versions built against and running, SIMD level, threads, and for each backend and device "yes" or why not.

    Keys: ``version``, ``python``, ``platform``, ``torch``, ``cuda`` (torch's), ``gpu``, ``threads``, ``backend``,
    ``extension`` (what it was built with, its SIMD level; or why it is absent), ``backends``, ``integrations`` (which
    libraries are patched).
    """
    from . import __version__

    info: dict[str, Any] = {
        "version": __version__,
        "python": platform.python_version(),
        "platform": f"{sys.platform} {platform.machine()}",
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "backend": backends.get_backend(),
        "extension": absence("cpu") if _C is None else dict(_C.build_info()),
    }
    info["backends"] = {
        f"{name} on {device}": backends.absence(name, device) or "yes"
        for name in ("native", "triton", "reference")
        for device in ("cpu", "cuda")
    }
    info["integrations"] = integrations.status()
    return info
