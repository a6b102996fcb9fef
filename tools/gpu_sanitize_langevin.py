"""The Langevin part of what compute-sanitizer watches; see ``gpu_sanitize.py``."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch

import cgm_kernels as ck
from cgm_kernels import langevin

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SHAPES = [(), (1,), (7,), (3, 5), (257, 3), (1000, 17), (4, 3, 33, 9), (2, 5000)]


def langevin_cases(device: str) -> Iterator[tuple[str, Callable[[], object]]]:
    """Steps in place and out of place, dense and strided, every bound; normals; acceptances; chains on every energy."""
    for dtype, shape in itertools.product(DTYPES, SHAPES):
        name = f"{str(dtype).removeprefix('torch.')} {shape}"
        yield f"langevin step {name}", lambda a=(device, dtype, shape): _steps(*a)
        yield f"acceptance {name}", lambda a=(device, dtype, shape): _acceptance(*a)
    for dtype, chains, dims in itertools.product((torch.float32, torch.float64), (1, 65, 300), (1, 2, 5, 40)):
        for energy in _energies(device, dtype, dims):
            name = f"{dtype} {chains} of {dims}, {type(energy).__name__}"
            yield f"langevin chain {name}", lambda a=(device, dtype, chains, dims, energy): _chain(*a)


def _points(device: str, dtype: torch.dtype, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device=device, dtype=dtype)


def _check(*values: torch.Tensor) -> None:
    if not all(bool(torch.isfinite(value).all()) for value in values):
        raise AssertionError(f"a value of {[tuple(value.shape) for value in values]} is not finite")


def _steps(device: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x, grad = _points(device, dtype, shape, 1), _points(device, dtype, shape, 2)
    state = langevin.noise_state(device=device)
    bounds = {"clamp": (-2.0, 2.0), "max_grad_norm": 0.5}
    found = [ck.langevin_step(x, grad, 0.1), ck.langevin_step(x, grad, 0.1, state=state, **bounds)]
    if shape:
        sizes = torch.full(shape[:1], 0.1, device=device)
        found.append(ck.langevin_step(x, grad, sizes, temperature=2 * sizes, state=state))
    if len(shape) > 1:
        found.append(ck.langevin_step(x.transpose(0, -1), grad.transpose(0, -1), 0.1, **bounds))
    found += [ck.langevin_step(x, grad, 0.1, state=state, out=x), ck.normal(shape, state=state, dtype=dtype)]
    _check(*found)


def _acceptance(device: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x, proposal = _points(device, dtype, shape, 1), _points(device, dtype, shape, 2)
    ratio = _points(device, torch.float32, shape[:1], 3)
    _check(ck.mala_accept(x, proposal, ratio)[0], ck.mala_accept(x, proposal, ratio.double())[0])


def _energies(device: str, dtype: torch.dtype, dims: int) -> Iterator[langevin.Energy]:
    means = _points(device, dtype, (3, dims), 4)
    mixture = langevin.GaussianMixtureEnergy(torch.ones(3, device=device, dtype=dtype), means, stds=0.7)
    precision = torch.eye(dims, device=device, dtype=dtype) + 0.1
    yield mixture
    yield langevin.GaussianEnergy(means[0], precision=precision)
    yield langevin.ProductEnergy(mixture, langevin.GaussianEnergy(means[1], std=1.5))
    for activation, widths in (("tanh", (dims, 1)), ("silu", (dims, 16, 1)), ("gelu", (dims, 70, 33, 1))):
        weights = [0.3 * _points(device, dtype, (b, a), a + b) for a, b in itertools.pairwise(widths)]
        yield langevin.MLPEnergy(weights, [None] * len(weights), activation=activation)


def _chain(device: str, dtype: torch.dtype, chains: int, dims: int, energy: langevin.Energy) -> None:
    x, state = _points(device, dtype, (chains, dims), 5), langevin.noise_state(device=device)
    _check(
        ck.langevin_chain(x, energy, 3, 0.01, state=state),
        ck.langevin_chain(x, energy, 2, 0.01, temperature=0.5, clamp=(-3.0, 3.0), max_grad_norm=1.0, state=state),
    )
