"""Likelihoods of continuous flows that may be published: the step converged, the mass one.

A solver that is too coarse computes a number that is not the logarithm of any density; trained against it, a flow
learns to exploit the error, and "beats" the truth.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Generator, Tensor

from ..options import check_flag, check_positive, check_whole
from .asked import Seen

if TYPE_CHECKING:
    from .continuous import ContinuousFlow

CHUNK = 2000  # rows at a time
DRAWS = 8
"""Of probes, independent of one another, by which a likelihood that they estimate is judged."""
Extent = tuple[tuple[float, float], tuple[float, float]]


class NotConvergedError(RuntimeError):
    """A likelihood moves with the step or with the probes, or does not integrate to one: it must not be published.

    ``change`` is by how much it moved when the step was halved, or is away from one; ``probe_error`` the standard error
    that the probes leave.
    """

    def __init__(self, message: str, change: float, probe_error: float = 0.0) -> None:
        super().__init__(message)
        self.change, self.probe_error = change, probe_error


class Converged(NamedTuple):
    """Values that halving the step no longer moves.

    ``values``: those of the finer of the two last steps, as ``evaluate`` gave them; where probes estimate the trace,
    their mean over ``DRAWS`` draws. ``change``: by how much the mean moved when the step was halved for the last time,
    the probes being the same. ``halvings``: how often it was. ``probe_error``: the standard error of the mean that the
    probes leave, zero where the trace is exact.
    """

    values: Tensor
    change: float
    halvings: int
    probe_error: float = 0.0


@torch.no_grad()
def converge(
    model: ContinuousFlow,
    evaluate: Callable[[], Tensor],
    *,
    tolerance: float = 1e-3,
    most_halvings: int = 6,
    exact: bool = False,
    n_probes: int | None = None,
) -> Converged:
    """``evaluate()`` with the steps of ``model`` halved until its mean moves by less than ``tolerance``.

    It is the mean that is published, and that is held to the tolerance: single values may move by more where they move
    in both directions (compare ``values`` with those of ``model.refined`` where each of them is what counts).

    Every evaluation begins with the same state of torch's generators, and with the same probes, so that noise does not
    move the mean. Steps so long that the flow leaves the range of numbers are halved, too.

    Steps say nothing about probes. Where the trace is estimated, beyond the dimension ``exact_up_to``, ``evaluate`` is
    called for several independent draws of them in the end, and the standard error of the mean over these must not
    exceed ``tolerance`` either. ``exact`` takes the exact trace in any dimension, ``n_probes`` so many probes a draw.

    Args:
        evaluate: asks ``model`` itself, not a copy of it, in the thread that calls it; gives values, (batch,).

    Raises:
        NotConvergedError: if it still moves after ``most_halvings``, with the means, or with the probes.
        FloatingPointError: if even the shortest steps leave the range of numbers.
        RuntimeError: if ``evaluate`` integrated no transform of ``model``.
    """
    check_positive("tolerance", tolerance)
    most_halvings = check_whole("most_halvings", most_halvings, 1)
    check_flag("exact", exact)
    n_probes = None if n_probes is None else check_whole("n_probes", n_probes, 1)
    first, *others = _seeds()
    seen = Seen()

    def drawn(seed: int, halvings: int) -> Tensor:
        asked = model.asking(
            halvings=halvings, exact=exact, n_probes=n_probes, generator=Generator().manual_seed(seed), seen=seen
        )
        with asked, torch.random.fork_rng(devices=_devices(model)):
            return evaluate()

    means: list[float] = []
    for halvings in range(most_halvings + 1):
        try:
            values = drawn(first, halvings)
        except FloatingPointError:
            if halvings == most_halvings:
                raise
            means.append(math.nan)
            continue
        if len(values) and not seen.solved:
            raise RuntimeError(
                f"evaluate() integrated nothing of this {type(model).__name__}, so that its steps cannot be judged: it "
                "must ask the model itself, not a copy, and in the thread that calls it"
            )
        means.append(float(values.double().mean()))
        change = abs(means[-1] - means[-2]) if halvings else math.inf
        if change < tolerance or not len(values):
            draws = [values, *(drawn(seed, halvings) for seed in others if seen.estimated and len(values))]
            return _certain(model, Converged(values, change, halvings), draws, tolerance)
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
    exact: bool = False,
    n_probes: int | None = None,
) -> Converged:
    """``log p(x | context)``, (batch,), with steps so fine that halving them moves its mean by less than ``tolerance``.

    Where probes estimate the trace, beyond the dimension ``exact_up_to`` of a flow, the standard error that they leave
    on the mean must not exceed ``tolerance`` either (see ``converge``): in high dimensions and over few points it does,
    until ``exact`` asks for the exact trace or ``n_probes`` for more probes.

    Raises:
        NotConvergedError: if no step was fine enough, or the probes too few.
    """
    chunk = check_whole("chunk", chunk, 1)
    expanded = model.expand_context(context, len(x))

    def evaluate() -> Tensor:
        rows = [slice(start, start + chunk) for start in range(0, max(len(x), 1), chunk)]
        return torch.cat([model.log_prob(x[r], None if expanded is None else expanded[r]) for r in rows])

    return converge(model, evaluate, tolerance=tolerance, most_halvings=most_halvings, exact=exact, n_probes=n_probes)


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
    n, chunk = check_whole("n", n, 2), check_whole("chunk", chunk, 1)
    if not all(math.isfinite(low) and math.isfinite(high) and low < high for low, high in extent):
        raise ValueError(f"extent must be ((x_min, x_max), (y_min, y_max)), each minimum the smaller: got {extent}")
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


def _certain(model: ContinuousFlow, found: Converged, draws: list[Tensor], tolerance: float) -> Converged:
    """``found`` with the mean of the ``draws`` and their error, if that is small enough."""
    if len(draws) == 1:
        return found
    stacked = torch.stack(draws)
    error = float(stacked.double().mean(1).std()) / math.sqrt(len(draws))
    if not error <= tolerance:
        raise NotConvergedError(
            f"{type(model).__name__}: the probes that estimate the trace leave a standard error of {error:.2g} on the "
            f"mean over {len(draws)} draws of them, and it must be at most {tolerance:g}: ask for the exact trace, "
            f"exact=True, or for {max(2.0, (error / tolerance) ** 2):.0f} times as many probes, n_probes=...",
            found.change,
            error,
        )
    return found._replace(values=stacked.mean(0), probe_error=error)


def _seeds() -> list[int]:
    """Of ``DRAWS`` draws of probes; they follow from the state of torch's generator, which stays as it is."""
    with torch.random.fork_rng(devices=[]):
        return torch.randint(2**62, (DRAWS,)).tolist()


def _devices(model: ContinuousFlow) -> list[torch.device]:
    device = model.base.like.device
    return [device] if device.type == "cuda" else []
