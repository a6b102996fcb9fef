"""What PyTorch asks of a stack of couplings: derivatives, transforms, compiled graphs and saved tensors."""

import pytest
import torch

import cgm_kernels
from cgm_kernels import affine_coupling_stack
from tests.support.backends import running
from tests.support.derivatives import assert_further_derivatives
from tests.support.mixed_stacks import ADDITIVE, OPTIONS, draw, leaves_of, stacked

NATIVE = [pair for pair in running() if pair.id == "native-cpu"]


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
