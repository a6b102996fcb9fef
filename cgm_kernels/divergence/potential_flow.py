"""The flow along OT-Flow's potential: the whole solve of dx/dt = −∇_xΦ / mass, with what its training integrates."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .. import backends
from .._extension import _C
from ..checks import flag, listed, number
from ..precision import HALVES, outside_autocast
from . import potential_checks
from .checks import step_times
from .potential import potential_divergence, potential_gradient
from .runge_kutta import runge_kutta_update
from .tableaus import TABLEAUS

__all__ = ["PotentialFlow", "potential_flow"]

_METHOD = TABLEAUS["rk4"]


class PotentialFlow(NamedTuple):
    """x (B, d) at the last time, and the integrals (B,) of div v, ½ |v|² and |∂_tΦ − ½ |∇_xΦ|² / mass| on the way.

    The divergence is None where it was not asked for.
    """

    x: Tensor
    divergence: Tensor | None
    transport: Tensor
    penalty: Tensor


def potential_flow(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    output: Tensor,
    *,
    times: Tensor | Sequence[float],
    mass: float = 1.0,
    quadratic: Tensor | None = None,
    linear: Tensor | None = None,
    context: Tensor | None = None,
    divergence: bool = True,
) -> PotentialFlow:
    """The solution of dx/dt = v = −∇_xΦ(x, t) / mass from times[0] to times[−1], by one step of the classical
    Runge–Kutta method (RK4) from each of ``times`` to the next. The integrals take the same weights; where time runs
    backwards they are those from the first time to the last, with that sign.

    Φ is the potential of :func:`potential_divergence`. With mass = α_L of the paper, ``transport`` is its cost, and
    ``penalty`` by how much its Hamilton–Jacobi–Bellman equation fails to hold.

    On the CPU a thread takes its rows through all layers of all stages of all steps; a backward keeps x and ∇Φ of each
    stage, 4 (2 d + 1) numbers a row and step. Other devices and backends, transforms and compiled graphs are composed
    of :func:`potential_divergence` and :func:`runge_kutta_update`.

    Args:
        x: (B, d).
        times: N + 1 numbers, all increasing or all decreasing; constants. ``torch.compile(fullgraph=True)`` takes a
            sequence of floats alone: of a tensor it would have to read the numbers.
        mass: positive.
        weights, biases, output, quadratic, linear, context: as of :func:`potential_divergence`.
        divergence: whether to integrate it, which takes most of the time in many dimensions.

    Returns:
        :class:`PotentialFlow`, differentiable in x, context and all parameters. Half precision is computed in float32.

    Raises:
        TypeError, ValueError: naming the argument that has a wrong type, dtype, device, shape or value.
    """
    ends = step_times(times)
    mass = number("mass", mass)
    if mass <= 0:
        raise ValueError(f"mass must be positive: got {mass}")
    weights, biases, divergence = listed("weights", weights), listed("biases", biases), flag("divergence", divergence)
    found = _fused(x, ends, mass, weights, biases, output, quadratic, linear, context, divergence)
    if found is None:
        found = _composed(x, ends, mass, weights, biases, output, quadratic, linear, context, divergence)
    x, integrals = found
    # Not unbind(), whose results autograd does not let be overwritten.
    return PotentialFlow(x, integrals[0] if divergence else None, integrals[1], integrals[2])


@outside_autocast
def _composed(
    x: Tensor, times: Sequence[float], mass: float, weights: Sequence[Tensor], biases: Sequence[Tensor],
    output: Tensor, quadratic: Tensor | None, linear: Tensor | None, context: Tensor | None, divergence: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """x at the last time and the integrals (3, B), of operations that each backend has."""
    potential_checks.arguments(x, times[0], weights, biases, output, quadratic, linear, context)
    if x.dtype in HALVES:
        wide = [[part.float() for part in parts] for parts in (weights, biases)]
        rest = [part if part is None else part.float() for part in (output, quadratic, linear, context)]
        found = _composed(x.float(), times, mass, *wide, *rest, divergence=divergence)  # type: ignore[misc, arg-type]
        return found[0].to(x.dtype), found[1]

    def rates(t: float, point: Tensor) -> tuple[Tensor, Tensor]:
        given = (point, t, weights, biases, output)
        if divergence:
            gradient, laplacian = potential_divergence(*given, quadratic=quadratic, linear=linear, context=context)
        else:
            gradient = potential_gradient(*given, quadratic=quadratic, linear=linear, context=context)
            laplacian = gradient.new_zeros(len(gradient))
        velocity = gradient[:, :-1] / -mass
        energy = 0.5 * velocity.square().sum(1)
        return velocity, torch.stack([laplacian / -mass, energy, (gradient[:, -1] - mass * energy).abs()])

    state, integrals = x.clone(), x.new_zeros(3, len(x))
    for begin, end in itertools.pairwise(times):
        velocities: list[Tensor] = []
        others: list[Tensor] = []
        for node, row in zip(_METHOD.nodes, _METHOD.matrix, strict=True):
            # No row of RK4 has another entry than its last.
            point = runge_kutta_update(state, velocities[-1:], row[-1:], end - begin) if row else state
            velocity, measured = rates(begin + node * (end - begin), point)
            velocities.append(velocity)
            others.append(measured)
        state = runge_kutta_update(state, velocities, _METHOD.weights, end - begin)
        integrals = runge_kutta_update(integrals, others, _METHOD.weights, end - begin)
    return state, integrals


def _fused(
    x: Tensor, times: Sequence[float], mass: float, weights: Sequence[Tensor], biases: Sequence[Tensor],
    output: Tensor, quadratic: Tensor | None, linear: Tensor | None, context: Tensor | None, divergence: bool,
) -> tuple[Tensor, Tensor] | None:  # fmt: skip
    """What the kernel gives a plain eager call on the CPU; None where it is not one or an argument is wrong."""
    if torch.compiler.is_compiling() or not isinstance(x, Tensor) or not x.is_cpu or backends.select("cpu") != "native":
        return None
    try:
        return _C.potential_flow(x, times, mass, weights, biases, output, quadratic, linear, context, divergence)
    except TypeError:  # an argument of a wrong type: said better by the composition
        return None


# What second derivatives of the fused flow are of (csrc/divergence/potential_flow_op.cpp).
torch.library.define(
    "cgm_native::potential_flow_composed",
    "(Tensor x, float[] times, float mass, Tensor[] weights, Tensor[] biases, Tensor output, Tensor? quadratic, "
    "Tensor? linear, Tensor? context, bool divergence) -> (Tensor, Tensor)",
)
torch.library.impl("cgm_native::potential_flow_composed", "CompositeImplicitAutograd", _composed)
