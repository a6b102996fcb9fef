"""Likelihoods of energy-based models: −f less a log Z that is annealed, and its error."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn.utils import parametrize

from ..options import check_whole
from .annealing import Base, annealed_log_weights, summarise

if TYPE_CHECKING:
    from .model import EnergyModel

_CHAINS, _CHAINS_PER_CONTEXT = 1000, 50
_HELD_OUT_CHAINS, _HELD_OUT_PER_CONTEXT, _HELD_OUT_TEMPERATURES = 512, 16, 100
_CHUNK = 20_000  # chains at a time


class Likelihood(NamedTuple):
    """log p (batch,) in nats, with log Z by annealed importance sampling, and the standard error that comes from it.

    The error is common to the points of one context: it does not average out over them.
    """

    log_prob: Tensor
    log_z: Tensor
    log_z_error: Tensor


def log_weights(
    model: EnergyModel, contexts: Tensor | None, n_chains: int, n_temperatures: int, generator: Generator | None
) -> tuple[Tensor, float]:
    """log w (contexts, n_chains) of ∫ exp(−f(x | c)) dx, for distinct contexts (k, c), and the mean acceptance."""
    n_chains = check_whole("n_chains", n_chains, 2)
    base = Base(0.0, 1.0, model.event_shape, model.location.dtype, model.location.device)
    parts = [None] if contexts is None else contexts.split(max(1, _CHUNK // n_chains))
    weights, moved = [], []
    with parametrize.cached():
        for part in parts:
            rows = None if part is None else part.repeat_interleave(n_chains, 0)
            n = n_chains if rows is None else len(rows)
            found, acceptance = annealed_log_weights(model.chain_energy(rows), base, n, n_temperatures, generator)
            weights.append(found.reshape(-1, n_chains))
            moved.append(acceptance)
    return torch.cat(weights) + _log_volume(model), sum(moved) / len(moved)


def log_likelihood(
    model: EnergyModel,
    u: Tensor,
    rows: Tensor | None,
    n_chains: int | None,
    n_temperatures: int,
    generator: Generator | None,
) -> Likelihood:
    """Of points ``u`` (n, *event) under the contexts (n, c), both as the model has them inside."""
    contexts, index = _distinct(rows, len(u))
    if n_chains is None:
        n_chains = max(_CHAINS_PER_CONTEXT, _CHAINS // (1 if contexts is None else len(contexts)))
    weights, acceptance = log_weights(model, contexts, n_chains, n_temperatures, generator)
    found = [summarise(row, acceptance) for row in weights]
    log_z, error = (torch.tensor([getattr(z, name) for z in found])[index].to(u) for name in ("value", "error"))
    return Likelihood(-model.standardised_energy(u, rows) - log_z, log_z, error)


def held_out_loss(model: EnergyModel, u: Tensor, rows: Tensor | None) -> Tensor:
    """The mean of −log p, with a short annealing on noise of torch's default generator."""
    contexts, _ = _distinct(rows, len(u))
    n_contexts = 1 if contexts is None else len(contexts)
    n_chains = max(_HELD_OUT_PER_CONTEXT, _HELD_OUT_CHAINS // n_contexts)
    return -log_likelihood(model, u, rows, n_chains, _HELD_OUT_TEMPERATURES, None).log_prob.mean()


def _distinct(rows: Tensor | None, n: int) -> tuple[Tensor | None, Tensor]:
    """The contexts there are, and which of them (n,) each row has; a single one where there are none."""
    if rows is None:
        return None, torch.zeros(n, dtype=torch.int64)
    contexts, index = rows.unique(dim=0, return_inverse=True)
    return contexts, index.cpu()


def _log_volume(model: EnergyModel) -> float:
    """log|dx/du|."""
    share = math.prod(model.event_shape) // model.scale.numel()
    return share * float(model.scale.double().log().sum())
