"""What once went wrong in the couplings: stale plans, options that are not finite, lists under autocast."""

import pytest
import torch

import cgm_kernels

STRICT = [torch.tensor([[0.0, 0.0, 0.0], [1, 0, 0], [1, 1, 0]])]


def test_masks_in_the_zeros_of_weights_are_read_anew():
    generator = torch.Generator().manual_seed(0)
    mask = torch.cat([STRICT[0], STRICT[0]])
    weights, biases = [torch.zeros(6, 3)], [torch.zeros(6)]
    y = torch.randn(4, 3, generator=generator)
    cgm_kernels.masked_mlp_inverse(y, weights, biases)
    weights[0].data = torch.randn(6, 3, generator=generator) * mask
    found = cgm_kernels.masked_mlp_inverse(y, weights, biases)
    expected = cgm_kernels.masked_mlp_inverse(y, [weights[0].clone()], biases, [mask])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "option", [{"scale": "sigmoid", "offset": float("nan")}, {"scale": "tanh", "bound": float("inf")}]
)
def test_options_must_be_finite_on_every_path(option):
    x = torch.randn(4, 4)
    weights, biases = [torch.randn(4, 2)], [torch.randn(4)]
    for call in (
        lambda: cgm_kernels.affine_coupling(x, x, x, **option),
        lambda: cgm_kernels.affine_coupling_event(x, x, 2, **option),
        lambda: cgm_kernels.affine_coupling_mlp(x, weights, biases, 2, **option),
    ):
        with pytest.raises(ValueError, match="must be finite"):
            call()


def test_lists_are_widened_under_autocast():
    mask = torch.cat([STRICT[0], STRICT[0]])
    y, weight = torch.randn(4, 3), torch.randn(6, 3).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x, log_det = cgm_kernels.masked_mlp_inverse(y, [weight], [torch.zeros(6).bfloat16()], [mask])
    assert x.dtype is log_det.dtype is torch.float32


def test_compiled_graphs_take_changing_options():
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x, bound: cgm_kernels.affine_coupling(x, x, x, scale="tanh", bound=bound),
        fullgraph=True,
        backend="eager",
    )
    x = torch.randn(3, 4)
    for bound in (1.0, 2.0, 3.0):
        torch.testing.assert_close(compiled(x, bound), cgm_kernels.affine_coupling(x, x, x, scale="tanh", bound=bound))
    torch._dynamo.reset()


def of_actnorm(x, *layers):
    return cgm_kernels.affine_coupling_inverse(x, layers[0], layers[1])


def of_actnorm_of_images(x, *layers):
    return cgm_kernels.affine_coupling(x.view(4, 3, 1, 2), layers[0].view(3, 1, 1), layers[1].view(3, 1, 1))


def of_perceptron(x, *layers, **options):
    return cgm_kernels.affine_coupling_mlp(x, layers[:2], layers[2:4], 2, layers[4], conditioning=layers[5], **options)


def of_inverse_perceptron(x, *layers):
    options = {"activation": "tanh", "inverse": True, "layout": "interleaved_shift_scale"}
    return cgm_kernels.affine_coupling_mlp(x, layers[:2], layers[2:4], slice(0, 2), **options)


BATCHED = {
    of_actnorm: [(4, 3), (3,), (3,)],
    of_actnorm_of_images: [(4, 6), (3,), (3,)],
    of_perceptron: [(4, 5), (7, 2), (6, 7), (7,), (6,), (4,), (4, 7)],
    of_inverse_perceptron: [(4, 5), (7, 3), (4, 7), (7,), (4,)],
}


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("used", [(0, 1), (0,), (1,)], ids=str)
@pytest.mark.parametrize("call", BATCHED)
def test_fused_layers_take_batched_and_traced_gradients(call, used):
    generator = torch.Generator().manual_seed(0)
    leaves = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in BATCHED[call]]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    outputs = [call(*leaves)[i] for i in used]
    grads = [torch.randn(3, *output.shape, generator=generator, dtype=torch.float64) for output in outputs]

    def pull(*grads):
        found = torch.autograd.grad(outputs, leaves, grads, retain_graph=True, allow_unused=True)
        return [torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(leaves, found, strict=True)]

    expected = [torch.zeros(3, *leaf.shape, dtype=leaf.dtype) for leaf in leaves]
    with cgm_kernels.use_backend("reference"):
        plain = [call(*leaves)[i] for i in used]
        for k in range(3):
            row = torch.autograd.grad(plain, leaves, [g[k] for g in grads], retain_graph=True, allow_unused=True)
            for whole, grad in zip(expected, row, strict=True):
                whole[k] = 0.0 if grad is None else grad
    torch.testing.assert_close(list(torch.func.vmap(pull)(*grads)), expected)
    found = torch.autograd.grad(outputs, leaves, grads, retain_graph=True, allow_unused=True, is_grads_batched=True)
    for grad, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.zeros_like(exact) if grad is None else grad, exact)
    traced = torch.fx.experimental.proxy_tensor.make_fx(pull)(*(grad[0] for grad in grads))
    torch.testing.assert_close(traced(*(grad[1] for grad in grads)), [exact[1] for exact in expected])


@pytest.mark.parametrize("call", BATCHED)
def test_a_backward_where_autocast_is_on_keeps_its_precision(call):
    generator = torch.Generator().manual_seed(0)
    leaves = [torch.randn(shape, generator=generator).requires_grad_() for shape in BATCHED[call]]
    total = sum(output.square().sum() for output in call(*leaves))
    expected = torch.autograd.grad(total, leaves, retain_graph=True, allow_unused=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = torch.autograd.grad(total, leaves, allow_unused=True)
    torch.testing.assert_close(found, expected)
