"""One pass of a masked autoregressive layer: the map that :func:`masked_mlp_inverse` inverts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import backends
from .._extension import _C
from ..checks import listed
from . import layout as layouts
from . import masked_checks, masked_reference, scales
from .masked_plan import plan
from .mlp import FUSED
from .op import affine_coupling_event

__all__ = ["masked_mlp_affine"]


def masked_mlp_affine(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    masks: Sequence[Tensor] | None = None,
    *,
    context: Tensor | None = None,
    activation: str = "relu",
    residual: bool = False,
    map: str = "affine",
    scale: str = "exp",
    bound: float = 2.0,
    offset: float = 2.0,
    eps: float = 0.0,
    layout: str = "scale_shift",
) -> tuple[Tensor, Tensor]:
    """The y that a masked autoregressive network maps x to, and the log-determinant of x → y.

    With (s(x), t(x)) of the masked network, each dimension's a function of those before it,

        y = x σ(s) + t  (``map="affine"``)   or   y = (x − t) / σ(s)  (``map="standardize"``: the density of MAF),

    and under ``scale="gate"`` t is (1 − σ) times the shift. :func:`masked_mlp_inverse` goes back, with the same
    arguments. On the CPU a thread takes its rows through all layers, so that activations stay in its cache: for relu
    and tanh, and layers of up to 1024 features. All else, other devices, transforms and compiled graphs included, is
    the composition of matrix products and :func:`affine_coupling_event`. Source: Papamakarios et al. 2017, "Masked
    autoregressive flow for density estimation".

    Args:
        x: (..., D).
        weights, biases, context, activation, residual, map, layout: as of :func:`masked_mlp_inverse`.
        masks: of each layer, 0/1 or bool of the weight's shape. None where the masked weights are zeros already: what
            they are is then taken on trust.
        scale, bound, offset, eps: σ(s), as in :func:`affine_coupling`.

    Returns:
        y (..., D) and the log-determinant (...), differentiable in x, weights, biases and context.

    Raises:
        TypeError, ValueError: naming the argument that has a wrong type, dtype, device, shape or value; in particular
            where the masks are autoregressive in no order.
    """
    weights, biases = listed("weights", weights), listed("biases", biases)
    masks = None if masks is None else listed("masks", masks)
    chosen = scales.checked(scale, bound, offset, eps)
    masked_checks.options(activation, residual, map, layout)
    masked_checks.tensors(x, weights, biases, masks, context, residual, name="x")
    n_features = x.shape[-1]
    if masks is not None:
        if not torch.compiler.is_compiling():
            plan(masks, n_features, layout, False, residual)  # raises where the masks have no order
        weights = [weight * mask.to(weight.dtype) for weight, mask in zip(weights, masks, strict=True)]
    rows = x if x.dim() == 2 else x.reshape(-1, n_features)
    place = (layouts.INDEX[layout], *chosen)
    found = _fused(rows, weights, biases, context, activation, place, map == "standardize", residual)
    if found is None:
        parameters = masked_reference.network(x, weights, biases, None, context, activation, residual)
        found = affine_coupling_event(
            rows, parameters.reshape(len(rows), 2 * n_features), slice(0, n_features), layout=layout,
            inverse=map == "standardize", scale=scale, bound=bound, offset=offset, eps=eps,
        )  # fmt: skip
    return found if x.dim() == 2 else (found[0].reshape(x.shape), found[1].reshape(x.shape[:-1]))


def _fused(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    context: Tensor | None,
    activation: str,
    place: tuple[int, int, float, float, float],
    inverse: bool,
    residual: bool,
) -> tuple[Tensor, Tensor] | None:
    """What the kernel gives for rows x (B, D) and masked weights; None where the call is not for it."""
    if torch.compiler.is_compiling() or activation not in FUSED or backends.select(x.device.type) != "native":
        return None
    if not x.is_cpu or any(bias is not None and bias.dim() != 1 for bias in biases):
        return None
    weights, n_features, conditioning = list(weights), x.shape[1], None
    plain = [
        weight.new_zeros(len(weight)) if bias is None else bias for weight, bias in zip(weights, biases, strict=True)
    ]
    if context is not None:
        conditioning = context @ weights[0][:, n_features:].mT
        weights[0] = weights[0][:, :n_features]
        if context.dim() == 1:
            plain[0], conditioning = plain[0] + conditioning, None
        else:
            conditioning = conditioning.reshape(len(x), len(weights[0]))
    layers = [part for layer in zip(weights, plain, strict=True) for part in layer]
    return _C.masked_mlp_affine(x, layers, conditioning, *place, FUSED[activation], inverse, residual)
