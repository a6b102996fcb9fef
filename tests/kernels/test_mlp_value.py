"""mlp_value on every backend, against the network written with torch.nn.functional in float64."""

import pytest
import torch

import cgm_kernels
from cgm_kernels import mlp_divergence, mlp_value
from tests.support.backends import running
from tests.support.derivatives import assert_further_derivatives
from tests.support.divergence import ACTIVATIONS, CASES, Case, running_kernels, with_gradients
from tests.support.tolerances import assert_as_accurate

# Probes and norms are the divergence's.
VALUED = list({str(case): case for case in CASES if case.probes != 2 and not case.frobenius}.values())


def of(case):
    """``mlp_value`` and the definition, as functions of leaves and probes that are not read."""

    def ours(leaves, probes):
        return (mlp_value(leaves["x"], **case.options(leaves)),)

    return ours, lambda leaves, probes: case.by_definition(leaves, probes)[:1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("pair", running_kernels("mlp_divergence"))
@pytest.mark.parametrize("case", VALUED, ids=str)
def test_values_and_gradients(case, pair, dtype):
    backend, device = pair
    if pair == ("triton", "cpu") and dtype is torch.float64 and VALUED.index(case) % 4:
        pytest.skip("its interpreter takes its time")
    ours, definition = of(case)
    exact = with_gradients(case, definition)
    with cgm_kernels.use_backend("reference"):
        eager = with_gradients(case, ours, dtype, device)
    with cgm_kernels.use_backend(backend):
        found = with_gradients(case, ours, dtype, device)
    for one, true, plain in zip(found, exact, eager, strict=True):
        if true.numel():
            assert_as_accurate(one, true, plain)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_wide_networks_of_few_points_are_not_packed(activation):
    """Their values are PyTorch's; those of many points are the kernel's."""
    for batch in (2, 40):
        case = Case(4, (130, 140, 140), batch, activation=activation, residual=True, t="number", biases=batch > 2)
        ours, definition = of(case)
        with cgm_kernels.use_backend("reference"):
            eager = with_gradients(case, ours, torch.float32)
        found = with_gradients(case, ours, torch.float32)
        for one, true, plain in zip(found, with_gradients(case, definition), eager, strict=True):
            assert_as_accurate(one, true, plain)


@pytest.mark.parametrize("pair", running_kernels("mlp_divergence"))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_computed_in_single(pair, dtype):
    backend, device = pair
    case = Case(3, (8, 8), t="number", film="shared")
    leaves = {name: leaf.to(dtype) for name, leaf in case.draw(device=device).items()}
    wide = {name: leaf.double() for name, leaf in leaves.items()}
    with cgm_kernels.use_backend(backend):
        found = mlp_value(leaves["x"], **case.options(leaves))
    assert found.dtype is dtype
    (exact,) = of(case)[1](wide, case.draw_probes(device=device))
    torch.testing.assert_close(found.double(), exact, rtol=4 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("pair", running_kernels("mlp_divergence", reference=False))
@pytest.mark.parametrize("film", ["", "rows"])
def test_further_derivatives(film, pair):
    backend, device = pair
    case = Case(3, (6, 5), 4, t="rows", context="rows", film=film)
    leaves, ours = case.draw(device=device), of(case)[0]
    call = lambda *values: ours(dict(zip(leaves, values, strict=True)), None)  # noqa: E731
    assert_further_derivatives(call, list(leaves.values()), backend)


@pytest.mark.parametrize("pair", running_kernels("mlp_divergence", reference=False))
def test_compiled_whole(pair):
    backend, device = pair
    case = Case(3, (6, 5), 4, t="scalar")
    leaves = [leaf.requires_grad_() for leaf in case.draw(device=device).values()]
    names, ours = list(case.draw()), of(case)[0]

    def total(*values):
        return ours(dict(zip(names, values, strict=True)), None)[0].square().sum()

    with cgm_kernels.use_backend(backend):
        compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
        for one, other in zip(*(torch.autograd.grad(f(*leaves), leaves) for f in (compiled, total)), strict=True):
            torch.testing.assert_close(one, other)
    torch._dynamo.reset()


@pytest.mark.parametrize("pair", running())
def test_a_nan_stays_in_its_row(pair):
    backend, device = pair
    case = Case(3, (8, 8), batch=5)
    leaves = case.draw(torch.float32, device)
    leaves["x"][2, 1] = float("nan")
    with cgm_kernels.use_backend(backend):
        found = mlp_value(leaves["x"], **case.options(leaves))
    assert found.isnan().any(1).tolist() == [False, False, True, False, False]


def test_strides_of_the_points_and_the_weights_do_not_matter():
    case = Case(4, (9, 7), batch=11)
    leaves = case.draw()
    expected = mlp_value(leaves["x"], **case.options(leaves))
    strided = {name: leaf.t().contiguous().t() if leaf.dim() == 2 else leaf for name, leaf in leaves.items()}
    torch.testing.assert_close(mlp_value(strided["x"], **case.options(strided)), expected, rtol=0, atol=0)
    spread = leaves["x"].repeat_interleave(2, 1)[:, ::2]
    torch.testing.assert_close(mlp_value(spread, **case.options(leaves)), expected, rtol=0, atol=0)


def test_it_is_the_value_of_the_divergence():
    case = Case(5, (16, 9), batch=70, t="rows", context="shared")
    leaves = case.draw(torch.float32)
    options = case.options(leaves)
    assert torch.equal(mlp_value(leaves["x"], **options), mlp_divergence(leaves["x"], exact=True, **options)[0])


@pytest.mark.parametrize(
    ("changed", "error", "match"),
    [
        ({"weights": []}, ValueError, "weights must have at least one layer"),
        ({"activation": "swish"}, ValueError, "activation must be one of tanh"),
        ({"biases": [None]}, ValueError, "biases must have 3 layers"),
        ({"t": float("nan")}, ValueError, "t must be finite"),
        ({"context": torch.zeros(3, 2).double()}, ValueError, r"context must be \(c,\) or \(6, c\)"),
        ({"residual": 1}, TypeError, "residual must be"),
        ({"film": [None]}, ValueError, "film must have an entry for each of the 3 layers"),
    ],
)
def test_bad_arguments_are_named(changed, error, match):
    case = Case(3)
    leaves = case.draw()
    with pytest.raises(error, match=match):
        mlp_value(leaves["x"], **{**case.options(leaves), **changed})
    with pytest.raises(ValueError, match=r"x must be \(B, d\)"):
        mlp_value(leaves["x"][0], **case.options(leaves))
    with pytest.raises(TypeError, match="x must be a tensor"):
        mlp_value([0.0], **case.options(leaves))


def test_no_probes_are_an_error_of_the_divergence_still():
    case = Case(3)
    leaves = case.draw()
    for probes in (None, torch.empty(0, 6, 3).double()):
        with pytest.raises(ValueError, match="probes must be"):
            mlp_divergence(leaves["x"], probes=probes, **case.options(leaves))
