"""Metrics between samples and data. Events are flattened; images should first go through a feature map of your choice.

Distances between laws (NaN in a point gives NaN): ``sliced_wasserstein``, ``energy_distance``, ``mmd``. Tests and
neighbour counts (NaN is refused): ``energy_test``, ``copying_check``, ``precision_recall``, ``density_coverage``.
"""

from .copying import CopyingCheck, copying_check
from .detection import auroc
from .energy import EnergyTest, energy_distance, energy_test
from .manifold import DensityCoverage, PrecisionRecall, density_coverage, precision_recall
from .mmd import median_heuristic, mmd
from .sliced import sliced_wasserstein

__all__ = [
    "CopyingCheck",
    "DensityCoverage",
    "EnergyTest",
    "PrecisionRecall",
    "auroc",
    "copying_check",
    "density_coverage",
    "energy_distance",
    "energy_test",
    "median_heuristic",
    "mmd",
    "precision_recall",
    "sliced_wasserstein",
]
