"""Loads the compiled extension ``_C``, or remembers why it could not and says so when asked."""

from __future__ import annotations

import importlib
import pathlib
import warnings
from types import ModuleType
from typing import Any

import torch

_package = pathlib.Path(__file__).resolve().parent


def _load() -> tuple[ModuleType | None, str | None]:
    try:
        module = importlib.import_module("cgm_kernels._C")
    except ModuleNotFoundError:
        note = _package / "_build_failure.txt"  # left by setup.py when it had to go without
        why = f": {note.read_text(encoding='utf-8').strip()}" if note.exists() else ""
        return None, f"the extension was not built{why} (pip install --no-build-isolation -e . in the source folder)"
    except Exception as error:  # a broken extension must not break the import
        return None, f"the extension does not load: {error}"
    try:
        info = module.build_info()
    except RuntimeError as error:  # CGM_CPU_LEVEL names no level of this CPU
        return None, str(error)
    if info["torch"] != torch.__version__:
        return None, f"built against torch {info['torch']}, running under torch {torch.__version__}: build again"
    source = info["source"]
    if (_package.parent / "csrc").is_dir() and source and pathlib.Path(source).resolve() != _package.parent:
        return None, f"the extension was built from another checkout ({source}): build this one"
    return module, None


_C: Any
_C, _reason = _load()
if _C is None:
    warnings.warn(f"cgm_kernels runs on its PyTorch reference: {_reason}", RuntimeWarning, stacklevel=2)


def absence(device_type: str) -> str | None:
    """Why the extension cannot run tensors of ``device_type``, or None where it can."""
    if _C is None:
        return _reason
    if device_type == "cpu":
        return None
    if device_type == "cuda":
        return None if _C.build_info()["cuda"] else "the extension was built without CUDA"
    return f"there are no native kernels for {device_type} tensors"
