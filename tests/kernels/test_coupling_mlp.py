"""The whole coupling layer with its perceptron, against the composition of its parts in float64."""

import itertools

import pytest
import torch

import cgm_kernels
from tests.support.backends import running
from tests.support.called import made_by
from tests.support.derivatives import assert_further_derivatives
from tests.support.tolerances import assert_as_accurate

SPLITS = [(3, 7), (0, 4), (5, 6), (slice(0, 4), 7), (slice(2, None), 5), (slice(0, None, 2), 6), (slice(1, None, 2), 7)]
NATIVE = [pair for pair in running() if pair.id == "native-cpu"]


def draw(split, size, batch, hidden=(9, 8), dtype=torch.float64, seed=0):
    """x, a running total, a conditioning, the weights and the biases."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    moved = len(range(size)[split if isinstance(split, slice) else slice(split, None)])
    widths = [size - moved, *hidden, 2 * moved]
    weights = [normal(n, m) / max(m, 1) ** 0.5 for m, n in itertools.pairwise(widths)]
    biases = [normal(n) for n in widths[1:]]
    leaves = [normal(batch, size), normal(batch), normal(batch, widths[1]), *weights, *biases]
    return [leaf.to(dtype) for leaf in leaves]


def results(leaves, split, *, conditioned=True, running_total=True, **options):
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    x, log_det, conditioning, *layers = leaves
    half = len(layers) // 2
    y, total = cgm_kernels.affine_coupling_mlp(
        x,
        layers[:half],
        layers[half:],
        split,
        log_det if running_total else None,
        conditioning=conditioning if conditioned else None,
        **options,
    )
    weights = torch.linspace(-1, 2, y.numel()).reshape(y.shape).to(y)
    value = (y * weights).sum() + (total * torch.linspace(-2, 1, len(total)).to(total)).sum()
    grads = torch.autograd.grad(value, leaves, allow_unused=True)
    zeros = (torch.zeros_like(leaf) for leaf in leaves)
    return [y.detach(), total.detach(), *(z if g is None else g for g, z in zip(grads, zeros, strict=True))], made_by(y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("pair", [pair for pair in running() if "reference" not in pair.id])
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("activation", ["relu", "tanh", "silu"])
@pytest.mark.parametrize("split, size", SPLITS, ids=str)
def test_values_and_gradients(split, size, activation, inverse, pair, dtype):
    backend, device = pair
    options = dict(activation=activation, inverse=inverse, scale="tanh")
    leaves = [leaf.to(device) for leaf in draw(split, size, 6, dtype=dtype)]
    with cgm_kernels.use_backend("reference"):
        exact, _ = results([leaf.double() for leaf in leaves], split, **options)
        eager, _ = results(leaves, split, **options)
    with cgm_kernels.use_backend(backend):
        actual, node = results(leaves, split, **options)
    for one, true, plain in zip(actual, exact, eager, strict=True):
        if true.numel():
            assert_as_accurate(one, true, plain)
    fused = backend == "native" and device == "cpu" and activation != "silu"
    whole = split == 0 or (isinstance(split, slice) and split.step == 2)
    assert ("CouplingMlp" in node) == (fused and not whole)


@pytest.mark.parametrize("pair", NATIVE)
@pytest.mark.parametrize("layout", ["scale_shift", "shift_scale", "interleaved_scale_shift", "interleaved_shift_scale"])
@pytest.mark.parametrize("batch", [0, 1, 127, 3000])
@pytest.mark.parametrize("hidden", [(), (5,), (300, 70)], ids=str)
def test_batches_depths_and_layouts(hidden, batch, layout, pair):
    leaves = draw(2, 5, batch, hidden, torch.float64)
    for conditioned, running_total in ((False, True), (True, False)):
        options = dict(conditioned=conditioned, running_total=running_total, layout=layout, scale="sigmoid")
        with cgm_kernels.use_backend("reference"):
            expected, _ = results(leaves, 2, **options)
        actual, node = results(leaves, 2, **options)
        assert "CouplingMlp" in node
        for one, other in zip(actual, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
        with torch.no_grad():
            x, log_det, conditioning, *layers = leaves
            half = len(layers) // 2
            y, total = cgm_kernels.affine_coupling_mlp(
                x,
                layers[:half],
                layers[half:],
                2,
                log_det if running_total else None,
                conditioning=conditioning if conditioned else None,
                scale="sigmoid",
                layout=layout,
            )
        torch.testing.assert_close((y, total), tuple(expected[:2]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("pair", NATIVE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("batch", [1, 5, 6, 517])
@pytest.mark.parametrize("hidden", [(16,), (64, 64), (48, 80, 7)], ids=str)
def test_layers_whose_widths_are_whole_vectors(hidden, batch, activation, dtype, pair):
    leaves = draw(32, 64, batch, hidden, dtype)
    for conditioned, by_columns in ((False, False), (True, True)):
        options = dict(conditioned=conditioned, activation=activation, scale="tanh", inverse=conditioned)
        with cgm_kernels.use_backend("reference"):
            exact, _ = results([leaf.double() for leaf in leaves], 32, **options)
            eager, _ = results(leaves, 32, **options)
        given = [leaf.T.contiguous().T if by_columns and leaf.ndim == 2 else leaf for leaf in leaves]
        actual, node = results(given, 32, **options)
        assert "CouplingMlp" in node
        for one, true, plain in zip(actual, exact, eager, strict=True):
            assert_as_accurate(one, true, plain)


@pytest.mark.parametrize("pair", NATIVE)
@pytest.mark.parametrize("hidden", [(7, 8), (64, 64)], ids=str)
def test_nan_stays_in_its_row_of_whole_vectors(hidden, pair):
    leaves = draw(32, 64, 20, hidden, torch.float32)
    leaves[0][13, 5] = float("nan")
    (y, total, *_), _ = results(leaves, 32, scale="tanh")
    assert torch.equal(total.isnan().nonzero().flatten(), torch.tensor([13]))
    assert torch.equal(y.isnan().any(1), total.isnan())


@pytest.mark.parametrize("pair", NATIVE)
def test_strided_points_frozen_layers_and_one_output(pair):
    leaves = draw(2, 5, 40)
    layers = leaves[3:]
    wide = torch.zeros(40, 11, dtype=torch.float64)
    wide[:, 3:8] = leaves[0]
    for x in (wide[:, 3:8], leaves[0].T.contiguous().T):
        x = x.detach().requires_grad_()
        y, log_det = cgm_kernels.affine_coupling_mlp(x, layers[:3], layers[3:], 2)
        (alone,) = torch.autograd.grad(log_det.sum(), x, retain_graph=True)
        with cgm_kernels.use_backend("reference"):
            other, total = cgm_kernels.affine_coupling_mlp(x, layers[:3], layers[3:], 2)
            (expected,) = torch.autograd.grad(total.sum(), x)
        torch.testing.assert_close(y, other)
        torch.testing.assert_close(alone, expected)


@pytest.mark.parametrize("pair", NATIVE)
def test_gradcheck(pair):
    leaves = [leaf.requires_grad_() for leaf in draw(2, 5, 3)]

    def call(x, log_det, conditioning, *layers):
        return cgm_kernels.affine_coupling_mlp(
            x, layers[:3], layers[3:], 2, log_det, conditioning=conditioning, activation="tanh", scale="softclip"
        )

    assert torch.autograd.gradcheck(call, leaves)


@pytest.mark.parametrize("pair", NATIVE)
def test_compiled_graphs_and_transforms_take_the_composition(pair):
    x, log_det, _, *layers = draw(2, 5, 6)

    def call(x, *layers):
        y, total = cgm_kernels.affine_coupling_mlp(x, layers[:3], layers[3:], 2, log_det)
        return (y.square().sum() + total.sum()).sin()

    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(call(leaf, *layers), leaf)
    torch.testing.assert_close(torch.func.grad(call)(x, *layers), expected)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    (actual,) = torch.autograd.grad(compiled(leaf, *layers), leaf)
    torch.testing.assert_close(actual, expected)
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("pair", NATIVE)
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_further_derivatives(activation, inverse, pair):
    """By the layers, the conditioning and the total, too."""

    def call(x, log_det, conditioning, *layers):
        half = len(layers) // 2
        options = {"conditioning": conditioning, "activation": activation, "inverse": inverse, "scale": "tanh"}
        return cgm_kernels.affine_coupling_mlp(x, layers[:half], layers[half:], 2, log_det, **options)

    assert_further_derivatives(call, draw(2, 5, 4, (6, 5)), "native")


@pytest.mark.parametrize("pair", NATIVE)
def test_nan_stays_in_its_row(pair):
    leaves = draw(2, 5, 6)
    leaves[0][3, 0] = float("nan")
    y, total = cgm_kernels.affine_coupling_mlp(leaves[0], leaves[3:6], leaves[6:], 2)
    assert total[3].isnan() and total[[0, 1, 2, 4, 5]].isfinite().all() and y[[0, 1, 2, 4, 5]].isfinite().all()


x, _, _, *_layers = draw(2, 5, 4)
W, b = _layers[:3], _layers[3:]
WRONG = {
    "x must be a tensor": (TypeError, lambda: cgm_kernels.affine_coupling_mlp(None, W, b, 2)),
    "inverse must be True or False: got str": (
        TypeError,
        lambda: cgm_kernels.affine_coupling_mlp(x, W, b, 2, inverse="no"),
    ),
    r"x must be \(B, D\)": (ValueError, lambda: cgm_kernels.affine_coupling_mlp(x[0], W, b, 2)),
    "activation must be one of relu": (ValueError, lambda: cgm_kernels.affine_coupling_mlp(x, W, b, 2, activation="a")),
    "biases must be as many as weights": (ValueError, lambda: cgm_kernels.affine_coupling_mlp(x, W, b[:2], 2)),
    r"weights\[1\] must be \(out, 9\): got": (
        ValueError,
        lambda: cgm_kernels.affine_coupling_mlp(x, [W[0], W[2], W[1]], b, 2),
    ),
    r"biases\[2\] must be \(6,\)": (ValueError, lambda: cgm_kernels.affine_coupling_mlp(x, W, [b[0], b[1], b[0]], 2)),
    r"weights\[0\] must be \(out, 3\)": (ValueError, lambda: cgm_kernels.affine_coupling_mlp(x, W, b, 3)),
    r"conditioning must be \(4, 9\)": (
        ValueError,
        lambda: cgm_kernels.affine_coupling_mlp(x, W, b, 2, conditioning=x),
    ),
    r"weights\[2\] must give 4 numbers, .* of the 2 features that split transforms: got 6": (
        ValueError,
        lambda: cgm_kernels.affine_coupling_mlp(torch.cat([x[:, :2], x[:, :2]], 1), W, b, 2),
    ),
    r"weights\[0\] must have the dtype of x, torch.float64: got torch.float32": (
        TypeError,
        lambda: cgm_kernels.affine_coupling_mlp(x, [W[0].float(), *W[1:]], b, 2),
    ),
    "biases.1. must be on the device of x, cpu: got meta": (
        ValueError,
        lambda: cgm_kernels.affine_coupling_mlp(x, W, [b[0], b[1].to("meta"), b[2]], 2),
    ),
    "weights must be a list of tensors, one for each layer: got Tensor": (
        TypeError,
        lambda: cgm_kernels.affine_coupling_mlp(x, W[0], b, 2),
    ),
    "biases must be a list of tensors, one for each layer: got NoneType": (
        TypeError,
        lambda: cgm_kernels.affine_coupling_mlp(x, W, None, 2),
    ),
    "biases.0. must be a tensor: got NoneType": (
        TypeError,
        lambda: cgm_kernels.affine_coupling_mlp(x, W, [None, *b[1:]], 2),
    ),
    r"activation must be one of .*: got \['relu'\]": (
        ValueError,
        lambda: cgm_kernels.affine_coupling_mlp(x, W, b, 2, activation=["relu"]),
    ),
    "split must be an int or a slice: got float": (TypeError, lambda: cgm_kernels.affine_coupling_mlp(x, W, b, 2.0)),
    "split must be an int or a slice: got bool": (TypeError, lambda: cgm_kernels.affine_coupling_mlp(x, W, b, True)),
    "split must be a slice of integers": (
        TypeError,
        lambda: cgm_kernels.affine_coupling_mlp(x, W, b, slice(2.0, None)),
    ),
    "split must be between 0 and the number of channels, 5: got -1": (
        ValueError,
        lambda: cgm_kernels.affine_coupling_mlp(x, W, b, -1),
    ),
    "split must leave a slice": (ValueError, lambda: cgm_kernels.affine_coupling_mlp(x, W, b, slice(1, 3))),
    "scale must be one of": (ValueError, lambda: cgm_kernels.affine_coupling_mlp(x, W, b, 2, scale="a")),
}


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("message", WRONG)
def test_errors_name_the_argument(message, backend):
    if cgm_kernels.backends.absence(backend, "cpu"):
        pytest.skip("no extension")
    kind, call = WRONG[message]
    with cgm_kernels.use_backend(backend), pytest.raises(kind, match=message):
        call()
