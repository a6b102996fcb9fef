"""Hutchinson's estimate for any callable, and the probes it draws."""

import pytest
import torch
from torch import nn

import cgm_kernels
from cgm_kernels import hutchinson_divergence, hutchinson_probes
from tests.support.backends import DEVICES, running
from tests.support.divergence import running_kernels

torch_jacobian = torch.autograd.functional.jacobian


def field(*sizes, activation=nn.Tanh, seed=0):
    """A perceptron in float64 with as many outputs as inputs."""
    torch.manual_seed(seed)
    layers = [nn.Linear(sizes[0], sizes[1]), activation(), nn.Linear(sizes[1], sizes[0])]
    return nn.Sequential(*layers).double()


def jacobians(net, x):
    return torch.stack([torch_jacobian(net, row, create_graph=True) for row in x])


@pytest.mark.parametrize("n_probes", [1, 3])
def test_is_the_quadratic_form_of_the_jacobian(n_probes):
    net, x = field(3, 8), torch.randn(5, 3, dtype=torch.float64)
    probes = torch.randn(n_probes, 5, 3, dtype=torch.float64)
    value, divergence = hutchinson_divergence(net, x, probes=probes)
    expected = torch.einsum("pbi,bij,pbj->b", probes, jacobians(net, x), probes) / n_probes
    torch.testing.assert_close(value, net(x))
    torch.testing.assert_close(divergence, expected)
    for one, other in zip(
        torch.autograd.grad(divergence.sin().sum(), net.parameters(), materialize_grads=True),
        torch.autograd.grad(expected.sin().sum(), net.parameters(), materialize_grads=True),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_gradients_by_x_and_by_what_the_field_reads_to_any_order():
    net = field(2, 4).requires_grad_(False)
    x, c = torch.randn(3, 2, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
    probes = torch.randn(2, 3, 2, dtype=torch.float64)

    def call(x, c):
        return hutchinson_divergence(lambda z: net(z * c) + z.square(), x, probes=probes)

    inputs = (x.requires_grad_(), c.requires_grad_())
    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)


def test_events_of_any_shape_and_empty_batches():
    convolution = nn.Conv2d(2, 2, 3, padding=1).double()
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    probes = hutchinson_probes(x, 2, noise="gaussian")
    value, divergence = hutchinson_divergence(lambda z: convolution(z).tanh(), x, probes=probes)
    assert value.shape == x.shape and divergence.shape == (3,)
    for i in range(3):
        jacobian = torch_jacobian(lambda z: convolution(z).tanh(), x[i]).reshape(32, 32)
        flat = probes[:, i].reshape(2, 32)
        torch.testing.assert_close(divergence[i], torch.einsum("pi,ij,pj->", flat, jacobian, flat) / 2)
    for shape in ((0, 3), (0, 2, 4, 4), (0,)):
        value, divergence = hutchinson_divergence(torch.sin, torch.zeros(shape))
        assert value.shape == shape and divergence.shape == (0,)
    x = torch.randn(4)
    torch.testing.assert_close(hutchinson_divergence(torch.sin, x)[1], x.cos())


def test_keeps_a_graph_only_where_a_gradient_is_wanted():
    net, x = field(3, 8), torch.randn(5, 3, dtype=torch.float64)
    expected = hutchinson_divergence(net, x, probes=torch.ones(1, 5, 3, dtype=torch.float64))
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            point = x * 1
            found = hutchinson_divergence(net, point, probes=torch.ones(1, 5, 3, dtype=torch.float64))
        assert not any(one.requires_grad for one in found)
        torch.testing.assert_close(found, tuple(one.detach() for one in expected))
    assert all(one.requires_grad for one in expected)
    net.requires_grad_(False)
    assert not any(one.requires_grad for one in hutchinson_divergence(net, x))
    point = x.clone().requires_grad_()
    assert all(one.requires_grad for one in hutchinson_divergence(net, point))
    assert not x.requires_grad and point.grad is None


def test_the_derivative_is_by_the_argument_alone():
    """A field that reads x beside its argument, and one that does not depend on it."""
    x = torch.randn(4, 2, requires_grad=True)
    _, divergence = hutchinson_divergence(lambda z: z * 3 + x.square(), x)
    torch.testing.assert_close(divergence, torch.full((4,), 6.0))
    constant = torch.randn(4, 2)
    for fn in (lambda z: constant, lambda z: constant * x, lambda z: constant.clone().requires_grad_()):
        value, divergence = hutchinson_divergence(fn, x.detach())
        assert divergence.equal(torch.zeros(4)) and value.shape == x.shape


def test_hooks_and_batch_norm_run_once():
    norm = nn.BatchNorm1d(3, affine=False)
    hutchinson_divergence(norm, torch.randn(6, 3), n_probes=3)
    assert norm.num_batches_tracked == 1


@pytest.mark.parametrize("noise", ["rademacher", "gaussian"])
def test_is_unbiased(noise):
    """Mean and variance over many probes, within 5 standard errors."""
    torch.manual_seed(0)
    matrix = torch.randn(4, 4, dtype=torch.float64)
    x, n = torch.zeros(1, 4, dtype=torch.float64), 20000
    probes = hutchinson_probes(x.expand(n, 4), 1, noise=noise, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        _, estimates = hutchinson_divergence(lambda z: z @ matrix.T, x.expand(n, 4), probes=probes)
    symmetric = (matrix + matrix.T) / 2
    variance = 2 * symmetric.square().sum()
    if noise == "rademacher":
        variance = variance - 2 * matrix.diagonal().square().sum()
    assert abs(estimates.mean() - matrix.trace()) < 5 * (variance / n) ** 0.5
    centred = (estimates - matrix.trace()).square()
    assert abs(centred.mean() - variance) < 5 * centred.std() / n**0.5


@pytest.mark.parametrize("noise", ["rademacher", "gaussian"])
def test_one_seed_gives_the_same_probes_everywhere(noise):
    drawn = []
    for pair in running():
        backend, device = pair.values[0]
        if pair.marks:
            continue
        for dtype in (torch.float32, torch.float64):
            torch.manual_seed(3)
            with cgm_kernels.use_backend(backend):
                one = hutchinson_probes(torch.zeros(5, 3, dtype=dtype, device=device), 2, noise=noise)
            assert one.dtype is dtype and one.device.type == device and one.shape == (2, 5, 3)
            drawn.append(one.cpu().double())
    for one in drawn:
        torch.testing.assert_close(one, drawn[0], rtol=0 if noise == "rademacher" else 1e-5, atol=1e-7)
    if noise == "rademacher":
        assert set(drawn[0].flatten().tolist()) == {-1.0, 1.0}
    again = hutchinson_probes(torch.zeros(5, 3), 2, noise=noise, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(again.double(), drawn[0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("pair", running_kernels("mlp_divergence"))
def test_equals_mlp_divergence(pair):
    """With the same probes, inside a function that runs on every backend."""
    backend, device = pair
    net = field(4, 9).to(device)
    x = torch.randn(7, 4, dtype=torch.float64, device=device)
    probes = hutchinson_probes(x, 2)
    layers = [layer.weight for layer in net[::2]], [layer.bias for layer in net[::2]]
    with cgm_kernels.use_backend(backend):
        ours = cgm_kernels.mlp_divergence(x, *layers, probes=probes)
    for one, other in zip(ours, hutchinson_divergence(net, x, probes=probes), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_and_autocast_are_the_functions_own(dtype):
    net, x = field(3, 8).to(dtype), torch.randn(5, 3).to(dtype)
    value, divergence = hutchinson_divergence(net, x)
    assert value.dtype is divergence.dtype is dtype
    net, x = field(3, 8).float(), torch.randn(5, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, divergence = hutchinson_divergence(net, x)
    assert value.dtype is torch.bfloat16 and divergence.dtype is torch.float32


@pytest.mark.parametrize("device", DEVICES)
def test_transforms_and_compiled_graphs(device):
    net = field(3, 8).to(device)
    x = torch.randn(5, 3, dtype=torch.float64, device=device)
    probes = hutchinson_probes(x, 2)

    def total(x, probes):
        value, divergence = hutchinson_divergence(net, x, probes=probes)
        return value.sin().sum() + divergence.square().sum()

    point = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(total(point, probes), point)
    torch.testing.assert_close(torch.func.grad(total)(x, probes), expected)
    rows = torch.func.vmap(lambda x, e: hutchinson_divergence(net, x[None], probes=e[:, None])[1][0], (0, 1))(x, probes)
    torch.testing.assert_close(rows, hutchinson_divergence(net, x, probes=probes)[1])
    compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(point, probes), point)[0], expected)
    drawing = torch.compile(lambda x: hutchinson_divergence(net, x)[1], fullgraph=True, backend="aot_eager")
    torch.manual_seed(0)
    first = drawing(x)
    torch.manual_seed(0)
    torch.testing.assert_close(hutchinson_divergence(net, x)[1], first)
    with pytest.raises(Exception, match="generator must be None in a compiled function: give it probes"):
        generator = torch.Generator()
        torch.compile(lambda x: hutchinson_divergence(net, x, generator=generator), fullgraph=True)(x)
    torch._dynamo.reset()


def test_forward_mode_derivatives():
    """A tangent of x is carried through, not dropped."""
    net = field(3, 8)
    x, tangent = torch.randn(2, 5, 3, dtype=torch.float64).unbind()
    probes = hutchinson_probes(x, 2)
    _, expected = torch.func.jvp(lambda x: hutchinson_divergence(net, x, probes=probes)[1], (x,), (tangent,))
    for requires_grad in (False, True):
        with torch.autograd.forward_ad.dual_level():
            point = torch.autograd.forward_ad.make_dual(x.clone().requires_grad_(requires_grad), tangent)
            _, divergence = hutchinson_divergence(net, point, probes=probes)
            torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(divergence).tangent, expected)


x = torch.zeros(4, 3)
WRONG = {
    "fn must be callable: got Tensor": (TypeError, lambda: hutchinson_divergence(x, x)),
    "x must be a tensor: got list": (TypeError, lambda: hutchinson_divergence(torch.sin, [1.0])),
    "x must be float32": (TypeError, lambda: hutchinson_divergence(torch.sin, x.long())),
    r"x must be \(B, \*event\): got shape \(\)": (ValueError, lambda: hutchinson_divergence(torch.sin, x[0, 0])),
    r"fn must keep the shape of x, \(4, 3\): got \(4,\)": (
        ValueError,
        lambda: hutchinson_divergence(lambda z: z[:, 0], x),
    ),
    r"fn\(x\) must be a tensor: got tuple": (TypeError, lambda: hutchinson_divergence(lambda z: (z, z), x)),
    r"probes must be \(P, 4, 3\) with P at least 1: got \(4, 3\)": (
        ValueError,
        lambda: hutchinson_divergence(torch.sin, x, probes=x),
    ),
    r"probes must be .*: got \(0, 4, 3\)": (
        ValueError,
        lambda: hutchinson_divergence(torch.sin, x, probes=torch.zeros(0, 4, 3)),
    ),
    "probes must have the dtype of x": (
        TypeError,
        lambda: hutchinson_divergence(torch.sin, x, probes=torch.zeros(1, 4, 3).double()),
    ),
    "probes must not require grad": (
        ValueError,
        lambda: hutchinson_divergence(torch.sin, x, probes=torch.zeros(1, 4, 3, requires_grad=True)),
    ),
    "n_probes must be at least 1: got 0": (ValueError, lambda: hutchinson_divergence(torch.sin, x, n_probes=0)),
    "n_probes must be an int: got float": (TypeError, lambda: hutchinson_probes(x, 1.0)),
    "noise must be one of rademacher, gaussian: got 'uniform'": (
        ValueError,
        lambda: hutchinson_divergence(torch.sin, x, noise="uniform"),
    ),
    "generator must be a torch.Generator": (TypeError, lambda: hutchinson_divergence(torch.sin, x, generator=1)),
    "generator and probes exclude each other": (
        ValueError,
        lambda: hutchinson_divergence(torch.sin, x, probes=x[None], generator=torch.Generator()),
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_errors_name_the_argument(message):
    kind, call = WRONG[message]
    with pytest.raises(kind, match=message):
        call()
