"""What all samplers share: targets, draws, continuation, warm-up, and what happens to bad ones."""

import contextlib
import math

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import cgm_kernels
from cgm_kernels.langevin.energies import GaussianEnergy
from cgm_models import data
from cgm_models.ebm import EnergyModel
from cgm_models.flows import RealNVP
from cgm_models.sampling import (
    HMC,
    MALA,
    SGLD,
    ULA,
    AnnealedLangevin,
    EnergyGradient,
    State,
    TemperedLangevin,
    UnderdampedLangevin,
    polynomial_decay,
)
from cgm_models.sampling import sampler as sampler_module

SAMPLERS = {
    "ula": lambda: ULA(0.1, clamp=(-3.0, 3.0), max_grad_norm=5.0),
    "mala": lambda: MALA(0.3),
    "hmc": lambda: HMC(0.2, 3, jitter=0.2),
    "underdamped": lambda: UnderdampedLangevin(0.3, 2.0),
    "annealed": lambda: AnnealedLangevin(0.1, temperatures=(4.0, 2.0, 1.0), steps_per_level=3),
    "sgld": lambda: SGLD(polynomial_decay(0.2)),
    "tempered": lambda: TemperedLangevin(0.2, (1.0, 2.0, 4.0), swap_every=2),
}
every_sampler = pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def start(chains=6, dim=2, seed=1, dtype=torch.float64):
    return torch.randn(chains, dim, generator=seeded(seed), dtype=dtype)


def energy(x):
    return 0.25 * x.flatten(1).pow(4).sum(1) - torch.sin(x.flatten(1)).sum(1)


@every_sampler
def test_thinned_draws_are_every_so_many_of_the_chain(make):
    whole = make().run(start(), energy, 11, generator=seeded())
    assert whole.positions.shape == (11, 6, 2) and whole.energies.shape == (11, 6)
    thin = make().run(start(), energy, 11, thin=3, generator=seeded())
    assert torch.equal(thin.positions, whole.positions[2::3])
    assert torch.equal(thin.energies, whole.energies[2::3])
    torch.testing.assert_close(thin.acceptance, whole.acceptance[:9].unflatten(0, (3, 3)).mean(1))
    assert torch.equal(thin.state.position, whole.state.position)
    last = make().run(start(), energy, 11, keep_trajectory=False, generator=seeded())
    assert torch.equal(last.positions, whole.positions[-1:])
    assert torch.equal(whole.flat(), whole.positions.reshape(66, 2))


@every_sampler
def test_energies_are_those_of_the_positions(make):
    samples = make().run(start(), energy, 5, generator=seeded())
    torch.testing.assert_close(samples.energies.flatten(), energy(samples.flat()))


@every_sampler
def test_a_run_in_parts_is_the_same_chain(make, tmp_path):
    whole = make().run(start(), energy, 9, warmup=8, generator=seeded())
    first = make().run(start(), energy, 0, warmup=5, generator=seeded())
    assert first.positions.shape[0] == 0
    second = make().run(first.state, energy, 4, warmup=3)
    before = second.state.copy()
    file = tmp_path / "state.safetensors"
    safetensors.torch.save_file(second.state.tensors(), file)
    read = State.from_tensors(second.state.sampler, safetensors.torch.load_file(file))
    for state in (second.state, read):
        third = make().run(state, energy, 5)
        assert torch.equal(torch.cat((second.positions, third.positions)), whole.positions)
        assert third.state.step == whole.state.step == 17
    assert torch.equal(before.noise, second.state.noise) and torch.equal(before.position, second.state.position)


@every_sampler
def test_a_generator_fixes_the_run_and_leaves_the_global_one(make):
    torch.manual_seed(3)
    before, x = torch.get_rng_state(), start()
    runs = [make().run(x, energy, 4, generator=seeded(seed)).positions for seed in (5, 5, 6)]
    assert torch.equal(torch.get_rng_state(), before) and torch.equal(x, start())
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    assert not torch.equal(make().run(x, energy, 4).positions, make().run(x, energy, 4).positions)


@every_sampler
def test_the_backends_draw_the_same_chain(make):
    found = []
    for backend in cgm_kernels.available_backends("cpu"):
        if backend != "triton":
            with cgm_kernels.use_backend(backend):
                found.append(make().run(start(), energy, 6, generator=seeded()).positions)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-9, atol=1e-9)


@every_sampler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3,), (3, 1), (2, 1, 2, 2)])
def test_events_of_any_shape(make, dtype, shape):
    x = torch.ones(shape, dtype=dtype)
    samples = make().run(x, lambda v: 0.5 * v.reshape(len(v), -1).square().sum(1), 3, warmup=2, generator=seeded())
    assert samples.positions.shape == (3, *shape) and samples.positions.dtype == dtype
    assert samples.positions.isfinite().all() and not samples.positions.requires_grad


@pytest.mark.parametrize("sampler", [ULA(0.2), AnnealedLangevin(0.2, temperatures=(3.0, 1.0), steps_per_level=4)])
def test_closed_forms_run_as_chains_of_the_same_draws(sampler):
    covariance = torch.tensor([[1.0, 0.4], [0.4, 0.7]], dtype=torch.float64)
    closed = GaussianEnergy(torch.tensor([0.5, -0.5]).double(), covariance=covariance)
    general = sampler.run(start(), lambda x: closed(x), 12, warmup=1, thin=4, generator=seeded())
    fused = sampler.run(start(), closed, 12, warmup=1, thin=4, generator=seeded())
    torch.testing.assert_close(fused.positions, general.positions)
    torch.testing.assert_close(fused.energies, general.energies)
    torch.testing.assert_close(
        sampler.run(fused.state, closed, 3).positions, sampler.run(general.state, closed, 3).positions
    )
    assert torch.equal(fused.state.noise, general.state.noise)


@pytest.mark.parametrize("closed_form", [False, True])
@pytest.mark.parametrize("make", [ULA, SGLD, lambda h, **o: AnnealedLangevin(h, temperatures=[1.0], **o)])
def test_ranges_and_bounds_of_the_gradient_reach_the_steps(make, closed_form):
    law = GaussianEnergy(torch.zeros(2).double(), std=0.1)
    energy, x = law if closed_form else (lambda x: law(x)), 50.0 + start()
    samples = make(0.01, clamp=(10.0, math.inf)).run(x, energy, 3, generator=seeded())
    assert (samples.positions == 10.0).all()
    free = make(0.01, max_grad_norm=1e-9).run(x, energy, 3, generator=seeded())
    noise = ULA(0.01).run(x, EnergyGradient(torch.zeros_like), 3, generator=seeded())
    torch.testing.assert_close(free.positions, noise.positions)


def test_laws_with_a_density_are_targets():
    x = start(5, dtype=torch.float32)
    flow = RealNVP(dim=2, n_layers=2, hidden_features=(8,))
    law = torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))
    for target in (flow, data.density("moons"), law):
        samples = MALA(0.05).run(x, target, 3, generator=seeded())
        torch.testing.assert_close(samples.energies[-1], -target.log_prob(samples.positions[-1]))
    assert flow.check_finite and all(parameter.grad is None for parameter in flow.parameters())
    model = EnergyModel(dim=2, hidden_features=(8,)).eval()
    samples = ULA(0.05).run(x, model, 3, generator=seeded())
    torch.testing.assert_close(samples.energies[-1], model.energy(samples.positions[-1]))


def test_mala_keeps_the_law_of_a_flow():
    """Chains that start as samples of the flow remain samples of it."""
    torch.manual_seed(0)
    flow = RealNVP(dim=2, n_layers=3, hidden_features=(16,)).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    old, new = flow.sample(3000, generator=seeded(1)), flow.sample(3000, generator=seeded(2))
    samples = MALA(0.1).run(old, flow, 25, warmup=25, keep_trajectory=False, generator=seeded())
    assert 0.45 < float(samples.acceptance.mean()) < 0.7
    moved = samples.positions[0]
    assert (moved != old).any(1).double().mean() > 0.99
    for f in (lambda x: x, torch.square, torch.cos, lambda x: flow.log_prob(x).detach()[:, None]):
        a, b = f(moved), f(new)
        error = ((a.var(0) + b.var(0)) / 3000).sqrt()
        assert ((a.mean(0) - b.mean(0)).abs() < 4.5 * error).all()


@every_sampler
def test_a_context_conditions_the_energy_chain_by_chain(make):
    def conditional(x, context):
        return 0.5 * (x - context).square().sum(1) / 0.01

    context = torch.arange(6).double()[:, None].expand(6, 2) / 4
    sampler = make()
    sampler.step_size = 0.05 if isinstance(sampler, HMC) else 0.002
    if isinstance(sampler, SGLD):
        sampler.schedule = None
    samples = sampler.run(context.clone(), conditional, 30, context=context, generator=seeded())
    assert ((samples.positions - context).abs() < 1.2).all()
    rows = samples.positions.mean((0, 2))
    assert (rows.diff() > 0).all()
    with pytest.raises(ValueError, match="context must be None"):
        ULA(0.1).run(start(), GaussianEnergy(torch.zeros(2).double(), std=1.0), 1, context=context)


def test_labels_and_shared_contexts_reach_a_conditional_flow():
    torch.manual_seed(0)
    flow = RealNVP(dim=2, context_dim=3, n_layers=2, hidden_features=(8,)).double()
    for parameter in flow.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    for context in (torch.tensor([0, 1, 2, 0]), torch.tensor(1), torch.tensor([0.1, 0.2, 0.3]).double()):
        for sampler in (MALA(0.05), TemperedLangevin(0.05, (1.0, 2.0))):
            samples = sampler.run(start(4), flow, 2, context=context, generator=seeded())
            exact = -flow.log_prob(samples.positions[-1], context)
            torch.testing.assert_close(samples.energies[-1], exact.detach())


@pytest.mark.parametrize("sampler", [MALA(1e-5), MALA(30.0), HMC(1e-3, 5), HMC(20.0, 5)])
def test_the_warm_up_finds_the_step_size(sampler):
    x = start(400, 10)
    samples = sampler.run(
        x, lambda x: 0.5 * (x * torch.arange(1, 11)).square().sum(1), 60, warmup=250, generator=seeded()
    )
    assert float(samples.acceptance.mean()) == pytest.approx(sampler.target_acceptance, abs=0.05)
    assert (samples.step_size == samples.state.step_size).all()


def test_the_warm_up_finds_a_step_size_for_every_replica():
    """In units of T^¼ a quartic energy at the temperature T has the step h √T, so that h goes as 1/√T."""
    sampler = TemperedLangevin(0.001, (1.0, 4.0))
    x = start(300, 4)
    samples = sampler.run(x, lambda x: 0.25 * x.pow(4).sum(1), 40, warmup=200, generator=seeded())
    level = samples.statistics["level_acceptance"].mean(0)
    torch.testing.assert_close(level, torch.full((2,), 0.574).double(), rtol=0, atol=0.06)
    ratio = samples.step_size[:, 1] / samples.step_size[:, 0]
    torch.testing.assert_close(ratio, torch.full((40,), 0.5).double(), rtol=0.1, atol=0)


def test_without_a_target_the_warm_up_keeps_the_step_size():
    samples = MALA(0.3, target_acceptance=None).run(start(), energy, 2, warmup=10, generator=seeded())
    assert samples.state.step_size is None and (samples.step_size == 0.3).all()


def test_each_step_takes_the_gradient_as_often_as_it_must():
    for sampler, per_step in ((ULA(0.1), 1), (MALA(0.1), 1), (HMC(0.1, 4), 4), (UnderdampedLangevin(0.1), 1)):
        calls = []

        def counted(x, calls=calls):
            calls.append(len(x))
            return energy(x)

        first = sampler.run(start(), counted, 5, generator=seeded())
        assert len(calls) == 1 + 5 * per_step
        sampler.run(first.state, counted, 5)
        assert len(calls) == 1 + 10 * per_step


class Reads(TorchDispatchMode):
    """Counts the values that are read back from the device, each of which would wait for a GPU."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return func(*args, **(kwargs or {}))


@every_sampler
def test_no_step_waits_for_the_device(make):
    counts = []
    for steps in (1, 40):
        with Reads() as reads:
            make().run(start(), energy, steps, warmup=steps, generator=seeded())
        counts.append(reads.count)
    assert counts[0] == counts[1] > 0


def test_no_gradient_flows_whatever_mode_is_on():
    x = start().requires_grad_()
    net = nn.Linear(2, 1).double()

    def learnt(x):
        return net(x).square().squeeze(1)

    assert not MALA(0.1).run(x, learnt, 2).positions.requires_grad
    with torch.inference_mode():
        samples = MALA(0.1).run(start(), learnt, 2)
    assert not samples.positions.is_inference() and net.weight.grad is None


def test_a_bar_follows_the_steps(monkeypatch):
    moved, titles = [], []

    @contextlib.contextmanager
    def bar(title, total, *, show):
        titles.append((title, total, show))
        yield lambda steps, **shown: moved.append((steps, shown))

    monkeypatch.setattr(sampler_module, "progress_bar", bar)
    MALA(0.1).run(start(), energy, 407, warmup=3, thin=4, progress=True)
    assert titles == [("MALA", 410, True)]
    assert sum(steps for steps, _ in moved) == 410 and 60 < len(moved) <= 206
    assert all(0.0 <= shown["acceptance"] <= 1.0 for _, shown in moved)
    moved.clear()
    ULA(0.1).run(start(), energy, 7)
    assert not moved
