"""What energy-based models are trained on, as functions of a model and a batch in its own units."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from cgm_kernels import normal

from .chains import run_chains

if TYPE_CHECKING:
    from .model import EnergyModel

Objective = Callable[["EnergyModel", Tensor, "Tensor | None"], Tensor]


def contrastive_divergence(model: EnergyModel, u: Tensor, context: Tensor | None) -> Tensor:
    """CD-k (Hinton 2002): the chains begin at the data."""
    chains = run_chains(model.chain_energy(context), u, model.chains)
    return contrast(model, u, context, chains, context)


def persistent_contrastive_divergence(model: EnergyModel, u: Tensor, context: Tensor | None) -> Tensor:
    """PCD (Tieleman 2008), with the replay buffer of Du and Mordatch (2019)."""
    starts = model.buffer.draw(len(u), model.restart_probability, context)
    chain_context = None if context is None else starts.context
    chains = run_chains(model.chain_energy(chain_context), starts.points, model.chains)
    model.buffer.store(starts, chains)
    return contrast(model, u, context, chains, chain_context)


def short_run(model: EnergyModel, u: Tensor, context: Tensor | None) -> Tensor:
    """Short-run maximum likelihood (Nijkamp, Hill, Zhu and Wu 2019): the chains begin at N(0, I) every time."""
    noise = normal(tuple(u.shape), dtype=u.dtype, device=u.device)
    chains = run_chains(model.chain_energy(context), noise, model.chains)
    return contrast(model, u, context, chains, context)


def contrast(
    model: EnergyModel, u: Tensor, context: Tensor | None, chains: Tensor, chain_context: Tensor | None
) -> Tensor:
    """mean f(data) − mean f(chains), whose gradient is that of −log p(data) where the chains have the model's law.

    Beside it ``energy_penalty`` times the mean of both squared, of the network without its reference (Du and Mordatch).
    """
    both = None if context is None or chain_context is None else torch.cat((context, chain_context))
    network = model.network_energy(torch.cat((u, chains)), both)
    reference = model.reference_energy(torch.cat((u, chains)))
    data, model_side = (network + reference).tensor_split([len(u)])
    gap = model.check_gap(data.mean() - model_side.mean())
    return gap + model.energy_penalty * network.square().mean() if model.energy_penalty else gap


def denoising_score_matching(model: EnergyModel, u: Tensor, context: Tensor | None) -> Tensor:
    """½ E |z − σ ∇f(u + σz)|² (Vincent 2011): least where exp(−f) is the law of the data with noise of σ."""
    z, sigma = torch.randn_like(u), model.score_noise
    _, gradient, nothing = _differentiated(model, u + sigma * z, context)
    return 0.5 * (z - sigma * gradient).flatten(1).square().sum(1).mean() + nothing


def sliced_score_matching(model: EnergyModel, u: Tensor, context: Tensor | None) -> Tensor:
    """E[½ |∇f|² − vᵀ∇²f v] (Song, Garg, Shi and Ermon 2019), v of random signs: least at the law of the data."""
    u, gradient, nothing = _differentiated(model, u, context)
    curvature = torch.zeros((), dtype=u.dtype, device=u.device)
    for _ in range(model.n_slices):
        v = torch.randint_like(u, 2).mul_(2).sub_(1)
        (product,) = torch.autograd.grad((gradient * v).sum(), u, create_graph=True)
        curvature = curvature + (product * v).sum() / (len(u) * model.n_slices)
    return 0.5 * gradient.flatten(1).square().sum(1).mean() - curvature + nothing


def _differentiated(model: EnergyModel, u: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Points that carry a graph, ∇f there, and zero, which depends on every parameter: DDP wants all to be used."""
    u = u.detach().requires_grad_()
    energy = model.standardised_energy(u, context)
    (gradient,) = torch.autograd.grad(energy.sum(), u, create_graph=True)
    return u, gradient, 0.0 * energy.sum()


def noise_contrastive_estimation(model: EnergyModel, u: Tensor, context: Tensor | None) -> Tensor:
    """NCE (Gutmann and Hyvärinen 2010): data told from ν times as many points of q = N(0, I) by −f − log q − log ν.

    At the optimum −f is log p itself, its constant included.
    """
    ratio = model.noise_ratio
    noise = torch.randn((ratio * len(u), *u.shape[1:]), dtype=u.dtype).to(u.device)
    both = None if context is None else torch.cat((context, context.repeat(ratio, 1)))
    points = torch.cat((u, noise))
    log_q = -0.5 * points.flatten(1).square().sum(1) - 0.5 * u[0].numel() * math.log(2.0 * math.pi)
    logits = -model.standardised_energy(points, both) - log_q - math.log(ratio)
    data, contrasted = logits.tensor_split([len(u)])
    return F.softplus(-data).mean() + ratio * F.softplus(contrasted).mean()


CHAINS: dict[str, Objective] = {
    "pcd": persistent_contrastive_divergence,
    "cd": contrastive_divergence,
    "short_run": short_run,
}
"""Maximum likelihood by chains; their value is no measure of the fit."""

OBJECTIVES: dict[str, Objective] = {
    **CHAINS,
    "dsm": denoising_score_matching,
    "ssm": sliced_score_matching,
    "nce": noise_contrastive_estimation,
}
