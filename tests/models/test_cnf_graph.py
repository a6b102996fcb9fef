"""The probes of a training step from a noise state, so that a CUDA graph of the step draws fresh ones."""

import pytest
import torch

from cgm_kernels import hutchinson_probes, normal
from cgm_kernels.langevin import noise_state
from cgm_models.cnf import FFJORD, solve
from tests.support.called import Called
from tests.support.cnf import moved

OPTIONS = {
    "plain": {},
    "blocks": {"n_blocks": 2, "kinetic": 0.1, "frobenius": 0.1},
    "film": {"context_dim": 2, "conditioning": "film", "gradient": "checkpoint"},
}


def make(name, **options):
    torch.manual_seed(0)
    return moved(FFJORD(dim=2, hidden_features=(8, 8), n_steps=3, **OPTIONS[name], **options)).train()


def data(flow, device="cpu"):
    generator = torch.Generator().manual_seed(1)
    drawn = [torch.randn(16, width, generator=generator).to(device) for width in (2, flow.context_dim) if width]
    return drawn if flow.context_dim else [*drawn, None]


def state_of(device="cpu"):
    return noise_state(torch.Generator().manual_seed(2), device)


@pytest.mark.parametrize("noise", ["rademacher", "gaussian"])
def test_probes_of_a_state(noise):
    """Those of ``normal`` at its key and step, or their signs; each call advances it."""
    x, state = torch.zeros(5, 3), state_of()
    for step in range(3):
        expected = normal((2, 5, 3), state=torch.stack((state[0], torch.tensor(step))))
        found = hutchinson_probes(x, 2, noise=noise, state=state)
        assert found.equal(expected if noise == "gaussian" else expected.sign())
        assert state[1] == step + 1
    with pytest.raises(ValueError, match="generator and state exclude each other"):
        hutchinson_probes(x, generator=torch.Generator(), state=state)


@pytest.mark.parametrize("name", OPTIONS)
def test_the_loss_draws_its_probes_from_the_state(name):
    flow = make(name)
    x, context = data(flow)
    state, drawn = state_of(), torch.get_rng_state()
    losses = [float(flow.loss(x, context, state=state).detach()) for _ in range(3)]
    assert state.tolist() == [state_of()[0].item(), 3 * len(flow._continuous())]
    assert len(set(losses)) == 3
    assert torch.get_rng_state().equal(drawn)
    assert losses[0] == float(flow.loss(x, context, state=state_of()).detach())


def test_the_loss_is_that_of_those_probes():
    flow = make("plain")
    x, _ = data(flow)
    layer, state = flow._continuous()[0], state_of()
    probes = hutchinson_probes(x, state=state_of())
    found = solve(layer.field, x, None, layer.solver, 1.0, 0.0, probes=probes)
    expected = -(flow.base.log_prob(found.x) + found.divergence).mean()
    torch.testing.assert_close(flow.loss(x, state=state), expected)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_training_step_reads_nothing_back(name):
    """What a capture refuses: numbers read from the device, and those copied to it from ordinary memory."""
    flow = make(name)
    flow.check_finite = False  # as while a graph is captured
    x, context = data(flow)
    state = state_of()
    flow.loss(x, context, state=state)  # the times of the stages are made once
    with Called() as called:
        flow.loss(x, context, state=state).backward()
    assert not called.names & {"_local_scalar_dense", "lift_fresh", "nonzero", "masked_select", "equal", "is_nonzero"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", OPTIONS)
def test_a_captured_training_step_draws_fresh_probes(name):
    flow = make(name).cuda()
    x, context = data(flow, "cuda")
    parameters, initial = list(flow.parameters()), state_of("cuda")

    def step(state):
        loss = flow.loss(x, context, state=state)
        return loss.detach(), *torch.autograd.grad(loss, parameters)

    state = initial.clone()
    eager = [step(state) for _ in range(3)]
    state = initial.clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step(state)
    torch.cuda.current_stream().wait_stream(stream)
    state.copy_(initial)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(state)
    for expected in eager:
        graph.replay()
        for got, want in zip(captured, expected, strict=True):
            torch.testing.assert_close(got, want)
    assert not torch.equal(eager[0][0], eager[1][0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_capture_without_a_state_is_refused():
    flow = make("plain").cuda()
    x, _ = data(flow, "cuda")
    flow.loss(x)
    with pytest.raises(RuntimeError, match="would replay the same probes"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        flow.loss(x)
