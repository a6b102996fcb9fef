"""Cases of the affine couplings, for every backend; the oracle is the reference in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

import cgm_kernels

SCALES = ("exp", "tanh", "softclip", "sigmoid", "softplus", "gate")


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@dataclass(frozen=True)
class Case:
    """One problem; ``layout`` says how its tensors lie in memory or broadcast."""

    shape: tuple[int, ...]
    scale: str = "exp"
    eps: float = 0.0
    inverse: bool = False
    event_dims: int | None = None
    layout: str = "dense"  # "halves", "interleaved", "transposed", "row", "channel"

    def __str__(self) -> str:
        parts = ["x".join(map(str, self.shape)), self.scale, self.layout]
        parts += [f"eps{self.eps:g}"] if self.eps else []
        parts += ["inverse"] if self.inverse else []
        parts += [] if self.event_dims is None else [f"e{self.event_dims}"]
        return "-".join(parts)

    def draw(self, dtype: torch.dtype, device: str, seed: int = 0) -> tuple[Tensor, ...]:
        """The leaves: x, log_scale and shift, or the tensors of which they are views."""
        generator = torch.Generator().manual_seed(seed)
        shape = self.shape
        if self.layout in ("halves", "interleaved"):
            drawn = [normal(generator, shape[0], 2 * shape[1], *shape[2:]) for _ in range(2)]
        elif self.layout == "transposed":
            drawn = [normal(generator, *reversed(shape)) for _ in range(3)]
        elif self.layout == "row":
            drawn = [normal(generator, *shape), normal(generator, *shape[1:]), normal(generator, 1, *shape[1:])]
        elif self.layout == "channel":
            of_channels = (shape[1], *[1] * (len(shape) - 2))
            drawn = [normal(generator, *shape), normal(generator, *of_channels), normal(generator, *of_channels)]
        else:
            drawn = [normal(generator, *shape) for _ in range(3)]
        return tuple(one.to(device, dtype) for one in drawn)

    def views(self, leaves: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """x, log_scale and shift."""
        if self.layout == "halves":
            width = self.shape[1]
            return leaves[0][:, width:], leaves[1][:, :width], leaves[1][:, width:]
        if self.layout == "interleaved":
            return leaves[0][:, ::2], leaves[1][:, ::2], leaves[1][:, 1::2]
        if self.layout == "transposed":
            x, log_scale, shift = (leaf.permute(*reversed(range(leaf.dim()))) for leaf in leaves)
            return x, log_scale, shift
        return leaves  # type: ignore[return-value]

    def call(self, leaves: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        function = cgm_kernels.affine_coupling_inverse if self.inverse else cgm_kernels.affine_coupling
        return function(*self.views(leaves), scale=self.scale, eps=self.eps, event_dims=self.event_dims)


@dataclass(frozen=True)
class EventCase:
    """A whole-event coupling."""

    shape: tuple[int, ...]
    split: int | slice
    scale: str = "tanh"
    layout: str = "scale_shift"
    inverse: bool = False
    running: bool = True

    def __str__(self) -> str:
        split = self.split if isinstance(self.split, int) else f"{self.split.start}_{self.split.stop}_{self.split.step}"
        parts = ["x".join(map(str, self.shape)), f"split{split}", self.scale, self.layout]
        return "-".join([*parts, *(["inverse"] if self.inverse else []), *(["running"] if self.running else [])])

    def draw(self, dtype: torch.dtype, device: str, seed: int = 0) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(seed)
        channels = range(self.shape[1])[self.split if isinstance(self.split, slice) else slice(self.split, None)]
        x = normal(generator, *self.shape)
        parameters = normal(generator, self.shape[0], 2 * len(channels), *self.shape[2:])
        drawn = [x, parameters, *([normal(generator, self.shape[0])] if self.running else [])]
        return tuple(one.to(device, dtype) for one in drawn)

    def call(self, leaves: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        return cgm_kernels.affine_coupling_event(
            leaves[0],
            leaves[1],
            self.split,
            leaves[2] if self.running else None,
            inverse=self.inverse,
            scale=self.scale,
            layout=self.layout,
        )


CASES = [
    *[Case((5, 6), scale, inverse=inverse) for scale in SCALES for inverse in (False, True)],
    *[Case((3, 40), scale, eps=1e-3, inverse=inverse) for scale in SCALES[3:5] for inverse in (False, True)],
    Case((1, 1)),
    Case((9, 1), "softplus"),
    Case((2, 1500), "sigmoid"),
    Case((3, 4, 5), event_dims=1),
    Case((3, 4, 5), "tanh", event_dims=2),
    Case((3, 4), event_dims=0),
    Case((2, 3, 4, 5), "tanh"),
    *[Case((6, 7), "tanh", layout="halves", inverse=inverse) for inverse in (False, True)],
    *[Case((6, 7), "gate", layout="interleaved", inverse=inverse) for inverse in (False, True)],
    Case((2, 3, 4, 4), "softclip", layout="halves"),
    Case((7, 9), "exp", layout="transposed"),
    Case((2, 3, 5), "gate", layout="transposed"),
    Case((6, 7), "tanh", layout="row"),
    *[Case((6, 7), scale, layout="channel", inverse=i) for scale in ("exp", "gate") for i in (False, True)],
    *[Case((3, 4, 5, 5), "tanh", layout="channel", inverse=i) for i in (False, True)],
]
EVENT_CASES = [
    *[EventCase((5, 6), split) for split in (0, 2, 6, slice(0, 4), slice(1, None, 2), slice(0, None, 3), slice(2, 2))],
    *[EventCase((5, 7), slice(1, None, 2), scale, inverse=True) for scale in SCALES],
    *[
        EventCase((4, 6), 3, layout=layout, inverse=inverse, running=False)
        for layout in ("shift_scale", "interleaved_scale_shift", "interleaved_shift_scale")
        for inverse in (False, True)
    ],
    *[EventCase((2, 4, 3, 3), split, "sigmoid") for split in (2, slice(0, 3))],
    EventCase((2, 5, 3), 2, "gate", "shift_scale", inverse=True),
]
# Beyond what an interpreter can walk through in a test.
LARGE_CASES = [
    *[Case((50, 19), scale, layout="halves", inverse=inverse) for scale in SCALES for inverse in (False, True)],
    Case((2, 70_000), "tanh"),
    Case((3000, 33), "sigmoid", eps=1e-3, inverse=True),
    Case((700, 96), "gate", layout="halves"),
    Case((1, 200_000), inverse=True),
    Case((5000, 3), "softplus", layout="interleaved"),
    Case((4000, 31), layout="channel"),
    Case((6, 5, 90, 70), layout="channel", inverse=True),
]


def results(case: Case | EventCase, leaves: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """y, log_det, and the gradients of a sum that tells every element apart, by every leaf."""
    leaves = tuple(leaf.detach().clone().requires_grad_() for leaf in leaves)
    y, log_det = case.call(leaves)
    total = (y * _weights(y)).sum() + (log_det * _weights(log_det)).sum()
    return y.detach(), log_det.detach(), *torch.autograd.grad(total, leaves)


def _weights(like: Tensor) -> Tensor:
    count = max(1, math.prod(like.shape))
    return (torch.arange(count, device=like.device) % 7 - 2.5).to(like.dtype)[: like.numel()].reshape(like.shape)
