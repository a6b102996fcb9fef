"""The Langevin operations on Triton: the implementations of the registered operators.

Triton itself is imported by the first launch. Nothing here waits for the device, so that a CUDA graph can capture it.
Operands that are not contiguous are copied.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from . import reference
from .checks import computed_in

# Reasoned, and not yet measured on a GPU:
_BLOCK = 1024  # elements of a program; 8 of each thread
NORM_TILE = 2048  # elements of chains that a program squares at once, 8 of each thread: 16 would not fit its registers
NORM_WARPS = 8
_NORM_SPLIT = 16384  # of a long chain that a program has at least
_PROGRAMS = 1024  # that keep every GPU busy: with fewer, long chains are split


def langevin_step(x: Tensor, grad: Tensor, *dynamics: Any) -> Tensor:
    """The step, contiguous."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _step(x.contiguous(), grad.contiguous(), out, *dynamics)
    return out


def langevin_step_out(x: Tensor, grad: Tensor, *dynamics_and_out: Any) -> None:
    """The step, written to ``out``, which may overlap x and grad in any way."""
    *dynamics, out = dynamics_and_out
    x, grad = x.contiguous(), grad.contiguous()
    direct = out.is_contiguous() and not any(_overlaps(out, source) for source in (x, grad))
    target = out if direct else torch.empty(out.shape, dtype=out.dtype, device=out.device)
    _step(x, grad, target, *dynamics)
    if direct:
        torch.autograd.graph.increment_version(out)  # of which PyTorch knows nothing
    else:
        out.copy_(target)


def normal_fill(out: Tensor, state: Tensor | None, key: int) -> None:
    """Standard normals into ``out``."""
    if out.numel() > 0:
        from . import triton_kernels as kernels

        count, vector = _count(out)
        with torch.cuda.device_of(out):
            kernels.normal_kernel[(-(-out.numel() // _BLOCK),)](
                out, *_source(state, key, out), count, STATE=state is not None, VECTOR=vector, BLOCK=_BLOCK
            )
    _advance(state)


def mala_accept(
    x: Tensor, proposal: Tensor, log_ratio: Tensor, state: Tensor | None, key: int
) -> tuple[Tensor, Tensor]:
    """The chosen of x and the proposal, and which chains accept."""
    accepted = torch.empty(log_ratio.shape, dtype=torch.bool, device=x.device)
    chains = accepted.numel()
    if chains > 0:
        from . import triton_kernels as kernels

        ratio_stride = log_ratio.stride(0) if log_ratio.dim() else 0
        with torch.cuda.device_of(x):
            kernels.decide_kernel[(-(-chains // _BLOCK),)](
                log_ratio,
                ratio_stride,
                accepted,
                *_source(state, key, x),
                chains,
                STATE=state is not None,
                BLOCK=_BLOCK,
            )
    _advance(state)
    return reference.choose(accepted, x, proposal).contiguous(), accepted


def _step(
    x: Tensor,
    grad: Tensor,
    out: Tensor,
    state: Tensor | None,
    key: int,
    step_sizes: Tensor | None,
    step_size: float,
    temperatures: Tensor | None,
    temperature: float,
    max_grad_norm: float,
    low: float,
    high: float,
) -> None:
    """The step of contiguous tensors; tensors of step sizes and temperatures go before the numbers beside them."""
    if x.numel() > 0:
        from . import triton_kernels as kernels

        factors = _factors(grad, max_grad_norm) if max_grad_norm < math.inf else None
        count, vector = _count(out)
        length = x[0].numel() if x.dim() else 1
        with torch.cuda.device_of(x):
            kernels.step_kernel[(-(-x.numel() // _BLOCK),)](
                x, grad, out, *_source(state, key, x), *_strided(step_sizes, x), step_size,
                *_strided(temperatures, x), temperature, math.sqrt(2.0 * step_size * temperature),
                x if factors is None else factors, low, high, count, length,
                STATE=state is not None, STEP_SIZES=step_sizes is not None, TEMPERATURES=temperatures is not None,
                PROJECT=factors is not None, CLAMP=low > -math.inf or high < math.inf,
                SMALL=x.numel() < 2**31 - _BLOCK, VECTOR=vector, BLOCK=_BLOCK,
            )  # fmt: skip
    _advance(state)


def _factors(grad: Tensor, max_norm: float) -> Tensor:
    """min(1, c / ‖g‖) of each chain (chains,), by sums of fixed order."""
    from . import triton_kernels as kernels

    chains = grad.shape[0] if grad.dim() else 1
    length = grad.numel() // chains
    columns = min(1 << (length - 1).bit_length(), NORM_TILE)
    rows = NORM_TILE // columns
    row_blocks = -(-chains // rows)
    splits = max(1, min(length // _NORM_SPLIT, _PROGRAMS // row_blocks))
    parts = torch.empty(3, chains, splits, dtype=torch.float64, device=grad.device)
    factors = torch.empty(chains, dtype=computed_in(grad.dtype), device=grad.device)
    with torch.cuda.device_of(grad):
        kernels.squares_kernel[(row_blocks * splits,)](
            grad, parts, length, chains, splits, ROWS=rows, COLUMNS=columns, num_warps=NORM_WARPS
        )
        kernels.factors_kernel[(-(-chains // _BLOCK),)](parts, factors, max_norm, chains, splits, BLOCK=_BLOCK)
    return factors


def _source(state: Tensor | None, key: int, other: Tensor) -> tuple[Tensor, int]:
    return (other, key) if state is None else (state, 0)


def _strided(values: Tensor | None, other: Tensor) -> tuple[Tensor, int]:
    return (other, 0) if values is None else (values, values.stride(0) if values.dim() else 0)


def _count(tensor: Tensor) -> tuple[int, int]:
    """The number of elements divided by what proves it to the compiler, and that."""
    vector = math.gcd(tensor.numel(), 16)
    return tensor.numel() // vector, vector


def _overlaps(out: Tensor, source: Tensor) -> bool:
    """Whether contiguous tensors share memory other than each element with itself."""
    begin, end = (tensor.data_ptr() for tensor in (out, source))
    size = out.numel() * out.element_size()
    return begin != end and begin < end + size and end < begin + size


def _advance(state: Tensor | None) -> None:
    """Behind the kernels that read it, on the device."""
    if state is not None:
        state[1].add_(1)
