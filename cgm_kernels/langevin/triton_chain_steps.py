"""What every step of the Triton chains does with the gradient. Imported only by their kernels: it needs triton.

A program takes BLOCK chains, a multiple of 4, through all steps; their elements are contiguous and begin with a group
of the noise. Numbers that are not tensors come as the bits of a float64, so that nothing is rounded or compiled anew.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def float_of(bits):
    return bits.to(tl.int64).to(tl.float64, bitcast=True)


@triton.jit
def step_of(
    step_sizes, step_stride, step_bits, temperatures, temperature_stride, temperature_bits, chain, there,
    GIVEN_STEPS: tl.constexpr, GIVEN_TEMPERATURES: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """h and √(2hT) of chains."""
    h = tl.zeros(chain.shape, tl.float64) + 0.0
    temperature = h
    if GIVEN_STEPS:
        h += tl.load(step_sizes + chain * step_stride, mask=there, other=0.0).to(tl.float64)
    else:
        h += float_of(step_bits)
    if GIVEN_TEMPERATURES:
        temperature += tl.load(temperatures + chain * temperature_stride, mask=there, other=0.0).to(tl.float64)
    else:
        temperature += float_of(temperature_bits)
    return h.to(DTYPE), tl.sqrt(2.0 * h * temperature).to(DTYPE)


@triton.jit
def moved(x, gradient, noise, h, deviation, low_bits, high_bits, CLAMP: tl.constexpr):
    """x − h·g + √(2hT)·z within the bounds."""
    after = (x - h * gradient) + deviation * noise
    if CLAMP:
        low, high = float_of(low_bits).to(x.dtype), float_of(high_bits).to(x.dtype)
        after = tl.where(after < low, low, after)  # NaN stays
        after = tl.where(after > high, high, after)
    return after


@triton.jit
def projection(largest, relative, norm_bits):
    """min(1, c / ‖g‖), ‖g‖ = largest · relative; NaN where that is not finite."""
    c = float_of(norm_bits).to(largest.dtype)
    not_finite = (largest - largest) + (relative - relative)
    within = largest * relative <= c
    return tl.where(within, 1.0, (c / largest) / tl.where(within, 1.0, relative)) + not_finite
