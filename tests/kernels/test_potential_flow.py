"""The flow along a potential: steps by hand through autograd's Hessians, torchdiffeq's solution, and all backends."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchdiffeq import odeint

import cgm_kernels
from tests.support.backends import fused, running
from tests.support.potentials import Case, cast, drawn, flow, gradients, leaves, values
from tests.support.tolerances import assert_as_accurate

RUNNING, FUSED = (
    [pytest.param(*pair.values[0], id=pair.id, marks=pair.marks) for pair in pairs] for pairs in (running(), fused())
)
NATIVE = pytest.mark.skipif(bool(cgm_kernels.backends.absence("native", "cpu")), reason="no native backend")
TIMES = [0.1, 0.3, 0.8]
CASES = [
    Case(3, 5, 2, rows=4),
    Case(2, 4, 1, rows=1, rank=0, linear=False),
    Case(3, 2, 3, rows=4, context=2),  # fewer units than dimensions
]


def by_hand(arguments, times, mass):
    """Classical Runge–Kutta steps of (x, ∫ div v, ∫ ½ |v|², ∫ |∂Φ/∂t − ½ |∇_xΦ|² / mass|)."""

    def rates(t, state):
        gradient, laplacian = values(arguments, state[0], t)
        v = -gradient[:, :-1] / mass
        squares = gradient[:, :-1].square().sum(1)
        return v, -laplacian / mass, 0.5 * squares / mass**2, (gradient[:, -1] - 0.5 * squares / mass).abs()

    def moved(state, h, rate):
        return tuple(y + h * k for y, k in zip(state, rate, strict=True))

    zero = arguments["x"].new_zeros(len(arguments["x"]))
    state = (arguments["x"], zero, zero, zero)
    for t, end in itertools.pairwise(times):
        h = end - t
        a = rates(t, state)
        b = rates(t + h / 2, moved(state, h / 2, a))
        c = rates(t + h / 2, moved(state, h / 2, b))
        d = rates(end, moved(state, h, c))
        for weight, rate in ((1, a), (2, b), (2, c), (1, d)):
            state = moved(state, weight * h / 6, rate)
    return state


@pytest.mark.parametrize("backend, device", RUNNING)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_potential_flow_by_hand(case, backend, device):
    arguments = drawn(case, device=device)
    leaves(arguments)
    solves = [([0.9, 0.4], 2.5), (TIMES, 1.0)]
    for times, mass in solves[:1] if backend == "triton" else solves:
        found, expected = flow(backend, arguments, times, mass), by_hand(arguments, times, mass)
        for ours, exact in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, exact)
        for ours, exact in zip(gradients(found, arguments), gradients(expected, arguments), strict=True):
            torch.testing.assert_close(ours, exact)


@NATIVE
def test_potential_flow_converges_to_the_solution():
    arguments = drawn(Case(2, 6, 2, rows=5, context=1))

    def field(t, state):
        gradient, laplacian = values(arguments, state[0], float(t))
        v = -gradient[:, :-1].detach()
        return v, -laplacian.detach(), 0.5 * v.square().sum(1)

    zero = torch.zeros(5, dtype=torch.float64)
    exact = odeint(field, (arguments["x"], zero, zero), torch.tensor([0.0, 1.0]), rtol=1e-9, atol=1e-9)
    errors = []
    for n in (20, 40):
        found = flow("native", arguments, torch.linspace(0, 1, n + 1))[:3]
        errors.append(max(float((a - b[-1]).abs().max()) for a, b in zip(found, exact, strict=True)))
    assert errors[1] < 1e-6 and errors[0] / errors[1] > 10.0  # fourth order


@NATIVE
@pytest.mark.parametrize(
    "case", [Case(20, 16, 3, rows=300, context=3), Case(40, 33, 2, rows=100), Case(2, 32, 2, rows=8000)], ids=str
)
def test_potential_flow_accuracy(case):
    arguments, times = drawn(case, torch.float32), [0.0, 0.2, 0.4]
    for options in ({}, {"divergence": False}):
        results = []
        for backend, dtype in (("native", torch.float32), ("reference", torch.float64), ("reference", torch.float32)):
            given = cast(arguments, dtype)
            inputs = leaves(given)
            assert inputs
            found = [one for one in flow(backend, given, times, **options) if one is not None]
            # The penalty's kink has no one derivative.
            results.append([*found, *gradients(found[:-1], given)])
        for ours, exact, eager in zip(*results, strict=True):
            assert_as_accurate(ours, exact, eager)


@NATIVE
@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_potential_flow_of_any_shape(data):
    sizes = {"dim": (1, 20), "width": (1, 40), "layers": (1, 4), "rows": (0, 50), "rank": (0, 4), "context": (0, 3)}
    drawn_sizes = {name: data.draw(st.integers(*ends), name) for name, ends in sizes.items()}
    arguments = drawn(Case(**drawn_sizes, linear=data.draw(st.booleans(), "linear")))
    options = {"divergence": data.draw(st.booleans(), "divergence"), "mass": data.draw(st.floats(0.5, 2.0), "mass")}
    times = data.draw(st.sampled_from([[0.0, 0.5], [0.7, 0.4, 0.3]]), "times")
    leaves(arguments)
    found, exact = (flow(backend, arguments, times, **options) for backend in ("native", "reference"))
    for ours, other in zip((*found, *gradients(found, arguments)), (*exact, *gradients(exact, arguments)), strict=True):
        if other is not None:
            scale = max(float(other.detach().abs().max()), 1.0) if other.numel() else 1.0
            torch.testing.assert_close(ours, other, rtol=1e-8, atol=1e-10 * scale)


@NATIVE
@pytest.mark.parametrize("case", [Case(2, 3, 3, rows=2, context=1), Case(3, 2, 2, rows=2, linear=False)], ids=str)
def test_potential_flow_gradcheck(case):
    arguments = drawn(case)
    inputs = leaves(arguments)
    assert torch.autograd.gradcheck(lambda *_: tuple(flow("native", arguments, TIMES)), inputs)


@pytest.mark.parametrize("backend, device", RUNNING)
def test_potential_flow_without_the_divergence(backend, device):
    arguments = drawn(CASES[2], device=device)
    leaves(arguments)
    found, whole = flow(backend, arguments, TIMES[1:], divergence=False), flow(backend, arguments, TIMES[1:])
    assert found.divergence is None
    expected = whole._replace(divergence=None)
    for ours, other in zip(found[:1] + found[2:], whole[:1] + whole[2:], strict=True):
        torch.testing.assert_close(ours, other)
    for ours, other in zip(gradients(found, arguments), gradients(expected, arguments), strict=True):
        torch.testing.assert_close(ours, other)


@pytest.mark.parametrize("backend, device", RUNNING)
def test_potential_gradient(backend, device):
    for case in (CASES[1], Case(9, 4, 3, context=2, time="scalar"), Case(2, 6, rows=0)):
        arguments = case.draw(device=device)
        leaves(arguments)
        with cgm_kernels.use_backend(backend):
            found, expected = cgm_kernels.potential_gradient(**arguments), cgm_kernels.potential_divergence(**arguments)
        torch.testing.assert_close(found, expected[0])
        pair = (gradients([found], arguments), gradients(expected[:1], arguments))
        for ours, other in zip(*pair, strict=True):
            torch.testing.assert_close(ours, other)


@NATIVE
def test_potential_flow_of_one_result():
    """A gradient that reaches one of the results alone, by a few of the arguments."""
    for index in range(4):
        found = []
        for backend in ("native", "reference"):
            arguments = drawn(CASES[2])
            inputs = [arguments["weights"][1].requires_grad_(), arguments["context"].requires_grad_()]
            found.append(torch.autograd.grad(flow(backend, arguments)[index].square().sum(), inputs))
        for ours, exact in zip(*found, strict=True):
            torch.testing.assert_close(ours, exact)


@NATIVE
def test_potential_flow_strides_and_shared_context():
    arguments = drawn(Case(4, 6, 3, context=2))
    arguments["context"] = arguments["context"][0]
    leaves(arguments)
    strided = {
        **arguments,
        "x": torch.stack([arguments["x"].detach()] * 2, -1)[..., 1],
        "weights": [weight.detach().T.contiguous().T for weight in arguments["weights"]],
        "output": torch.stack([arguments["output"].detach()] * 2, -1)[:, 0],
        "context": torch.stack([arguments["context"].detach()] * 2, -1)[:, 0],
    }
    leaves(strided)
    found, expected = flow("native", strided), flow("reference", arguments)
    for ours, other in zip((*found, *gradients(found, strided)), (*expected, *gradients(expected, arguments)),
                           strict=True):  # fmt: skip
        torch.testing.assert_close(ours, other)


@pytest.mark.parametrize("backend, device", RUNNING)
def test_potential_flow_of_nothing(backend, device):
    """No rows, and no steps."""
    arguments = drawn(Case(3, 4, rows=0, context=1), device=device)
    leaves(arguments)
    found = flow(backend, arguments)
    assert found.x.shape == (0, 3) and all(one.shape == (0,) for one in found[1:])
    assert all((by == 0).all() for by in gradients(found, arguments))
    arguments = drawn(CASES[0], device=device)
    still = flow(backend, arguments, [0.5])
    assert torch.equal(still.x, arguments["x"]) and still.x.data_ptr() != arguments["x"].data_ptr()
    assert not any(one.any() for one in still[1:])


@NATIVE
def test_potential_flow_on_threads():
    """The same bits every time; another number of threads sums the parameters' gradients in other parts."""
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3, 3):
            torch.set_num_threads(threads)
            arguments = drawn(Case(5, 40, 2, rows=700), torch.float32)
            leaves(arguments)
            results = flow("native", arguments)
            found.append([*results, *gradients(results, arguments)])
    finally:
        torch.set_num_threads(before)
    for alone, first, second in zip(*found, strict=True):
        assert torch.equal(first, second)
        torch.testing.assert_close(first, alone, rtol=1e-4, atol=1e-5 * float(alone.detach().abs().max()))
