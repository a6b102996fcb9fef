"""Loss curves."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from torch import Tensor

from .figure import COLOURS, FAINT, INK, finish, new_figure, quiet_axes, to_numpy

_Curve = Tensor | np.ndarray | Sequence[float]
_SMOOTH_FROM = 200
_PLACES = 1000


def loss_curve(
    losses: _Curve | Mapping[str, _Curve],
    path: str | os.PathLike[str] | None = None,
    *,
    steps: _Curve | Mapping[str, _Curve] | None = None,
    smooth: int | None = None,
    floor: float | None = None,
    log_scale: bool = False,
    xlabel: str = "step",
    ylabel: str = "loss",
    title: str | None = None,
) -> Figure:
    """One curve, or several by name; written to ``path`` if given.

    ``steps`` gives the abscissae (0, 1, ... by default), per curve if it is a mapping. Long curves are drawn faintly
    with their running median over ``smooth`` values on top (1/50 of the length from 200 values on; 1 for none).
    ``floor`` is a dashed line at the best attainable value, for instance an entropy. Values that are not finite leave
    a gap; ``log_scale`` also leaves out those that are not positive.
    """
    curves = losses if isinstance(losses, Mapping) else {"": losses}
    if not curves:
        raise ValueError("losses must hold at least one curve")
    figure = new_figure(6.4, 3.8)
    axes = figure.add_subplot()
    for index, (name, values) in enumerate(curves.items()):
        x, y = _curve(name, values, steps[name] if isinstance(steps, Mapping) else steps)
        if log_scale:
            y = np.where(y > 0, y, np.nan)
        window = _window(smooth, len(y))
        colour = COLOURS[index % len(COLOURS)]
        if window > 1:
            axes.plot(x, y, color=colour, alpha=0.22, linewidth=0.7)
        places, shown = running_median(y, window)
        marker = "o" if np.isfinite(shown).sum() == 1 else None
        axes.plot(x[places], shown, color=colour, linewidth=1.6, marker=marker, markersize=4, label=name or None)
    if log_scale:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(LogFormatter())
        axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.6)))
    if floor is not None:
        axes.axhline(floor, color=FAINT, linestyle=(0, (4, 3)), linewidth=1.0, label=f"floor {floor:.4g}")
    _limit_outliers(axes, curves, floor, log_scale)
    axes.set_xlabel(xlabel, fontsize=9, color=INK)
    axes.set_ylabel(ylabel, fontsize=9, color=INK)
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    quiet_axes(axes)
    if any(curves) or floor is not None:
        axes.legend(fontsize=8, frameon=False)
    if title:
        axes.set_title(title, fontsize=11, color=INK, pad=8)
    return finish(figure, path)


def _curve(name: str, values: _Curve, steps: _Curve | None) -> tuple[np.ndarray, np.ndarray]:
    what = f"losses[{name!r}]" if name else "losses"
    y = to_numpy(what, values)
    if y.ndim != 1 or len(y) == 0:
        raise ValueError(f"{what} must be a sequence of at least one number: got shape {y.shape}")
    x = np.arange(len(y), dtype=np.float64) if steps is None else to_numpy("steps", steps)
    if x.shape != y.shape:
        raise ValueError(f"steps must have one entry for each of {what}, {len(y)}: got shape {x.shape}")
    return x, np.where(np.isfinite(y), y, np.nan)


def _window(smooth: int | None, n: int) -> int:
    if smooth is None:
        return n // 50 if n >= _SMOOTH_FROM else 1
    if smooth < 1:
        raise ValueError(f"smooth must be at least 1: got {smooth}")
    return min(smooth, n)


def running_median(values: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """(index, median of the ``window`` values round it) at no more than a thousand evenly spaced places.

    Near the ends the window holds what there is, and NaN values are skipped; a window of NaN alone gives NaN.
    """
    if window == 1:
        return np.arange(len(values)), values
    index = np.linspace(0, len(values) - 1, min(len(values), _PLACES)).round().astype(int)
    padded = np.pad(values, (window // 2, window - 1 - window // 2), constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, window)[index]
    median = np.full(len(index), np.nan)
    known = np.isfinite(windows).any(axis=1)
    median[known] = np.nanmedian(windows[known], axis=1)
    return index, median


def _limit_outliers(axes: Axes, curves: Mapping[str, _Curve], floor: float | None, log_scale: bool) -> None:
    """A first loss that towers above the rest must not flatten the curve; linear scale only."""
    if log_scale:
        return
    values = np.concatenate([to_numpy("losses", v) for v in curves.values()])
    values = values[np.isfinite(values)]
    if len(values) < _SMOOTH_FROM:
        return
    low, high = np.quantile(values, [0.0, 0.99])
    low = low if floor is None else min(low, floor)
    middle = np.quantile(values, 0.5)
    if values.max() - low > 5 * (high - low) and high > middle:
        axes.set_ylim(low - 0.05 * (high - low), high + 0.25 * (high - low))
