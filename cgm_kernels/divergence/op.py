"""The divergence of a perceptron, with its value: the right-hand side of continuous normalizing flows.

For u_k = γ_k ∘ (W_k h_(k−1) + b_k) + β_k, h_0 = [x, t, context], h_k = a(u_k) [+ h_(k−1)] and the value v = u_K,

    exact         div v = tr J,  J = ∂v/∂x
    probes e_p    div v ≈ (1/P) Σ_p e_pᵀ J e_p,  which is unbiased where E[e eᵀ] = 1

value and tangents go through each layer in one product. Sources: Hutchinson 1989, "A stochastic estimator of the trace
of the influence matrix for Laplacian smoothing splines"; Chen et al. 2018, "Neural ordinary differential equations";
Grathwohl et al. 2019, "FFJORD: free-form continuous dynamics for scalable reversible generative models"; for the norm
of J, Finlay et al. 2020, "How to train your neural ODE: the world of Jacobian and kinetic regularization" (RNODE).

Half precision is computed in float32, under autocast too. NaN and infinities stay in their row. Second derivatives are
those of the reference's gradients, and forward mode takes the reference, whatever the backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import backends
from .._derivatives import beyond_kernels
from .._extension import _C
from .._register import operator
from ..activations import ACTIVATIONS
from ..checks import choice, flag, listed
from ..precision import HALVES, autocasts, outside_autocast
from . import checks, packing, reference
from .operators import backend_of
from .packing import Film

__all__ = ["mlp_divergence", "mlp_value"]

_INDEX = {name: index for index, name in enumerate(ACTIVATIONS)}


def mlp_divergence(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    *,
    activation: str = "tanh",
    probes: Tensor | None = None,
    exact: bool = False,
    t: Tensor | float | None = None,
    context: Tensor | None = None,
    residual: bool = False,
    film: Film | None = None,
    frobenius: bool = False,
) -> tuple[Tensor, ...]:
    """The value of a perceptron v(x) and its divergence in x, Hutchinson's estimate or exact.

    Args:
        x: (B, d).
        weights: W_k of each layer, (out, in) as of ``torch.nn.Linear``; the first takes d numbers, then t where it is
            given, then those of the context, and the last gives d.
        biases: b_k of each layer, (out,) or None.
        activation: a, after each layer but the last: tanh, softplus, silu, gelu (exact), relu, leaky_relu (0.01 below
            zero), elu or sin.
        probes: e, (P, B, d), constants: the mean of eᵀ J e over them; see :func:`hutchinson_probes`.
        exact: the trace of J instead: closed forms for up to three layers, d tangents for more. Either this or probes.
        t: the time, a number, a tensor (), or (B,), one for each row.
        context: (c,) or (B, c), the other inputs of the first layer.
        residual: h_k = a(u_k) + h_(k−1) for the layers k = 2, …, K−1 whose widths agree.
        film: of each layer, the last included, None or (γ_k, β_k), each (H_k,) or (B, H_k).
        frobenius: also the mean of |J e|² over the probes, whose expectation is |J|_F²; under ``exact`` |J|_F² itself.

    Returns:
        v (B, d), the divergence (B,) and, with ``frobenius``, the squared norm (B,); of half precision the latter two
        are float32. Differentiable in all tensors but the probes.

    Raises:
        TypeError, ValueError: naming the argument that has a wrong type, dtype, device, shape or value.
    """
    layers = listed("weights", weights), listed("biases", biases)
    exact, residual, frobenius = flag("exact", exact), flag("residual", residual), flag("frobenius", frobenius)
    if (probes is None) is exact:
        found = _eager(x, *layers, activation, probes, True, t, context, residual, film, frobenius)
        if found is not None:
            return found
    return _run(x, *layers, activation, probes, exact, True, t, context, residual, film, frobenius)


def mlp_value(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    *,
    activation: str = "tanh",
    t: Tensor | float | None = None,
    context: Tensor | None = None,
    residual: bool = False,
    film: Film | None = None,
) -> Tensor:
    """The value of a perceptron v(x), without its divergence: what a sample needs of a vector field.

    Args:
        x, weights, biases, activation, t, context, residual, film: as in :func:`mlp_divergence`.

    Returns:
        v (B, d), differentiable in all tensors.

    Raises:
        TypeError, ValueError: naming the argument that has a wrong type, dtype, device, shape or value.
    """
    layers = listed("weights", weights), listed("biases", biases)
    residual = flag("residual", residual)
    found = _eager(x, *layers, activation, None, False, t, context, residual, film, False)
    if found is None:
        found = _run(x, *layers, activation, None, False, False, t, context, residual, film, False)
    return found[0]


def _eager(
    x: Tensor, weights: list[Tensor], biases: list[Tensor | None], activation: str, probes: Tensor | None,
    measured: bool, t: Tensor | float | None, context: Tensor | None, residual: bool, film: Film | None,
    frobenius: bool,
) -> tuple[Tensor, ...] | None:  # fmt: skip
    """What the CPU kernel gives an eager call, of one not ``measured`` the value alone; None where the arguments are
    wrong or not for it. Without probes the trace is exact.
    """
    index = _INDEX.get(activation) if isinstance(activation, str) else None
    if torch.compiler.is_compiling() or index is None or film is not None:
        return None
    if not isinstance(x, Tensor) or x.device.type != "cpu" or backends.select("cpu") != "native" or autocasts("cpu"):
        return None
    moment, number = (t, None) if isinstance(t, Tensor) else (None, t)
    if number is not None and (isinstance(number, bool) or not isinstance(number, (int, float))):
        return None
    try:
        if not measured:
            value = _C.mlp_value(x, weights, biases, moment, number, context, index, residual)
            return None if value is None else (value,)
        found = _C.mlp_divergence(x, weights, biases, probes, moment, number, context, index, residual, frobenius)
    except TypeError:  # an argument of a wrong type: said better by the checks
        return None
    return None if found is None else tuple(found)


@outside_autocast
def _run(
    x: Tensor,
    weights: list[Tensor],
    biases: list[Tensor | None],
    activation: str,
    probes: Tensor | None,
    exact: bool,
    measured: bool,
    t: Tensor | float | None,
    context: Tensor | None,
    residual: bool,
    film: Film | None,
    frobenius: bool,
) -> tuple[Tensor, ...]:
    checks.points(x)
    choice("activation", activation, ACTIVATIONS)
    checks.estimate(probes, exact, x, required=measured)
    checks.time(t, x)
    checks.context(context, x)
    n_others = (t is not None) + (0 if context is None else context.shape[-1])
    others = (", t" if t is not None else "") + (", context" if context is not None else "")
    checks.layers(x, weights, biases, n_others, others)
    film = checks.film(film, weights, x, len(x), "row of x")
    shared = film is not None and all(entry is None or entry[0].dim() + entry[1].dim() == 2 for entry in film)
    if film is not None and shared and x.dtype not in HALVES:  # of those the scaled weights would be rounded
        weights, biases, film = *packing.folded(film, weights, biases), None
        found = _eager(x, weights, biases, activation, probes, measured, t, context, residual, None, frobenius)
        if found is not None:
            return found
    if not measured:
        probes = x.new_empty((0, *x.shape))  # no probe, no divergence
    beyond = beyond_kernels(x, weights, biases, t, context, film)
    backend = "reference" if beyond else backend_of("mlp_divergence", x.device.type, len(weights))
    tensors, dtype = [x, weights, biases, probes, t, context, film], x.dtype
    if dtype in HALVES and not reads_halves(backend, x):
        tensors = widened(tensors)
    found = _canonical(backend, tensors, activation, residual, frobenius)
    return found[0].to(dtype), *found[1:]


def _canonical(
    backend: str, tensors: list[Any], activation: str, residual: bool, frobenius: bool
) -> tuple[Tensor, ...]:
    x, weights, biases, probes, t, context, film = tensors
    d = x.shape[1]
    added = packing.first_addition(weights[0], biases[0], d, t, context)
    n_results = 3 if frobenius else 2
    if backend == "reference":
        network = reference.network(weights, biases, film, activation, residual, d)
        return reference.mlp_divergence(x, probes, network, added)[:n_results]
    widths = packing.widths(x, weights)
    parameters = packing.pack(weights, biases, d)
    packed_film = packing.pack_film(film, widths, x)
    keep = wants_gradient(x, parameters, added, packed_film)
    index = _INDEX[activation]
    return operator(backend, "mlp_divergence")(
        x, probes, parameters, added, packed_film, widths, index, residual, frobenius, keep
    )[:n_results]


def reads_halves(backend: str, x: Tensor) -> bool:
    """Whether the backend's kernels take half precision as it is."""
    return backend == "triton" or (backend == "native" and x.device.type == "cuda")


def widened(value: Any) -> Any:
    """``value`` with its tensors, in lists too, in float32."""
    if isinstance(value, (list, tuple)):
        return [widened(part) for part in value]
    return value.float() if isinstance(value, Tensor) else value


def wants_gradient(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)
