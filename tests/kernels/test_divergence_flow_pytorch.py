"""mlp_flow inside PyTorch: opcheck, compile, transforms, second derivatives, changes in place, threads, memory."""

import pytest
import torch
from torch.library import opcheck

import cgm_kernels
from cgm_kernels.divergence import packing
from cgm_kernels.divergence.tableaus import METHODS
from tests.support.derivatives import assert_further_derivatives
from tests.support.divergence import Case, running_kernels, with_gradients
from tests.support.tolerances import assert_as_accurate

RUNNING, FUSED = running_kernels("mlp_flow"), running_kernels("mlp_flow", reference=False)
NATIVE = [pair for pair in FUSED if "native" in pair.id]
TIMES = [0.1, 0.4, 0.6]
CASES = [
    Case(3, (6, 5), 4, probes=2, t="number", context="rows"),
    Case(3, (5, 5, 5), 4, probes=0, residual=True, activation="silu"),
]


def flow(case, leaves, probes, times=TIMES, **options):
    given = case.options(leaves)
    given = {name: given[name] for name in ("weights", "biases", "context", "activation", "residual")}
    settings = {"method": "midpoint", "regularizers": True, **options}
    return cgm_kernels.mlp_flow(leaves["x"], times=times, probes=probes, exact=probes is None, **{**given, **settings})


def total(case, names, probes, **options):
    """A scalar function of the leaves, in which every result takes part."""

    def function(*values):
        results = flow(case, dict(zip(names, values, strict=True)), probes, **options)
        return sum((k + 1) * one.sin().sum() for k, one in enumerate(results))

    return function


def drawn(case, device="cpu", grad=True, dtype=torch.float64):
    leaves = case.draw(dtype, device)
    return list(leaves), tuple(leaf.requires_grad_(grad) for leaf in leaves.values()), case.draw_probes(dtype, device)


@pytest.mark.parametrize("pair", NATIVE)
@pytest.mark.parametrize("filmed", [False, True])
def test_opcheck(filmed, pair):
    """The registered operators, forward and backward."""
    backend, device = pair
    operators, case = getattr(torch.ops, f"cgm_{backend}"), CASES[0]
    leaves, probes = case.draw(device=device), case.draw_probes(device=device)
    given = case.options(leaves)
    widths, stages = packing.widths(leaves["x"], given["weights"]), 4
    like = leaves["x"].new_ones
    added, film = (None, like(stages, 2 * sum(widths[1:]))) if filmed else (like(4, widths[1]), None)
    tensors = [leaves["x"], probes, packing.pack(given["weights"], given["biases"], case.d), like(stages, widths[1])]
    tensors += [added, film]
    settings = ([0.3, 0.2], METHODS.index("midpoint"), widths, 0, False, True)
    leafy = [one if one is None or one is probes else one.clone().requires_grad_() for one in tensors]
    quick = {"test_utils": ("test_schema", "test_faketensor")}
    chosen = quick if filmed else {}
    opcheck(operators.mlp_flow, (*leafy, *settings, True), **chosen)
    x1, integrals, states = operators.mlp_flow(*tensors, *settings, True)
    assert states.shape == (2, 4, 3)
    opcheck(operators.mlp_flow_backward, (x1, integrals, *tensors, states, *settings), **chosen)
    for grads in ((None, integrals), (x1, None)):
        opcheck(operators.mlp_flow_backward, (*grads, *tensors, states, *settings), **quick)


@pytest.mark.parametrize("pair", NATIVE)
def test_compiled_whole(pair):
    backend, device = pair
    names, leaves, probes = drawn(CASES[0], device)
    function = total(CASES[0], names, probes)
    with cgm_kernels.use_backend(backend):
        found, expected = torch.compile(function, backend="aot_eager", fullgraph=True)(*leaves), function(*leaves)
        torch.testing.assert_close(found, expected)
        pairs = (torch.autograd.grad(value, leaves, materialize_grads=True) for value in (found, expected))
        for one, other in zip(*pairs, strict=True):
            torch.testing.assert_close(one, other)
    torch._dynamo.reset()


@pytest.mark.parametrize("pair", NATIVE)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_func_grad_and_vmap(case, pair):
    backend, device = pair
    names, leaves, probes = drawn(case, device, grad=False)
    gradient = torch.func.grad(total(case, names, probes), argnums=(0, 1))
    several = torch.stack([leaves[0], -leaves[0]])
    with cgm_kernels.use_backend("reference"):
        expected = [gradient(x, *leaves[1:]) for x in several]
    with cgm_kernels.use_backend(backend):
        found = torch.func.vmap(gradient, (0, *[None] * len(leaves[1:])))(several, *leaves[1:])
    for k, one in enumerate(found):
        torch.testing.assert_close(one, torch.stack([grads[k] for grads in expected]))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("pair", FUSED)
def test_further_derivatives(case, pair):
    backend, device = pair
    leaves, probes = case.draw(device=device), case.draw_probes(device=device)

    def call(*values):
        found = flow(case, dict(zip(leaves, values, strict=True)), probes, TIMES[:2])
        return [one for one in found if one is not None]

    assert_further_derivatives(call, list(leaves.values()), backend)


@pytest.mark.parametrize("keep_states", [False, True])
@pytest.mark.parametrize("pair", NATIVE)
def test_any_leaves_may_want_gradients(pair, keep_states):
    backend, device = pair
    names, leaves, probes = drawn(CASES[0], device)
    function = total(CASES[0], names, probes, keep_states=keep_states)
    with cgm_kernels.use_backend("reference"):
        expected = torch.autograd.grad(function(*leaves), leaves)
    with cgm_kernels.use_backend(backend):
        for k, name in enumerate(names):
            frozen = tuple(leaf.detach() for leaf in leaves)
            frozen[k].requires_grad_()
            (found,) = torch.autograd.grad(function(*frozen), frozen[k])
            torch.testing.assert_close(found, expected[k], msg=name)
        with torch.no_grad():
            assert not function(*leaves).requires_grad


@pytest.mark.parametrize("pair", FUSED)
def test_changed_in_place_between_forward_and_backward(pair):
    backend, device = pair
    names, leaves, probes = drawn(CASES[0], device)
    for name in ("x", "context"):
        copies = [leaf.clone() for leaf in leaves]
        with cgm_kernels.use_backend(backend):
            value = total(CASES[0], names, probes, times=TIMES[:2])(*copies)
        with torch.no_grad():
            copies[names.index(name)].mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            value.backward()


@pytest.mark.parametrize("pair", FUSED)
def test_any_strides_and_empty_batches(pair):
    backend, device = pair
    case = CASES[0]
    names, leaves, probes = drawn(case, device, grad=False)
    strided = [leaf.mT.contiguous().mT if leaf.dim() == 2 else torch.stack([leaf, leaf], -1)[..., 0] for leaf in leaves]
    with cgm_kernels.use_backend(backend):
        expected = flow(case, dict(zip(names, leaves, strict=True)), probes)
        found = flow(case, dict(zip(names, strided, strict=True)), probes.mT.contiguous().mT)
        empty = {name: leaf[:0] if name in ("x", "context") else leaf for name, leaf in zip(names, leaves, strict=True)}
        weight = empty["weight1"].clone().requires_grad_()
        nothing = flow(case, {**empty, "weight1": weight}, probes[:, :0])
        (gradient,) = torch.autograd.grad(sum(one.sum() for one in nothing), weight)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert [tuple(one.shape) for one in nothing] == [(0, 3), (0,), (0,), (0,)]
    assert gradient.equal(torch.zeros_like(weight))


@pytest.mark.parametrize("pair", FUSED)
def test_nan_stays_in_its_row_there_and_back(pair):
    backend, device = pair
    case = Case(3, (8, 8), 9, probes=1, t="number")
    names, leaves, probes = drawn(case, device)
    leaves = dict(zip(names, leaves, strict=True))
    with torch.no_grad():
        leaves["x"][4, 1] = float("nan")
    others = torch.arange(9, device=device) != 4
    with cgm_kernels.use_backend(backend):
        results = flow(case, leaves, probes)
        (gradient,) = torch.autograd.grad([one.sum() for one in results], leaves["x"])
    for one in (*results, gradient):
        assert one[others].isfinite().all() and not one[4].isfinite().any()


@pytest.mark.parametrize("pair", NATIVE)
@pytest.mark.parametrize("case", [Case(2, (64, 64), 517, t="number"), Case(19, (33, 20), 130, probes=0)], ids=str)
def test_more_than_a_tile_in_float32(case, pair):
    backend, device = pair

    def call(leaves, probes):
        return flow(case, leaves, probes, method="rk4", keep_states=case.probes > 0)

    with cgm_kernels.use_backend("reference"):
        exact, eager = with_gradients(case, call), with_gradients(case, call, torch.float32, device)
    with cgm_kernels.use_backend(backend):
        ours = with_gradients(case, call, torch.float32, device)
    for one, true, plain in zip(ours, exact, eager, strict=True):
        assert_as_accurate(one, true, plain)


@pytest.mark.parametrize("pair", [pair for pair in NATIVE if "cpu" in pair.id])
def test_threads_do_not_change_values(pair):
    case = Case(4, (32, 32), 500, t="number")
    names, leaves, probes = drawn(case)
    threads, found = torch.get_num_threads(), []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            with cgm_kernels.use_backend("native"):
                value = total(case, names, probes)(*leaves)
            found.append((value, *torch.autograd.grad(value, leaves)))
    finally:
        torch.set_num_threads(threads)
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("pair", FUSED)
def test_memory_does_not_grow_with_the_steps_unless_states_are_kept(pair):
    """What lives between the forward and the backward; beside x only the biases of the stages are longer."""
    backend, device = pair
    case = Case(8, (4, 4), 64, t="number")
    names, leaves, probes = drawn(case, device, dtype=torch.float32)

    def held(n, keep_states):
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):
            flow(case, dict(zip(names, leaves, strict=True)), probes, [step / n for step in range(n + 1)],
                 method="euler", keep_states=keep_states)  # fmt: skip
        blocks = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in kept}
        return sum(blocks.values())

    state, stage = leaves[0].numel() * 4, case.hidden[0] * 4
    with cgm_kernels.use_backend(backend):
        more = {keep_states: held(7, keep_states) - held(3, keep_states) for keep_states in (True, False)}
    assert more[True] - more[False] == 4 * state
    assert more[False] <= 4 * 4 * stage
