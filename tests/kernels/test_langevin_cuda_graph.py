"""A captured Langevin chain draws fresh noise at every replay, and is the eager chain."""

import pytest
import torch

import cgm_kernels
from cgm_kernels.langevin import noise_state

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


def one_step(x, source, energy_scale, max_grad_norm):
    """A MALA-like step: everything that draws, on one state."""
    proposal = cgm_kernels.langevin_step(x, energy_scale * x, 0.1, state=source, max_grad_norm=max_grad_norm)
    chosen, _ = cgm_kernels.mala_accept(x, proposal, (x - proposal).flatten(1).sum(1), state=source)
    return chosen + 0.01 * cgm_kernels.normal(x.shape, state=source)


@pytest.mark.parametrize("max_grad_norm", [None, 1.0])
@pytest.mark.parametrize("shape", [(4, 3), (300, 7), (2, 50_000)], ids=str)
@pytest.mark.parametrize("backend", ["reference", "native", "triton"])
def test_captured_and_eager_chains_agree(backend, shape, max_grad_norm):
    if reason := cgm_kernels.backends.absence(backend, "cuda"):
        pytest.skip(reason)
    start = torch.randn(shape, generator=torch.Generator().manual_seed(0)).cuda()
    initial = noise_state(torch.Generator().manual_seed(1), "cuda")
    with cgm_kernels.use_backend(backend):
        eager, source = start.clone(), initial.clone()
        for _ in range(10):
            eager = one_step(eager, source, 0.7, max_grad_norm)
        assert source.tolist() == [initial[0].item(), 30]

        x, source = start.clone(), initial.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            one_step(x, source, 0.7, max_grad_norm)
        torch.cuda.current_stream().wait_stream(stream)
        source.copy_(initial)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            x.copy_(one_step(x, source, 0.7, max_grad_norm))
        assert source.equal(initial), "a capture runs nothing"
        for _ in range(10):
            graph.replay()
    assert source.tolist() == [initial[0].item(), 30]
    assert x.equal(eager)
