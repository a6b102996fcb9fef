"""What eager calls of the masked inverse ask of the extension: its own node, tiles, threads and hooks."""

from dataclasses import replace

import pytest
import torch

import cgm_kernels
from cgm_kernels import masked_mlp_inverse
from tests.support.called import made_by
from tests.support.derivatives import waves
from tests.support.levels import simd_level
from tests.support.masked import ACTIVATIONS, Case, inputs_of, moved, results
from tests.support.tolerances import assert_as_accurate

pytestmark = pytest.mark.skipif(bool(cgm_kernels.backends.absence("native", "cpu")), reason="no native backend")

LARGE = [
    Case(40, (70, 33), (150,), order="natural"),
    Case(40, (70, 33), (150,), degrees="random", options={"map": "standardize", "scale": "tanh", "activation": "tanh"}),
    Case(19, (24, 24, 24, 24, 24), (65,), options={"residual": True, "scale": "softplus", "activation": "silu"}),
    Case(19, (24,), (33, 2), context=3, order="halves", row_bias=1, options={"scale": "gate", "activation": "gelu"}),
    Case(17, (), (129,), order="reversed", options={"scale": "tanh", "bound": 0.5}),
]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("case", LARGE, ids=str)
def test_masked_inverse_many_tiles_and_threads(case, threads):
    drawn = case.draw()
    exact, eager = (results("reference", moved(drawn, kind)) for kind in (torch.float64, torch.float32))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        first, second = (results("native", moved(drawn, torch.float32)) for _ in range(2))
        double = results("native", moved(drawn, torch.float64))
    finally:
        torch.set_num_threads(before)
    for ours, other, wide, *wanted in zip(first, second, double, exact, eager, strict=True):
        assert torch.equal(ours, other)
        assert_as_accurate(ours, *wanted)
        torch.testing.assert_close(wide, wanted[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"])
def test_masked_inverse_gradients_at_every_level(level):
    with simd_level(level):
        for case in LARGE:
            drawn = case.draw()
            expected = results("reference", moved(drawn, torch.float64))
            for ours, exact in zip(results("native", moved(drawn, torch.float64)), expected, strict=True):
                torch.testing.assert_close(ours, exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_masked_inverse_residual_gradients_of_every_activation(activation):
    case = Case(6, (8, 8, 8), (5,), context=1, options={"residual": True, "activation": activation})
    drawn = case.draw()
    for ours, exact in zip(
        *(results(name, moved(drawn, torch.float64)) for name in ("native", "reference")), strict=True
    ):
        torch.testing.assert_close(ours, exact, rtol=1e-9, atol=1e-9)


def test_masked_inverse_is_one_node():
    arguments = moved(Case(4, (6,)).draw(), torch.float32)
    for _ in range(2):  # a mask seen for the first time, and again
        x, log_det = masked_mlp_inverse(**arguments)
        assert "MaskedMlpInverse" in x.grad_fn.name() and log_det.grad_fn is x.grad_fn


def test_masked_inverse_parameters_may_change_before_the_backward():
    drawn = Case(6, (8,), context=1).draw()
    expected = results("reference", moved(drawn, torch.float64))
    arguments = moved(drawn, torch.float64)
    x, log_det = masked_mlp_inverse(**arguments)
    with torch.no_grad():
        for weight in arguments["weights"][1:]:  # with a context PyTorch itself keeps the first
            weight.add_(1.0)
    weight = torch.linspace(0.5, 1.5, x.numel(), dtype=x.dtype).reshape(x.shape)
    found = torch.autograd.grad((x * weight).sum() + 0.7 * log_det.square().sum(), inputs_of(arguments))
    torch.testing.assert_close(list(found), expected[2:])
    arguments = moved(Case(6, (8,)).draw(), torch.float64)
    x, _ = masked_mlp_inverse(**arguments)
    with torch.no_grad():
        arguments["weights"][1].add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(x.sum(), arguments["y"], create_graph=True)


def test_masked_inverse_batched_gradients():
    arguments = moved(Case(7, (12, 9), (2, 5), context=2).draw(), torch.float64)
    inputs = inputs_of(arguments)
    x, _ = masked_mlp_inverse(**arguments)
    cotangents = torch.eye(x.numel(), dtype=x.dtype).reshape(-1, *x.shape)
    batched = torch.autograd.grad(x, inputs, cotangents, is_grads_batched=True, retain_graph=True)
    single = [torch.autograd.grad(x, inputs, one, retain_graph=True) for one in cotangents]
    for ours, parts in zip(batched, zip(*single, strict=True), strict=True):
        torch.testing.assert_close(ours, torch.stack(parts))


def test_masked_inverse_takes_saved_tensors_at_any_strides():
    drawn = Case(7, (12, 9), (5,), row_bias=1, options={"map": "standardize"}).draw()
    expected = results("native", moved(drawn, torch.float64))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: torch.stack([t, t], -1)[..., 0]):
        found = results("native", moved(drawn, torch.float64))
    torch.testing.assert_close(found, expected)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize(
    "case", [replace(LARGE[2], rows=(5,)), replace(LARGE[3], rows=(3, 2)), Case(4, (6,), (0,))], ids=str
)
def test_masked_inverse_second_derivatives_of_the_node(case):
    """By every input from the gradients of every input, which the extension's node gives."""

    def second(backend):
        arguments = moved(drawn, torch.float64)
        inputs = inputs_of(arguments)
        with cgm_kernels.use_backend(backend):
            x, log_det = masked_mlp_inverse(**arguments)
        assert backend == "reference" or "MaskedMlpInverse" in made_by(x)
        first = torch.autograd.grad(x.sin().sum() + log_det.square().sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum((one * waves(one)).sum() for one in first), inputs)

    drawn = case.draw()
    torch.testing.assert_close(second("native"), second("reference"), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("batched", [False, True])
def test_masked_inverse_results_may_be_written_to(batched):
    """As those of a library's own layers, of which none keeps its result."""
    arguments = moved(Case(4, (6,), (3,), context=2, options={"scale": "tanh"}).draw(), torch.float64)
    inputs, found = inputs_of(arguments), []
    for written in (False, True):
        x, log_det = masked_mlp_inverse(**arguments)
        weights = torch.stack([torch.ones_like(x), waves(x)]) if batched else waves(x)
        x, log_det = (x.mul_(2.0), log_det.add_(1.0)) if written else (2.0 * x, log_det + 1.0)
        ones = torch.ones_like(log_det).expand(2, -1) if batched else torch.ones_like(log_det)
        found.append(torch.autograd.grad((x, log_det), inputs, (weights, ones), is_grads_batched=batched))
    torch.testing.assert_close(*found)


def test_masked_inverse_of_an_empty_batch_has_zero_gradients():
    arguments = moved(Case(4, (6,), (0,)).draw(), torch.float64)
    x, log_det = masked_mlp_inverse(**arguments)
    gradients = torch.autograd.grad(x.sum() + log_det.sum(), inputs_of(arguments))
    assert all(bool((gradient == 0).all()) for gradient in gradients)


def test_masked_inverse_frozen_parameters():
    drawn = Case(6, (8, 5), options={"map": "standardize"}).draw()
    gradients = []
    for name in ("native", "reference"):
        drawn["y"] = drawn["y"].detach().requires_grad_()
        with cgm_kernels.use_backend(name):
            x, _ = masked_mlp_inverse(**drawn)
        gradients.append(torch.autograd.grad(x.square().sum(), drawn["y"])[0])
    torch.testing.assert_close(*gradients)


def test_masked_inverse_gradients_in_compiled_graphs():
    drawn = Case(4, (6,), context=1).draw()
    eager, arguments = moved(drawn, torch.float64), moved(drawn, torch.float64)
    torch._dynamo.reset()
    compiled = torch.compile(lambda given: masked_mlp_inverse(**given), backend="aot_eager")
    for found, given in ((compiled(arguments), arguments), (masked_mlp_inverse(**eager), eager)):
        given["gradients"] = torch.autograd.grad(found[0].square().sum() + found[1].sum(), inputs_of(given))
    torch.testing.assert_close(arguments["gradients"], eager["gradients"])


def test_masked_inverse_under_compiled_autograd():
    gradients = []
    for compiled in (False, True):
        arguments = moved(Case(4, (6,)).draw(), torch.float64)
        x, log_det = masked_mlp_inverse(**arguments)
        loss = x.square().sum() + log_det.sum()
        if compiled:
            with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
                loss.backward()
        else:
            loss.backward()
        gradients.append([one.grad for one in inputs_of(arguments)])
    torch.testing.assert_close(*gradients)
