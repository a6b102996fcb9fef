"""InvertibleSequence against the same layers under ordinary autograd."""

import copy
import gc
import time
import weakref

import pytest
import torch
from torch import nn

import cgm_kernels
from cgm_kernels import InvertibleSequence
from tests.support.invertible import Coupling, Plain


def twins(depth=5, dim=6, context=0, dropout=0.0, dtype=torch.float64, **options):
    torch.manual_seed(0)
    layers = [Coupling(dim, index, context, dropout) for index in range(depth)]
    plain = Plain(layers).to(dtype)
    return InvertibleSequence(copy.deepcopy(plain).layers, **options), plain


def value_and_gradients(model, x, context, direction):
    x = x.clone().requires_grad_()
    inputs = [x] if context is None else [x, context.clone().requires_grad_()]
    y, log_det = getattr(model, direction)(x, *inputs[1:])
    weight = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    loss = (y * weight).sum() + (log_det * torch.linspace(1, 2, len(y), dtype=y.dtype)).sum()
    return [y, log_det, *torch.autograd.grad(loss, [*inputs, *model.parameters()])]


@pytest.mark.parametrize("direction", ["forward", "inverse"])
@pytest.mark.parametrize("context", [0, 3])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_invertible_sequence_gradients(direction, context, dropout):
    ours, plain = twins(context=context, dropout=dropout)
    x = torch.randn(7, 6, dtype=torch.float64)
    c = torch.randn(7, context, dtype=torch.float64) if context else None
    results = []
    for model in (ours, plain):
        torch.manual_seed(3)
        results.append(value_and_gradients(model, x, c, direction))
        results[-1].append(torch.rand(2))  # the generator goes on as if nothing had been recomputed
    for mine, exact in zip(*results, strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-9, atol=1e-9)


def test_invertible_sequence_gradcheck():
    ours, _ = twins(depth=3, context=2)
    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    context = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, c: ours(x, c), (x, context))
    assert torch.autograd.gradcheck(lambda x, c: ours.inverse(x, c), (x, context))


def kept(model, x):
    """Bytes of the tensors that autograd keeps, the parameters aside."""
    sizes, own = {}, {p.data_ptr() for p in model.parameters()}

    def pack(tensor):
        if tensor.data_ptr() not in own:
            sizes[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y, log_det = model(x)
    (y.sum() + log_det.sum()).backward()
    return sum(sizes.values())


def test_invertible_sequence_memory_is_constant_in_depth():
    x = torch.randn(64, 6, dtype=torch.float64)
    shallow, deep = (kept(twins(depth=depth)[0], x) for depth in (2, 20))
    assert shallow == deep == x.numel() * x.element_size()
    assert kept(twins(depth=20)[1], x) > 10 * deep


def test_invertible_sequence_frees_activations():
    """No hidden activation outlives the forward, and the backward holds one layer's at a time."""
    alive, most = weakref.WeakSet(), []

    class Watched(nn.Module):
        def forward(self, h):
            h = torch.tanh(h)
            alive.add(h)
            most.append(len(alive))
            return h

    layers = [
        Coupling(4, index, conditioner=nn.Sequential(nn.Linear(2, 8), Watched(), nn.Linear(8, 4))) for index in range(9)
    ]
    y, log_det = InvertibleSequence(layers)(torch.randn(5, 4))
    gc.collect()
    assert not alive
    (y.sum() + log_det.sum()).backward()
    assert max(most) <= 3


def test_invertible_sequence_frozen_shared_and_unused_parameters():
    ours, plain = twins()
    for model in (ours, plain):
        model.layers[1].net[0].weight.requires_grad_(False)
        model.layers[3].net = model.layers[0].net
        model.layers[2].register_parameter("unused", nn.Parameter(torch.ones(2, dtype=torch.float64)))
        y, log_det = model(torch.linspace(-1, 1, 18, dtype=torch.float64).reshape(3, 6))
        (y.square().sum() + log_det.sum()).backward()
    for (name, mine), (_, exact) in zip(ours.named_parameters(), plain.named_parameters(), strict=True):
        if name.endswith("unused"):
            assert not mine.grad.any()
        elif mine.requires_grad:
            torch.testing.assert_close(mine.grad, exact.grad, rtol=1e-9, atol=1e-9)
        else:
            assert mine.grad is None


def test_invertible_sequence_hooks_see_the_gradients():
    ours, _ = twins(depth=2)
    seen = []
    for parameter in ours.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.shape))
    y, _ = ours(torch.randn(3, 6, dtype=torch.float64))
    y.sum().backward()
    assert len(seen) == len(list(ours.parameters()))


def test_invertible_sequence_in_distributed_data_parallel():
    """Its wrapper finds every gradient: parameters are inputs of the graph."""
    ours, plain = twins(depth=3)
    x = torch.linspace(-1, 1, 18, dtype=torch.float64).reshape(3, 6)
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(ours)
        for model in (wrapped, plain):
            y, log_det = model(x)
            (y.square().sum() + log_det.sum()).backward()
        time.sleep(0.2)  # PyTorch joins Gloo's thread with the lock held that it needs to drop the finished reduction
    finally:
        torch.distributed.destroy_process_group()
    for mine, exact in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, exact.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("reached", ["y", "log_det"])
def test_invertible_sequence_with_one_output_used(reached):
    gradients = []
    for model in twins(depth=3):
        x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(2, 6).requires_grad_()
        y, log_det = model(x)
        gradients.append(torch.autograd.grad((y if reached == "y" else log_det).sum(), x)[0])
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


def test_invertible_sequence_restores_autocast():
    """The recomputed conditioner runs in bfloat16 as the first did: its gradients are those of ordinary autograd."""
    results = []
    for model in twins(depth=2, dtype=torch.float32):
        torch.manual_seed(1)
        x = torch.randn(16, 6, requires_grad=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y, log_det = model(x)
        assert y.dtype is torch.float32
        loss = y.square().sum() + log_det.sum()
        results.append([y, *torch.autograd.grad(loss, [x, *model.parameters()])])
    for mine, exact in zip(*results, strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-3, atol=1e-3)


def test_invertible_sequence_drift():
    ours, _ = twins(depth=4, dropout=0.3)
    x = torch.randn(5, 6, dtype=torch.float64)
    assert ours.drift(x) < 1e-12
    assert InvertibleSequence([]).drift(x) == 0


class Wrong(Coupling):
    """Its inverse is not one."""

    def inverse(self, y, context=None):
        x, log_det = super().inverse(y, context)
        return 1.001 * x, log_det


def test_invertible_sequence_check_drift():
    x = torch.randn(5, 6)
    for tolerance, fails in ((1e-2, False), (1e-5, True)):
        y, _ = InvertibleSequence([Wrong(6, 0), Coupling(6, 1)], check_drift=tolerance)(x)
        if fails:
            with pytest.raises(RuntimeError, match=r"drifted: an input of size .* check_drift = 1e-05"):
                y.sum().backward()
        else:
            y.sum().backward()
    assert InvertibleSequence([Wrong(6, 0)]).drift(x) > 1e-4


def test_invertible_sequence_without_gradients_runs_each_layer_once():
    ours, plain = twins(depth=3)
    x = torch.randn(4, 6, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), plain(x))
    assert [layer.calls for layer in ours.layers] == [1, 1, 1]
    for empty in (InvertibleSequence([]).double(), ours):
        y, log_det = empty(x[:0])
        assert y.shape == (0, 6)
        assert log_det.shape == (0,)


def test_invertible_sequence_second_derivatives_are_refused():
    ours, _ = twins(depth=2)
    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(ours(x)[0].square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_invertible_sequence_errors():
    with pytest.raises(TypeError, match=r"layers\[1\] must have a method inverse.*: got Linear"):
        InvertibleSequence([Coupling(4, 0), nn.Linear(2, 2)])
    with pytest.raises(ValueError, match="check_drift must be positive"):
        InvertibleSequence([], check_drift=0.0)
    ours, _ = twins(depth=2)
    y, _ = ours(torch.randn(3, 6, dtype=torch.float64))
    with torch.no_grad():
        ours.layers[0].net[0].weight.add_(1.0)
    with pytest.raises(RuntimeError, match="must be the same in backward as in forward"):
        y.sum().backward(retain_graph=True)
    ours.layers[0].net[0].weight.requires_grad_(False)
    with pytest.raises(RuntimeError, match="must be the same in backward as in forward"):
        y.sum().backward()


def test_invertible_sequence_is_exported():
    assert "InvertibleSequence" in cgm_kernels.__all__
