"""The combinations of a Runge–Kutta step on Triton: the implementations of the registered operators."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MOST_STAGES = 16  # as in runge_kutta_operators.py and in the arguments of the kernels
_BLOCK = 1024  # elements of a program: 8 numbers a thread of each stage; reasoned, and not yet measured on a GPU
_INTERPRETED = 2**16  # the same in the interpreter


def runge_kutta_update(
    y: Tensor, stages: Sequence[Tensor], coefficients: Sequence[float], steps: Tensor | None, step: float
) -> Tensor:
    """y + h Σ_i c_i k_i."""
    out = torch.empty(y.shape, dtype=y.dtype, device=y.device)
    if out.numel() == 0:
        return out
    from .triton_runge_kutta_kernels import update_kernel

    block = _BLOCK if y.is_cuda else _INTERPRETED
    with torch.cuda.device_of(y):
        update_kernel[(-(-y.numel() // block),)](
            y.contiguous(), tuple(stage.contiguous() for stage in stages), *_padded(coefficients),
            y if steps is None else steps, step, out, y.numel(), GIVEN=steps is not None, BLOCK=block,
        )  # fmt: skip
    return out


def runge_kutta_error(
    y0: Tensor, y1: Tensor, stages: Sequence[Tensor], coefficients: Sequence[float], steps: Tensor | None,
    step: float, rtol: float, atol: float,
) -> Tensor:  # fmt: skip
    """The root of the mean of squares of h Σ_i c_i k_i / (atol + rtol max(|y0|, |y1|)), from partial sums in order."""
    from .triton_runge_kutta_kernels import error_kernel

    block = _BLOCK if y0.is_cuda else _INTERPRETED
    programs = -(-y0.numel() // block)
    sums = torch.empty(programs, dtype=torch.float64, device=y0.device)
    if programs > 0:
        with torch.cuda.device_of(y0):
            error_kernel[(programs,)](
                y0.contiguous(), y1.contiguous(), tuple(stage.contiguous() for stage in stages),
                *_padded(coefficients), y0 if steps is None else steps, step, rtol,
                atol, sums, y0.numel(), GIVEN=steps is not None, BLOCK=block,
            )  # fmt: skip
    return (sums.sum() / y0.numel()).sqrt().to(y0.dtype) if programs > 0 else y0.new_full((), torch.nan)


def _padded(coefficients: Sequence[float]) -> list[float]:
    return [*coefficients, *[0.0] * (MOST_STAGES - len(coefficients))]
