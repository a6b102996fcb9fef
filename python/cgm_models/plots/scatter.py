"""Points in the plane: clouds, the paths they took, and the density they should have."""

from __future__ import annotations

import os

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor

from cgm_models.data import Density2D

from .figure import COLOURS, FAINT, INK, as_labels, as_points, event_limits, finish, new_figure, quiet_axes, to_numpy

_Limits = tuple[tuple[float, float], tuple[float, float]]
_MOST_POINTS, _MOST_PATHS = 20_000, 200
_DENSITY_CELLS = 160
_SHADES = LinearSegmentedColormap.from_list("density", ["#ffffff", "#c9dff2", "#5b9fd3"])


def scatter_2d(
    points: Tensor | np.ndarray,
    path: str | os.PathLike[str] | None = None,
    *,
    reference: Tensor | np.ndarray | None = None,
    labels: Tensor | np.ndarray | None = None,
    trajectories: Tensor | np.ndarray | None = None,
    density: Density2D | None = None,
    limits: _Limits | None = None,
    title: str | None = None,
) -> Figure:
    """A cloud ``(n, 2)`` at equal scale; written to ``path`` if given.

    ``reference (m, 2)`` is drawn in grey beneath it, ``labels (n,)`` colour the points by class, ``trajectories
    (T, k, 2)`` are the paths of k points from their start (open circles), and ``density`` shades the exact law.
    At most 20,000 points and 200 paths are drawn, evenly thinned; points that are not finite are counted in a note.
    """
    cloud = as_points("points", points)
    classes = as_labels("labels", labels, len(cloud))
    beneath = None if reference is None else as_points("reference", reference)
    paths = None if trajectories is None else as_paths(trajectories)
    if limits is None:
        limits = _limits(cloud, beneath, paths, density)
    (left, right), (bottom, top) = limits
    if not (left < right and bottom < top):
        raise ValueError(f"limits must be ((x_min, x_max), (y_min, y_max)), increasing: got {limits}")
    ratio = (top - bottom) / (right - left)
    figure = new_figure(5.2, float(np.clip(4.9 * ratio, 1.5, 12.0)) + (0.5 if title else 0.3))
    axes = figure.add_subplot()
    if density is not None:
        shade(axes, density_values(density, limits), limits)
    if beneath is not None:
        draw_points(axes, beneath, None, colour="#b4b4b4", label="reference")
    if paths is not None:
        draw_paths(axes, paths)
    draw_points(axes, cloud, classes, colour=COLOURS[1] if density is not None else COLOURS[0], label="samples")
    frame(axes, limits)
    _notes(axes, cloud, limits)
    if beneath is not None or (classes is not None and len(np.unique(classes)) <= len(COLOURS)):
        _legend(figure)
    if title:
        axes.set_title(title, fontsize=11, color=INK, pad=8)
    return finish(figure, path)


def as_paths(trajectories: Tensor | np.ndarray) -> np.ndarray:
    """``(T, k, 2)`` checked, and thinned to the number of paths that an eye can follow."""
    array = to_numpy("trajectories", trajectories)
    if array.ndim != 3 or array.shape[2] != 2 or len(array) < 2:
        raise ValueError(f"trajectories must have shape (T, k, 2) with T >= 2: got {array.shape}")
    return array[:, thinned(array.shape[1], _MOST_PATHS)]


def thinned(n: int, most: int) -> np.ndarray:
    """Indices of at most ``most`` of ``n`` items, evenly spaced."""
    return np.arange(n) if n <= most else np.linspace(0, n - 1, most).round().astype(int)


def _limits(
    cloud: np.ndarray, beneath: np.ndarray | None, paths: np.ndarray | None, density: Density2D | None
) -> _Limits:
    parts = [cloud]
    if beneath is not None:
        parts.append(beneath)
    if paths is not None:
        parts.append(paths.reshape(-1, 2))
    if density is not None:
        parts.append(typical_points(density))
    return event_limits(parts)


def typical_points(density: Density2D) -> np.ndarray:
    """Points of the law that show where its mass lies, always the same ones."""
    return as_points("density", density.sample(2000, torch.Generator().manual_seed(0)))


def density_values(density: Density2D, limits: _Limits) -> np.ndarray:
    """The exact density at the cell centres of a square grid over ``limits``, rows from bottom to top."""
    centres = [
        low + (high - low) / _DENSITY_CELLS * (torch.arange(_DENSITY_CELLS, dtype=torch.float64) + 0.5)
        for low, high in limits
    ]
    log_p = density.log_prob(torch.cartesian_prod(*centres))
    return log_p.exp().view(_DENSITY_CELLS, _DENSITY_CELLS).T.numpy()


def shade(axes: Axes, values: np.ndarray, limits: _Limits) -> AxesImage:
    """Density values as a shade of blue, from white at zero."""
    top = float(np.quantile(values[values > 0], 0.98)) if (values > 0).any() else 1.0
    (left, right), (bottom, upper) = limits
    extent = (left, right, bottom, upper)
    return axes.imshow(
        values, origin="lower", extent=extent, cmap=_SHADES, vmin=0.0, vmax=top, interpolation="bilinear"
    )


def draw_points(
    axes: Axes, cloud: np.ndarray, classes: np.ndarray | None, *, colour: str, label: str = "", inches: float = 5.0
) -> None:
    """The finite points on axes of about ``inches``, smaller and fainter the more there are."""
    keep = thinned(len(cloud), _MOST_POINTS)
    cloud = cloud[keep]
    finite = np.isfinite(cloud).all(axis=1)
    n = max(1, int(finite.sum()))
    size = float(np.clip(4000.0 / n, 1.2, 18.0)) * (inches / 5.0) ** 1.2
    alpha = float(np.clip(60.0 / n**0.5, 0.35, 0.9))
    if classes is None:
        groups = [(finite, colour, label)]
    else:
        values = np.unique(classes)
        groups = [(finite & (classes[keep] == v), COLOURS[i % len(COLOURS)], str(v)) for i, v in enumerate(values)]
    for mine, shown, name in groups:
        axes.scatter(
            cloud[mine, 0], cloud[mine, 1], color=shown, label=name, s=size, alpha=alpha, linewidths=0, zorder=3
        )


def draw_paths(axes: Axes, paths: np.ndarray) -> None:
    """Thin lines that darken with time, from open circles."""
    steps = len(paths) - 1
    segments = np.stack([paths[:-1], paths[1:]], axis=2).reshape(-1, 2, 2)
    time = np.repeat(np.linspace(0.25, 0.9, steps), paths.shape[1])
    finite = np.isfinite(segments).all(axis=(1, 2))
    colours = colormaps["Greys"](time[finite])
    axes.add_collection(LineCollection(list(segments[finite]), colors=colours, linewidths=0.5, zorder=2))
    axes.scatter(paths[0, :, 0], paths[0, :, 1], s=7, facecolors="white", edgecolors=FAINT, linewidths=0.5, zorder=2.5)


def frame(axes: Axes, limits: _Limits) -> None:
    axes.set_xlim(*limits[0])
    axes.set_ylim(*limits[1])
    axes.set_aspect("equal")
    quiet_axes(axes)


def _notes(axes: Axes, cloud: np.ndarray, limits: _Limits) -> None:
    finite = np.isfinite(cloud).all(axis=1)
    low, high = np.array(limits).T
    outside = int((finite & ~((cloud >= low) & (cloud <= high)).all(axis=1)).sum())
    lost = int((~finite).sum())
    notes = [f"{outside} outside the frame"] * bool(outside) + [f"{lost} not finite"] * bool(lost)
    if notes:
        axes.set_xlabel(f"of {len(cloud)} points: {', '.join(notes)}", fontsize=8, color=FAINT)


def _legend(figure: Figure) -> None:
    legend = figure.legend(loc="outside lower center", ncols=6, fontsize=8, frameon=False, handletextpad=0.2)
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1.0)
            handle.set_sizes([18.0])  # type: ignore[attr-defined]
