"""Affine couplings: y = σ(s)·x + t with its log-determinant, in one pass, for every way the field writes σ.

Sources: Dinh et al. 2017, "Density estimation using Real NVP"; Kingma & Dhariwal 2018, "Glow"; Kingma et al. 2016,
"Improved variational inference with inverse autoregressive flow" (the gate). :mod:`cgm_kernels.coupling.scales` lists
the scale functions. Float tensors of different dtypes promote as in PyTorch; half precision is computed in float32, and
the log-determinant is float32 then (float64 for float64). The backward recomputes σ and stores nothing but the input of
a map or the output of an inverse: what writes into that one in place before the backward makes it raise, where the
reference minds no writing into an inverse's output. NaN and infinities propagate as in the formula, within their event.
Second derivatives are those of the reference's gradients, and forward mode takes the reference, whatever the backend.
"""

from __future__ import annotations

from types import NoneType

import torch
from torch import Tensor

from .. import backends
from .._derivatives import beyond_kernels
from .._extension import _C
from .._register import operator
from ..checks import flag, integer
from ..precision import outside_autocast
from . import (
    channels,
    checks,
    operators,  # noqa: F401  it registers them
    reference,
    scales,
)
from . import layout as layouts

__all__ = ["affine_coupling", "affine_coupling_event", "affine_coupling_inverse"]


def affine_coupling(
    x: Tensor,
    log_scale: Tensor,
    shift: Tensor,
    *,
    scale: str = "exp",
    bound: float = 2.0,
    offset: float = 2.0,
    eps: float = 0.0,
    event_dims: int | None = None,
) -> tuple[Tensor, Tensor]:
    """y = σ(s)·x + t and log|det ∂y/∂x| = Σ log σ(s) over the event.

    Args:
        x: (*batch, *event); strided views, as the half of an event, are read in place.
        log_scale: s, and ``shift``: t, of shapes that broadcast to x. Both of shape (C,) or (C, 1, 1), which vary along
            one event dimension alone, are an actnorm and have kernels of their own.
        scale: the function σ: "exp" e^s, "tanh" e^(bound·tanh(s/bound)), "softclip" e^(s/(1+|s/bound|)), "sigmoid"
            sigmoid(s + offset) + eps, "softplus" softplus(s + offset) + eps, "gate" sigmoid(s) with y = σx + (1−σ)t.
        bound: positive; the largest |log σ| of "tanh" and "softclip".
        offset, eps: of "sigmoid" and "softplus"; eps is not negative.
        event_dims: how many trailing dimensions form an event; all but the first unless given.

    Returns:
        y of the shape of x and log_det of shape (*batch,), differentiable in x, log_scale and shift.

    Raises:
        TypeError, ValueError: naming the argument that has a wrong type, dtype, device, shape or value.
    """
    return _affine(x, log_scale, shift, scale, bound, offset, eps, event_dims, False)


def affine_coupling_inverse(
    y: Tensor,
    log_scale: Tensor,
    shift: Tensor,
    *,
    scale: str = "exp",
    bound: float = 2.0,
    offset: float = 2.0,
    eps: float = 0.0,
    event_dims: int | None = None,
) -> tuple[Tensor, Tensor]:
    """x = (y − t) / σ(s) and log|det ∂x/∂y| = −Σ log σ(s): the inverse of :func:`affine_coupling`, same arguments."""
    return _affine(y, log_scale, shift, scale, bound, offset, eps, event_dims, True)


def affine_coupling_event(
    x: Tensor,
    parameters: Tensor,
    split: int | slice,
    log_det: Tensor | None = None,
    *,
    inverse: bool = False,
    scale: str = "exp",
    bound: float = 2.0,
    offset: float = 2.0,
    eps: float = 0.0,
    layout: str = "scale_shift",
) -> tuple[Tensor, Tensor]:
    """A whole coupling layer: some channels of x are transformed as in :func:`affine_coupling`, the others pass.

    Neither the halves of the event nor those of the conditioner's output are ever copied, and the result needs no
    concatenation. In the backward the gradient of ``parameters`` is written as the one tensor it is.

    Args:
        x: (B, C, …); dimension 1 holds the channels. With ``inverse`` it is the image, y.
        parameters: (B, 2k, …), for the k transformed channels: the conditioner's output.
        split: an int n transforms the channels from n on; a slice transforms the channels it selects (events of more
            than one dimension take slices of step 1).
        log_det: (B,), a running total; the layer's own is added to it, out of place.
        layout: of the channels of ``parameters``: "scale_shift" (the k log-scales, then the k shifts), "shift_scale",
            or "interleaved_scale_shift" (s₀, t₀, s₁, t₁, …), "interleaved_shift_scale", for events of one dimension.
        scale, bound, offset, eps: as in :func:`affine_coupling`.

    Returns:
        y of the shape of x, and the log-determinant (B,) of the map that was applied, plus ``log_det``.

    Raises:
        TypeError, ValueError: naming the argument that has a wrong type, dtype, device, shape or value.
    """
    if type(split) is not int and not isinstance(split, slice):
        split = integer("split", split, "an int or a slice")
    if type(inverse) is not bool:
        inverse = flag("inverse", inverse)
    if isinstance(log_det, (Tensor, NoneType)) and _fast(x, parameters):
        try:
            kind, order = scales.INDEX.get(scale, -1), layouts.INDEX.get(layout, -1)
            place = split.indices(x.shape[1]) if isinstance(split, slice) else (split, x.shape[1], 1)
            found = _C.affine_event(x, parameters, log_det, *place, order, kind, bound, offset, eps, inverse)
        except TypeError:  # an option of a wrong type: said better below
            found = None
        if found is not None:
            return found
    options = scales.checked(scale, bound, offset, eps)
    return _event(x, parameters, log_det, split=split, layout=layout, scale=options, inverse=inverse)


def _affine(
    x: Tensor,
    log_scale: Tensor,
    shift: Tensor,
    scale: str,
    bound: float,
    offset: float,
    eps: float,
    event_dims: int | None,
    inverse: bool,
) -> tuple[Tensor, Tensor]:
    if event_dims is not None and type(event_dims) is not int:
        event_dims = integer("event_dims", event_dims)
    if isinstance(log_scale, Tensor) and _fast(x, shift):
        dims = x.dim() - 1 if event_dims is None else event_dims
        try:
            kind = scales.INDEX.get(scale, -1)
            found = _C.affine_coupling(x, log_scale, shift, dims, kind, bound, offset, eps, inverse)
        except TypeError:  # an option of a wrong type: said better below
            found = None
        if found is not None:
            return found
    options = scales.checked(scale, bound, offset, eps)
    return _checked_affine(x, log_scale, shift, scale=options, event_dims=event_dims, inverse=inverse)


def _fast(x: Tensor, other: Tensor) -> bool:
    """Whether C++ may try: it looks at the arguments again, and hands back what is wrong or needs the dispatcher."""
    return (
        isinstance(x, Tensor)
        and isinstance(other, Tensor)
        and not torch.compiler.is_compiling()
        and x.dim() > 1
        and backends.select(x.device.type) == "native"
    )


@outside_autocast
def _checked_affine(
    x: Tensor, log_scale: Tensor, shift: Tensor, *, scale: scales.Scale, event_dims: int | None, inverse: bool
) -> tuple[Tensor, Tensor]:
    name = "y" if inverse else "x"
    promoted = checks.together(**{name: x, "log_scale": log_scale, "shift": shift})
    dims = checks.event_dims(name, x, event_dims)
    channel = checks.channels(x, log_scale, shift, dims)
    s, t = (checks.broadcast(n, v, name, x) for n, v in (("log_scale", log_scale), ("shift", shift)))
    backend = "reference" if beyond_kernels(x, log_scale, shift) else backends.select(x.device.type)
    dtype = checks.working_dtype(promoted, backend, x.device.type)
    if backend == "reference":
        y, log_det = reference.affine(x.to(dtype), s.to(dtype), t.to(dtype), scale, dims, inverse)
    elif channel is not None:
        y, log_det = channels.affine(x, log_scale, shift, channel, dtype, scale, inverse, backend)
    else:
        y, log_det = operator(backend, "affine_forward")(x.to(dtype), s.to(dtype), t.to(dtype), *scale, dims, inverse)
    return y.to(promoted), log_det


@outside_autocast
def _event(
    x: Tensor,
    parameters: Tensor,
    log_det: Tensor | None,
    *,
    split: int | slice,
    layout: str,
    scale: scales.Scale,
    inverse: bool,
) -> tuple[Tensor, Tensor]:
    promoted = checks.together(x=x, parameters=parameters)
    if x.dim() < 2:
        raise ValueError(f"x must be (B, C, ...): got shape {tuple(x.shape)}")
    place = layouts.checked(split, layout, x, parameters)
    backend = "reference" if beyond_kernels(x, parameters, log_det) else backends.select(x.device.type)
    dtype = checks.working_dtype(promoted, backend, x.device.type)
    if log_det is not None:
        log_det = checks.running_total(x, log_det, dtype)
    if backend == "reference":
        y, total = reference.affine_event(x.to(dtype), parameters.to(dtype), log_det, place, scale, inverse)
    else:
        forward = operator(backend, "affine_event_forward")
        y, total = forward(x.to(dtype), parameters.to(dtype), log_det, *place, *scale, inverse)
    return y.to(promoted), total
