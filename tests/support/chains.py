"""Energies for tests of Langevin chains, and the chain by its definition."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import cgm_kernels
from cgm_kernels.activations import ACTIVATIONS
from cgm_kernels.langevin import Energy, GaussianEnergy, GaussianMixtureEnergy, MLPEnergy, ProductEnergy
from cgm_kernels.philox import normal_reference
from tests.support.backends import fused, running

RUNNING, FUSED = (
    [pytest.param(*pair.values[0], id=pair.id, marks=pair.marks) for pair in pairs] for pairs in (running(), fused())
)
CPU_NATIVE = pytest.mark.skipif(bool(cgm_kernels.backends.absence("native", "cpu")), reason="no native backend")
STEP = 0.02


class Draw:
    """Random tensors from a seed, in the dtype and on the device that a test asks for."""

    def __init__(self, dtype: torch.dtype = torch.float64, device: str = "cpu", seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.dtype, self.device = dtype, device

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64).to(self.device, self.dtype)

    def positive(self, *shape: int) -> Tensor:
        uniform = torch.rand(shape, generator=self.generator, dtype=torch.float64)
        return (0.5 + uniform).to(self.device, self.dtype)

    def covariance(self, *shape: int) -> Tensor:
        root = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        return (root @ root.mT / shape[-1] + 0.3 * torch.eye(shape[-1])).to(self.device, self.dtype)


def gaussian(draw: Draw, dims: int, spread: str) -> GaussianEnergy:
    given = {
        "isotropic": lambda: {"std": 0.7},
        "diagonal": lambda: {"std": draw.positive(dims)},
        "full": lambda: {"covariance": draw.covariance(dims, dims)},
        "precision": lambda: {"precision": draw.covariance(dims, dims)},
    }
    return GaussianEnergy(draw.normal(dims), **given[spread]())


def mixture(draw: Draw, dims: int, n_components: int, spread: str) -> GaussianMixtureEnergy:
    given = {
        "one": lambda: {"stds": 0.7},
        "isotropic": lambda: {"stds": draw.positive(n_components)},
        "diagonal": lambda: {"stds": draw.positive(n_components, dims)},
        "full": lambda: {"covariances": draw.covariance(n_components, dims, dims)},
        "shared": lambda: {"covariances": draw.covariance(dims, dims)},
        "precision": lambda: {"precisions": draw.covariance(n_components, dims, dims)},
    }
    return GaussianMixtureEnergy(draw.positive(n_components), 2 * draw.normal(n_components, dims), **given[spread]())


def product(draw: Draw, dims: int) -> ProductEnergy:
    return gaussian(draw, dims, "isotropic") + mixture(draw, dims, 3, "isotropic") + mixture(draw, dims, 2, "diagonal")


def network(draw: Draw, dims: int, hidden: tuple[int, ...], activation: str = "silu", slope: float = 0.01) -> MLPEnergy:
    widths = (dims, *hidden, 1)
    weights = [draw.normal(out, into) / math.sqrt(into) for into, out in itertools.pairwise(widths)]
    biases = [None if number == 1 else draw.normal(out) for number, out in enumerate(widths[1:])]
    return MLPEnergy(weights, biases, activation=activation, slope=slope)


GAUSSIANS = ((1, "isotropic"), (2, "diagonal"), (3, "full"), (5, "precision"), (40, "full"))
MIXTURES = (
    *((1, 3, "isotropic"), (2, 8, "one"), (2, 5, "diagonal"), (2, 4, "full"), (3, 2, "shared"), (3, 7, "isotropic")),
    *((4, 3, "isotropic"), (7, 4, "diagonal"), (6, 3, "precision"), (50, 2, "one")),
)

# name: (dims, function of a Draw)
ENERGIES: dict[str, tuple[int, Callable[[Draw], Energy]]] = {
    **{f"gaussian-{spread}-{dims}": (dims, partial(gaussian, dims=dims, spread=spread)) for dims, spread in GAUSSIANS},
    **{
        f"mixture-{spread}-{dims}": (dims, partial(mixture, dims=dims, n_components=n, spread=spread))
        for dims, n, spread in MIXTURES
    },
    **{f"product-{dims}": (dims, partial(product, dims=dims)) for dims in (1, 2, 5)},
    "product-full": (3, lambda draw: product(draw, 3) + mixture(draw, 3, 2, "full") + gaussian(draw, 3, "precision")),
    **{
        f"network-{name}": (2, partial(network, dims=2, hidden=(16, 9), activation=name, slope=0.2))
        for name in ACTIVATIONS
    },
    "network-linear": (3, partial(network, dims=3, hidden=())),
    "network-shallow": (1, partial(network, dims=1, hidden=(5,))),
    "network-deep": (7, partial(network, dims=7, hidden=(33, 16, 20, 8), activation="tanh")),
    "network-wide": (20, partial(network, dims=20, hidden=(130, 70), activation="softplus")),
}


def made(name: str, dtype: torch.dtype = torch.float64, device: str = "cpu", chains: int = 37) -> tuple[Energy, Tensor]:
    """The energy of that name, and points to begin at."""
    dims, make = ENERGIES[name]
    return make(Draw(dtype, device)), 1.5 * Draw(dtype, device, seed=1).normal(chains, dims)


def state_of(device: str = "cpu", key: int = -5, step: int = 7) -> Tensor:
    return torch.tensor([key, step], device=device)


def run(backend: str, *arguments: Any, **options: Any) -> Tensor:
    """``langevin_chain`` on a backend."""
    with cgm_kernels.use_backend(backend):
        return cgm_kernels.langevin_chain(*arguments, **options)


def by_definition(
    x: Tensor, energy: Energy, n_steps: int, step_size: Tensor | float, state: Tensor, temperature: Tensor | float = 1.0
) -> Tensor:
    """x ← x − h ∇f(x) + √(2hT) z with autograd's gradient of the energy, in the dtype of x; the state is left alone."""
    h, temperature = (torch.as_tensor(v, dtype=x.dtype, device=x.device) for v in (step_size, temperature))
    h, temperature = (v.reshape(-1, *[1] * (x.dim() - 1)) if v.dim() else v for v in (h, temperature))
    key, step = state.tolist()
    for k in range(n_steps):
        point = x.detach().requires_grad_()
        (grad,) = torch.autograd.grad(energy(point).sum(), point)
        noise = normal_reference(x.shape, key, step + k, dtype=torch.float64, device=x.device).to(x.dtype)
        x = x - h * grad + (2 * h * temperature).sqrt() * noise
    return x
