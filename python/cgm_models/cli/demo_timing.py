"""The demo's second table: sliced optimal transport beside plain PyTorch and the cost of sorting alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cgm_kernels import get_backend, random_projections, sliced_displacement, sliced_wasserstein_distance

Case = dict[str, Callable[[], object]]


def plain_distance(x: Tensor, y: Tensor, projections: Tensor) -> Tensor:
    """What PyTorch's users write, in its best form: sorting along contiguous rows."""
    a = (x @ projections).T.contiguous().sort(dim=-1).values
    b = (y @ projections).T.contiguous().sort(dim=-1).values
    return (a - b).square().mean().sqrt()


def timing_table(*, rounds: int, scale: float = 1.0) -> Any:
    """Medians of ``rounds`` interleaved rounds, in a rich table; ``scale`` shrinks the clouds."""
    from rich.table import Table

    n = max(16, round(10_000 * scale))
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, 64, generator=generator) for _ in range(2))
    title = f"{n} points, 64 dimensions, float32, {torch.get_num_threads()} threads, backend {get_backend()!r}"
    note = "floor: projecting the points and sorting the projections (NumPy's vectorised sort, threaded), nothing else"
    shown = Table(title=title, caption=note, title_justify="left", caption_justify="left")
    for heading in ("", "directions", "ours", "PyTorch", "floor", "PyTorch / ours"):
        shown.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for n_directions in (64, 500):
        projections = random_projections(64, n_directions, generator=generator)
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            for name, case in _cases(x, y, projections, pool).items():
                ours, plain, floor = _interleaved(case, rounds)
                ratio = median(p / o for p, o in zip(plain, ours, strict=True))
                times = [f"{1e3 * median(t):.1f} ms" for t in (ours, plain, floor)]
                shown.add_row(name, str(n_directions), *times, f"{ratio:.1f} ×")
    return shown


def _cases(x: Tensor, y: Tensor, projections: Tensor, pool: ThreadPoolExecutor) -> dict[str, Case]:
    leaf = x.clone().requires_grad_()

    def floor() -> None:
        for points in (x, y):
            rows = (points @ projections).T.contiguous().numpy()
            list(pool.map(lambda part: part.sort(axis=-1), np.array_split(rows, torch.get_num_threads())))

    def gradient(distance: Callable[..., Tensor]) -> Tensor:
        return torch.autograd.grad(distance(leaf, y, projections=projections), leaf)[0]

    def plain_displacement() -> Tensor:
        squared = plain_distance(leaf, y, projections).square()
        return -0.5 * len(x) * torch.autograd.grad(squared, leaf)[0]

    return {
        "distance": {
            "ours": lambda: sliced_wasserstein_distance(x, y, projections=projections),
            "plain": lambda: plain_distance(x, y, projections),
            "floor": floor,
        },
        "distance and gradient": {
            "ours": lambda: gradient(sliced_wasserstein_distance),
            "plain": lambda: gradient(plain_distance),
            "floor": floor,
        },
        "displacement": {
            "ours": lambda: sliced_displacement(x, y, projections=projections),
            "plain": plain_displacement,
            "floor": floor,
        },
    }


def _interleaved(case: Case, rounds: int) -> list[list[float]]:
    """Seconds of every round, by case; one unmeasured round first."""
    seconds: list[list[float]] = [[] for _ in case]
    for round_ in range(rounds + 1):
        for times, run in zip(seconds, case.values(), strict=True):
            began = time.perf_counter()
            run()
            if round_:
                times.append(time.perf_counter() - began)
    return seconds
