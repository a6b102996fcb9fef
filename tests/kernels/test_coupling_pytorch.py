"""The affine couplings inside PyTorch: opcheck, compile, export, autocast, transforms, second derivatives, threads."""

import pytest
import torch
from torch.library import opcheck

import cgm_kernels
from tests.support.backends import fused, running
from tests.support.coupling import CASES, EVENT_CASES, SCALES, Case, EventCase, results
from tests.support.derivatives import assert_further_derivatives

NATIVE = [pair for pair in fused() if "native" in pair.id]
SCALE = (1, 2.0, 2.0, 0.0)  # tanh


def tensors(device, *shape, count=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator, dtype=dtype).to(device) for _ in range(count)]


@pytest.mark.parametrize("pair", NATIVE)
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("kind", range(len(SCALES)))
def test_affine_opcheck(kind, inverse, pair):
    x, s, t, grad = tensors(pair[1], 4, 6, count=4)
    options = (kind, 2.0, 2.0, 0.01, 1, inverse)
    leaves = [leaf.clone().requires_grad_() for leaf in (x, s, t)]
    opcheck(torch.ops.cgm_native.affine_forward, (*leaves, *options))
    shift = t if SCALES[kind] == "gate" else None
    for grads in ((grad, grad[:, 0]), (None, grad[:, 0]), (grad, None)):
        for wanted in ((True, True, True), (False, True, False)):
            opcheck(torch.ops.cgm_native.affine_backward, (*grads, x, s, shift, *options, *wanted))


@pytest.mark.parametrize("pair", NATIVE)
@pytest.mark.parametrize("running_total", [False, True])
def test_event_opcheck(running_total, pair):
    x, parameters, log_det = (*tensors(pair[1], 4, 6, count=2), *tensors(pair[1], 4, count=1))
    total = log_det.requires_grad_() if running_total else None
    options = (3, 3, 1, 0, *SCALE, False)
    leaves = (x.requires_grad_(), parameters.requires_grad_(), total)
    opcheck(torch.ops.cgm_native.affine_event_forward, (*leaves, *options))
    grads = (x.detach(), log_det.detach(), x.detach(), parameters.detach())
    opcheck(torch.ops.cgm_native.affine_event_backward, (*grads, *options))


@pytest.mark.parametrize("pair", NATIVE)
@pytest.mark.parametrize("inverse", [False, True])
def test_channel_opcheck(inverse, pair):
    x, grad = tensors(pair[1], 4, 3, 5, count=2)
    m, a = tensors(pair[1], 3, count=2)
    leaves = [leaf.clone().requires_grad_() for leaf in (x, m, a)]
    opcheck(torch.ops.cgm_native.channel_forward, (*leaves, inverse))
    opcheck(torch.ops.cgm_native.channel_backward, (grad, x, m, a, inverse))


@pytest.mark.parametrize("pair", running())
@pytest.mark.parametrize("case", [CASES[2], CASES[5], CASES[-1], EVENT_CASES[1], EVENT_CASES[-1]], ids=str)
def test_compile_fullgraph(case, pair):
    backend, device = pair
    leaves = case.draw(torch.float64, device)
    with cgm_kernels.use_backend(backend):
        expected = results(case, leaves)

        class Compiled:
            call = staticmethod(torch.compile(lambda leaves: case.call(leaves), fullgraph=True, backend="aot_eager"))

        actual = results(Compiled(), leaves)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other)
    torch._dynamo.reset()


@pytest.mark.parametrize("pair", NATIVE)
def test_export(pair):
    backend, device = pair

    class Layer(torch.nn.Module):
        def forward(self, x, parameters):
            return cgm_kernels.affine_coupling_event(x, parameters, 3, scale="tanh")

    arguments = tuple(tensors(device, 4, 6, count=2))
    with cgm_kernels.use_backend(backend):
        program = torch.export.export(Layer(), arguments)
        for one, other in zip(program.module()(*arguments), Layer()(*arguments), strict=True):
            torch.testing.assert_close(one, other)
    assert "cgm_native.affine_event_forward" in str(program.graph)


@pytest.mark.parametrize("pair", running())
def test_autocast_computes_in_float32(pair):
    backend, device = pair
    x, s, t = tensors(device, 4, 6, dtype=torch.float32)
    with cgm_kernels.use_backend(backend):
        with torch.autocast(device, dtype=torch.bfloat16):
            y, log_det = cgm_kernels.affine_coupling(x, s.bfloat16(), t.bfloat16())
            event, _ = cgm_kernels.affine_coupling_event(x, s.bfloat16(), 3)
        assert y.dtype is log_det.dtype is event.dtype is torch.float32
        expected, _ = cgm_kernels.affine_coupling(x, s.bfloat16().float(), t.bfloat16().float())
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("pair", running())
@pytest.mark.parametrize(
    "case", [Case((5, 4), "gate"), Case((5, 4), "tanh", inverse=True), EventCase((5, 4), 2)], ids=str
)
def test_func_grad_and_vmap(case, pair):
    backend, device = pair
    leaves = case.draw(torch.float64, device)

    def total(*leaves):
        y, log_det = case.call(leaves)
        return y.square().sum() + log_det.sin().sum()

    with cgm_kernels.use_backend(backend):
        required = tuple(leaf.clone().requires_grad_() for leaf in leaves)
        expected = torch.autograd.grad(total(*required), required)
        actual = torch.func.grad(total, argnums=tuple(range(len(leaves))))(*leaves)
        each = torch.func.vmap(torch.func.grad(lambda *row: total(*(one[None] for one in row))))(*leaves)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(each, expected[0])


@pytest.mark.parametrize("pair", NATIVE)
@pytest.mark.parametrize("case", [CASES[0], CASES[10], EVENT_CASES[0]], ids=str)
def test_batched_gradients(case, pair):
    backend, device = pair
    leaves = tuple(leaf.requires_grad_() for leaf in case.draw(torch.float64, device))
    with cgm_kernels.use_backend(backend):
        y, log_det = case.call(leaves)
        outputs, weights = (y, log_det), (torch.ones_like(y), torch.ones_like(log_det))
        single = torch.autograd.grad(outputs, leaves, weights, retain_graph=True)
        batched = tuple(torch.stack([w, 2 * w]) for w in weights)
        double = torch.autograd.grad(outputs, leaves, batched, is_grads_batched=True)
    for one, two in zip(single, double, strict=True):
        torch.testing.assert_close(two, torch.stack([one, 2 * one]))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("pair", fused())
@pytest.mark.parametrize("case", [*CASES[:: len(CASES) // 8], CASES[-1], *EVENT_CASES[::3]], ids=str)
def test_further_derivatives(case, pair):
    backend, device = pair
    leaves = [0.5 * leaf for leaf in case.draw(torch.float64, device)]
    assert_further_derivatives(lambda *leaves: case.call(leaves), leaves, backend)


@pytest.mark.parametrize("pair", NATIVE)
def test_eager_calls_take_the_direct_path(pair):
    from cgm_kernels._extension import _C

    x, s, t = tensors(pair[1], 4, 6)
    arguments = (x, s, t, 1, *SCALE, False)
    event = (x, s, None, 3, 6, 1, 0, *SCALE, False)
    assert _C.affine_coupling(*arguments) is not None and _C.affine_event(*event) is not None
    with torch.utils._python_dispatch.TorchDispatchMode():
        assert _C.affine_coupling(*arguments) is None and _C.affine_event(*event) is None


@pytest.mark.parametrize("pair", fused())
@pytest.mark.parametrize("case", [CASES[0], CASES[1], EVENT_CASES[1]], ids=str)
def test_only_wanted_gradients_and_partial_outputs(case, pair):
    """Any subset of leaves may require grad, and either output alone may be used."""
    backend, device = pair
    drawn = case.draw(torch.float64, device)
    with cgm_kernels.use_backend(backend):
        for output in (0, 1):
            for wanted in range(len(drawn)):
                values = []
                for name in ("reference", backend):
                    leaves = tuple(leaf.clone().requires_grad_(i == wanted) for i, leaf in enumerate(drawn))
                    with cgm_kernels.use_backend(name):
                        result = case.call(leaves)[output]
                    if not result.requires_grad:
                        continue
                    (gradient,) = torch.autograd.grad(result.sum(), leaves[wanted], allow_unused=True)
                    values.append(torch.zeros_like(drawn[wanted]) if gradient is None else gradient)
                assert len(values) in (0, 1, 2)
                if len(values) == 2:
                    torch.testing.assert_close(*values)


@pytest.mark.parametrize("pair", NATIVE)
def test_results_do_not_depend_on_the_number_of_threads(pair):
    if pair[1] != "cpu":
        pytest.skip("CPU threads")
    threads, found = torch.get_num_threads(), []
    cases = [Case((3000, 40), "tanh"), Case((1, 100_000)), Case((5000, 20), layout="channel")]
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append([results(case, case.draw(torch.float32, "cpu")) for case in cases])
    finally:
        torch.set_num_threads(threads)
    for ones, twos in zip(*found, strict=True):
        for one, two in zip(ones, twos, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-6, atol=2e-5)


@pytest.mark.parametrize("pair", fused())
@pytest.mark.parametrize("call", ["parts", "event"])
def test_an_inverse_keeps_its_result_and_not_what_it_was_given(call, pair):
    backend, device = pair
    y, parameters = (torch.randn(4, 6, device=device) for _ in range(2))
    parameters.requires_grad_()

    def inverse(y):
        if call == "event":
            return cgm_kernels.affine_coupling_event(y, parameters, 3, inverse=True)[0]
        return cgm_kernels.affine_coupling_inverse(y, parameters, parameters.detach())[0]

    with cgm_kernels.use_backend(backend):
        (expected,) = torch.autograd.grad(2.0 * inverse(y).sum(), parameters)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            torch.autograd.grad(inverse(y).mul_(2.0).sum(), parameters)
        (of_clone,) = torch.autograd.grad(inverse(y).clone().mul_(2.0).sum(), parameters)
        given = y.clone()
        x = 2.0 * inverse(given)
        given.zero_()
        torch.testing.assert_close(torch.autograd.grad(x.sum(), parameters)[0], expected)
    torch.testing.assert_close(of_clone, expected)
