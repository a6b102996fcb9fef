"""Metrics against SciPy, closed forms and plain float64 twins; the levels of the tests by simulation."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import cdist

from cgm_kernels import random_projections, sliced_wasserstein_distance
from cgm_models import metrics
from cgm_models.metrics import _pairwise, energy

DISTANCES = {
    "sliced_wasserstein": metrics.sliced_wasserstein,
    "energy_distance": metrics.energy_distance,
    "mmd": metrics.mmd,
}
REFUSING = {
    "energy_test": lambda x, y: metrics.energy_test(x, y, n_permutations=9),
    "copying_check": lambda x, y: metrics.copying_check(x, y, y),
    "precision_recall": metrics.precision_recall,
    "density_coverage": metrics.density_coverage,
}


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


def test_sliced_wasserstein_is_the_kernel_on_flat_events():
    x, y = _clouds(20, 20, 12)
    theta = random_projections(12, 64, generator=_generator(5), dtype=x.dtype)
    expected = sliced_wasserstein_distance(x, y, projections=theta)
    got = metrics.sliced_wasserstein(
        x.view(20, 3, 2, 2).requires_grad_(), y.view(20, 3, 2, 2), n_projections=64, generator=_generator(5)
    )
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)
    assert not got.requires_grad


def test_sliced_wasserstein_between_a_cloud_and_its_shift():
    x = torch.randn(500, 16, generator=_generator(), dtype=torch.float64)
    got = metrics.sliced_wasserstein(x, x + 1.0, n_projections=4000, generator=_generator(1))
    assert float(got) == pytest.approx(1.0, rel=0.03), "|shift| / sqrt(d)"
    assert metrics.sliced_wasserstein(x.float(), x.float()).dtype == torch.float32


def test_energy_distance_is_the_square_of_scipys_in_one_dimension(blocks):
    x, y = _clouds(d=1)
    expected = stats.energy_distance(x[:, 0].numpy(), y[:, 0].numpy()) ** 2
    assert float(metrics.energy_distance(x, y)) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("estimator, own", [("v", 0), ("u", 1)])
def test_energy_distance_against_all_pairs(blocks, estimator, own):
    x, y = _clouds(d=5)
    a, b = x.numpy(), y.numpy()
    n, m = len(a), len(b)
    expected = 2 * cdist(a, b).mean() - cdist(a, a).sum() / (n * (n - own)) - cdist(b, b).sum() / (m * (m - own))
    assert float(metrics.energy_distance(x, y, estimator=estimator)) == pytest.approx(expected, rel=1e-10)
    far = metrics.energy_distance(x + 1e4, y + 1e4, estimator=estimator)
    assert float(far) == pytest.approx(expected, rel=1e-6), "centring keeps the digits"


def _mean_norm(mean, std):
    """E|N(mean, std²)|"""
    return std * math.sqrt(2 / math.pi) * math.exp(-(mean**2) / (2 * std**2)) + mean * math.erf(mean / std / 2**0.5)


def test_energy_distance_between_gaussians():
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| for N(0, 1) and N(1, 2²), by the mean of a folded normal."""
    exact = 2 * _mean_norm(1.0, math.sqrt(5)) - _mean_norm(0.0, math.sqrt(2)) - _mean_norm(0.0, math.sqrt(8))
    values = []
    for seed in range(30):
        g = _generator(seed)
        x, y = torch.randn(400, 1, generator=g), 1 + 2 * torch.randn(400, 1, generator=g)
        values.append(float(metrics.energy_distance(x, y, estimator="u")))
    assert abs(np.mean(values) - exact) < 4 * np.std(values) / math.sqrt(30)


def test_energy_distance_of_equal_clouds_is_zero_and_v_is_never_negative():
    x, _ = _clouds()
    assert float(metrics.energy_distance(x, x[torch.randperm(len(x))])) == pytest.approx(0.0, abs=1e-12)
    assert float(metrics.energy_distance(x, x, estimator="u")) < 0


def test_energy_test_statistic_and_p_value_by_enumeration(blocks):
    """Of the 20 splits of six points the share at or above the observed one is the limit of the p-value."""
    pooled = np.array([0.0, 0.3, 1.1, 2.0, 2.6, 4.5])

    def statistic(chosen):
        a, b = pooled[list(chosen)][:, None], np.delete(pooled, list(chosen))[:, None]
        return 1.5 * (2 * cdist(a, b).mean() - cdist(a, a).mean() - cdist(b, b).mean())

    splits = [statistic(chosen) for chosen in itertools.combinations(range(6), 3)]
    observed = statistic((0, 1, 2))
    exact = np.mean([value >= observed - 1e-12 for value in splits])
    x = torch.tensor(pooled)[:, None]
    result = metrics.energy_test(x[:3], x[3:], n_permutations=4000, generator=_generator())
    assert result.statistic == pytest.approx(observed, rel=1e-9)
    assert result.p_value == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 4000))


def test_energy_test_of_a_cloud_with_itself_has_p_value_one():
    x = torch.randn(8, 3, generator=_generator())
    assert metrics.energy_test(x, x.clone(), n_permutations=200, generator=_generator()).p_value == 1.0


def test_energy_test_keeps_its_level():
    """With 19 permutations a p-value of at most 0.1 happens with probability exactly 0.1 under the hypothesis."""
    rejections, runs = 0, 400
    for seed in range(runs):
        g = _generator(seed)
        x, y = torch.randn(12, 2, generator=g), torch.randn(9, 2, generator=g)
        rejections += metrics.energy_test(x, y, n_permutations=19, generator=g).p_value <= 0.1
    assert stats.binomtest(rejections, runs, 0.1).pvalue > 1e-3


def test_energy_test_has_power_and_is_reproducible():
    x, y = _clouds(60, 60, shift=0.8)
    first = metrics.energy_test(x, y, generator=_generator(1))
    assert first.p_value == 0.001 and first.n_permutations == 999
    assert first == metrics.energy_test(x, y, generator=_generator(1))


def test_energy_test_in_rounds_of_few_permutations(monkeypatch):
    x, y = _clouds(20, 20, shift=0.2)
    whole = metrics.energy_test(x, y, n_permutations=99, generator=_generator(1))
    monkeypatch.setattr(energy, "_LABEL_ELEMENTS", 280)
    parts = metrics.energy_test(x, y, n_permutations=99, generator=_generator(1))
    assert parts.p_value == whole.p_value and parts.statistic == pytest.approx(whole.statistic, rel=1e-12)


@pytest.mark.parametrize("estimator, own", [("v", 0), ("u", 1)])
def test_mmd_against_all_pairs(blocks, estimator, own):
    x, y = _clouds(d=5)
    a, b = x.numpy(), y.numpy()

    def kernel(p, q):
        square = cdist(p, q, "sqeuclidean")
        return np.mean([np.exp(-square / (2 * sigma**2)) for sigma in (0.7, 2.0)], axis=0)

    def within(p):
        total = kernel(p, p)
        return (total.sum() - own * np.trace(total)) / (len(p) * (len(p) - own))

    expected = within(a) + within(b) - 2 * kernel(a, b).mean()
    got = metrics.mmd(x, y, estimator=estimator, bandwidths=[0.7, 2.0])
    assert float(got) == pytest.approx(expected, rel=1e-9)


def test_mmd_between_gaussians():
    """E k(X, Y) = (σ² / (σ² + s² + t²))^(d/2) exp(-|a - b|² / 2(σ² + s² + t²)) for N(a, s² I), N(b, t² I)."""
    sigma, s, t, d, shift = 1.5, 1.0, 1.4, 2, 0.9

    def mean_kernel(variance, square):
        total = sigma**2 + variance
        return (sigma**2 / total) ** (d / 2) * math.exp(-square / (2 * total))

    exact = mean_kernel(2 * s**2, 0) + mean_kernel(2 * t**2, 0) - 2 * mean_kernel(s**2 + t**2, d * shift**2)
    values = []
    for seed in range(30):
        g = _generator(seed)
        x, y = s * torch.randn(300, d, generator=g), shift + t * torch.randn(300, d, generator=g)
        values.append(float(metrics.mmd(x, y, bandwidths=[sigma])))
    assert abs(np.mean(values) - exact) < 4 * np.std(values) / math.sqrt(30)


def test_unbiased_mmd_has_mean_zero_under_equal_laws_and_the_biased_one_is_positive():
    unbiased, biased = [], []
    for seed in range(60):
        x, y = _clouds(40, 30, 2, shift=0.0, seed=seed)
        unbiased.append(float(metrics.mmd(x, y, bandwidths=[1.0])))
        biased.append(float(metrics.mmd(x, y, estimator="v", bandwidths=[1.0])))
    assert abs(np.mean(unbiased)) < 4 * np.std(unbiased) / math.sqrt(60)
    assert min(biased) > 0


def test_median_heuristic():
    x, y = _clouds(50, 41, 4)
    pooled = np.concatenate([x.numpy(), y.numpy()])
    pairs = np.sort(cdist(pooled, pooled)[np.triu_indices(91, 1)])
    assert metrics.median_heuristic(x, y) == pytest.approx(pairs[(len(pairs) - 1) // 2], rel=1e-12)
    got = metrics.mmd(x, y, multipliers=[0.5, 2.0])
    median = metrics.median_heuristic(x, y)
    torch.testing.assert_close(got, metrics.mmd(x, y, bandwidths=[median / 2, median * 2]))
    large = torch.randn(5000, 1, generator=_generator())
    theory = stats.norm.ppf(0.75) * math.sqrt(2)
    assert metrics.median_heuristic(large, large[:10]) == pytest.approx(theory, rel=0.05)


@pytest.mark.parametrize("given", [[], [0.0], [-1.0], [math.nan], [math.inf]])
@pytest.mark.parametrize("name", ["bandwidths", "multipliers"])
def test_mmd_bandwidth_errors(name, given):
    x, y = _clouds()
    with pytest.raises(ValueError, match=f"{name} must be one or more positive finite numbers"):
        metrics.mmd(x, y, **{name: given})


def test_mmd_without_a_median():
    with pytest.raises(ValueError, match="bandwidths must be given"):
        metrics.mmd(torch.zeros(5, 2), torch.zeros(5, 2))


@pytest.mark.parametrize("name", [*DISTANCES, *REFUSING])
def test_events_are_flattened_and_float32_is_taken(name):
    function = {**DISTANCES, **REFUSING}[name]
    x, y = _clouds(20, 18, 12)
    torch.manual_seed(0)
    flat = function(x.float(), y.float())
    torch.manual_seed(0)
    shaped = function(x.float().view(20, 3, 2, 2), y.float().view(18, 3, 2, 2))
    if name == "copying_check":
        assert (flat.closer, flat.ratio) == (shaped.closer, shaped.ratio)
    else:
        assert flat == shaped


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", list(DISTANCES))
@pytest.mark.parametrize("n", [1, 20])
def test_nan_and_infinity_in_give_nan(name, bad, n):
    x, y = _clouds(20, 18)
    x = x[:n].clone()
    x[0, 1] = bad
    options = {} if name == "sliced_wasserstein" else {"estimator": "v"}
    if name == "mmd":
        options["bandwidths"] = [1.0]
    assert math.isnan(DISTANCES[name](x, y, **options)) and math.isnan(DISTANCES[name](y, x, **options))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", list(REFUSING))
def test_nan_and_infinity_are_refused_where_an_order_is_asked(name, bad):
    x, y = _clouds(20, 18)
    y[3, 1] = bad
    with pytest.raises(ValueError, match=r"(y|train|reference) holds NaN or infinite values"):
        REFUSING[name](x, y)


@pytest.mark.parametrize("name", [*DISTANCES, *REFUSING])
def test_errors_name_the_argument(name):
    function = {**DISTANCES, **REFUSING}[name]
    x, y = _clouds(20, 18)
    with pytest.raises(ValueError, match=r"(y|train|reference) must have events of the size of (x|samples)'s"):
        function(x, y[:, :2])
    with pytest.raises(ValueError, match=r"(x|samples) must have shape \(n, \*event\): got \(20,\)"):
        function(x[:, 0], y)
    with pytest.raises(ValueError, match=r"(x|samples) must hold at least [146] points: got 0"):
        function(x[:0], y)
    with pytest.raises(TypeError, match=r"(x|samples) must be a floating-point tensor: got torch\.int64"):
        function(x.long(), y)
    with pytest.raises(TypeError, match=r"(y|train|reference) must be a floating-point tensor: got ndarray"):
        function(x, y.numpy())


def test_errors_of_options():
    x, y = _clouds()
    for function in (metrics.energy_distance, metrics.mmd):
        with pytest.raises(ValueError, match=r"estimator must be 'u' .* got 'w'"):
            function(x, y, estimator="w")
        with pytest.raises(ValueError, match="estimator 'u' needs at least 2 points"):
            function(x[:1], y, estimator="u")
    with pytest.raises(ValueError, match="n_permutations must be a whole number, at least 1"):
        metrics.energy_test(x, y, n_permutations=0)
