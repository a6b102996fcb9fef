"""Compiles the Triton kernels of the divergence to cubins on a machine without a GPU.

    TRITON_INTERPRET=0 python tests/support/triton_compile_divergence.py 80 90           a few cases in small tiles
    TRITON_INTERPRET=0 python tests/support/triton_compile_divergence.py 80 90 --all     many, in the tiles of a GPU

What is compiled is what the operators launch; the GPUs take turns. Prints a line for each: capability, kernel, shared
memory, and of all cases registers, bytes of them in local memory and seconds, then the case.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from cgm_kernels.divergence import potential_triton, triton, triton_flow, triton_plan, triton_runge_kutta
from tests.support.divergence_operators import Call
from tests.support.triton_launches import capabilities_given, compile_jobs

ALL = "--all" in sys.argv
FEW = [
    Call((2, 64, 64, 64, 2), 4096, 1, method="rk4", dtype=torch.float32),
    Call((64, 64, 64, 64), 4096, 2, "softplus", "rows", residual=True, norms=True, dtype=torch.bfloat16),
    Call((2, 16, 16, 16, 2), 4096, 1, dtype=torch.float64),
]
SIZES = [(2, 16, 16, 2), (2, 64, 64, 64, 2), (64, 64, 64, 64, 64), (64, 128, 128, 64)]


def every() -> list[Call]:
    """Kinds of tangents, dtypes and options at several sizes; sizes are no constants of the kernels, tiles are."""
    found = [Call(widths, 4096, 1, dtype=torch.float32) for widths in SIZES]
    whole, closed = (64, 128, 128, 128, 64), (2, 64, 64, 2)
    found += [Call(closed, 4096, None, dtype=dtype) for dtype in (torch.float32, torch.float64, torch.bfloat16)]
    found += [Call((2, 64, 2), 4096, None, "silu", "shared", by_row=True, dtype=torch.float32)]
    found += [Call(widths, 4096, None, norms=True, dtype=torch.float32) for widths in (SIZES[1], whole)]
    given = {"film": "rows", "residual": True, "norms": True}
    dtypes = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    found += [Call(whole, 4096, 4, "gelu", **given, dtype=dtype) for dtype in dtypes]  # type: ignore[arg-type]
    flows = [found[0], found[3], found[4], found[8], *found[10:12], found[-1]]
    return [
        *FEW[1:],
        Call((1, 20, 1), 4096, None, "gelu", "shared"),
        *found,
        *(replace(call, method="rk4") for call in flows),
        *FEW[:1],
    ]


def launch(call: Call, leaves: dict[str, torch.Tensor | None]) -> None:
    """The implementations of an operator and of its backward, whose results stand for their gradients."""
    tensors, numbers = list(leaves.values()), call.numbers()
    name = "mlp_flow" if call.method else "mlp_divergence"
    *results, kept = getattr(triton, name)(*tensors, *numbers, True)
    grads: list[Any] = results if call.method or call.norms else [*results[:2], None]
    getattr(triton, f"{name}_backward")(*grads, *tensors, kept, *numbers)


def combine() -> None:
    y = torch.zeros(5000)
    triton.runge_kutta_update(y, [y] * 3, [0.1, 0.2, 0.3], None, 0.1)
    half, step = y.bfloat16(), torch.tensor(0.1)
    triton.runge_kutta_error(half, half, [half] * 7, [0.1] * 7, step, 0.0, 1e-3, 1e-6)


def potential() -> None:
    """Of three layers, the fewest that reach every kernel; 40 units of 5 rows."""
    numbers = (2, 40, 3, 3, True)  # dims, units, layers, rank of the quadratic part, whether there is a linear one
    size = 40 * 3 + 40 + 2 * (40 * 40 + 40) + 40 + 3 * 3 + 3
    s, parameters, directions = torch.zeros(5, 3), torch.zeros(size), torch.zeros(2, 40)
    found = potential_triton.potential_forward(s, parameters, directions, *numbers)
    potential_triton.potential_backward(*found, s, parameters, directions, *numbers)


def main() -> None:
    original = triton_plan.plan
    if not ALL:  # tiles that compile in seconds
        triton_plan._COLUMNS, triton_plan._TERMS, triton_plan._BLOCK_ROWS = 16, 16, 32
    triton_runge_kutta._INTERPRETED = triton_runge_kutta._BLOCK
    for module in (triton, triton_flow):
        module.plan = lambda problem, _, *rest: original(problem, True, *rest)  # type: ignore[attr-defined]
    jobs: list[tuple[object, Callable[[], None]]] = [("combination", combine), ("potential", potential)]
    jobs += [(call, functools.partial(launch, call, call.draw())) for call in (every() if ALL else FEW)]
    compile_jobs(jobs, capabilities_given(), measured=ALL)


if __name__ == "__main__":
    main()
