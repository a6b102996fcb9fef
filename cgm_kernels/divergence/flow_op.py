"""A perceptron's flow: fixed steps of an explicit Runge–Kutta method, the divergence integrated beside the state."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._derivatives import beyond_kernels
from .._register import operator
from ..activations import ACTIVATIONS
from ..checks import choice, flag, listed, tensor
from ..precision import HALVES, outside_autocast
from . import checks, packing, reference
from .op import reads_halves, wants_gradient, widened
from .operators import backend_of
from .packing import Film
from .tableaus import METHODS, TABLEAUS

__all__ = ["FlowResult", "mlp_flow"]

Features = Callable[[Tensor], Tensor]
TimeFilm = Callable[[Tensor], Film]


class FlowResult(NamedTuple):
    """Where the points end, and integrals over the time along their ways; None what was not asked for."""

    x: Tensor  # (B, d)
    divergence: Tensor | None  # (B,): ∫ div v dt
    kinetic: Tensor | None  # (B,): ∫ |v|² dt
    frobenius: Tensor | None  # (B,): ∫ mean_p |J e_p|² dt, under the exact trace ∫ |J|_F² dt


def mlp_flow(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    *,
    times: Tensor | Sequence[float],
    method: str = "rk4",
    activation: str = "tanh",
    probes: Tensor | None = None,
    exact: bool = False,
    context: Tensor | None = None,
    time_features: Features | None = None,
    residual: bool = False,
    film: Film | TimeFilm | None = None,
    regularizers: bool = False,
    keep_states: bool = True,
) -> FlowResult:
    """The solution of dx/dt = v(t, x), v the perceptron of :func:`mlp_divergence`, from times[0] to times[−1], and

        ∫ div v dt,   ∫ |v|² dt,   ∫ mean_p |J e_p|² dt

    along it, by one step of the method from each of ``times`` to the next; the integrals take the method's own weights.
    The same probes serve all steps, so that the estimate's ODE is smooth (Grathwohl et al. 2019); the two regularisers
    are those of Finlay et al. 2020. The gradient is that of the discrete steps.

    Args:
        x: (B, d), the points at times[0].
        weights, biases, activation, probes, exact, residual: as in :func:`mlp_divergence`. Neither probes nor exact:
            no divergence, as for samples. The first layer takes d numbers, then the time where it is wider by one (or
            by the time's features), then those of the context.
        times: N + 1 numbers, all increasing or all decreasing; constants. ``torch.compile(fullgraph=True)`` takes a
            sequence of floats alone: of a tensor it would have to read the numbers.
        method: "euler", "midpoint", "rk4" (the classical one) or "rk4_38" (Kutta's 3/8 rule, torchdiffeq's "rk4").
        context: (c,) or (B, c).
        time_features: gives for times (M,) the features (M, f) that the first layer takes instead of t; called once.
        film: as in :func:`mlp_divergence` with (H_k,) alone, or a function that gives for the times (M,) of all M
            stages such a list with (H_k,) or (M, H_k); called once.
        regularizers: also the last two integrals.
        keep_states: keep x at the beginning of each step for the backward; without them it computes them again, a few
            rows at a time, and the memory does not grow with the steps.

    Returns:
        :class:`FlowResult`, differentiable in all tensors but the probes and times; of half precision the
        integrals are float32.

    Raises:
        TypeError, ValueError: naming the argument that has a wrong type, dtype, device, shape or value.
    """
    layers = listed("weights", weights), listed("biases", biases)
    ends = checks.step_times(times)
    choice("method", method, METHODS)
    exact, residual = flag("exact", exact), flag("residual", residual)
    options = activation, residual, flag("regularizers", regularizers), flag("keep_states", keep_states)
    return _flow(x, *layers, probes, exact, context, time_features, film, ends, method, options)


@outside_autocast
def _flow(
    x: Tensor,
    weights: list[Tensor],
    biases: list[Tensor | None],
    probes: Tensor | None,
    exact: bool,
    context: Tensor | None,
    time_features: Features | None,
    film: Film | TimeFilm | None,
    ends: list[float],
    method: str,
    options: tuple[str, bool, bool, bool],
) -> FlowResult:
    activation, residual, regularize, keep_states = options
    checks.points(x)
    choice("activation", activation, ACTIVATIONS)
    checks.estimate(probes, exact, x, required=False)
    checks.context(context, x)
    backend = backend_of("mlp_flow", x.device.type, len(weights)) if len(ends) > 1 else "reference"
    times = _stage_times(tuple(ends), method, x.dtype, x.device)
    features = _features(x, weights, context, time_features, times)
    n_others = sum(0 if part is None else part.shape[-1] for part in (features, context))
    checks.layers(x, weights, biases, n_others, _described(time_features, features, context))
    film = checks.film(film(times.clone()) if callable(film) else film, weights, x, len(times), "stage")
    backend = "reference" if beyond_kernels(x, weights, biases, features, context, film) else backend
    divergence = exact or probes is not None
    directions = probes if divergence else x.new_empty((0, *x.shape))
    tensors = [x, weights, biases, directions, features, context, film]
    if x.dtype in HALVES and not reads_halves(backend, x):
        tensors = widened(tensors)
    x1, integrals = _canonical(backend, tensors, ends, method, activation, residual, regularize, keep_states)
    x1 = x1.clone() if len(ends) == 1 else x1  # a result is never its argument
    kinetic, frobenius = (integrals[1], integrals[2] if divergence else None) if regularize else (None, None)
    return FlowResult(x1.to(x.dtype), integrals[0] if divergence else None, kinetic, frobenius)


def _canonical(
    backend: str,
    tensors: list[Any],
    ends: list[float],
    method: str,
    activation: str,
    residual: bool,
    regularize: bool,
    keep_states: bool,
) -> tuple[Tensor, Tensor]:
    x, weights, biases, probes, features, context, film = tensors
    d, n_rows = x.shape[1], (len(ends) - 1) * TABLEAUS[method].stages
    steps = [end - start for start, end in itertools.pairwise(ends)]
    widths = packing.widths(x, weights)
    time_bias, added = _first_layer(weights[0], biases[0], d, features, context, n_rows)
    packed_film = packing.pack_film(film, widths, x)
    packed_film = None if packed_film is None else packed_film.expand(n_rows, -1)
    if backend == "reference":
        films = [
            packing.unpack_film(None if packed_film is None else packed_film[n : n + 1], widths) for n in range(n_rows)
        ]
        network = reference.network(weights, biases, None, activation, residual, d)
        return reference.mlp_flow(x, probes, network, time_bias, added, films, steps, method, regularize)
    parameters = packing.pack(weights, biases, d)
    keep = keep_states and wants_gradient(x, parameters, time_bias, added, packed_film)
    numbers = steps, METHODS.index(method), widths, list(ACTIVATIONS).index(activation), residual, regularize, keep
    x1, integrals, _ = operator(backend, "mlp_flow")(x, probes, parameters, time_bias, added, packed_film, *numbers)
    return x1, integrals


def _first_layer(
    weight: Tensor, bias: Tensor | None, d: int, features: Tensor | None, context: Tensor | None, n_rows: int
) -> tuple[Tensor, Tensor | None]:
    """What the stages (N·S, H_1) and what the rows (B, H_1) add to the first layer."""
    time_bias = (weight.new_zeros(len(weight)) if bias is None else bias).expand(n_rows, -1)
    if features is not None:
        n_features = features.shape[1]
        time_bias = time_bias + features @ weight[:, d : d + n_features].mT
        d += n_features
    if context is None:
        return time_bias, None
    part = context @ weight[:, d:].mT
    return (time_bias, part) if context.dim() == 2 else (time_bias + part, None)


def _features(
    x: Tensor, weights: list[Tensor], context: Tensor | None, time_features: Features | None, times: Tensor
) -> Tensor | None:
    """The features (N·S, f) of the stages' times; None for a field that does not depend on the time."""
    if time_features is not None:
        if not callable(time_features):
            raise TypeError(f"time_features must be a function of times: got {type(time_features).__name__}")
        found = time_features(times.clone())
        tensor("time_features(times)", found)
        if found.dim() != 2 or len(found) != len(times):
            raise ValueError(f"time_features must give ({len(times)}, f) for as many times: got {tuple(found.shape)}")
        return found.to(x.dtype)
    others = 0 if context is None else context.shape[-1]
    first = weights[0] if weights else None
    timeless = isinstance(first, Tensor) and first.dim() == 2 and first.shape[1] == x.shape[1] + others
    return None if timeless else times.unsqueeze(1)


def _described(time_features: Features | None, features: Tensor | None, context: Tensor | None) -> str:
    time = "" if features is None else (", t" if time_features is None else ", time_features(t)")
    return time + ("" if context is None else ", context")


_StageTimes = tuple[tuple[float, ...], str, torch.dtype, torch.device]
_MOST_KEPT = 64
_kept: OrderedDict[_StageTimes, Tensor] = OrderedDict()


def _stage_times(ends: tuple[float, ...], method: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The times (N·S,) of all stages, which nobody may write to.

    They are kept, because a tensor made from numbers waits for a GPU, which a loop over batches need not do at each
    turn; not where tensors are made that only stand for some.
    """
    if torch.compiler.is_compiling() or type(torch.empty(0)) is not Tensor:
        return _made_stage_times(ends, method, dtype, device)
    key = ends, method, dtype, device
    if (found := _kept.get(key)) is None:
        with torch.inference_mode(False):
            found = _kept[key] = _made_stage_times(ends, method, dtype, device)
        while len(_kept) > _MOST_KEPT:
            _kept.popitem(last=False)
    return found


def _made_stage_times(ends: tuple[float, ...], method: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    nodes = TABLEAUS[method].nodes
    times = [start + node * (end - start) for start, end in itertools.pairwise(ends) for node in nodes]
    return torch.tensor(times, dtype=dtype, device=device)
