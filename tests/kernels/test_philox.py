"""Philox4x32-10: the published vectors, equal bits in C++ and Python, and normals that agree to a few ulp."""

import numpy as np
import pytest
import torch

from cgm_kernels.philox import draw_key, noise_words, normal_reference, philox4x32, uniform
from tests.support.self_test import LEVELS, SUFFIX, call, library, ulps

# Random123's known answers: counter, key, result.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]
# Keys, groups of four elements and steps with and without high words; the last step is MALA's, its top bit set.
STREAMS = [
    (0, 0, 0),
    (-1, 2**32 - 5, 1),
    (-(2**63), 2**34 + 3, 2**32 + 7),
    (2**63 - 1, 2**61, 2**63 - 1),
    (0x123456789ABCDEF, 17, -(2**63) + 5),
]


def words_of(text):
    return [int(word, 16) for word in text.split()]


def normals(level, words, dtype, name="normal"):
    result = np.full(words.size, 7.0, dtype)
    call(getattr(library(level), f"cgm_self_test_{name}_{SUFFIX[np.dtype(dtype)]}"), words, result, words.size // 2)
    return result


def extreme_words():
    """Pairs of words at the ends of the interval, of the quadrants and of powers of two, and random ones."""
    ends = [0, 1, 2, 2**32 - 1, 2**32 - 2, 2**32 - 129, 3037000499, 3037000500]
    ends += [(k * 2**29 + offset) % 2**32 for k in range(8) for offset in (-1, 0, 1)]
    ends += [2**k for k in range(32)]
    pairs = np.stack(np.meshgrid(ends, ends), axis=-1).reshape(-1, 2)
    random = np.random.default_rng(0).integers(0, 2**32, (200_000, 2))
    return np.concatenate([pairs, random]).astype(np.uint32).reshape(-1)


def true_normals(words):
    """Box–Muller in extended precision from the quadrant's exact remainder."""
    u = (words[0::2].astype(np.longdouble) + 0.5) / 2**32
    radius = np.sqrt(-2 * np.log(u))
    shifted = words[1::2].astype(np.int64) + 2**29
    angle = ((shifted % 2**30) - 2**29 + np.longdouble(0.5)) / 2**30 * (2 * np.arctan(np.longdouble(1)))
    sine, cosine = np.sin(angle), np.cos(angle)
    quadrant = shifted // 2**30 % 4
    turned = [np.choose(quadrant, [cosine, -sine, -cosine, sine]), np.choose(quadrant, [sine, cosine, -sine, -cosine])]
    return (radius * np.stack(turned)).T.reshape(-1).astype(np.float64)


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers_python(counter, key, expected):
    low, high = words_of(key)
    assert philox4x32(low | high << 32, torch.tensor(words_of(counter))).tolist() == words_of(expected)


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers_cpp(counter, key, expected):
    words = np.zeros(4, np.uint32)
    arguments = np.array(words_of(key), np.uint32), np.array(words_of(counter), np.uint32)
    call(library("baseline").cgm_self_test_philox, *arguments, words)
    assert words.tolist() == words_of(expected)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("key", "group", "step"), STREAMS)
def test_cpp_words_equal_python_words(level, key, group, step):
    for n_groups in (1, 7, 64, 301):
        words = np.full(4 * n_groups + 4, 7, np.uint32)
        call(library(level).cgm_self_test_noise_words, key, group, step, words, n_groups)
        expected = noise_words(4 * n_groups, key, step, first_element=4 * group)
        np.testing.assert_array_equal(words[:-4], expected.numpy())
        assert (words[-4:] == 7).all()


@pytest.mark.parametrize("level", LEVELS)
def test_cpp_words_equal_python_words_at_random(level):
    generator = np.random.default_rng(5)
    for _ in range(50):
        key, step = (int(v) for v in generator.integers(-(2**63), 2**63 - 1, 2))
        group = int(generator.integers(0, 2**61))
        words = np.zeros(4 * 19, np.uint32)
        call(library(level).cgm_self_test_noise_words, key, group, step, words, 19)
        np.testing.assert_array_equal(words, noise_words(4 * 19, key, step, first_element=4 * group).numpy())


def test_counter_words_are_group_and_step():
    """The definition spelt out for one element: word = element mod 4 of (element / 4 low, high, step low, high)."""
    key, step, element = -3, 5 + (9 << 32), 4 * (2**33 + 11) + 2
    counter = torch.tensor([11, 2, 5, 9])
    assert noise_words(1, key, step, first_element=element).item() == philox4x32(key, counter)[2].item()


def test_words_of_a_part_are_part_of_the_words():
    whole = noise_words(40, 9, 2)
    for first in range(9):
        for count in range(9):
            assert noise_words(count, 9, 2, first_element=first).equal(whole[first : first + count])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("dtype", "bound"), [(np.float32, 4.0), (np.float64, 4.0)])
def test_cpp_normals(level, dtype, bound):
    words = extreme_words()
    truth = true_normals(words)
    assert ulps(normals(level, words, dtype), truth).max() <= bound
    # The scalar one calls the C library, whose own errors come on top.
    assert ulps(normals(level, words, dtype, "scalar_normal"), truth).max() <= bound + 2


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cpp_log_and_sincos_of_the_uniform(level, dtype):
    words = extreme_words()
    results = [np.full(words.size, 7.0, dtype) for _ in range(3)]
    call(getattr(library(level), f"cgm_self_test_uniform_{SUFFIX[np.dtype(dtype)]}"), words, *results, words.size)
    truth = np.log((words.astype(np.longdouble) + 0.5) / 2**32).astype(np.float64)
    assert ulps(results[0], truth).max() <= 1.5
    zeros = np.zeros_like(words)
    radius = np.sqrt(-2 * np.log(np.longdouble(2) ** -33)).astype(np.float64)
    circle = true_normals(np.stack([zeros, words], axis=-1).reshape(-1)).reshape(-1, 2) / radius
    assert ulps(results[1], circle[:, 1]).max() <= 2.0
    assert ulps(results[2], circle[:, 0]).max() <= 2.0


def test_normal_reference_is_the_definition():
    words = noise_words(2000, -77, 3)
    truth = true_normals(words.numpy().astype(np.uint32))
    assert ulps(normal_reference((2000,), -77, 3).numpy(), truth).max() <= 4
    assert normal_reference((40, 50), -77, 3).flatten().equal(normal_reference((2000,), -77, 3))
    assert normal_reference((1999,), -77, 3).equal(normal_reference((2000,), -77, 3)[:1999])
    half = normal_reference((2000,), -77, 3, dtype=torch.float16)
    assert half.equal(normal_reference((2000,), -77, 3).half())
    assert normal_reference((0, 3), 1).shape == (0, 3)
    assert normal_reference((), 1).shape == ()


def test_uniform_is_the_definition():
    u = uniform((3, 5), 12, 4)
    assert u.shape == (3, 5)
    assert (u.flatten() * 2**32 - 0.5).long().equal(noise_words(15, 12, 4))
    assert uniform((3, 5), 12, 4, dtype=torch.float32).equal(u.float())


def test_moments_and_independence():
    """Neighbouring keys, steps and elements: moments of 6·10⁴ normals and correlations within 4.5 standard errors."""
    n = 60_000
    streams = [normal_reference((n,), key, step) for key, step in [(1, 0), (2, 0), (1, 1), (1, 2**32), (1 + 2**32, 0)]]
    for z in streams:
        moments = [((z**k).mean().item(), mean, variance) for k, mean, variance in [(1, 0, 1), (2, 1, 2), (4, 3, 96)]]
        for measured, mean, variance in moments:
            assert abs(measured - mean) <= 4.5 * (variance / n) ** 0.5
        for lag in (1, 2, 4):
            assert abs((z[lag:] * z[:-lag]).mean().item()) <= 4.5 / n**0.5
    for i, z in enumerate(streams):
        for other in streams[:i]:
            assert abs((z * other).mean().item()) <= 4.5 / n**0.5
            assert abs((z[:-4] * other[4:]).mean().item()) <= 4.5 / n**0.5


def test_words_are_uniform():
    counts = torch.bincount(noise_words(2**20, 33) >> 24, minlength=256).double()
    chi_squared = ((counts - 4096) ** 2 / 4096).sum().item()
    assert abs(chi_squared - 255) <= 4.5 * 510**0.5


def test_draw_key_follows_the_seed():
    def keys(seed):
        generator = torch.Generator().manual_seed(seed)
        return [draw_key(generator) for _ in range(200)]

    assert keys(1) == keys(1)
    assert keys(1) != keys(2)
    assert len(set(keys(1))) == 200
    assert min(keys(1)) < -(2**62) and max(keys(1)) > 2**62, "the key uses 63 bits only"
    assert all(-(2**63) <= key < 2**63 for key in keys(1))
    torch.manual_seed(3)
    default = draw_key()
    torch.manual_seed(3)
    assert default == draw_key() == draw_key(torch.Generator().manual_seed(3))


def test_draw_key_refuses_other_generators():
    class CudaGenerator(torch.Generator):
        device = torch.device("cuda:0")

    with pytest.raises(ValueError, match=r"generator must be a CPU generator.*: got one on cuda:0"):
        draw_key(CudaGenerator())
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator or None: got int"):
        draw_key(3)


@pytest.mark.parametrize(
    ("counter", "error", "message"),
    [
        (torch.zeros(4), TypeError, "counter must be int64: got torch.float32"),
        (torch.zeros(3, 2, dtype=torch.int64), ValueError, r"counter must be \(..., 4\): got \(3, 2\)"),
    ],
)
def test_philox_errors(counter, error, message):
    with pytest.raises(error, match=message):
        philox4x32(0, counter)
