"""Checks of the equation that makes a continuous flow a density: ``d/dt log p_t(x_t) = −div v(t, x_t)`` along paths.

It is the Fokker–Planck equation without noise, ∂_t p = −div(v p), seen from a moving point. ``trajectory_residuals``
holds a field and its divergence to a density known at all times; ``histogram_residuals`` holds them to what needs no
density at all, the number of points that arrive in each cell of the plane.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.distributions import MultivariateNormal

from ..options import check_whole
from .integration import integrate
from .solver import Solver

Velocity = Callable[[float, Tensor], Tensor]
"""``v(t, x)``, (n, d) -> (n, d)."""
Scalar = Callable[[float, Tensor], Tensor]
"""A function of time and points, (n, d) -> (n,)."""
_FEWEST = 10.0  # expected points of a cell, below which a normal error is no good


class LinearGaussian:
    """A Gaussian carried by ``dx/dt = A x + b``: N(m_t, S_t) at every time.

    ``m_t = e^{At} m_0 + ∫_0^t e^{As} b ds``, ``S_t = e^{At} S_0 e^{Aᵀt}``.

    Args:
        matrix: A (d, d), whose trace is the divergence.
        offset: b (d,).
        mean: m_0 (d,).
        covariance: S_0 (d, d).
    """

    def __init__(self, matrix: Tensor, offset: Tensor, mean: Tensor, covariance: Tensor) -> None:
        d = len(offset)
        if any(tensor.shape != (d, d) for tensor in (matrix, covariance)) or mean.shape != (d,):
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (matrix, offset, mean, covariance))
            raise ValueError(f"matrix, offset, mean and covariance must be (d, d), (d,), (d,) and (d, d): got {shapes}")
        self.matrix, self.offset, self.mean, self.covariance = matrix, offset, mean, covariance

    def velocity(self, t: float, x: Tensor) -> Tensor:
        return x @ self.matrix.mT + self.offset

    def divergence(self, t: float, x: Tensor) -> Tensor:
        return self.matrix.trace().expand(len(x))

    def law(self, t: float) -> MultivariateNormal:
        """p_t."""
        d = len(self.offset)
        joint = self.matrix.new_zeros(d + 1, d + 1)  # of (x, 1), whose exponential holds both terms
        joint[:d, :d], joint[:d, d] = self.matrix, self.offset
        carried = torch.linalg.matrix_exp(t * joint)
        spread = carried[:d, :d] @ self.covariance @ carried[:d, :d].mT
        return MultivariateNormal(carried[:d, :d] @ self.mean + carried[:d, d], 0.5 * (spread + spread.mT))

    def log_prob(self, t: float, x: Tensor) -> Tensor:
        return self.law(t).log_prob(x)

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """``(n, d)`` points of p_0; ``generator`` is a CPU generator."""
        noise = torch.randn(n, len(self.mean), dtype=self.mean.dtype, generator=generator).to(self.mean.device)
        return self.mean + noise @ torch.linalg.cholesky(self.covariance).mT


@dataclass(frozen=True)
class Residual:
    """Of one interval of time: (log p at its end − log p at its beginning + ∫ div v dt) / its length, over all points.

    ``mean`` ± ``standard_error``, the ``largest`` in size, and the ``scale`` that they are to be compared with, the
    root mean square of the change of log p.
    """

    start: float
    end: float
    mean: float
    standard_error: float
    largest: float
    scale: float


@torch.no_grad()
def trajectory_residuals(
    velocity: Velocity,
    log_prob: Scalar,
    x: Tensor,
    times: Sequence[float],
    *,
    divergence: Scalar | None = None,
    steps_between: int = 20,
) -> list[Residual]:
    """How far ``d/dt log p_t(x_t) = −div v`` is from holding on the paths of ``x`` (n, d), from the first of ``times``.

    Args:
        velocity: v.
        log_prob: log p_t(x), of the density that v is said to carry.
        x: points at the first time; any, for the equation holds on every path.
        times: increasing or decreasing, at least two.
        divergence: div v, by default the exact trace by automatic differentiation.
        steps_between: classical Runge–Kutta steps from one time to the next.
    """
    divergence = divergence or _traced(velocity)
    rows, solver = [], Solver("rk4", steps_between)
    intervals = _intervals(times)
    before = log_prob(times[0], x)
    for start, end in intervals:
        state, _ = integrate(
            lambda t, points: (velocity(t, points), divergence(t, points)),
            [x], [x.new_zeros(len(x))], solver, start, end,
        )  # fmt: skip
        x = state[0]
        after = log_prob(end, x)
        residual = ((after - before + state[1]) / (end - start)).double()
        rate = ((after - before) / (end - start)).double()
        rows.append(
            Residual(
                start, end, float(residual.mean()), float(residual.std()) / len(x) ** 0.5,
                float(residual.abs().max()), float(rate.square().mean().sqrt()),
            )
        )  # fmt: skip
        before = after
    return rows


@torch.no_grad()
def carried_log_prob(
    velocity: Velocity,
    log_prob: Callable[[Tensor], Tensor],
    x: Tensor,
    time: float,
    *,
    divergence: Scalar | None = None,
    n_steps: int = 40,
) -> Tensor:
    """``log p_t(x) = log p_0(x_0) − ∫_0^t div v ds`` of any points, (n,): the path of each is followed back to x_0."""
    divergence = divergence or _traced(velocity)
    state, _ = integrate(
        lambda t, points: (velocity(t, points), divergence(t, points)),
        [x], [x.new_zeros(len(x))], Solver("rk4", n_steps), time, 0.0,
    )  # fmt: skip
    return log_prob(state[0]) + state[1]


@dataclass(frozen=True, eq=False)
class HistogramResiduals:
    """Points counted in the cells of a box, beside the numbers that a density says.

    ``counts``, ``expected`` and ``errors`` are (bins, bins), the first index that of x; an error is the standard error
    of a count, √(n P (1 − P)). ``chi_squared`` sums over the cells of at least 10 expected points and over one that
    holds all the rest, ``p_value`` is its tail for ``degrees`` of freedom. ``mass`` is that of the density in the box.
    """

    counts: Tensor
    expected: Tensor
    errors: Tensor
    chi_squared: float
    degrees: int
    p_value: float
    mass: float

    @property
    def scores(self) -> Tensor:
        """``(counts − expected) / errors``, 0 where a cell expects too few."""
        return torch.where(self.expected >= _FEWEST, (self.counts - self.expected) / self.errors, 0.0)


@torch.no_grad()
def histogram_residuals(
    log_prob: Callable[[Tensor], Tensor],
    points: Tensor,
    limits: tuple[tuple[float, float], tuple[float, float]],
    *,
    bins: int = 24,
    nodes: int = 4,
) -> HistogramResiduals:
    """Whether ``points`` (n, 2), independent, are spread as a density says: of a flow, samples and its own log_prob.

    Args:
        log_prob: log p, (m, 2) -> (m,); of points carried by a field, ``carried_log_prob``.
        points: (n, 2), so many that at least two cells expect 10, all others taken together for one.
        limits: ((x_min, x_max), (y_min, y_max)).
        bins: cells along each axis.
        nodes: of Gauss–Legendre quadrature along each axis of a cell.
    """
    bins = check_whole("bins", bins, 1)
    nodes = check_whole("nodes", nodes, 1)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"points must have shape (n, 2): got {tuple(points.shape)}")
    n = len(points)
    mass = _cell_masses(log_prob, limits, bins, nodes, points)
    _check_number(n, mass)
    counts = torch.zeros(bins * bins, dtype=torch.float64)
    cells = [((points[:, i] - low) / (high - low) * bins).floor().long() for i, (low, high) in enumerate(limits)]
    inside = ((cells[0] >= 0) & (cells[0] < bins) & (cells[1] >= 0) & (cells[1] < bins)).cpu()
    index = (cells[0] * bins + cells[1]).cpu()[inside]
    counts.index_add_(0, index, torch.ones(len(index), dtype=torch.float64))
    expected = n * mass.flatten()

    enough = expected >= _FEWEST
    rest_counts, rest = n - counts[enough].sum(), n - expected[enough].sum()
    chi_squared = float(((counts - expected).square() / expected)[enough].sum())
    degrees = int(enough.sum()) - 1
    if rest >= _FEWEST:
        chi_squared, degrees = chi_squared + float((rest_counts - rest).square() / rest), degrees + 1
    tail = torch.special.gammaincc(*(torch.tensor(0.5 * v, dtype=torch.float64) for v in (degrees, chi_squared)))
    share = mass.clamp(0.0, 1.0)
    return HistogramResiduals(
        counts.view(bins, bins), expected.view(bins, bins), (n * share * (1.0 - share)).sqrt(),
        chi_squared, degrees, float(tail), float(mass.sum()),
    )  # fmt: skip


def _intervals(times: Sequence[float]) -> list[tuple[float, float]]:
    found = list(itertools.pairwise(times))
    if not found or not (all(a < b for a, b in found) or all(a > b for a, b in found)):
        raise ValueError(f"times must be increasing or decreasing, at least two of them: got {list(times)}")
    return found


def _check_number(n: int, mass: Tensor) -> None:
    """There must be two cells to compare, of which one may be that of all the rest."""
    if not bool(mass.isfinite().all()):
        raise ValueError("log_prob must not be NaN or +inf: the mass of a cell is not finite")
    largest, second = sorted([0.0, *mass.flatten().tolist()], reverse=True)[:2]
    share = min(largest, max(second, 1.0 - largest))
    if n * share < _FEWEST:
        least = math.ceil(_FEWEST / max(share, 1e-12))
        raise ValueError(f"points must be at least {least}, for two cells to expect {_FEWEST:g} of them: got {n}")


def _cell_masses(
    log_prob: Callable[[Tensor], Tensor],
    limits: tuple[tuple[float, float], tuple[float, float]],
    bins: int,
    nodes: int,
    like: Tensor,
) -> Tensor:
    """∫ p over each cell, (bins, bins) float64."""
    import numpy as np

    node, weight = (torch.from_numpy(values) for values in np.polynomial.legendre.leggauss(nodes))
    axes, widths = [], []
    for low, high in limits:
        if not low < high:
            raise ValueError(f"limits must be ((x_min, x_max), (y_min, y_max)), increasing: got {limits}")
        width = (high - low) / bins
        axes.append((low + width * (torch.arange(bins)[:, None] + 0.5 * (1.0 + node))).flatten())
        widths.append(0.5 * width)
    grid = torch.cartesian_prod(*axes).to(like)
    density = torch.cat([log_prob(part) for part in grid.split(20_000)]).double().exp().cpu()
    weights = torch.outer(weight, weight) * math.prod(widths)
    return torch.einsum("aibj,ij->ab", density.view(bins, nodes, bins, nodes), weights)


def _traced(velocity: Velocity) -> Scalar:
    """div v, the diagonal of the Jacobian by automatic differentiation."""

    @torch.enable_grad()
    def divergence(t: float, x: Tensor) -> Tensor:
        points = x.detach().requires_grad_()
        value = velocity(t, points)
        gradients = [
            torch.autograd.grad(value[:, i].sum(), points, retain_graph=True, allow_unused=True)[0]
            for i in range(x.shape[1]) if value.requires_grad
        ]  # fmt: skip
        parts = [gradient[:, i] for i, gradient in enumerate(gradients) if gradient is not None]
        if not parts and not torch.equal(velocity(t, 2.0 * x + 1.0), value):
            raise ValueError("velocity must be differentiable in x, or divergence given: its value has no graph of x")
        return sum(parts, start=x.new_zeros(len(x)))

    return divergence
