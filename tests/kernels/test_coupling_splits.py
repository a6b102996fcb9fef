"""Every split of small events that leaves a slice of features is taken, with the numbers of the definition."""

import itertools

import pytest
import torch
from torch.nn import functional as F

import cgm_kernels
from cgm_kernels import CouplingLayer, affine_coupling_mlp, affine_coupling_stack
from cgm_kernels.coupling.layout import passing_part
from cgm_kernels.coupling.scales import KINDS
from tests.support.coupling_stacks import Case

SIZES = range(1, 7)
EVENLY = {  # every set of features that some slice selects, by the number of features
    size: {
        tuple(range(size)[start:stop:step])
        for start, stop, step in itertools.product(range(size + 1), range(size + 1), range(1, size + 1))
    }
    for size in SIZES
}
PARTS = {
    (size, start, stop, step): tuple(range(size)[start:stop:step])
    for size in SIZES
    for start, stop, step in itertools.product(range(size), [*range(size + 1), None], range(1, size + 2))
}
ODD = [  # (size, split) at the edges: single features, the two ends, the middle
    (3, slice(1, None, 2)), (3, slice(1, 2)), (3, slice(0, 1)), (3, slice(0, None, 2)), (4, slice(1, 3)),
    (4, slice(0, None, 3)), (5, slice(0, None, 4)), (5, slice(1, None, 2)), (2, slice(1, None, 5)),
]  # fmt: skip
BACKENDS = [name for name in ("reference", "native") if cgm_kernels.backends.absence(name, "cpu") is None]


def rest(size, moved):
    return tuple(feature for feature in range(size) if feature not in moved)


@pytest.mark.parametrize("size", SIZES)
def test_whatever_leaves_a_slice_is_taken(size):
    for (n, start, stop, step), moved in PARTS.items():
        left, split = rest(size, moved), slice(start, stop, step)
        if n != size:
            continue
        if left in EVENLY[size]:
            assert tuple(range(size)[passing_part(split, size)]) == left, split
        else:
            with pytest.raises(ValueError, match=f"split must leave a slice of the {size} channels"):
                passing_part(split, size)
    for start in range(size + 1):
        assert tuple(range(size)[passing_part(start, size)]) == tuple(range(start))


def perceptron(n_passing, n_moved, additive, seed=0):
    generator = torch.Generator().manual_seed(seed)
    widths = [n_passing, 8, n_moved if additive else 2 * n_moved]
    weights = [torch.randn(b, a, generator=generator, dtype=torch.float64) for a, b in itertools.pairwise(widths)]
    return weights, [torch.randn(b, generator=generator, dtype=torch.float64) for b in widths[1:]]


def sigma_of(s, scale):
    """With the default options: bound 2, offset 2."""
    return {
        "exp": s.exp(), "tanh": (2 * (s / 2).tanh()).exp(), "softclip": (s / (1 + (s / 2).abs())).exp(),
        "sigmoid": (s + 2).sigmoid(), "softplus": F.softplus(s + 2), "gate": s.sigmoid(),
    }[scale]  # fmt: skip


def defined(x, moved, weights, biases, scale, inverse):
    """The definition, feature by feature."""
    left = list(rest(x.shape[1], moved))
    h = F.linear(F.relu(F.linear(x[:, left], weights[0], biases[0])), weights[1], biases[1])
    n, y, log_det = len(moved), x.clone(), x.new_zeros(len(x))
    for number, feature in enumerate(moved):
        sigma = torch.ones(len(x), dtype=x.dtype) if scale == "none" else sigma_of(h[:, number], scale)
        shift = h[:, number] if scale == "none" else h[:, n + number]
        shift = (1 - sigma) * shift if scale == "gate" else shift
        y[:, feature] = (x[:, feature] - shift) / sigma if inverse else sigma * x[:, feature] + shift
        log_det = log_det - sigma.log() if inverse else log_det + sigma.log()
    return y, log_det


def assert_defined(size, split, backend, scale, inverse=False):
    moved = tuple(range(size)[split])
    x = torch.randn(5, size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    weights, biases = perceptron(size - len(moved), len(moved), scale == "none")
    expected = defined(x, moved, weights, biases, scale, inverse)
    options = dict(scale=scale, inverse=inverse)
    with cgm_kernels.use_backend(backend):
        alone = affine_coupling_mlp(x, weights, biases, split, **options)
        both = affine_coupling_stack(x, [CouplingLayer(weights, biases, split, **options)] * 2)
    torch.testing.assert_close(alone, expected, rtol=1e-11, atol=1e-11)
    again = defined(expected[0], moved, weights, biases, scale, inverse)
    torch.testing.assert_close(both, (again[0], expected[1] + again[1]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("scale", [*KINDS, "none"])
@pytest.mark.parametrize("size, split", ODD, ids=str)
def test_numbers_of_odd_splits(size, split, scale, inverse, backend):
    assert_defined(size, split, backend, scale, inverse)


@pytest.mark.parametrize("backend", BACKENDS)
def test_numbers_of_all_splits(backend):
    for (size, start, stop, step), moved in PARTS.items():
        if 0 < len(moved) < size < 6 and rest(size, moved) in EVENLY[size]:
            assert_defined(size, slice(start, stop, step), backend, "exp")


@pytest.mark.parametrize("size, split", [(3, slice(1, None, 2)), (4, slice(0, None, 3))], ids=str)
def test_triton(size, split):
    if cgm_kernels.backends.absence("triton", "cpu") is not None:
        pytest.skip("Triton does not run here")
    case = Case(size, split=split, n_layers=1, options=dict(scale="tanh"))
    tensors = case.draw()
    found, node = case.differentiated(tensors, "triton")
    expected, _ = case.differentiated(tensors, "reference")
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert "coupling_stack" in node
