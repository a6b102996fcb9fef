"""The Triton kernels of Runge–Kutta combinations. Imported only when one is launched: it needs triton.

Coefficients come one by one, as float64: the launcher would compile a kernel for some values of those in a tuple.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _combination(stages, coefficients, steps, step, at, inside, GIVEN: tl.constexpr, DTYPE: tl.constexpr):
    """h Σ_i c_i k_i of some elements."""
    total = tl.full([], coefficients[0], DTYPE) * tl.load(stages[0] + at, mask=inside, other=0.0).to(DTYPE)
    for i in tl.static_range(1, len(stages)):
        total += tl.full([], coefficients[i], DTYPE) * tl.load(stages[i] + at, mask=inside, other=0.0).to(DTYPE)
    if GIVEN:
        h = tl.load(steps).to(DTYPE)
    else:
        h = tl.full([], step, DTYPE)
    return h * total


@triton.jit
def update_kernel(
    y, stages, c0: tl.float64, c1: tl.float64, c2: tl.float64, c3: tl.float64, c4: tl.float64, c5: tl.float64,
    c6: tl.float64, c7: tl.float64, c8: tl.float64, c9: tl.float64, c10: tl.float64, c11: tl.float64,
    c12: tl.float64, c13: tl.float64, c14: tl.float64, c15: tl.float64,
    steps, step: tl.float64, out, length, GIVEN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    coefficients = (c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13, c14, c15)
    DTYPE: tl.constexpr = tl.float64 if y.dtype.element_ty == tl.float64 else tl.float32
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < length
    moved = _combination(stages, coefficients, steps, step, at, inside, GIVEN, DTYPE)
    tl.store(out + at, tl.load(y + at, mask=inside, other=0.0).to(DTYPE) + moved, mask=inside)


@triton.jit
def error_kernel(
    y0, y1, stages, c0: tl.float64, c1: tl.float64, c2: tl.float64, c3: tl.float64, c4: tl.float64, c5: tl.float64,
    c6: tl.float64, c7: tl.float64, c8: tl.float64, c9: tl.float64, c10: tl.float64, c11: tl.float64,
    c12: tl.float64, c13: tl.float64, c14: tl.float64, c15: tl.float64,
    steps, step: tl.float64, rtol: tl.float64, atol: tl.float64, sums, length,
    GIVEN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    coefficients = (c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13, c14, c15)
    DTYPE: tl.constexpr = tl.float64 if y0.dtype.element_ty == tl.float64 else tl.float32
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < length
    error = _combination(stages, coefficients, steps, step, at, inside, GIVEN, DTYPE)
    before = tl.abs(tl.load(y0 + at, mask=inside, other=1.0).to(DTYPE))
    after = tl.abs(tl.load(y1 + at, mask=inside, other=1.0).to(DTYPE))
    # A comparison that holds for no NaN keeps either's.
    largest = tl.where((before > after) | (before != before), before, after)
    scaled = error / (tl.full([], atol, DTYPE) + tl.full([], rtol, DTYPE) * largest)
    scaled = tl.where(inside, scaled, 0.0).to(tl.float64)
    tl.store(sums + tl.program_id(0), tl.sum(scaled * scaled, axis=0))
