"""One pass of masked autoregressive layers, against its definition in float64, and undone by masked_mlp_inverse."""

import pytest
import torch

import cgm_kernels
from cgm_kernels import masked_mlp_affine, masked_mlp_inverse
from cgm_kernels.coupling import masked_reference, reference, scales
from cgm_kernels.coupling.masked_plan import output_rows
from tests.support.backends import fused, running
from tests.support.called import made_by
from tests.support.masked import CASES, Case
from tests.support.tolerances import assert_as_accurate

RUNNING, FUSED = (
    [pytest.param(*pair.values[0], id=pair.id, marks=pair.marks) for pair in pairs] for pairs in (running(), fused())
)
NATIVE = pytest.mark.parametrize("backend, device", [pair for pair in RUNNING if pair.id == "native-cpu"])
NETWORK = ("weights", "biases", "masks", "context")
WIDE = [
    Case(16, (32, 64), (300,), context=3, options={"activation": "tanh", "scale": "tanh"}),
    Case(64, (64, 48), (130,), options={"map": "standardize"}),
    Case(5, (1025,), (3,)),
    Case(16, (32, 48, 32, 16, 32), (300,), context=2, options={"residual": True, "map": "standardize"}),
    Case(16, (32, 32, 32), (130,), options={"residual": True, "activation": "tanh"}),
    Case(6, (32,), (9,), options={"residual": True}),
]


def given(case, dtype=torch.float64, device="cpu"):
    arguments = case.draw(dtype, device)
    return arguments.pop("y"), arguments


def definition(x, arguments):
    """y and the log-determinant by PyTorch, differentiable to any order."""
    options = {"activation": "relu", "residual": False, "layout": "scale_shift", "map": "affine", **arguments}
    masks = None if options["masks"] is None else [mask.to(x.dtype) for mask in options["masks"]]
    network = [masks if name == "masks" else options[name] for name in NETWORK]
    out = masked_reference.network(x, *network, options["activation"], options["residual"])
    log_scale, shift = out[..., output_rows(x.shape[-1], options["layout"])].unflatten(-1, (-1, 2)).unbind(-1)
    numbers = {"scale": "exp", "bound": 2.0, "offset": 2.0, "eps": 0.0}
    scale = scales.checked(**{name: options.get(name, value) for name, value in numbers.items()})
    return reference.affine(x, log_scale, shift, scale, 1, options["map"] == "standardize")


def with_gradients(function, x, arguments):
    leaves = [x, *arguments["weights"], *(b for b in arguments["biases"] if b is not None)]
    leaves += [] if arguments["context"] is None else [arguments["context"]]
    for leaf in leaves:
        leaf.requires_grad_()
    y, log_det = function(x, arguments)
    value = (y * torch.linspace(-1, 2, y.numel()).reshape(y.shape).to(y)).sum() + 0.7 * log_det.square().sum()
    return [y, log_det, *torch.autograd.grad(value, leaves)], made_by(y)


def ours(x, arguments):
    return masked_mlp_affine(x, **arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("backend, device", FUSED)
@pytest.mark.parametrize("case", [*CASES, *WIDE], ids=str)
def test_values_and_gradients(case, backend, device, dtype):
    exact, _ = with_gradients(definition, *given(case, device=device))
    eager, _ = with_gradients(definition, *given(case, dtype, device))
    with cgm_kernels.use_backend(backend):
        actual, node = with_gradients(ours, *given(case, dtype, device))
    for one, true, plain in zip(actual, exact, eager, strict=True):
        assert_as_accurate(one, true, plain)
    composed = case.row_bias is not None or max(case.hidden, default=0) > 1024
    fuses = backend == "native" and device == "cpu" and not composed
    if len(case.rows) == 1:  # else what one sees is the view
        assert ("CouplingMlp" in node) == (fuses and case.options.get("activation", "relu") in ("relu", "tanh"))


@pytest.mark.parametrize("backend, device", RUNNING)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_inverse_goes_back(case, backend, device):
    x, arguments = given(case, device=device)
    with cgm_kernels.use_backend(backend):
        y, log_det = masked_mlp_affine(x, **arguments)
        back, reverse = masked_mlp_inverse(y, **arguments)
    torch.testing.assert_close(back, x, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(reverse, -log_det, rtol=1e-8, atol=1e-8)


def test_log_det_is_that_of_the_jacobian():
    x, arguments = given(Case(5, (12, 9), (), context=2, options={"map": "standardize", "scale": "tanh"}))
    jacobian = torch.func.jacrev(lambda point: masked_mlp_affine(point, **arguments)[0])(x)
    _, log_det = masked_mlp_affine(x, **arguments)
    torch.testing.assert_close(log_det, torch.linalg.slogdet(jacobian).logabsdet)


@NATIVE
@pytest.mark.parametrize("map", ["affine", "standardize"])
@pytest.mark.parametrize("scale", ["tanh", "gate"])
def test_gradcheck(map, scale, backend, device):
    x, arguments = given(Case(3, (4,), (5,), context=1, options={"map": map, "scale": scale, "activation": "tanh"}))
    n = len(arguments["weights"])

    def function(x, context, *parameters):
        changed = {"context": context, "weights": parameters[:n], "biases": parameters[n:]}
        return masked_mlp_affine(x, **{**arguments, **changed})

    leaves = [x, arguments["context"], *arguments["weights"], *arguments["biases"]]
    assert torch.autograd.gradcheck(function, [leaf.requires_grad_() for leaf in leaves])


@NATIVE
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_batched_gradients_are_those_of_the_rows(activation, backend, device):
    """Gradients of several results at once take operators that the dispatcher knows."""
    x, arguments = given(Case(5, (9, 4, 9), (7,), options={"residual": True, "activation": activation}))
    leaves = [x, *arguments["weights"], *arguments["biases"]]
    y, _ = masked_mlp_affine(x.requires_grad_(), **{**arguments, "weights": [w.requires_grad_() for w in leaves[1:5]]})
    grads = torch.randn(3, *y.shape, dtype=y.dtype)
    found = torch.autograd.grad(y, leaves[:5], grads, is_grads_batched=True, retain_graph=True)
    for k, grad in enumerate(grads):
        for one, batch in zip(torch.autograd.grad(y, leaves[:5], grad, retain_graph=True), found, strict=True):
            torch.testing.assert_close(batch[k], one)


@NATIVE
def test_strides_shared_context_empty_batches_and_one_output(backend, device):
    x, arguments = given(Case(6, (8, 7), (20,), options={"map": "standardize"}))
    arguments["context"] = torch.tensor([0.3, -1.0], dtype=torch.float64)
    arguments["weights"][0] = torch.cat([arguments["weights"][0], torch.ones(8, 2, dtype=torch.float64)], 1)
    arguments["masks"][0] = torch.cat([arguments["masks"][0], torch.ones(8, 2, dtype=torch.bool)], 1)
    expected = definition(x, arguments)
    wide = torch.randn(20, 9, dtype=torch.float64)
    wide[:, 2:8] = x
    for strided in (x.T.contiguous().T, wide[:, 2:8], x):
        torch.testing.assert_close(masked_mlp_affine(strided, **arguments), expected)
    by_columns = {**arguments, "weights": [weight.T.contiguous().T for weight in arguments["weights"]]}
    torch.testing.assert_close(masked_mlp_affine(x, **by_columns), expected)
    for empty in (x[:0], x[:0].reshape(2, 0, 6)):
        y, log_det = masked_mlp_affine(empty, **arguments)
        assert y.shape == empty.shape and log_det.shape == empty.shape[:-1]
        arguments["context"] = arguments["context"].expand(*empty.shape[:-1], 2)
        assert masked_mlp_affine(empty, **arguments)[0].shape == empty.shape
        arguments["context"] = torch.tensor([0.3, -1.0], dtype=torch.float64)
    x.requires_grad_()
    for chosen in (0, 1):
        found, right = (torch.autograd.grad(f(x, arguments)[chosen].sum(), x) for f in (ours, definition))
        torch.testing.assert_close(found, right)


@NATIVE
def test_in_place_changes_before_the_backward_are_noticed(backend, device):
    x, arguments = given(Case(4, (6,), (10,), options={"map": "standardize"}))
    point = x.clone().requires_grad_() * 1.0
    y, _ = masked_mlp_affine(point, **arguments)
    point.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_nan_stays_in_its_row_and_masks_may_be_left_out():
    x, arguments = given(WIDE[1], torch.float32)
    x[7, 3] = float("nan")
    y, log_det = masked_mlp_affine(x, **arguments)
    assert y.isnan().any(1).nonzero().flatten().tolist() == log_det.isnan().nonzero().flatten().tolist() == [7]
    masked = [weight * mask for weight, mask in zip(arguments["weights"], arguments["masks"], strict=True)]
    without = masked_mlp_affine(x, **{**arguments, "weights": masked, "masks": None})
    torch.testing.assert_close(without, (y, log_det), equal_nan=True)


@pytest.mark.parametrize("residual", [False, True])
def test_compiled_whole_and_row_by_row_gradients(residual):
    options = {"map": "standardize", "scale": "tanh", "residual": residual}
    x, arguments = given(Case(4, (6, 7, 6) if residual else (6,), (10,), options=options))
    compiled = torch.compile(lambda point: masked_mlp_affine(point, **arguments), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), definition(x, arguments))

    def loss(point):
        return masked_mlp_affine(point, **arguments)[1].sum()

    by_row = torch.func.vmap(torch.func.grad(loss))(x)
    torch.testing.assert_close(by_row, torch.func.grad(lambda point: definition(point, arguments)[1].sum())(x))


def test_errors_name_the_argument():
    x, arguments = given(Case(4, (6,), (10,)))
    wrong = {
        r"x must have at least one dimension": (ValueError, {"x": x[:, :0]}),
        r"x must be a tensor": (TypeError, {"x": None}),
        r"weights\[0\] must be \(out, 5\) after x": (ValueError, {"x": torch.cat([x, x[:, :1]], 1)}),
        r"biases must have 2 layers": (ValueError, {"biases": arguments["biases"][:1]}),
        r"masks must be autoregressive": (ValueError, {"masks": [m.new_ones(m.shape) for m in arguments["masks"]]}),
        r"masks\[0\] must hold 0 and 1": (ValueError, {"masks": [0.5 * m.double() for m in arguments["masks"]]}),
        r"map must be one of affine": (ValueError, {"map": "log"}),
        r"activation must be one of relu": (ValueError, {"activation": "cos"}),
        r"scale must be one of": (ValueError, {"scale": "log"}),
        r"bound must be positive": (ValueError, {"bound": 0.0}),
        r"context must be": (ValueError, {"context": x[:3]}),
        r"weights\[1\] must have the dtype of x|weights\[1\] .*float": (
            (TypeError, ValueError),
            {"weights": [arguments["weights"][0], arguments["weights"][1].float()]},
        ),
    }
    for message, (kind, change) in wrong.items():
        with pytest.raises(kind, match=message):
            masked_mlp_affine(**{"x": x, **arguments, **change})
