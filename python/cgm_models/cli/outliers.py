"""How well a model's density tells other points from held-out data, beside a fitted Gaussian's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .. import data as data_sets
from .. import metrics
from ..data import Dataset
from ..model import GenerativeModel
from .scores import AUROC

_CHUNK = 1000  # points at a time


def detection(model: GenerativeModel, data: Dataset, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Areas under the ROC curve of the energy, else −log p, of the model and of a Gaussian, by row of the table.

    The outliers are the class that was left out of the data, where one was, and the held-out parts of the data sets
    ``names``; the inliers the held-out points.
    """
    others = {} if data.left_out is None else {"left out": data.left_out}
    for name in names:
        other = data_sets.load(name)
        if other.event_shape != data.event_shape:
            raise ValueError(f"--outliers: {name} has points of shape {other.event_shape}, not {data.event_shape}")
        others[name] = other.test_x
    if not others or not _knows_points(model):
        if names:
            raise ValueError(f"--outliers: this {type(model).__name__} has no density of a point without a context")
        return {}
    rows = {}
    for key, surprise in {"fitted Gaussian": _gaussian(data), type(model).__name__: _surprise(model)}.items():
        inliers = surprise(data.test_x)
        rows[key] = {f"{AUROC}{name}": metrics.auroc(inliers, surprise(points)) for name, points in others.items()}
    return rows


def _knows_points(model: GenerativeModel) -> bool:
    """Whether the model has an energy or a density of points by themselves."""
    if model.context_dim and not getattr(model, "context_is_optional", False):
        return False
    return hasattr(model, "energy") or type(model).log_prob is not GenerativeModel.log_prob


def _surprise(model: GenerativeModel) -> Callable[[Tensor], Tensor]:
    """−log p up to a constant, as far as the model knows it without a context."""
    energy = getattr(model, "energy", None)

    @torch.no_grad()
    def surprise(x: Tensor) -> Tensor:
        parts = [-model.log_prob(part) if energy is None else energy(part) for part in x.split(_CHUNK)]
        return torch.cat(parts)

    return surprise


def _gaussian(data: Dataset) -> Callable[[Tensor], Tensor]:
    """Half the squared Mahalanobis distance, with the covariance of Ledoit and Wolf."""
    from sklearn.covariance import LedoitWolf

    fitted = LedoitWolf().fit(data.train_x.flatten(1).double().numpy())
    return lambda x: torch.from_numpy(0.5 * fitted.mahalanobis(x.flatten(1).double().numpy()))
