"""Langevin chains in PyTorch: derivatives, tracing, precision, generators and errors."""

import pytest
import torch
from torch.library import opcheck

import cgm_kernels
from cgm_kernels import langevin_chain
from cgm_kernels.langevin import GaussianEnergy, GaussianMixtureEnergy, MLPEnergy, ProductEnergy, noise_state
from tests.support.chains import FUSED, RUNNING, STEP, Draw, made, run, state_of


@pytest.mark.parametrize("backend, device", RUNNING)
def test_chain_half_precision_and_autocast(backend, device):
    energy, x = made("mixture-one-2", torch.float32, device)
    for dtype in (torch.float16, torch.bfloat16):
        half = run(backend, x.to(dtype), energy, 3, STEP, state=state_of(device))
        wide = run(backend, x.to(dtype).float(), energy, 3, STEP, state=state_of(device))
        assert half.equal(wide.to(dtype))
    expected = run(backend, x, energy, 3, STEP, state=state_of(device))
    with torch.autocast(device, dtype=torch.bfloat16):
        assert run(backend, x, energy, 3, STEP, state=state_of(device)).equal(expected)
        network_energy, points = made("network-deep", torch.float32, device)
        inside = run(backend, points, network_energy, 3, STEP, state=state_of(device))
    torch.testing.assert_close(inside, run(backend, points, network_energy, 3, STEP, state=state_of(device)))


@pytest.mark.parametrize("backend, device", RUNNING)
def test_chain_draws_its_key_from_the_generator(backend, device):
    energy, x = made("mixture-one-2", device=device)
    results = [run(backend, x, energy, 3, STEP, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert results[0].equal(results[1]) and not torch.allclose(results[0], results[2])
    torch.manual_seed(1)
    assert run(backend, x, energy, 3, STEP).equal(results[0])
    state = noise_state(torch.Generator().manual_seed(1), device)
    assert run(backend, x, energy, 3, STEP, state=state).equal(results[0])
    first = run(backend, x, energy, 2, STEP, state=(state := noise_state(torch.Generator().manual_seed(1), device)))
    torch.testing.assert_close(run(backend, first, energy, 1, STEP, state=state), results[0])


@pytest.mark.parametrize("backend, device", RUNNING)
def test_chain_derivatives_are_those_of_its_steps(backend, device):
    """By the start, the step size, the temperature and the energy's own tensors, of first and second order."""
    draw = Draw(device=device)
    x, h, means, weight = draw.normal(3, 2), 0.1 * draw.positive(3), draw.normal(2, 2), draw.normal(1, 2)
    heat = draw.positive(3)

    def function(x, h, heat, means, weight):
        energy = GaussianMixtureEnergy(None, means, stds=0.8)
        first = run(backend, x, energy, 2, h, temperature=heat, state=state_of(device))
        net = MLPEnergy([means, weight], [None, None], activation="tanh")
        return first + run(backend, x, net, 2, h, state=state_of(device))

    inputs = [t.requires_grad_() for t in (x, h, heat, means, weight)]
    fast = backend == "triton"  # its interpreter takes its time, for the noise alone
    assert torch.autograd.gradcheck(function, inputs, fast_mode=fast)
    if not fast:
        assert torch.autograd.gradgradcheck(function, inputs)
        assert torch.autograd.gradcheck(function, inputs, check_forward_ad=True, check_backward_ad=False)
    with torch.no_grad():
        plain = function(*inputs)
    torch.testing.assert_close(plain, function(*inputs).detach())


@pytest.mark.parametrize("backend, device", FUSED)
def test_chain_opcheck(backend, device):
    operators = getattr(torch.ops, f"cgm_{backend}")
    x, draw = torch.randn(5, 2, device=device), Draw(torch.float32, device)
    per_chain, limits = draw.positive(5), (1.0, -2.0, 2.0)
    spreads, checks = (
        [draw.positive(3), draw.positive(3, 2), draw.covariance(3, 2, 2)],
        ("test_schema", "test_faketensor"),
    )
    if backend == "triton":  # its interpreter takes its time
        spreads = spreads[:1]
    else:
        checks += ("test_autograd_registration", "test_aot_dispatch_dynamic")
    for precisions in spreads:
        arguments = (x, draw.normal(3), draw.normal(3, 2), precisions, [1, 3], state_of(device), 2)
        for dynamics in ((None, 0.1, None, 1.0), (0.1 * per_chain, 0.0, per_chain, 0.0)):
            opcheck(operators.langevin_chain_mixture, (*arguments, *dynamics, *limits), test_utils=checks)
    parameters = draw.normal(2 * 4 + 4 + 4 + 1)
    arguments = (x, parameters, [2, 4, 1], 2, 0.0, state_of(device), 2, None, 0.1, None, 1.0, *limits)
    opcheck(operators.langevin_chain_mlp, arguments, test_utils=checks)


@pytest.mark.parametrize("backend, device", FUSED)
@pytest.mark.parametrize("name", ["mixture-full-2", "network-silu"])
def test_chain_compiles_whole(name, backend, device):
    energy, x = made(name, device=device)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def sample(x, state):
        return langevin_chain(2 * x, energy, 3, STEP, state=state, max_grad_norm=5.0) + 1

    with cgm_kernels.use_backend(backend), torch.no_grad():
        state = state_of(device)
        for _ in range(2):
            before = state.clone()
            compiled = sample(x, state)
            torch.testing.assert_close(
                compiled, langevin_chain(2 * x, energy, 3, STEP, state=before, max_grad_norm=5.0) + 1
            )
            assert state.equal(before)


@pytest.mark.parametrize(
    "change, error, message",
    [
        (
            {"energy": lambda x: x.sum(1)},
            TypeError,
            "energy must be .*: got function.*cgm_models.sampling",
        ),
        ({"x": [1.0]}, TypeError, "x must be a tensor: got list"),
        ({"x": torch.zeros(3, 5)}, ValueError, r"x must be \(chains, \.\.\.\) with 2 numbers .* got \(3, 5\)"),
        ({"x": torch.zeros(())}, ValueError, r"x must be \(chains, \.\.\.\) with 2 numbers .* got \(\)"),
        ({"x": torch.zeros(3, 2, dtype=torch.int64)}, TypeError, "x must be float32"),
        ({"x": torch.zeros(3, 2, device="meta")}, ValueError, "energy must be on the device of x, meta: got cpu"),
        ({"n_steps": -1}, ValueError, "n_steps must be at least 0: got -1"),
        ({"n_steps": 2.0}, TypeError, "n_steps must be an int: got float"),
        ({"step_size": torch.zeros(4)}, ValueError, r"step_size must be .*: got \(4,\)"),
        ({"step_size": -0.1}, ValueError, "step_size must not be negative: got -0.1"),
        ({"temperature": "hot"}, TypeError, "temperature must be a number or a tensor: got str"),
        ({"clamp": (1.0, 0.0)}, ValueError, "clamp must have low <= high"),
        ({"max_grad_norm": 0.0}, ValueError, "max_grad_norm must be positive: got 0.0"),
        ({"state": torch.zeros(2)}, TypeError, "state must be int64: got torch.float32"),
    ],
)
def test_chain_errors(change, error, message):
    energy = GaussianEnergy(torch.zeros(2), std=1.0)
    arguments = {"x": torch.zeros(3, 2), "energy": energy, "n_steps": 2, "step_size": 0.1, **change}
    with pytest.raises(error, match=message):
        langevin_chain(**arguments)


def test_chain_of_too_many_experts_says_so():
    energy = ProductEnergy(*[GaussianEnergy(torch.zeros(1), std=1.0)] * 65)
    for backend in cgm_kernels.available_backends("cpu"):
        if backend == "reference":
            assert run(backend, torch.zeros(2, 1), energy, 1, 0.001).shape == (2, 1)
        else:
            with pytest.raises(ValueError, match="energy must have at most 64 experts: got 65"):
                run(backend, torch.zeros(2, 1), energy, 1, 0.001)
