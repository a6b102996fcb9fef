"""Nothing of a flow waits for the device, so that a CUDA graph holds its steps, forward and back, and replays them."""

import pytest
import torch

import cgm_kernels
from cgm_kernels.divergence.runge_kutta import runge_kutta_error, runge_kutta_update
from tests.support.divergence import Case, running_kernels

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
PAIRS = [pair for pair in running_kernels("mlp_flow") if pair.id.endswith("cuda")]
CASE = Case(3, (16, 16), 70, probes=2)
COEFFICIENTS = [0.25, -1.0, 0.5]


def network(leaves):
    return [leaves[f"weight{k}"] for k in range(3)], [leaves[f"bias{k}"] for k in range(3)]


def divergence(leaves, **options):
    value, *rest = cgm_kernels.mlp_divergence(leaves["x"], *network(leaves), frobenius=True, **options)
    return value.square().sum() + sum(part.sum() for part in rest)


def flow(leaves, **options):
    found = cgm_kernels.mlp_flow(leaves["x"], *network(leaves), times=[0.0, 0.3, 0.5], regularizers=True, **options)
    integrals = [part.sum() for part in found[1:] if part is not None]
    return found.x.square().sum() + sum(integrals)


def combination(leaves, **_):
    x = leaves["x"]
    stages, step = [x.sin(), x.cos(), x.square()], 0.1 * x.detach().mean().exp()
    after = runge_kutta_update(x, stages, COEFFICIENTS, step)
    with torch.no_grad():
        error = runge_kutta_error(x, after, stages, COEFFICIENTS, step, 1e-2, 1e-3)
    return after.square().sum() * error


def potential(leaves, **_):
    (first, *_), (bias, *_) = network(leaves)
    arguments = ([torch.cat([first, first[:, :1]], 1), first @ first.mT], [bias, bias], bias)
    gradient, laplacian = cgm_kernels.potential_divergence(
        leaves["x"], 0.5, *arguments, quadratic=first[:2, :1].expand(2, 4)
    )
    end = cgm_kernels.potential_flow(leaves["x"], *arguments, times=[0.0, 0.5, 1.0])
    return gradient.square().sum() + laplacian.sum() + end.x.sum() + end.penalty.sum()


STEPS = {
    "hutchinson": lambda leaves, probes: divergence(leaves, probes=probes),
    "exact": lambda leaves, probes: divergence(
        leaves, exact=True, film=[(leaves["bias0"], leaves["bias1"]), None, None]
    ),
    "flow": lambda leaves, probes: flow(leaves, probes=probes),
    "exact flow": lambda leaves, probes: flow(leaves, exact=True, keep_states=False, residual=True),
    "samples": lambda leaves, probes: flow(leaves, method="midpoint"),
    "combination": lambda leaves, probes: combination(leaves),
    "potential": lambda leaves, probes: potential(leaves),
}


def drawn(device):
    leaves = {key: leaf.requires_grad_() for key, leaf in CASE.draw(torch.float32, device).items()}
    return leaves, CASE.draw_probes(torch.float32, device)


def differentiated(name, backend, leaves, probes):
    with cgm_kernels.use_backend(backend):
        value = STEPS[name](leaves, probes)
        return value, *torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("pair", PAIRS)
def test_divergence_cuda_graph(pair, name):
    backend, device = pair
    leaves, probes = drawn(device)
    expected = differentiated(name, backend, leaves, probes)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        differentiated(name, backend, leaves, probes)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = differentiated(name, backend, leaves, probes)
    with torch.no_grad():
        leaves["x"].mul_(0.5)
    graph.replay()
    assert not torch.equal(captured[0], expected[0])
    for actual, exact in zip(captured, differentiated(name, backend, leaves, probes), strict=True):
        torch.testing.assert_close(actual, exact)


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("pair", PAIRS)
def test_divergence_waits_for_nothing(pair, name):
    backend, device = pair
    leaves, probes = drawn(device)
    differentiated(name, backend, leaves, probes)  # what depends on sizes and times alone is made once
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        differentiated(name, backend, leaves, probes)
    finally:
        torch.cuda.set_sync_debug_mode(before)
