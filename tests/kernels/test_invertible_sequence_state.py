"""What an InvertibleSequence reads beside its input: buffers, modes, generators, parameters that it sets itself."""

import copy

import pytest
import torch
from torch import nn

from cgm_kernels import InvertibleSequence
from tests.support.invertible import Coupling, Plain


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


class BeginsBackwards(Begins):
    """Its other direction sets it, as a flow's trained from data to noise, and counts its runs."""

    def __init__(self, dim):
        super().__init__(dim)
        self.waits = True
        self.register_buffer("runs", torch.tensor(0))

    def forward(self, x, context=None):
        return x * self.log_scale.exp(), self.log_scale.sum().expand(len(x))

    def inverse(self, y, context=None):
        self.runs.add_(1)
        if self.waits and self.training:
            with torch.no_grad():
                self.log_scale.copy_(y.std(0).log())
            self.waits = False
        return super().inverse(y, context)


def recomputed(sequence, x, how):
    if how == "drift":
        return sequence.drift(x)
    y, log_det = sequence(x)
    return (y.square().sum() + log_det.sum()).backward()


@pytest.mark.parametrize("how", ["backward", "drift"])
def test_invertible_sequence_refuses_layers_that_the_recomputation_sets(how):
    """And puts them back: an inverse that begins them later does what it would have done."""
    torch.manual_seed(0)
    ours = InvertibleSequence([Coupling(4, 0), BeginsBackwards(4)]).double()
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    x = 3.0 * torch.randn(8, 4, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"BeginsBackwards .* set layers\.1\.log_scale anew .* initialise it first"):
        recomputed(ours, x, how)
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())
    assert ours.layers[1].waits
    ours.inverse(x)
    torch.testing.assert_close(ours.layers[1].log_scale, x.std(0).log())
    assert not recomputed(ours, x, how) or how == "drift"


def test_invertible_sequence_takes_back_counts_of_the_recomputation():
    ours, plain = (kind([BeginsBackwards(4)]).double().eval() for kind in (InvertibleSequence, Plain))
    for model in (ours, plain):
        y, _ = model(torch.ones(2, 4, dtype=torch.float64))
        y.sum().backward(retain_graph=True)
        y.sum().backward()
    assert ours.layers[0].runs == plain.layers[0].runs == 0
    assert torch.equal(ours.layers[0].log_scale.grad, plain.layers[0].log_scale.grad)


class WaitsWhileRecomputing(BeginsBackwards):
    def inverse(self, y, context=None):
        self.waits, waits = self.waits and not InvertibleSequence.recomputing(), self.waits
        try:
            return super().inverse(y, context)
        finally:
            self.waits = self.waits or (waits and InvertibleSequence.recomputing())


def test_invertible_sequence_tells_layers_that_it_recomputes():
    torch.manual_seed(0)
    x = 3.0 * torch.randn(8, 4, dtype=torch.float64)
    results = []
    for kind in (InvertibleSequence, Plain):
        model = kind([WaitsWhileRecomputing(4), WaitsWhileRecomputing(4)]).double()
        recomputed(model, x, "backward")
        results.append([layer.log_scale.grad for layer in model.layers])
        assert not any(layer.log_scale.any() for layer in model.layers) and not InvertibleSequence.recomputing()
    assert InvertibleSequence(model.layers).drift(x) == 0
    torch.testing.assert_close(*results)


def test_invertible_sequence_notices_changed_frozen_parameters():
    ours = InvertibleSequence([Coupling(4, 0), Coupling(4, 1)])
    ours.layers[0].requires_grad_(False)
    y, _ = ours(torch.randn(3, 4))
    ours.layers[0].net[0].weight.mul_(2.0)
    with pytest.raises(RuntimeError, match="the parameters of an InvertibleSequence must be the same"):
        y.sum().backward()
