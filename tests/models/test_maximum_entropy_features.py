"""The statistics against direct sums, their symmetries and their gradients."""

import itertools
import math

import numpy as np
import pytest
import torch

from cgm_models.ebm.features import FEATURES, FeatureList
from cgm_models.ebm.features_wavelet import wavelet_filters

FIELDS = ["autocovariance", "power_spectrum", "histogram", "convolution", "wavelets"]
POINTS = ["pair_counts", "neighbour_counts"]
SMALL = {
    "autocovariance": {"max_lag": 2},
    "power_spectrum": {"n_bins": 4, "n_angles": 3},
    "histogram": {"n_bins": 4},
    "convolution": {"n_filters": 3, "kernel_size": 3, "n_layers": 2},
    "wavelets": {"n_scales": 2, "n_orientations": 3, "max_shift": 1},
    "pair_counts": {"n_bins": 4},
    "neighbour_counts": {"n_counts": 4, "radius": 0.2},
}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def build(name, event_shape, **options):
    return FEATURES[name](event_shape, **{**SMALL[name], **options}).double()


def event(name, n=3):
    if name in POINTS:
        return draw(n, 6, 2).remainder(1.0)
    return draw(n, 2, 8, 8)


# --- direct sums


def test_autocovariance_of_a_signal():
    x = draw(3, 11)
    found = build("autocovariance", (11,), max_lag=5)(x)
    for lag in range(6):
        direct = sum(x[:, t] * x[:, (t + lag) % 11] for t in range(11))
        torch.testing.assert_close(found[:, lag], direct)


def test_autocovariance_of_an_image_holds_every_pair_of_opposite_lags_once():
    x = draw(2, 2, 6, 7)
    found = build("autocovariance", (2, 6, 7))(x)
    assert found.shape == (2, 13)
    direct = {}
    for dy, dx in itertools.product(range(-2, 3), repeat=2):
        value = (x * x.roll((-dy, -dx), (2, 3))).sum((1, 2, 3))
        direct[min((dy, dx), (-dy, -dx))] = value
    wanted = torch.stack(sorted(direct.values(), key=lambda v: float(v[0])), 1)
    order = found[0].argsort()
    torch.testing.assert_close(found[:, order], wanted)


@pytest.mark.parametrize("shape", [(9,), (8,), (1, 6, 8), (2, 5, 7)])
def test_power_spectrum_of_every_frequency(shape):
    x = draw(3, *shape)
    spatial = shape if len(shape) == 1 else shape[1:]
    found = build("power_spectrum", shape, n_bins=None)(x)
    fields = x.reshape(3, -1, *spatial).numpy()
    axes = tuple(range(2, 2 + len(spatial)))
    power = (np.abs(np.fft.fftn(fields, axes=axes)) ** 2).sum(1) / math.prod(spatial)
    direct: dict = {}
    for place in itertools.product(*map(range, spatial)):
        opposite = tuple(-i % n for i, n in zip(place, spatial, strict=True))
        direct[min(place, opposite)] = direct.get(min(place, opposite), 0.0) + power[(slice(None), *place)]
    # The mean goes with the lowest frequency, one cycle along the longest side.
    lowest = (*(0,) * (len(spatial) - 1), 1)
    direct[lowest] = direct[lowest] + direct.pop((0,) * len(spatial))
    wanted = np.stack(list(direct.values()), 1)
    np.testing.assert_allclose(found[:, found[0].argsort()], wanted[:, wanted[0].argsort()])
    np.testing.assert_allclose(found.sum(1), x.square().flatten(1).sum(1))


def test_power_of_a_wave_is_in_its_bin():
    t = torch.arange(32, dtype=torch.float64)
    feature = build("power_spectrum", (32,), n_bins=4)
    for cycles, bin in ((1, 0), (5, 1), (9, 2), (15, 3)):
        found = feature(torch.cos(2 * math.pi * cycles * t / 32)[None])[0]
        torch.testing.assert_close(found, 16.0 * torch.eye(4, dtype=torch.float64)[bin])
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    sectors = build("power_spectrum", (1, 16, 16), n_bins=1, n_angles=4)
    waves = [torch.cos(2 * math.pi * (a * x + b * y) / 16).double() for a, b in ((3, 0), (3, 3), (0, 3), (-3, 3))]
    found = sectors(torch.stack(waves)[:, None])
    assert found.shape == (4, 4)
    torch.testing.assert_close(found, 128.0 * torch.eye(4, dtype=torch.float64), rtol=1e-5, atol=1e-4)


def test_histogram():
    x = torch.tensor([[[[-1.0, 0.0], [0.5, 2.0]]]], dtype=torch.float64)
    feature = build("histogram", (1, 2, 2), n_bins=3, low=-1.0, high=1.0)
    direct = [sum(math.exp(-0.5 * (v - c) ** 2) for v in (-1.0, 0.0, 0.5, 2.0)) for c in (-1.0, 0.0, 1.0)]
    np.testing.assert_allclose(feature(x)[0], direct)


def test_convolution_is_a_network_of_circular_convolutions():
    x = draw(2, 1, 8, 8)
    feature = build("convolution", (1, 8, 8))
    feature.prepare(x)
    found = feature(x).reshape(2, 2, 3)

    def convolve(h, filters):
        total = 0
        for dy, dx in itertools.product((-1, 0, 1), repeat=2):
            total = total + torch.einsum("ncyx,kc->nkyx", h.roll((-dy, -dx), (2, 3)), filters[:, :, dy + 1, dx + 1])
        return total

    def smooth(h):
        return torch.log1p(h.exp()) + torch.log1p((-h).exp()) - 2 * math.log(2)

    h = x
    for layer, filters in enumerate(feature.filters):
        if layer:
            h = (h[..., ::2, ::2] + h[..., 1::2, ::2] + h[..., ::2, 1::2] + h[..., 1::2, 1::2]) / 4
        h = convolve(h, filters)
        h = smooth(h / h.transpose(0, 1).flatten(1).std(1)[:, None, None])
        torch.testing.assert_close(found[:, layer], h.sum((2, 3)))


def test_wavelets_by_direct_sums():
    x = draw(2, 1, 8, 8)
    J, L = 2, 3
    feature = build("wavelets", (1, 8, 8))
    feature.prepare(x)
    filters = wavelet_filters((8, 8), J, L).numpy()
    z = np.fft.ifft2(np.fft.fft2(x.numpy()) * filters)
    z = z / np.sqrt((np.abs(z) ** 2).mean((0, 2, 3), keepdims=True))
    w = z / np.sqrt(1 + np.abs(z) ** 2)
    m = np.abs(z) ** 2 / (1 + np.abs(z) ** 2)
    parts = [m.sum((2, 3))]
    parts.append(np.stack([(m[:, a] * m[:, b]).sum((1, 2)) for a in range(J * L) for b in range(a, J * L)], 1))
    shifts = [(0, 1), (1, -1), (1, 0), (1, 1)]
    moved = [
        (m[:, a] * np.roll(m[:, a], [-s * 2 ** (a // L) for s in shift], (1, 2))).sum((1, 2))
        for a in range(J * L)
        for shift in shifts
    ]
    parts.append(np.stack(moved, 1))
    phases = [(w[:, a] * np.conj(w[:, b]) ** 2).sum((1, 2)) for a in range(L) for b in range(L, 2 * L)]
    parts.append(np.stack([part for z in phases for part in (z.real, z.imag)], 1))
    np.testing.assert_allclose(feature(x), np.concatenate(parts, 1), rtol=1e-9, atol=1e-9)


def test_wavelets_cover_frequencies_evenly():
    """The squared responses and those of the opposite frequencies add up to the same over the octaves they cover."""
    size = 64
    filters = wavelet_filters((size, size), 4, 4)
    total = filters.square().sum(0)
    total = total + total.flip((0, 1)).roll((1, 1), (0, 1))
    frequency = torch.fft.fftfreq(size)
    radius = torch.stack(torch.meshgrid(frequency, frequency, indexing="ij")).square().sum(0).sqrt()
    inside = total[(radius > 0.05) & (radius < 0.37)]
    torch.testing.assert_close(inside, inside[0].expand_as(inside))


def test_pair_counts():
    x = torch.tensor([[[0.05, 0.5], [0.95, 0.5], [0.05, 0.9]]], dtype=torch.float64)
    distances = [0.1, 0.4, math.hypot(0.1, 0.4)]
    found = build("pair_counts", (3, 2), n_bins=2, max_distance=0.5, width=0.5)(x)[0]
    direct = [sum(math.exp(-0.5 * ((r - c) / 0.125) ** 2) for r in distances) for c in (0.125, 0.375)]
    np.testing.assert_allclose(found, direct, rtol=1e-8)


def test_neighbour_counts():
    x = draw(1, 6, 2).remainder(1.0)
    offset = x[0, :, None] - x[0]
    distance = (offset - offset.round()).norm(dim=-1)
    near = torch.sigmoid((0.2 - distance) / 0.02) * (1 - torch.eye(6))
    counts = near.sum(1)
    direct = [float(torch.exp(-0.5 * (counts - k) ** 2).sum()) for k in range(3)]
    direct.append(float(torch.exp(-0.5 * (counts - 3).clamp_max(0.0) ** 2).sum()))
    np.testing.assert_allclose(build("neighbour_counts", (6, 2))(x)[0], direct, rtol=1e-6)
    crowd = build("neighbour_counts", (6, 2))(torch.full((1, 6, 2), 0.5, dtype=torch.float64))[0]
    assert float(crowd[3]) == pytest.approx(6.0)


# --- symmetries, gradients, what they are made of


@pytest.mark.parametrize("name", FIELDS)
def test_statistics_of_fields_do_not_see_shifts(name):
    x = event(name)
    feature = build(name, (2, 8, 8))
    feature.prepare(x)
    shift = 2 if name == "convolution" else 3  # its layers see blocks of two pixels
    torch.testing.assert_close(feature(x), feature(x.roll((shift, -shift), (2, 3))))


@pytest.mark.parametrize("name", POINTS)
def test_statistics_of_points_see_neither_order_nor_place(name):
    x = event(name)
    feature = build(name, (6, 2))
    moved = (x[:, torch.tensor([3, 1, 5, 0, 2, 4])] + torch.tensor([0.3, 0.8])).remainder(1.0)
    torch.testing.assert_close(feature(x), feature(moved))


@pytest.mark.parametrize("name", [*FIELDS, *POINTS])
def test_gradients(name):
    x = event(name, 2).requires_grad_()
    feature = build(name, tuple(x.shape[1:]))
    with torch.no_grad():
        feature.prepare(x.detach())
    assert feature(x).shape == (2, feature.n_features)
    torch.autograd.gradcheck(lambda x: feature(x)[:, :: max(1, feature.n_features // 7)], x, atol=1e-5)


@pytest.mark.parametrize("name", [*FIELDS, *POINTS])
def test_gradients_are_finite_where_everything_meets(name):
    shape = (6, 2) if name in POINTS else (1, 8, 8)
    x = torch.zeros(1, *shape, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(build(name, shape)(x).sum(), x)
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("name", FIELDS)
def test_signals(name):
    feature = build(name, (32,))
    x = draw(3, 32)
    feature.prepare(x)
    found = feature(x)
    assert found.shape == (3, feature.n_features)
    shift = 2 if name == "convolution" else 3
    torch.testing.assert_close(found, feature(x.roll(shift, 1)))


def test_list_of_features():
    features = FeatureList((32,), ["histogram", {"name": "histogram", "n_bins": 3}, "autocovariance"]).double()
    x = draw(2, 32)
    split = features.split(features(x))
    assert {name: part.shape[1] for name, part in split.items()} == {
        "histogram": 12,
        "histogram 2": 3,
        "autocovariance": 9,
    }
    torch.testing.assert_close(split["histogram 2"], features.parts[1](x))
