"""Gradients of continuous flows: of the steps made, of the adjoint equation, and the memory that both take."""

import math
import weakref
from dataclasses import replace

import pytest
import torch
import torchdiffeq

from cgm_models.cnf import (
    FFJORD,
    ContinuousTransform,
    ModuleField,
    PerceptronField,
    Potential,
    PotentialField,
    Solver,
    solve,
)
from tests.support.cnf import FFJORDS, LinearField, make, moved
from tests.support.flows import context_of, points


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def gradients(flow, x, context=None):
    inputs = [x.detach().requires_grad_(), *([] if context is None else [context.detach().requires_grad_()])]
    value = flow.log_prob(*inputs).sum()
    return torch.autograd.grad(value, [*inputs, *flow.parameters()])


def slope_by_differences(evaluate, parameters, direction, step=1e-6):
    values = []
    with torch.no_grad():
        for sign in (1, -2):
            for p, d in zip(parameters, direction, strict=True):
                p.add_(sign * step * d)
            values.append(float(evaluate()))
        for p, d in zip(parameters, direction, strict=True):
            p.add_(step * d)
    return (values[0] - values[1]) / (2 * step)


@pytest.mark.parametrize("name", FFJORDS)
def test_gradients_are_those_of_finite_differences(name):
    flow = make(name)
    x, context = points(flow), context_of(flow)
    parameters = list(flow.parameters())
    found = torch.autograd.grad(flow.log_prob(x, context).sum(), parameters)
    generator = torch.Generator().manual_seed(4)
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    slope = sum(float((g * d).sum()) for g, d in zip(found, direction, strict=True))
    differences = slope_by_differences(lambda: flow.log_prob(x, context).sum(), parameters, direction)
    assert slope == pytest.approx(differences, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("loss", ["regularised", "estimated"])
def test_gradients_of_the_training_loss_are_those_of_finite_differences(loss):
    options = {"kinetic": 0.3, "frobenius": 0.2, "exact": loss == "regularised"}
    flow = moved(FFJORD(dim=2, hidden_features=(8, 8), n_steps=4, **options)).double().train()
    x, parameters = points(flow), list(flow.parameters())

    def evaluate():
        torch.manual_seed(1)
        return flow.loss(x)

    found = torch.autograd.grad(evaluate(), parameters)
    slope = sum(float((g * g).sum()) for g in found)
    assert slope == pytest.approx(slope_by_differences(evaluate, parameters, found), rel=1e-5)


@pytest.mark.parametrize("name", ["film", "context", "context-film", "dopri5", "blocks"])
def test_the_adjoint_gradient_is_that_of_the_steps(name):
    """They differ by the error of the solver, which is small here, and nothing else."""
    flow = make(name)
    x, context = points(flow), context_of(flow)
    made = gradients(flow, x, context)
    for layer in flow.modules():
        if isinstance(layer, ContinuousTransform):
            layer.solver = replace(layer.solver, gradient="adjoint")
    adjoint = gradients(flow, x, context)
    for a, b in zip(adjoint, made, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5)
    assert any(not torch.equal(a, b) for a, b in zip(adjoint, made, strict=True))


def test_the_adjoint_gradient_is_that_of_torchdiffeq():
    field = moved(PerceptronField(2, (8, 8)).double(), 0.3)
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    solver = Solver("dopri5", rtol=1e-9, atol=1e-9, gradient="adjoint")
    ours = solve(field, x, None, solver, 1.0, 0.0, exact=True)

    class Rates(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.field = field

        def forward(self, t, state):
            return tuple(self.field.divergence(t, state[0], exact=True))

    state = (x, torch.zeros(5).double())
    times = torch.tensor([1.0, 0.0]).double()
    x1, divergence = torchdiffeq.odeint_adjoint(Rates(), state, times, rtol=1e-9, atol=1e-9)
    inputs = [x, *field.parameters()]
    weight = torch.randn(5, 2, generator=torch.Generator().manual_seed(1)).double()
    for a, b in zip(
        torch.autograd.grad((ours.x * weight).sum() + ours.divergence.square().sum(), inputs),
        torch.autograd.grad((x1[-1] * weight).sum() + divergence[-1].square().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gradient", ["discrete", "checkpoint", "adjoint"])
def test_gradients_through_a_linear_field_are_those_of_the_matrix_exponential(gradient):
    generator = torch.Generator().manual_seed(0)
    matrix, x = 0.4 * torch.randn(3, 3, generator=generator).double(), torch.randn(4, 3, generator=generator).double()
    field = LinearField(matrix.clone(), torch.zeros(3).double())
    found = solve(field, x, None, Solver("rk4", 20, gradient=gradient), exact=True)
    (grad,) = torch.autograd.grad(found.x.square().sum() + found.divergence.sum(), [field.matrix])
    matrix.requires_grad_()
    exact = (x @ torch.linalg.matrix_exp(matrix).T).square().sum() + 4 * matrix.trace()
    torch.testing.assert_close(grad, torch.autograd.grad(exact, matrix)[0], rtol=1e-6, atol=1e-6)


def test_checkpoints_give_the_gradient_of_the_steps():
    """The fused solve and the stepped one; equal to the last digits, as the same numbers are computed again."""
    for field in (moved(PerceptronField(2, (8,)).double()), ModuleField(moved(PerceptronField(2, (8,)).double()))):
        x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
        found = []
        for gradient in ("discrete", "checkpoint"):
            solution = solve(field, x, None, Solver("rk4", 5, gradient=gradient), exact=True)
            total = solution.x.square().sum() + solution.divergence.sum()
            found.append(torch.autograd.grad(total, [x, *field.parameters()]))
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def kept_numbers(field, gradient, n_steps, context=None, n=64):
    """How many numbers the graph of a solve keeps, beside the parameters."""
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    own = {p.data_ptr() for p in (*field.parameters(), x, *([] if context is None else [context]))}
    boxes = weakref.WeakSet()

    class Box:
        def __init__(self, tensor):
            self.tensor = tensor.detach()  # a result that a node keeps would keep the node
            boxes.add(self)

    with torch.autograd.graph.saved_tensors_hooks(Box, lambda box: box.tensor):
        solution = solve(field, x, context, Solver("rk4", n_steps, gradient=gradient), exact=True)
    storages = {box.tensor.untyped_storage().data_ptr(): box.tensor.untyped_storage() for box in boxes}
    assert solution.x.requires_grad
    return sum(storage.nbytes() // 4 for pointer, storage in storages.items() if pointer not in own)


def test_memory_does_not_grow_with_the_steps_where_that_was_asked_for():
    field = PerceptronField(2, (32, 32))
    general = ModuleField(field)
    few, many = (kept_numbers(general, "adjoint", n) for n in (4, 12))
    assert few == many
    few, many = (kept_numbers(general, "checkpoint", n) for n in (4, 12))
    assert many - few <= 8 * 64 * (2 + 1)  # the state of each step, and nothing of its inside
    few, many = (kept_numbers(general, "discrete", n) for n in (2, 4))
    assert many - few > 2 * 4 * 64 * 2 * 32


def test_what_checkpoints_of_ffjord_and_otflow_keep():
    """With more steps nothing more of the points where the kernel makes them, else the state at the begin of each."""
    context = torch.randn(128, 3, generator=torch.Generator().manual_seed(1))
    fields = {
        "film": (PerceptronField(2, (32, 32)), False, 0),
        "context": (PerceptronField(2, (32, 32), 3), True, 0),
        "context by film": (PerceptronField(2, (32, 32), 3, conditioning="film"), True, 2),
        "OTFlow": (PotentialField(Potential(2, 32)), False, 2),
    }
    for name, (field, conditional, a_row) in fields.items():
        added = []
        for n in (64, 128):
            given = context[:n] if conditional else None
            few, many = (kept_numbers(field, "checkpoint", steps, given, n) for steps in (4, 12))
            added.append(many - few)
        assert added[1] - added[0] == 8 * 64 * a_row, name


def test_a_second_derivative_of_the_adjoint_is_refused():
    field = LinearField(torch.eye(2).double(), torch.zeros(2).double())
    x = torch.ones(3, 2).double().requires_grad_()
    solution = solve(field, x, None, Solver(gradient="adjoint"), exact=True)
    (first,) = torch.autograd.grad(solution.x.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_regularizers_are_the_integrals_along_the_path():
    """Of ``dx/dt = a x``: |v|² = a² e^{2at} x², so ∫ over [0, 1] is a (e^{2a} − 1) x²/2; the Jacobian's is a² d."""
    a, penalty = 0.7, {}
    field = LinearField(a * torch.eye(2).double(), torch.zeros(2).double())
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)).double()
    for inverse in (False, True):
        ends = (1.0, 0.0) if inverse else (0.0, 1.0)
        found = solve(field, x, None, Solver("rk4", 32), *ends, exact=True, regularizers=True)
        sign = -1.0 if inverse else 1.0
        exact = sign * x.square().sum(1) * a * math.expm1(sign * 2 * a) / 2
        torch.testing.assert_close(sign * found.kinetic, exact, rtol=1e-6, atol=0)
        torch.testing.assert_close(sign * found.frobenius, torch.full((6,), 2 * a * a).double())
        penalty[inverse] = sign * found.kinetic
    assert (penalty[False] > 0).all() and (penalty[True] > 0).all()


def test_regularisers_add_to_the_training_loss_what_the_integrals_are():
    flows = [
        moved(FFJORD(dim=2, hidden_features=(8,), exact=True, n_steps=8, **options)).double().train()
        for options in ({}, {"kinetic": 2.0, "frobenius": 3.0})
    ]
    flows[1].load_state_dict(flows[0].state_dict())
    x = points(flows[0])
    plain, regularised = (float(flow.loss(x).detach()) for flow in flows)
    found = flows[0].transform.layers[0].solve(x, inverse=True, exact=True, regularizers=True)
    expected = -(2.0 * found.kinetic + 3.0 * found.frobenius).mean()
    assert regularised - plain == pytest.approx(float(expected.detach()), rel=1e-9)
    assert float(flows[1].eval().loss(x).detach()) == pytest.approx(plain, rel=1e-9)
