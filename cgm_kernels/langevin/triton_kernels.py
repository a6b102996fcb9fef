"""The Triton kernels of the Langevin operations. Imported only when one is launched: it needs triton.

A program takes BLOCK elements in a row, the four of each Philox counter together. The number of elements comes divided
by VECTOR, which so divides it for the compiler as well: loads of 16 bytes need the proof. Numbers come in float64 and
are rounded here; the interpreter hands them over as Python's, hence ``tl.full``.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..coupling.triton_math import log
from .triton_noise import group_words, in_element_order, normal_elements, root, rounded, uniforms


@triton.jit
def _source(state, key, STATE: tl.constexpr, UNIFORM: tl.constexpr):
    """The key and the step of the words, int64; the top bit of the step is set for uniforms."""
    if STATE:
        key = tl.load(state)
        step = tl.load(state + 1)
    else:
        key = tl.full([], key, tl.int64)
        step = tl.full([], 0, tl.int64)
    if UNIFORM:
        step = step | (tl.full([], 1, tl.int64) << 63)
    return key, step


@triton.jit
def _first_group(BLOCK: tl.constexpr):
    return tl.program_id(0).to(tl.int64) * (BLOCK // 4)


@triton.jit
def _of_chains(data, stride, number, chain, inside, DTYPE: tl.constexpr, GIVEN: tl.constexpr):
    """One value for each chain, or the number for all."""
    if GIVEN:
        value = tl.load(data + chain * stride, mask=inside, other=0.0)
    else:
        value = tl.full([], number, DTYPE)
    return value


@triton.jit(do_not_specialize=["key", "h_stride", "t_stride", "count", "length"])
def step_kernel(
    x, grad, out, state, key: tl.int64, step_sizes, h_stride, step_size: tl.float64, temperatures, t_stride,
    temperature: tl.float64, deviation: tl.float64, factors, low: tl.float64, high: tl.float64,
    count: tl.int64, length: tl.int64,
    STATE: tl.constexpr, STEP_SIZES: tl.constexpr, TEMPERATURES: tl.constexpr, PROJECT: tl.constexpr,
    CLAMP: tl.constexpr, SMALL: tl.constexpr, VECTOR: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """x − h·g·factor + √(2hT)·z within [low, high]; chains are ``length`` elements each. SMALL: in 31 bits."""
    DTYPE: tl.constexpr = tl.float64 if out.dtype.element_ty == tl.float64 else tl.float32
    key, step = _source(state, key, STATE, False)
    group = _first_group(BLOCK)
    element = group * 4 + tl.arange(0, BLOCK)
    inside = element < count * VECTOR
    position = tl.load(x + element, mask=inside, other=0.0).to(DTYPE)
    force = tl.load(grad + element, mask=inside, other=0.0).to(DTYPE)
    if SMALL:
        chain = element.to(tl.int32) // tl.full([], length, tl.int32)
    else:
        chain = element // length
    h = _of_chains(step_sizes, h_stride, step_size, chain, inside, DTYPE, STEP_SIZES)
    if STEP_SIZES or TEMPERATURES:
        kt = _of_chains(temperatures, t_stride, temperature, chain, inside, DTYPE, TEMPERATURES)
        spread = root(2.0 * h * kt)
    else:
        spread = tl.full([], deviation, DTYPE)
    if PROJECT:
        force *= tl.load(factors + chain, mask=inside, other=0.0)
    moved = position - h * force + spread * normal_elements(key, step, group, BLOCK // 4, DTYPE)
    if CLAMP:  # by comparisons, which let NaN through
        least, most = tl.full([], low, DTYPE), tl.full([], high, DTYPE)
        moved = tl.where(moved < least, least, moved)
        moved = tl.where(moved > most, most, moved)
    tl.store(out + element, rounded(moved, out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["key", "count"])
def normal_kernel(
    out, state, key: tl.int64, count: tl.int64, STATE: tl.constexpr, VECTOR: tl.constexpr, BLOCK: tl.constexpr
):
    """Standard normals."""
    DTYPE: tl.constexpr = tl.float64 if out.dtype.element_ty == tl.float64 else tl.float32
    key, step = _source(state, key, STATE, False)
    group = _first_group(BLOCK)
    element = group * 4 + tl.arange(0, BLOCK)
    normal = normal_elements(key, step, group, BLOCK // 4, DTYPE)
    tl.store(out + element, rounded(normal, out.dtype.element_ty), mask=element < count * VECTOR)


@triton.jit(do_not_specialize=["key", "ratio_stride", "chains"])
def decide_kernel(
    log_ratio, ratio_stride, accepted, state, key: tl.int64, chains: tl.int64, STATE: tl.constexpr, BLOCK: tl.constexpr
):
    """log u < log_ratio for each chain, in float64."""
    key, step = _source(state, key, STATE, True)
    group = _first_group(BLOCK)
    chain = group * 4 + tl.arange(0, BLOCK)
    a, b, c, d = group_words(key, step, group + tl.arange(0, BLOCK // 4))
    log_u = log(uniforms(in_element_order(a, b, c, d)))
    ratio = tl.load(log_ratio + chain * ratio_stride, mask=chain < chains, other=0.0)
    tl.store(accepted + chain, log_u < ratio, mask=chain < chains)


@triton.jit(do_not_specialize=["length", "chains", "splits"])
def squares_kernel(
    grad, parts, length: tl.int64, chains: tl.int64, splits: tl.int64, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Sums of squares (3, chains, splits) in float64 of ROWS chains: of the middle numbers, the huge, and the tiny.

    Huge ones are scaled by 2⁻⁶⁰⁰ first and tiny ones by 2⁶⁰⁰, so that no square leaves the range (Blue 1978).
    """
    split = tl.program_id(0) % splits
    chain = (tl.program_id(0) // splits).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    middle = tl.zeros([ROWS, COLUMNS], tl.float64)
    huge = tl.zeros([ROWS, COLUMNS], tl.float64)
    tiny = tl.zeros([ROWS, COLUMNS], tl.float64)
    for first in range(split * COLUMNS, length, splits * COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        inside = (chain < chains)[:, None] & (column < length)[None, :]
        place = chain[:, None] * length + column[None, :]
        value = tl.load(grad + place, mask=inside, other=0.0).to(tl.float64)
        if grad.dtype.element_ty == tl.float64:
            is_huge, is_tiny = tl.abs(value) > 2.9073548971824276e135, tl.abs(value) < 3.872591914849318e-121
            scaled = value * tl.where(is_huge, 2.409919865102884e-181, tl.where(is_tiny, 4.149515568880993e180, 0.0))
            huge += tl.where(is_huge, scaled * scaled, 0.0)
            tiny += tl.where(is_tiny, scaled * scaled, 0.0)
            value = tl.where(is_huge | is_tiny, 0.0, value)
        middle += value * value
    at = chain * splits + split
    tl.store(parts + at, tl.sum(middle, axis=1), mask=chain < chains)
    tl.store(parts + chains * splits + at, tl.sum(huge, axis=1), mask=chain < chains)
    tl.store(parts + 2 * chains * splits + at, tl.sum(tiny, axis=1), mask=chain < chains)


@triton.jit
def _joined(parts, chain, inside, splits, BLOCK: tl.constexpr):
    total = tl.zeros([BLOCK], tl.float64)
    for split in range(splits):
        total += tl.load(parts + chain * splits + split, mask=inside, other=0.0)
    return total


@triton.jit(do_not_specialize=["chains", "splits"])
def factors_kernel(parts, factors, max_norm: tl.float64, chains: tl.int64, splits: tl.int64, BLOCK: tl.constexpr):
    """min(1, c / ‖g‖) of each chain, NaN where the norm is NaN or infinite."""
    chain = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = chain < chains
    middle = _joined(parts, chain, inside, splits, BLOCK)
    huge = _joined(parts + chains * splits, chain, inside, splits, BLOCK)
    tiny = _joined(parts + 2 * chains * splits, chain, inside, splits, BLOCK)
    large = huge + middle * 2.409919865102884e-181 * 2.409919865102884e-181
    small = middle + tiny * 2.409919865102884e-181 * 2.409919865102884e-181
    square = tl.where(huge > 0.0, large, tl.where((middle == 0.0) & (tiny > 0.0), tiny, small))
    scale = tl.where(huge > 0.0, 4.149515568880993e180, 1.0)
    scale = tl.where((huge == 0.0) & (middle == 0.0) & (tiny > 0.0), 2.409919865102884e-181, scale)
    relative = root(square)
    most = tl.full([], max_norm, tl.float64)
    factor = tl.where(scale * relative <= most, 1.0, most / scale / tl.where(relative == 0.0, 1.0, relative))
    factor = tl.where(relative <= 1.7976931348623157e308, factor, float("nan"))
    tl.store(factors + chain, factor.to(factors.dtype.element_ty), mask=inside)
