"""A diffusion and the ordinary differential equation with the same marginals, simulated and compared.

For ``dX = b(t, X) dt + √c dB`` the densities p_t obey the Fokker–Planck equation ∂_t p = −div(b p) + (c/2) Δp, which is
the continuity equation of the field ``v = b − (c/2) ∇log p_t``: points that follow v have the same marginals (Maoutsa,
Reich and Opper 2020; Song et al. 2021). Where ∇log p_t is known both can be simulated, and held to the exact law.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.distributions import MultivariateNormal

from cgm_kernels import langevin_step

from ..options import check_positive, check_whole
from .integration import integrate
from .solver import Solver

Drift = Callable[[float, Tensor], Tensor]
"""``b(t, x)``, (n, d) -> (n, d)."""


class DiffusedMixture:
    """A mixture of Gaussians under the Ornstein–Uhlenbeck process ``dX = −θ X dt + √c dB``: its law at every time.

    Component k is N(m_k, Σ_k) at t = 0 and N(e^{−θt} m_k, e^{−2θt} Σ_k + c (1 − e^{−2θt}) / 2θ) at t, with weights that
    stay. θ may be negative, and 0 is Brownian motion.

    Args:
        weights: (K,), not negative; they are normalised.
        means: (K, d).
        covariances: (K, d, d).
        rate: θ.
        diffusion: c.
    """

    def __init__(
        self, weights: Tensor, means: Tensor, covariances: Tensor, rate: float = 1.0, diffusion: float = 2.0
    ) -> None:
        if means.ndim != 2 or covariances.shape != (*means.shape, means.shape[1]) or weights.shape != means.shape[:1]:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (weights, means, covariances))
            raise ValueError(f"weights, means and covariances must be (K,), (K, d) and (K, d, d): got {shapes}")
        if not bool((weights >= 0.0).all()) or not 0.0 < float(weights.sum()) < math.inf:
            raise ValueError(f"weights must be finite, not negative, and not all zero: got {weights.tolist()}")
        check_positive("diffusion", diffusion)
        self.weights, self.means, self.covariances = weights / weights.sum(), means, covariances
        self.rate, self.diffusion = rate, diffusion

    def drift(self, t: float, x: Tensor) -> Tensor:
        """−θ x."""
        return -self.rate * x

    def sample(self, n: int, t: float = 0.0, generator: Generator | None = None) -> Tensor:
        """``(n, d)`` independent points of p_t; ``generator`` is a CPU generator."""
        means, covariances = self.components(t)
        chosen = torch.multinomial(self.weights.cpu(), n, replacement=True, generator=generator).to(means.device)
        noise = torch.randn(n, means.shape[1], 1, dtype=means.dtype, generator=generator).to(means.device)
        return means[chosen] + (torch.linalg.cholesky(covariances)[chosen] @ noise)[..., 0]

    def log_prob(self, t: float, x: Tensor) -> Tensor:
        """``log p_t(x)``, (n, d) -> (n,)."""
        return self._joint(t, x).logsumexp(1)

    def score(self, t: float, x: Tensor) -> Tensor:
        """``∇log p_t(x)``, (n, d)."""
        means, covariances = self.components(t)
        share = self._joint(t, x).softmax(1)
        pull = torch.linalg.solve(covariances, (means - x[:, None])[..., None])[..., 0]
        return (share[..., None] * pull).sum(1)

    def moments(self, t: float) -> tuple[Tensor, Tensor]:
        """The mean (d,) and the covariance (d, d) of p_t."""
        means, covariances = self.components(t)
        mean = self.weights @ means
        away = means - mean
        return mean, torch.einsum("k,kij->ij", self.weights, covariances + away[:, :, None] * away[:, None, :])

    def components(self, t: float) -> tuple[Tensor, Tensor]:
        """The means (K, d) and covariances (K, d, d) of the components of p_t."""
        decay = math.exp(-self.rate * t)
        spread = t if self.rate == 0.0 else -math.expm1(-2.0 * self.rate * t) / (2.0 * self.rate)
        identity = torch.eye(self.means.shape[1], dtype=self.means.dtype, device=self.means.device)
        return decay * self.means, decay**2 * self.covariances + self.diffusion * spread * identity

    def _joint(self, t: float, x: Tensor) -> Tensor:
        """``log w_k + log N_k(x)``, (n, K)."""
        means, covariances = self.components(t)
        return self.weights.log() + MultivariateNormal(means, covariances).log_prob(x[:, None])


def probability_flow(drift: Drift, diffusion: float, score: Drift) -> Drift:
    """``v(t, x) = b(t, x) − (c/2) ∇log p_t(x)``."""
    return lambda t, x: drift(t, x) - 0.5 * diffusion * score(t, x)


@torch.no_grad()
def simulate_sde(
    drift: Drift,
    diffusion: float,
    x: Tensor,
    times: Sequence[float],
    *,
    steps_between: int = 100,
    generator: Generator | None = None,
) -> Tensor:
    """``(T, n, d)``: paths of ``dX = b dt + √c dB`` from ``x`` at the first of the increasing times, seen at all.

    Euler–Maruyama, ``steps_between`` steps from one time to the next, each one fused pass; the marginals are off by a
    first-order error of the step. ``generator`` is a CPU generator.
    """
    steps_between = check_whole("steps_between", steps_between, 1)
    path = [x]
    for start, end in _intervals(times):
        h = (end - start) / steps_between
        for index in range(steps_between):
            x = langevin_step(x, -drift(start + index * h, x), h, temperature=0.5 * diffusion, generator=generator)
        path.append(x)
    return torch.stack(path)


@torch.no_grad()
def simulate_ode(velocity: Drift, x: Tensor, times: Sequence[float], *, steps_between: int = 20) -> Tensor:
    """``(T, n, d)``: paths of ``dx/dt = v(t, x)`` from ``x`` at the first of the increasing times, by Runge–Kutta."""
    path, solver = [x], Solver("rk4", steps_between)
    for start, end in _intervals(times):
        state, _ = integrate(lambda t, points: (velocity(t, points),), [path[-1]], [], solver, start, end)
        path.append(state[0])
    return torch.stack(path)


@dataclass(frozen=True)
class Comparison:
    """One statistic of p_t: exact, and estimated from the points of both processes with their standard errors."""

    time: float
    statistic: str
    exact: float
    sde: float
    sde_error: float
    ode: float
    ode_error: float

    @property
    def sde_score(self) -> float:
        """By how many standard errors the diffusion is off."""
        return (self.sde - self.exact) / self.sde_error

    @property
    def ode_score(self) -> float:
        """By how many standard errors the probability flow is off."""
        return (self.ode - self.exact) / self.ode_error


def compare_marginals(
    law: DiffusedMixture,
    n: int,
    times: Sequence[float],
    *,
    sde_steps: int = 100,
    ode_steps: int = 20,
    generator: Generator | None = None,
) -> list[Comparison]:
    """Both processes from the same ``n`` points of p at the first time, compared with the exact law at the later ones.

    The statistics are the means, the products about the exact mean, and three Fourier coefficients cos(ω·x) of the
    density for each axis; their exact values are in closed form, and of independent points so are the errors.
    """
    x = law.sample(n, times[0], generator)
    velocity = probability_flow(law.drift, law.diffusion, law.score)
    sde = simulate_sde(law.drift, law.diffusion, x, times, steps_between=sde_steps, generator=generator)
    ode = simulate_ode(velocity, x, times, steps_between=ode_steps)
    rows = []
    for t, diffused, carried in list(zip(times, sde, ode, strict=True))[1:]:
        expected = _statistics(law, t, diffused)
        for (name, exact, values), (_, _, others) in zip(expected, _statistics(law, t, carried), strict=True):
            rows.append(Comparison(t, name, exact, *_mean_and_error(values), *_mean_and_error(others)))
    return rows


def _statistics(law: DiffusedMixture, t: float, x: Tensor) -> Iterable[tuple[str, float, Tensor]]:
    """Name, exact expectation and values (n,)."""
    mean, covariance = law.moments(t)
    away = x - mean
    found = [(f"mean {i}", float(mean[i]), x[:, i]) for i in range(len(mean))]
    found += [
        (f"covariance {i}{j}", float(covariance[i, j]), away[:, i] * away[:, j])
        for i in range(len(mean)) for j in range(i, len(mean))
    ]  # fmt: skip
    means, covariances = law.components(t)
    for i in range(len(mean)):
        scale = float(covariance[i, i].sqrt())
        for frequency in (1.0, 2.0, 4.0):
            # E cos(ωx) of N(m, s²) is cos(ωm) e^(−ω²s²/2).
            omega = frequency / scale
            exact = law.weights @ (torch.cos(omega * means[:, i]) * torch.exp(-0.5 * omega**2 * covariances[:, i, i]))
            found.append((f"cosine {frequency:g} of {i}", float(exact), torch.cos(omega * x[:, i])))
    return found


def _mean_and_error(values: Tensor) -> tuple[float, float]:
    values = values.double()
    return float(values.mean()), float(values.std()) / len(values) ** 0.5


def _intervals(times: Sequence[float]) -> list[tuple[float, float]]:
    found = list(itertools.pairwise(times))
    if not found or any(end <= start for start, end in found):
        raise ValueError(f"times must be increasing, at least two of them: got {list(times)}")
    return found
