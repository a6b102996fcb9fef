"""Coupling layers one after another, against the layers one by one in float64."""

import pytest
import torch

import cgm_kernels
from cgm_kernels import affine_coupling_stack
from tests.support.backends import running
from tests.support.mixed_stacks import ADDITIVE, draw, leaves_of, one_by_one, results, stacked
from tests.support.tolerances import assert_as_accurate

NATIVE = [pair for pair in running() if pair.id == "native-cpu"]


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
