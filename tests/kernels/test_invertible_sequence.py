"""InvertibleSequence against the same layers under ordinary autograd."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

import cgm_kernels
from cgm_kernels import InvertibleSequence, affine_coupling_event


class Coupling(nn.Module):
    """The halves in turn; the conditioner reads the other half and the context."""

    def __init__(self, dim, index, context=0, dropout=0.0, conditioner=None):
        super().__init__()
        self.half, self.first = dim // 2, index % 2 == 1
        self.net = conditioner or nn.Sequential(
            nn.Linear(dim // 2 + context, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, dim)
        )
        self.calls = 0

    def _map(self, x, context, inverse):
        self.calls += 1
        split = slice(0, self.half) if self.first else self.half
        passing = x[:, self.half :] if self.first else x[:, : self.half]
        given = passing if context is None else torch.cat([passing, context], 1)
        return affine_coupling_event(x, self.net(given).to(x.dtype), split, inverse=inverse, scale="tanh")

    def forward(self, x, context=None):
        return self._map(x, context, False)

    def inverse(self, y, context=None):
        return self._map(y, context, True)


class Plain(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x, context=None):
        total = 0.0
        for layer in self.layers:
            x, log_det = layer(x, context)
            total = total + log_det
        return x, total

    def inverse(self, x, context=None):
        total = 0.0
        for layer in reversed(self.layers):
            x, log_det = layer.inverse(x, context)
            total = total + log_det
        return x, total


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


class Masked(Coupling):
    """A layer whose map depends on a buffer, which ``moves`` lets each forward change."""

    def __init__(self, dim, index, moves=False):
        super().__init__(dim, index)
        self.moves = moves
        self.register_buffer("strength", torch.ones(()))

    def _map(self, x, context, inverse):
        if self.moves and not inverse:
            self.strength.mul_(1.5)
        y, log_det = super()._map(self.strength.clone() * x if not inverse else x, context, inverse)
        count = x.shape[1] if not inverse else -x.shape[1]
        return y if not inverse else y / self.strength.clone(), log_det + count * self.strength.log()


def test_invertible_sequence_notices_changed_buffers_and_modes():
    torch.manual_seed(0)
    layers = [Coupling(6, 0, dropout=0.3), Masked(6, 1)]
    changes = [
        (lambda ours: ours.layers[1].strength.mul_(2.0), "the buffer layers.1.strength .* must be the same"),
        (lambda ours: setattr(ours.layers[1], "strength", torch.ones(())), "the buffer layers.1.strength"),
        (lambda ours: ours.eval(), r"same mode in backward as in forward: train\(\) or eval\(\)"),
    ]
    for change, message in changes:
        ours = InvertibleSequence(copy.deepcopy(layers))
        y, log_det = ours(torch.randn(3, 6))
        change(ours)
        with pytest.raises(RuntimeError, match=message):
            (y.sum() + log_det.sum()).backward()


def test_invertible_sequence_recomputes_with_the_buffers_that_the_forward_left():
    """Other forwards may move them in between, and the backward itself does not."""
    torch.manual_seed(0)
    plain = Plain([Masked(6, 0, moves=True), Masked(6, 1, moves=True)]).double()
    ours = InvertibleSequence(copy.deepcopy(plain).layers)
    x = torch.randn(4, 6, dtype=torch.float64)
    found = []
    for model in (ours, plain):
        y, log_det = model(x)
        total = (y.square().sum() + log_det.sum()).sin()
        model(x)
        moved = [layer.strength.clone() for layer in model.layers]
        found.append(torch.autograd.grad(total, list(model.parameters())))
        assert [layer.strength for layer in model.layers] == moved
    for mine, exact in zip(*found, strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-9, atol=1e-9)


def test_invertible_sequence_counts_running_averages_once():
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 6)) for _ in range(3)]
    plain = Plain([Coupling(6, index, conditioner=net) for index, net in enumerate(nets)]).double()
    ours = InvertibleSequence(copy.deepcopy(plain).layers)
    x = torch.randn(16, 6, dtype=torch.float64)
    for model in (ours, plain):
        for _ in range(2):
            y, log_det = model(x)
            (y.square().sum() + log_det.sum()).backward()
    for (name, mine), exact in zip(ours.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, exact, msg=name)
    for mine, exact in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, exact.grad, rtol=1e-8, atol=1e-8)


class OwnDropout(nn.Module):
    """Dropout from a generator of its own."""

    def __init__(self, seed):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def forward(self, h):
        return h * (torch.rand(h.shape, dtype=h.dtype, generator=self.generator) < 0.5)


def test_invertible_sequence_restores_the_generators_of_its_layers():
    found = []
    for kind in (InvertibleSequence, Plain):
        torch.manual_seed(0)
        drops = [OwnDropout(seed) for seed in range(2)]
        layers = [Coupling(6, i, conditioner=nn.Sequential(nn.Linear(3, 6), drop)) for i, drop in enumerate(drops)]
        model = kind(layers).double()
        y, log_det = model(torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(4, 6))
        (y.square().sum() + log_det.sum()).backward()
        found.append([p.grad for p in model.parameters()] + [torch.rand(2, generator=drop.generator) for drop in drops])
    for mine, exact in zip(*found, strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-9, atol=1e-9)


class Begins(nn.Module):
    """An actnorm that its first forward sets, as Glow's in other libraries."""

    def __init__(self, dim):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(dim))
        self.register_buffer("begun", torch.tensor(0))

    def forward(self, x, context=None):
        if not self.begun:
            with torch.no_grad():
                self.log_scale.copy_(-x.std(0).log())
            self.begun.fill_(1)
        return x * self.log_scale.exp(), self.log_scale.sum().expand(len(x))

    def inverse(self, y, context=None):
        return y * (-self.log_scale).exp(), -self.log_scale.sum().expand(len(y))


def test_invertible_sequence_sets_parameters_in_its_first_forward_alone():
    ours = InvertibleSequence([Begins(4), Begins(4)]).double()
    y, log_det = ours(torch.randn(8, 4, dtype=torch.float64))
    before = [parameter.clone() for parameter in ours.parameters()]
    (y.square().sum() + log_det.sum()).backward(retain_graph=True)
    (y.square().sum() + log_det.sum()).backward()
    assert all(torch.equal(one, two) for one, two in zip(ours.parameters(), before, strict=True))
    assert all(layer.begun == 1 for layer in ours.layers)


def test_invertible_sequence_is_exported():
    assert "InvertibleSequence" in cgm_kernels.__all__
