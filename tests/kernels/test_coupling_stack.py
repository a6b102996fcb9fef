"""Coupling layers one after another, against the layers one by one in float64."""

import itertools

import pytest
import torch

import cgm_kernels
from cgm_kernels import CouplingLayer, affine_coupling_stack
from tests.support.backends import running
from tests.support.called import made_by
from tests.support.derivatives import assert_further_derivatives
from tests.support.tolerances import assert_as_accurate

NATIVE = [pair for pair in running() if pair.id == "native-cpu"]
OPTIONS = [
    dict(scale="tanh"),
    dict(scale="exp", inverse=True, layout="interleaved_shift_scale"),
    dict(scale="softclip", activation="tanh", layout="shift_scale"),
    dict(scale="gate", inverse=True),
    dict(scale="none"),
]
ADDITIVE = [dict(scale="none", activation="tanh"), dict(scale="none", inverse=True)]


def draw(size, batch, n_layers, hidden=(16, 9), conditioned=(), dtype=torch.float64, seed=0):
    """x, a running total, and of every layer the weights, the biases and the conditioning."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    half, layers = size // 2, []
    for k in range(n_layers):
        passing, moved = (half, size - half) if k % 2 == 0 else (size - half, half)
        widths = [passing, *hidden, 2 * moved]
        weights = [0.5 * normal(n, m) / m**0.5 for m, n in itertools.pairwise(widths)]
        biases = [0.2 * normal(n) for n in widths[1:]]
        layers.append((weights, biases, normal(batch, widths[1]) if k in conditioned else None))
    return normal(batch, size), normal(batch), layers


def leaves_of(x, log_det, layers):
    tensors = [x, log_det]
    for weights, biases, conditioning in layers:
        tensors += [*weights, *biases, *([] if conditioning is None else [conditioning])]
    return tensors


def stacked(size, layers, options=OPTIONS):
    half, result = size // 2, []
    for k, (weights, biases, conditioning) in enumerate(layers):
        chosen = options[k % len(options)]
        if chosen["scale"] == "none":
            n_shifts = len(biases[-1]) // 2
            weights, biases = [*weights[:-1], weights[-1][:n_shifts]], [*biases[:-1], biases[-1][:n_shifts]]
        split = half if k % 2 == 0 else slice(0, half)
        result.append(CouplingLayer(weights, biases, split, conditioning=conditioning, **chosen))
    return result


def one_by_one(x, layers, log_det):
    for layer in layers:
        x, log_det = cgm_kernels.affine_coupling_mlp(
            x, layer.weights, layer.biases, layer.split, log_det, activation=layer.activation,
            conditioning=layer.conditioning, inverse=layer.inverse, scale=layer.scale, layout=layer.layout,
        )  # fmt: skip
    return x, log_det


def results(call, drawn, size, backend, running_total=True, dtype=None):
    dtype = dtype or drawn[0].dtype
    x, log_det, layers = drawn

    def leaf(tensor):
        return None if tensor is None else tensor.detach().to(dtype).clone().requires_grad_()

    x, log_det = leaf(x), leaf(log_det)
    layers = [([leaf(w) for w in ws], [leaf(b) for b in bs], leaf(c)) for ws, bs, c in layers]
    with cgm_kernels.use_backend(backend):
        y, total = call(x, stacked(size, layers), log_det if running_total else None)
        node = made_by(y)
        scalar = (y * torch.linspace(-1, 2, y.numel(), dtype=dtype).reshape(y.shape)).sum() + total.square().sum()
        leaves = leaves_of(x, log_det, layers)
        grads = torch.autograd.grad(scalar, leaves, allow_unused=not running_total)
    filled = (torch.zeros_like(at) if grad is None else grad for grad, at in zip(grads, leaves, strict=True))
    return [y.detach(), total.detach(), *filled], node


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size, hidden", [(7, (9, 8)), (32, (16, 32)), (64, (48,)), (5, ())], ids=str)
@pytest.mark.parametrize("batch", [1, 300])
@pytest.mark.parametrize("pair", [pair for pair in running() if "reference" not in pair.id])
def test_values_and_gradients(pair, batch, size, hidden, dtype):
    backend, device = pair
    drawn = draw(size, batch, 5, hidden, conditioned=(0, 3) if hidden else (), dtype=dtype)
    if device != "cpu":
        pytest.skip("the composition on other devices is tested layer by layer")
    exact, _ = results(one_by_one, drawn, size, "reference", dtype=torch.float64)
    plain, _ = results(one_by_one, drawn, size, "reference")
    actual, node = results(affine_coupling_stack, drawn, size, backend)
    for one, true, eager in zip(actual, exact, plain, strict=True):
        assert_as_accurate(one, true, eager)
    assert ("CouplingMlp" in node) == (backend == "native")


@pytest.mark.parametrize("batch", [0, 1, 1500])
@pytest.mark.parametrize("backend", ["reference", *(pair.values[0][0] for pair in NATIVE)])
def test_additive_layers_are_the_formula(backend, batch):
    x, log_det, layers = draw(7, batch, 3, (32, 5), conditioned=(1,))
    leaves = [leaf.requires_grad_() for leaf in leaves_of(x, log_det, layers)]
    y = x
    for k, (weights, biases, conditioning) in enumerate(layers):
        first, second = y[:, :3], y[:, 3:]
        h, moved = (first, second) if k % 2 == 0 else (second, first)
        for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            h = torch.nn.functional.linear(h, weight, bias)
            h = h + conditioning if number == 0 and conditioning is not None else h
            h = h if number == 2 else h.tanh() if k % 2 == 0 else h.relu()
        shift = h[:, : moved.shape[1]]
        moved = moved + shift if k % 2 == 0 else moved - shift
        y = torch.cat((first, moved) if k % 2 == 0 else (moved, second), 1)
    with cgm_kernels.use_backend(backend):
        found, total = affine_coupling_stack(x, stacked(7, layers, ADDITIVE), log_det)
        with torch.no_grad():
            alone, nothing = affine_coupling_stack(x, stacked(7, layers, ADDITIVE))
    torch.testing.assert_close([found, total, alone], [y, log_det, y])
    assert torch.equal(nothing, torch.zeros_like(log_det))
    found_grads, grads = (
        torch.autograd.grad(out.sin().sum(), leaves, retain_graph=True, allow_unused=True) for out in (found, y)
    )
    for leaf, one, other in zip(leaves, found_grads, grads, strict=True):
        torch.testing.assert_close(*(torch.zeros_like(leaf) if grad is None else grad for grad in (one, other)))
    vectors = torch.randn(2, *y.shape, dtype=y.dtype)
    batched = torch.autograd.grad(found, leaves[:1], vectors, is_grads_batched=True, retain_graph=True)
    expected = torch.autograd.grad(y, leaves[:1], vectors, is_grads_batched=True)
    torch.testing.assert_close(batched, expected)


@pytest.mark.parametrize("pair", NATIVE)
@pytest.mark.parametrize("batch", [0, 1, 1500])
def test_batches_in_tiles_with_and_without_gradients(batch, pair):
    drawn = draw(6, batch, 4, (40,), conditioned=(1,))
    for running_total in (False, True):
        expected, _ = results(one_by_one, drawn, 6, "reference", running_total)
        actual, _ = results(affine_coupling_stack, drawn, 6, "native", running_total)
        for one, other in zip(actual, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
        with torch.no_grad():
            found = affine_coupling_stack(drawn[0], stacked(6, drawn[2]), drawn[1] if running_total else None)
        torch.testing.assert_close(found, tuple(expected[:2]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("pair", NATIVE)
def test_the_points_given_are_not_written_to(pair):
    x, log_det, layers = draw(6, 200, 3)
    before = x.clone(), log_det.clone()
    with torch.no_grad():
        y, _ = affine_coupling_stack(x, stacked(6, layers), log_det)
    grad = torch.ones(200, 6, dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    torch.autograd.backward(affine_coupling_stack(leaf, stacked(6, layers), log_det)[0], grad)
    assert torch.equal(x, before[0]) and torch.equal(log_det, before[1]) and (grad == 1).all()
    assert y.data_ptr() != x.data_ptr()


@pytest.mark.parametrize("pair", NATIVE)
def test_forward_then_inverse_is_the_identity(pair):
    x, _, layers = draw(8, 50, 6)
    options = [dict(scale="tanh")]
    forth = stacked(8, layers, options)
    back = [layer._replace(inverse=True) for layer in reversed(forth)]
    there, total = affine_coupling_stack(x, forth)
    again, rest = affine_coupling_stack(there, back, total)
    torch.testing.assert_close(again, x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(rest, torch.zeros_like(rest), rtol=0, atol=1e-9)


@pytest.mark.parametrize("pair", NATIVE)
def test_log_det_is_that_of_the_jacobian(pair):
    x, _, layers = draw(4, 3, 4)
    stack = stacked(4, layers)
    _, log_det = affine_coupling_stack(x, stack)
    for row, value in zip(x, log_det, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda p: affine_coupling_stack(p[None], stack)[0][0], row)
        torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], value, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("pair", NATIVE)
def test_gradcheck(pair):
    x, log_det, layers = draw(5, 3, 3, (6,), conditioned=(1,))
    leaves = [leaf.requires_grad_() for leaf in leaves_of(x, log_det, layers)]
    assert torch.autograd.gradcheck(lambda *_: affine_coupling_stack(x, stacked(5, layers), log_det), leaves)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("pair", NATIVE)
@pytest.mark.parametrize("options", [*OPTIONS, ADDITIVE[1]], ids=str)
@pytest.mark.parametrize("first", [None, False, True])
def test_further_derivatives(first, options, pair):
    """Of layers of one direction and, with ``first``, where the first layer's is another than that of the rest."""
    x, log_det, layers = draw(5, 3, 3, (6,), conditioned=(1,))

    def call(x, log_det, *tensors):
        rest, given = iter(tensors), []
        for weights, biases, added in layers:
            own = [next(rest) for _ in (*weights, *biases)]
            given.append((own[: len(weights)], own[len(weights) :], None if added is None else next(rest)))
        stack = stacked(5, given, [options])
        if first is not None:
            stack = [stack[0]._replace(inverse=first), *(layer._replace(inverse=not first) for layer in stack[1:])]
        return affine_coupling_stack(x, stack, log_det)

    assert_further_derivatives(call, leaves_of(x, log_det, layers), "native", func=first is None)


@pytest.mark.parametrize("pair", NATIVE)
def test_transforms_and_compiled_graphs_take_the_composition(pair):
    x, _, layers = draw(6, 5, 3)

    def call(x):
        y, total = affine_coupling_stack(x, stacked(6, layers))
        return (y.square().sum() + total.sum()).sin()

    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(call(leaf), leaf)
    torch.testing.assert_close(torch.func.grad(call)(x), expected)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(leaf), leaf)[0], expected)
    torch._dynamo.reset()
    y, _ = affine_coupling_stack(leaf, stacked(6, layers))
    batch = torch.stack([torch.ones_like(y), torch.arange(30.0, dtype=torch.float64).reshape(5, 6)])
    (together,) = torch.autograd.grad(y, leaf, batch, is_grads_batched=True, retain_graph=True)
    for one, grad in zip(together, batch, strict=True):
        torch.testing.assert_close(one, torch.autograd.grad(y, leaf, grad, retain_graph=True)[0])


@pytest.mark.parametrize("pair", NATIVE)
def test_a_layer_that_is_not_fused_takes_the_composition_for_all(pair):
    x, log_det, layers = draw(6, 20, 3)
    mixed = stacked(6, layers)
    mixed[1] = mixed[1]._replace(activation="silu")
    for one, other in zip(affine_coupling_stack(x, mixed, log_det), one_by_one(x, mixed, log_det), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("pair", NATIVE)
def test_nan_stays_in_its_row(pair):
    x, log_det, layers = draw(64, 40, 4, (64, 64), dtype=torch.float32)
    x[17, 3] = float("nan")
    y, total = affine_coupling_stack(x, stacked(64, layers), log_det)
    assert torch.equal(total.isnan().nonzero().flatten(), torch.tensor([17]))
    assert torch.equal(y.isnan().any(1), total.isnan())


x, _, _drawn = draw(6, 4, 2)
LAYERS = stacked(6, _drawn)
WRONG = {
    "layers must be a list of CouplingLayer: got NoneType": (TypeError, lambda: affine_coupling_stack(x, None)),
    "layers must hold at least one": (ValueError, lambda: affine_coupling_stack(x, [])),
    r"layers\[1\]: must be a CouplingLayer: got tuple": (
        TypeError,
        lambda: affine_coupling_stack(x, [LAYERS[0], tuple(LAYERS[1])]),
    ),
    "x must be a tensor": (TypeError, lambda: affine_coupling_stack(None, LAYERS)),
    r"x must be \(B, D\)": (ValueError, lambda: affine_coupling_stack(x[0], LAYERS)),
    r"layers\[1\]: .*biases must be as many": (
        ValueError,
        lambda: affine_coupling_stack(x, [LAYERS[0], LAYERS[1]._replace(biases=LAYERS[1].biases[:2])]),
    ),
    r"layers\[1\]: .*inverse must be": (
        TypeError,
        lambda: affine_coupling_stack(x, [LAYERS[0], LAYERS[1]._replace(inverse="no")]),
    ),
    "log_det must": (ValueError, lambda: affine_coupling_stack(x, LAYERS, torch.zeros(3, dtype=x.dtype))),
}


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("message", WRONG)
def test_errors_name_the_argument(message, backend):
    if cgm_kernels.backends.absence(backend, "cpu"):
        pytest.skip("no extension")
    kind, call = WRONG[message]
    with cgm_kernels.use_backend(backend), pytest.raises(kind, match=message):
        call()


@pytest.mark.parametrize("pair", NATIVE)
@pytest.mark.parametrize("hidden", [(32,), (30,)], ids=str)
def test_saved_tensors_may_come_back_with_other_strides(hidden, pair):
    x, _, layers = draw(32, 20, 3, hidden, conditioned=(1,))
    leaves = leaves_of(x.requires_grad_(), torch.zeros(0), layers)
    leaves = [leaf.requires_grad_() for leaf in leaves if leaf.numel()]

    def gradients():
        y, total = affine_coupling_stack(x, stacked(32, layers))
        return y.square().sum() + total.sum()

    expected = torch.autograd.grad(gradients(), leaves)
    flip = lambda t: t.t().contiguous() if t.dim() == 2 else t  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(flip, lambda t: t.t() if t.dim() == 2 else t):
        value = gradients()
    torch.testing.assert_close(torch.autograd.grad(value, leaves), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("pair", NATIVE)
@pytest.mark.parametrize("hidden", [(32,), (30,)], ids=str)
def test_what_is_not_finite_passes_a_relu_as_in_pytorch(hidden, pair):
    x, _, layers = draw(32, 12, 1, hidden)
    grad = torch.ones(12, 32, dtype=torch.float64)
    grad[4, 20] = float("inf")
    weights = layers[0][0]
    for leaf in weights:
        leaf.requires_grad_()

    def nans(backend, batched=False):
        with cgm_kernels.use_backend(backend):
            y, _ = affine_coupling_stack(x, stacked(32, layers, [dict(scale="tanh")]))
        given = grad[None] if batched else grad
        return [one.isnan().sum().item() for one in torch.autograd.grad(y, weights, given, is_grads_batched=batched)]

    assert nans("native") == nans("native", batched=True) == nans("reference")


@pytest.mark.parametrize("pair", NATIVE)
def test_frozen_layers_and_stacks_beyond_the_cache(pair):
    x, log_det, layers = draw(8, 200, 4, (300, 300))  # each more than a tile's cache takes beside it
    x.requires_grad_()
    with cgm_kernels.use_backend("reference"):
        y, total = one_by_one(x, stacked(8, layers), log_det)
        expected = torch.autograd.grad(y.sum() + total.sin().sum(), x)
    y, total = affine_coupling_stack(x, stacked(8, layers), log_det)
    torch.testing.assert_close(torch.autograd.grad(y.sum() + total.sin().sum(), x), expected)
    layers[2][0][1].requires_grad_()
    y, total = affine_coupling_stack(x, stacked(8, layers), log_det)
    own = torch.autograd.grad(y.sum() + total.sin().sum(), [x, layers[2][0][1]])
    torch.testing.assert_close(own[:1], expected)
    assert own[1].abs().sum() > 0


@pytest.mark.parametrize("pair", NATIVE)
def test_only_what_a_backward_reads_is_kept(pair):
    x, _, layers = draw(6, 50, 2, (4,))
    held = {}
    for directions in ((False, False), (True, True), (False, True), (True, False)):
        stack = [layer._replace(inverse=way) for layer, way in zip(stacked(6, layers), directions, strict=True)]
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, to=sizes: to.append(t.shape) or t, lambda t: t):
            affine_coupling_stack(x.requires_grad_(), stack)
        held[directions] = sum(shape == (50, 6) for shape in sizes)  # of the ends; what lies between is one block
    assert held == {(False, False): 1, (True, True): 1, (False, True): 2, (True, False): 1}  # the last for derivatives
