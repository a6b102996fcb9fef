"""What a sampler samples: the energy of positions and its gradient, whatever they come from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from cgm_kernels.langevin.energies import Energy


class HasLogProb(Protocol):
    """A law with a density: a flow, a ``Density2D``, a distribution of torch."""

    def log_prob(self, value: Tensor, /) -> Tensor: ...


class HasEnergy(Protocol):
    """An energy-based model."""

    def energy(self, x: Tensor, /) -> Tensor: ...


class EnergyGradient:
    """∇E alone, where E itself is not known: minus a score network, or the gradient of a minibatch.

    Samplers that accept or reject need E, and refuse it; the ``energies`` of the others' samples are then NaN.

    Args:
        function: (chains, *event) -> the same shape, given the context as second argument where there is one.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        if not callable(function):
            raise TypeError(f"function must be callable: got {type(function).__name__}")
        self.function = function


EnergyLike = Callable[..., Tensor] | HasEnergy | HasLogProb | Energy | EnergyGradient


class Target:
    """E and ∇E at positions (chains, *event); p(x) ∝ exp(−E(x)).

    Args:
        energy: one of

            - a callable x -> (chains,), whose gradient autograd takes;
            - an object with a method ``energy``, as an energy-based model;
            - an object with a method ``log_prob``, as any model with a density: E = −log p;
            - an energy of ``cgm_kernels.langevin.energies``, whose gradient is in closed form;
            - an ``EnergyGradient``.
        context: given to the energy as second argument: one for all chains, or one row a chain.
        replicas: how many times over the rows of a context are needed.
    """

    def __init__(self, energy: EnergyLike, context: Tensor | None = None, *, replicas: int = 1) -> None:
        self.energy = energy
        self.has_energy = not isinstance(energy, EnergyGradient)
        self.closed_form = energy if isinstance(energy, Energy) else None
        if self.closed_form is not None and context is not None:
            raise ValueError(f"context must be None: a {type(energy).__name__} has none")
        self._function = _function(energy)
        self._context = () if context is None else (_repeated(context, replicas),)

    def evaluate(self, x: Tensor, **conditions: float) -> tuple[Tensor, Tensor]:
        """``(E (chains,), ∇E (chains, *event))``; the conditions go to the energy as keywords.

        E has the dtype of x, or what the energy returned if that is wider.
        """
        if not self.has_energy:
            return x.new_full((len(x),), math.nan), self._known_gradient(x, conditions)
        if self.closed_form is not None:
            return self._checked(self.closed_form(x), x), self.gradient(x, **conditions)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            energy = self._checked(self._function(x, *self._context, **conditions), x)
            gradient = None
            if energy.requires_grad:
                (gradient,) = torch.autograd.grad(energy.sum(), x, allow_unused=True)
        if gradient is None:
            raise ValueError("energy must depend on x through differentiable operations: autograd finds no gradient")
        return energy.detach().to(torch.promote_types(energy.dtype, x.dtype)), gradient

    def gradient(self, x: Tensor, **conditions: float) -> Tensor:
        """∇E alone, where that is cheaper."""
        if self.closed_form is None:
            return self.evaluate(x, **conditions)[1]
        if conditions:
            raise TypeError(f"energy must take {', '.join(conditions)}: a {type(self.energy).__name__} does not")
        return self.closed_form.gradient(x)

    def _known_gradient(self, x: Tensor, conditions: dict[str, float]) -> Tensor:
        gradient = self._function(x, *self._context, **conditions)
        if not isinstance(gradient, Tensor) or gradient.shape != x.shape:
            got = tuple(gradient.shape) if isinstance(gradient, Tensor) else type(gradient).__name__
            raise ValueError(f"energy must give a gradient of the shape of x, {tuple(x.shape)}: got {got}")
        return gradient.detach().to(x.dtype)

    def _checked(self, energy: Any, x: Tensor) -> Tensor:
        if not isinstance(energy, Tensor):
            raise TypeError(f"energy must return a tensor: got {type(energy).__name__}")
        if energy.shape != (len(x),) or not energy.is_floating_point():
            raise ValueError(
                f"energy must return one number a chain, ({len(x)},) for x of shape {tuple(x.shape)}: "
                f"got {energy.dtype} of shape {tuple(energy.shape)}"
            )
        return energy


@contextmanager
def unguarded(energy: EnergyLike) -> Iterator[None]:
    """Inside, a flow gives what is not finite instead of raising an error.

    A proposal out there is to be rejected, and looking for it would make every step wait for the device.
    """
    if getattr(energy, "check_finite", False) is not True:
        yield
        return
    energy.check_finite = False  # type: ignore[union-attr]
    try:
        yield
    finally:
        energy.check_finite = True  # type: ignore[union-attr]


def _function(energy: Any) -> Callable[..., Tensor]:
    if isinstance(energy, EnergyGradient):
        return energy.function
    if isinstance(energy, Energy):
        return energy
    if callable(own := getattr(energy, "energy", None)):
        return own
    if callable(log_prob := getattr(energy, "log_prob", None)):
        return lambda x, *context, **conditions: -log_prob(x, *context, **conditions)
    if callable(energy):
        return energy
    raise TypeError(
        "energy must be a callable x -> (chains,), a model with energy or log_prob, an energy of "
        f"cgm_kernels.langevin or an EnergyGradient: got {type(energy).__name__}"
    )


def _repeated(context: Tensor, replicas: int) -> Tensor:
    """The rows over and over; () or a vector of features holds for all chains as it is."""
    if not isinstance(context, Tensor):
        raise TypeError(f"context must be a Tensor: got {type(context).__name__}")
    if context.ndim == 0 or (context.ndim == 1 and context.is_floating_point()):
        return context
    return context.repeat(replicas, *[1] * (context.ndim - 1))
