"""The densities of all models beside the truth, and samples of all of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext

import torch

from cgm_models import data, plots
from cgm_models.cnf import ContinuousFlow, converged_log_prob
from cgm_models.flows.flow import Flow
from cgm_models.model import GenerativeModel

from . import annealed
from .configuration import FOLDER
from .problems import Problem

PICTURES = FOLDER / "pictures"
_COLUMNS, _IMAGES = 3, 12
_FEW = 1000  # points that choose the steps of a continuous flow


def has_picture(name: str) -> bool:
    """Whether the problem of this name has one: images and planar sets do."""
    return name.startswith("digits") or name in data.density_names()


def draw(problem: Problem, models: dict[str, GenerativeModel]) -> None:
    """The picture of the problem: held-out images and samples, or the densities."""
    path = PICTURES / f"{problem.name}.png"
    if len(problem.event_shape) == 3:
        rows = [problem.test.x[:_IMAGES], *(_samples(model, problem) for model in models.values())]
        plots.sample_grid(torch.cat(rows), path, columns=_IMAGES, row_labels=["held out", *models])
    else:
        law = data.density(problem.name)
        densities = {"truth": law.log_prob, **{name: _density(model, problem) for name, model in models.items()}}
        plots.density_panels(densities, _square(law.extent), path, columns=min(_COLUMNS, len(densities)))


def _density(model: GenerativeModel, problem: Problem) -> Callable[[torch.Tensor], torch.Tensor]:
    """Nothing where the inverse of a flow leaves the range of numbers, as it may far from the data.

    A continuous flow takes the steps that its likelihood needs.
    """
    if annealed.is_annealed(type(model)):
        return annealed.density(model)
    model = copy.deepcopy(model).double()
    if isinstance(model, Flow):
        model.check_finite = False
    halvings = 0
    if isinstance(model, ContinuousFlow):
        halvings = converged_log_prob(model, problem.test.x[:_FEW].double()).halvings

    def log_prob(x: torch.Tensor) -> torch.Tensor:
        with model.refined(halvings) if isinstance(model, ContinuousFlow) else nullcontext():
            return model.log_prob(x.double()).nan_to_num(nan=-torch.inf)

    return log_prob


def _samples(model: GenerativeModel, problem: Problem) -> torch.Tensor:
    """Of a conditional problem, under the contexts of the held-out images that are shown."""
    context = None if problem.test.context is None else problem.test.context[:_IMAGES]
    return model.sample(_IMAGES, context, generator=torch.Generator().manual_seed(0))


def _square(extent: tuple[tuple[float, float], tuple[float, float]]) -> tuple[tuple[float, float], tuple[float, float]]:
    half = 0.5 * max(high - low for low, high in extent)
    (x, y) = (0.5 * (low + high) for low, high in extent)
    return (x - half, x + half), (y - half, y + half)
