"""How the Triton kernels cut a stack of couplings: what they are told of each layer, tiles and programs.

Tiles are those of the divergence's perceptrons (divergence/triton_plan.py), where the numbers to be tuned on a GPU
stand, too.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..divergence import triton_plan

PLACE = 14  # numbers of a layer in the table of places


class Channels(NamedTuple):
    """A layer as the operators take it: channels ``start, start + step, …`` are transformed, ``order`` as in Layout."""

    start: int
    size: int
    step: int
    order: int
    passing_start: int
    passing_step: int
    conditioned: int  # 1 or 0


@dataclass(frozen=True)
class Stack:
    """``widths`` of each layer: channels that pass, hidden units, parameters."""

    widths: tuple[tuple[int, ...], ...]
    channels: tuple[Channels, ...]

    @staticmethod
    def of(widths: Sequence[int], channels: Sequence[int]) -> Stack:
        count = len(channels) // len(Channels._fields)
        return Stack(tuple(_rows(widths, count)), tuple(Channels(*row) for row in _rows(channels, count)))

    @property
    def hidden(self) -> int:
        return len(self.widths[0]) - 2

    @property
    def moved(self) -> int:
        return max(layer.size for layer in self.channels)

    @property
    def passing(self) -> int:
        return max(widths[0] for widths in self.widths)

    @property
    def columns(self) -> int:
        """Of a stack of a perceptron's inputs, sums or derivatives."""
        return max(sum(widths[1:-1]) + max(widths[0], widths[-1]) for widths in self.widths)

    @property
    def n_parameters(self) -> int:
        return sum(map(n_parameters, self.widths))

    def plan(self, x: Tensor, activation: int, share: int = 0) -> triton_plan.Plan:
        """``share``: how many numbers of gradients each program adds up."""
        ends = max(max(widths[0], widths[-1]) for widths in self.widths)
        hidden = max(max(widths[1:-1]) for widths in self.widths)
        problem = triton_plan.Problem((ends, hidden, ends), len(x), 0, False, activation, False, False, 0)
        return triton_plan.plan(problem, x.is_cuda, x.element_size(), share)


def n_parameters(widths: Sequence[int]) -> int:
    """Of a layer: W_1, W_2, b_2, …, b_1."""
    return triton_plan.n_parameters(widths) + widths[1]


def _rows(numbers: Sequence[int], count: int) -> Iterator[tuple[int, ...]]:
    size = len(numbers) // count
    return (tuple(numbers[k * size : (k + 1) * size]) for k in range(count))


@functools.lru_cache(maxsize=64)
def tables(stack: Stack, device: torch.device) -> tuple[Tensor, Tensor]:
    """Of all layers the tables of their perceptrons, and of each the numbers of ``Place`` in the kernels.

    Of what is added to the first hidden layers, (B, units) of one layer follows that of another: a layer's begins
    behind B times the units before it. So does what the forward keeps, (B, size).
    """
    perceptrons = torch.cat([triton_plan.table(widths, False, torch.device("cpu")) for widths in stack.widths])
    rows, parameters, added, kept = [], 0, 0, 0
    for widths, own in zip(stack.widths, stack.channels, strict=True):
        behind, pair_step = (1, 2) if own.order >= 2 else (own.size, 1)
        pair = (0, behind) if own.order % 2 == 0 else (behind, 0)
        bias = parameters + triton_plan.n_parameters(widths)
        rows.append(
            [own.start, own.step, own.size, own.passing_start, own.passing_step, widths[0], *pair, pair_step,
             parameters, bias, added, own.conditioned, kept]
        )  # fmt: skip
        parameters, added, kept = bias + widths[1], added + own.conditioned * widths[1], kept + own.size
    return perceptrons.to(device), torch.tensor(rows, dtype=torch.int64).to(device)
