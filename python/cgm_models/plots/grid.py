"""Grids of images."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from .figure import FAINT, INK, finish, new_figure, set_title, to_numpy

_NOT_A_NUMBER = (0.85, 0.2, 0.25)
_GAP = (1.0, 1.0, 1.0)
_TILE_INCHES = 0.62


def as_rgb(images: Tensor | np.ndarray, value_range: tuple[float, float] = (0.0, 1.0)) -> np.ndarray:
    """Images ``(..., h, w)``, ``(..., 1, h, w)`` or ``(..., 3, h, w)`` as ``(..., h, w, 3)`` in [0, 1].

    Values are clipped to ``value_range``; NaN pixels are red. ``(..., h, w)`` is told from channels by a third last
    dimension that is neither 1 nor 3.
    """
    low, high = value_range
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"value_range must be two increasing finite numbers: got {value_range}")
    array = to_numpy("images", images)
    if array.ndim < 3 or 0 in array.shape:
        raise ValueError(f"images must have shape (n, h, w), (n, 1, h, w) or (n, 3, h, w): got {array.shape}")
    if array.ndim == 3 or array.shape[-3] not in (1, 3):
        array = array[..., None, :, :]
    missing = np.isnan(array).any(axis=-3)
    unit = np.clip((np.nan_to_num(array, nan=low) - low) / (high - low), 0.0, 1.0)
    rgb = np.moveaxis(np.repeat(unit, 3, axis=-3) if unit.shape[-3] == 1 else unit, -3, -1).copy()
    rgb[missing] = _NOT_A_NUMBER
    return rgb


def mosaic(tiles: np.ndarray) -> np.ndarray:
    """Tiles ``(rows, columns, h, w, 3)`` side by side with white gaps of about a twelfth of a tile."""
    rows, columns, height, width, _ = tiles.shape
    # Whole pixels only: small tiles are enlarged first so that the gap can be thin.
    scale = max(1, math.ceil(48 / max(height, width)))
    tiles = tiles.repeat(scale, axis=2).repeat(scale, axis=3)
    height, width = height * scale, width * scale
    gap = max(1, round(max(height, width) / 16))
    canvas = np.empty((rows * (height + gap) - gap, columns * (width + gap) - gap, 3))
    canvas[:] = _GAP
    for row in range(rows):
        for column in range(columns):
            top, left = row * (height + gap), column * (width + gap)
            canvas[top : top + height, left : left + width] = tiles[row, column]
    return canvas


def draw_mosaic(figure: Figure, canvas: np.ndarray) -> Axes:
    """The canvas on axes without frame or ticks."""
    axes = figure.add_subplot()
    axes.imshow(canvas, interpolation="nearest", aspect="equal")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def sample_grid(
    images: Tensor | np.ndarray,
    path: str | os.PathLike[str] | None = None,
    *,
    columns: int | None = None,
    value_range: tuple[float, float] = (0.0, 1.0),
    row_labels: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """Images in rows, left to right; written to ``path`` if given.

    ``images`` is ``(n, h, w)``, ``(n, 1, h, w)`` or ``(n, 3, h, w)``; ``columns`` defaults to about a square. Values
    outside ``value_range`` are clipped and NaN pixels are red. ``row_labels`` names the rows.
    """
    rgb = as_rgb(images, value_range)
    if rgb.ndim != 4:
        raise ValueError(f"images must be one batch of images, (n, [c,] h, w): got {tuple(np.shape(images))}")
    n = len(rgb)
    columns = math.ceil(math.sqrt(n)) if columns is None else columns
    if columns < 1:
        raise ValueError(f"columns must be at least 1: got {columns}")
    rows = math.ceil(n / columns)
    if row_labels is not None and len(row_labels) != rows:
        raise ValueError(f"row_labels must name {rows} rows: got {len(row_labels)}")
    padding = np.ones((rows * columns - n, *rgb.shape[1:]))
    canvas = mosaic(np.concatenate([rgb, padding]).reshape(rows, columns, *rgb.shape[1:]))
    label_inches = 0.0 if row_labels is None else 0.2 + 0.07 * max(map(len, row_labels))
    width = min(16.0, max(2.0, columns * _TILE_INCHES))
    height = width * canvas.shape[0] / canvas.shape[1]
    figure = new_figure(width + label_inches + 0.1, height + (0.4 if title else 0.1))
    axes = draw_mosaic(figure, canvas)
    if row_labels is not None:
        axes.set_anchor("E")
        tile = canvas.shape[0] / rows
        axes.set_yticks([(row + 0.5) * tile for row in range(rows)], row_labels, fontsize=9, color=INK)
        axes.tick_params(length=0, colors=FAINT, labelcolor=INK)
    set_title(figure, title)
    return finish(figure, path)
