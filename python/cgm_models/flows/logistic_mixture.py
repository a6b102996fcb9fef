"""Mixtures of logistics on a finite number of levels (Salimans et al. 2017)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cgm_kernels.precision import wide

LEAST_LOG_SCALE = -7.0


def log_probabilities(parameters: Tensor, levels: Tensor, n_levels: int) -> Tensor:
    """log P(level), exact: the mass of the mixture in the level's cell, of [−1, 1] cut into ``n_levels``.

    Half precision is computed in float32.
    The outermost cells reach to infinity, so that the probabilities sum to one. With a and b the cell's ends in units
    of a component, sigmoid(a) − sigmoid(b) = sigmoid(a) · sigmoid(−b) · (1 − e^(b − a)), whose logarithm loses nothing.

    Args:
        parameters: (..., 3 K): logits of the weights, means, log-scales.
        levels: (...) whole numbers from 0 to n_levels − 1.
    """
    parameters = wide(parameters)
    logits, means, log_scales = parameters.unflatten(-1, (3, -1)).unbind(-2)
    log_scales = LEAST_LOG_SCALE + F.softplus(log_scales - LEAST_LOG_SCALE)
    sharpness = torch.exp(-log_scales)
    centred = (2.0 * levels.to(means) / (n_levels - 1) - 1.0).unsqueeze(-1) - means
    half = 1.0 / (n_levels - 1)
    upper, lower = (centred + half) * sharpness, (centred - half) * sharpness
    below_upper, above_lower = F.logsigmoid(upper), F.logsigmoid(-lower)
    inside = below_upper + above_lower + torch.log(-torch.expm1(-2.0 * half * sharpness))
    k = levels.unsqueeze(-1)
    log_mass = torch.where(k == 0, below_upper, torch.where(k == n_levels - 1, above_lower, inside))
    return torch.logsumexp(logits.log_softmax(-1) + log_mass, -1)


def draw(parameters: Tensor, n_levels: int, u: Tensor) -> Tensor:
    """The level at which the distribution function passes ``u``, uniform in [0, 1), of shape ``parameters[..., 0]``."""
    levels = torch.arange(n_levels, device=parameters.device).expand(*parameters.shape[:-1], -1)
    log_mass = log_probabilities(parameters.unsqueeze(-2).expand(*levels.shape, -1), levels, n_levels)
    return (u.unsqueeze(-1) >= log_mass.exp().cumsum(-1)).sum(-1).clamp_max(n_levels - 1)
