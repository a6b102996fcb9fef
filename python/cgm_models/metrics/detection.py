"""How well a score tells points of other laws from those of the data."""

from __future__ import annotations

import torch
from torch import Tensor

from .copying import mann_whitney


def auroc(inliers: Tensor, outliers: Tensor) -> float:
    """The probability that an outlier scores higher than an inlier, ties counted half: the area under the ROC curve.

    Shapes: ``(n,)`` and ``(m,)``, scores such as energies or −log p. 1 is a perfect separation, ½ none. Infinite scores
    have their place in the order; NaN is refused.
    """
    for name, scores in (("inliers", inliers), ("outliers", outliers)):
        if scores.ndim != 1 or not len(scores):
            raise ValueError(f"{name} must have shape (n,), n at least 1: got {tuple(scores.shape)}")
        if bool(scores.isnan().any()):
            raise ValueError(f"{name} must not hold NaN")
    return mann_whitney(inliers.detach().to(torch.float64), outliers.detach().to(torch.float64))[0]
