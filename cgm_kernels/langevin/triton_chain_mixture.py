"""The Triton kernel of chains on mixtures of Gaussians. Imported only when one is launched: it needs triton."""

from __future__ import annotations

import triton
import triton.language as tl

from ..coupling.triton_math import exp
from .triton_chain_steps import moved, projection, step_of
from .triton_noise import normal_elements

ISOTROPIC = tl.constexpr(1)  # dimensions of the precisions
DIAGONAL = tl.constexpr(2)
FULL = tl.constexpr(3)


@triton.jit
def _logit(log_weight, form):
    """c − ½ q. Far from a component the form overflows: cut, so that the shares of an expert still have sum one."""
    half = -0.5 * form
    lowest: tl.constexpr = -1.7976931348623157e308 if form.dtype == tl.float64 else -3.4028234663852886e38
    return log_weight + tl.where(half < lowest, lowest, half)


@triton.jit
def _pull(
    x, component, means, precisions, differences, chain, there, d,
    KIND: tl.constexpr, BLOCK: tl.constexpr, D: tl.constexpr, TERMS: tl.constexpr,
):  # fmt: skip
    """P_k (x − μ_k) (BLOCK, D) and the quadratic form (BLOCK,)."""
    column = tl.arange(0, D)
    inside = column < d
    difference = x - tl.load(means + component * d + column, mask=inside, other=0.0)[None, :]
    if KIND == ISOTROPIC:
        pull = difference * tl.load(precisions + component)
    elif KIND == DIAGONAL:
        pull = difference * tl.load(precisions + component * d + column, mask=inside, other=0.0)[None, :]
    elif D <= 8:
        both = inside[:, None] & inside[None, :]
        place = precisions + component * d * d + column[:, None] * d + column[None, :]
        pull = tl.sum(tl.load(place, mask=both, other=0.0)[None, :, :] * difference[:, None, :], axis=2)
    else:
        # A product wants the differences by chunks of terms: through memory that this program alone touches.
        known = there[:, None] & inside[None, :]
        tl.debug_barrier()
        tl.store(differences + chain[:, None] * d + column[None, :], difference, mask=known)
        tl.debug_barrier()
        pull = tl.zeros([BLOCK, D], x.dtype)
        for first in range(0, d, TERMS):
            term = first + tl.arange(0, TERMS)
            values = tl.load(
                differences + chain[:, None] * d + term[None, :],
                mask=there[:, None] & (term < d)[None, :], other=0.0,
            )  # fmt: skip
            rows = precisions + component * d * d + term[:, None] * d + column[None, :]  # symmetric
            weights = tl.load(rows, mask=(term < d)[:, None] & inside[None, :], other=0.0)
            pull = tl.dot(values, weights, pull, input_precision="ieee", out_dtype=x.dtype)
    return pull, tl.sum(difference * pull, axis=1)


@triton.jit(do_not_specialize=["steps", "chains", "experts", "step_stride", "temperature_stride",
                               "step_bits", "temperature_bits", "norm_bits", "low_bits", "high_bits"])  # fmt: skip
def mixture_chain_kernel(
    x_in, out, log_weights, means, precisions, ends, differences, state, steps, step_sizes, step_stride, step_bits,
    temperatures, temperature_stride, temperature_bits, norm_bits, low_bits, high_bits, chains, d, experts,
    KIND: tl.constexpr, GIVEN_STEPS: tl.constexpr, GIVEN_TEMPERATURES: tl.constexpr, PROJECT: tl.constexpr,
    CLAMP: tl.constexpr, DENSE: tl.constexpr, BLOCK: tl.constexpr, D: tl.constexpr, TERMS: tl.constexpr,
):  # fmt: skip
    """Chains on Σ_e −log Σ_(k in e) exp(c_k − ½ q_k(x)), x (BLOCK, D) in registers; DENSE: D is d."""
    dtype: tl.constexpr = out.dtype.element_ty
    first = tl.program_id(0).to(tl.int64) * BLOCK
    chain, column = first + tl.arange(0, BLOCK), tl.arange(0, D)
    there, inside = chain < chains, column < d
    known = there[:, None] & inside[None, :]
    place = chain[:, None] * d + column[None, :]
    x = tl.load(x_in + place, mask=known, other=0.0)
    h, deviation = step_of(
        step_sizes, step_stride, step_bits, temperatures, temperature_stride, temperature_bits, chain, there,
        GIVEN_STEPS, GIVEN_TEMPERATURES, dtype,
    )  # fmt: skip
    key, start = tl.load(state), tl.load(state + 1)
    for step in range(steps):
        gradient = tl.zeros([BLOCK, D], dtype)
        component = 0
        for expert in range(experts):
            # Each component is seen once: what was summed before is scaled by what its share has lost.
            best = tl.full([BLOCK], float("-inf"), dtype)
            total = tl.zeros([BLOCK], dtype)
            weighted = tl.zeros([BLOCK, D], dtype)
            end = tl.load(ends + expert)
            for k in range(component, end):
                pull, form = _pull(
                    x, k, means, precisions, differences, chain, there, d, KIND, BLOCK, D, TERMS,
                )  # fmt: skip
                logit = _logit(tl.load(log_weights + k), form)
                higher = logit > best
                absent = logit == float("-inf")  # of weight 0
                finite = tl.where(absent, 0.0, logit)
                small = exp(tl.where(absent, 0.0, tl.where(higher, best - finite, finite - best)))
                kept = tl.where(higher, small, 1.0)
                added = tl.where(higher, 1.0, tl.where(absent, 0.0, small))
                best = tl.where(higher, logit, best)
                total = total * kept + added
                weighted = weighted * kept[:, None] + pull * added[:, None]
            gradient += weighted / total[:, None]
            component = end
        if PROJECT:
            largest = tl.max(tl.abs(gradient), axis=1)
            largest = tl.where(largest == 0.0, 1.0, largest)
            ratio = gradient / largest[:, None]
            gradient = gradient * projection(largest, tl.sqrt(tl.sum(ratio * ratio, axis=1)), norm_bits)[:, None]
        noise = normal_elements(key, start + step, first * d // 4, BLOCK * D // 4, dtype)
        if not DENSE:
            element = tl.where(inside[None, :], tl.arange(0, BLOCK)[:, None] * d + column[None, :], 0)
            noise = tl.gather(noise, tl.reshape(element, [BLOCK * D]), 0)
        noise = tl.reshape(noise, [BLOCK, D])
        x = moved(x, gradient, noise, h[:, None], deviation[:, None], low_bits, high_bits, CLAMP)
        x = tl.where(inside[None, :], x, 0.0)
    tl.store(out + place, x, mask=known)
