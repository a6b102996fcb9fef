"""Where derivatives of gradients meet hooks, autocast and forward mode."""

import pytest
import torch
from torch.autograd import forward_ad

import cgm_kernels
from tests.support.backends import fused
from tests.support.derivatives import waves
from tests.support.potentials import Case, drawn

NATIVE = pytest.mark.skipif(bool(cgm_kernels.backends.absence("native", "cpu")), reason="no native backend")


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def second(x):
    y, log_det = cgm_kernels.affine_coupling(x, x.sin(), x)
    (first,) = torch.autograd.grad(y.square().sum() + log_det.sum(), x, create_graph=True)
    return torch.autograd.grad(first.sin().sum(), x)[0]


@pytest.mark.parametrize("pair", fused())
def test_second_derivatives_where_saved_tensors_have_hooks(pair):
    backend, device = pair
    x = normal(3, 4).to(device).requires_grad_()
    with cgm_kernels.use_backend("reference"):
        expected = second(x)
    with cgm_kernels.use_backend(backend), torch.autograd.graph.save_on_cpu():
        torch.testing.assert_close(second(x), expected, rtol=1e-10, atol=1e-10)


@NATIVE
def test_second_derivatives_inside_of_a_checkpoint():
    x = normal(3, 4).requires_grad_()

    def curvature(x):
        y, _ = cgm_kernels.affine_coupling(x, x.sin(), x)
        (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return torch.autograd.grad(first.sin().sum(), x, create_graph=True)[0]

    (expected,) = torch.autograd.grad(curvature(x).square().sum(), x)
    again = torch.utils.checkpoint.checkpoint(curvature, x, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(again.square().sum(), x)[0], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("pair", fused())
def test_tangents_of_a_backward_are_refused(pair):
    """Rather than dropped: the graph was made before anything asked for forward mode."""
    backend, device = pair
    x = normal(3, 4).to(device).requires_grad_()
    layers = [normal(5, 2, seed=1), normal(4, 5, seed=2)], [normal(5, seed=3), normal(4, seed=4)]
    layers = [[one.to(device) for one in part] for part in layers]
    with cgm_kernels.use_backend(backend):
        results = cgm_kernels.affine_coupling(x, x, x)[0], cgm_kernels.affine_coupling_mlp(x, *layers, 2)[0]
        for y in results:

            def backward(v, y=y):
                return torch.autograd.grad(y, x, v, retain_graph=True)[0]

            v = waves(y)
            with pytest.raises(RuntimeError, match="forward-mode derivatives"):
                torch.func.jvp(backward, (v,), (v,))
            with forward_ad.dual_level(), pytest.raises(RuntimeError, match="forward-mode derivatives"):
                backward(forward_ad.make_dual(v, v))


@pytest.mark.parametrize("pair", fused())
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_tangents_inside_of_transforms(pair):
    backend, device = pair
    x, u = normal(3, 4).to(device), normal(3, 4, seed=1).to(device)
    call = torch.func.vmap(lambda row: cgm_kernels.affine_coupling(row[None], row[None], row[None])[0][0])
    with cgm_kernels.use_backend(backend), forward_ad.dual_level():
        found = forward_ad.unpack_dual(call(forward_ad.make_dual(x, u))).tangent
    torch.testing.assert_close(found, u * (x.exp() * (1 + x) + 1), rtol=1e-10, atol=1e-10)


@NATIVE
@pytest.mark.parametrize("flow", [False, True])
def test_potentials_of_many_dimensions_under_autocast(flow):
    """Forward and backward, whose tangents go along fewer directions than there are."""
    found = []
    for cast in (False, True):
        arguments = drawn(Case(5, 2, 2, rows=3), torch.float32)
        inputs = [arguments["x"].requires_grad_(), *(one.requires_grad_() for one in arguments["weights"])]
        with torch.autocast("cpu", torch.bfloat16, enabled=cast):
            if flow:
                value = cgm_kernels.potential_flow(**arguments, times=[0.0, 0.5]).divergence
            else:
                value = cgm_kernels.potential_divergence(**arguments, t=0.3)[1]
            found.append([value, *torch.autograd.grad(value.sin().sum(), inputs)])
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-6)


@NATIVE
def test_second_derivatives_of_an_exported_potential():
    arguments = drawn(Case(4, 2, 2, rows=3))
    weight = arguments["weights"][0]

    class Module(torch.nn.Module):
        def forward(self, weight):
            given = {**arguments, "weights": [weight, arguments["weights"][1]]}
            return cgm_kernels.potential_divergence(**given, t=0.3)[1].square().sum()

    def second(function):
        leaf = weight.detach().requires_grad_()
        (first,) = torch.autograd.grad(function(leaf), leaf, create_graph=True)
        return torch.autograd.grad(first.sin().sum(), leaf)[0]

    with cgm_kernels.use_backend("reference"):
        expected = second(Module())
    compiled = torch.compile(Module(), backend="eager", fullgraph=True)
    torch.testing.assert_close(second(compiled), expected, rtol=1e-9, atol=1e-9)
