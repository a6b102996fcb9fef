"""The densities of all models beside the truth, and samples of all of them."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure

from cgm_models import data, plots
from cgm_models.model import GenerativeModel
from cgm_models.plots.figure import new_figure
from cgm_models.plots.scatter import frame, shade

from .configuration import FOLDER
from .problems import Problem

PICTURES = FOLDER / "pictures"
_CELLS, _COLUMNS, _IMAGES = 120, 3, 12


def has_picture(name: str) -> bool:
    """Whether the problem of this name has one: images and planar sets do."""
    return name == "digits" or name in data.density_names()


def draw(problem: Problem, models: dict[str, GenerativeModel]) -> None:
    """The picture of the problem: held-out images and samples, or the densities."""
    path = PICTURES / f"{problem.name}.png"
    if len(problem.event_shape) == 3:
        rows = [problem.test.x[:_IMAGES], *(_samples(model) for model in models.values())]
        plots.sample_grid(torch.cat(rows), path, columns=_IMAGES, row_labels=["held out", *models])
    else:
        plots.save(_densities(problem, models), path)


def _densities(problem: Problem, models: dict[str, GenerativeModel]) -> Figure:
    (left, right), (bottom, top) = limits = _square(data.density(problem.name).extent)
    points = torch.cartesian_prod(
        *(low + (high - low) / _CELLS * (torch.arange(_CELLS) + 0.5) for low, high in ((left, right), (bottom, top)))
    )
    truth = data.density(problem.name)
    panels = {"truth": truth.log_prob, **{name: model.log_prob for name, model in models.items()}}
    n_rows = -(-len(panels) // _COLUMNS)
    figure = new_figure(2.3 * _COLUMNS, 2.5 * n_rows)
    for index, (name, log_prob) in enumerate(panels.items()):
        axes = figure.add_subplot(n_rows, _COLUMNS, index + 1)
        with torch.no_grad():
            values: np.ndarray = log_prob(points).exp().view(_CELLS, _CELLS).T.numpy()
        shade(axes, values, limits)
        frame(axes, limits)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(name, fontsize=9)
    figure.set_dpi(100)
    return figure


def _samples(model: GenerativeModel) -> torch.Tensor:
    return model.sample(_IMAGES, generator=torch.Generator().manual_seed(0))


def _square(extent: tuple[tuple[float, float], tuple[float, float]]) -> tuple[tuple[float, float], tuple[float, float]]:
    half = 0.5 * max(high - low for low, high in extent)
    (x, y) = (0.5 * (low + high) for low, high in extent)
    return (x - half, x + half), (y - half, y + half)
