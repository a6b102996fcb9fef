"""mlp_divergence inside PyTorch: opcheck, compile, export, autocast, transforms, second derivatives, threads."""

import pytest
import torch
from torch.library import opcheck
from torch.utils._python_dispatch import TorchDispatchMode

import cgm_kernels
from cgm_kernels.divergence import packing
from tests.support.called import made_by
from tests.support.derivatives import assert_further_derivatives
from tests.support.divergence import Case, running_kernels

RUNNING, FUSED = running_kernels("mlp_divergence"), running_kernels("mlp_divergence", reference=False)
NATIVE = [pair for pair in FUSED if "native" in pair.id]
CASES = [
    Case(3, (6, 5), 4, probes=2, t="rows", context="rows", film="rows", frobenius=True),
    Case(3, (6, 5), 4, probes=0, t="scalar", film="shared"),
    Case(3, (5, 5, 5), 4, probes=0, residual=True, frobenius=True, activation="silu"),
]


def total(case, names, probes):
    """A scalar function of the leaves, in which every result takes part."""

    def function(*values):
        results = case.call(dict(zip(names, values, strict=True)), probes)
        return sum((k + 1) * one.sin().sum() for k, one in enumerate(results))

    return function


def gradients(function, leaves):
    return torch.autograd.grad(function(*leaves), leaves)


def drawn(case, device, grad=True):
    leaves = case.draw(device=device)
    values = tuple(leaf.requires_grad_(grad) for leaf in leaves.values())
    return list(leaves), values, case.draw_probes(device=device)


@pytest.mark.parametrize("pair", FUSED)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_opcheck(case, pair):
    """The registered operators, forward and backward."""
    backend, device = pair
    operators = getattr(torch.ops, f"cgm_{backend}")
    leaves, probes = case.draw(device=device), case.draw_probes(device=device)
    options = case.options(leaves)
    x, weights = leaves["x"], options["weights"]
    widths = packing.widths(x, weights)
    added = packing.first_addition(weights[0], options["biases"][0], case.d, options["t"], options["context"])
    tensors = [x, probes, packing.pack(weights, options["biases"], case.d), added]
    tensors.append(packing.pack_film(options["film"], widths, x))
    settings = (widths, 0, case.residual, case.frobenius)
    leafy = [one if one is None or one is probes else one.clone().requires_grad_() for one in tensors]
    quick = {"test_utils": ("test_schema", "test_faketensor")}
    chosen = {} if case is CASES[0] and backend == "native" else quick
    opcheck(operators.mlp_divergence, (*leafy, *settings, True), **chosen)
    *results, kept = operators.mlp_divergence(*tensors, *settings, True)
    assert kept.shape == (packing.kept_numbers(case.batch, case.probes, widths),)
    grads = [torch.ones_like(one) for one in results]
    grads[2] = grads[2] if case.frobenius else None
    for given in (grads, [None, grads[1], None], [grads[0], None, None]):
        checks = chosen if given is grads else quick
        opcheck(operators.mlp_divergence_backward, (*given, *tensors, kept, *settings), **checks)


@pytest.mark.parametrize("pair", FUSED)
@pytest.mark.parametrize("case, grad", [(CASES[0], True), (CASES[1], False)], ids=str)
def test_compiled_whole(case, grad, pair):
    backend, device = pair
    names, leaves, probes = drawn(case, device, grad)
    function = total(case, names, probes)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    with cgm_kernels.use_backend(backend):
        found, expected = compiled(*leaves), function(*leaves)
        torch.testing.assert_close(found, expected)
        if grad:
            pairs = (torch.autograd.grad(value, leaves) for value in (found, expected))
            for one, other in zip(*pairs, strict=True):
                torch.testing.assert_close(one, other)
    torch._dynamo.reset()


@pytest.mark.parametrize("pair", NATIVE)
def test_export(pair):
    backend, device = pair
    case = CASES[0]
    names, leaves, probes = drawn(case, device, grad=False)

    class Field(torch.nn.Module):
        def forward(self, *values):
            return case.call(dict(zip(names, values, strict=True)), probes)

    with cgm_kernels.use_backend(backend):
        program = torch.export.export(Field(), leaves)
        for one, other in zip(program.module()(*leaves), Field()(*leaves), strict=True):
            torch.testing.assert_close(one, other)
    assert "cgm_native.mlp_divergence" in str(program.graph)


@pytest.mark.parametrize("pair", RUNNING)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_func_grad(case, pair):
    backend, device = pair
    names, leaves, probes = drawn(case, device)
    function = total(case, names, probes)
    with cgm_kernels.use_backend(backend):
        expected = gradients(function, leaves)
        found = torch.func.grad(function, argnums=tuple(range(len(leaves))))(*(leaf.detach() for leaf in leaves))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("pair", RUNNING)
def test_vmap_over_points_and_over_weights(pair):
    backend, device = pair
    case = Case(3, (6, 5), 4)
    leaves, probes = case.draw(device=device), case.draw_probes(device=device)

    def gradient(x, probes, weight):
        return torch.func.grad(lambda w: case.call({**leaves, "x": x, "weight1": w}, probes)[1].sum())(weight)

    points = torch.stack([leaves["x"], -leaves["x"]])
    many = torch.stack([probes, 2 * probes])
    weights = torch.stack([leaves["weight1"], leaves["weight1"] + 1])
    with cgm_kernels.use_backend(backend):
        found = torch.func.vmap(gradient)(points, many, weights)
        expected = torch.stack([gradient(*one) for one in zip(points, many, weights, strict=True)])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("pair", NATIVE)
@pytest.mark.parametrize("case", CASES[:2], ids=str)
def test_batched_gradients(case, pair):
    backend, device = pair
    names, leaves, probes = drawn(case, device)
    with cgm_kernels.use_backend(backend):
        results = case.call(dict(zip(names, leaves, strict=True)), probes)
        weights = tuple(torch.ones_like(one) for one in results)
        single = torch.autograd.grad(results, leaves, weights, retain_graph=True)
        batched = tuple(torch.stack([w, 2 * w]) for w in weights)
        double = torch.autograd.grad(results, leaves, batched, is_grads_batched=True)
    for one, two in zip(single, double, strict=True):
        torch.testing.assert_close(two, torch.stack([one, 2 * one]))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("pair", FUSED)
@pytest.mark.parametrize("case", [*CASES, Case(3, (6, 5), 4, probes=2, t="rows", context="rows")], ids=str)
def test_further_derivatives(case, pair):
    """Of the last case the extension's node gives the gradients."""
    backend, device = pair
    leaves, probes = case.draw(device=device), case.draw_probes(device=device)

    def call(*values):
        return case.call(dict(zip(leaves, values, strict=True)), probes)

    assert_further_derivatives(call, list(leaves.values()), backend)


@pytest.mark.parametrize("pair", NATIVE)
@pytest.mark.parametrize("film, ours", [("shared", True), ("rows", False)])
def test_scales_that_all_rows_share_are_the_layers_own(film, ours, pair):
    """They take the extension's node, as layers without any do."""
    if pair[1] != "cpu":
        pytest.skip("the node is the CPU's")
    case = Case(3, (6, 5), 4, probes=2, film=film)
    value, *_ = case.call({name: leaf.requires_grad_() for name, leaf in case.draw().items()}, case.draw_probes())
    assert ("MlpDivergence" in made_by(value)) == ours


@pytest.mark.parametrize("pair", RUNNING)
def test_autocast_computes_in_float32(pair):
    backend, device = pair
    case = CASES[0]
    leaves, probes = case.draw(torch.float32, device), case.draw_probes(torch.float32, device)
    half = {**leaves, "context": leaves["context"].bfloat16(), "t": leaves["t"].bfloat16()}
    rounded = {name: leaf.float() for name, leaf in half.items()}
    with cgm_kernels.use_backend(backend):
        expected = case.call(rounded, probes)
        with torch.autocast(device, dtype=torch.bfloat16):
            found = case.call(half, probes)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype is torch.float32
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("pair", FUSED)
def test_any_leaves_may_want_gradients(pair):
    backend, device = pair
    case = CASES[0]
    _, leaves, probes = drawn(case, device)
    names = list(case.draw())
    step = 3 if pair == ("triton", "cpu") else 1  # its interpreter takes its time
    with cgm_kernels.use_backend("reference"):
        expected = gradients(total(case, names, probes), leaves)
    with cgm_kernels.use_backend(backend):
        for k, name in list(enumerate(names))[::step]:
            frozen = tuple(leaf.detach() for leaf in leaves)
            frozen[k].requires_grad_()
            (found,) = torch.autograd.grad(total(case, names, probes)(*frozen), frozen[k])
            torch.testing.assert_close(found, expected[k], msg=name)
        with torch.no_grad():
            assert not case.call(dict(zip(names, leaves, strict=True)), probes)[1].requires_grad


@pytest.mark.parametrize("pair", FUSED)
def test_changed_in_place_between_forward_and_backward(pair):
    """What the backward reads may not have changed since."""
    backend, device = pair
    for name in ("x", "weight1", "scale0"):
        leaves = {key: leaf.requires_grad_() for key, leaf in CASES[0].draw(device=device).items()}
        with cgm_kernels.use_backend(backend):
            copies = {key: leaf.clone() for key, leaf in leaves.items()}
            divergence = CASES[0].call(copies, CASES[0].draw_probes(device=device))[1]
            with torch.no_grad():
                copies[name].mul_(2)
            if name == "x":
                with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                    divergence.sum().backward()
            else:
                try:  # weights may have been copied into the packed parameters
                    divergence.sum().backward()
                except RuntimeError as error:
                    assert "modified by an inplace operation" in str(error)
                    continue
                with cgm_kernels.use_backend("reference"):
                    fresh = {key: leaf.requires_grad_() for key, leaf in CASES[0].draw(device=device).items()}
                    CASES[0].call(fresh, CASES[0].draw_probes(device=device))[1].sum().backward()
                torch.testing.assert_close(leaves[name].grad, fresh[name].grad)


@pytest.mark.parametrize("pair", [pair for pair in NATIVE if "cpu" in pair.id])
@pytest.mark.parametrize("probes", [0, 1])
def test_threads_do_not_change_values(probes, pair):
    case = Case(4, (32, 32), 2000, probes=probes)
    names, leaves, drawn_probes = drawn(case, "cpu")
    threads, found = torch.get_num_threads(), []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            with cgm_kernels.use_backend("native"):
                results = case.call(dict(zip(names, leaves, strict=True)), drawn_probes)
                grads = torch.autograd.grad([one.sum() for one in results], leaves)
            found.append((*results, *grads))
    finally:
        torch.set_num_threads(threads)
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("pair", [pair for pair in NATIVE if "cpu" in pair.id])
@pytest.mark.parametrize("probes", [0, 1])
def test_eager_calls_take_the_direct_path(probes, pair):
    case = Case(3, (6, 5), 4, probes=probes, t="rows", context="rows", biases=False)
    names, leaves, drawn_probes = drawn(case, "cpu")
    leaves = dict(zip(names, leaves, strict=True))
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            seen.append(str(function))
            return function(*arguments, **(keywords or {}))

    with cgm_kernels.use_backend("native"):
        direct = case.call(leaves, drawn_probes)
        assert "MlpDivergence" in made_by(direct[1])
        with Watch():
            watched = case.call(leaves, drawn_probes)
    assert "cgm_native.mlp_divergence.default" in seen
    for one, other in zip(direct, watched, strict=True):
        assert one.equal(other)
