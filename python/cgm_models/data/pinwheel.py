"""The pinwheel: Gaussian blades bent by a rotation that grows with the radial coordinate."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .density import LOG_2PI, Density2D

_RADIAL_STD, _TANGENTIAL_STD, _RATE, _SCALE = 0.3, 0.1, 0.25, 2.0
_BLADES = 5
_TWIST_LIMIT = 100.0
_BISECTIONS = 54


class Pinwheel(Density2D):
    """``f ~ N((1, 0), diag(0.3², 0.1²))``, turned by ``-(2πk/5 + ¼ exp f₀)`` for blade ``k``, times 2.

    Turning keeps the radius, so with ``f = r (cos α, sin α)`` and ``x = 2r (cos φ, sin φ)`` the angle obeys
    ``g(α) = α - ¼ exp(r cos α) = φ + 2πk/5 (mod 2π)`` and, summing over its roots,

        p(x | k) = ¼ Σ_α p_f(r cos α, r sin α) / |g'(α)|,    g'(α) = 1 + ¼ r sin α exp(r cos α).

    ``g`` has one monotone branch, or three where a blade folds over itself; on each every root is found by bisection.
    Where ``exp r > 100`` (12 radial standard deviations out, mass below 1e-30) the turning winds many times round the
    circle and ``log_prob`` gives the mean over the angle instead.
    """

    name = "pinwheel"
    n_classes = _BLADES
    extent = ((-5.2, 5.2), (-5.2, 5.2))

    def class_log_prob(self, x: Tensor) -> Tensor:
        r = torch.linalg.vector_norm(x, dim=1) / _SCALE
        phi = torch.atan2(x[:, 1], x[:, 0])
        out = torch.full((len(x), _BLADES), -math.inf, dtype=x.dtype, device=x.device)
        far = r > math.log(_TWIST_LIMIT)
        if far.any():
            out[far] = _angular_mean_log_prob(r[far])[:, None]
        near = ~far & (r > 0)
        if near.any():
            target = phi[near, None] + (2.0 * math.pi / _BLADES) * torch.arange(_BLADES).to(x)
            out[near] = _folded_log_prob(r[near, None].expand_as(target).reshape(-1), target.reshape(-1)).view_as(
                target
            )
        # At the origin every blade has the density of f = 0.
        out[r == 0] = float(_blade_log_prob(torch.zeros(1, dtype=x.dtype), torch.zeros(1, dtype=x.dtype)))
        return out - 2.0 * math.log(_SCALE)

    def _draw(self, labels: Tensor, generator: torch.Generator | None) -> Tensor:
        f = torch.randn(len(labels), 2, generator=generator, dtype=torch.float64)
        return _turn(_blade(f), labels)

    def entropy(self) -> float:
        """By Gauss-Hermite quadrature over one blade: the five-fold symmetry makes the others equal."""
        node, weight = np.polynomial.hermite_e.hermegauss(128)
        z = torch.cartesian_prod(torch.from_numpy(node), torch.from_numpy(node))
        w = torch.from_numpy(np.outer(weight, weight).ravel() / (2.0 * math.pi))
        keep = w > 1e-20
        f = _blade(z[keep])
        log_p = self.log_prob(_turn(f, torch.zeros(len(f), dtype=torch.long)))
        return -float((w[keep] * log_p).sum())


def _blade(z: Tensor) -> Tensor:
    return torch.stack([1.0 + _RADIAL_STD * z[:, 0], _TANGENTIAL_STD * z[:, 1]], dim=1)


def _turn(f: Tensor, labels: Tensor) -> Tensor:
    angle = labels.to(f) * (2.0 * math.pi / _BLADES) + _RATE * torch.exp(f[:, 0])
    c, s = angle.cos(), angle.sin()
    return _SCALE * torch.stack([c * f[:, 0] + s * f[:, 1], c * f[:, 1] - s * f[:, 0]], dim=1)


def _blade_log_prob(f0: Tensor, f1: Tensor) -> Tensor:
    square = ((f0 - 1.0) / _RADIAL_STD).square() + (f1 / _TANGENTIAL_STD).square()
    return -0.5 * square - LOG_2PI - math.log(_RADIAL_STD * _TANGENTIAL_STD)


def _g(r: Tensor, alpha: Tensor) -> Tensor:
    return alpha - _RATE * torch.exp(r * alpha.cos())


def _slope(r: Tensor, alpha: Tensor) -> Tensor:
    return 1.0 + _RATE * r * alpha.sin() * torch.exp(r * alpha.cos())


def _bisect(function: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """The root of ``function``, which is negative at ``low`` and not at ``high``, elementwise."""
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        negative = function(middle) < 0
        low, high = torch.where(negative, middle, low), torch.where(negative, high, middle)
    return 0.5 * (low + high)


def _branches(r: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Monotone pieces of g over one turn: (index into r, left end, right end) for each piece."""
    # g' < 0 only around the α in (-π/2, 0) where |sin α| exp(r cos α) peaks: cos α solves r c² + c - r = 0.
    peak = -torch.acos((torch.sqrt(1.0 + 4.0 * r.square()) - 1.0) / (2.0 * r))
    folded = (_slope(r, peak) < 0).nonzero()[:, 0]
    plain = (_slope(r, peak) >= 0).nonzero()[:, 0]
    start = torch.full_like(r, -math.pi)
    pieces = [(plain, start[plain], -start[plain])]
    if len(folded):
        rf, pf, left = r[folded], peak[folded], start[folded]
        first = _bisect(lambda a: -_slope(rf, a), left, pf)
        second = _bisect(lambda a: _slope(rf, a), pf, torch.zeros_like(pf))
        pieces += [(folded, left, first), (folded, first, second), (folded, second, -left)]
    return pieces


def _folded_log_prob(r: Tensor, target: Tensor) -> Tensor:
    """``log Σ_α p_f / |g'|`` over the roots of ``g(α) = target (mod 2π)``, ``(n,), (n,) -> (n,)``."""
    terms: list[tuple[Tensor, Tensor]] = []
    turn = 2.0 * math.pi
    for index, left, right in _branches(r):
        g_left, g_right = _g(r[index], left), _g(r[index], right)
        low, high = torch.minimum(g_left, g_right), torch.maximum(g_left, g_right)
        # Targets t + 2πm in [low, high); every branch covers finitely many since exp(r) is bounded here.
        m_first = torch.ceil((low - target[index]) / turn)
        count = torch.ceil((high - target[index]) / turn) - m_first
        for offset in range(int(count.max()) if len(count) else 0):
            hit = (offset < count).nonzero()[:, 0]
            i = index[hit]
            goal = target[i] + turn * (m_first[hit] + offset)
            sign = torch.sign(g_right[hit] - g_left[hit])
            terms.append((i, _root_log_prob(r[i], goal, sign, left[hit], right[hit])))
    return _scatter_logsumexp(terms, r)


def _root_log_prob(r: Tensor, goal: Tensor, sign: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """``log p_f / |g'|`` at the one root of ``g = goal`` between ``left`` and ``right``; ``sign`` is that of g'."""
    alpha = _bisect(lambda a: sign * (_g(r, a) - goal), left, right)
    return _blade_log_prob(r * alpha.cos(), r * alpha.sin()) - _slope(r, alpha).abs().log()


def _scatter_logsumexp(terms: list[tuple[Tensor, Tensor]], like: Tensor) -> Tensor:
    index = torch.cat([i for i, _ in terms])
    value = torch.cat([v for _, v in terms])
    top = torch.full_like(like, -math.inf).scatter_reduce(0, index, value, "amax")
    total = torch.zeros_like(like).index_add(0, index, torch.exp(value - top[index]))
    return top + torch.log(total)


def _angular_mean_log_prob(r: Tensor) -> Tensor:
    """``log (1/2π) ∫ p_f(r cos α, r sin α) dα``; beyond the limit the mass sits within 0.1/r of α = 0."""
    node, weight = np.polynomial.hermite_e.hermegauss(32)
    alpha = torch.from_numpy(node).to(r) * (_TANGENTIAL_STD / r[:, None])
    exponent = _blade_log_prob(r[:, None] * alpha.cos(), r[:, None] * alpha.sin())
    z = torch.from_numpy(node).to(r)
    log_w = torch.from_numpy(np.log(weight)).to(r) + 0.5 * z.square()
    return torch.logsumexp(exponent + log_w, dim=1) + torch.log(_TANGENTIAL_STD / r) - LOG_2PI
