"""Likelihoods of continuous flows that may be published: the step converged, the mass one.

A solver that is too coarse computes a number that is not the logarithm of any density; trained against it, a flow
learns to exploit the error, and "beats" the truth.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..options import check_positive, check_whole

if TYPE_CHECKING:
    from .continuous import ContinuousFlow

CHUNK = 2000  # rows at a time
Extent = tuple[tuple[float, float], tuple[float, float]]


class NotConvergedError(RuntimeError):
    """A likelihood moves with the step of the solver, or does not integrate to one: it must not be published.

    ``change`` is by how much it moved, or is away from one.
    """

    def __init__(self, message: str, change: float) -> None:
        super().__init__(message)
        self.change = change


class Converged(NamedTuple):
    """Values that halving the step no longer moves.

    ``values``: those of the finer of the two last steps, as ``evaluate`` gave them. ``change``: by how much the mean
    moved when the step was halved for the last time. ``halvings``: how often it was.
    """

    values: Tensor
    change: float
    halvings: int


@torch.no_grad()
def converge(
    model: ContinuousFlow, evaluate: Callable[[], Tensor], *, tolerance: float = 1e-3, most_halvings: int = 6
) -> Converged:
    """``evaluate()`` with the steps of ``model`` halved until its mean moves by less than ``tolerance``.

    It is the mean that is published, and that is held to the tolerance: single values may move by more where they move
    in both directions (compare ``values`` with those of ``model.refined`` where each of them is what counts).

    Every evaluation begins with the same state of torch's generators, so that noise does not move the mean. Steps so
    long that the flow leaves the range of numbers are halved, too.

    Raises:
        NotConvergedError: if it still moves after ``most_halvings``, with the means.
        FloatingPointError: if even the shortest steps leave the range of numbers.
    """
    check_positive("tolerance", tolerance)
    most_halvings = check_whole("most_halvings", most_halvings, 1)
    means: list[float] = []
    for halvings in range(most_halvings + 1):
        try:
            with model.refined(halvings), torch.random.fork_rng(devices=_devices(model)):
                values = evaluate()
        except FloatingPointError:
            if halvings == most_halvings:
                raise
            means.append(math.nan)
            continue
        means.append(float(values.double().mean()))
        change = abs(means[-1] - means[-2]) if halvings else math.inf
        if change < tolerance or not len(values):
            return Converged(values, change, halvings)
    told = ", ".join(f"{mean:.4f}" for mean in means)
    raise NotConvergedError(
        f"{type(model).__name__}: the mean still moves by {change:.2g} at halving {most_halvings} of the step, "
        f"and must by less than {tolerance:g}; the means were {told}",
        change,
    )


def converged_log_prob(
    model: ContinuousFlow,
    x: Tensor,
    context: Tensor | None = None,
    *,
    tolerance: float = 1e-3,
    most_halvings: int = 6,
    chunk: int = CHUNK,
) -> Converged:
    """``log p(x | context)``, (batch,), with steps so fine that halving them moves its mean by less than ``tolerance``.

    Raises:
        NotConvergedError: if no step was fine enough.
    """
    expanded = model.expand_context(context, len(x))

    def evaluate() -> Tensor:
        rows = [slice(start, start + chunk) for start in range(0, max(len(x), 1), chunk)]
        return torch.cat([model.log_prob(x[r], None if expanded is None else expanded[r]) for r in rows])

    return converge(model, evaluate, tolerance=tolerance, most_halvings=most_halvings)


@torch.no_grad()
def mass_in_the_plane(
    model: ContinuousFlow, extent: Extent, context: Tensor | None = None, *, n: int = 200, chunk: int = CHUNK
) -> float:
    """``∫ p(x | context) dx`` of a model of points of the plane, over a box, by the trapezoidal rule on n × n points.

    The rule is exact to 1e-2 where the spacing is below the smallest width of the density; what lies outside of
    ``extent``, ((x_min, x_max), (y_min, y_max)), is not counted.
    """
    if model.event_shape != (2,):
        raise ValueError(f"mass_in_the_plane needs a model of points of the plane: got event_shape {model.event_shape}")
    n = check_whole("n", n, 2)
    like = model.base.like
    axes = [torch.linspace(low, high, n, dtype=like.dtype, device=like.device) for low, high in extent]
    ends = torch.ones(n, dtype=torch.float64, device=like.device)
    ends[[0, -1]] = 0.5
    weights = torch.outer(ends, ends).flatten() * math.prod((high - low) / (n - 1) for low, high in extent)
    points = torch.cartesian_prod(*axes)
    log_prob = torch.cat([model.log_prob(part, context) for part in points.split(chunk)])
    return float((log_prob.double().exp() * weights).sum())


def check_mass(
    model: ContinuousFlow, extent: Extent, context: Tensor | None = None, *, tolerance: float = 1e-2, n: int = 200
) -> float:
    """The mass in the box, which must be one.

    Raises:
        NotConvergedError: if it is not within ``tolerance``.
    """
    mass = mass_in_the_plane(model, extent, context, n=n)
    if not abs(mass - 1.0) <= tolerance:
        raise NotConvergedError(
            f"{type(model).__name__}: the density integrates to {mass:.4f} over {extent}, not to 1 ± {tolerance:g}",
            abs(mass - 1.0),
        )
    return mass


def _devices(model: ContinuousFlow) -> list[torch.device]:
    device = model.base.like.device
    return [device] if device.type == "cuda" else []
