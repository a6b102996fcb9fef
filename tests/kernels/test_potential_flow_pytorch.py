"""The flow along a potential inside PyTorch: refusals, transforms, graphs, half precision, bad rows and arguments."""

import math

import pytest
import torch

import cgm_kernels
from tests.support.backends import fused, running
from tests.support.derivatives import assert_further_derivatives, of_tensors
from tests.support.potentials import Case, cast, drawn, flow, leaves

RUNNING, FUSED = (
    [pytest.param(*pair.values[0], id=pair.id, marks=pair.marks) for pair in pairs] for pairs in (running(), fused())
)
NATIVE = pytest.mark.skipif(bool(cgm_kernels.backends.absence("native", "cpu")), reason="no native backend")
CASE = Case(3, 5, 2, rows=4)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("backend, device", FUSED)
@pytest.mark.parametrize("case", [CASE, Case(4, 3, 2, rows=3, context=2, rank=0, linear=False)], ids=str)
def test_potential_flow_further_derivatives(case, backend, device):
    arguments = drawn(case, device=device)
    call, inputs = of_tensors(lambda **given: cgm_kernels.potential_flow(**given, times=[0.0, 1.0]), arguments)
    assert_further_derivatives(call, [0.5 * one for one in inputs], backend)


@NATIVE
def test_potential_flow_in_place():
    """Results may be overwritten, each by itself; what the backward reads may not."""
    arguments = drawn(CASE)
    inputs = leaves(arguments)
    found = flow("native", arguments)
    expected = torch.autograd.grad(sum((2.0 * one).sum() for one in found), inputs, retain_graph=True)
    before = [one.detach().clone() for one in found]
    for one, other in zip(found, before, strict=True):
        torch.testing.assert_close(one.mul_(2.0), 2.0 * other)
    for ours, other in zip(torch.autograd.grad(sum(one.sum() for one in found), inputs), expected, strict=True):
        torch.testing.assert_close(ours, other)
    again = flow("native", arguments)
    with torch.no_grad():
        arguments["weights"][1].mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        again.x.sum().backward()


@NATIVE
def test_potential_flow_transforms_and_graphs():
    """Per-row gradients by torch.func, and one graph of all steps."""
    arguments = drawn(Case(3, 2, 3, rows=4, context=2))

    def loss(x, context, weight):
        given = {**arguments, "x": x, "context": context, "weights": [weight, *arguments["weights"][1:]]}
        found = flow("native", given, [0.0, 1.0])
        return found.x.square().sum() + found.divergence.sum() + found.penalty.sum()

    x, context, weight = arguments["x"], arguments["context"], arguments["weights"][0].requires_grad_()
    by_row = torch.func.vmap(torch.func.grad(loss), (0, 0, None))(x.unsqueeze(1), context.unsqueeze(1), weight)
    torch.testing.assert_close(by_row.squeeze(1), torch.func.grad(loss)(x, context, weight))
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    expected = torch.autograd.grad(loss(x, context, weight), weight)
    torch.testing.assert_close(torch.autograd.grad(compiled(x, context, weight), weight), expected)


@pytest.mark.parametrize("backend, device", RUNNING)
def test_potential_flow_half_and_autocast(backend, device):
    arguments = drawn(Case(4, 6), torch.float32, device)
    expected, half = flow(backend, arguments, [0.0, 1.0]), flow(backend, cast(arguments, torch.bfloat16), [0.0, 1.0])
    assert [one.dtype for one in half] == [torch.bfloat16, *[torch.float32] * 3]
    for ours, other in zip(half, expected, strict=True):
        torch.testing.assert_close(ours.float(), other, rtol=0.1, atol=0.2)
    with torch.autocast(device, dtype=torch.bfloat16):
        inside = flow(backend, arguments, [0.0, 1.0])
    for ours, other in zip(inside, expected, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-5, atol=1e-5)


@NATIVE
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_potential_flow_bad_rows_stay_alone(bad):
    arguments = drawn(Case(3, 17, 3, rows=40))
    clean = flow("native", arguments)
    arguments["x"][7, 1] = bad
    others = torch.arange(40) != 7
    found = flow("native", arguments)
    for ours, before in zip(found, clean, strict=True):
        torch.testing.assert_close(ours[others], before[others], rtol=0, atol=0)
    assert not found.x[7].isfinite().all()


@pytest.mark.parametrize("changes, error, message", [
    ({"x": torch.zeros(3)}, ValueError, r"x must be \(B, d\)"),
    ({"x": [1.0]}, TypeError, "x must be a tensor: got list"),
    ({"times": []}, ValueError, "times must have at least one number"),
    ({"times": 3}, TypeError, "times must be a 1-D tensor or a sequence of numbers: got int"),
    ({"times": [0.0, math.nan]}, ValueError, r"times\[1\] must be finite"),
    ({"times": [0.0, 1.0, 0.5]}, ValueError, "times must be strictly increasing or strictly decreasing"),
    ({"times": torch.zeros(2, 2)}, ValueError, r"times must be a tensor \(N \+ 1,\)"),
    ({"mass": 0.0}, ValueError, "mass must be positive: got 0.0"),
    ({"divergence": "no"}, TypeError, "divergence must be True or False: got str"),
    ({"mass": "one"}, TypeError, "mass must be a number: got str"),
    ({"weights": []}, ValueError, "biases must be as many as weights, at least one"),
    ({"weights": [torch.zeros(5, 3, dtype=torch.float64)] * 2}, ValueError, r"weights\[0\] must be \(m, 4\)"),
    ({"output": torch.zeros(5)}, TypeError, "output must have the dtype of x"),
    ({"linear": torch.zeros(3, dtype=torch.float64)}, ValueError, r"linear must be \(4,\)"),
    ({"context": torch.zeros(9, 2, dtype=torch.float64)}, ValueError, r"context must be \(c,\) or \(4, c\)"),
])  # fmt: skip
def test_potential_flow_errors(changes, error, message):
    with pytest.raises(error, match=message):
        cgm_kernels.potential_flow(**{**drawn(CASE), "times": [0.0, 1.0], **changes})
