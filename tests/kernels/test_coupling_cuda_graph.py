"""Small couplings are launches more than work: a CUDA graph holds a step forward and back, and replays it."""

import pytest
import torch

import cgm_kernels

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


@pytest.mark.parametrize("shape", [(4, 8), (2, 40_000), (16, 6, 8, 8)], ids=str)
@pytest.mark.parametrize("backend", ["native", "triton"])
def test_coupling_cuda_graph(backend, shape):
    if reason := cgm_kernels.backends.absence(backend, "cuda"):
        pytest.skip(reason)
    x = torch.randn(shape, device="cuda")
    parameters = torch.randn(shape, device="cuda", requires_grad=True)
    channel = torch.randn(shape[1], *[1] * (len(shape) - 2), device="cuda", requires_grad=True)

    def step():
        with cgm_kernels.use_backend(backend):
            y, first = cgm_kernels.affine_coupling(x, channel, channel)
            y, log_det = cgm_kernels.affine_coupling_event(y, parameters, shape[1] // 2, first, scale="tanh")
            y, log_det = y.square().sum(), log_det.sum()
        return torch.autograd.grad(y - log_det, (parameters, channel))

    expected = step()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    x.mul_(2.0)
    graph.replay()
    assert not torch.equal(captured[0], expected[0])
    for actual, exact in zip(captured, step(), strict=True):
        torch.testing.assert_close(actual, exact)
