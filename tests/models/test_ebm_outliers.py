"""What outlier detection is measured with: areas under ROC curves, classes left out, and patches of photographs."""

import pytest
import torch
from sklearn.metrics import roc_auc_score

from cgm_models import data, metrics


def test_the_area_is_that_of_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    inliers = torch.randint(10, (80,), generator=generator).float()
    outliers = torch.randint(3, 14, (50,), generator=generator).float()
    labels = [0] * 80 + [1] * 50
    expected = roc_auc_score(labels, torch.cat((inliers, outliers)).numpy())
    assert metrics.auroc(inliers, outliers) == pytest.approx(expected, abs=1e-12)
    assert metrics.auroc(inliers, inliers + 100) == 1.0
    assert metrics.auroc(torch.zeros(3), torch.tensor([torch.inf, -torch.inf])) == 0.5


def test_errors_of_the_area():
    with pytest.raises(ValueError, match=r"inliers must have shape \(n,\), n at least 1: got \(0,\)"):
        metrics.auroc(torch.zeros(0), torch.zeros(2))
    with pytest.raises(ValueError, match="outliers must not hold NaN"):
        metrics.auroc(torch.zeros(1), torch.tensor([torch.nan]))


def test_a_class_is_left_out_of_both_parts():
    whole, rest = data.load("digits"), data.load("digits", without_class=3)
    threes = whole.context == 3
    assert torch.equal(rest.left_out, whole.x[threes]) and torch.equal(rest.x, whole.x[~threes])
    assert torch.equal(rest.context, whole.context[~threes]) and rest.class_names == whole.class_names
    assert torch.equal(rest.train_x, whole.train_x[whole.train_context != 3])
    with pytest.raises(ValueError, match=r"without_class must be one of 0, 1, .*, 9: got 'ten'"):
        data.load("digits", without_class="ten")
    with pytest.raises(ValueError, match="without_class needs the classes of real data, and moons has none"):
        data.load("moons", without_class=0)


def test_patches_are_those_of_the_photographs():
    from sklearn.datasets import load_sample_image

    patches = data.load("patches")
    assert (
        patches.event_shape == (1, 8, 8) and len(patches) == 2 * 53 * 80 and patches.class_names == ("china", "flower")
    )
    grey = torch.tensor(load_sample_image("flower.jpg")).double().mean(2) / 255
    flower = patches.x[patches.context == 1].double()[:, 0]
    corner, last = grey[:8, :8], grey[416:424, 632:640]
    for tile in (corner, last):
        assert float((flower - tile).abs().amax((1, 2)).min()) < 1e-6
