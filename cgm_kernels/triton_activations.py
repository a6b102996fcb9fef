"""The activations of perceptrons on Triton: value and both derivatives together, as csrc/common/activations.h."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice

from .activations import ACTIVATIONS
from .coupling.triton_math import INTERPRETED, exp, log1p, tanh

_INDEX = {name: index for index, name in enumerate(ACTIVATIONS)}
TANH = tl.constexpr(_INDEX["tanh"])
SOFTPLUS = tl.constexpr(_INDEX["softplus"])
SILU = tl.constexpr(_INDEX["silu"])
GELU = tl.constexpr(_INDEX["gelu"])
RELU = tl.constexpr(_INDEX["relu"])
LEAKY_RELU = tl.constexpr(_INDEX["leaky_relu"])
ELU = tl.constexpr(_INDEX["elu"])


@triton.jit
def _expm1(x):
    """e^x − 1 for x <= 0; the interpreter has no libdevice, there Kahan's correction of the rounding of e^x."""
    if INTERPRETED:
        power = tl.exp(x)
        near = (power > 0.5) & (power < 1.0)
        corrected = (power - 1.0) * (x / tl.log(tl.where(near, power, 0.5)))
        value = tl.where(near, corrected, tl.where(power == 1.0, x, power - 1.0))
    else:
        value = libdevice.expm1(x)
    return value


@triton.jit
def _sin_cos(x):
    if INTERPRETED:
        sine = tl.sin(x)
        cosine = tl.cos(x)
    else:
        sine = libdevice.sin(x)
        cosine = libdevice.cos(x)
    return sine, cosine


@triton.jit
def bent(z, leak, ACTIVATION: tl.constexpr):
    """a(z), a'(z) and a''(z); ``leak`` is leaky ReLU's slope below zero. A kink has those of its left; NaN stays."""
    if ACTIVATION == TANH:
        value = tanh(z)
        slope = (1.0 - value) * (1.0 + value)
        curvature = -2.0 * value * slope
    elif ACTIVATION == GELU:
        below = 0.5 * (1.0 + tl.erf(z * 0.7071067811865476))
        density = 0.3989422804014327 * exp(-0.5 * z * z)
        value = z * below
        slope = below + z * density
        curvature = density * (2.0 - z * z)
    elif ACTIVATION == RELU:
        value = tl.where(z < 0, 0.0, z)
        slope = tl.where(z > 0, 1.0, tl.zeros_like(z))
        curvature = tl.zeros_like(z)
    elif ACTIVATION == LEAKY_RELU:
        value = tl.where(z > 0, z, leak * z)
        slope = tl.where(z > 0, 1.0, tl.zeros_like(z) + leak)
        curvature = tl.zeros_like(z)
    elif ACTIVATION == ELU:
        below = _expm1(tl.where(z < 0, z, z - z))  # z − z is 0 or NaN
        value = tl.where(z > 0, z, below)
        slope = tl.where(z > 0, 1.0, below + 1.0)
        curvature = tl.where(z > 0, 0.0, below + 1.0)
    elif ACTIVATION == SILU or ACTIVATION == SOFTPLUS:  # noqa: SIM109  a kernel compares constants one by one
        small = exp(tl.where(z < 0, z, -z))
        large_part = 1.0 / (1.0 + small)
        small_part = small * large_part
        logistic = tl.where(z < 0, small_part, large_part)
        rest = tl.where(z < 0, large_part, small_part)
        if ACTIVATION == SILU:
            value = z * logistic
            slope = logistic * (1.0 + z * rest)
            curvature = logistic * rest * (2.0 + z * (rest - logistic))
        else:
            value = tl.where(z > 20, z, tl.where(z < 0, 0.0, z) + log1p(small))  # as PyTorch's
            slope = tl.where(z > 20, 1.0, logistic)
            curvature = tl.where(z > 20, 0.0, logistic * rest)
    else:
        value, slope = _sin_cos(z)
        curvature = -value
    return value, slope, curvature
