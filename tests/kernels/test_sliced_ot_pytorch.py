"""Sliced optimal transport inside PyTorch: opcheck, compile, export, autocast, transforms, data parallelism, memory."""

import os

import pytest
import torch
from torch.library import opcheck

import cgm_kernels
from tests.support.backends import fused, running
from tests.support.sliced_ot import Case

NATIVE = [pair for pair in fused() if "native" in pair.id]


def cost(x, y, projections):
    return cgm_kernels.sliced_wasserstein_cost(x, y, projections=projections)


def clouds(device, dtype=torch.float32, batch=None):
    arguments = Case(12, 12, batch=batch).draw(dtype, device)
    return arguments["x"], arguments["y"], arguments["projections"]


@pytest.mark.parametrize("pair", NATIVE)
@pytest.mark.parametrize("keep", [0, 1, 2])
@pytest.mark.parametrize("weighted", ["", "xy"])
def test_sliced_forward_opcheck(pair, keep, weighted):
    _, device = pair
    arguments = Case(7, 7, batch=2, weighted=weighted).draw(torch.float64, device)
    x = arguments["x"].requires_grad_(keep > 0)
    rest = (arguments["projections"], arguments["x_weights"], arguments["y_weights"], 2.0, True, keep, 0)
    opcheck(torch.ops.cgm_native.sliced_forward, (x, arguments["y"], *rest))


@pytest.mark.parametrize("pair", NATIVE)
@pytest.mark.parametrize("weighted", [False, True])
def test_wasserstein_1d_forward_opcheck(pair, weighted):
    _, device = pair
    x, y = (torch.randn(3, 6, dtype=torch.float64, device=device, requires_grad=True) for _ in range(2))
    a = torch.rand(6, dtype=torch.float64, device=device, requires_grad=True) if weighted else None
    opcheck(torch.ops.cgm_native.wasserstein_1d_forward, (x, y, a, None, 2.0, True, True, weighted, False))


@pytest.mark.parametrize("pair", running())
def test_compile_fullgraph(pair):
    backend, device = pair
    x, y, theta = clouds(device)

    def step(x):
        moved = x + 0.1 * cgm_kernels.sliced_displacement(x.detach(), y, projections=theta)
        rows = cgm_kernels.wasserstein_1d(x.T, y.T).mean()
        return cgm_kernels.sliced_wasserstein_distance(moved, y, projections=theta) + rows

    with cgm_kernels.use_backend(backend):
        compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
        results = []
        for function in (step, compiled):
            leaf = x.clone().requires_grad_()
            value = function(leaf)
            results.append((value.detach(), *torch.autograd.grad(value, leaf)))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)
    torch._dynamo.reset()


def test_a_compiled_function_refuses_a_generator():
    x, y, _ = clouds("cpu")
    generator = torch.Generator()
    function = lambda x: cgm_kernels.sliced_wasserstein_distance(x, y, generator=generator)  # noqa: E731
    with pytest.raises(Exception, match="generator must be None in a compiled function: give it projections"):
        torch.compile(function, fullgraph=True, backend="aot_eager")(x)
    found = torch.compile(function, backend="aot_eager")(x)
    torch.testing.assert_close(found, cgm_kernels.sliced_wasserstein_distance(x, y, generator=torch.Generator()))
    torch._dynamo.reset()


@pytest.mark.parametrize("pair", NATIVE)
def test_export(pair):
    backend, device = pair

    class Distance(torch.nn.Module):
        def forward(self, x, y, projections):
            return cgm_kernels.sliced_wasserstein_distance(x, y, projections=projections)

    arguments = clouds(device)
    with cgm_kernels.use_backend(backend):
        program = torch.export.export(Distance(), arguments)
        torch.testing.assert_close(program.module()(*arguments), Distance()(*arguments))
    assert "cgm_native.sliced_forward" in str(program.graph)


@pytest.mark.parametrize("pair", running())
def test_autocast_computes_in_float32(pair):
    backend, device = pair
    x, y, theta = clouds(device)
    with cgm_kernels.use_backend(backend):
        expected = cost(x, y, theta)
        with torch.autocast(device, dtype=torch.bfloat16):
            assert cost(x, y, theta).dtype is torch.float32
            torch.testing.assert_close(cost(x, y, theta), expected)
            mixed = cgm_kernels.sliced_wasserstein_cost(x.bfloat16(), y, projections=theta)
    assert mixed.dtype is torch.float32


@pytest.mark.parametrize("pair", running())
def test_func_grad(pair):
    backend, device = pair
    x, y, theta = clouds(device, torch.float64)
    leaf = x.clone().requires_grad_()
    with cgm_kernels.use_backend(backend):
        expected = torch.autograd.grad(cost(leaf, y, theta), leaf)[0]
        torch.testing.assert_close(torch.func.grad(cost)(x, y, theta), expected)
        rows = torch.func.grad(lambda x: cgm_kernels.wasserstein_1d(x, y).sum())(x)
        torch.testing.assert_close(rows, 2 / 3 * (x - y.sort(-1).values.gather(-1, x.argsort(-1).argsort(-1))))


@pytest.mark.parametrize("pair", NATIVE)
def test_eager_calls_take_the_direct_path(pair):
    """Tracing and transforms see the registered operator; a plain eager call goes straight to the kernel."""
    from cgm_kernels._extension import _C

    _, device = pair
    x, y, theta = clouds(device)
    arguments = (x, y, theta, None, None, 2.0, False, 0, 0)
    assert _C.sliced_wasserstein(*arguments) is not None
    with torch.no_grad():
        assert _C.sliced_wasserstein(*arguments) is not None
    with torch.utils._python_dispatch.TorchDispatchMode():
        assert _C.sliced_wasserstein(*arguments) is None
    with torch.inference_mode():
        torch.testing.assert_close(cost(x, y, theta), _plain(cost, x, y, theta))


@pytest.mark.parametrize("pair", running())
def test_func_vmap(pair):
    backend, device = pair
    x, y, theta = clouds(device, torch.float64, batch=3)
    with cgm_kernels.use_backend(backend):
        expected = cost(x, y, theta)
        torch.testing.assert_close(torch.func.vmap(cost, in_dims=(0, 0, None))(x, y, theta), expected)
        gradients = torch.func.vmap(torch.func.grad(cost), in_dims=(0, 0, None))(x, y, theta)
        leaf = x.clone().requires_grad_()
        torch.testing.assert_close(gradients, torch.autograd.grad(cost(leaf, y, theta).sum(), leaf)[0])


@pytest.mark.parametrize("pair", NATIVE)
@pytest.mark.parametrize("d", [3, 8])
def test_batched_gradients_and_buffers_changed_after_the_forward(pair, d):
    backend, device = pair
    x, y = torch.randn(5, d, device=device, requires_grad=True), torch.randn(5, d, device=device)
    theta = cgm_kernels.random_projections(d, 4).to(device)
    with cgm_kernels.use_backend(backend):
        value = cost(x, y, theta)
        y.mul_(2)
        (single,) = torch.autograd.grad(value, x, retain_graph=True)
        (double,) = torch.autograd.grad(value, x, torch.tensor([1.0, 2.0], device=device), is_grads_batched=True)
    torch.testing.assert_close(double, torch.stack([single, 2 * single]))


def _plain(function, *arguments):
    with torch.inference_mode(False):
        return function(*arguments)


@pytest.mark.parametrize("pair", NATIVE)
def test_results_do_not_depend_on_the_number_of_threads(pair):
    _, device = pair
    if device != "cpu":
        pytest.skip("CPU threads")
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(3000, 4, generator=generator) for _ in range(2))
    theta = cgm_kernels.random_projections(4, 40, generator=generator)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            leaf = x.clone().requires_grad_()
            value = cost(leaf, y, theta)
            results.append((value.detach(), *torch.autograd.grad(value, leaf)))
    finally:
        torch.set_num_threads(threads)
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-9)


def _data_parallel_worker(rank, size, path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=size)
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 3).double()
    x, y, theta = clouds("cpu", torch.float64)
    cost(model(x[rank * 6 : rank * 6 + 6]), y, theta).backward()
    alone = [p.grad.clone() for p in model.parameters()]
    for grad in alone:
        torch.distributed.all_reduce(grad)
    model.zero_grad()
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    cost(parallel(x[rank * 6 : rank * 6 + 6]), y, theta).backward()
    for parameter, grad in zip(model.parameters(), alone, strict=True):
        torch.testing.assert_close(parameter.grad, grad / size)
    torch.distributed.barrier()
    os._exit(0)  # the threads of gloo were seen to wait for ever when a process ends in the usual way


@pytest.mark.skipif(not torch.distributed.is_available() or os.name != "posix", reason="needs torch.distributed")
def test_distributed_data_parallel(tmp_path):
    torch.multiprocessing.spawn(_data_parallel_worker, args=(2, tmp_path / "store"), nprocs=2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_graph():
    x, y, theta = clouds("cuda")
    expected = cost(x, y, theta)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        cost(x, y, theta)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = cost(x, y, theta)
    graph.replay()
    torch.testing.assert_close(captured, expected)
