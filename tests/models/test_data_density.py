"""The exact laws of the planar sets against independent samplers, quadrature and root finding."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad
from scipy.optimize import brentq
from sklearn.datasets import make_circles, make_moons, make_swiss_roll

from cgm_models import data

ENTROPY = {
    "8gaussians": 2.8319,
    "checkerboard": math.log(32.0),
    "circles": 3.2681,
    "moons": 0.2892,
    "pinwheel": 2.3178,
    "rings": 2.6232,
    "swissroll": 2.6697,
}
BINS, FINE = 24, 10


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """The tensors here are small: a second thread only waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _turned(radius, angle):
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _reference_draw(name, n):
    """The published generators, written down independently of ours: scikit-learn where it has the set, else NumPy."""
    rng = np.random.default_rng(7)
    if name == "moons":
        return make_moons(n, noise=0.05, random_state=7)[0]
    if name == "circles":
        return 3 * make_circles(n, factor=0.5, noise=0.08, random_state=7)[0]
    if name == "swissroll":
        return make_swiss_roll(n, noise=1.0, random_state=7)[0][:, [0, 2]] / 5
    if name == "rings":
        even = 2 * np.pi * np.arange(n // 4) / (n // 4)
        clean = np.concatenate([_turned(3 * share, even) for share in (1.0, 0.75, 0.5, 0.25)])
        return clean + rng.normal(scale=0.08, size=clean.shape)
    if name == "8gaussians":
        return (_turned(4.0, rng.integers(8, size=n) * np.pi / 4) + 0.5 * rng.normal(size=(n, 2))) / 1.414
    if name == "checkerboard":
        first = rng.uniform(-2, 2, n)
        second = rng.uniform(0, 1, n) - 2 * rng.integers(0, 2, n) + np.floor(first) % 2
        return 2 * np.stack([first, second], axis=1)
    f = rng.normal(size=(n, 2)) * [0.3, 0.1] + [1.0, 0.0]
    turn = 2 * np.pi / 5 * rng.integers(5, size=n) + 0.25 * np.exp(f[:, 0])
    z = 2 * (f[:, 0] + 1j * f[:, 1]) * np.exp(-1j * turn)
    return np.stack([z.real, z.imag], axis=1)


@pytest.fixture(scope="module", params=data.density_names())
def law_and_bins(request):
    """A law, its bin edges, and the probability of each bin by the midpoint rule on a ten times finer grid."""
    law = data.density(request.param)
    edges = [np.linspace(low, high, BINS + 1) for low, high in law.extent]
    steps = [(high - low) / (BINS * FINE) for low, high in law.extent]
    axes = [
        low + step * (torch.arange(BINS * FINE, dtype=torch.float64) + 0.5)
        for (low, _), step in zip(law.extent, steps, strict=True)
    ]
    p = law.log_prob(torch.cartesian_prod(*axes)).exp() * steps[0] * steps[1]
    return law, edges, p.view(BINS, FINE, BINS, FINE).sum(dim=(1, 3)).numpy()


def _chi_square_p_value(points, edges, probability):
    observed, _, _ = np.histogram2d(points[:, 0], points[:, 1], bins=edges)
    expected = probability / probability.sum() * len(points)
    dense = expected >= 5
    observed = np.append(observed[dense], len(points) - observed[dense].sum())
    expected = np.append(expected[dense], len(points) - expected[dense].sum())
    keep = expected > 1e-3
    if observed[~keep].sum() > 1:
        return 0.0
    return stats.chi2.sf(((observed - expected)[keep] ** 2 / expected[keep]).sum(), keep.sum() - 1)


def test_density_integrates_to_one(law_and_bins):
    assert law_and_bins[2].sum() == pytest.approx(1.0, abs=1e-4)


def test_density_agrees_with_our_sampler(law_and_bins):
    law, edges, probability = law_and_bins
    x = law.sample(40_000, _generator(1))
    assert x.shape == (40_000, 2) and x.dtype == torch.float32
    assert _chi_square_p_value(x.numpy(), edges, probability) > 1e-3


def test_density_agrees_with_the_published_generator(law_and_bins):
    law, edges, probability = law_and_bins
    assert _chi_square_p_value(_reference_draw(law.name, 40_000), edges, probability) > 1e-3


def test_chi_square_sees_a_wrong_density(law_and_bins):
    law, edges, probability = law_and_bins
    shifted = law.sample(40_000, _generator(1)).numpy() + 0.05
    assert _chi_square_p_value(shifted, edges, probability) < 1e-6


@pytest.mark.parametrize("name", data.density_names())
def test_entropy_is_minus_the_mean_log_density(name):
    law = data.density(name)
    entropy = law.entropy()
    assert entropy == pytest.approx(ENTROPY[name], abs=1e-4)
    log_p = law.log_prob(law.sample(40_000, _generator(2)).double())
    assert log_p.isfinite().all()
    standard_error = float(log_p.std()) / math.sqrt(len(log_p))
    assert -float(log_p.mean()) == pytest.approx(entropy, abs=4 * standard_error + 1e-12)


@pytest.mark.parametrize("name", data.density_names())
def test_each_class_is_a_density_of_its_own_points(name):
    law = data.density(name)
    x, labels = law.sample_labelled(4_000, _generator(3))
    conditional = law.log_prob(x.double(), labels)
    assert bool((conditional > -14).all()), "a point far out in the class it was drawn from"
    mixture = torch.logsumexp(law.class_log_prob(x.double()), 1) - math.log(law.n_classes)
    torch.testing.assert_close(law.log_prob(x.double()), mixture)
    torch.testing.assert_close(law.log_prob(x.double()[labels == 0], torch.tensor(0)), conditional[labels == 0])


def _arc_by_quad(x, centre, sign, noise):
    def integrand(t):
        square = (x[0] - centre[0] - sign * math.cos(t)) ** 2 + (x[1] - centre[1] - sign * math.sin(t)) ** 2
        return math.exp(-square / (2 * noise**2)) / (2 * math.pi * noise**2) / math.pi

    nearest = math.atan2(sign * (x[1] - centre[1]), sign * (x[0] - centre[0]))
    breaks = [t for t in (nearest + k * noise for k in range(-8, 9)) if 0 < t < math.pi]
    return quad(integrand, 0, math.pi, points=breaks, epsabs=0, epsrel=1e-12, limit=400)[0]


@pytest.mark.parametrize("noise", [0.02, 0.05, 0.3])
@pytest.mark.parametrize("point", [(1.0, 0.0), (0.0, 1.02), (0.5, 0.25), (-1.1, -0.1), (1.9, 0.6), (0.9, 0.7)])
def test_moons_against_adaptive_quadrature(point, noise):
    expected = 0.5 * (_arc_by_quad(point, (0, 0), 1, noise) + _arc_by_quad(point, (1, 0.5), -1, noise))
    got = data.Moons(noise).log_prob(torch.tensor([point], dtype=torch.float64))
    assert float(got) == pytest.approx(math.log(expected), abs=1e-9)


@pytest.mark.parametrize("point", [(0.3, -0.9), (0.0, 0.0), (2.8, 0.1), (-2.0, -2.4), (3.5, 1.0)])
def test_swissroll_against_adaptive_quadrature(point):
    def integrand(t):
        square = (point[0] - t * math.cos(t) / 5) ** 2 + (point[1] - t * math.sin(t) / 5) ** 2
        return math.exp(-square / (2 * 0.2**2)) / (2 * math.pi * 0.2**2) / (3 * math.pi)

    panels = np.linspace(1.5 * math.pi, 4.5 * math.pi, 60)
    expected = sum(quad(integrand, a, b, epsabs=0, epsrel=1e-12)[0] for a, b in pairwise(panels))
    got = data.SwissRoll().log_prob(torch.tensor([point], dtype=torch.float64))
    assert float(got) == pytest.approx(math.log(expected), abs=1e-9)


@pytest.mark.parametrize("radius", [0.0, 0.75, 1.4, 3.0])
def test_rings_against_quadrature_round_the_circle(radius):
    t = 2 * np.pi * np.arange(4000) / 4000
    expected = 0.0
    for ring in (3.0, 2.25, 1.5, 0.75):
        square = (radius - ring * np.cos(t)) ** 2 + (ring * np.sin(t)) ** 2
        expected += 0.25 * np.mean(np.exp(-square / (2 * 0.08**2))) / (2 * np.pi * 0.08**2)
    x = torch.tensor([[radius * math.cos(1.0), radius * math.sin(1.0)]], dtype=torch.float64)
    assert float(data.Rings().log_prob(x)) == pytest.approx(math.log(expected), abs=1e-10)


def _pinwheel_by_scan(x, blade):
    """Sum over sign changes of the angle equation on two million angles, each refined by root finding."""
    r, phi = math.hypot(*x) / 2, math.atan2(x[1], x[0])
    alpha = np.linspace(-math.pi, math.pi, 2_000_001)

    def turns_at(a):
        return (a - 0.25 * np.exp(r * np.cos(a)) - phi - 2 * math.pi * blade / 5) / (2 * math.pi)

    turns = turns_at(alpha)
    crossing = np.nonzero(np.floor(turns[1:]) != np.floor(turns[:-1]))[0]
    total = 0.0
    for i in crossing:
        whole = max(math.floor(turns[i]), math.floor(turns[i + 1]))
        a = brentq(lambda t, whole=whole: turns_at(t) - whole, alpha[i], alpha[i + 1], xtol=1e-15)
        f0, f1 = r * math.cos(a), r * math.sin(a)
        normal = math.exp(-(((f0 - 1) / 0.3) ** 2 + (f1 / 0.1) ** 2) / 2) / (2 * math.pi * 0.03)
        total += normal / abs(1 + 0.25 * f1 * math.exp(f0))
    return math.log(total / 4)


@pytest.mark.parametrize("f", [(1.0, 0.0), (0.3, -0.2), (1.7, 0.15), (2.6, -0.45), (2.4, -0.38), (3.4, -0.3)])
def test_pinwheel_against_a_scan_over_the_angle(f):
    """The last three lie where a blade folds over itself and an angle equation has three roots."""
    z = 2 * complex(*f) * np.exp(-1j * (2 * math.pi * 2 / 5 + 0.25 * math.exp(f[0])))
    x = (z.real, z.imag)
    for blade in (2, 3):
        got = data.Pinwheel().log_prob(torch.tensor([x], dtype=torch.float64), torch.tensor(blade))
        assert float(got) == pytest.approx(_pinwheel_by_scan(x, blade), rel=1e-6, abs=1e-6)


def test_pinwheel_is_finite_everywhere_and_right_at_the_origin():
    law = data.Pinwheel()
    x = torch.tensor([[0.0, 0.0], [1e-9, 0.0], [9.2, 0.3], [9.22, 0.3], [500.0, -40.0]], dtype=torch.float64)
    log_p = law.log_prob(x)
    assert log_p.isfinite().all()
    assert float(log_p[0]) == pytest.approx(-0.5 / 0.09 - math.log(2 * math.pi * 0.03 * 4), abs=1e-12)
    assert float(log_p[1]) == pytest.approx(float(log_p[0]), abs=1e-6)


@pytest.mark.parametrize("name", data.density_names())
def test_log_prob_dtype_nan_and_errors(name):
    law = data.density(name)
    x = torch.tensor([[0.3, 0.4], [math.nan, 0.0], [0.0, math.nan]])
    log_p = law.log_prob(x)
    assert log_p.dtype == torch.float32 and log_p.isnan().tolist() == [False, True, True]
    assert law.log_prob(torch.zeros(0, 2)).shape == (0,)
    with pytest.raises(ValueError, match=r"x must have shape \(n, 2\): got \(3,\)"):
        law.log_prob(torch.zeros(3))
    with pytest.raises(TypeError, match="x must be a floating-point tensor"):
        law.log_prob(torch.zeros(3, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="context must lie in"):
        law.log_prob(x, torch.tensor([0, 0, law.n_classes]))
    with pytest.raises(ValueError, match="n must be a whole number, at least 0"):
        law.sample(-1)


def test_checkerboard_points_are_never_on_an_edge():
    law = data.Checkerboard()
    x = law.sample(100_000, _generator(4))
    assert law.log_prob(x).isfinite().all()
    assert not bool((x == x.round()).any())


@pytest.mark.parametrize("noise", [0.0, -1.0, math.nan, math.inf])
def test_noise_must_be_positive(noise):
    with pytest.raises(ValueError, match="noise must be a positive finite number"):
        data.density("moons", noise=noise)
