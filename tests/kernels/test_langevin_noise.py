"""The noise of the Langevin operations: the published stream, accurate normals, and statistics of what kernels draw.

Bounds are 4.5 standard errors of the tested statistic, or a probability of 1e-6 by SciPy; seeds are fixed.
"""

import math

import numpy as np
import pytest
import scipy.stats
import torch

import cgm_kernels
from cgm_kernels.langevin import noise_state
from cgm_kernels.philox import noise_words, philox4x32
from tests.support.backends import fused, running
from tests.support.langevin import KEY, STEP, state
from tests.support.self_test import ulps

BOUND, UNLIKELY = 4.5, 1e-6
N = 40_000
NATIVE = [pair for pair in fused() if "native" in pair.id]  # an interpreter draws too slowly for all of these


def draw(pair, n, key, step, dtype=torch.float64):
    backend, device = pair
    with cgm_kernels.use_backend(backend):
        return cgm_kernels.normal(n, state=state(device, key, step), dtype=dtype, device=device).cpu()


def box_muller(words):
    """Normals of pairs of words, by NumPy in extended precision."""
    u, v = ((words[k::2].astype(np.longdouble) + 0.5) / 2**32 for k in (0, 1))
    radius, angle = np.sqrt(-2 * np.log(u)), 8 * np.arctan(np.longdouble(1)) * v
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1).reshape(-1).astype(np.float64)


@pytest.mark.parametrize("pair", running())
def test_normals_are_those_of_the_published_generator(pair):
    """Random123's known answer for counter 0 and key 0 is what elements 0 to 3 of key 0 at step 0 are made of."""
    published = np.array([0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8], dtype=np.uint32)
    np.testing.assert_allclose(draw(pair, 4, 0, 0).numpy(), box_muller(published), rtol=1e-12)
    everything = np.array([0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD], dtype=np.uint32)
    counter = torch.full((4,), 0xFFFFFFFF)
    assert philox4x32(-1, counter).tolist() == everything.tolist()


@pytest.mark.parametrize("pair", fused())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_normals_to_a_few_ulp(dtype, pair):
    for key, step in [(KEY, STEP), (3, 0), (-1, -1)]:
        words = noise_words(20_000, key, step).numpy().astype(np.uint32)
        exact = box_muller(words)
        found = draw(pair, 20_000, key, step, dtype).numpy()
        far = np.abs(exact) > 1e-3  # nearer to 0 the oracle's own angle has lost digits
        assert ulps(found[far], exact[far]).max() <= 6
        np.testing.assert_allclose(found, exact, rtol=0, atol=4 * np.finfo(found.dtype).eps)


@pytest.mark.parametrize("pair", running())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_moments_and_distribution(dtype, pair):
    z = draw(pair, N, 1, 0, dtype).double()
    for power, mean, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)]:
        assert abs((z**power).mean().item() - mean) <= BOUND * math.sqrt(variance / N)
    assert scipy.stats.kstest(z.numpy(), "norm").pvalue > UNLIKELY
    for lane in range(4):  # each word of a counter
        assert scipy.stats.kstest(z[lane::4].numpy(), "norm").pvalue > UNLIKELY
    assert 3.5 < z.abs().max() < 6.77, "the largest normal of 32 bits is 6.76"


@pytest.mark.parametrize("pair", NATIVE)
def test_pairs_fill_the_plane(pair):
    """Angles and radii of neighbouring elements, within a Box–Muller pair and across pairs, are independent."""
    z = draw(pair, N, 9, 4)
    for first, second in ((z[0::4], z[1::4]), (z[2::4], z[3::4]), (z[1::4], z[2::4])):
        angle = torch.atan2(second, first) / (2 * math.pi) + 0.5
        chi = 1 - torch.exp(-(first**2 + second**2) / 2)
        assert scipy.stats.kstest(angle.numpy(), "uniform").pvalue > UNLIKELY
        assert scipy.stats.kstest(chi.numpy(), "uniform").pvalue > UNLIKELY
        counts, _, _ = np.histogram2d(angle, chi, bins=8, range=[[0, 1], [0, 1]])
        assert scipy.stats.chisquare(counts.ravel()).pvalue > UNLIKELY


@pytest.mark.parametrize("pair", NATIVE)
def test_streams_do_not_correlate(pair):
    """Neighbouring keys, steps, high words of both, and the pairs that key + step would confuse."""
    sources = [(7, 0), (8, 0), (7, 1), (6, 1), (7, 2**32), (7 + 2**32, 0), (-8, 0), (7, -1), (0, 7), (7, 7)]
    streams = torch.stack([draw(pair, N, key, step) for key, step in sources])
    for values in (streams, streams.square() - 1, streams.abs() - math.sqrt(2 / math.pi)):
        correlation = torch.corrcoef(values) - torch.eye(len(sources))
        assert correlation.abs().max() <= 5.2 / math.sqrt(N)  # 4.5 standard errors, of 45 pairs
    for lag in (1, 2, 3, 4, 5, 8, 16, 1024):
        shifted = (streams[:, lag:] * streams[:, :-lag]).mean(1)
        assert shifted.abs().max() <= 5 / math.sqrt(N - lag)
        crossed = streams[:, lag:] @ streams[:, :-lag].T / (N - lag)
        assert crossed.abs().max() <= 5.5 / math.sqrt(N - lag)


@pytest.mark.parametrize("pair", NATIVE)
def test_steps_and_keys_never_alias(pair):
    """No two of 400 streams of neighbouring keys and steps share numbers, at whatever place."""
    rows = torch.stack([draw(pair, 64, key, step) for key in range(-10, 10) for step in range(20)])
    assert rows.flatten().unique().numel() >= rows.numel() - 2


@pytest.mark.parametrize("pair", running())
def test_uniforms_are_uniform_and_not_the_normals(pair):
    """The frequency of acceptance is the ratio, for every lane; the uniforms tell nothing of the step's normals."""
    backend, device = pair
    x = torch.zeros(N, 0, device=device)
    z = draw(pair, N, 21, 5)
    for probability in (0.1, 0.5, 0.9):
        ratio = torch.full((N,), math.log(probability), dtype=torch.float64, device=device)
        with cgm_kernels.use_backend(backend):
            accepted = cgm_kernels.mala_accept(x, x, ratio, state=state(device, 21, 5))[1].cpu().double()
        error = math.sqrt(probability * (1 - probability))
        for lane in range(4):
            assert abs(accepted[lane::4].mean() - probability) <= BOUND * error / math.sqrt(N / 4)
        for values in (z, z.square() - 1):
            assert abs(((accepted - probability) * values).mean()) <= BOUND * error * values.std() / math.sqrt(N)
        assert abs(
            ((accepted - probability)[1:] * (accepted - probability)[:-1]).mean()
        ) <= BOUND * error**2 / math.sqrt(N)


@pytest.mark.parametrize("pair", NATIVE)
def test_neighbouring_seeds_are_independent(pair):
    """What torch.manual_seed leads to: no noise of seed s appears at another step of seed s + 1."""
    backend, device = pair
    rows = []
    with cgm_kernels.use_backend(backend):
        for seed in range(20):
            source = noise_state(torch.Generator().manual_seed(seed), device)
            rows += [cgm_kernels.normal(2000, state=source, dtype=torch.float64, device=device).cpu() for _ in range(3)]
    correlation = torch.corrcoef(torch.stack(rows)) - torch.eye(len(rows))
    assert correlation.abs().max() <= 5.5 / math.sqrt(2000)


def test_noise_state():
    generator = torch.Generator().manual_seed(4)
    first, second = noise_state(generator), noise_state(generator)
    assert first.dtype is torch.int64 and first.shape == (2,) and first[1] == second[1] == 0
    assert first[0] != second[0]
    assert noise_state(generator.manual_seed(4)).equal(first)
    torch.manual_seed(4)
    assert noise_state().equal(first)
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator or None: got int"):
        noise_state(3)
