"""Densities in the plane, side by side on one scale."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from .figure import INK, finish, new_figure, set_title
from .scatter import frame, shade

_CELLS = 160
_PANEL_INCHES = 2.3


def density_panels(
    log_probs: Mapping[str, Callable[[Tensor], Tensor]],
    limits: tuple[tuple[float, float], tuple[float, float]],
    path: str | os.PathLike[str] | None = None,
    *,
    columns: int | None = None,
    title: str | None = None,
) -> Figure:
    """The densities exp(log_prob) by name, over ``limits`` = ((x_min, x_max), (y_min, y_max)); written to ``path``.

    Every ``log_prob`` maps float32 points ``(n, 2)`` to ``(n,)``. One scale is for all panels, that of the first.
    ``columns`` defaults to one row.
    """
    if not log_probs:
        raise ValueError("log_probs must hold at least one density")
    (left, right), (bottom, top) = limits
    if not (left < right and bottom < top):
        raise ValueError(f"limits must be ((x_min, x_max), (y_min, y_max)), increasing: got {limits}")
    columns = len(log_probs) if columns is None else columns
    if columns < 1:
        raise ValueError(f"columns must be at least 1: got {columns}")
    rows = math.ceil(len(log_probs) / columns)
    height = _PANEL_INCHES * (top - bottom) / (right - left) + 0.25
    figure = new_figure(columns * _PANEL_INCHES, rows * height + (0.3 if title else 0.0))
    highest: Any = None
    for index, (name, log_prob) in enumerate(log_probs.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        values = _on_grid(log_prob, limits)
        image = shade(axes, values, limits)
        highest = image.norm.vmax if highest is None else highest
        image.set_clim(0.0, highest)
        frame(axes, limits)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(name, fontsize=9, color=INK, pad=4)
    set_title(figure, title)
    return finish(figure, path)


def _on_grid(
    log_prob: Callable[[Tensor], Tensor], limits: tuple[tuple[float, float], tuple[float, float]]
) -> np.ndarray:
    """The density at cell centres, rows from bottom to top."""
    centres = [low + (high - low) / _CELLS * (torch.arange(_CELLS) + 0.5) for low, high in limits]
    with torch.no_grad():
        density = log_prob(torch.cartesian_prod(*centres)).exp()
    return density.view(_CELLS, _CELLS).T.double().cpu().numpy()
