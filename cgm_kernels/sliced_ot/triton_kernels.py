"""The Triton kernels of sliced optimal transport. Imported only when one is launched: it needs triton.

A "row" is one one-dimensional problem: item b of the batch on direction l is row b·L + l. ``wasserstein_1d`` is the
case of one direction and no projection. Element k of a program's block is point k before a sort and rank k after it.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _load_row(points, point_stride, axis_stride, direction, direction_axis, n, d, PROJECT, BLOCK, BLOCK_D):
    """⟨x_k, θ⟩ of one cloud, or the points themselves; 0 beyond n. Sums of at most BLOCK_D products at a time."""
    k = tl.arange(0, BLOCK)
    rows = points + k.to(tl.int64) * point_stride
    if PROJECT:
        values = tl.zeros([BLOCK], points.dtype.element_ty)
        for start in range(0, d, BLOCK_D):
            axis = start + tl.arange(0, BLOCK_D)
            theta = tl.load(direction + axis.to(tl.int64) * direction_axis, mask=axis < d, other=0.0)
            inside = (k < n)[:, None] & (axis < d)[None, :]
            tile = tl.load(rows[:, None] + axis.to(tl.int64)[None, :] * axis_stride, mask=inside, other=0.0)
            values += tl.sum(tile * theta[None, :], axis=1)
    else:
        values = tl.load(rows, mask=k < n, other=0.0)
    return values + 0.0  # −0 becomes 0: ties are broken by the index alone


@triton.jit
def _poison(values, inside):
    """0, or NaN where a value is not finite: added to every result of the row."""
    finite = tl.abs(values) < float("inf")
    return tl.where(tl.min((finite | (inside == 0)).to(tl.int32), axis=0) == 1, 0.0, float("nan"))


@triton.jit
def _bitonic_sort(keys, STAGES, BLOCK):
    """The keys in ascending order, by 2^STAGES = BLOCK lanes that exchange with the lane k ^ 2^bit.

    A loop over one exchange, where ``tl.sort`` unrolls all of them: a 4096-point kernel compiles in half a second, not
    in minutes.
    """
    k = tl.arange(0, BLOCK)
    for stage in range(1, STAGES + 1):
        for step in range(1, stage + 1):
            bit = stage - step
            partner = tl.gather(keys, k ^ (1 << bit), 0)
            lower = ((k >> bit) & 1) == ((k >> stage) & 1)
            keys = tl.where(lower, tl.minimum(keys, partner), tl.maximum(keys, partner))
    return keys


@triton.jit
def _sorted(values, n, WITH_ORDER, STAGES, BLOCK):
    """The values in ascending order, 0 beyond n, and the point that each came from (only WITH_ORDER, float32 only).

    The integer that carries both has the order-preserving bits of the value above the index, so that all keys differ
    and the order is a permutation whatever the values are, NaN included.
    """
    k = tl.arange(0, BLOCK)
    if WITH_ORDER:
        bits = values.to(tl.int32, bitcast=True)
        key = bits ^ ((bits >> 31) & 0x7FFFFFFF)
        key = tl.where(k < n, key, 0x7FFFFFFF)
        packed = _bitonic_sort((key.to(tl.int64) << 32) | k.to(tl.int64), STAGES, BLOCK)
        order = packed.to(tl.int32)
        key = (packed >> 32).to(tl.int32)
        values = (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    else:
        order = k
        values = _bitonic_sort(tl.where(k < n, values, float("inf")), STAGES, BLOCK)
    return tl.where(k < n, values, 0.0), order


@triton.jit
def _power(base, exponent):
    """base^exponent in float64 for base >= 0 and exponent > 0, to a few ulp: 2^(exponent·(e + log2 m)), base = m·2^e.

    The integer part of the logarithm is kept apart: rounding exponent·log2(base) as a whole would cost |log2| ulp.
    """
    tiny = base < 7.888609052210118e-31  # 2^-100
    scaled = tl.where(tiny, base * 1.2676506002282294e30, base)
    bits = scaled.to(tl.int64, bitcast=True)
    mantissa = ((bits & 0xFFFFFFFFFFFFF) | 0x3FF0000000000000).to(tl.float64, bitcast=True)
    upper = mantissa > 1.4142135
    mantissa = tl.where(upper, mantissa * 0.5, mantissa)
    e = ((bits >> 52) - tl.where(tiny, 1123, 1023) + upper.to(tl.int64)).to(tl.float64)
    whole = exponent * e
    rest = tl.fma(e * 0.0 + exponent, e, -whole) + exponent * tl.log2(mantissa)
    nearest = tl.floor(whole + rest + 0.5)
    value = tl.exp2((whole - nearest) + rest) * tl.exp2(nearest)
    return tl.where(base == 0, 0.0, value)


@triton.jit
def _cost_and_slope(difference, p_bits, POWER):
    """|d|^p and its derivative; POWER is 1 or 2, or 0 for the p whose float64 bits are ``p_bits``."""
    size = tl.abs(difference)
    sign = (difference > 0).to(difference.dtype) - (difference < 0).to(difference.dtype)
    if POWER == 1:
        cost = size
        slope = sign
    elif POWER == 2:
        cost = difference * difference
        slope = difference + difference
    else:
        p = p_bits.to(tl.float64, bitcast=True)
        wide = size.to(tl.float64)
        lower = _power(wide, p - 1.0)
        cost = (wide * lower).to(difference.dtype)
        slope = (p * lower).to(difference.dtype) * sign
    return cost, slope


@triton.jit(do_not_specialize=["first_row", "n_directions", "n", "d", "p_bits"])
def paired_clouds_kernel(
    x, x_item, x_point, x_axis, y, y_item, y_point, y_axis, projections, direction_axis, direction_stride,
    x_coefficients, y_coefficients, costs, first_row, n_directions, n, d, p_bits,
    POWER: tl.constexpr, PROJECT: tl.constexpr, KEEP_X: tl.constexpr, KEEP_Y: tl.constexpr,
    STAGES: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Whole rows of equal sizes and uniform weights, one program each: project, sort, cost and coefficients."""
    row = tl.program_id(0)
    item = ((first_row + row) // n_directions).to(tl.int64)
    direction = projections + ((first_row + row) % n_directions).to(tl.int64) * direction_stride
    k = tl.arange(0, BLOCK)
    u = _load_row(x + item * x_item, x_point, x_axis, direction, direction_axis, n, d, PROJECT, BLOCK, BLOCK_D)
    v = _load_row(y + item * y_item, y_point, y_axis, direction, direction_axis, n, d, PROJECT, BLOCK, BLOCK_D)
    poison = _poison(u, k < n) + _poison(v, k < n)
    u, x_order = _sorted(u, n, KEEP_X, STAGES, BLOCK)
    v, y_order = _sorted(v, n, KEEP_Y, STAGES, BLOCK)
    cost, slope = _cost_and_slope(u - v, p_bits, POWER)
    share = 1.0 / n.to(tl.float64)
    tl.store(costs + row, tl.sum(cost, axis=0).to(tl.float64) * share + poison)
    coefficient = slope * share.to(slope.dtype) + poison.to(slope.dtype)
    begin = row.to(tl.int64) * n
    if KEEP_X:
        tl.store(x_coefficients + begin + x_order, coefficient, mask=k < n)
    if KEEP_Y:
        tl.store(y_coefficients + begin + y_order, -coefficient, mask=k < n)


@triton.jit(do_not_specialize=["first_row", "n_directions", "n", "d"])
def sort_rows_kernel(
    points, item_stride, point_stride, axis_stride, projections, direction_axis, direction_stride,
    weights, weights_item, weights_point, values, order, cumulative, poison, first_row, n_directions, n, d,
    PROJECT: tl.constexpr, WITH_ORDER: tl.constexpr, WEIGHTED: tl.constexpr,
    STAGES: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Project and sort rows of one cloud, one program each: values, their order, cumulative normalised weights."""
    row = tl.program_id(0)
    item = ((first_row + row) // n_directions).to(tl.int64)
    direction = projections + ((first_row + row) % n_directions).to(tl.int64) * direction_stride
    k = tl.arange(0, BLOCK)
    own = points + item * item_stride
    u = _load_row(own, point_stride, axis_stride, direction, direction_axis, n, d, PROJECT, BLOCK, BLOCK_D)
    bad = _poison(u, k < n)
    u, from_ = _sorted(u, n, WITH_ORDER, STAGES, BLOCK)
    begin = row.to(tl.int64) * n
    tl.store(values + begin + k, u, mask=k < n)
    if WITH_ORDER:
        tl.store(order + begin + k, from_, mask=k < n)
    if WEIGHTED:
        mass = weights + item * weights_item + from_.to(tl.int64) * weights_point
        mass = tl.load(mass, mask=k < n, other=0.0).to(tl.float64)
        peak = tl.max(mass, axis=0)
        running = tl.cumsum(mass / peak, axis=0)  # at most n: the sum of the raw weights may overflow
        total = tl.sum(tl.where(k == n - 1, running, 0.0), axis=0)
        valid = (peak < float("inf")) & (total >= 1) & (tl.min(mass, axis=0) >= 0)
        bad += tl.where(valid, 0.0, float("nan"))
        tl.store(cumulative + begin + k, running / total, mask=k < n)
    tl.store(poison + row, bad.to(u.dtype))


@triton.jit(do_not_specialize=["n", "p_bits"])
def paired_rows_kernel(
    x, y, x_order, y_order, x_poison, y_poison, x_coefficients, y_coefficients, partial_costs, n, blocks, p_bits,
    POWER: tl.constexpr, KEEP_X: tl.constexpr, KEEP_Y: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Rows of equal sizes and uniform weights that are sorted already; a program is BLOCK ranks of a row."""
    row = tl.program_id(0) // blocks
    begin = row.to(tl.int64) * n
    k = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = k < n
    difference = tl.load(x + begin + k, mask=inside, other=0.0) - tl.load(y + begin + k, mask=inside, other=0.0)
    cost, slope = _cost_and_slope(difference, p_bits, POWER)
    bad = tl.load(x_poison + row) + tl.load(y_poison + row)
    share = 1.0 / n.to(tl.float64)
    tl.store(partial_costs + tl.program_id(0), tl.sum(cost.to(tl.float64), axis=0) * share + bad)
    coefficient = slope * share.to(slope.dtype) + bad
    if KEEP_X:
        to = tl.load(x_order + begin + k, mask=inside, other=0)
        tl.store(x_coefficients + begin + to, coefficient, mask=inside)
    if KEEP_Y:
        to = tl.load(y_order + begin + k, mask=inside, other=0)
        tl.store(y_coefficients + begin + to, -coefficient, mask=inside)


@triton.jit
def _edge(cumulative, k, own, other, WEIGHTED, EXACT):
    """The right end of the mass of rank k, 0 for k = −1: in units of 1 / (own · other) when EXACT, else a float64."""
    if EXACT:
        edge = (k + 1).to(tl.int64) * other
    elif WEIGHTED:
        edge = tl.load(cumulative + k, mask=(k >= 0) & (k < own), other=0.0)
    else:
        edge = (k + 1).to(tl.float64) / own.to(tl.float64)
    return edge


@triton.jit
def _first_reaching(cumulative, edge, own, other, WEIGHTED, EXACT, STEPS):
    """The first rank whose mass ends at or beyond ``edge`` (the last rank if none does), by bisection."""
    low = own * 0
    high = own - 1
    for _ in range(STEPS):
        middle = (low + high) // 2
        reached = _edge(cumulative, middle, own, other, WEIGHTED, EXACT) >= edge
        high = tl.where(reached, middle, high)
        low = tl.where(reached, low, tl.minimum(middle + 1, high))
    return low


@triton.jit(do_not_specialize=["n", "m", "p_bits"])
def transport_rows_kernel(
    x, y, x_order, x_cumulative, y_cumulative, x_poison, y_poison, coefficients, partial_costs, n, m, blocks, p_bits,
    POWER: tl.constexpr, X_WEIGHTED: tl.constexpr, Y_WEIGHTED: tl.constexpr, KEEP: tl.constexpr, COST: tl.constexpr,
    STEPS: tl.constexpr, BLOCK: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Sorted rows of any sizes and weights; a program is BLOCK ranks of x against all the ranks of y that they meet.

    The mass that rank i of x sends to rank j of y is the overlap of their intervals of cumulative weight. Each program
    walks over the y that its block overlaps, in tiles, so that nothing is accumulated across programs. 2^STEPS >= m.
    """
    EXACT: tl.constexpr = not (X_WEIGHTED or Y_WEIGHTED)
    row = tl.program_id(0) // blocks
    first = (tl.program_id(0) % blocks) * BLOCK
    x_begin = row.to(tl.int64) * n
    y_begin = row.to(tl.int64) * m
    x_edges = x_cumulative + x_begin
    y_edges = y_cumulative + y_begin
    i = first + tl.arange(0, BLOCK)
    inside = i < n
    u = tl.load(x + x_begin + i, mask=inside, other=0.0)
    left = _edge(x_edges, i - 1, n, m, X_WEIGHTED, EXACT)[:, None]
    right = _edge(x_edges, i, n, m, X_WEIGHTED, EXACT)[:, None]
    last = tl.minimum(first + BLOCK, n) - 1
    from_ = _first_reaching(y_edges, _edge(x_edges, first - 1, n, m, X_WEIGHTED, EXACT), m, n, Y_WEIGHTED, EXACT, STEPS)
    to = _first_reaching(y_edges, _edge(x_edges, last, n, m, X_WEIGHTED, EXACT), m, n, Y_WEIGHTED, EXACT, STEPS)
    cost_sum = tl.zeros([BLOCK, BLOCK_M], tl.float64)
    slope_sum = tl.zeros([BLOCK, BLOCK_M], tl.float64)
    for start in range(from_, to + 1, BLOCK_M):
        j = start + tl.arange(0, BLOCK_M)
        v = tl.load(y + y_begin + j, mask=j < m, other=0.0)
        begin = _edge(y_edges, j - 1, m, n, Y_WEIGHTED, EXACT)[None, :]
        end = _edge(y_edges, j, m, n, Y_WEIGHTED, EXACT)[None, :]
        overlap = tl.minimum(right, end) - tl.maximum(left, begin)
        meets = (overlap > 0) & inside[:, None] & (j < m)[None, :]
        mass = tl.where(meets, overlap, 0).to(tl.float64)
        cost, slope = _cost_and_slope(u[:, None] - v[None, :], p_bits, POWER)
        if COST:
            cost_sum += tl.where(meets, mass * cost.to(tl.float64), 0.0)
        if KEEP:
            slope_sum += tl.where(meets, mass * slope.to(tl.float64), 0.0)
    unit = 1.0 / (n.to(tl.float64) * m.to(tl.float64)) if EXACT else 1.0
    bad = tl.load(x_poison + row).to(tl.float64) + tl.load(y_poison + row).to(tl.float64)
    if COST:
        tl.store(partial_costs + tl.program_id(0), tl.sum(tl.sum(cost_sum, axis=1), axis=0) * unit + bad)
    if KEEP:
        coefficient = (tl.sum(slope_sum, axis=1) * unit + bad).to(u.dtype)
        order = tl.load(x_order + x_begin + i, mask=inside, other=0)
        tl.store(coefficients + x_begin + order, coefficient, mask=inside)
