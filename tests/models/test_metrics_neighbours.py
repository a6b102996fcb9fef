"""Copying check, precision, recall, density and coverage against SciPy and float64 twins."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import cdist

from cgm_models import metrics
from cgm_models.metrics import _pairwise


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """The tensors here are small: a second thread only waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=[False, True], ids=["one-block", "many-blocks"])
def blocks(request, monkeypatch):
    """Runs a test a second time with blocks of a few rows."""
    if request.param:
        monkeypatch.setattr(_pairwise, "_BLOCK_ELEMENTS", 200)


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _clouds(n=40, m=31, d=3, shift=0.4, dtype=torch.float64, seed=0):
    g = _generator(seed)
    return torch.randn(n, d, generator=g, dtype=dtype), torch.randn(m, d, generator=g, dtype=dtype) + shift


def test_copying_check_against_scipy(blocks):
    g = _generator()
    train, held_out, samples = (torch.randn(n, 3, generator=g, dtype=torch.float64) for n in (60, 40, 50))
    got = metrics.copying_check(samples, train, held_out)
    near_s = cdist(samples, train).min(1)
    near_h = cdist(held_out, train).min(1)
    np.testing.assert_allclose(got.sample_distances, near_s, rtol=1e-12)
    np.testing.assert_allclose(got.held_out_distances, near_h, rtol=1e-12)
    assert got.ratio == pytest.approx(np.median(near_s) / np.median(near_h), rel=1e-12)
    test = stats.mannwhitneyu(near_s, near_h, alternative="less", method="asymptotic", use_continuity=False)
    assert got.closer == pytest.approx(1 - test.statistic / 2000, rel=1e-12)
    assert got.p_value == pytest.approx(test.pvalue, rel=1e-9)
    assert got.exact_copies == 0.0


def test_copying_check_with_ties_against_scipy():
    g = _generator(3)
    train, held_out, samples = (torch.randint(0, 4, (n, 2), generator=g).double() for n in (6, 40, 50))
    got = metrics.copying_check(samples, train, held_out)
    near = [cdist(cloud, train).min(1) for cloud in (samples, held_out)]
    test = stats.mannwhitneyu(*near, alternative="less", method="asymptotic", use_continuity=False)
    assert got.p_value == pytest.approx(test.pvalue, rel=1e-9)
    assert got.exact_copies == np.mean(near[0] == 0)


def test_copying_check_sees_copies():
    g = _generator()
    train, held_out = torch.rand(200, 1, 4, 4, generator=g), torch.rand(100, 1, 4, 4, generator=g)
    copies = metrics.copying_check(train[:80], train, held_out)
    assert copies.exact_copies == 1.0 and copies.ratio == 0.0 and copies.closer == 1.0 and copies.p_value < 1e-20
    noisy = metrics.copying_check(train[:80] + 0.02 * torch.randn(80, 1, 4, 4, generator=g), train, held_out)
    assert noisy.exact_copies == 0.0 and noisy.ratio < 0.3 and noisy.p_value < 1e-20
    alike = metrics.copying_check(torch.zeros(5, 2), torch.zeros(1, 2), torch.zeros(4, 2))
    assert alike.closer == 0.5 and alike.z == 0.0 and alike.p_value == 0.5 and math.isnan(alike.ratio)


def test_copying_check_p_values_are_uniform_for_fresh_data():
    p_values = []
    for seed in range(150):
        g = _generator(seed)
        train, held_out, samples = (torch.randn(n, 2, generator=g) for n in (50, 30, 30))
        p_values.append(metrics.copying_check(samples, train, held_out).p_value)
    assert stats.kstest(p_values, "uniform").pvalue > 1e-3


def _twin(samples, reference, k):
    """Precision, recall, density and coverage from the whole float64 distance matrices."""
    between = cdist(samples, reference)
    radius_s = np.sort(cdist(samples, samples), axis=1)[:, k]
    radius_x = np.sort(cdist(reference, reference), axis=1)[:, k]
    inside = between <= radius_x
    return (
        inside.any(1).mean(),
        (between <= radius_s[:, None]).any(0).mean(),
        inside.sum() / (k * len(samples)),
        inside.any(0).mean(),
    )


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("kind", ["gaussian", "lattice", "shared"])
def test_manifold_metrics_against_a_twin(blocks, k, kind):
    """On the lattice and among shared points most comparisons are ties."""
    if kind == "lattice":
        x, s = (torch.randint(0, 4, (n, 3), generator=_generator(n)).double() / 16 for n in (50, 41))
    else:
        s, x = _clouds(41, 50, 3)
    if kind == "shared":
        s[:25] = x[10:35]
    expected = _twin(s.numpy(), x.numpy(), k)
    got = (*metrics.precision_recall(s, x, k=k), *metrics.density_coverage(s, x, k=k))
    assert got == pytest.approx(expected, rel=1e-12)


def test_coverage_of_the_same_law_has_its_known_expectation():
    n, m, k = 60, 45, 5
    exact = 1 - math.prod((n - i) / (n + m - i) for i in range(1, k + 1))
    values = [metrics.density_coverage(*_clouds(m, n, 2, shift=0.0, seed=seed), k=k) for seed in range(80)]
    for index, expected in ((1, exact), (0, 1.0)):
        mean, spread = np.mean([v[index] for v in values]), np.std([v[index] for v in values])
        assert abs(mean - expected) < 4 * spread / math.sqrt(80) + (0.03 if index == 0 else 0)


def test_manifold_metrics_tell_missing_modes_from_bad_samples():
    g = _generator()
    near, far = torch.randn(100, 2, generator=g), torch.randn(100, 2, generator=g) + 50
    both = torch.cat([near, far])
    half, stray = torch.randn(100, 2, generator=g), torch.randn(100, 2, generator=g) - 50
    one_mode = metrics.precision_recall(half, both)
    assert one_mode.precision > 0.85 and 0.35 < one_mode.recall < 0.55
    assert metrics.density_coverage(half, both).coverage < 0.55
    assert metrics.precision_recall(torch.cat([half, stray]), near).precision < 0.55
    assert metrics.density_coverage(torch.cat([half, stray]), near).density < 0.7
    assert metrics.precision_recall(both, both) == (1.0, 1.0)


@pytest.mark.parametrize("k", [0, -1, 2.5])
def test_manifold_k_errors(k):
    x, y = _clouds()
    for function in (metrics.precision_recall, metrics.density_coverage):
        with pytest.raises(ValueError, match="k must be a whole number, at least 1"):
            function(x, y, k=k)
        with pytest.raises(ValueError, match="samples must hold at least 32 points: got 31"):
            function(y, x, k=31)
