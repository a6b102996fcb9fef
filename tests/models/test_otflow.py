"""OT-Flow: field and costs by automatic differentiation and in closed form, both directions, training."""

import math

import pytest
import torch

import cgm_models
from cgm_models import data
from cgm_models.cnf import OTFlow, Solver, check_mass, converge, converged_log_prob
from cgm_models.training import Trainer


def make(event_shape=(3,), context_dim=0, *, seed=0, **options):
    torch.manual_seed(seed)
    options = {"width": 8, "n_layers": 3, "n_steps": 6, **options}
    flow = OTFlow(event_shape, context_dim, **options).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.mul_(0.5).add_(0.1 * torch.randn_like(parameter))
    return flow


def points(flow, n=5):
    shape = (n, *flow.event_shape)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def context_of(flow, n=5):
    if not flow.context_dim:
        return None
    return torch.randn(n, flow.context_dim, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("context_dim", [0, 2])
def test_the_field_is_the_gradient_of_the_potential(context_dim):
    flow = make(context_dim=context_dim, alpha=(2.0, 10.0, 5.0))
    field, x, context = flow.potential_transform.field, points(flow), context_of(flow)
    s = torch.cat((x, torch.full((5, 1), 0.3, dtype=torch.float64)), 1).requires_grad_()
    gradients, hessians = [], []
    for i in range(5):
        row = None if context is None else context[i : i + 1]

        def value(point, row=row):
            return field.potential(point[None, :3], point[3], row)[0]

        gradients.append(torch.autograd.functional.jacobian(value, s[i]))
        hessians.append(torch.autograd.functional.hessian(value, s[i]))
    gradient, hessian = torch.stack(gradients), torch.stack(hessians)
    v, divergence = field.divergence(0.7, x, context, exact=True)
    torch.testing.assert_close(v, gradient[:, :3] / 2.0)
    torch.testing.assert_close(v, field(0.7, x, context))
    torch.testing.assert_close(divergence, hessian[:, :3, :3].diagonal(dim1=1, dim2=2).sum(1) / 2.0)
    probes = math.sqrt(3.0) * torch.eye(3, dtype=torch.float64)[:, None].expand(3, 5, 3)
    with torch.no_grad():
        estimate = field.divergence(0.7, x, context, probes=probes)[1]
    torch.testing.assert_close(estimate, divergence)


@pytest.mark.parametrize("context_dim", [0, 2])
def test_the_log_determinant_is_that_of_the_map(context_dim):
    """Of the exact solution: the steps' own determinant and the integral agree up to the error of the steps."""
    flow = make(context_dim=context_dim, n_steps=40)
    x, context = points(flow), context_of(flow)
    z, log_det = flow.inverse(x, context)
    jacobian = torch.autograd.functional.jacobian(lambda p: flow.inverse(p, context)[0].sum(0), x).transpose(0, 1)
    torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, log_det, rtol=1e-5, atol=1e-6)
    back, log_det_back = flow(z, context)
    torch.testing.assert_close(back, x, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(log_det_back, -log_det, rtol=1e-5, atol=1e-6)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1) + log_det
    torch.testing.assert_close(flow.log_prob(x, context), expected)


def test_the_inverse_returns_with_the_fourth_order_of_the_step():
    flow, errors = make(), []
    x = points(flow)
    for n in (8, 16):
        flow.potential_transform.solver = Solver("rk4", n)
        errors.append(float((flow(flow.inverse(x)[0])[0] - x).detach().abs().max()))
    assert 10.0 < errors[0] / errors[1] < 40.0


def test_the_costs_of_the_optimal_map_of_a_gaussian():
    """Φ = ½ Σ a_i(τ) x_i² of the map x_i(τ) = x_i (1 − τ + τ / s_i) is optimal; a constant a_i is its flow otherwise.

    Without a network the potential ½ a x² carries x to x e^{−aτ}; everything about it is in closed form.
    """
    a, n = torch.tensor([0.7, -0.4], dtype=torch.float64), 4000
    flow = OTFlow(dim=2, width=4, n_layers=2, rank=2, alpha=(1.0, 10.0, 5.0), n_steps=16).double()
    potential = flow.potential_transform.field.potential
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    root = torch.tensor([[0.7**0.5, 0.0, 0.0], [0.0, 0.5, 0.0]], dtype=torch.float64)
    with torch.no_grad():
        potential.output.zero_()
        potential.quadratic.copy_(root)
        a = root.square().sum(0)[:2]
        costs = flow.costs(x)
    z = x * torch.exp(-a)
    likelihood = 0.5 * z.square().sum(1) + math.log(2.0 * math.pi) + a.sum()
    # ∫ ½ a² x² e^{−2aτ} dτ, and the HJB residual |0 − ½ a² x²| is the same number.
    transport = (0.25 * a * x.square() * -torch.expm1(-2.0 * a)).sum(1)
    for got, exact in zip(costs, (transport, likelihood, transport), strict=True):
        assert float(got) == pytest.approx(float(exact.mean()), rel=1e-6)
    total = costs.transport + 10.0 * costs.likelihood + 5.0 * costs.penalty
    torch.testing.assert_close(flow.loss(x), total)
    torch.testing.assert_close(flow.eval().loss(x), likelihood.mean(), rtol=1e-6, atol=1e-6)


def test_gradients_against_finite_differences_and_checkpoints():
    flow = make(context_dim=2, n_steps=2)
    x, context = points(flow), context_of(flow)
    names, parameters = zip(*flow.named_parameters(), strict=True)

    def loss(*values):
        return torch.func.functional_call(flow, dict(zip(names, values, strict=True)), (x, context))

    flow.forward = flow.loss
    assert torch.autograd.gradcheck(loss, parameters, atol=1e-5)
    del flow.forward
    expected = torch.autograd.grad(flow.loss(x, context), parameters)
    again = make(context_dim=2, n_steps=2, gradient="checkpoint")
    for got, want in zip(torch.autograd.grad(again.loss(x, context), list(again.parameters())), expected, strict=True):
        torch.testing.assert_close(got, want)


def test_steps_follow_the_mode(tmp_path):
    flow = OTFlow(dim=2, n_steps=4, n_steps_evaluation=20, width=8)
    assert flow.potential_transform.solver.n_steps == 4
    assert flow.eval().potential_transform.solver.n_steps == 20
    assert flow.train().potential_transform.solver.n_steps == 4
    flow.save(tmp_path)
    again = cgm_models.load(tmp_path)
    assert again.potential_transform.solver.n_steps == 20
    x = torch.randn(6, 2)
    torch.testing.assert_close(again.log_prob(x), flow.eval().log_prob(x))
    torch.testing.assert_close(
        again.sample(3, generator=torch.Generator().manual_seed(0)),
        flow.sample(3, generator=torch.Generator().manual_seed(0)),
    )
    assert OTFlow(dim=2, n_steps=5).eval().potential_transform.solver.n_steps == 10


def test_the_mode_may_change_while_steps_are_halved():
    """``eval()`` in the middle of it must not bring the coarse steps back, which would look converged."""
    flow = make((2,), n_steps=1, n_steps_evaluation=1)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.mul_(2.0)
    x = points(flow, 50)
    found = converge(flow, lambda: flow.eval().log_prob(x))
    expected = converged_log_prob(flow, x)
    assert found.halvings == expected.halvings >= 2
    torch.testing.assert_close(found.values, expected.values)
    flow = OTFlow(dim=2, n_steps=4, n_steps_evaluation=6, width=8)
    with flow.refined(1):
        assert flow.potential_transform.solver.n_steps == 8
        assert flow.eval().potential_transform.solver.n_steps == 12
    assert flow.potential_transform.solver.n_steps == 6
    flow.potential_transform.solver = Solver("rk4", 5)
    assert flow.train().potential_transform.solver.n_steps == 5


def test_images_with_levels_and_contexts():
    torch.manual_seed(0)
    flow = OTFlow((1, 2, 2), 3, width=8, n_steps=3, n_levels=17, alpha=(1.0, 10.0, 0.0))
    x, labels = torch.rand(6, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1, 2])
    flow.loss(x, labels).backward()
    assert all(parameter.grad is not None for parameter in flow.parameters())
    assert flow.sample(6, labels).shape == (6, 1, 2, 2)
    assert flow.bits_per_dim(x, labels).shape == (6,)


def test_it_learns_a_mixture_and_its_likelihood_is_honest():
    """Eight Gaussians for seconds: the gap to the truth falls, the likelihood is converged, and the mass is one."""
    law = data.density("8gaussians")
    x, test = law.sample(20_000, torch.Generator().manual_seed(0)), law.sample(2000, torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    flow = OTFlow(dim=2, width=32, alpha=(1.0, 100.0, 5.0), n_steps=4, n_steps_evaluation=8)
    trainer = Trainer(max_steps=120, batch_size=256, lr=3e-2, schedule="one-cycle", tensorboard=False, progress=False)
    trainer.fit(flow, x)
    found = converged_log_prob(flow, test)
    gap = (law.log_prob(test) - found.values).double()
    assert 0.0 < float(gap.mean()) < 0.6
    assert found.change < 1e-3
    check_mass(flow, law.extent, n=80)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"alpha": (1.0, 2.0)}, "alpha must be three numbers"),
        ({"alpha": (0.0, 1.0, 1.0)}, r"alpha\[0\] must be a positive"),
        ({"alpha": (1.0, 1.0, -1.0)}, r"alpha\[2\]"),
        ({"gradient": "adjoint"}, "gradient must be 'discrete' or 'checkpoint'"),
        ({"n_steps": 0}, "n_steps"),
        ({"width": 0}, "width"),
        ({"rank": -1}, "rank"),
    ],
)
def test_errors_name_the_argument(options, words):
    with pytest.raises(ValueError, match=words):
        OTFlow(dim=2, **options)
