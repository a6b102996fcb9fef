"""What other libraries hand us: the NumPy arrays and torch tensors that the kernels may take, without a copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import backends
from .._derivatives import has_tangent
from ._library import PassOn

_FLOATS = (torch.float32, torch.float64)
_ARRAYS = frozenset([np.ndarray])
_PLAIN = (Tensor, torch.nn.Parameter)


def tensors(*arrays: Any) -> list[Any]:
    """The arrays (None stays None) as plain dense float32 or float64 tensors of one device, or :class:`PassOn`."""
    given = [array for array in arrays if array is not None]
    if torch._C._len_torch_dispatch_stack() > 0:
        raise PassOn("a torch dispatch mode")
    if _ARRAYS.issuperset(map(type, given)):
        _refuse_autocast("cpu")
        return [None if array is None else _shared(array) for array in arrays]
    for array in given:
        if type(array) not in _PLAIN:
            kind = type(array)
            raise PassOn("arrays of two libraries" if kind is np.ndarray else f"{kind.__module__}.{kind.__qualname__}")
        _check(array, given[0])
    if has_tangent(*given):
        raise PassOn("a forward-mode tangent")
    _refuse_autocast(given[0].device.type)
    return list(arrays)


def _refuse_autocast(device_type: str) -> None:
    if torch.is_autocast_enabled(device_type):
        raise PassOn("autocast")


def _shared(array: np.ndarray) -> Tensor:
    if array.dtype != np.float64 and array.dtype != np.float32:
        raise PassOn(f"dtype {array.dtype}")
    flags, size = array.flags, array.itemsize
    # torch shares neither backward or fractional strides nor, without a warning, memory that is read-only.
    if not (flags.writeable and flags.aligned) or any(s < 0 or s % size for s in array.strides):
        array = array.copy()
    return torch.from_numpy(array)


def _check(tensor: Tensor, first: Tensor) -> None:
    if tensor.dtype not in _FLOATS:
        raise PassOn(f"dtype {str(tensor.dtype).removeprefix('torch.')}")
    if tensor.layout is not torch.strided or tensor.device.type not in ("cpu", "cuda"):
        raise PassOn(f"{tensor.layout} on {tensor.device.type}".removeprefix("torch."))
    if tensor.device != first.device:
        raise PassOn("arrays of two devices")
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):  # others are constants of a transform: taken
        raise PassOn("torch.func")


def wants_gradient(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def capturing(tensor: Tensor) -> bool:
    """Whether a CUDA graph is being captured, so that no number can be looked at."""
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()


def differentiable(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """``function(*inputs)`` on our kernels, differentiable once by them and any number of times by their reference."""
    if not wants_gradient(*inputs) or backends.select(inputs[0].device.type) == "reference":
        return function(*inputs)
    return _Differentiable.apply(function, *inputs)


class _Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        ctx.function = function
        with torch.enable_grad():
            wanted = zip(inputs, ctx.needs_input_grad[1:], strict=True)
            ctx.inputs = [tensor.detach().requires_grad_(wants) for tensor, wants in wanted]
            ctx.value = function(*ctx.inputs)
        return ctx.value.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors  # raises where one was changed in place
        if torch.is_grad_enabled():  # create_graph=True
            with backends.use_backend("reference"):
                value = ctx.function(*inputs)
        else:
            inputs, value = ctx.inputs, ctx.value
        wanted = [tensor for tensor, wants in zip(inputs, ctx.needs_input_grad[1:], strict=True) if wants]
        grads = iter(torch.autograd.grad(value, wanted, grad, retain_graph=True, create_graph=torch.is_grad_enabled()))
        return (None, *(next(grads) if wants else None for wants in ctx.needs_input_grad[1:]))
