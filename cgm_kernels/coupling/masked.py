"""The inverse of masked autoregressive networks, each hidden unit computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import backends
from .._derivatives import beyond_kernels
from .._extension import _C
from .._register import operator
from ..checks import listed
from ..precision import HALVES, outside_autocast
from . import masked_checks, masked_reference
from .masked_operators import ACTIVATION_INDEX
from .masked_plan import Plan, last_plan, plan
from .scales import INDEX as SCALE_INDEX
from .scales import checked as checked_scale

__all__ = ["masked_mlp_inverse"]

_NUMBERS = ("bound", "offset", "eps")


def masked_mlp_inverse(
    y: Tensor,
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
    """The x that a masked autoregressive network maps to y, and the log-determinant of y → x.

    The network gives each dimension a log-scale and a shift that depend on the dimensions before it alone, in an order
    that the masks fix: (s(x), t(x)) = A_n(act(… act(A_1(x)))), A_l(h) = (W_l ∘ M_l) h + b_l. The inverted map is

    ==================  ==================  =================================  ====================================
    ``map="affine"``         y = x σ(s) + t      x_i = (y_i − t_i(x)) / σ(s_i(x))   zuko, nflows, normflows
    ``map="standardize"``    y = (x − t) / σ(s)  x_i = y_i σ(s_i(x)) + t_i(x)       sampling of MADE and MAF
    ==================  ==================  =================================  ====================================

    and under ``scale="gate"`` t is (1 − σ) times the shift. The usual code runs the network D times; here each unit is
    computed once, when its inputs are known: the work of one evaluation. Sources: Germain et al. 2015, "MADE";
    Papamakarios et al. 2017, "Masked autoregressive flow for density estimation".

    Args:
        y: (..., D).
        weights: of each layer, (out, in); the first takes D inputs and then those of the context, the last gives 2 D.
        biases: of each layer None, (out,), or (..., out) with the leading dimensions of y: one for each row.
        masks: of each layer, 0/1 or bool of the weight's shape; None where the masked weights are zeros already. The
            order is derived from them once and kept while they are unchanged: give the same tensors again. Away from
            the CPU a change is known by the tensors' versions, which writing through ``.data`` does not count. A
            compiled graph looks at them at every run.
        context: (C,) or (..., C), the other inputs of the first layer; None where there are none.
        activation: relu, tanh, sigmoid, silu, gelu (exact), elu or softplus, after each layer but the last.
        residual: layers 2 and 3, 4 and 5, … are blocks h + W act(W' act(h) + b') + b as in nflows; the last layer
            reads h itself.
        scale, bound, offset, eps: σ(s), as in :func:`affine_coupling`.
        layout: where in the 2 D outputs log-scale and shift are, as in :func:`affine_coupling_event`.

    Returns:
        x (..., D) and the log-determinant (...) of y → x, differentiable once in y, weights, biases and context.

    Raises:
        TypeError, ValueError: naming the argument that has a wrong type, dtype, device, shape or value; in particular
            where the masks are autoregressive in no order.
    """
    options = {
        **{"activation": activation, "residual": residual, "map": map, "layout": layout},
        **{"scale": scale, "bound": bound, "offset": offset, "eps": eps},
    }
    masks = None if masks is None else listed("masks", masks)
    weights, biases = listed("weights", weights), listed("biases", biases)
    if masks is not None and context is None and not torch.compiler.is_compiling():
        found = _seen_before(y, weights, biases, masks, options)
        if found is not None:
            return found
    return _inverse(y, weights, biases, masks, context, options)


def _seen_before(
    y: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], masks: Sequence[Tensor], options: dict
) -> tuple[Tensor, Tensor] | None:
    """What the extension gives for masks that it knows; None where an argument is wrong or not for it."""
    if not isinstance(y, Tensor) or not y.is_cpu or y.dim() == 0 or backends.select("cpu") != "native":
        return None
    if type(options["residual"]) is not bool or not all(type(options[name]) in (float, int) for name in _NUMBERS):
        return None  # what compares equal, or is made a number, is not yet right
    try:
        order = last_plan(masks, y.shape[-1], options["layout"], options["residual"])
        return None if order is None else _eager(order, y, weights, biases, masks, None, (-1,) * len(weights), options)
    except TypeError:  # said better further on
        return None


def _eager(
    order: Plan,
    y: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    masks: Sequence[Tensor] | None,
    row_bias: Tensor | None,
    starts: Sequence[int],
    options: dict[str, Any],
) -> tuple[Tensor, Tensor] | None:
    """The whole call in the extension, which compares the masks with those of ``order`` and checks the rest."""
    activation, _, map, _, scale, *numbers = options.values()
    kind = SCALE_INDEX.get(scale, -1)
    if map not in masked_checks.MAPS:
        return None
    index = ACTIVATION_INDEX.get(activation, -1)
    return _C.masked_mlp_inverse(
        order.network, y, weights, biases, masks, row_bias, starts, index, kind, *numbers, map == "standardize"
    )


@outside_autocast
def _inverse(
    y: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    masks: Sequence[Tensor] | None,
    context: Tensor | None,
    options: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    activation, residual, map, layout, *numbers = options.values()
    chosen = checked_scale(*numbers)
    masked_checks.options(activation, residual, map, layout)
    masked_checks.tensors(y, weights, biases, masks, context, residual)
    if y.dtype in HALVES:
        wide = [None if bias is None else bias.float() for bias in biases]
        context = None if context is None else context.float()
        found = _inverse(y.float(), [weight.float() for weight in weights], wide, masks, context, options)
        return found[0].to(y.dtype), found[1]
    order = plan(weights if masks is None else masks, y.shape[-1], layout, masks is None, residual)
    beyond = beyond_kernels(y, weights, biases, context)
    backend = "reference" if beyond else backends.select(y.device.type)
    if backend == "reference":

        def network(x: Tensor) -> Tensor:
            return masked_reference.network(x, weights, biases, masks, context, activation, residual)

        return masked_reference.masked_inverse(y, network, layout, chosen, map == "standardize")
    shape = y.shape
    row_bias, starts, biases = _row_biases(y, weights[0], biases, masks, context, order)
    if backend == "native" and y.is_cpu and not torch.compiler.is_compiling():
        eager = _eager(order, y, weights, biases, None, row_bias, starts, options)
        if eager is not None:
            return eager
    x, log_det = operator(backend, "masked_inverse")(
        y.reshape(-1, shape[-1]), _packed(y, weights, biases, order), row_bias, order.numbers,
        order.widths, starts, order.n_steps, ACTIVATION_INDEX[activation], residual, *chosen, map == "standardize",
    )  # fmt: skip
    return x.reshape(shape), log_det.reshape(shape[:-1])


def _packed(y: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], order: Plan) -> Tensor:
    """The masked weights and then the biases, sorted by step."""
    parts = [weight.reshape(-1) for weight in weights]
    for weight, bias in zip(weights, biases, strict=True):
        parts.append(y.new_zeros(len(weight)) if bias is None else bias)
    return torch.cat([*parts, y.new_zeros(1)]).index_select(0, order.gather)


def _row_biases(
    y: Tensor,
    first: Tensor,
    biases: Sequence[Tensor | None],
    masks: Sequence[Tensor] | None,
    context: Tensor | None,
    order: Plan,
) -> tuple[Tensor | None, list[int], list[Tensor | None]]:
    """What is added to the layers row by row, (rows, columns), for each layer its first column or -1, and the rest.

    The context's part of the first layer is such a bias, known before any dimension of x is.
    """
    plain = list(biases)
    if context is not None:
        n_features = y.shape[-1]
        weight = first[:, n_features:]
        if masks is not None:
            weight = weight * masks[0][:, n_features:]
        part = context @ weight.mT
        plain[0] = part if plain[0] is None else part + plain[0]
    parts, starts, width = [], [], 0
    for number, bias in enumerate(plain):
        if bias is None or bias.dim() == 1:
            starts.append(-1)
            continue
        rows = bias.expand(*y.shape[:-1], -1).reshape(-1, bias.shape[-1])
        parts.append(rows.index_select(1, order.units[number]))
        starts.append(width)
        width += bias.shape[-1]
        plain[number] = None
    return (torch.cat(parts, 1) if parts else None), starts, plain
