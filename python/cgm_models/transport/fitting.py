"""Fitting the sliced-Wasserstein flow: particles, tables, interruption and resumption."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Generator, Tensor

from cgm_kernels import random_projections, sliced_wasserstein_distance

from ..inputs import class_data
from ..training.progress import progress_bar
from .directions import patch_projections, patch_size
from .quantiles import merge_ties, move, quantile_table

if TYPE_CHECKING:
    from .flow import SlicedWassersteinFlow

FIT_STATE = ("location", "scale", "directions", "source_quantiles", "target_quantiles", "particles")
_LOGGED = 50
_LOG_DIRECTIONS = 64

Log = Callable[[dict[str, Any]], None]


class _Data(NamedTuple):
    """The standardised data, one tensor (n_c, d) a class, and the numbers that standardise."""

    classes: list[Tensor]
    location: Tensor
    scale: Tensor


@torch.no_grad()
def fit_flow(
    model: SlicedWassersteinFlow,
    x: Tensor,
    context: Tensor | None,
    *,
    base: Tensor | None,
    generator: Generator | None,
    resume: bool,
    progress: bool,
    log: Log | None,
) -> None:
    """See :meth:`SlicedWassersteinFlow.fit`; until the end the model stays as it was."""
    labels = class_data(model, x, context)
    resume = resume and model.n_fitted > 0
    if resume and model.n_fitted == model.n_steps:
        return
    if resume and x.dtype != model.location.dtype:
        raise TypeError(f"x must be {model.location.dtype}, as in the fit to resume: got {x.dtype}")
    data = _standardised(model, x.detach().to(model.location.device), labels, resume)
    if resume:
        seed, start, particles = int(model.fit_seed), model.n_fitted, model.particles
    else:
        seed, start = int(torch.randint(2**31, (), generator=generator)), 0
        particles = _first_particles(model, base, data, seed)
    tables = _allocate(model, particles)
    for name, table in tables.items():
        table[:start] = getattr(model, name)[:start]
    done, particles = _run(model, data, particles, tables, seed, start, progress, log)
    _keep(model, data, particles, tables, seed, done)


def _run(
    model: SlicedWassersteinFlow,
    data: _Data,
    particles: Tensor,
    tables: dict[str, Tensor],
    seed: int,
    start: int,
    progress: bool,
    log: Log | None,
) -> tuple[int, Tensor]:
    """Fit the steps from ``start`` on; (how many there are now, where the particles stand)."""
    state = (start, particles)
    began = time.perf_counter()
    every = max(1, model.n_steps // _LOGGED)
    try:
        with progress_bar("fit", model.n_steps, done=start, show=progress) as advance:
            for k in range(start, model.n_steps + 1):
                shown = {}
                if (progress or log) and (k % every == 0 or k == model.n_steps):
                    shown["sliced_wasserstein"] = _distance_left(model, data, state[1])
                    if log:
                        log({"step": k, **shown, "seconds": round(time.perf_counter() - began, 3)})
                if k < model.n_steps:
                    state = (k + 1, _step(model, data, state[1], tables, seed, k))
                    advance(**shown)
    except KeyboardInterrupt:
        pass  # what is whole is kept; status() tells
    return state


def _step(
    model: SlicedWassersteinFlow, data: _Data, particles: Tensor, tables: dict[str, Tensor], seed: int, k: int
) -> Tensor:
    """Fill the tables of step k; the moved particles."""
    # A generator of its own for every step, so that a resumed fit draws what an undisturbed one draws.
    generator = torch.Generator().manual_seed(seed + k)
    directions = _draw_directions(model, k, generator, particles)
    tables["directions"][k] = directions
    moved = torch.empty_like(particles)
    for label, points in enumerate(data.classes):
        if not len(points):
            moved[label] = particles[label]
            continue
        size = model.batch_size
        if size is not None and size < len(points):
            points = points[torch.randperm(len(points), generator=generator)[:size].to(points.device)]
        source = quantile_table((particles[label] @ directions).T, model.n_quantiles)
        target = merge_ties(source, quantile_table((points @ directions).T, model.n_quantiles))
        tables["source_quantiles"][k, label], tables["target_quantiles"][k, label] = source, target
        moved[label] = move(particles[label], directions, source, target, model.step_size)
    if model.regularization:
        scale = math.sqrt(2.0 * model.regularization * model.step_size)
        moved += scale * torch.randn(moved.shape, generator=generator, dtype=moved.dtype).to(moved.device)
    return moved


def _draw_directions(model: SlicedWassersteinFlow, k: int, generator: Generator, like: Tensor) -> Tensor:
    n = model.n_projections
    patch = patch_size(k, model.n_steps, model.patch_sizes, model.global_fraction)
    if patch:
        channels, height, width = model.event_shape
        image = (channels, height, width)
        return patch_projections(image, patch, n, generator=generator, dtype=like.dtype).to(like.device)
    return random_projections(
        model.dim, n, orthogonal=model.orthogonal, generator=generator, dtype=like.dtype, device=like.device
    )


def _distance_left(model: SlicedWassersteinFlow, data: _Data, particles: Tensor) -> float:
    """The sliced-Wasserstein distance from particles to data in the data's units, averaged over the classes as W₂²."""
    generator = torch.Generator().manual_seed(0)
    directions = random_projections(
        model.dim, _LOG_DIRECTIONS, generator=generator, dtype=particles.dtype, device=particles.device
    )
    total = sum(len(points) for points in data.classes)
    squares = [
        len(points) / total * float(sliced_wasserstein_distance(cloud, points, projections=directions)) ** 2
        for cloud, points in zip(particles, data.classes, strict=True)
        if len(points)
    ]
    return math.sqrt(sum(squares)) * float(data.scale)


def _standardised(model: SlicedWassersteinFlow, x: Tensor, labels: Tensor | None, resume: bool) -> _Data:
    flat = x.reshape(len(x), model.dim)
    if resume:
        location, scale = model.location, model.scale
    elif model.standardize:
        location = flat.double().mean(0).to(x.dtype)
        scale = (flat - location).double().square().mean().sqrt().to(x.dtype)
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    else:
        location, scale = torch.zeros_like(flat[0]), flat.new_ones(())
    flat = (flat - location) / scale
    labels = None if labels is None else labels.to(flat.device)
    parts = [flat] if labels is None else [flat[labels == label] for label in range(model.context_dim)]
    return _Data(parts, location, scale)


def _first_particles(model: SlicedWassersteinFlow, base: Tensor | None, data: _Data, seed: int) -> Tensor:
    """(classes, particles of each, d)."""
    classes = max(1, model.context_dim)
    each = model.n_particles // classes
    if model.base == "given":
        if base is None or base.shape[1:] != model.event_shape or len(base) < classes:
            got = "None" if base is None else tuple(base.shape)
            raise ValueError(f"base must hold points of shape {model.event_shape}, as the flow asks for: got {got}")
        points = (base.to(data.location).reshape(len(base), model.dim) - data.location) / data.scale
        each = len(base) // classes
        return points[: each * classes].reshape(each, classes, model.dim).transpose(0, 1).contiguous()
    if base is not None:
        raise ValueError(f"base must be None unless the flow is built with base='given': it has {model.base!r}")
    generator = torch.Generator().manual_seed(seed + model.n_steps)
    return model.draw_base((classes, each, model.dim), generator, data.location)


def _allocate(model: SlicedWassersteinFlow, particles: Tensor) -> dict[str, Tensor]:
    shape = (model.n_steps, max(1, model.context_dim), model.n_projections, model.n_quantiles)
    return {
        "directions": particles.new_zeros(model.n_steps, model.dim, model.n_projections),
        "source_quantiles": particles.new_zeros(shape),
        "target_quantiles": particles.new_zeros(shape),
    }


def _keep(
    model: SlicedWassersteinFlow, data: _Data, particles: Tensor, tables: dict[str, Tensor], seed: int, done: int
) -> None:
    for name, table in tables.items():
        # A short flow must not hold on to the memory of the whole one.
        setattr(model, name, table if done == model.n_steps else table[:done].clone())
    model.location, model.scale = data.location, data.scale
    model.class_counts = torch.tensor([len(p) for p in data.classes], device=particles.device)
    model.fit_seed = torch.tensor(seed, device=particles.device)
    model.particles = particles[:, :0].clone() if done == model.n_steps else particles
