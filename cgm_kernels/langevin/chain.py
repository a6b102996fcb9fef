"""Many Langevin steps in one call, for energies whose gradient the kernels know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from .. import backends
from .._register import operator
from ..activations import ACTIVATIONS
from ..precision import outside_autocast
from . import chain_operators as chain_operators  # registers the operators
from . import chain_reference, checks
from .energies import Energy
from .op import _composed, _pair, normal
from .parameters import MixtureParameters, MlpParameters
from .state import check_source, noise_state

__all__ = ["langevin_chain"]

MOST_EXPERTS = 64  # as most_experts and most_layers in chain.h
MOST_LAYERS = 32


def langevin_chain(
    x: Tensor,
    energy: Energy,
    n_steps: int,
    step_size: Tensor | float,
    *,
    temperature: Tensor | float = 1.0,
    clamp: Sequence[float] | None = None,
    max_grad_norm: float | None = None,
    generator: Generator | None = None,
    state: Tensor | None = None,
) -> Tensor:
    """x after ``n_steps`` steps of unadjusted Langevin dynamics on p(x) ∝ exp(−f(x)/T), in one call:

        x ← x − h ∇f(x) + √(2hT) z

    with the noise of as many calls of :func:`langevin_step` that share one state: step k draws at (key, step + k). The
    steps are not adjusted: on N(0, s²) with T = 1 the variance settles at s² / (1 − h / (2 s²)). Source: Roberts and
    Tweedie 1996, "Exponential convergence of Langevin distributions and their discrete approximations".

    Where x, the step size, the temperature or a tensor of the energy requires grad (and grad mode is on), the steps are
    PyTorch arithmetic and every derivative is right, at PyTorch's price; sampling loops run under ``torch.no_grad()``.

    Args:
        x: (chains, *event), an event of ``energy.dims`` numbers; half precision is computed in float32 throughout.
        energy: f, a :class:`GaussianEnergy`, :class:`GaussianMixtureEnergy`, :class:`ProductEnergy` of those, or
            :class:`MLPEnergy`.
        n_steps: how many steps, 0 included.
        step_size, temperature: h and T, numbers or tensors () or (chains,).
        clamp: (low, high), within which x is kept after each step.
        max_grad_norm: c; each chain's gradient g becomes g·min(1, c/‖g‖), NaN where its norm is not finite.
        generator: a CPU generator that the key is drawn from, default torch's own; not with ``state``.
        state: an int64 tensor (2,), the key and the step, advanced by ``n_steps``; see ``noise_state``.

    Returns:
        x after the last step, in its dtype.

    Raises:
        TypeError, ValueError: naming the argument that has a wrong type, dtype, device, shape or value.
    """
    if not isinstance(energy, Energy):
        raise TypeError(
            "energy must be a GaussianEnergy, GaussianMixtureEnergy, ProductEnergy or MLPEnergy: got "
            f"{type(energy).__name__}; for any other energy use the samplers of cgm_models.sampling"
        )
    dynamics = {"temperature": temperature, "clamp": clamp, "max_grad_norm": max_grad_norm}
    return _chain(x, energy, n_steps, step_size, dynamics, generator, state)


@outside_autocast
def _chain(
    x: Tensor,
    energy: Energy,
    n_steps: int,
    step_size: Tensor | float,
    dynamics: dict[str, Any],
    generator: Generator | None,
    state: Tensor | None,
) -> Tensor:
    energy.check(x)
    n_steps = _steps(n_steps)
    dtype = checks.computed_in(x.dtype)
    h = checks.per_chain("step_size", step_size, x, dtype)
    temperature = checks.per_chain("temperature", dynamics["temperature"], x, dtype)
    limits = checks.norm_bound(dynamics["max_grad_norm"]), *checks.bounds(dynamics["clamp"])
    check_source(generator, state, "x", x.device)
    if state is None:
        state = noise_state(generator, x.device)
    flat, packed = x.reshape(len(x), energy.dims).to(dtype), energy.packed(dtype)
    backend = backends.select(x.device.type)
    if backend == "reference" or _composed(x, h, temperature, *energy.tensors()):
        found = chain_reference.chain(flat, packed, n_steps, h, temperature, *limits, state, _normal)
        found = found.clone() if n_steps == 0 else found
    else:
        with torch.no_grad():
            found = _fused(backend, flat, packed, (state, n_steps, *_pair(h), *_pair(temperature), *limits))
    return found.to(x.dtype).reshape(x.shape)


def _normal(shape: torch.Size, state: Tensor, dtype: torch.dtype) -> Tensor:
    return normal(shape, state=state, dtype=dtype)


def _steps(value: int) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"n_steps must be an int: got {type(value).__name__}")
    if value < 0:
        raise ValueError(f"n_steps must be at least 0: got {value}")
    return value


def _fused(backend: str, x: Tensor, energy: MixtureParameters | MlpParameters, dynamics: tuple[Any, ...]) -> Tensor:
    """The registered operator; see chain_operators.py for ``dynamics``."""
    if isinstance(energy, MixtureParameters):
        if len(energy.ends) > MOST_EXPERTS:
            raise ValueError(f"energy must have at most {MOST_EXPERTS} experts: got {len(energy.ends)}")
        return operator(backend, "langevin_chain_mixture")(x, *energy[:3], list(energy.ends), *dynamics)
    if len(energy.weights) > MOST_LAYERS:
        raise ValueError(f"energy must have at most {MOST_LAYERS} layers: got {len(energy.weights)}")
    packed = torch.cat([tensor.reshape(-1) for tensor in (*energy.weights, *energy.biases)])
    widths = [x.shape[1], *(len(weight) for weight in energy.weights)]
    activation = list(ACTIVATIONS).index(energy.activation)
    return operator(backend, "langevin_chain_mlp")(x, packed, widths, activation, energy.slope, *dynamics)
