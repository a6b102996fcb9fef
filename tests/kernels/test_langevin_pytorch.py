"""The Langevin operations inside PyTorch: opcheck, derivatives, compile, export, autocast."""

import math

import pytest
import torch
from torch.library import opcheck

import cgm_kernels
from cgm_kernels.langevin import noise_state
from tests.support.backends import fused, running
from tests.support.langevin import KEY, STEP, Case, state

NATIVE = [pair for pair in fused() if "native" in pair.id]
NUMBERS = (None, 0.1, None, 0.5)  # step sizes and temperatures: none, and the numbers instead
UNBOUNDED = (math.inf, -math.inf, math.inf)


def tensors(device, *shape, count=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator, dtype=dtype).to(device) for _ in range(count)]


@pytest.mark.parametrize("pair", NATIVE)
@pytest.mark.parametrize("with_state", [False, True])
def test_opcheck(with_state, pair):
    device = pair[1]
    x, grad = tensors(device, 4, 6)
    sizes = torch.rand(4, dtype=torch.float64, device=device)
    source = (state(device), 0) if with_state else (None, KEY)
    ops = torch.ops.cgm_native
    for values in (NUMBERS, (sizes, 0.0, sizes[0], 0.0)):
        for limits in (UNBOUNDED, (1.0, -0.5, 0.5)):
            opcheck(ops.langevin_step, (x, grad, *source, *values, *limits))
            opcheck(ops.langevin_step, (x.t(), grad.t(), *source, *NUMBERS, *limits))
            opcheck(ops.langevin_step_out, (x, grad, *source, *values, *limits, torch.empty_like(x)))
    opcheck(ops.normal_fill, (torch.empty(3, 5, device=device), *source))
    opcheck(ops.mala_accept, (x, grad, x[:, 0].contiguous(), *source))


@pytest.mark.parametrize("pair", [pair for pair in running() if "triton" not in pair.id])
@pytest.mark.parametrize(
    "case",
    [
        Case((4, 3), per_chain="hT"),
        Case((4, 3), per_chain="0"),
        Case((3, 2, 2), per_chain="h", max_grad_norm=0.7),
        Case((4,), max_grad_norm=0.5),
        Case((4, 5), clamp=(-0.4, 0.6), per_chain="T"),
        Case((2, 6), layout="transposed", max_grad_norm=50.0),
    ],
    ids=str,
)
def test_gradcheck(case, pair):
    """First and second derivatives by x, grad, step size and temperature; the same arithmetic on every backend."""
    backend, device = pair
    drawn = case.draw(torch.float64, device)
    leaves = tuple(v.detach().clone().requires_grad_() if isinstance(v, torch.Tensor) else v for v in drawn)

    def run(*drawn):
        return case.call(drawn, state=state(device))

    with cgm_kernels.use_backend(backend):
        assert torch.autograd.gradcheck(run, leaves)
        assert torch.autograd.gradgradcheck(run, leaves)
        assert torch.autograd.gradcheck(run, leaves, check_forward_ad=True, check_backward_ad=False)


@pytest.mark.parametrize("pair", running())
def test_the_value_is_the_same_with_and_without_a_gradient(pair):
    backend, device = pair
    case = Case((5, 33), per_chain="hT", max_grad_norm=2.0, clamp=(-2.0, 2.0))
    drawn = case.draw(torch.float64, device)
    with cgm_kernels.use_backend(backend):
        fused_step = case.call(drawn, state=state(device))
        plain = case.call((drawn[0].clone().requires_grad_(), *drawn[1:]), state=state(device))
        with torch.no_grad():
            again = case.call((drawn[0].clone().requires_grad_(), *drawn[1:]), state=state(device))
    torch.testing.assert_close(plain.detach(), fused_step, rtol=1e-13, atol=1e-14)
    assert plain.requires_grad and not again.requires_grad and again.equal(fused_step)


@pytest.mark.parametrize("pair", running())
def test_acceptance_passes_gradients(pair):
    backend, device = pair
    x, proposal = (one.requires_grad_() for one in tensors(device, 50, 3))
    ratio = torch.full((50,), -0.5, device=device, requires_grad=True)
    with cgm_kernels.use_backend(backend):
        chosen, accepted = cgm_kernels.mala_accept(x, proposal, ratio, state=state(device))
        plain = cgm_kernels.mala_accept(x.detach(), proposal.detach(), ratio.detach(), state=state(device))
    assert accepted.equal(plain[1]) and chosen.equal(plain[0]) and 10 < accepted.sum() < 45
    chosen.sum().backward()
    assert proposal.grad.equal(accepted[:, None].double().expand(50, 3))
    assert x.grad.equal(1 - proposal.grad)
    assert ratio.grad is None


@pytest.mark.parametrize("pair", running())
def test_compile_fullgraph(pair):
    backend, device = pair
    case = Case((5, 6), per_chain="h", max_grad_norm=1.0, clamp=(-2.0, 2.0))
    drawn = case.draw(torch.float64, device)

    def chain(drawn, source):
        x, grad, h, t = drawn
        x = case.call((x, grad, h, t), state=source)
        x = cgm_kernels.langevin_step(x, grad, 0.1, temperature=t, state=source, out=x)
        x, accepted = cgm_kernels.mala_accept(x, x + 1, x.sum(1), state=source)
        return x + cgm_kernels.normal(x.shape, state=source, dtype=x.dtype), accepted

    sources = [state(device), state(device)]
    with cgm_kernels.use_backend(backend):
        compiled = torch.compile(chain, fullgraph=True, backend="aot_eager", dynamic=backend == "native")
        found, expected = compiled(drawn, sources[0]), chain(drawn, sources[1])
        again = compiled(drawn, sources[0])[0], chain(drawn, sources[1])[0]
    torch.testing.assert_close(found[0], expected[0], rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(*again, rtol=1e-13, atol=1e-13)
    assert found[1].equal(expected[1])
    assert sources[0].tolist() == sources[1].tolist() == [KEY, STEP + 8]
    torch._dynamo.reset()


@pytest.mark.parametrize("pair", running())
def test_compiled_functions_draw_anew(pair):
    """Without a state a compiled call draws its key from torch's generator at every run, as the eager call does."""
    backend, device = pair
    x, grad = tensors(device, 5, 3, dtype=torch.float32)

    def two(x, grad):
        return cgm_kernels.langevin_step(x, grad, 0.1), cgm_kernels.langevin_step(x, grad, 0.1)

    with cgm_kernels.use_backend(backend):
        compiled = torch.compile(two, fullgraph=True, backend="aot_eager")
        torch.manual_seed(0)
        expected = [*two(x, grad), *two(x, grad)]
        torch.manual_seed(0)
        found = [*compiled(x, grad), *compiled(x, grad)]
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)
        assert torch.stack(found).unique(dim=0).shape[0] == 4
        with pytest.raises(Exception, match="generator must be None in a compiled function"):
            generator = torch.Generator()
            torch.compile(
                lambda x: cgm_kernels.langevin_step(x, x, 0.1, generator=generator), fullgraph=True, backend="aot_eager"
            )(x)
    torch._dynamo.reset()


@pytest.mark.parametrize("pair", running())
def test_compile_with_gradients(pair):
    backend, device = pair
    case = Case((5, 6), per_chain="hT", max_grad_norm=1.0)
    drawn = tuple(v.requires_grad_() for v in case.draw(torch.float64, device))

    def total(*drawn):
        return case.call(drawn, state=state(device)).square().sum()

    with cgm_kernels.use_backend(backend):
        expected = torch.autograd.grad(total(*drawn), drawn)
        compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
        found = torch.autograd.grad(compiled(*drawn), drawn)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    torch._dynamo.reset()


@pytest.mark.parametrize("pair", NATIVE)
def test_export(pair):
    backend, device = pair

    class Step(torch.nn.Module):
        def forward(self, x, grad, source):
            return cgm_kernels.langevin_step(x, grad, 0.1, state=source, max_grad_norm=1.0)

    x, grad = tensors(device, 4, 6)
    with cgm_kernels.use_backend(backend):
        program = torch.export.export(Step(), (x, grad, state(device)))
        source = state(device)
        found = program.module()(x, grad, source)
        assert found.equal(Step()(x, grad, state(device))) and source[1] == STEP + 1
    assert "cgm_native.langevin_step" in str(program.graph)


@pytest.mark.parametrize("pair", running())
def test_autocast_changes_nothing(pair):
    backend, device = pair
    case = Case((5, 6), per_chain="hT", max_grad_norm=1.0)
    with cgm_kernels.use_backend(backend):
        for dtype in (torch.float32, torch.bfloat16):
            drawn = case.draw(dtype, device)
            plain = case.call(drawn, state=state(device))
            with torch.autocast(device, dtype=torch.bfloat16):
                cast = case.call(drawn, state=state(device))
                out = case.call(drawn, state=state(device), out=torch.empty_like(plain))
                z = cgm_kernels.normal((3, 3), state=state(device))
            assert cast.dtype is dtype and z.dtype is torch.float32
            assert cast.equal(plain) and out.equal(plain)


@pytest.mark.parametrize("pair", running())
def test_inference_mode_and_parameters(pair):
    backend, device = pair
    parameter = torch.nn.Parameter(torch.ones(3, 2, device=device))
    with cgm_kernels.use_backend(backend):
        with torch.inference_mode():
            x = torch.ones(3, 2, device=device)
            inside = cgm_kernels.langevin_step(x, x, 0.1, state=state(device))
            cgm_kernels.langevin_step(x, x.clone(), 0.1, state=state(device), out=x)
            assert x.equal(inside)
        with torch.no_grad():
            cgm_kernels.langevin_step(parameter, torch.ones_like(parameter), 0.1, state=state(device), out=parameter)
    assert parameter.detach().equal(inside)


@pytest.mark.parametrize("pair", running())
def test_autograd_sees_a_change_in_place(pair):
    backend, device = pair
    leaf = torch.ones(3, device=device, requires_grad=True)
    x = torch.ones(3, device=device)
    with cgm_kernels.use_backend(backend):
        product = (leaf * x).sum()
        cgm_kernels.langevin_step(x, torch.zeros_like(x), 0.1, out=x)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            product.backward()


@pytest.mark.parametrize("pair", NATIVE)
def test_eager_calls_take_the_direct_path(pair):
    from cgm_kernels._extension import _C

    x, grad = tensors(pair[1], 4, 6)
    step = (x, grad, *NUMBERS, *UNBOUNDED, None, None, None)
    accept = (x, grad, x[:, 0], None, None)
    normal = (torch.empty(2, 3, device=x.device), None, None)
    assert _C.langevin_step(*step) is not None and _C.langevin_accept(*accept) is not None
    assert _C.langevin_normal(*normal)
    with torch.utils._python_dispatch.TorchDispatchMode():
        assert _C.langevin_step(*step) is None
        assert _C.langevin_accept(*accept) is None and not _C.langevin_normal(*normal)


@pytest.mark.parametrize("pair", running())
def test_fake_tensors(pair):
    from torch._subclasses.fake_tensor import FakeTensorMode

    backend, _ = pair
    with cgm_kernels.use_backend(backend), FakeTensorMode():
        x = torch.empty(5, 3)
        source = torch.empty(2, dtype=torch.int64)
        assert cgm_kernels.langevin_step(x, x, 0.1, state=source).shape == (5, 3)
        assert cgm_kernels.normal((4,), state=source).shape == (4,)
        assert cgm_kernels.mala_accept(x, x, x[:, 0], state=source)[1].shape == (5,)


def test_noise_states_of_transformed_generators():
    """A generator that a module keeps gives a stream of its own to every state made from it."""
    generator = torch.Generator().manual_seed(1)
    x = torch.zeros(1000)
    first, second = (cgm_kernels.langevin_step(x, x, 0.5, state=noise_state(generator)) for _ in range(2))
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1]) < 4.5 / math.sqrt(1000)
