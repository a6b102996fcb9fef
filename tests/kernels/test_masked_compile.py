"""The masked inverse in graphs that torch.compile and torch.export make whole: its plan, errors, changing masks."""

import copy
import os
import shutil

import pytest
import torch
from torch.library import opcheck

import cgm_kernels
from cgm_kernels import masked_mlp_inverse
from cgm_kernels.coupling import masked_plan
from cgm_models import flows
from tests.support.backends import fused, running
from tests.support.masked import Case

PAIRS, FUSED = (
    [pytest.param(*pair.values[0], id=pair.id, marks=pair.marks) for pair in pairs] for pairs in (running(), fused())
)
NO_COMPILER = pytest.mark.skipif(shutil.which(os.environ.get("CXX") or "g++") is None, reason="no C++ compiler")
COMPILERS = ["eager", "aot_eager", pytest.param("inductor", marks=NO_COMPILER)]
CASES = [
    Case(7, (12,), (), order="natural"),
    Case(8, (16, 5, 7), order="halves", row_bias=1),
    Case(6, (9, 8), context=2, degrees="random", options={"map": "standardize", "layout": "interleaved_shift_scale"}),
    Case(6, (8, 8, 8), order="halves", options={"residual": True, "activation": "tanh", "scale": "softclip"}),
]


def compiled(function, backend="aot_eager"):
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, backend=backend)


def inputs_of(arguments):
    tensors = [arguments["y"], *arguments["weights"], *arguments["biases"], arguments["context"]]
    return [tensor.requires_grad_() for tensor in tensors if tensor is not None]


def results(function, arguments, change=None):
    inputs = inputs_of(arguments)
    x, log_det = function(**arguments)
    if change is not None:
        change()
    weight = torch.linspace(0.5, 1.5, x.numel(), dtype=x.dtype, device=x.device).reshape(x.shape)
    return [x, log_det, *torch.autograd.grad((x * weight).sum() + 0.7 * log_det.square().sum(), inputs)]


@pytest.mark.parametrize("backend, device", PAIRS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_masked_inverse_is_one_graph(case, backend, device):
    arguments = case.draw(device=device)
    with cgm_kernels.use_backend(backend):
        expected = results(masked_mlp_inverse, arguments)
        torch.testing.assert_close(results(compiled(masked_mlp_inverse), arguments), expected)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_masked_inverse_by_every_compiler(compiler):
    function = compiled(masked_mlp_inverse, compiler)
    arguments = CASES[3].draw()
    torch.testing.assert_close(results(function, arguments), results(masked_mlp_inverse, arguments))


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("kind", [flows.MAF, flows.IAF])
def test_models_both_ways(kind, compiler):
    torch.manual_seed(0)
    model = kind(dim=3, n_layers=2, hidden_features=(8,), context_dim=2).double()
    z, context = torch.randn(5, 3).double(), torch.randn(5, 2).double()
    parameters = list(model.parameters())

    def both(z, context):
        (x, forward), (back, reverse) = model.transform(z, context), model.transform.inverse(z, context)
        return x.sin().sum(-1) + forward + back.sin().sum(-1) - reverse

    found, expected = compiled(both, compiler)(z, context), both(z, context)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(one.sum(), parameters) for one in (found, expected)))


@pytest.mark.parametrize("kind", [flows.MAF, flows.IAF])
def test_models_sample(kind):
    model = kind(dim=3, n_layers=2, hidden_features=(8,))
    samples = []
    for sample in (model.sample, compiled(model.sample)):
        torch.manual_seed(0)
        samples.append(sample(5))
    torch.testing.assert_close(*samples)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_masks_may_change_between_runs(compiler):
    arguments = Case(5, (9,), order="natural").draw()
    function = compiled(masked_mlp_inverse, compiler)
    function(**arguments)

    def check():
        torch.testing.assert_close(function(**arguments), masked_mlp_inverse(**copy.deepcopy(arguments)))

    with torch._dynamo.config.patch(error_on_recompile=True):
        check()
        for write in (
            lambda mask, other: mask.copy_(other),
            lambda mask, other: mask.data.copy_(other),
            lambda mask, other: setattr(mask, "data", other.clone()),
        ):
            for order in ("halves", "reversed"):
                for mask, other in zip(arguments["masks"], Case(5, (9,), order=order).draw()["masks"], strict=True):
                    write(mask, other)
                check()
        arguments["masks"] = Case(5, (9,), degrees="random").draw()["masks"]
        check()


@pytest.mark.parametrize("backend, device", FUSED)
def test_masks_may_change_before_the_backward(backend, device):
    arguments = Case(5, (9,)).draw(device=device)
    masks = arguments["masks"]
    with cgm_kernels.use_backend(backend):
        expected = results(masked_mlp_inverse, arguments)
        found = results(compiled(masked_mlp_inverse), arguments, lambda: [mask.fill_(True) for mask in masks])
    torch.testing.assert_close(found, expected)


def test_zeros_of_weights_as_masks_in_a_graph():
    arguments = Case(4, (6,), context=1).draw()
    arguments["weights"] = [w * mask for w, mask in zip(arguments["weights"], arguments.pop("masks"), strict=True)]
    function = compiled(masked_mlp_inverse)
    for _ in range(2):
        torch.testing.assert_close(results(function, arguments), results(masked_mlp_inverse, arguments))
        with torch.no_grad():
            arguments["weights"][1][0] = 0.0


@pytest.mark.parametrize("backend, device", PAIRS)
def test_wrong_masks_in_a_graph(backend, device):
    arguments = Case(3, (4,)).draw(device=device)
    masks = arguments["masks"]
    with cgm_kernels.use_backend(backend):
        function = compiled(masked_mlp_inverse)
        function(**arguments)
        with pytest.raises(ValueError, match=r"masks must be autoregressive in some order .* \[0, 1, 2\]"):
            function(**{**arguments, "masks": [torch.ones_like(mask) for mask in masks]})
        with pytest.raises(ValueError, match=r"masks\[0\] must hold 0 and 1 only"):
            function(**{**arguments, "masks": [0.5 * mask for mask in masks]})


def test_a_graph_keeps_its_plan(monkeypatch):
    made = []
    make = masked_plan.make_plan
    monkeypatch.setattr(masked_plan, "make_plan", lambda *arguments: made.append(1) or make(*arguments))
    arguments = Case(4, (6,)).draw()
    function = compiled(masked_mlp_inverse)
    for _ in range(3):
        function(**arguments)
    assert len(made) == 1


def test_any_number_of_rows_and_dimensions():
    arguments = Case(3, (4,)).draw()
    function = compiled(masked_mlp_inverse)
    for rows in (7, 9, 1, 0):
        given = {**arguments, "y": torch.randn(rows, 3, dtype=torch.float64)}
        torch.testing.assert_close(function(**given), masked_mlp_inverse(**given))
    function = torch.compile(masked_mlp_inverse, fullgraph=True, backend="aot_eager", dynamic=True)
    for dim in (3, 5):
        given = Case(dim, (11,)).draw()
        torch.testing.assert_close(function(**given), masked_mlp_inverse(**given))


def test_transforms_in_a_compiled_function_find_the_plan_outside():
    drawn = Case(3, (4,)).draw()
    weights, masks = ([torch.stack([one, one]) for one in drawn[name]] for name in ("weights", "masks"))

    def mapped(y, weights, masks):
        return torch.func.vmap(lambda w, m: masked_mlp_inverse(y, w, drawn["biases"], m))(weights, masks)

    torch._dynamo.reset()
    found = torch.compile(mapped, backend="aot_eager")(drawn["y"], weights, masks)
    torch.testing.assert_close(found, mapped(drawn["y"], weights, masks))


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict):
    transform = flows.MAF(dim=3, n_layers=1, hidden_features=(8,)).double().transform
    z = torch.randn(5, 3, dtype=torch.float64)
    program = torch.export.export(transform, (z,), strict=strict)
    torch.testing.assert_close(program.module()(z), transform(z))
    assert "cgm_kernels.masked_plan" in str(program.graph)


@pytest.mark.parametrize("case", CASES[1:], ids=str)
def test_plan_opcheck(case):
    masks = [mask.double() for mask in case.draw()["masks"]]
    masks[0] = masks[0][:, : case.dim]  # without the context
    layout = case.options.get("layout", "scale_shift")
    opcheck(torch.ops.cgm_kernels.masked_plan, (masks, case.dim, layout, False, case.options.get("residual", False)))
