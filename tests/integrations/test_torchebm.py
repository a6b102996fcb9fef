"""torchebm's Langevin sampler with and without our kernel: the same law, the same use of generators."""

import math

import pytest
import torch

torchebm = pytest.importorskip("torchebm", reason="torchebm is not installed (pip install torchebm)")

from torchebm.core import BaseModel, GaussianModel, LinearScheduler  # noqa: E402
from torchebm.integrators import EulerMaruyamaIntegrator  # noqa: E402
from torchebm.losses import ContrastiveDivergence  # noqa: E402
from torchebm.samplers import LangevinDynamics  # noqa: E402

import cgm_kernels  # noqa: E402
from cgm_kernels import integrations  # noqa: E402
from tests.support.flow_libraries import counts  # noqa: E402

STEP = "torchebm.EulerMaruyamaIntegrator.step"
MEAN, COVARIANCE = torch.tensor([1.0, -2.0]), torch.tensor([[1.0, 0.5], [0.5, 2.0]])


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def sampler(model=None, **options):
    return LangevinDynamics(model or GaussianModel(mean=MEAN, cov=COVARIANCE), **{"step_size": 0.05, **options})


def minus(x, t):
    return -x


@pytest.fixture
def patched():
    counts()
    with integrations.patch("torchebm"):
        yield
    counts()


def passed_on(reason, calls=1):
    row = counts()[STEP]
    assert (row.ours, row.reasons) == (0, {reason: calls})


def test_torchebm_law(patched):
    """The stationary law of the discretised chain: mean μ, covariance P⁻¹(I − hP/2)⁻¹ for precision P."""
    x = sampler(step_size=0.2).sample(x=MEAN.expand(40_000, 2), n_steps=60, generator=seeded(0))
    precision = torch.linalg.inv(COVARIANCE.double())
    exact = torch.linalg.inv(precision @ (torch.eye(2).double() - 0.1 * precision))
    errors = (exact.diagonal() / len(x)).sqrt()
    assert ((x.double().mean(0) - MEAN).abs() < 5 * errors).all()
    torch.testing.assert_close(x.T.double().cov(), exact, rtol=0, atol=5 * 2.0 * math.sqrt(2 / len(x)))
    assert counts()[STEP].ours == 60


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_torchebm_step_is_the_formula(patched, dtype):
    """x + h·f(x) + σ√(2h)·ε, ε the normals of the key that the generator gives."""
    integrator = EulerMaruyamaIntegrator(dtype=dtype)
    x = torch.randn(9, 3, 2, generator=seeded(1), dtype=torch.float64).to(dtype)
    noise = cgm_kernels.normal(x.shape, generator=seeded(5), dtype=dtype)
    state = {"x": x.clone()}
    found = integrator.step(state, 0.1, drift=minus, noise_scale=1.5, generator=seeded(5))
    torch.testing.assert_close(found["x"], x - 0.1 * x + 1.5 * math.sqrt(0.2) * noise, rtol=1e-6, atol=1e-6)
    assert torch.equal(state["x"], x)
    assert [*found] == ["x"]
    with_time = integrator.step(state, 0.1, drift=lambda x, t: -x * t[:, None, None], noise_scale=0.0, t=x.new_ones(9))
    torch.testing.assert_close(with_time["x"], 0.9 * x)
    assert counts()[STEP].ours == 2


def test_torchebm_generators(patched):
    """One seed, one chain; an explicit generator leaves torch's own alone, and None takes from torch's own."""
    one = sampler()
    options = {"dim": 2, "n_samples": 8, "n_steps": 5}
    found = [one.sample(**options, generator=seeded(seed)) for seed in (0, 0, 1)]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    torch.manual_seed(7)
    plain = torch.randn(4)
    torch.manual_seed(7)
    one.sample(**options, generator=seeded(0))
    assert torch.equal(plain, torch.randn(4))
    globally = []
    for _ in range(2):
        torch.manual_seed(3)
        globally.append(one.sample(**options))
    assert torch.equal(*globally)
    assert not torch.equal(plain, torch.randn(4))


def test_torchebm_sampler_options(patched):
    """Schedules, clamping, trajectories, thinning and diagnostics are torchebm's as before."""
    schedule = LinearScheduler(start_value=0.1, end_value=0.01, n_steps=10)
    one = sampler(step_size=schedule, noise_scale=0.5, clamp=(-0.5, 0.25))
    path, diagnostics = one.sample(
        dim=2, n_samples=6, n_steps=10, thin=2, return_trajectory=True, return_diagnostics=True
    )
    assert path.shape == (6, 5, 2)
    assert path.min() >= -0.5
    assert path.max() <= 0.25
    assert diagnostics["mean"].shape == (5, 2)
    assert counts()[STEP].ours == 10


class Quadratic(BaseModel):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.scale * (x**2).flatten(1).sum(1)


def test_torchebm_contrastive_divergence(patched):
    model = Quadratic()
    loss_of = ContrastiveDivergence(model=model, sampler=sampler(model), k_steps=4)
    loss, samples = loss_of(torch.randn(16, 3, generator=seeded(0)))[:2]
    loss.backward()
    assert samples.shape == (16, 3)
    assert model.scale.grad is not None
    assert counts()[STEP].ours == 4


def test_torchebm_passes_on(patched):
    integrator, x = EulerMaruyamaIntegrator(dtype=torch.float32), torch.randn(4, 2)
    reason = "a step without noise, or with noise or diffusion given"
    integrator.step({"x": x}, 0.1, drift=minus)
    passed_on(reason)
    noise = torch.randn(4, 2)
    found = integrator.step({"x": x}, 0.1, drift=minus, noise_scale=1.0, noise=noise)["x"]
    torch.testing.assert_close(found, 0.9 * x + math.sqrt(0.2) * noise)
    passed_on(reason)
    integrator.step({"x": x}, torch.tensor(0.1), drift=minus, noise_scale=1.0)
    passed_on("a step size or noise scale that is not a number")
    integrator.step({"x": x.double()}, 0.1, drift=minus, noise_scale=1.0)
    passed_on("another dtype or device than the integrator's")
    leaf = x.clone().requires_grad_()
    integrator.step({"x": leaf}, 0.1, drift=minus, noise_scale=1.0)["x"].sum().backward()
    torch.testing.assert_close(leaf.grad, torch.full_like(x, 0.9))
    passed_on("a gradient through the step")
    with pytest.raises(ValueError, match="drift must be provided"):
        integrator.step({"x": x}, 0.1, noise_scale=1.0)
    passed_on("arguments of no step")
    sampler(integrator="heun").sample(x=x, n_steps=2)
    assert not counts()


def test_torchebm_drifts_are_evaluated_once(patched):
    integrator, x, calls = EulerMaruyamaIntegrator(dtype=torch.float32), torch.randn(4, 2), []

    def row(x, t):
        calls.append(len(x))
        return -x[:1]  # which torchebm broadcasts

    torch.manual_seed(0)
    found = integrator.step({"x": x}, 0.1, drift=row, noise_scale=0.0)["x"]
    torch.testing.assert_close(found, x - 0.1 * x[:1])
    assert calls == [4]
    passed_on("a drift of another shape or dtype")


def test_torchebm_is_itself_again():
    original = EulerMaruyamaIntegrator.step
    with integrations.patch("torchebm"):
        assert EulerMaruyamaIntegrator.step is not original
    assert EulerMaruyamaIntegrator.step is original
    assert "step" not in vars(EulerMaruyamaIntegrator)
