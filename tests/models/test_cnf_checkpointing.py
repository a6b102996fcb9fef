"""Checkpointed steps of fields without a kernel of their own: what they keep, and all that gets a gradient."""

import pytest
import torch
from torch import nn
from torch.autograd.profiler import profile

from cgm_models.cnf import ModuleField, Solver, VectorField
from cgm_models.cnf.solve import solve


class Network(nn.Module):
    def __init__(self, dim=3):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dim + 1, 16), nn.Tanh(), nn.Linear(16, dim))

    def forward(self, t, x):
        return self.layers(torch.cat((x, torch.full_like(x[:, :1], float(t))), 1))


class Closure(VectorField):
    """Of a matrix that is no parameter."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = matrix

    def forward(self, t, x, context=None):
        return torch.tanh(x @ self.matrix)


class Shifted(VectorField):
    """By a function of the context."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 3)

    def forward(self, t, x, context=None):
        return torch.sin(x + self.linear(context))


def points(n=6, dim=3, dtype=torch.float64):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def gradients(field, gradient, wanted, x, context=None, exact=True):
    probes = None if exact else torch.ones(2, *x.shape, dtype=x.dtype)
    solution = solve(field, x, context, Solver("rk4", 5, gradient=gradient), exact=exact, probes=probes)
    total = solution.x.square().sum() + solution.divergence.sin().sum()
    return torch.autograd.grad(total, wanted)


@pytest.mark.parametrize("exact", [False, True])
def test_what_checkpoints_keep(exact):
    """The state at the begin of each step: the divergence, a derivative, is not kept in the forward pass."""
    field, x = ModuleField(Network(8)), points(256, 8, torch.float32)

    def kept(gradient, n_steps):
        probes = None if exact else torch.ones(1, *x.shape)
        with profile(profile_memory=True) as seen:
            solution = solve(field, x, None, Solver("rk4", n_steps, gradient=gradient), exact=exact, probes=probes)
        assert solution.divergence.requires_grad
        return sum(event.self_cpu_memory_usage for event in seen.key_averages())

    kept("checkpoint", 2)  # what the first call sets up
    few, many = (kept("checkpoint", n) for n in (4, 12))
    assert 0 <= many - few <= 8 * x.numel() * 4
    few, many = (kept("discrete", n) for n in (2, 4))
    assert many - few > 2 * 4 * len(x) * 16 * 4


@pytest.mark.parametrize("exact", [False, True])
def test_all_gradients(exact):
    """By the points, parameters, and a context that is a result itself."""
    torch.manual_seed(0)
    field, x, source = Shifted().double(), points().requires_grad_(), points(6, 2).requires_grad_()
    wanted = [x, source, *field.parameters()]
    expected, found = (gradients(field, way, wanted, x, source.exp(), exact) for way in ("discrete", "checkpoint"))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("derived", [False, True])
def test_tensors_that_are_no_parameters_get_their_gradient(derived):
    """A leaf in a closure, and what was made of one before the solve."""
    leaf = points(3).requires_grad_()
    fields = [Closure(leaf.sin() if derived else leaf) for _ in range(2)]
    expected = gradients(fields[0], "discrete", [leaf], points())
    torch.testing.assert_close(gradients(fields[1], "checkpoint", [leaf], points()), expected, rtol=1e-12, atol=1e-12)


def test_the_backward_is_under_the_autocast_of_the_forward():
    torch.manual_seed(0)
    field, x = ModuleField(Network()), points(64, 3, torch.float32)
    wanted, found = list(field.parameters()), []
    for gradient in ("discrete", "checkpoint"):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            solution = solve(field, x, None, Solver("rk4", 3, gradient=gradient), exact=True)
        found.append(torch.autograd.grad(solution.x.square().sum() + solution.divergence.sum(), wanted))
    torch.testing.assert_close(found[1], found[0], rtol=1e-2, atol=1e-2)
    plain = gradients(field, "discrete", wanted, x)
    assert any((one - other).abs().max() > 1e-5 for one, other in zip(found[1], plain, strict=True))


def test_second_derivatives_are_refused():
    field, x = ModuleField(Network().double()), points().requires_grad_()
    solution = solve(field, x, None, Solver("rk4", 2, gradient="checkpoint"), exact=True)
    (first,) = torch.autograd.grad(solution.x.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
