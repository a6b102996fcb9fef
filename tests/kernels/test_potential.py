"""OT-Flow's potential: gradient and Laplacian against Hessians by autograd, and all backends against the reference."""

import math

import pytest
import torch
from torch.library import opcheck

import cgm_kernels
from cgm_kernels import potential_value
from tests.support.backends import fused, running
from tests.support.derivatives import assert_further_derivatives, of_tensors
from tests.support.levels import LEVELS, simd_level
from tests.support.potentials import CASES, LARGE_CASES, Case, cast, leaves, results, run
from tests.support.tolerances import assert_as_accurate

RUNNING, FUSED = (
    [pytest.param(*pair.values[0], id=pair.id, marks=pair.marks) for pair in pairs] for pairs in (running(), fused())
)
DTYPES = (torch.float32, torch.float64)


@pytest.mark.parametrize("backend, device", RUNNING)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_potential_divergence_forward(case, backend, device):
    """∇Φ and tr ∂²Φ/∂x², of Φ written down as its definition, at each row."""
    arguments = case.draw(device=device)
    gradient, laplacian = run(backend, arguments)
    d, t, context = case.dim, arguments["t"], arguments["context"]
    assert gradient.shape == (case.rows, d + 1) and laplacian.shape == (case.rows,)
    for row in range(min(case.rows, 5)):

        def phi(s, row=row):
            inputs = s if context is None else torch.cat([s, context[row]])
            u = torch.log(2.0 * torch.cosh(arguments["weights"][0] @ inputs + arguments["biases"][0]))
            for weight, bias in zip(arguments["weights"][1:], arguments["biases"][1:], strict=True):
                u = u + torch.log(2.0 * torch.cosh(weight @ u + bias)) / (case.layers - 1)
            value = arguments["output"] @ u
            if case.rank:
                value = value + 0.5 * (arguments["quadratic"] @ s).square().sum()
            return value + arguments["linear"] @ s if case.linear else value

        time = torch.as_tensor(t, dtype=torch.float64, device=device).expand(case.rows)[row]
        s = torch.cat([arguments["x"][row], time.reshape(1)])
        hessian = torch.autograd.functional.hessian(phi, s)
        torch.testing.assert_close(gradient[row], torch.autograd.functional.jacobian(phi, s), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(laplacian[row], hessian[:d, :d].trace(), rtol=1e-10, atol=1e-10)
        values = potential_value(**arguments)
        torch.testing.assert_close(values[row], phi(s), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend, device", FUSED)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", [*CASES, *LARGE_CASES], ids=str)
def test_potential_divergence_backward(case, dtype, backend, device):
    if dtype is torch.float64 and case in LARGE_CASES:
        pytest.skip("float32 has seen the tiles")
    drawn = case.draw(torch.float32, device)
    kinds = ((backend, dtype), ("reference", torch.float64), ("reference", dtype))
    found = [results(name, cast(drawn, kind)) for name, kind in kinds]
    for ours, exact, eager in zip(*found, strict=True):
        assert_as_accurate(ours, exact, eager)


@pytest.mark.parametrize("backend, device", [pair for pair in FUSED if pair.id != "triton-cpu"])
@pytest.mark.parametrize("case", [Case(2, 3, 3, rows=2, context=1), Case(4, 2, 2, rows=2, time="scalar")], ids=str)
def test_potential_divergence_gradcheck(case, backend, device):
    arguments = case.draw(device=device)
    inputs = leaves(arguments)

    def function(*_):
        return run(backend, arguments)

    assert torch.autograd.gradcheck(function, inputs)


@pytest.mark.parametrize("backend, device", FUSED)
@pytest.mark.parametrize("choice", [0, 1])
def test_potential_divergence_of_one_output(choice, backend, device):
    """A gradient that reaches one result alone, by a few of the arguments."""
    found = []
    for name in (backend, "reference"):
        arguments = CASES[2].draw(device=device)
        inputs = [arguments["weights"][1].requires_grad_(), arguments["x"].requires_grad_()]
        found.append(torch.autograd.grad(run(name, arguments)[choice].square().sum(), inputs))
    for ours, exact in zip(*found, strict=True):
        torch.testing.assert_close(ours, exact)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("backend, device", FUSED)
@pytest.mark.parametrize(
    "case", [Case(3, 5, 2, 4), Case(2, 3, 3, 4, context=2, time="scalar"), Case(5, 3, 2, 3, 0)], ids=str
)
def test_potential_divergence_further_derivatives(case, backend, device):
    """Of the last case, with more dimensions than units, first derivatives go along fewer directions than there are."""
    call, inputs = of_tensors(cgm_kernels.potential_divergence, case.draw(device=device))
    assert_further_derivatives(call, [0.5 * one for one in inputs], backend)


@pytest.mark.parametrize("backend, device", FUSED)
def test_potential_divergence_functional_transforms(backend, device):
    """torch.func sees it: per-row gradients are those of the rows."""
    arguments = Case(3, 4, rows=2, context=1).draw(device=device)

    def loss(x, context, weight):
        given = {"x": x, "t": 0.5, "weights": [weight, arguments["weights"][1]], "context": context}
        gradient, laplacian = run(backend, {**arguments, **given})
        return gradient.square().sum() + laplacian.sum()

    x, context, weight = arguments["x"], arguments["context"], arguments["weights"][0]
    by_row = torch.func.vmap(torch.func.grad(loss), (0, 0, None))(x.unsqueeze(1), context.unsqueeze(1), weight)
    torch.testing.assert_close(by_row.squeeze(1), torch.func.grad(loss)(x, context, weight))


@pytest.mark.parametrize("backend, device", FUSED)
def test_potential_divergence_batched_gradients(backend, device):
    arguments = CASES[1].draw(device=device)
    x = arguments["x"].requires_grad_()
    _, laplacian = run(backend, arguments)
    rows = torch.eye(3, len(x), dtype=x.dtype, device=device)
    found = torch.autograd.grad(laplacian, x, rows, is_grads_batched=True)[0]
    torch.testing.assert_close(found[1][1], torch.autograd.grad(run(backend, arguments)[1].sum(), x)[0][1])
    assert (found[0][1:] == 0).all()


@pytest.mark.parametrize("backend, device", RUNNING)
def test_potential_divergence_strides_and_shared_context(backend, device):
    arguments = Case(4, 6, 3, context=2, time="scalar").draw(device=device)
    arguments["context"] = arguments["context"][0]
    expected = results(backend, arguments)
    strided = {
        **arguments,
        "x": torch.stack([arguments["x"].detach()] * 2, -1)[..., 1],
        "weights": [weight.detach().T.contiguous().T for weight in arguments["weights"]],
        "output": torch.stack([arguments["output"].detach()] * 2, -1)[:, 0],
        "quadratic": arguments["quadratic"].detach().T.contiguous().T,
    }
    for ours, other in zip(results(backend, strided), expected, strict=True):
        torch.testing.assert_close(ours, other)


@pytest.mark.parametrize("backend, device", RUNNING)
def test_potential_divergence_empty(backend, device):
    for dims, layers in ((3, 2), (9, 3), (2, 1)):
        arguments = Case(dims, 4, layers, rows=0, context=1).draw(device=device)
        gradient, laplacian, *gradients = results(backend, arguments)
        assert gradient.shape == (0, dims + 1) and laplacian.shape == (0,)
        assert all((by == 0).all() for by in gradients)


@pytest.mark.parametrize("backend, device", FUSED)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_potential_divergence_bad_rows_stay_alone(bad, backend, device):
    arguments = Case(3, 17, 3, rows=40).draw(device=device)
    clean = run(backend, arguments)
    arguments["x"][7, 1] = bad
    found = run(backend, arguments)
    others = torch.arange(40, device=device) != 7
    for ours, before in zip(found, clean, strict=True):
        torch.testing.assert_close(ours[others], before[others], rtol=0, atol=0)
    assert not found[0][7].isfinite().all()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.skipif(bool(cgm_kernels.backends.absence("native", "cpu")), reason="no native backend")
def test_potential_divergence_at_every_level(level):
    drawn = Case(5, 37, 3, rows=70, context=2).draw(torch.float32)
    exact, eager = (results("reference", cast(drawn, kind)) for kind in (torch.float64, torch.float32))
    with simd_level(level):
        found = results("native", cast(drawn, torch.float32))
    for ours, *others in zip(found, exact, eager, strict=True):
        assert_as_accurate(ours, *others)


@pytest.mark.parametrize("backend, device", RUNNING)
def test_potential_divergence_half_and_autocast(backend, device):
    arguments = Case(4, 6).draw(torch.float32, device)
    expected = run(backend, arguments)
    half = run(backend, cast(arguments, torch.bfloat16))
    assert [one.dtype for one in half] == [torch.bfloat16, torch.float32]
    for ours, other in zip(half, expected, strict=True):
        torch.testing.assert_close(ours.float(), other, rtol=0.1, atol=0.2)
    with torch.autocast(device, dtype=torch.bfloat16):
        inside = run(backend, arguments)
    assert all(torch.equal(a, b) for a, b in zip(inside, expected, strict=True))


@pytest.mark.parametrize("backend, device", FUSED)
def test_potential_divergence_opcheck(backend, device):
    """The operators as calls reach them that are traced, caught on their way."""
    calls = []

    class Catch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if "potential" in str(function):
                calls.append((function, args))
            return function(*args, **(kwargs or {}))

    for case in (CASES[2], CASES[6]):
        with Catch():
            results(backend, case.draw(device=device))
    assert len(calls) == 4
    for function, args in calls:
        detached = tuple(a.detach().clone() if isinstance(a, torch.Tensor) else a for a in args)
        opcheck(function, detached, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("changes, error, message", [
    ({"x": torch.zeros(3)}, ValueError, r"x must be \(B, d\)"),
    ({"x": [1.0]}, TypeError, "x must be a tensor: got list"),
    ({"x": torch.zeros(9, 3, dtype=torch.int64)}, TypeError, "x must be float32"),
    ({"t": torch.zeros(4, dtype=torch.float64)}, ValueError, r"t must be a number, \(\) or \(9,\)"),
    ({"t": torch.zeros(9)}, TypeError, "t must have the dtype of x"),
    ({"t": "now"}, TypeError, "t must be a number: got str"),
    ({"t": True}, TypeError, "t must be a number: got bool"),
    ({"t": math.nan}, ValueError, "t must be finite"),
    ({"weights": []}, ValueError, "biases must be as many as weights, at least one"),
    ({"weights": torch.zeros(5, 4)}, TypeError, "weights must be a list of tensors"),
    ({"biases": [torch.zeros(5, dtype=torch.float64)]}, ValueError, "biases must be as many as weights"),
    ({"weights": [torch.zeros(5, 3, dtype=torch.float64)] * 2}, ValueError, r"weights\[0\] must be \(m, 4\)"),
    ({"weights": [torch.zeros(5, 4, dtype=torch.float64)] * 2}, ValueError, r"weights\[1\] must be \(5, 5\)"),
    ({"biases": [torch.zeros(4, dtype=torch.float64)] * 2}, ValueError, r"biases\[0\] must be \(5,\)"),
    ({"output": torch.zeros(1, 5, dtype=torch.float64)}, ValueError, r"output must be \(5,\)"),
    ({"output": torch.zeros(5)}, TypeError, "output must have the dtype of x"),
    ({"quadratic": torch.zeros(2, 3, dtype=torch.float64)}, ValueError, r"quadratic must be \(r, 4\)"),
    ({"linear": torch.zeros(3, dtype=torch.float64)}, ValueError, r"linear must be \(4,\)"),
    ({"context": torch.zeros(4, 2, dtype=torch.float64)}, ValueError, r"context must be \(c,\) or \(9, c\)"),
    ({"context": torch.zeros(9, 2, dtype=torch.float64)}, ValueError, r"weights\[0\] must be \(m, 6\)"),
])  # fmt: skip
def test_potential_divergence_errors(changes, error, message):
    arguments = {**CASES[1].draw(), **changes}
    for function in (cgm_kernels.potential_divergence, potential_value):
        with pytest.raises(error, match=message):
            function(**arguments)


def test_potential_divergence_reference_is_differentiable_twice():
    arguments = Case(2, 3, 3, rows=2).draw()
    inputs = leaves(arguments)

    def function(*_):
        return run("reference", arguments)

    assert torch.autograd.gradgradcheck(function, inputs)
