"""Figures without global state, in one look, written atomically.

``Figure`` objects are made directly and never registered with pyplot: no display, no backend choice, no leak, and any
thread may draw.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

INK, FAINT = "#222222", "#8a8a8a"
COLOURS = ("#2f6db3", "#d9622b", "#3a9a5b", "#8d5fb0", "#c23b58", "#8a6d3b", "#1f9aa8", "#6b7280", "#b59a1b", "#d16ba5")
DPI = 150


def new_figure(width: float, height: float) -> Figure:
    """A white figure of ``width`` × ``height`` inches whose layout keeps labels apart."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def finish(figure: Figure, path: str | os.PathLike[str] | None) -> Figure:
    """Writes the figure if a path is given, and hands it back."""
    if path is not None:
        save(figure, path)
    return figure


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Writes to a temporary file beside ``path`` and renames it, so that a reader never sees half a picture.

    The suffix says the format (png, pdf, svg, ...); missing folders are made.
    """
    path = Path(path)
    known = sorted(figure.canvas.get_supported_filetypes())
    kind = path.suffix[1:].lower()
    if kind not in known:
        raise ValueError(f"path must end in one of {', '.join('.' + k for k in known)}: got {str(path)!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(6)}{path.suffix}")
    try:
        figure.savefig(temporary, format=kind, facecolor="white")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def to_numpy(name: str, values: object) -> np.ndarray:
    """A float64 array from a tensor of any device and dtype, or from anything NumPy takes."""
    array = values.detach().cpu().double().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold real numbers: got {array.dtype}")
    return array.astype(np.float64, copy=False)


def set_title(figure: Figure, title: str | None) -> None:
    if title:
        figure.suptitle(title, fontsize=11, color=INK)


def quiet_axes(axes: Axes) -> None:
    """Thin grey ticks, no frame at the top and the right."""
    axes.tick_params(which="both", labelsize=8, colors=INK, width=0.6, length=3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_linewidth(0.6)


def event_limits(points: list[np.ndarray], margin: float = 0.06) -> tuple[tuple[float, float], tuple[float, float]]:
    """Equal-scale limits round the finite points of all clouds, less the most extreme 0.1% on each side."""
    finite = [p[np.isfinite(p).all(axis=1)] for p in points]
    every = np.concatenate([p for p in finite if len(p)] or [np.zeros((1, 2))])
    low, high = np.quantile(every, [0.001, 0.999], axis=0) if len(every) > 1000 else (every.min(0), every.max(0))
    half = 0.5 * float(max(high - low)) * (1 + 2 * margin) or 1.0
    middle = 0.5 * (low + high)
    return (middle[0] - half, middle[0] + half), (middle[1] - half, middle[1] + half)


def as_points(name: str, points: Tensor | np.ndarray) -> np.ndarray:
    array = to_numpy(name, points)
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"{name} must have shape (n, 2): got {array.shape}")
    return array


def as_labels(name: str, labels: Tensor | np.ndarray | None, n: int) -> np.ndarray | None:
    if labels is None:
        return None
    array = torch.as_tensor(labels).cpu().numpy()
    if array.shape != (n,):
        raise ValueError(f"{name} must have shape ({n},): got {array.shape}")
    return array
