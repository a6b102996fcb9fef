"""mlp_divergence on every backend, against PyTorch's Jacobian in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import cgm_kernels
from cgm_kernels.divergence import packing, reference
from tests.support.divergence import ACTIVATIONS, CASES, SMOOTH, Case, running_kernels, with_gradients
from tests.support.tolerances import assert_as_accurate

RUNNING, FUSED = running_kernels("mlp_divergence"), running_kernels("mlp_divergence", reference=False)


LARGE = [
    Case(2, (64, 64, 64), 1031, probes=1, t="scalar"),
    Case(33, (65, 130), 517, probes=3),
    Case(40, (70, 66), 263, probes=0),
    Case(17, (20, 20, 20), 301, probes=0, residual=True),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_reference_is_the_definition(case):
    """Values and gradients, in float64."""
    with cgm_kernels.use_backend("reference"):
        ours = with_gradients(case, case.call)
    for one, other in zip(ours, with_gradients(case, case.by_definition), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("pair", FUSED)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients(case, pair, dtype):
    backend, device = pair
    if pair == ("triton", "cpu") and dtype is torch.float64 and CASES.index(case) % 4:
        pytest.skip("its interpreter takes its time")
    exact = with_gradients(case, case.by_definition)
    with cgm_kernels.use_backend("reference"):
        eager = with_gradients(case, case.call, dtype, device)
    with cgm_kernels.use_backend(backend):
        ours = with_gradients(case, case.call, dtype, device)
    for one, true, plain in zip(ours, exact, eager, strict=True):
        if true.numel():
            assert_as_accurate(one, true, plain)


@st.composite
def any_case(draw):
    width = st.integers(1, 9)
    return Case(
        d=draw(st.integers(1, 6)),
        hidden=tuple(draw(st.lists(width, min_size=1, max_size=4))),
        batch=draw(st.integers(0, 20)),
        probes=draw(st.integers(0, 3)),
        activation=draw(st.sampled_from(sorted(ACTIVATIONS))),
        t=draw(st.sampled_from(["", "number", "scalar", "rows"])),
        context=draw(st.sampled_from(["", "shared", "rows"])),
        film=draw(st.sampled_from(["", "shared", "rows", "last"])),
        residual=draw(st.booleans()),
        frobenius=draw(st.booleans()),
        biases=draw(st.booleans()),
    )


@pytest.mark.parametrize("pair", FUSED)
def test_any_network_is_that_of_the_reference(pair):
    backend, device = pair
    slow = backend == "triton" and device == "cpu"  # its interpreter takes its time

    @settings(max_examples=4 if slow else 40, deadline=None, derandomize=True, database=None)
    @given(case=any_case())
    def check(case):
        with cgm_kernels.use_backend("reference"):
            expected = with_gradients(case, case.call, device=device)
        with cgm_kernels.use_backend(backend):
            found = with_gradients(case, case.call, device=device)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)

    check()


@pytest.mark.parametrize("pair", RUNNING)
def test_against_modules(pair):
    """nn.Linear stacks, and torch.autograd.functional.jacobian of them."""
    backend, device = pair
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.Softplus(), nn.Linear(8, 8), nn.Softplus(), nn.Linear(8, 3))
    net = net.double().to(device)
    x = torch.randn(4, 3, dtype=torch.float64, device=device)
    jacobian = torch.stack([torch.autograd.functional.jacobian(net, row) for row in x])
    layers = [layer.weight for layer in net[::2]], nn.ParameterList(layer.bias for layer in net[::2])
    probes = cgm_kernels.hutchinson_probes(x, 2)
    with cgm_kernels.use_backend(backend), torch.no_grad():
        value, trace, norm = cgm_kernels.mlp_divergence(x, *layers, activation="softplus", exact=True, frobenius=True)
        again, estimate = cgm_kernels.mlp_divergence(x, *layers, activation="softplus", probes=probes)
    torch.testing.assert_close(value, net(x))
    torch.testing.assert_close(again, value)
    torch.testing.assert_close(trace, jacobian.diagonal(dim1=1, dim2=2).sum(1))
    torch.testing.assert_close(norm, jacobian.square().sum((1, 2)))
    torch.testing.assert_close(estimate, torch.einsum("pbi,bij,pbj->b", probes, jacobian, probes) / 2)


@pytest.mark.parametrize("pair", FUSED)
@pytest.mark.parametrize(
    "case",
    [
        Case(2, (4, 3), 3, probes=2, t="rows", context="rows", film="rows", frobenius=True),
        Case(2, (4, 3), 3, probes=0, t="scalar", film="shared"),
        Case(2, (3, 3, 3), 3, probes=0, residual=True, frobenius=True, activation="silu"),
    ],
    ids=str,
)
def test_gradcheck(case, pair):
    backend, device = pair
    leaves = {name: leaf.requires_grad_() for name, leaf in case.draw(device=device).items()}
    probes = case.draw_probes(device=device)
    if pair == ("triton", "cpu"):
        pytest.skip("its interpreter takes its time, and the other tests compare its gradients")

    def call(*values):
        return case.call(dict(zip(leaves, values, strict=True)), probes)

    with cgm_kernels.use_backend(backend):
        assert torch.autograd.gradcheck(call, tuple(leaves.values()))


@pytest.mark.parametrize("probes", [0, 1])
@pytest.mark.parametrize("activation", SMOOTH)
def test_reference_gradgradcheck(activation, probes):
    case = Case(2, (3, 3), 2, probes=probes, activation=activation, t="scalar", residual=True, frobenius=True)
    leaves = {name: leaf.requires_grad_() for name, leaf in case.draw().items()}
    drawn = case.draw_probes()

    def call(*values):
        return case.call(dict(zip(leaves, values, strict=True)), drawn)

    with cgm_kernels.use_backend("reference"):
        assert torch.autograd.gradgradcheck(call, tuple(leaves.values()), fast_mode=True)
        assert torch.autograd.gradcheck(
            call, tuple(leaves.values()), check_forward_ad=True, check_backward_ad=False, fast_mode=True
        )


@pytest.mark.parametrize("pair", FUSED)
@pytest.mark.parametrize("probes", [0, 2])
def test_any_strides(probes, pair):
    backend, device = pair
    case = Case(5, (8, 6), 9, probes=probes, t="rows", context="rows", film="rows")
    leaves, drawn = case.draw(device=device), case.draw_probes(device=device)

    def strided(one):
        if one.dim() < 2:
            return torch.stack([one, one], -1)[..., 0]
        return one.mT.contiguous().mT

    others = {name: strided(leaf) for name, leaf in leaves.items()}
    wide = torch.zeros(9, 11, dtype=torch.float64, device=device)
    wide[:, 3:8] = leaves["x"]
    others["x"] = wide[:, 3:8]
    with cgm_kernels.use_backend(backend):
        expected = case.call(leaves, drawn)
        actual = case.call(others, None if drawn is None else strided(drawn))
        flipped = case.call({**leaves, "x": leaves["x"].flip(0).flip(0)}, drawn)
        one_row = {**leaves, "x": leaves["x"][:1].expand(9, -1)}
        expanded, copied = case.call(one_row, drawn), case.call({**one_row, "x": one_row["x"].clone()}, drawn)
    for pairs in ((expected, actual), (expected, flipped), (expanded, copied)):
        for one, other in zip(*pairs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("pair", FUSED)
def test_strided_cotangents(pair):
    """Gradients that are views, expanded, or of one result alone."""
    backend, device = pair
    case = Case(4, (8, 6), 7, probes=2, frobenius=True, film="shared")
    drawn = case.draw_probes(device=device)
    for weights in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0)):
        found = []
        for name in ("reference", backend):
            leaves = {key: leaf.requires_grad_() for key, leaf in case.draw(device=device).items()}
            with cgm_kernels.use_backend(name):
                value, divergence, norm = case.call(leaves, drawn)
                parts = (value[:, ::2].sum() + 2 * value.T[1].sum(), divergence.sum(), norm[::3].sum())
                total = sum(part for part, wanted in zip(parts, weights, strict=True) if wanted)
                found.append(torch.autograd.grad(total, list(leaves.values()), materialize_grads=True))
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("pair", FUSED)
def test_nan_and_infinity_stay_in_their_row(pair):
    backend, device = pair
    for probes in (0, 1):
        case = Case(3, (8, 8), 20, probes=probes, activation="silu")
        leaves, drawn = case.draw(torch.float32, device), case.draw_probes(torch.float32, device)
        leaves["x"][13, 1], leaves["x"][4, 0] = float("nan"), float("inf")
        with cgm_kernels.use_backend(backend):
            value, divergence = case.call(leaves, drawn)
        wrong = torch.zeros(20, dtype=torch.bool, device=device)
        wrong[13] = wrong[4] = True
        assert torch.equal(~divergence.isfinite(), wrong)
        assert value[~wrong].isfinite().all() and not value[13].isfinite().any()


@pytest.mark.parametrize("pair", RUNNING)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(dtype, pair):
    backend, device = pair
    for probes in (0, 2):
        case = Case(3, (8, 6), 20, probes=probes, t="scalar", frobenius=True)
        leaves = {name: leaf.requires_grad_() for name, leaf in case.draw(dtype, device).items()}
        drawn = case.draw_probes(dtype, device)
        wide = {name: leaf.detach().float().requires_grad_() for name, leaf in leaves.items()}
        with cgm_kernels.use_backend(backend):
            found = case.call(leaves, drawn)
            grads = torch.autograd.grad([one.sum() for one in found], list(leaves.values()))
        with cgm_kernels.use_backend("reference"):
            expected = case.call(wide, None if drawn is None else drawn.float())
            expected_grads = torch.autograd.grad([one.sum() for one in expected], list(wide.values()))
        assert [one.dtype for one in found] == [dtype, torch.float32, torch.float32]
        assert all(grad.dtype is dtype for grad in grads)
        tolerance = 16 * torch.finfo(dtype).eps
        for one, other in zip((*found, *grads), (*expected, *expected_grads), strict=True):
            error = (one.float() - other).abs().max()
            assert error <= tolerance * other.abs().max()


@pytest.mark.parametrize("pair", FUSED)
def test_many_rows_and_probes(pair):
    """More than a tile, in numbers that tiles do not divide."""
    backend, device = pair
    if backend == "triton" and device == "cpu":
        pytest.skip("the interpreter takes its time")
    for case in LARGE:
        exact = with_gradients(case, case.by_definition)
        with cgm_kernels.use_backend("reference"):
            eager = with_gradients(case, case.call, torch.float32, device)
        with cgm_kernels.use_backend(backend):
            ours = with_gradients(case, case.call, torch.float32, device)
        for one, true, plain in zip(ours, exact, eager, strict=True):
            assert_as_accurate(one, true, plain)


@pytest.mark.parametrize("pair", [pair for pair in FUSED if "native" in pair.id])
@pytest.mark.parametrize("width", [512, 1500])
def test_rounding_does_not_grow_with_the_width(width, pair):
    """Beyond twice that of PyTorch, at any width: by its root mean square, which no floor hides."""
    backend, device = pair
    case = Case(8, (width, width), 64, probes=1)
    leaves, probes = case.draw(), case.draw_probes()
    exact = case.by_definition(leaves, probes)
    rounded = {name: leaf.to(device, torch.float32) for name, leaf in leaves.items()}
    found = []
    for name in (backend, "reference"):
        with cgm_kernels.use_backend(name):
            results = case.call(rounded, probes.to(device, torch.float32))
        found.append([(one.cpu() - true).square().mean().sqrt() for one, true in zip(results, exact, strict=True)])
    for ours, eager in zip(*found, strict=True):
        assert ours < 1.5 * eager


def test_packing_keeps_every_number():
    case = Case(4, (7, 5), 3, t="rows", film="last")
    leaves = case.draw()
    options = case.options(leaves)
    widths = packing.widths(leaves["x"], options["weights"])
    assert widths == [4, 7, 5, 4]
    weights, biases = packing.unpack(packing.pack(options["weights"], options["biases"], 4), widths)
    film = packing.unpack_film(packing.pack_film(options["film"], widths, leaves["x"]), widths)
    network = reference.Network(weights, biases, film, "tanh", False)
    added = packing.first_addition(options["weights"][0], options["biases"][0], 4, options["t"], None)
    probes = case.draw_probes()
    with cgm_kernels.use_backend("reference"):
        expected = case.call(leaves, probes)
    for one, other in zip(expected, reference.mlp_divergence(leaves["x"], probes, network, added)[:2], strict=True):
        torch.testing.assert_close(one, other)
