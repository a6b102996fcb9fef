"""Autoregressive mixtures of Gaussians, as a flow from logistic noise."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from cgm_kernels.precision import wide

from ..nets import MaskedMLP
from .base import LOG_2PI, Base
from .transform import Transform

MOST_ITERATIONS = 100  # Newton's are few; these are for the bisections between them


class StandardLogistic(Base):
    """``log p(z) = Σ −|z_i| − 2 log(1 + e^(−|z_i|))``, whose distribution function is the sigmoid."""

    full_support = True

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        size = z.abs()
        return (-size - 2.0 * F.softplus(-size)).flatten(1).sum(1)

    def draw(
        self, n: int, context: Tensor | None = None, generator: Generator | None = None, temperature: float = 1.0
    ) -> Tensor:
        like = self.like
        device = generator.device if generator is not None else like.device
        u = torch.rand((n, *self.event_shape), generator=generator, dtype=like.dtype, device=device).to(like.device)
        u = u.clamp_min(torch.finfo(u.dtype).tiny)
        return (u.log() - torch.log1p(-u)) * temperature


class MaskedMixture(Transform):
    """``z_i = logit F_i(x_i)``, F_i the distribution function of a mixture of Gaussians that earlier x choose.

    With logistic z, x_i given the earlier is that mixture. log F and log(1 − F) are computed apart, so that the tails
    stay exact. The map from z to x takes a pass of the network for each dimension, and Newton's method in each.

    Args:
        net: gives ``3 n_components`` numbers a dimension: logits of the weights, means, and log-scales.
        bound: of the log-scales s, taken as bound · tanh(s / bound).
    """

    def __init__(self, net: MaskedMLP, order: list[int], n_components: int, bound: float) -> None:
        super().__init__()
        self.net, self.order, self.n_components, self.bound = net, order, n_components, bound
        means = net.layers[-1].bias.detach().view(3, n_components, -1)[1]
        # Apart from the first: components that begin alike stay alike.
        middles = (torch.arange(n_components) + 0.5) / n_components
        means.copy_(torch.special.ndtri(middles).unsqueeze(1).expand_as(means))

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, log_slope = _logit_cdf(x, *self._mixtures(x, context))
        return z.to(x.dtype), log_slope.sum(1)

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        columns = list(torch.zeros_like(z).unbind(1))
        for index in sorted(range(len(self.order)), key=self.order.__getitem__):
            mixtures = self._mixtures(torch.stack(columns, 1), context)
            root = _solve(z[:, index].to(mixtures[0].dtype), *(part[:, :, index] for part in mixtures))
            columns[index] = root.to(z.dtype)
        x = torch.stack(columns, 1)
        return x, -self.inverse(x, context)[1]

    def _mixtures(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Log-weights, means and log-scales, each (batch, n_components, dim), of half precision in float32."""
        outputs = wide(self.net(x, context))
        logits, means, scales = outputs.unflatten(1, (3, self.n_components, -1)).unbind(1)
        return logits.log_softmax(1), means, self.bound * torch.tanh(scales / self.bound)


def _logit_cdf(x: Tensor, log_weights: Tensor, means: Tensor, log_scales: Tensor) -> tuple[Tensor, Tensor]:
    """logit F(x) and the logarithm of its slope p / (F (1 − F)), the components in dimension 1 of the parameters."""
    a = (x.unsqueeze(1) - means) * torch.exp(-log_scales)
    log_below = torch.logsumexp(log_weights + torch.special.log_ndtr(a), 1)
    log_above = torch.logsumexp(log_weights + torch.special.log_ndtr(-a), 1)
    log_density = torch.logsumexp(log_weights - log_scales - 0.5 * a.square() - 0.5 * LOG_2PI, 1)
    return log_below - log_above, log_density - log_below - log_above


def _solve(z: Tensor, log_weights: Tensor, means: Tensor, log_scales: Tensor) -> Tensor:
    """The x whose logit F(x) is z; differentiable, by one last step of Newton's method."""
    with torch.no_grad():
        x = _search(z, log_weights, means, log_scales)
    value, log_slope = _logit_cdf(x, log_weights, means, log_scales)
    return x - (value - z) * torch.exp(-log_slope.detach())


def _search(z: Tensor, log_weights: Tensor, means: Tensor, log_scales: Tensor) -> Tensor:
    """Newton's method inside a bracket: the quantile of a mixture lies between those of its components."""
    information = torch.finfo(z.dtype)
    tail = torch.sigmoid(-z.abs()).clamp_min(information.tiny)
    normal = torch.special.ndtri(tail) * -z.sign()
    quantiles = means + log_scales.exp() * normal.unsqueeze(1)
    low, high = quantiles.amin(1), quantiles.amax(1)
    x = 0.5 * (low + high)
    for _ in range(MOST_ITERATIONS):
        value, log_slope = _logit_cdf(x, log_weights, means, log_scales)
        error = value - z
        low, high = torch.where(error < 0, x, low), torch.where(error > 0, x, high)
        step = x - error * torch.exp(-log_slope)
        following = torch.where((step >= low) & (step <= high), step, 0.5 * (low + high))
        moved = (following - x).abs() > 4 * information.eps * (1 + x.abs())
        x = following
        if not bool(moved.any()):
            break
    return x
