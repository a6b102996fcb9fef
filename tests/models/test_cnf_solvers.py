"""Solvers and fields against closed forms and torchdiffeq."""

import copy
import gc
import math
import pickle
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torchdiffeq
from torch import nn

from cgm_kernels import hutchinson_probes
from cgm_models.cnf import ModuleField, PerceptronField, Solver, VectorField, solve
from cgm_models.cnf.solver import FIXED, METHODS
from tests.support.cnf import LinearField, Reads, moved


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def perceptron(**options):
    return moved(PerceptronField(3, **{"hidden_features": (8, 8), **options}).double(), 0.3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backwards", [False, True])
def test_a_linear_field_is_solved_by_the_matrix_exponential(method, backwards):
    """x(t) solves dx/dt = A x + b: exp of the augmented matrix; the divergence is tr A; ∫|A|²_F dt is |A|²_F t."""
    matrix, offset, x = 0.5 * rows(3, 3), rows(3, seed=1), rows(5, 3, seed=2)
    augmented = torch.zeros(4, 4).double()
    augmented[:3, :3], augmented[:3, 3] = matrix, offset
    start, end = (0.8, 0.1) if backwards else (0.1, 0.8)
    flow = torch.linalg.matrix_exp(augmented * (end - start))
    exact = x @ flow[:3, :3].T + flow[:3, 3]
    solver = Solver(method, n_steps={"euler": 400, "midpoint": 60}.get(method, 20), rtol=1e-9, atol=1e-9)
    found = solve(LinearField(matrix, offset), x, None, solver, start, end, exact=True, regularizers=True)
    torch.testing.assert_close(found.x, exact, rtol=0, atol=5e-3 if method == "euler" else 1e-4 * 0.7)
    span = torch.full((5,), end - start).double()
    torch.testing.assert_close(found.divergence, matrix.trace() * span)
    torch.testing.assert_close(found.frobenius, matrix.square().sum() * span)
    time = torch.linspace(start, end, 201, dtype=torch.float64)  # ∫|v|² dt by Simpson's rule along the exact path
    paths = [torch.linalg.matrix_exp(augmented * (t - start)) for t in time]
    speeds = torch.stack([((x @ p[:3, :3].T + p[:3, 3]) @ matrix.T + offset).square().sum(1) for p in paths])
    weights = torch.ones(201).double()
    weights[1:-1:2], weights[2:-1:2] = 4.0, 2.0
    kinetic = weights @ speeds * (end - start) / 600
    torch.testing.assert_close(found.kinetic, kinetic, rtol=2e-2 if method == "euler" else 2e-4, atol=0)
    if method in FIXED:
        assert found.n_evaluations == solver.n_steps * {"euler": 1, "midpoint": 2}.get(method, 4)


@pytest.mark.parametrize("method", FIXED)
def test_methods_have_their_order(method):
    """Halving the step divides the error by 2 to the order."""
    matrix, x = rows(3, 3), rows(4, 3, seed=2)
    exact = x @ torch.linalg.matrix_exp(matrix).T
    field = LinearField(matrix, torch.zeros(3).double())
    with torch.no_grad():
        errors = [float((solve(field, x, None, Solver(method, n)).x - exact).norm()) for n in (16, 32)]
    order = {"euler": 1, "midpoint": 2}.get(method, 4)
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize(("ours", "theirs"), [("euler", "euler"), ("midpoint", "midpoint"), ("rk4_38", "rk4")])
def test_fixed_steps_are_those_of_torchdiffeq(ours, theirs):
    field, x, probes = perceptron(), rows(4, 3), hutchinson_probes(rows(4, 3), 2)

    def rates(t, state):
        value, divergence = field.divergence(t, state[0], probes=probes)
        return value, divergence

    times = torch.linspace(1.0, 0.0, 8, dtype=torch.float64)
    with torch.no_grad():
        x1, divergence = torchdiffeq.odeint(rates, (x, torch.zeros(4).double()), times, method=theirs)
        found = solve(field, x, None, Solver(ours, 7), 1.0, 0.0, probes=probes)
    torch.testing.assert_close(found.x, x1[-1], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.divergence, divergence[-1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "options", [{}, {"time": "concat", "n_frequencies": 1}, {"residual": True}, {"context_dim": 2}]
)
def test_the_fused_solve_is_that_of_the_steps(options):
    """With and without the kernel for whole flows; the field of a module takes the general way."""
    field, x = perceptron(**options), rows(4, 3)
    context = rows(4, 2, seed=3) if options.get("context_dim") else None
    general = ModuleField(field)
    for exact in (True, False):
        given = {"exact": exact, "probes": None if exact else hutchinson_probes(x, 2), "regularizers": exact}
        fused = solve(field, x, context, Solver("rk4", 6), **given)
        stepped = solve(general, x, context, Solver("rk4", 6), **given)
        for a, b in zip(fused, stepped, strict=True):
            assert a == b if not isinstance(a, torch.Tensor) else torch.allclose(a, b, rtol=1e-9, atol=1e-11)


def test_any_module_is_a_field_and_its_trace_is_that_of_its_jacobian():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 3)).double()

    class Timed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, t, x):
            return (1 + t) * self.net(x)

    field, x = ModuleField(Timed()), rows(4, 3)
    value, trace, square = field.divergence(0.5, x, exact=True, frobenius=True)
    jacobian = torch.autograd.functional.jacobian(lambda v: field(0.5, v).sum(0), x).transpose(0, 1)
    torch.testing.assert_close(value, 1.5 * net(x))
    torch.testing.assert_close(trace, jacobian.diagonal(dim1=1, dim2=2).sum(1))
    torch.testing.assert_close(square, jacobian.square().sum((1, 2)))
    probes = hutchinson_probes(x, 3, noise="gaussian")
    _, estimate, norm = field.divergence(0.5, x, probes=probes, frobenius=True)
    products = torch.einsum("pbi,bij->pbj", probes, jacobian)
    torch.testing.assert_close(estimate, (products * probes).sum(2).mean(0))
    torch.testing.assert_close(norm, products.square().sum(2).mean(0))
    with pytest.raises(ValueError, match="give probes or exact=True, and not both"):
        field.divergence(0.0, x)


@pytest.mark.parametrize("options", [{}, {"method": "dopri5"}, {"gradient": "checkpoint"}, {"gradient": "adjoint"}])
@pytest.mark.parametrize("ends", [(0.3, 0.3), (0.0, math.nan), (math.inf, math.inf), (0.0, -math.inf)])
def test_every_way_needs_two_times(options, ends):
    for field in (perceptron(), ModuleField(perceptron())):
        with pytest.raises(ValueError, match=f"start and end must be finite, and not the same time: got {ends[0]} and"):
            solve(field, rows(4, 3), None, Solver(**options), *ends, exact=True)


@pytest.mark.parametrize("kind", ["leaf", "result", "context"])
def test_the_adjoint_says_which_tensors_it_leaves_without_a_gradient(kind):
    """A leaf or a result that the field reads without holding it; a context that is a result gets its gradient."""
    offset = torch.ones(2, dtype=torch.float64, requires_grad=True)
    read = offset if kind == "leaf" else 2.0 * offset

    class Shifted(LinearField):
        def forward(self, t, x, context=None):
            return super().forward(t, x) + (read if context is None else context)

    field, found = Shifted(0.3 * torch.eye(2).double(), torch.zeros(2).double()), {}
    for gradient in ("discrete", "adjoint"):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            context = read.expand(3, -1) if kind == "context" else None
            solution = solve(field, torch.ones(3, 2).double(), context, Solver("rk4", 8, gradient=gradient), exact=True)
        assert [str(one.message)[:46] for one in said] == (
            ["gradient='adjoint' gives no gradient to what a"] if gradient == "adjoint" and kind != "context" else []
        )
        found[gradient] = torch.autograd.grad(solution.x.sum(), offset, retain_graph=True, allow_unused=True)[0]
    if kind == "context":
        torch.testing.assert_close(found["adjoint"], found["discrete"], rtol=1e-6, atol=1e-6)
    else:
        assert found["adjoint"] is None and found["discrete"].abs().sum() > 0


class Counted(LinearField):
    """It counts its evaluations, and reads ``read`` beside its parameters."""

    def __init__(self, read=0.0):
        super().__init__(0.3 * torch.eye(2).double(), torch.zeros(2).double())
        self.read, self.evaluations = (read,), 0

    def forward(self, t, x, context=None):
        self.evaluations += 1
        return super().forward(t, x) + self.read[0]


def adjoint_solve(field, **asked):
    """The evaluations that were made, those that were reported, and how many warnings there were."""
    field.evaluations = 0
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = solve(field, torch.ones(3, 2).double(), None, Solver("rk4", 2, gradient="adjoint"), **asked)
    return field.evaluations, found.n_evaluations, len(said)


def test_the_adjoint_examines_a_field_once():
    field = Counted()
    assert [adjoint_solve(field) for _ in range(2)] == [(9, 8, 0), (8, 8, 0)]
    assert [adjoint_solve(field, exact=True)[0] for _ in range(2)] == [9, 8]  # its divergence may read something else
    for other in (copy.deepcopy(field), pickle.loads(pickle.dumps(field)), Counted()):
        assert [adjoint_solve(other)[0] for _ in range(2)] == [9, 8]
    watch = weakref.ref(field)
    del field, other
    gc.collect()
    assert watch() is None


def test_the_adjoint_warns_of_every_field_until_it_is_mended():
    adjoint_solve(Counted())
    offset = torch.ones(2, dtype=torch.float64, requires_grad=True)
    for field in (Counted(offset), Counted(2.0 * offset)):
        assert [adjoint_solve(field)[2] for _ in range(2)] == [1, 1]
        field.read = (offset.detach(),)
        assert [adjoint_solve(field) for _ in range(2)] == [(9, 8, 0), (8, 8, 0)]


def test_threads_may_solve_one_field_by_the_adjoint():
    field, x = ModuleField(perceptron()), rows(4, 3)
    solver = Solver("rk4", 2, gradient="adjoint")
    expected = solve(ModuleField(field.net), x, None, solver).x
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: solve(field, x, None, solver).x, range(8)))
    assert all(torch.equal(one, expected) for one in found)


@pytest.mark.parametrize("gradient", ["discrete", "checkpoint", "adjoint"])
@pytest.mark.parametrize("general", [False, True])
def test_fixed_steps_read_nothing_back_from_the_device(gradient, general):
    field, x = perceptron(time="concat"), rows(4, 3).requires_grad_()
    with Reads() as reads:
        found = solve(
            ModuleField(field) if general else field, x, None, Solver("rk4", 3, gradient=gradient), exact=True,
            regularizers=True,
        )  # fmt: skip
        (found.x.sum() + found.divergence.sum() + found.kinetic.sum()).backward()
    assert not reads.seen and field.layers[0].weight.grad.abs().sum() > 0


def test_regularizers_need_something_to_measure_with():
    with pytest.raises(ValueError, match="regularizers need probes or exact=True"):
        solve(perceptron(), rows(2, 3), None, Solver(), regularizers=True)


def test_a_field_that_is_the_same_everywhere():
    class Everywhere(VectorField):
        def forward(self, t, x, context=None):
            return torch.ones_like(x)

    x = rows(3, 2)
    found = solve(Everywhere(), x, None, Solver("rk4", 2), exact=True, regularizers=True)
    torch.testing.assert_close(found.x, x + 1)
    torch.testing.assert_close(found.kinetic, torch.full((3,), 2.0, dtype=torch.float64))
    assert not found.divergence.any() and not found.frobenius.any()


def test_refining_and_shortening():
    assert Solver("rk4", 5).refined(2).n_steps == 20
    assert Solver("dopri5", rtol=1e-3).refined(1).rtol == pytest.approx(1e-3 / 32)
    assert Solver("rk4", 8).shortened(0.25).n_steps == 2
    assert Solver("rk4", 3).times(1.0, 0.0) == [1.0, 1 - 1 / 3, 1 - 2 / 3, 0.0]


@pytest.mark.parametrize("conditioning", ["concat", "film"])
@pytest.mark.parametrize("time", ["concat", "film", "none"])
@pytest.mark.parametrize("n_contexts", [0, 1, 4])
def test_a_field_takes_a_time_for_each_row(time, conditioning, n_contexts):
    """Beside no context, one for all rows, or one for each."""
    field = perceptron(time=time, conditioning=conditioning, context_dim=2 if n_contexts else 0)
    x, times = rows(4, 3), rows(4, seed=1)
    context = rows(n_contexts, 2, seed=2) if n_contexts else None
    alone = [None if context is None else context[row % n_contexts, None] for row in range(4)]
    expected = torch.cat([field(float(times[row]), x[row, None], alone[row]) for row in range(4)])
    torch.testing.assert_close(field(times, x, context), expected, rtol=1e-12, atol=1e-12)
    value, _ = field.divergence(times, x, context, exact=True)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
