"""Points too far apart for float64 are refused where the order of distances counts."""

import pytest
import torch

from cgm_models import metrics


@pytest.mark.parametrize(
    ("metric", "names"),
    [
        (metrics.energy_test, "x and y"),
        (metrics.precision_recall, "samples and reference"),
        (metrics.density_coverage, "samples and reference"),
    ],
)
def test_overflowing_distances_are_refused(metric, names):
    x = torch.randn(20, 2, dtype=torch.float64)
    for other in (x * 1e200, x / x.abs().max() * 1e307):
        for clouds in ((x, other), (other, x), (other, -other)):
            with pytest.raises(ValueError, match=f"points of {names} overflow"):
                metric(*clouds)
    metric(x * 1e150, x * 1e150)


def test_copying_check_refuses_overflow():
    x = torch.randn(20, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="points of held_out and train overflow"):
        metrics.copying_check(x, x, x * 1e200)
