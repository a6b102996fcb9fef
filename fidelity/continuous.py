"""Likelihoods of continuous flows: with steps so fine that they do not matter, of a density whose mass is one."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from cgm_models.cnf import ContinuousFlow, check_mass, converge
from cgm_models.model import GenerativeModel

TOLERANCE, MASS_TOLERANCE = 1e-3, 1e-2
_MARGIN, _GRID = 0.25, 200  # of the box for the mass, on each side, in its own widths; and its points along an axis
Extent = tuple[tuple[float, float], tuple[float, float]]


def published(model: GenerativeModel, evaluate: Callable[[], Tensor], extent: Extent | None = None) -> Tensor:
    """What ``evaluate`` gives; of a continuous flow converged, and with its mass about ``extent`` looked at.

    Raises:
        NotConvergedError: if such a number must not be published.
    """
    if not isinstance(model, ContinuousFlow):
        return evaluate()
    found = converge(model, evaluate, tolerance=TOLERANCE)
    if extent is not None and not model.context_dim:
        with model.refined(found.halvings):
            check_mass(model, _widened(extent), tolerance=MASS_TOLERANCE, n=_GRID)
    return found.values


def _widened(extent: Extent) -> Extent:
    (left, right), (low, high) = extent
    across, up = _MARGIN * (right - left), _MARGIN * (high - low)
    return (left - across, right + across), (low - up, high + up)
