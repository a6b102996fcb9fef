"""How samples compare with held-out data, and what to compare the comparison with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from .. import metrics
from ..data import Dataset

COLUMNS = {
    "sliced_wasserstein": "sliced W₂ ↓",
    "energy_distance": "energy ↓",
    "energy_p_value": "p",
    "precision": "precision ↑",
    "recall": "recall ↑",
    "coverage": "coverage ↑",
    "nearest_ratio": "nearest ratio",
    "exact_copies": "copies",
}
NOTE = (
    "against held-out data; energy: unbiased, may be negative, p from its permutation test; nearest ratio: median "
    "distance to the training set over that of held-out data, 1 for fresh data, near 0 for copies"
)


def score(samples: Tensor, data: Dataset, *, n_permutations: int = 199) -> dict[str, float]:
    """The metrics of ``samples`` against the held-out part of ``data``, on fixed directions and permutations."""
    held_out = data.test_x
    directions, permutations = (torch.Generator().manual_seed(seed) for seed in (1, 2))
    test = metrics.energy_test(samples, held_out, n_permutations=n_permutations, generator=permutations)
    recall = metrics.precision_recall(samples[: len(held_out)], held_out)
    copying = metrics.copying_check(samples, data.train_x, held_out)
    return {
        "sliced_wasserstein": float(metrics.sliced_wasserstein(samples, held_out, generator=directions)),
        "energy_distance": float(metrics.energy_distance(samples, held_out, estimator="u")),
        "energy_p_value": test.p_value,
        "precision": recall.precision,
        "recall": recall.recall,
        "coverage": metrics.density_coverage(samples[: len(held_out)], held_out).coverage,
        "nearest_ratio": copying.ratio,
        "exact_copies": copying.exact_copies,
    }


def references(data: Dataset, n: int, generator: Generator) -> dict[str, Tensor]:
    """What to beat and what to reach: isotropic noise, a fitted Gaussian, and the training split itself."""
    flat = data.train_x.flatten(1).double()
    mean = flat.mean(0)
    centred = flat - mean
    noise = mean + centred.square().mean().sqrt() * torch.randn(n, len(mean), generator=generator, dtype=flat.dtype)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(flat))
    root = vectors * values.clamp_min(0.0).sqrt()
    gaussian = mean + torch.randn(n, len(mean), generator=generator, dtype=flat.dtype) @ root.T
    rows = {"isotropic noise": noise, "fitted Gaussian": gaussian, "training split": flat[:n]}
    return {name: x.float().reshape(len(x), *data.event_shape) for name, x in rows.items()}


def table(rows: dict[str, dict[str, float]], title: str) -> Any:
    """A rich table, one row of metrics a name."""
    from rich.table import Table

    shown = Table(title=title, caption=NOTE, caption_justify="left", title_justify="left")
    shown.add_column("", no_wrap=True)
    for heading in COLUMNS.values():
        shown.add_column(heading, justify="right")
    for name, row in rows.items():
        shown.add_row(name, *(f"{row[key]:.4f}" if key in list(COLUMNS)[:2] else f"{row[key]:.3f}" for key in COLUMNS))
    return shown
