"""The Langevin operations under torch.func, and on views that negate."""

import pytest
import torch

import cgm_kernels
from cgm_kernels.langevin import GaussianEnergy
from tests.support.backends import running
from tests.support.langevin import state


def tensors(device, *shape):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64).to(device) for _ in range(2)]


@pytest.mark.parametrize("pair", running())
def test_func_grad_and_vmap(pair):
    """torch.func differentiates; under vmap all samples share the noise of the call."""
    backend, device = pair
    x, grad = tensors(device, 4, 3)

    def total(x, grad):
        return cgm_kernels.langevin_step(x, grad, 0.1, state=state(device), max_grad_norm=1.0).square().sum()

    with cgm_kernels.use_backend(backend):
        leaves = x.clone().requires_grad_(), grad.clone().requires_grad_()
        expected = torch.autograd.grad(total(*leaves), leaves)
        found = torch.func.grad(total, argnums=(0, 1))(x, grad)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)
        rows = torch.func.vmap(torch.func.grad(total))(x[:, None], grad[:, None])
        singles = torch.stack([torch.func.grad(total)(a[None], b[None]) for a, b in zip(x, grad, strict=True)])
    torch.testing.assert_close(rows, singles)


@pytest.mark.parametrize("pair", running())
def test_vmap_without_a_derivative(pair):
    """Samples share the noise of the call, norms stay those of each chain, and so in chains and acceptances."""
    backend, device = pair
    x, grad = tensors(device, 4, 3, 2)
    energy = GaussianEnergy(torch.ones(2, device=device, dtype=x.dtype), std=0.5)
    calls = {
        "step": lambda x, grad: cgm_kernels.langevin_step(x, grad, 0.1, state=state(device), max_grad_norm=1.0),
        "chain": lambda x, grad: cgm_kernels.langevin_chain(x, energy, 2, 0.1, state=state(device)),
        "accept": lambda x, grad: cgm_kernels.mala_accept(x, grad, grad[:, 0], state=state(device))[0],
    }
    with cgm_kernels.use_backend(backend):
        for call in calls.values():
            singles = torch.stack([call(a, b) for a, b in zip(x, grad, strict=True)])
            torch.testing.assert_close(torch.func.vmap(call)(x, grad), singles)
        with pytest.raises(ValueError, match=r"out must be None under torch\.func\.vmap"):
            torch.func.vmap(lambda x: cgm_kernels.langevin_step(x, x, 0.1, state=state(device), out=x))(x)


@pytest.mark.parametrize("pair", running())
def test_views_that_negate(pair):
    """The imaginary part of a conjugate is such a view; it is read, and written to, by its values."""
    backend, device = pair
    x, grad = tensors(device, 4, 3)
    negating = torch.complex(grad, -x).conj().imag
    assert negating.is_neg()
    with cgm_kernels.use_backend(backend):
        expected = cgm_kernels.langevin_step(x, grad, 0.1, state=state(device))
        found = cgm_kernels.langevin_step(negating, grad, 0.1, state=state(device))
        written = cgm_kernels.langevin_step(negating, grad, 0.1, state=state(device), out=negating)
    assert written is negating and found.equal(expected) and negating.equal(expected)
