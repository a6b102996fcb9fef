"""How samples came to be: the same particles at several times, side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from cgm_models.data import Density2D

from .figure import COLOURS, INK, event_limits, finish, new_figure, set_title, to_numpy
from .grid import as_rgb, draw_mosaic, mosaic
from .scatter import density_values, draw_points, frame, shade, thinned, typical_points

_PANEL_INCHES = 1.75


def trajectory_strip(
    frames: Tensor | np.ndarray,
    path: str | os.PathLike[str] | None = None,
    *,
    times: Sequence[float] | Sequence[str] | None = None,
    columns: int = 8,
    rows: int = 6,
    value_range: tuple[float, float] = (0.0, 1.0),
    density: Density2D | None = None,
    title: str | None = None,
) -> Figure:
    """Particles through time, from left to right; written to ``path`` if given.

    ``frames`` is ``(T, n, 2)`` for points, one panel a time, or ``(T, n, [c,] h, w)`` for images, one row a particle
    and at most ``rows`` of them. ``columns`` of the T frames are shown, the first and the last among them. ``times``
    are T numbers or texts that head the columns, the frame number by default. ``density`` shades the panels of points.
    """
    array = to_numpy("frames", frames)
    if array.ndim < 3 or 0 in array.shape:
        raise ValueError(f"frames must have shape (T, n, 2) or (T, n, [c,] h, w): got {array.shape}")
    if columns < 1 or rows < 1:
        raise ValueError(f"columns and rows must be at least 1: got {columns} and {rows}")
    if times is not None and len(times) != len(array):
        raise ValueError(f"times must have {len(array)} entries, one a frame: got {len(times)}")
    chosen = thinned(len(array), columns)
    heads = [_head(i if times is None else times[i]) for i in chosen]
    if array.ndim == 3:
        if array.shape[2] != 2:
            raise ValueError(f"frames of points must have shape (T, n, 2): got {array.shape}")
        figure = _points_strip(array[chosen], heads, density, bool(title))
    else:
        if density is not None:
            raise ValueError("density has no meaning for frames of images")
        figure = _image_strip(array[chosen][:, :rows], heads, value_range, bool(title))
    set_title(figure, title)
    return finish(figure, path)


def _head(time: float | str | np.integer) -> str:
    return time if isinstance(time, str) else f"{float(time):.3g}"


def _points_strip(array: np.ndarray, heads: list[str], density: Density2D | None, titled: bool) -> Figure:
    typical = [] if density is None else [typical_points(density)]
    limits = event_limits([array[0], array[-1], *typical])
    values = None if density is None else density_values(density, limits)
    figure = new_figure(_PANEL_INCHES * len(array) + 0.2, _PANEL_INCHES + (0.6 if titled else 0.3))
    panels = figure.subplots(1, len(array), sharex=True, sharey=True, squeeze=False)[0]
    for axes, cloud, head in zip(panels, array, heads, strict=True):
        if values is not None:
            shade(axes, values, limits)
        draw_points(axes, cloud, None, colour=COLOURS[0 if values is None else 1], inches=_PANEL_INCHES)
        frame(axes, limits)
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set(visible=True, linewidth=0.4, color="#bbbbbb")
        axes.set_title(head, fontsize=9, color=INK, pad=4)
    return figure


def _image_strip(array: np.ndarray, heads: list[str], value_range: tuple[float, float], titled: bool) -> Figure:
    tiles = as_rgb(array, value_range).swapaxes(0, 1)
    canvas = mosaic(tiles)
    width = min(16.0, 0.8 * len(heads))
    figure = new_figure(width + 0.1, width * canvas.shape[0] / canvas.shape[1] + (0.6 if titled else 0.35))
    axes = draw_mosaic(figure, canvas)
    tile = canvas.shape[1] / len(heads)
    axes.xaxis.tick_top()
    axes.set_xticks([(i + 0.5) * tile for i in range(len(heads))], heads, fontsize=9, color=INK)
    axes.tick_params(length=0, labelcolor=INK)
    return figure
