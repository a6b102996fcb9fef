"""The Kullback-Leibler divergence between a flow q and a known density p, in the data space and in the latent space.

KL is invariant under the bijection: carried to the latent, p becomes ``p_z(z) = p(T(z)) |det ∂T/∂z|`` and q the base.
Each value here is computed in its own space, by its own direction of the map, so that the two agree as well as the
flow's directions do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import torch
from torch import Generator, Tensor

if TYPE_CHECKING:
    from .flow import Flow

Space = Literal["data", "latent"]


class Density(Protocol):
    """A density that can be evaluated and sampled, as those of ``cgm_models.data.density``."""

    def log_prob(self, x: Tensor) -> Tensor: ...

    def sample(self, n: int, generator: Generator | None = None) -> Tensor: ...


class Estimate(NamedTuple):
    """A mean over samples, and its standard error."""

    value: float
    standard_error: float


def forward_kl(
    flow: Flow,
    x: Tensor,
    log_density: Callable[[Tensor], Tensor],
    context: Tensor | None = None,
    space: Space = "data",
) -> Tensor:
    """``log p(x) − log q(x)`` of every sample ``x`` of p: their mean estimates KL(p ‖ q).

    In the latent space ``z = T⁻¹(x)`` is a sample of p_z, and the value is ``log p_z(z) − log p_base(z)``.
    """
    if space == "data":
        return log_density(x) - flow.log_prob(x, context)
    z, _ = flow.inverse(x, context)
    return _log_pulled_back(flow, z, log_density, context) - _log_base(flow, z, context)


def reverse_kl(
    flow: Flow,
    z: Tensor,
    log_density: Callable[[Tensor], Tensor],
    context: Tensor | None = None,
    space: Space = "data",
) -> Tensor:
    """``log q(x) − log p(x)`` at ``x = T(z)`` for every sample ``z`` of the base: their mean estimates KL(q ‖ p).

    In the latent space the value is ``log p_base(z) − log p_z(z)``.
    """
    if space == "latent":
        return _log_base(flow, z, context) - _log_pulled_back(flow, z, log_density, context)
    x, _ = flow(z, context)
    return flow.log_prob(x, context) - log_density(x)


@torch.no_grad()
def compare_kl(
    flow: Flow, density: Density, n: int, context: Tensor | None = None, generator: Generator | None = None
) -> dict[str, Estimate]:
    """KL(p ‖ q) and KL(q ‖ p), in the data space and in the latent space, of ``n`` samples each."""
    like = flow.base.like
    x = density.sample(n, generator).to(like)
    z = flow.base.draw(n, flow.expand_context(context, n), generator)
    spaces: tuple[Space, Space] = ("data", "latent")
    rows = {f"KL(p || q), {space}": forward_kl(flow, x, density.log_prob, context, space) for space in spaces}
    rows |= {f"KL(q || p), {space}": reverse_kl(flow, z, density.log_prob, context, space) for space in spaces}
    return {name: Estimate(float(row.mean()), float(row.std()) / n**0.5) for name, row in rows.items()}


def _log_base(flow: Flow, z: Tensor, context: Tensor | None) -> Tensor:
    return flow.base.log_prob(z, flow.expand_context(context, len(z)))


def _log_pulled_back(flow: Flow, z: Tensor, log_density: Callable[[Tensor], Tensor], context: Tensor | None) -> Tensor:
    x, log_det = flow(z, context)
    return log_density(x) + log_det
