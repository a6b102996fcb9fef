"""MADE, MAF and IAF: exact Jacobians, the autoregressive pattern, exact mixtures, samples, their form on disk."""

import math

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, Normal, StudentT

import cgm_kernels
import cgm_models
from cgm_models.flows import IAF, MADE, MAF
from cgm_models.flows.mixture import StandardLogistic
from cgm_models.nets import MaskedMLP
from tests.support.flows import context_of, log_abs_det, points

SMALL = {"n_layers": 3, "hidden_features": (8, 8)}
MODELS = {
    "maf": lambda: MAF(dim=5, **SMALL),
    "maf-line": lambda: MAF(dim=1, context_dim=2, **SMALL),
    "maf-context": lambda: MAF((4,), 3, order="random", scale="softclip", activation="tanh", **SMALL),
    "maf-image": lambda: MAF((1, 2, 3), n_levels=17, scale="sigmoid", **SMALL),
    "iaf": lambda: IAF(dim=5, **SMALL),
    "iaf-context": lambda: IAF((1, 2, 2), 2, order="random", **SMALL),
    "iaf-bounded": lambda: IAF(dim=5, scale="tanh", bound=1.5, **SMALL),
    "made": lambda: MADE(dim=5, hidden_features=(9, 8)),
    "made-context": lambda: MADE(dim=4, context_dim=2, order="random", activation="gelu"),
    "made-student": lambda: MADE(dim=4, hidden_features=(8,), base="student_t", base_options={"df": 4.0}),
    "made-learnt": lambda: MADE((1, 2, 2), 2, hidden_features=(8,), base="learnable_normal"),
    "mixture": lambda: MADE(dim=4, n_components=3, hidden_features=(16,)),
    "mixture-context": lambda: MADE((1, 2, 2), 2, n_components=2, order="random", n_levels=5),
}
ALL = pytest.mark.parametrize("name", MODELS)


def make(name, seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    model = MODELS[name]().to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@ALL
def test_log_dets_are_those_of_the_autograd_jacobian(name):
    model = make(name)
    x, context = points(model), context_of(model)
    z, log_det = model.inverse(x, context)
    exact = log_abs_det(lambda v: model.inverse(v, context)[0], x)
    torch.testing.assert_close(log_det, exact, rtol=0, atol=1e-8)
    _, log_det = model(z, context)
    exact = log_abs_det(lambda v: model(v, context)[0], z.detach())
    torch.testing.assert_close(log_det, exact, rtol=0, atol=1e-8)


@ALL
def test_the_two_directions_undo_each_other(name):
    model = make(name)
    x, context = points(model, 40), context_of(model, 40)
    z, log_det = model.inverse(x, context)
    again, back = model(z, context)
    torch.testing.assert_close(again, x, rtol=0, atol=1e-9)
    torch.testing.assert_close(back, -log_det, rtol=0, atol=1e-9)


@ALL
def test_every_parameter_receives_a_gradient_both_ways(name):
    model = make(name)
    x, context = points(model), context_of(model)
    model.loss(x, context).backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    model.zero_grad(set_to_none=True)
    samples, log_prob = model.sample_and_log_prob(4, context)
    (samples.square().sum() + log_prob.sum()).backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


@ALL
@pytest.mark.parametrize("way", ["forward", "inverse"])
def test_gradients_are_those_of_finite_differences(name, way):
    model = make(name)
    x, context = points(model), context_of(model)
    x = x if way == "inverse" else model.inverse(x, context)[0].detach()
    parameters = list(model.parameters())

    def value():
        y, log_det = getattr(model, way)(x, context)
        return (y.square() + y).sum() + log_det.sum() + model.base.log_prob(y, context).sum()

    gradients = torch.autograd.grad(value(), parameters)
    generator = torch.Generator().manual_seed(4)
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
    step, values = 1e-6, []
    with torch.no_grad():
        for sign in (1, -2):
            for p, d in zip(parameters, direction, strict=True):
                p.add_(sign * step * d)
            values.append(float(value()))
    assert slope == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4, abs=1e-4)


@ALL
def test_save_and_load_give_the_same_numbers(name, tmp_path):
    model = make(name, dtype=torch.float32)
    model.save(tmp_path)
    again = cgm_models.load(tmp_path)
    assert again.config == model.config
    x, context = points(model), context_of(model)
    assert torch.equal(again.log_prob(x, context), model.log_prob(x, context))
    first, second = (m.sample(4, context, torch.Generator().manual_seed(0)) for m in (model, again))
    assert torch.equal(first, second)


@ALL
def test_samples_are_the_same_on_the_reference(name):
    model = make(name)
    context = context_of(model)
    samples = []
    for backend in ("auto", "reference"):
        with cgm_kernels.use_backend(backend):
            samples.append(model.sample(4, context, torch.Generator().manual_seed(1)))
    torch.testing.assert_close(*samples, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]])
def test_masked_networks_are_autoregressive_in_their_order(order, context):
    torch.manual_seed(0)
    net = MaskedMLP(order, 3, (16, 16), context, "tanh", zero_last=False).double()
    x = torch.randn(1, 4, dtype=torch.float64)
    given = torch.randn(1, context, dtype=torch.float64) if context else None
    jacobian = torch.autograd.functional.jacobian(lambda v: net(v, given).sum(0), x)[:, 0].reshape(3, 4, 4)
    before = torch.tensor([[order[j] < order[i] for j in range(4)] for i in range(4)])
    assert (jacobian[:, ~before] == 0).all()
    assert (jacobian[:, before] != 0).all()


@pytest.mark.parametrize("name, map", [("maf", "inverse"), ("iaf", "forward")])
def test_layers_are_triangular_and_turn_their_order_round(name, map):
    model = make(name)
    for index, layer in enumerate(model.transform.layers):
        x = torch.randn(1, 5, dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(lambda v, m=layer: getattr(m, map)(v)[0].sum(0), x)[:, 0]
        outside = jacobian.triu(1) if index % 2 == 0 else jacobian.tril(-1)
        assert not outside.any()
        assert jacobian.diagonal().all()


def test_mixture_log_prob_is_that_of_its_mixtures():
    model = make("mixture")
    x = points(model, 6)
    logits, means, scales = model.transform.layers[0].net(x).view(6, 3, 3, 4).transpose(2, 3).unbind(1)
    mixture = MixtureSameFamily(Categorical(logits=logits), Normal(means, (5.0 * torch.tanh(scales / 5.0)).exp()))
    torch.testing.assert_close(model.log_prob(x), mixture.log_prob(x).sum(1))


def test_conditionals_over_a_base_are_the_base_shifted_and_scaled():
    model = make("made-student")
    x = points(model, 6)
    scales, means = model.transform.layers[0].net(x).view(6, 2, 4).unbind(1)
    conditionals = StudentT(4.0, means, (5.0 * torch.tanh(scales / 5.0)).exp())
    torch.testing.assert_close(model.log_prob(x), conditionals.log_prob(x).sum(1))


def test_mixture_tails_stay_finite():
    """Beyond where the distribution function rounds to 0 or 1."""
    model = make("mixture").float()
    x = torch.tensor([[30.0, 0.0, 0.0, 0.0], [-30.0, 0.0, 0.0, 0.0]])
    expected = make("mixture").log_prob(x.double())
    torch.testing.assert_close(model.log_prob(x).double(), expected, rtol=1e-4, atol=1e-3)


def test_a_mixture_integrates_to_one():
    torch.manual_seed(0)
    model = MADE(dim=2, n_components=3, hidden_features=(8,)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        grid = torch.linspace(-10, 10, 401, dtype=torch.float64)
        mass = model.log_prob(torch.cartesian_prod(grid, grid)).exp().sum() * (20 / 400) ** 2
    assert float(mass) == pytest.approx(1.0, abs=1e-4)


def test_mixture_samples_have_the_distribution_of_the_first_dimension():
    model = make("mixture")
    x = model.sample(20000, generator=torch.Generator().manual_seed(0))
    z, _ = model.inverse(x)
    u = torch.sort(torch.sigmoid(z), 0).values
    steps = torch.arange(1, 20001, dtype=torch.float64) / 20000
    assert ((u - steps.unsqueeze(1)).abs().amax(0) < 1.63 / math.sqrt(20000) * 1.2).all()  # Kolmogorov–Smirnov at 0.3 %


def test_standard_logistic():
    base = StandardLogistic((3,)).double()
    z = base.draw(50000, generator=torch.Generator().manual_seed(0))
    assert float(z.var()) == pytest.approx(math.pi**2 / 3, rel=0.03)
    grid = torch.linspace(-60, 60, 60001, dtype=torch.float64)
    mass = base.log_prob(grid.unsqueeze(1)).exp().sum() * 120 / 60000
    assert float(mass) == pytest.approx(1.0, abs=1e-9)


def test_a_gaussian_is_learned():
    """A correlated Gaussian is in the family of a MADE without hidden layers: the gap to its entropy closes."""
    torch.manual_seed(0)
    covariance = torch.tensor([[1.0, 0.8], [0.8, 1.5]])
    truth = torch.distributions.MultivariateNormal(torch.tensor([0.5, -1.0]), covariance)
    model = MADE(dim=2, hidden_features=())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 300)
        optimizer.zero_grad()
        model.loss(truth.sample((512,))).backward()
        optimizer.step()
    x = truth.sample((20000,))
    with torch.no_grad():
        gap = truth.log_prob(x) - model.log_prob(x)
    assert float(gap.mean()) < 0.01 + 3 * float(gap.std()) / math.sqrt(20000)


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: MAF(dim=3, activation="leaky_relu"), "activation must be one of 'relu', 'tanh'"),
        (lambda: MAF(dim=3, order="natural"), "order must be one of 'reversed', 'random': got 'natural'"),
        (lambda: MAF(dim=3, scale="gate"), "scale must be one of"),
        (lambda: IAF(dim=3, scale="none"), "scale must be one of"),
        (lambda: IAF(dim=3, scale="tanh", bound=0.0), "bound must be"),
        (lambda: IAF(dim=3, n_layers=0), "n_layers must be a whole number, at least 1: got 0"),
        (lambda: MADE(dim=3, n_components=0), "n_components must be a whole number, at least 1: got 0"),
        (lambda: MADE(dim=3, order="reversed"), "order must be one of 'natural', 'random'"),
        (lambda: MADE(dim=3, bound=0.0), "bound must be a positive finite number: got 0.0"),
        (lambda: MADE(dim=3, n_components=2, base="laplace"), "base and base_options are for .* base = 'laplace'"),
        (lambda: MADE(dim=3, n_components=2, base_options={"df": 4.0}), r"base_options = {'df': 4.0}"),
        (lambda: MADE(dim=3, base="cauchy"), "base must be one of"),
        (lambda: MaskedMLP([0, 2], 2), r"order must be a permutation of 0 to 1: got \[0, 2\]"),
    ],
)
def test_wrong_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
