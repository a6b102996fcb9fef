"""Langevin dynamics: x′ = x − h·g + √(2hT)·z in one pass, with the noise z drawn inside the kernel.

Sources: Rossky, Doll & Friedman 1978, "Brownian dynamics as smart Monte Carlo simulation"; Roberts & Tweedie 1996,
"Exponential convergence of Langevin distributions and their discrete approximations" (ULA and MALA).

Noise (:mod:`cgm_kernels.philox`): the word of an element is a pure function of key, step and the element's row-major
index, so that one seed gives the same bits on every backend and for any number of threads, any strides and any dtype,
and the same normals to a few units in the last place. A call draws its key from ``generator``, a CPU generator whatever
the device (default: torch's, which ``torch.manual_seed`` seeds), and uses step 0; or it is given a ``state``, an int64
tensor (2,) = (key, step) on x's device (:func:`cgm_kernels.langevin.noise_state` makes one), of which the step is
advanced by 1, on the device. Loops that CUDA graphs capture give a state.

Half precision is computed in float32, under autocast too. NaN and infinities propagate as in the formula, within their
element. Where a gradient is wanted the arithmetic is PyTorch's over the same noise, differentiable to any order and in
forward mode; under ``torch.func.vmap`` all samples share the noise of the call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from .. import backends
from .._derivatives import has_tangent
from .._extension import _C
from .._register import operator
from ..philox import draw_key
from . import (
    checks,
    operators,  # noqa: F401  it registers them
    reference,
)
from . import state as states

__all__ = ["langevin_step", "mala_accept", "normal"]

_UNBOUNDED = (-math.inf, math.inf)
_IS_BATCHED = getattr(torch._C._functorch, "is_batchedtensor", lambda value: False)  # a private name, as it is now


def langevin_step(
    x: Tensor,
    grad: Tensor,
    step_size: Tensor | float,
    *,
    temperature: Tensor | float = 1.0,
    clamp: tuple[float, float] | None = None,
    max_grad_norm: float | None = None,
    generator: Generator | None = None,
    state: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """x′ = clamp(x − h·ĝ + √(2hT)·z), ĝ = g·min(1, c/‖g‖), z standard normal: one step of Langevin dynamics.

    Args:
        x: (chains, …), any shape; a tensor () is one chain.
        grad: g, the gradient of the energy at x, of the shape of x.
        step_size: h, a number that is not negative, or a tensor () or (chains,), of which the values are not looked at:
            a negative one gives NaN.
        temperature: T, likewise; 0 is gradient descent.
        clamp: (low, high), applied last; either may be infinite.
        max_grad_norm: c, positive; ‖g‖ is the norm over all but the first dimension. A chain whose norm is NaN or
            infinite becomes NaN as a whole.
        generator: a CPU generator, from which the call draws its key; excludes ``state``.
        state: (key, step), int64 (2,) on x's device; the step is advanced by 1.
        out: where to write x′: of its shape, dtype and device, any strides; x itself (in place), grad or any other.

    Returns:
        x′ of the shape of x, of the dtype to which x and grad promote; ``out`` where it is given. Differentiable in x,
        grad, step_size and temperature, not where ``out`` is given.

    Raises:
        TypeError, ValueError: naming the argument that has a wrong type, dtype, device, shape or value.
    """
    if _fast(x):
        sizes, size = (step_size, 0.0) if isinstance(step_size, Tensor) else (None, step_size)
        kts, kt = (temperature, 0.0) if isinstance(temperature, Tensor) else (None, temperature)
        try:
            low, high = _UNBOUNDED if clamp is None else clamp
            bound = math.inf if max_grad_norm is None else max_grad_norm
            if bool not in map(type, (size, kt, bound, low, high)):
                done = _C.langevin_step(x, grad, sizes, size, kts, kt, bound, low, high, generator, state, out)
                if done is not None:
                    return done
        except (TypeError, ValueError):  # an argument of a wrong type: said better below
            pass
    return _checked_step(x, grad, step_size, temperature, clamp, max_grad_norm, generator, state, out)


def _checked_step(
    x: Tensor,
    grad: Tensor,
    step_size: Tensor | float,
    temperature: Tensor | float,
    clamp: tuple[float, float] | None,
    max_grad_norm: float | None,
    generator: Generator | None,
    state: Tensor | None,
    out: Tensor | None,
) -> Tensor:
    promoted = checks.together(x=x, grad=grad)
    dtype = checks.computed_in(promoted)
    h = checks.per_chain("step_size", step_size, x, dtype)
    kt = checks.per_chain("temperature", temperature, x, dtype)
    limits = (checks.norm_bound(max_grad_norm), *checks.bounds(clamp))
    states.check_source(generator, state, "x", x.device)
    if out is not None:
        checks.out(out, x, promoted)
    backend = backends.select(x.device.type)
    if _composed(x, grad, h, kt):
        if out is not None:
            why = "where a gradient is wanted: detach the inputs or use torch.no_grad()"
            raise ValueError(f"out must be None {why if _differentiated(x, grad, h, kt) else 'under torch.func.vmap'}")
        noise = _normal(torch.empty(x.shape, dtype=dtype, device=x.device), backend, generator, state)
        return reference.step(x.to(dtype), grad.to(dtype), noise, h, kt, *limits).to(promoted)
    if out is not None and _differentiated(out):
        raise ValueError("out must not require grad: detach it or use torch.no_grad()")
    if backend == "reference":
        noise = reference.normal(x.shape, _state(generator, state, x.device), dtype)
        found = reference.step(x.to(dtype), grad.to(dtype), noise, h, kt, *limits).to(promoted)
        return found.contiguous() if out is None else out.copy_(found)
    held = checks.held_in(promoted, backend, x.device.type)
    arguments = (x.to(held), grad.to(held), *_source(generator, state, x.device), *_pair(h), *_pair(kt), *limits)
    if out is not None and held is promoted and not _negates(out):
        operator(backend, "langevin_step_out")(*arguments, out)
        return out
    found = operator(backend, "langevin_step")(*arguments).to(promoted)
    return found if out is None else out.copy_(found)


def normal(
    shape: int | Sequence[int],
    *,
    generator: Generator | None = None,
    state: Tensor | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Standard normals: the very noise of :func:`langevin_step` for x of this shape, key and step.

    Args:
        shape: an int or a sequence of ints.
        generator, state: as in :func:`langevin_step`.
        dtype: a float dtype, default torch's; half precision is computed in float32 and rounded.
        device: default: that of ``state``, else torch's default device.

    Raises:
        TypeError, ValueError: naming the argument.
    """
    sizes, dtype = checks.shape(shape), checks.float_dtype(dtype)
    if device is None and isinstance(state, Tensor):
        device = state.device
    noise = torch.empty(sizes, dtype=dtype, device=device)
    states.check_source(generator, state, "the result", noise.device)
    if _fast(noise):
        try:
            if _C.langevin_normal(noise, generator, state):
                return noise
        except TypeError:  # an argument of a wrong type: said better below
            pass
    return _normal(noise, backends.select(noise.device.type), generator, state)


def mala_accept(
    x: Tensor,
    proposal: Tensor,
    log_ratio: Tensor,
    *,
    generator: Generator | None = None,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The acceptance of Metropolis, chain by chain: the proposal where log u < log_ratio, u uniform on (0, 1), else x.

    The uniforms of a step are other words than its normals (the step's top bit is set), so that a step and its
    acceptance may use the same key and step. log u is taken in float64.

    Args:
        x: (chains, …), or () for one chain; proposal: of the shape of x.
        log_ratio: (chains,), log of π(x′)q(x|x′) / π(x)q(x′|x), π the target and q the proposal's density; NaN rejects.
        generator, state: as in :func:`langevin_step`.

    Returns:
        x_next of the shape of x, of the dtype to which x and proposal promote, differentiable in both; and which chains
        accepted, bool of the shape of ``log_ratio``.

    Raises:
        TypeError, ValueError: naming the argument that has a wrong type, dtype, device or shape.
    """
    if _fast(x):
        try:
            done = _C.langevin_accept(x, proposal, log_ratio, generator, state)
        except TypeError:  # an argument of a wrong type: said better below
            done = None
        if done is not None:
            return done
    promoted = checks.together(x=x, proposal=proposal)
    checks.log_ratio(log_ratio, x)
    states.check_source(generator, state, "x", x.device)
    backend = backends.select(x.device.type)
    ratio = log_ratio.detach().double()
    old, new = x.to(promoted), proposal.to(promoted)
    if backend == "reference" or _batched(x, proposal, log_ratio):
        return reference.mala_accept(old, new, ratio, _state(generator, state, x.device))
    accept, source = operator(backend, "mala_accept"), _source(generator, state, x.device)
    if _differentiated(x, proposal):
        nothing = torch.empty((*x.shape[:1], 0), dtype=torch.float32, device=x.device)
        accepted = accept(nothing, nothing, ratio, *source)[1]
        return reference.choose(accepted, old, new), accepted
    held = checks.held_in(promoted, backend, x.device.type)
    chosen, accepted = accept(old.to(held), new.to(held), ratio, *source)
    return chosen.to(promoted), accepted


def _fast(x: Tensor) -> bool:
    """Whether C++ may try: it looks at the arguments again, and hands back what is wrong or needs the dispatcher."""
    return isinstance(x, Tensor) and not torch.compiler.is_compiling() and backends.select(x.device.type) == "native"


def _normal(noise: Tensor, backend: str, generator: Generator | None, state: Tensor | None) -> Tensor:
    """Standard normals of the shape, dtype and device of ``noise``, which may be filled with them."""
    if backend == "reference":
        dtype = checks.computed_in(noise.dtype)
        return reference.normal(noise.shape, _state(generator, state, noise.device), dtype).to(noise.dtype)
    filled = noise.to(checks.held_in(noise.dtype, backend, noise.device.type))
    operator(backend, "normal_fill")(filled, *_source(generator, state, noise.device))
    return filled.to(noise.dtype)


def _state(generator: Generator | None, state: Tensor | None, device: torch.device) -> Tensor:
    return states.noise_state(generator, device) if state is None else state


def _source(generator: Generator | None, state: Tensor | None, device: torch.device) -> tuple[Tensor | None, int]:
    """The state, or None and a key; a traced graph draws its key anew at every run, into a state."""
    if state is not None or torch.compiler.is_compiling():
        return _state(generator, state, device), 0
    return None, draw_key(generator)


def _pair(value: Tensor | float) -> tuple[Tensor | None, float]:
    return (value, 0.0) if isinstance(value, Tensor) else (None, value)


def _composed(*values: Tensor | float) -> bool:
    """Whether the arithmetic is to be PyTorch's: for a derivative, or because the operators take no batched samples."""
    return _differentiated(*values) or _batched(*values)


def _batched(*values: Tensor | float) -> bool:
    """Whether one of them holds the samples of ``torch.func.vmap``, which the operators have no rule for.

    A compiled graph does not tell its transforms apart, of which the operators would drop the tangents: any will do.
    """
    if torch.compiler.is_compiling():
        return torch._C._are_functorch_transforms_active()
    return any(isinstance(value, Tensor) and _IS_BATCHED(value) for value in values)


def _negates(out: Tensor) -> bool:
    """Whether ``out`` is a view of negated values, which PyTorch cannot hand to an operator that writes to it."""
    return not torch.compiler.is_compiling() and out.is_neg()


def _differentiated(*values: Tensor | float) -> bool:
    """Whether a derivative is wanted by one of them, backward or forward."""
    if torch.is_grad_enabled() and any(isinstance(value, Tensor) and value.requires_grad for value in values):
        return True
    return not torch.compiler.is_compiling() and has_tangent(*values)
