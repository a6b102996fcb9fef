"""What the arguments of the sliced operations must be; an error names the argument, what was expected and what came."""

from __future__ import annotations

import math
import numbers

import torch
from torch import Tensor

from ..checks import like, tensor


def clouds(x: Tensor, y: Tensor) -> None:
    tensor("x", x)
    like("y", y, "x", x)
    if x.dim() not in (2, 3):
        raise ValueError(f"x must be a cloud (n, d) or a batch of clouds (B, n, d): got shape {tuple(x.shape)}")
    if y.dim() != x.dim() or y.shape[-1] != x.shape[-1] or y.shape[:-2] != x.shape[:-2]:
        expected = "(m, d)" if x.dim() == 2 else "(B, m, d)"
        raise ValueError(f"y must be {expected} beside x: got {tuple(y.shape)} for x of shape {tuple(x.shape)}")
    if x.shape[-1] == 0:
        raise ValueError(f"x must have at least one dimension d: got shape {tuple(x.shape)}")
    for name, cloud in (("x", x), ("y", y)):
        if cloud.shape[-2] == 0:
            raise ValueError(f"{name} must hold at least one point: got shape {tuple(cloud.shape)}")


def rows(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (..., n) and (..., m), brought to the same leading dimensions."""
    tensor("x", x)
    like("y", y, "x", x)
    for name, points in (("x", x), ("y", y)):
        if points.dim() == 0 or points.shape[-1] == 0:
            raise ValueError(f"{name} must hold at least one point in its last dimension: got {tuple(points.shape)}")
    if x.shape[:-1] == y.shape[:-1]:
        return x, y
    try:
        batch = torch.broadcast_shapes(x.shape[:-1], y.shape[:-1])
    except RuntimeError:
        raise ValueError(
            f"y must broadcast to x in its leading dimensions: got {tuple(y.shape)} for x of shape {tuple(x.shape)}"
        ) from None
    return x.expand(*batch, x.shape[-1]), y.expand(*batch, y.shape[-1])


def directions(projections: Tensor, x: Tensor) -> None:
    like("projections", projections, "x", x)
    if projections.dim() != 2 or projections.shape[0] != x.shape[-1]:
        raise ValueError(
            f"projections must be (d, L) with d = {x.shape[-1]}, one column a direction: got {tuple(projections.shape)}"
        )
    if projections.shape[1] == 0:
        raise ValueError(f"projections must hold at least one direction: got shape {tuple(projections.shape)}")


def power(p: float) -> float:
    if isinstance(p, bool) or not isinstance(p, numbers.Real):
        raise TypeError(f"p must be a number: got {type(p).__name__}")
    if not 1.0 <= p < math.inf:
        raise ValueError(f"p must be at least 1 and finite: got {p}")
    return float(p)


def weights(name: str, value: Tensor | None, points_name: str, points_shape: torch.Size, points: Tensor) -> None:
    """``value`` is None or (n,) or the batch's (..., n); its numbers are nonnegative, finite and not all zero.

    The numbers are looked at in eager mode only: a compiled or captured graph must not wait for the device; there, bad
    weights give NaN.
    """
    if value is None:
        return
    tensor(name, value)
    if value.device != points.device:
        raise ValueError(f"{name} must be on the device of {points_name}, {points.device}: got {value.device}")
    if tuple(value.shape) not in ((points_shape[-1],), tuple(points_shape)):
        raise ValueError(
            f"{name} must be {(points_shape[-1],)} or {tuple(points_shape)}, a weight for each point of {points_name}: "
            f"got {tuple(value.shape)}"
        )
    if torch.compiler.is_compiling() or (value.is_cuda and torch.cuda.is_current_stream_capturing()):
        return
    wrapped = torch._C._are_functorch_transforms_active()
    if not wrapped and type(value) in (Tensor, torch.nn.Parameter):
        _weight_values(name, value.detach())


def _weight_values(name: str, value: Tensor) -> None:
    if value.numel() == 0:
        return
    low, high = (float(v) for v in value.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{name} must be finite: it holds a NaN or an infinity")
    if low < 0:
        raise ValueError(f"{name} must be nonnegative: its smallest is {low}")
    if not bool((value.amax(-1) > 0).all()):
        raise ValueError(f"{name} must not be all zero")
