"""The replay buffer of persistent contrastive divergence."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from cgm_kernels import normal


class Starts(NamedTuple):
    """Where chains begin: the slots they came from, their points and contexts."""

    slots: Tensor
    points: Tensor
    context: Tensor


class ReplayBuffer(nn.Module):
    """``size`` chains that outlive the steps of a training, each with its own context.

    A chain begins where the buffer has it with probability 1 − α and at N(0, I) otherwise, or where its slot was never
    used; where it ends goes back into its slot. Everything is in buffers of the module, and all choices come from
    torch's default generator: a checkpoint resumes bit for bit. Under DDP the processes share the first one's buffer.
    """

    points: Tensor
    contexts: Tensor
    age: Tensor

    def __init__(self, size: int, event_shape: tuple[int, ...], context_dim: int) -> None:
        super().__init__()
        self.register_buffer("points", torch.zeros(size, *event_shape))
        self.register_buffer("contexts", torch.zeros(size, context_dim))
        # Rounds since the chain last began at noise; 0 in a slot that was never used.
        self.register_buffer("age", torch.zeros(size, dtype=torch.int64))

    def draw(self, n: int, restart_probability: float, context: Tensor | None = None) -> Starts:
        """``min(n, size)`` chains; those that begin anew take the contexts of the rows of ``context`` (n, c)."""
        size, device = len(self.points), self.points.device
        slots = torch.randperm(size)[:n].to(device)
        fresh = (torch.rand(len(slots)) < restart_probability).to(device) | (self.age[slots] == 0)
        noise = normal((len(slots), *self.points.shape[1:]), dtype=self.points.dtype, device=device)
        points = torch.where(_column(fresh, noise), noise, self.points[slots])
        contexts = self.contexts[slots]
        if context is not None:
            contexts = torch.where(fresh[:, None], context[: len(slots)].to(contexts), contexts)
        self.age[slots] = torch.where(fresh, 0, self.age[slots])
        return Starts(slots, points, contexts)

    def store(self, starts: Starts, points: Tensor) -> None:
        """Let the chains that began at ``starts`` go back; one that is not finite leaves its slot unused."""
        finite = points.isfinite().flatten(1).all(1)
        slots = starts.slots
        self.points[slots] = torch.where(_column(finite, points), points, 0.0).to(self.points)
        self.contexts[slots] = starts.context
        self.age[slots] = torch.where(finite, self.age[slots] + 1, 0)

    def sample(
        self, n: int, context: Tensor | None, generator: Generator | None = None, *, from_noise: bool = False
    ) -> Tensor:
        """``(n, *event)`` points to begin at: where chains with the row's context are, N(0, I) if there are none."""
        points = normal(
            (n, *self.points.shape[1:]), generator=generator, dtype=self.points.dtype, device=self.points.device
        )
        used = self.age > 0
        if from_noise or not bool(used.any()):
            return points
        rows = used.new_zeros(n, dtype=torch.int64)
        if context is not None:
            rows = context.unique(dim=0, return_inverse=True)[1]
        for group in rows.unique():
            wanted = (rows == group).nonzero()[:, 0]
            fitting = used if context is None else used & (self.contexts == context[wanted[0]]).all(1)
            slots = fitting.nonzero()[:, 0]
            if len(slots):
                choice = torch.randint(len(slots), (len(wanted),), generator=generator)
                points[wanted] = self.points[slots[choice.to(slots.device)]]
        return points


def _column(mask: Tensor, like: Tensor) -> Tensor:
    return mask.reshape(-1, *[1] * (like.ndim - 1))
