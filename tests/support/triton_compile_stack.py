"""Compiles the Triton kernels of stacks of couplings to cubins on a machine without a GPU.

    TRITON_INTERPRET=0 python tests/support/triton_compile_stack.py 80 90           two cases in small tiles
    TRITON_INTERPRET=0 python tests/support/triton_compile_stack.py 80 90 --all     many, in the tiles of a GPU

What is compiled is what the operators launch; the GPUs take turns. Prints a line for each: capability, kernel, shared
memory, and of all cases registers, bytes of them in local memory and seconds, then the case.
"""

from __future__ import annotations

import functools
import itertools
import sys
from typing import NamedTuple

import torch

from cgm_kernels.activations import ACTIVATIONS
from cgm_kernels.coupling.scales import KINDS
from cgm_kernels.coupling.triton_stack import coupling_stack_backward, coupling_stack_forward
from cgm_kernels.coupling.triton_stack_table import Channels, Stack
from cgm_kernels.divergence import triton_plan
from tests.support.triton_launches import capabilities_given, compile_jobs

ALL = "--all" in sys.argv


class Case(NamedTuple):
    d: int
    width: int
    scale: str = "tanh"
    activation: str = "relu"
    dtype: torch.dtype = torch.float32
    inverse: bool = False
    conditioned: bool = False


FEW = [
    Case(16, 64),
    Case(64, 64, "gate", "tanh", torch.bfloat16, True, True),
    Case(16, 16, dtype=torch.float64),
    Case(16, 16),
]
MANY = [Case(d, width) for d in (2, 64, 256) for width in (16, 64, 128)]
MANY += [
    Case(64, 64, scale, activation, dtype, inverse, inverse)
    for (scale, activation), dtype, inverse in zip(
        zip(KINDS, itertools.cycle(("relu", "silu", "gelu", "elu")), strict=False),
        itertools.cycle((torch.float32, torch.float64, torch.float16, torch.bfloat16)),
        itertools.cycle((True, False)),
        strict=False,
    )
]


def launch(case: Case) -> None:
    """Both operators of two layers, on five rows."""
    half = case.d // 2
    widths = [half, case.width, case.width, 2 * half] * 2
    channels = [*Channels(half, half, 1, 0, 0, 1, case.conditioned), *Channels(0, half, 1, 1, half, 1, 0)]
    x, log_det = torch.zeros(5, case.d, dtype=case.dtype), torch.zeros(5)
    parameters = torch.zeros(Stack.of(widths, channels).n_parameters, dtype=case.dtype)
    added = x.new_zeros(5 * case.width) if case.conditioned else None
    options = list(ACTIVATIONS).index(case.activation), KINDS.index(case.scale), 1.7, 1.25, 0.1, case.inverse
    y, total, kept = coupling_stack_forward(x, log_det, parameters, added, widths, channels, *options, True)
    coupling_stack_backward(y, total, y, kept, parameters, added, widths, channels, *options, True)


def main() -> None:
    original = triton_plan.plan
    if not ALL:  # tiles that compile in seconds
        triton_plan._COLUMNS, triton_plan._TERMS, triton_plan._BLOCK_ROWS = 16, 16, 32
    triton_plan.plan = lambda problem, _, *rest: original(problem, True, *rest)  # type: ignore[assignment]
    jobs = ((case, functools.partial(launch, case)) for case in (MANY if ALL else FEW))
    compile_jobs(jobs, capabilities_given(), measured=ALL)


if __name__ == "__main__":
    main()
