"""Elementary functions of the Triton kernels, accurate to a few roundings where Triton's own are fast or absent.

On a GPU they are libdevice's. The interpreter has no libdevice: there NumPy's exp and log, and Kahan's corrections for
the functions that it lacks.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))


@triton.jit
def exp(x):
    return tl.exp(x) if INTERPRETED else libdevice.exp(x)


@triton.jit
def log(x):
    return tl.log(x) if INTERPRETED else libdevice.log(x)


@triton.jit
def log1p(x):
    """log(1 + x) for x >= 0."""
    if INTERPRETED:
        whole = 1.0 + x
        rounded = whole - 1.0
        # The rounding of 1 + x cancels in log(1 + x) / ((1 + x) − 1), which changes slowly.
        value = tl.where(rounded == 0.0, x, tl.log(whole) * (x / tl.where(rounded == 0.0, 1.0, rounded)))
    else:
        value = libdevice.log1p(x)
    return value


@triton.jit
def tanh(x):
    if INTERPRETED:
        twice = -2.0 * tl.abs(x)
        power = tl.exp(twice)
        near = (power > 0.5) & (power < 1.0)
        minus_one = (power - 1.0) * (twice / tl.log(tl.where(near, power, 0.5)))  # e^(−2|x|) − 1
        minus_one = tl.where(near, minus_one, tl.where(power == 1.0, twice, power - 1.0))
        size = -minus_one / (2.0 + minus_one)
        value = tl.where(x < 0, -size, size)
    else:
        value = libdevice.tanh(x)
    return value
