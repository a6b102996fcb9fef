"""Half precision and autocast: the operations compute in float32 or float64, whatever surrounds them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

HALVES = (torch.float16, torch.bfloat16)


def wide(tensor: Tensor) -> Tensor:
    """``tensor``, of half precision in float32."""
    return tensor.float() if tensor.dtype in HALVES else tensor


def autocasts(device_type: str) -> bool:
    """Whether autocast is on for tensors of this device."""
    return autocast_exists(device_type) and torch.is_autocast_enabled(device_type)


@torch.compiler.assume_constant_result  # torch 2.11 does not trace it
def autocast_exists(device_type: str) -> bool:
    """Whether tensors of this device can be autocast."""
    return torch.amp.is_autocast_available(device_type)


_Function = TypeVar("_Function", bound=Callable[..., Any])


def outside_autocast(function: _Function) -> _Function:
    """Under autocast, run ``function`` on float32 copies of its half-precision tensors and with autocast off."""

    @functools.wraps(function)
    def wrapper(x: Any, *args: Any, **kwargs: Any) -> Any:
        device = x.device.type if isinstance(x, Tensor) else "meta"
        if not autocasts(device):
            return function(x, *args, **kwargs)
        with torch.autocast(device, enabled=False):
            kwargs = {name: _widened(value) for name, value in kwargs.items()}
            return function(_widened(x), *map(_widened, args), **kwargs)

    return wrapper  # type: ignore[return-value]


def _widened(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(map(_widened, value)) if type(value) in (list, tuple) else value
    return wide(value) if isinstance(value, Tensor) else value
