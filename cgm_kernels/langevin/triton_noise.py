"""The noise of the Triton kernels: the words of csrc/common/philox.h bit for bit, and normals and uniforms of them.

The float normals are those of csrc/langevin/cuda_noise.cuh, within 4 units in the last place of the exact ones, also
where u is near 1 or the normal near 0.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..coupling.triton_math import INTERPRETED, log, log1p


@triton.jit
def group_words(key, step, group):
    """The four words of the counters ``group``; key, step and groups are int64."""
    low, high = (group & 0xFFFFFFFF).to(tl.uint32), (group >> 32).to(tl.uint32)
    step_low, step_high = (step & 0xFFFFFFFF).to(tl.uint32), ((step >> 32) & 0xFFFFFFFF).to(tl.uint32)
    return tl.philox(key, low, high, step_low, step_high)


@triton.jit
def in_element_order(a, b, c, d):
    """One after the other the four values of each group."""
    return tl.interleave(tl.interleave(a, c), tl.interleave(b, d))


@triton.jit
def rounded(x, TYPE: tl.constexpr):
    """x in the type of memory, to nearest; the interpreter would cut bfloat16 off."""
    if INTERPRETED and tl.bfloat16 == TYPE:
        bits = x.to(tl.int32, bitcast=True)
        x = tl.where(x == x, (bits + (0x7FFF + ((bits >> 16) & 1))).to(tl.float32, bitcast=True), x)
    return x.to(TYPE)


@triton.jit
def uniforms(word):
    """(word + ½)·2⁻³², exact in float64."""
    return (word.to(tl.float64) + 0.5) * 2.3283064365386963e-10


@triton.jit
def root(x):
    """√x, rounded correctly; ``tl.sqrt`` is so in float64 alone."""
    return tl.sqrt(x) if x.dtype == tl.float64 else tl.sqrt_rn(x)


@triton.jit
def _radius(word, DTYPE: tl.constexpr):
    """√(−2 ln u), u = (word + ½)·2⁻³²; the distance of u from 1 is rounded once."""
    if tl.float64 == DTYPE:
        upper = word >= 0x80000000
        distance = (tl.where(upper, word ^ 0xFFFFFFFF, word).to(tl.float64) + 0.5) * 2.3283064365386963e-10
        log_u = tl.where(upper, log1p(-distance), log(distance))
    else:
        upper = word >= 0xAAAAAAAB  # 2/3
        distance = tl.where(upper, word ^ 0xFFFFFFFF, word).to(tl.float32) + 0.5
        offset = distance.to(tl.int32, bitcast=True) - 0x3F2AAAAB
        reduced = (0x3F2AAAAB + (offset & 0x007FFFFF)).to(tl.float32, bitcast=True)  # within [2/3, 4/3)
        exponent = tl.where(upper, 0.0, ((offset >> 23) - 32).to(tl.float32))
        t = tl.where(upper, distance * -2.3283064365386963e-10, reduced - 1.0)
        q = 0.1402636 * t - 0.1538854  # log(1 + t) = t + t² q
        q = q * t + 0.13995807
        q = q * t - 0.16415961
        q = q * t + 0.20011169
        q = q * t - 0.2500782
        q = q * t + 0.33333197
        q = q * t - 0.49999937
        log_u = exponent * 0.6931472 + (t * t * q + t)
    return root(-2.0 * log_u)


@triton.jit
def _direction(word, DTYPE: tl.constexpr):
    """cos and sin of 2π(word + ½)·2⁻³²; the quadrant is taken off in integers."""
    shifted = word + 0x20000000
    odd = 2 * ((shifted & 0x3FFFFFFF).to(tl.int32) - 0x20000000) + 1  # in units of π/2 · 2⁻³¹
    if tl.float64 == DTYPE:
        angle = odd.to(tl.float64) * 7.314590396335798e-10
        sine = tl.sin(angle)
        cosine = tl.cos(angle)
    else:
        units = odd.to(tl.float32)
        angle = units * 7.3145906e-10 + units * -2.0354701e-17
        z = angle * angle
        p = 2.718084e-06 * z - 0.00019839309
        p = p * z + 0.008333329
        p = p * z - 0.16666667
        q = 2.4432786e-05 * z - 0.0013887313
        q = q * z + 0.041666646
        sine = angle * z * p + angle
        cosine = z * z * q + (1.0 - 0.5 * z)
    turned = (shifted & 0x40000000) != 0
    cos_part, sin_part = tl.where(turned, sine, cosine), tl.where(turned, cosine, sine)
    cos_part = tl.where(((shifted + 0x40000000) & 0x80000000) != 0, -cos_part, cos_part)
    return cos_part, tl.where((shifted & 0x80000000) != 0, -sin_part, sin_part)


@triton.jit
def normal_elements(key, step, first_group, GROUPS: tl.constexpr, DTYPE: tl.constexpr):
    """The normals (4·GROUPS,) of the elements from 4·first_group on."""
    a, b, c, d = group_words(key, step, first_group + tl.arange(0, GROUPS))
    radius_0, radius_1 = _radius(a, DTYPE), _radius(c, DTYPE)
    cos_0, sin_0 = _direction(b, DTYPE)
    cos_1, sin_1 = _direction(d, DTYPE)
    return in_element_order(radius_0 * cos_0, radius_0 * sin_0, radius_1 * cos_1, radius_1 * sin_1)
