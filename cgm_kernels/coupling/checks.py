"""What the arguments of the couplings must be; an error names the argument, what was expected and what came."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ..checks import integer, tensor
from ..precision import HALVES


def together(**tensors: Tensor) -> torch.dtype:
    """The dtype to which these promote; float tensors on one device (x decides), as under autocast not of one dtype."""
    first = next(iter(tensors.values()))
    for name, value in tensors.items():
        tensor(name, value)
        if value.device != first.device:
            other = next(iter(tensors))
            raise ValueError(f"{name} must be on the device of {other}, {first.device}: got {value.device}")
    return functools.reduce(torch.promote_types, [value.dtype for value in tensors.values()])


def working_dtype(dtype: torch.dtype, backend: str, device_type: str) -> torch.dtype:
    """The dtype that the backend reads: half precision on GPUs and in Triton, float32 in its place elsewhere."""
    halves = backend == "triton" or (backend == "native" and device_type == "cuda")
    return dtype if halves else log_det_dtype(dtype)


def log_det_dtype(dtype: torch.dtype) -> torch.dtype:
    """Log-determinants of half precision are float32."""
    return torch.float32 if dtype in HALVES else dtype


def running_total(x: Tensor, log_det: Tensor | None, dtype: torch.dtype) -> Tensor:
    """``log_det`` as a log-determinant of x, which is computed in ``dtype``; zeros where there is none."""
    if log_det is None:
        return x.new_zeros(x.shape[:1], dtype=log_det_dtype(dtype))
    together(x=x, log_det=log_det)
    if log_det.shape != x.shape[:1]:
        raise ValueError(f"log_det must be ({x.shape[0]},), one for each event: got {tuple(log_det.shape)}")
    return log_det.to(log_det_dtype(dtype))


def event_dims(name: str, x: Tensor, value: int | None) -> int:
    """The number of trailing event dimensions; by default all but the first."""
    if value is None:
        if x.dim() == 0:
            raise ValueError(f"{name} must have a batch dimension: got shape ()")
        return x.dim() - 1
    value = integer("event_dims", value)
    if not 0 <= value <= x.dim():
        raise ValueError(
            f"event_dims must be between 0 and {x.dim()} for {name} of shape {tuple(x.shape)}: got {value}"
        )
    return value


def broadcast(name: str, value: Tensor, x_name: str, x: Tensor) -> Tensor:
    """``value`` expanded to the shape of x, without a copy."""
    if value.shape == x.shape:
        return value
    try:
        return value.expand(x.shape)
    except RuntimeError:
        raise ValueError(
            f"{name} must broadcast to {x_name}: got {tuple(value.shape)} for {x_name} of shape {tuple(x.shape)}"
        ) from None


def channels(x: Tensor, log_scale: Tensor, shift: Tensor, dims: int) -> int | None:
    """The dimension of x along which alone log_scale and shift vary, both at every index of it; None: there is none."""
    if log_scale.shape != shift.shape or x.dim() < 2 or dims != x.dim() - 1:
        return None
    padded = (1,) * (x.dim() - log_scale.dim()) + tuple(log_scale.shape)
    varying = [d for d, size in enumerate(padded) if size != 1]
    if len(varying) != 1 or varying[0] == 0 or padded[varying[0]] != x.shape[varying[0]]:
        return None
    return varying[0]
