"""Buffers that follow from the arguments of a module, and so are no part of its state dictionary."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def register_constant(module: nn.Module, name: str, make: Callable[[], Tensor]) -> Tensor:
    """Register what ``make()`` gives, on the CPU, as the buffer ``name``; the numbers.

    A module built on the device "meta" holds no numbers until ``to_empty`` gives it memory and ``load_state_dict`` its
    state: its constants return with the state.
    """
    with torch.device("cpu"):
        value = make()
    device = torch.get_default_device()
    module.register_buffer(name, value.to(device), persistent=False)
    if device.type == "meta":
        module.register_load_state_dict_post_hook(functools.partial(_restore, name=name, value=value))
    return value


def _restore(module: nn.Module, _keys: Any, *, name: str, value: Tensor) -> None:
    constant = getattr(module, name)
    if constant.is_meta:  # the state was assigned without memory for it
        setattr(module, name, value.to(constant.dtype))
    else:
        constant.copy_(value)
