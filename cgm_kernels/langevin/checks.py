"""What the arguments of the Langevin operations must be; an error names the argument, what was expected, what came."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..checks import FLOATS, number, tensor
from ..precision import HALVES

_INTS = (int, torch.SymInt, numbers.Integral)


def together(**tensors: Tensor) -> torch.dtype:
    """The dtype to which float tensors of one shape and device promote; the first decides shape and device."""
    (first_name, first), *others = tensors.items()
    tensor(first_name, first)
    promoted = first.dtype
    for name, value in others:
        tensor(name, value)
        if value.device != first.device:
            raise ValueError(f"{name} must be on the device of {first_name}, {first.device}: got {value.device}")
        if value.shape != first.shape:
            raise ValueError(
                f"{name} must have the shape of {first_name}, {tuple(first.shape)}: got {tuple(value.shape)}"
            )
        promoted = torch.promote_types(promoted, value.dtype)
    return promoted


def computed_in(dtype: torch.dtype) -> torch.dtype:
    """Half precision is computed in float32."""
    return torch.float32 if dtype in HALVES else dtype


def held_in(dtype: torch.dtype, backend: str, device_type: str) -> torch.dtype:
    """The dtype that the backend reads and writes: halves on GPUs and in Triton, float32 in their place elsewhere."""
    halves = backend == "triton" or (backend == "native" and device_type == "cuda")
    return dtype if halves else computed_in(dtype)


def per_chain(name: str, value: Tensor | float, x: Tensor, dtype: torch.dtype) -> Tensor | float:
    """A number that is not negative, or a float tensor () or (chains,), of which the values are not looked at."""
    if not isinstance(value, Tensor):
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError(f"{name} must be a number or a tensor: got {type(value).__name__}")
        if not number(name, value) >= 0:
            raise ValueError(f"{name} must not be negative: got {value}")
        return float(value)
    tensor(name, value)
    if value.dim() > 0 and value.shape != x.shape[:1]:
        chains = f"() or ({x.shape[0]},), one for each chain of x" if x.dim() else "() for x of shape ()"
        raise ValueError(f"{name} must be {chains}: got {tuple(value.shape)}")
    if value.device != x.device and (value.dim() > 0 or value.device.type != "cpu"):
        raise ValueError(f"{name} must be on the device of x, {x.device}: got {value.device}")
    return value.to(x.device, dtype)


def bounds(clamp: Sequence[float] | None) -> tuple[float, float]:
    """The two ends of ``clamp``, infinite where there is none."""
    if clamp is None:
        return -math.inf, math.inf
    if isinstance(clamp, (str, Tensor)) or not isinstance(clamp, Sequence) or len(clamp) != 2:
        raise TypeError(f"clamp must be a pair of numbers (low, high) or None: got {clamp!r}")
    for end in clamp:
        if isinstance(end, bool) or not isinstance(end, numbers.Real):
            raise TypeError(f"clamp must be a pair of numbers (low, high) or None: got {clamp!r}")
    low, high = float(clamp[0]), float(clamp[1])
    if not low <= high:
        raise ValueError(f"clamp must have low <= high: got {clamp!r}")
    return low, high


def norm_bound(value: float | None) -> float:
    """A positive number; infinite where there is none."""
    if value is None:
        return math.inf
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"max_grad_norm must be a number or None: got {type(value).__name__}")
    if not value > 0:
        raise ValueError(f"max_grad_norm must be positive: got {value}")
    return float(value)


def out(value: Tensor, x: Tensor, dtype: torch.dtype) -> None:
    """A tensor like the result, each element of which has a place of its own."""
    tensor("out", value)
    if value.dtype is not dtype:
        raise TypeError(f"out must have the dtype of the result, {dtype}: got {value.dtype}")
    if value.device != x.device:
        raise ValueError(f"out must be on the device of x, {x.device}: got {value.device}")
    if value.shape != x.shape:
        raise ValueError(f"out must have the shape of x, {tuple(x.shape)}: got {tuple(value.shape)}")
    if value.numel() > 0 and overlaps_itself(value):
        raise ValueError(f"out must not overlap itself: got strides {value.stride()} for shape {tuple(value.shape)}")


def overlaps_itself(value: Tensor) -> bool:
    """Whether two elements may share a place; strided windows that happen to miss each other count as overlapping."""
    dims = [(stride, size) for stride, size in zip(value.stride(), value.shape, strict=True) if size > 1]
    for i, (stride, _) in enumerate(dims):  # no sorting, which is not traced for dynamic shapes
        inside = sum((n - 1) * step for j, (step, n) in enumerate(dims) if j != i and step <= stride)
        if stride <= inside:
            return True
    return False


def shape(value: Any) -> tuple[int, ...]:
    """A shape: an int or a sequence of ints, none negative."""
    single = isinstance(value, _INTS)
    if not single and not isinstance(value, Sequence):
        raise TypeError(f"shape must be an int or a sequence of ints: got {type(value).__name__}")
    sizes = (value,) if single else tuple(value)
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, _INTS):
            raise TypeError(f"shape must hold ints: got {value!r}")
        if size < 0:
            raise ValueError(f"shape must not be negative: got {sizes}")
    return sizes


def float_dtype(dtype: torch.dtype | None) -> torch.dtype:
    """``dtype``, or torch's default."""
    found = torch.get_default_dtype() if dtype is None else dtype
    if found not in FLOATS:
        raise TypeError(f"dtype must be float32, float64, float16 or bfloat16: got {found}")
    return found


def log_ratio(value: Tensor, x: Tensor) -> None:
    """One number for each chain of x."""
    tensor("log_ratio", value)
    if value.shape != x.shape[:1]:
        raise ValueError(f"log_ratio must be {tuple(x.shape[:1])}, one for each chain of x: got {tuple(value.shape)}")
    if value.device != x.device:
        raise ValueError(f"log_ratio must be on the device of x, {x.device}: got {value.device}")
