"""Base distributions, dequantisation and bits per dimension."""

import copy
import io
import math
import pickle

import pytest
import torch
from torch.distributions import Exponential, Independent, MultivariateNormal, Normal

import cgm_models
from cgm_models.flows import MADE, RealNVP, base_names, bits_per_dim, dequantize, quantize, register_base
from cgm_models.flows.bases import make_base
from cgm_models.flows.preprocess import Sigmoid

OPTIONS = {
    "student_t": {"df": 4.0},
    "uniform": {"low": -1.0, "high": 3.0},
    "gaussian_mixture": {"n_components": 3, "std": 0.5},
}
FLOWS = pytest.mark.parametrize("family", [RealNVP, MADE])
NAMED = ["gaussian_mixture", "laplace", "learnable_normal", "logistic", "normal", "student_t", "uniform"]


def make(name, event_shape=(2,), context_dim=0, **options):
    torch.manual_seed(0)
    base = make_base(name, event_shape, context_dim, options or OPTIONS.get(name)).double()
    for parameter in base.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    return base


def test_the_names_are_these():
    assert set(NAMED) <= set(base_names())


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("context_dim", [0, 2])
def test_bases_integrate_to_one(name, context_dim):
    base = make(name, context_dim=context_dim)
    # z = sinh(3 u) / sinh(3) · 200 reaches the tails of Student's t with few points.
    u, h = torch.linspace(-1.0, 1.0, 801, dtype=torch.float64), 2.0 / 800
    line = torch.sinh(6.0 * u) * (200.0 / math.sinh(6.0))
    jacobian = torch.cosh(6.0 * u) * (200.0 * 6.0 / math.sinh(6.0))
    grid = torch.cartesian_prod(line, line)
    context = torch.tensor([[0.5, -1.0]], dtype=torch.float64).expand(len(grid), 2) if context_dim else None
    density = base.log_prob(grid, context).detach().exp().view(801, 801)
    mass = (density * jacobian[:, None] * jacobian).sum() * h * h
    assert float(mass) == pytest.approx(1.0, abs=2e-2 if name == "uniform" else 2e-3)


@pytest.mark.parametrize("name", NAMED)
def test_samples_follow_the_density(name):
    """The mean of log p over samples is minus the entropy, here by quadrature."""
    base = make(name)
    z = base.draw(20_000, None, torch.Generator().manual_seed(1)).detach()
    assert z.shape == (20_000, 2) and z.dtype == torch.float64
    line = torch.linspace(-60.0, 60.0, 1601, dtype=torch.float64)
    log_p = base.log_prob(torch.cartesian_prod(line, line)).detach()
    negative_entropy = -float(torch.special.entr(log_p.exp()).sum()) * (120.0 / 1600) ** 2
    sampled = base.log_prob(z).detach()
    error = float(sampled.std()) / len(z) ** 0.5
    grid = 5e-2 if name == "uniform" else 5e-3
    assert abs(float(sampled.mean()) - negative_entropy) < 4 * error + grid


@pytest.mark.parametrize("name", NAMED)
def test_a_generator_fixes_the_samples_and_leaves_the_global_one(name):
    base = make(name, (1, 2, 2))
    torch.manual_seed(7)
    before = torch.get_rng_state()
    draws = [base.draw(5, None, torch.Generator().manual_seed(s)) for s in (3, 3, 4)]
    assert torch.equal(torch.get_rng_state(), before)
    assert draws[0].shape == (5, 1, 2, 2)
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


@FLOWS
@pytest.mark.parametrize("name", NAMED)
def test_flows_of_every_base_are_copied_and_pickled(name, family):
    torch.manual_seed(0)
    flow = family(dim=2, hidden_features=(4,), base=name, base_options=OPTIONS.get(name)).double()
    z, place = torch.rand(5, 2, dtype=torch.float64), io.BytesIO()
    torch.save(flow, place)
    place.seek(0)
    for again in (copy.deepcopy(flow), pickle.loads(pickle.dumps(flow)), torch.load(place, weights_only=False)):
        assert torch.equal(again.log_prob(z), flow.log_prob(z))
        draws = [one.sample(3, generator=torch.Generator().manual_seed(1)) for one in (again, flow)]
        assert torch.equal(*draws)


@pytest.mark.parametrize("name", NAMED)
def test_temperature_scales_about_the_mean(name):
    base = make(name)
    if name == "gaussian_mixture":
        base.logits.data.fill_(0.0)
    cold = base.draw(2, None, torch.Generator().manual_seed(0), temperature=0.0)
    torch.testing.assert_close(cold[0], cold[1])


def test_the_normal_equals_torch_distributions_also_at_the_origin():
    base = make("normal", (3,))
    z = torch.cat((torch.randn(5, 3), torch.zeros(1, 3))).double().requires_grad_()
    exact = Independent(Normal(torch.zeros(3).double(), 1.0), 1).log_prob(z)
    torch.testing.assert_close(base.log_prob(z), exact)
    (gradient,) = torch.autograd.grad(base.log_prob(z).sum(), z)
    torch.testing.assert_close(gradient, -z.detach())


def test_a_context_moves_the_learnable_bases_row_by_row():
    z, context = torch.randn(6, 2).double(), torch.randn(6, 3).double()
    for name in ("learnable_normal", "gaussian_mixture"):
        base = make(name, context_dim=3)
        together = base.log_prob(z, context)
        alone = torch.cat([base.log_prob(z[i : i + 1], context[i : i + 1]) for i in range(6)])
        torch.testing.assert_close(together, alone)
        assert (together - base.log_prob(z, context.roll(1, 0))).abs().max() > 1e-3
        assert base.draw(6, context).shape == (6, 2)
        with pytest.raises(ValueError, match="needs a context"):
            base.log_prob(z)


@FLOWS
def test_any_distribution_can_be_registered_and_is_found_on_loading(family, tmp_path):
    covariance = torch.tensor([[2.0, 0.5], [0.5, 1.0]])
    register_base("correlated", lambda event_shape, context_dim: MultivariateNormal(torch.zeros(2), covariance))
    register_base("positive", lambda event_shape, context_dim, rate: Exponential(torch.full(event_shape, rate)))
    flow = family(dim=2, base="correlated")
    x = torch.randn(4, 2)
    torch.testing.assert_close(flow.log_prob(x), MultivariateNormal(torch.zeros(2), covariance).log_prob(x))
    flow.save(tmp_path)
    assert torch.equal(cgm_models.load(tmp_path).log_prob(x), flow.log_prob(x))
    positive = family((3,), base="positive", base_options={"rate": 2.0})
    assert positive.sample(5).min() > 0
    exact = Exponential(torch.full((3,), 2.0)).log_prob(torch.ones(4, 3)).sum(1)
    torch.testing.assert_close(positive.log_prob(torch.ones(4, 3)), exact)
    with pytest.raises(ValueError, match=r"events of shape \(3,\)"):
        family(dim=3, base="correlated")


def test_wrong_options_of_a_base_are_named():
    for name, options, message in (
        ("student_t", {"df": -1.0}, "df must be a positive"),
        ("student_t", {"nu": 1.0}, "base_options .* do not fit"),
        ("uniform", {"low": 2.0, "high": 1.0}, "low must be less"),
        ("gaussian_mixture", {"n_components": 0}, "n_components"),
        ("gaussian_mixture", {"std": 0.0}, "std"),
        ("cauchy", None, "base must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            make_base(name, (2,), 0, options)


@FLOWS
def test_outside_the_support_the_density_is_zero_and_the_loss_says_so(family):
    flow = family(dim=2, base="uniform")
    assert flow.log_prob(torch.tensor([[0.0, 0.0], [9.0, 0.0]]))[1] == -math.inf
    with pytest.raises(FloatingPointError, match="base BoxUniform has no finite density at 1 of 2 rows"):
        flow.loss(torch.tensor([[0.0, 0.0], [9.0, 0.0]]))


def test_dequantised_images_fill_their_cells_and_come_back():
    levels = torch.arange(17).repeat(200).view(200, 1, 17, 1)
    x = levels / 16
    noisy = dequantize(x, 17, torch.Generator().manual_seed(0))
    assert torch.equal(quantize(noisy, 17), x)
    offset = noisy * 17 - levels
    assert offset.min() >= 0.0 and offset.max() <= 1.0 and offset.mean() == pytest.approx(0.5, abs=0.02)
    assert torch.equal(quantize(torch.tensor([-0.1, 1.0, 1.2]), 17), torch.tensor([0.0, 1.0, 1.0]))
    with pytest.raises(ValueError, match=r"x must lie in \[0, 1\]"):
        dequantize(x * 2, 17)


def test_the_uniform_density_costs_log2_levels_bits():
    assert float(bits_per_dim(torch.zeros(()), 64, 16)) == pytest.approx(4.0)


def test_bits_per_dim_bounds_the_exact_code_length_and_tightens():
    """A flow over two pixels of three levels, each cell integrated on a grid."""
    torch.manual_seed(0)
    flow = RealNVP((1, 1, 2), n_scales=0, n_levels=3, n_layers=2, hidden_features=(4,)).double()
    for parameter in flow.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    x = torch.tensor([0.0, 0.5, 1.0]).double()[torch.cartesian_prod(torch.arange(3), torch.arange(3))].view(9, 1, 1, 2)
    inner = (torch.arange(200).double() + 0.5) / 200
    noise = torch.cartesian_prod(inner, inner)
    cells = ((x * 2).view(9, 1, 2) + noise) / 3
    with torch.no_grad():
        density = flow.log_prob(cells.view(-1, 1, 1, 2)).exp().view(9, -1)
    exact = -(density.mean(1) / 9).log2() / 2
    one, many = (
        torch.stack([flow.bits_per_dim(x, n_draws=n, generator=g) for _ in range(repeats)]).mean(0)
        for n, repeats, g in ((1, 400, torch.Generator().manual_seed(1)), (400, 4, torch.Generator().manual_seed(2)))
    )
    assert (one >= exact - 0.02).all()
    spread = density.std(1) / density.mean(1) / (4 * 400) ** 0.5 / (2 * math.log(2.0))
    assert ((many - exact).abs() < 5 * spread).all()
    assert (many - exact).abs().mean() < (one - exact).abs().mean()
    with pytest.raises(ValueError, match="n_levels"):
        RealNVP(dim=2).bits_per_dim(torch.zeros(1, 2))


def test_the_logit_is_exact_in_the_tails():
    transform = Sigmoid(1e-6)
    z = torch.tensor([[-40.0, 0.0, 30.0]], dtype=torch.float64)
    _, log_det = transform(z)
    exact = -(z.abs() + 2 * torch.log1p(torch.exp(-z.abs())) + math.log1p(-2e-6)).sum(1)
    torch.testing.assert_close(log_det, exact, rtol=1e-14, atol=0)


@FLOWS
def test_a_distribution_in_place_of_a_name_is_told_how(family):
    message = family.__name__ + r": argument base must be .*; register_base of cgm_models\.flows"
    with pytest.raises(TypeError, match=message):
        family(dim=2, base=torch.distributions.Laplace(torch.zeros(2), torch.ones(2)))
