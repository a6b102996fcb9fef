"""The inverse of masked autoregressive networks, against their forward map and the usual inverse in float64."""

import math

import pytest
import torch
from torch.library import opcheck

import cgm_kernels
from cgm_kernels import masked_mlp_inverse
from cgm_kernels.coupling import masked_reference, reference, scales
from cgm_kernels.coupling.masked_plan import output_rows
from tests.support.backends import fused, running
from tests.support.derivatives import assert_further_derivatives, of_tensors
from tests.support.levels import simd_level
from tests.support.masked import CASES, Case
from tests.support.tolerances import assert_as_accurate

RUNNING, FUSED = (
    [pytest.param(*pair.values[0], id=pair.id, marks=pair.marks) for pair in pairs] for pairs in (running(), fused())
)
DTYPES = (torch.float32, torch.float64)
NETWORK = ("weights", "biases", "masks", "context")
CURVED = [
    Case(4, (6, 5), (3,), context=2, options={"scale": "tanh", "activation": "tanh"}),
    Case(3, (6,), (2, 2), degrees="random", row_bias=1, options={"map": "standardize", "activation": "silu"}),
    Case(4, (6, 6, 6), (3,), order="halves", options={"residual": True, "scale": "gate", "activation": "gelu"}),
    Case(4, (5,), (3,), options={"scale": "softplus", "layout": "interleaved_shift_scale"}),
]


def run(backend, arguments):
    with cgm_kernels.use_backend(backend):
        return masked_mlp_inverse(**arguments)


def cast(arguments, dtype):
    def one(value):
        if isinstance(value, list):
            return [one(item) for item in value]
        return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    return {name: one(value) for name, value in arguments.items()}


def leaves(arguments):
    tensors = [arguments["y"], *arguments["weights"], *arguments["biases"], arguments["context"]]
    return [t.requires_grad_() for t in tensors if t is not None]


def forward(x, arguments):
    """The map y(x) and its log-determinant, by its definition."""
    options = {"activation": "relu", "residual": False, "layout": "scale_shift", "map": "affine", **arguments}
    network = [options[name] for name in NETWORK]
    out = masked_reference.network(x, *network, options["activation"], options["residual"])
    rows = output_rows(x.shape[-1], options["layout"]).to(x.device)
    log_scale, shift = out[..., rows].unflatten(-1, (-1, 2)).unbind(-1)
    numbers = {"scale": "exp", "bound": 2.0, "offset": 2.0, "eps": 0.0}
    scale = scales.checked(**{name: options.get(name, value) for name, value in numbers.items()})
    return reference.affine(x, log_scale, shift, scale, 1, options["map"] == "standardize")


@pytest.mark.parametrize("backend, device", RUNNING)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_masked_inverse_forward(case, backend, device):
    arguments = case.draw(device=device)
    x, log_det = run(backend, arguments)
    y, back = forward(x, arguments)
    torch.testing.assert_close(y, arguments["y"], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(log_det, -back, rtol=1e-9, atol=1e-9)
    assert log_det.shape == arguments["y"].shape[:-1]


@pytest.mark.parametrize("backend, device", FUSED)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES[:8], ids=str)
def test_masked_inverse_accuracy_and_gradients(case, dtype, backend, device):
    drawn = case.draw(torch.float32, device)
    results = []
    for name, kind in ((backend, dtype), ("reference", torch.float64), ("reference", dtype)):
        arguments = cast(drawn, kind)
        inputs = leaves(arguments)
        x, log_det = run(name, arguments)
        weight = torch.linspace(0.5, 1.5, x.numel(), dtype=kind, device=device).reshape(x.shape)
        gradients = torch.autograd.grad((x * weight).sum() + 0.7 * log_det.square().sum(), inputs)
        results.append([x, log_det, *gradients])
    for ours, exact, eager in zip(*results, strict=True):
        assert_as_accurate(ours, exact, eager)


@pytest.mark.parametrize("backend, device", FUSED)
@pytest.mark.parametrize("case", CASES[8:], ids=str)
def test_masked_inverse_gradients_of_every_option(case, backend, device):
    results = []
    for name in (backend, "reference"):
        arguments = case.draw(device=device)
        inputs = leaves(arguments)
        x, log_det = run(name, arguments)
        results.append(torch.autograd.grad(x.square().sum() + log_det.sum(), inputs))
    for ours, exact in zip(*results, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-9, atol=1e-9)


# Not in Triton's interpreter, which takes its time: the backward is the same on all backends.
@pytest.mark.parametrize("backend, device", [pair for pair in FUSED if pair.id != "triton-cpu"])
def test_masked_inverse_gradcheck(backend, device):
    case = Case(
        3, (4, 4, 4), (2,), context=1, row_bias=1, options={"residual": True, "activation": "softplus", "scale": "tanh"}
    )
    arguments = case.draw(device=device)
    n_layers = len(arguments["weights"])

    def function(y, context, *parameters):
        given = {"y": y, "context": context, "weights": parameters[:n_layers], "biases": parameters[n_layers:]}
        return run(backend, {**arguments, **given})

    inputs = [arguments["y"], arguments["context"], *arguments["weights"], *arguments["biases"]]
    assert torch.autograd.gradcheck(function, [t.requires_grad_() for t in inputs])


@pytest.mark.parametrize("backend, device", FUSED)
def test_masked_inverse_of_one_output(backend, device):
    """A gradient that reaches x alone, the log-determinant alone, or only some inputs."""
    for choice in (0, 1):
        gradients = []
        for name in (backend, "reference"):
            arguments = CASES[3].draw(device=device)
            arguments["weights"][1].requires_grad_()
            gradients.append(torch.autograd.grad(run(name, arguments)[choice].sum(), arguments["weights"][1])[0])
        torch.testing.assert_close(*gradients)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("case", CURVED, ids=str)
@pytest.mark.parametrize("backend, device", FUSED)
def test_masked_inverse_further_derivatives(backend, device, case):
    call, inputs = of_tensors(masked_mlp_inverse, case.draw(device=device), ("masks",))
    assert_further_derivatives(call, [0.5 * one for one in inputs], backend)


@pytest.mark.parametrize("backend, device", FUSED)
def test_masked_inverse_functional_transforms(backend, device):
    """torch.func sees it: per-row gradients are those of the rows."""
    arguments = CASES[2].draw(device=device)
    y = torch.randn(3, 7, dtype=torch.float64, device=device)

    def loss(y, weight):
        x, log_det = run(backend, {**arguments, "y": y, "weights": [weight, *arguments["weights"][1:]]})
        return (x.square().sum(-1) + log_det).sum()

    weight = arguments["weights"][0]
    by_row = torch.func.vmap(torch.func.grad(loss), (0, None))(y, weight)
    torch.testing.assert_close(by_row, torch.func.grad(loss)(y, weight))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("with_masks", [True, False])
@pytest.mark.parametrize("backend, device", FUSED)
def test_masked_inverse_of_networks_stacked_twice(backend, device, with_masks):
    """torch.func.vmap, nested, over networks whose masks, or zeros, are stacked with them."""
    arguments, several = CASES[2].draw(device=device), (2, 3)
    masks = arguments["masks"]
    factors = torch.rand(several, dtype=torch.float64, device=device) + 0.5
    weights = [factors[..., None, None] * weight for weight in arguments["weights"]]
    if not with_masks:
        weights = [weight * mask for weight, mask in zip(weights, masks, strict=True)]
    stacked = [mask.expand(*several, *mask.shape) if with_masks else factors for mask in masks]

    def one(weights, masks):
        return run(backend, {**arguments, "weights": weights, "masks": masks if with_masks else None})

    found = torch.func.vmap(torch.func.vmap(one), in_dims=(1, 1), out_dims=1)(weights, stacked)
    for i in range(2):
        for j in range(3):
            expected = one([weight[i, j] for weight in weights], masks)
            for ours, other in zip(found, expected, strict=True):
                torch.testing.assert_close(ours[i, j], other)


@pytest.mark.parametrize("backend, device", FUSED)
def test_masked_inverse_refuses_other_masks_for_each_network(backend, device):
    arguments = CASES[2].draw(device=device)
    stacked = [torch.stack([mask, 0 * mask]) for mask in arguments["masks"]]
    with pytest.raises(ValueError, match=r"masks\[0\] must be the same in all that torch.func.vmap maps over"):
        torch.func.vmap(lambda *masks: run(backend, {**arguments, "masks": list(masks)}))(*stacked)


@pytest.mark.parametrize("backend, device", RUNNING)
def test_masked_inverse_empty_and_strided(backend, device):
    arguments = CASES[5].draw(device=device)
    expected = run(backend, arguments)
    arguments["y"] = torch.stack([arguments["y"]] * 2, -1).transpose(0, 1).contiguous().transpose(0, 1)[..., 1]
    arguments["weights"] = [weight.T.contiguous().T for weight in arguments["weights"]]
    for ours, other in zip(run(backend, arguments), expected, strict=True):
        torch.testing.assert_close(ours, other)
    empty = run(backend, {**arguments, "y": arguments["y"][:0], "context": arguments["context"][:0]})
    assert [tuple(t.shape) for t in empty] == [(0, 21), (0,)]


@pytest.mark.parametrize("backend, device", RUNNING)
def test_masked_inverse_shared_context_and_masked_weights(backend, device):
    arguments = CASES[3].draw(device=device)
    arguments["context"] = arguments["context"][0, 0, 0]
    expected = run(backend, arguments)
    masked = [weight * mask for weight, mask in zip(arguments["weights"], arguments["masks"], strict=True)]
    for changed in ({"weights": masked, "masks": None}, {"masks": [mask.float() for mask in arguments["masks"]]}):
        for ours, other in zip(run(backend, {**arguments, **changed}), expected, strict=True):
            torch.testing.assert_close(ours, other)


@pytest.mark.parametrize("backend, device", FUSED)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_masked_inverse_bad_rows_stay_alone(bad, backend, device):
    arguments = Case(6, (9, 8), (65,), context=1).draw(device=device)
    clean = run(backend, arguments)
    arguments["y"][7] = bad
    x, log_det = run(backend, arguments)
    others = torch.arange(65, device=device) != 7
    torch.testing.assert_close(x[others], clean[0][others], rtol=0, atol=0)
    torch.testing.assert_close(log_det[others], clean[1][others], rtol=0, atol=0)
    assert not x[7].isfinite().all()


def test_masked_inverse_follows_changed_masks():
    arguments = Case(5, (9,)).draw()
    first, _ = masked_mlp_inverse(**arguments)
    for mask, other in zip(arguments["masks"], Case(5, (9,), order="reversed").draw()["masks"], strict=True):
        mask.copy_(other)
    second, _ = masked_mlp_inverse(**arguments)
    assert not torch.allclose(first, second)
    torch.testing.assert_close(forward(second, arguments)[0], arguments["y"])


@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"])
@pytest.mark.skipif(bool(cgm_kernels.backends.absence("native", "cpu")), reason="no native backend")
def test_masked_inverse_at_every_level(level):
    with simd_level(level):
        for case in CASES[4:8]:
            drawn = case.draw(torch.float32)
            exact, eager = (run("reference", cast(drawn, kind)) for kind in (torch.float64, torch.float32))
            for ours, *others in zip(run("native", drawn), exact, eager, strict=True):
                assert_as_accurate(ours, *others)


@pytest.mark.parametrize("backend, device", FUSED)
def test_masked_inverse_half_and_autocast(backend, device):
    arguments = Case(4, (6,)).draw(torch.float32, device)
    expected = run(backend, arguments)
    half = run(backend, cast(arguments, torch.bfloat16))
    assert half[0].dtype is torch.bfloat16 and half[1].dtype is torch.float32
    torch.testing.assert_close(half[0].float(), expected[0], rtol=0.1, atol=0.1)
    with torch.autocast(device, dtype=torch.bfloat16):
        inside = run(backend, arguments)
    assert all(torch.equal(a, b) for a, b in zip(inside, expected, strict=True))


@pytest.mark.parametrize("backend, device", FUSED)
def test_masked_inverse_opcheck(backend, device):
    """The operators as eager calls reach them, caught on their way."""
    calls = []

    class Catch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if "masked_inverse" in str(function):
                calls.append((function, args))
            return function(*args, **(kwargs or {}))

    arguments = CASES[7].draw(device=device)
    arguments["y"].requires_grad_()
    with Catch():
        x, log_det = run(backend, arguments)
        (x.sum() + log_det.sum()).backward()
    assert len(calls) == 2
    for function, args in calls:
        detached = tuple(a.detach().clone() if isinstance(a, torch.Tensor) else a for a in args)
        opcheck(function, detached, test_utils=("test_schema", "test_faketensor"))
