"""Dynamics that keep volumes: divergence, determinant, inverse and energy, against automatic differentiation."""

import math

import pytest
import torch

import cgm_models
from cgm_models.cnf import AntisymmetricField, HamiltonianFlow, Potential, SeparableField, Solver
from cgm_models.cnf.hamiltonian import VerletTransform

from ..support.flows import log_abs_det


def make(dynamics, dim, context_dim=0, **options):
    torch.manual_seed(0)
    flow = HamiltonianFlow(dim=dim, context_dim=context_dim, dynamics=dynamics, width=8, **options).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return flow


def drawn(n, dim, seed=1):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CASES = [
    ("separable", 4, 0),
    ("separable", 2, 3),
    ("canonical", 4, 2),
    ("antisymmetric", 3, 0),
    ("antisymmetric", 2, 1),
]


def field_of(flow):
    return next(layer.field for layer in flow.transform.layers if hasattr(layer, "field"))


@pytest.mark.parametrize(("dynamics", "dim", "context_dim"), CASES)
def test_the_divergence_is_zero(dynamics, dim, context_dim):
    flow = make(dynamics, dim, context_dim)
    field, x = field_of(flow), drawn(5, dim)
    context = drawn(5, context_dim, 2) if context_dim else None
    jacobian = torch.autograd.functional.jacobian(lambda p: field(0.4, p, context).sum(0), x).transpose(0, 1)
    assert float(jacobian.abs().max()) > 0.1
    assert float(jacobian.diagonal(dim1=1, dim2=2).sum(1).abs().max()) < 1e-13
    value, divergence = field.divergence(0.4, x, context, exact=True)
    torch.testing.assert_close(value, field(0.4, x, context))
    assert not divergence.any()
    with torch.no_grad():
        square = field.divergence(0.4, x, context, exact=True, frobenius=True)[2]
    torch.testing.assert_close(square, jacobian.square().sum((1, 2)))


@pytest.mark.parametrize(("dynamics", "dim", "context_dim"), CASES)
def test_the_map_keeps_volumes_and_the_density_is_that_of_the_base(dynamics, dim, context_dim):
    """Leapfrog exactly; Runge–Kutta to the error of its steps, far below it for these."""
    flow = make(dynamics, dim, context_dim, n_steps=5 if dynamics == "separable" else 40)
    x = drawn(5, dim)
    context = drawn(5, context_dim, 2) if context_dim else None
    tolerance = 1e-12 if dynamics == "separable" else 1e-6
    z, log_det = flow.inverse(x, context)
    assert float((z - x).detach().abs().max()) > 0.1
    assert not log_det.any()
    assert float(log_abs_det(lambda p: flow.inverse(p, context)[0], x).abs().max()) < tolerance
    assert float((flow(z, context)[0] - x).detach().abs().max()) < tolerance
    normal = torch.distributions.Normal(0.0, 1.0)
    torch.testing.assert_close(flow.log_prob(x, context), normal.log_prob(z).sum(1))


def harmonic(n_steps):
    """H = ½ p² + ½ q², without a network: a turn by t."""
    parts = [Potential(1, 2, 1, rank=1).double() for _ in range(2)]
    with torch.no_grad():
        for part in parts:
            part.output.zero_()
            part.quadratic.copy_(torch.tensor([[1.0, 0.0]]))
    return VerletTransform(SeparableField(*parts), Solver("midpoint", n_steps))


def test_leapfrog_turns_the_harmonic_oscillator_at_second_order():
    x, turn = drawn(6, 2), torch.tensor([[math.cos(1.0), -math.sin(1.0)], [math.sin(1.0), math.cos(1.0)]]).double()
    errors = [float((harmonic(n)(x)[0] - x @ turn).detach().abs().max()) for n in (10, 20)]
    assert errors[1] < 1e-3
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.02)
    path = harmonic(12).trajectory(x, 4)
    assert path.shape == (4, 6, 2)
    torch.testing.assert_close(path[-1], harmonic(12)(x)[0])
    energy = 0.5 * path.square().sum(2)
    assert float((energy / energy[0] - 1.0).detach().abs().max()) < 2e-3


def test_leapfrog_by_checkpoints_gives_the_gradient_of_the_steps_and_keeps_less():
    found = {}
    for gradient in ("discrete", "checkpoint"):
        flow, kept = make("separable", 4, 3, gradient=gradient), {}
        x, context = drawn(5, 4), drawn(5, 3, 2)
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, kept=kept: kept.update({t.untyped_storage().data_ptr(): t.numel()}) or t, lambda t: t
        ):
            value = flow.log_prob(x, context).sum()
        found[gradient] = (value, *torch.autograd.grad(value, list(flow.parameters()))), sum(kept.values())
    (made, many), (again, few) = found["discrete"], found["checkpoint"]
    torch.testing.assert_close(again, made, rtol=1e-12, atol=1e-12)
    assert few < 0.7 * many
    with pytest.raises(ValueError, match="gradient must be 'discrete' or 'checkpoint' where the steps are leapfrog"):
        make("separable", 2, gradient="adjoint")


def test_hamiltons_equations_turn_the_harmonic_oscillator():
    potential = Potential(2, 2, 1, rank=2).double()
    with torch.no_grad():
        potential.output.zero_()
        potential.quadratic.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    x = drawn(6, 2)
    v = AntisymmetricField(potential, canonical=True).double()(0.0, x)
    torch.testing.assert_close(v, torch.stack((x[:, 1], -x[:, 0]), 1))


@pytest.mark.parametrize("dynamics", ["separable", "canonical", "antisymmetric"])
def test_it_begins_at_the_identity_trains_and_is_saved(dynamics, tmp_path):
    torch.manual_seed(0)
    flow = HamiltonianFlow((1, 2, 2), 3, dynamics=dynamics, width=8, n_steps=4, base="learnable_normal")
    x, labels = torch.randn(8, 1, 2, 2), torch.arange(8) % 3
    torch.testing.assert_close(flow.inverse(x, labels)[0], x)
    optimizer = torch.optim.Adam(flow.parameters(), lr=0.05)
    losses = []
    for _ in range(10):
        loss = flow.loss(x, labels)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0] - 0.1
    flow.eval().save(tmp_path)
    again = cgm_models.load(tmp_path)
    torch.testing.assert_close(again.log_prob(x, labels), flow.log_prob(x, labels))
    assert flow.sample(3, labels[:3]).shape == (3, 1, 2, 2)


def test_halving_the_step_reaches_every_dynamics():
    for dynamics in ("separable", "canonical"):
        flow = make(dynamics, 2, n_steps=3)
        x = drawn(4, 2)
        coarse = flow.inverse(x)[0]
        evaluations = flow.n_evaluations
        with flow.refined(1):
            assert float((flow.inverse(x)[0] - coarse).detach().abs().max()) > 1e-6
            assert 1.5 * evaluations < flow.n_evaluations <= 2 * evaluations


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="even number of dimensions: got 3"):
        HamiltonianFlow(dim=3)
    with pytest.raises(ValueError, match="even number of dimensions: got 5"):
        HamiltonianFlow(dim=5, dynamics="canonical")
    with pytest.raises(ValueError, match="dynamics must be one of"):
        HamiltonianFlow(dim=2, dynamics="leapfrog")
