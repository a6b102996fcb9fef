"""What a base distribution is, the standard normal, and those of ``torch.distributions``."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn
from torch.distributions import Distribution

import cgm_kernels

from ..nets.constants import register_constant

LOG_2PI = math.log(2.0 * math.pi)


class Base(nn.Module):
    """A distribution over latent points of ``event_shape``."""

    has_rsample = True
    """Whether the gradient of samples reaches the parameters."""
    full_support = False
    """Whether every point has a density above 0, so that −inf at a finite point can only be an overflow."""

    like: Tensor

    def __init__(self, event_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        register_constant(self, "like", lambda: torch.empty(0))  # the dtype and device to draw in

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """``(batch, *event) -> (batch,)``."""
        raise NotImplementedError

    def draw(
        self, n: int, context: Tensor | None = None, generator: Generator | None = None, temperature: float = 1.0
    ) -> Tensor:
        """``n`` points, differentiable in the parameters where ``has_rsample``.

        ``temperature`` scales them about the mean.
        """
        raise NotImplementedError

    def noise(self, n: int, generator: Generator | None) -> Tensor:
        """Standard normal ``(n, *event)``: the same numbers on every device, unless the generator is a device's own."""
        shape, like = (n, *self.event_shape), self.like
        if generator is not None and generator.device.type != "cpu":
            return torch.randn(shape, generator=generator, dtype=like.dtype, device=generator.device).to(like.device)
        return cgm_kernels.normal(shape, generator=generator, dtype=like.dtype, device=like.device)


class StandardNormal(Base):
    """``log p(z) = −½ |z|² − ½ D log 2π``."""

    full_support = True

    def __init__(self, event_shape: tuple[int, ...]) -> None:
        super().__init__(event_shape)
        self._constant = -0.5 * math.prod(event_shape) * LOG_2PI

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        rows = z.flatten(1)
        return self._constant - 0.5 * torch.linalg.vecdot(rows, rows)  # one pass, and it stores nothing of its size

    def draw(
        self, n: int, context: Tensor | None = None, generator: Generator | None = None, temperature: float = 1.0
    ) -> Tensor:
        z = self.noise(n, generator)
        return z if temperature == 1.0 else z * temperature


class DistributionBase(Base):
    """A base that is an object of ``torch.distributions``, made anew at every use so that it may read parameters."""

    def distribution(self, context: Tensor | None) -> Distribution:
        """The distribution of ``event_shape``; where the context is given per row, of ``(batch, *event_shape)``.

        Dimensions may be of its batch or of its event: densities are summed over all but the first (batch).
        """
        raise NotImplementedError

    def center(self, distribution: Distribution) -> Tensor:
        """About which a temperature scales."""
        return distribution.mean

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        log_prob = self.distribution(context).log_prob(z)
        return log_prob.flatten(1).sum(1) if log_prob.ndim > 1 else log_prob

    def draw(
        self, n: int, context: Tensor | None = None, generator: Generator | None = None, temperature: float = 1.0
    ) -> Tensor:
        distribution = self.distribution(context)
        lead = distribution.batch_shape + distribution.event_shape
        shape = torch.Size((n,) if len(lead) == len(self.event_shape) else ())
        draw = distribution.rsample if distribution.has_rsample else distribution.sample
        if generator is None:
            z = draw(shape)
        else:  # torch.distributions takes no generator
            with torch.random.fork_rng(devices=_cuda_devices(self.like)):
                torch.manual_seed(int(torch.randint(2**62, (), generator=generator, device=generator.device)))
                z = draw(shape)
        if temperature != 1.0:
            z = torch.lerp(self.center(distribution).to(z.dtype), z, temperature)
        return z.to(self.like.dtype)


def _cuda_devices(like: Tensor) -> list[int]:
    return [like.device.index or 0] if like.is_cuda else []
