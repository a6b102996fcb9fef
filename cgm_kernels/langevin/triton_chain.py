"""Langevin chains on Triton: the implementations of the registered operators of chain_operators.py.

Triton itself is imported by the first launch. Nothing here waits for the device once the small tables of an energy's
shape are there, so that a CUDA graph can capture a chain; the state is advanced on the device.
"""

from __future__ import annotations

import functools
import itertools
import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import chain_reference
from .parameters import MixtureParameters

MOST_DIMS = 4096  # of a chain that a program keeps in its registers; beyond, every step is PyTorch's
MOST_FULL_BYTES = 2048  # of a row of full precisions, of which a program holds sixteen and more in shared memory
_TILE = 4096  # elements of a program's chains
_INTERPRETED = 2**18  # the same in the interpreter, which pays for each program and operation


class Dynamics(NamedTuple):
    """How chains move: what the registered operators take last, in their order."""

    state: Tensor
    n_steps: int
    step_sizes: Tensor | None
    step_size: float
    temperatures: Tensor | None
    temperature: float
    max_grad_norm: float
    low: float
    high: float

    def run_reference(self, x: Tensor, energy: MixtureParameters) -> Tensor:
        h = self.step_size if self.step_sizes is None else self.step_sizes
        heat = self.temperature if self.temperatures is None else self.temperatures
        limits = self.max_grad_norm, self.low, self.high
        return chain_reference.chain(x, energy, self.n_steps, h, heat, *limits, self.state, _normal)

    def arguments(self) -> list[Any]:
        """Those of a kernel."""
        given = [(self.step_sizes, self.step_size), (self.temperatures, self.temperature)]
        per_chain = [part for values, number in given for part in (values, _stride(values), _bits(number))]
        return [self.state, self.n_steps, *per_chain, *map(_bits, (self.max_grad_norm, self.low, self.high))]

    def flags(self) -> dict[str, bool]:
        return {
            "GIVEN_STEPS": self.step_sizes is not None,
            "GIVEN_TEMPERATURES": self.temperatures is not None,
            "PROJECT": self.max_grad_norm < math.inf,
            "CLAMP": self.low > -math.inf or self.high < math.inf,
        }

    def advance(self) -> None:
        """The state, behind the kernels that read it, on the device."""
        self.state[1:].add_(self.n_steps)


def mixture(
    x: Tensor, log_weights: Tensor, means: Tensor, precisions: Tensor, ends: Sequence[int], *moves: Any
) -> Tensor:
    """x (chains, d) after the steps of ``moves`` on a sum of experts, each a mixture of Gaussians."""
    chains, d = x.shape
    full, dynamics = precisions.dim() == 3, Dynamics(*moves)
    if d > (MOST_FULL_BYTES // x.element_size() if full else MOST_DIMS):
        return dynamics.run_reference(x, MixtureParameters(log_weights, means, precisions, tuple(ends)))
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    if x.numel() > 0:
        from .triton_chain_mixture import mixture_chain_kernel

        width = _power(d)
        products = full and width > 8
        width = max(width, 16) if products else width
        least = 16 if products else 4
        block = _block(chains, least, max(least, min(128, _TILE // width)) if x.is_cuda else _INTERPRETED // width)
        differences = torch.empty_like(out) if products else None
        with torch.cuda.device_of(x):
            mixture_chain_kernel[(-(-chains // block),)](
                x.contiguous(), out, log_weights.contiguous(), means.contiguous(), precisions.contiguous(),
                _ends(tuple(ends), x.device), differences, *dynamics.arguments(), chains, d, len(ends),
                KIND=precisions.dim(), **dynamics.flags(), DENSE=width == d, BLOCK=block, D=width, TERMS=16,
                num_warps=max(1, min(8, block * width // 128)),
            )  # fmt: skip
    dynamics.advance()
    return out


def mlp(x: Tensor, parameters: Tensor, widths: Sequence[int], activation: int, slope: float, *moves: Any) -> Tensor:
    """x (chains, d) after the steps of ``moves`` on a network's energy."""
    (chains, d), dynamics = x.shape, Dynamics(*moves)
    if x.numel() == 0:
        dynamics.advance()
        return torch.empty_like(x, memory_format=torch.contiguous_format)
    from .triton_chain_mlp import mlp_chain_kernel

    table, columns, last = _table(tuple(widths), x.device)
    parameters, hidden = parameters.contiguous(), len(widths) - 2
    scratch = x.new_empty(columns * chains)
    moving, gradient = scratch[: 2 * chains * d].view(2, chains, d)
    moving.copy_(x)
    if hidden == 0:
        gradient.copy_(parameters[:d])
    terms, width, groups, most = (32, 64, 64, 32) if x.is_cuda else _interpreted(max(widths))
    block = _block(chains, 16, most)
    with torch.cuda.device_of(x):
        mlp_chain_kernel[(-(-chains // block),)](
            scratch, parameters, table, parameters[last:], x.new_empty(chains), *dynamics.arguments(), _bits(slope),
            chains, d, hidden, ACTIVATION=activation, **dynamics.flags(), BLOCK=block, COLUMNS=width, TERMS=terms,
            GROUPS=groups, num_warps=4,
        )  # fmt: skip
    dynamics.advance()
    return moving.clone()


def _stride(values: Tensor | None) -> int:
    return 0 if values is None or values.dim() == 0 else values.stride(0)


def _bits(number: float) -> int:
    """Those of a float64, as a signed integer."""
    return struct.unpack("<q", struct.pack("<d", number))[0]


def _power(size: int) -> int:
    return 1 << max(size - 1, 0).bit_length()


def _block(chains: int, least: int, most: int) -> int:
    """Chains of a program."""
    return max(least, min(_power(chains), most))


def _interpreted(widest: int) -> tuple[int, int, int, int]:
    """Terms and columns of products, groups of noise and chains in the interpreter: large, but not without need."""
    size = max(16, min(256, _power(widest)))
    return size, size, 1024, _INTERPRETED // size


@functools.cache
def _ends(ends: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(ends, dtype=torch.int32).to(device)


@functools.cache
def _table(widths: tuple[int, ...], device: torch.device) -> tuple[Tensor, int, int]:
    """Seven numbers for each hidden layer, the columns of the scratch, and where the last weights begin.

    Its inputs and units, its first weight and first bias, and in the scratch the columns of what it reads, of its
    values and of its slopes. The scratch begins with x and the gradient by x.
    """
    sizes = [a * b for a, b in itertools.pairwise(widths)]
    rows, source, used, bias = [], 0, 2 * widths[0], sum(sizes)
    for layer in range(len(widths) - 2):
        inputs, units = widths[layer], widths[layer + 1]
        values, slopes = used, used + units
        rows.append([inputs, units, sum(sizes[:layer]), bias, source, values, slopes])
        source, used, bias = values, used + 2 * units, bias + units
    table = torch.tensor(rows or [[0] * 7], dtype=torch.int64).to(device)
    return table, used, sum(sizes[:-1])


def _normal(shape: torch.Size, state: Tensor, dtype: torch.dtype) -> Tensor:
    """The noise of the state's step, which it advances."""
    noise = torch.empty(shape, dtype=dtype, device=state.device)
    torch.ops.cgm_triton.normal_fill(noise, state, 0)
    return noise
