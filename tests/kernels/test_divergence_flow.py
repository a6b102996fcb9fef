"""The options of mlp_flow on every backend, against torchdiffeq's fixed steps of a field written by hand."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torchdiffeq import odeint

import cgm_kernels
from tests.support.divergence import Case, running_kernels

RUNNING = running_kernels("mlp_flow")
SOLVERS = {"euler": "euler", "midpoint": "midpoint", "rk4_38": "rk4"}
TIMES = [0.1, 0.3, 0.7, 0.8]
CASE = Case(3, (6, 5), 4, probes=2)


def interpreted(pair):
    """Whether Triton's interpreter runs it, which takes its time."""
    return pair == ("triton", "cpu")


def wide(leaves, extra):
    """The leaves with a first weight of so many more columns."""
    generator = torch.Generator().manual_seed(5)
    more = torch.randn(6, extra, generator=generator, dtype=torch.float64).to(leaves["x"].device)
    return {**leaves, "weight0": torch.cat([leaves["weight0"].detach(), more], 1).requires_grad_()}


def features(t):
    return torch.stack([t.sin(), t.cos(), t.square()], 1)


def film_of(leaves):
    def film(t):
        rates = torch.arange(1.0, 7.0, dtype=t.dtype, device=t.device)
        return [(1 + t[:, None] * rates, leaves["bias0"]), None, (leaves["bias2"], t[:, None].sin() * leaves["bias2"])]

    return film


def context_of(leaves, rows):
    generator = torch.Generator().manual_seed(6)
    return torch.randn(*([4] if rows else []), 2, generator=generator, dtype=torch.float64).to(leaves["x"].device)


# name: (columns of the first weight beside x, options of mlp_flow by the leaves)
OPTIONS = {
    "autonomous": (0, lambda leaves: {}),
    "time": (1, lambda leaves: {}),
    "features": (3, lambda leaves: {"time_features": features}),
    "shared context": (3, lambda leaves: {"context": context_of(leaves, False)}),
    "context": (5, lambda leaves: {"context": context_of(leaves, True), "time_features": features}),
    "film": (0, lambda leaves: {"film": film_of(leaves)}),
    "constant film": (1, lambda leaves: {"film": [(leaves["bias0"], leaves["bias0"]), None, None], "residual": True}),
}


def by_torchdiffeq(leaves, probes, method, times, exact, options):
    def field(t, state):
        now = t.reshape(1)
        given = [options["time_features"](now)[0]] if "time_features" in options else []
        n_others = leaves["weight0"].shape[1] - 3 - sum(part.shape[0] for part in given)
        given += [now] if not given and n_others - ("context" in options) * 2 == 1 else []
        context = torch.cat([*given, leaves["x"].new_zeros(0)]).expand(4, -1)
        if "context" in options:
            context = torch.cat([context, options["context"].expand(4, -1)], 1)
        film = options.get("film")
        film = film(now) if callable(film) else film
        if film is not None:
            film = [pair and tuple(part.reshape(-1) for part in pair) for pair in film]
        value, divergence, norm = cgm_kernels.mlp_divergence(
            state[0],
            *layers(leaves),
            probes=probes,
            exact=exact,
            context=context,
            film=film,
            frobenius=True,
            residual=options.get("residual", False),
        )
        return value, divergence, value.square().sum(1), norm

    zeros = leaves["x"].new_zeros(4)
    grid = torch.tensor(times, dtype=torch.float64)
    with cgm_kernels.use_backend("reference"):
        states = odeint(field, (leaves["x"], zeros, zeros, zeros), grid, method=SOLVERS[method])
    return [state[-1] for state in states]


def layers(leaves):
    return [leaves[f"weight{k}"] for k in range(3)], [leaves[f"bias{k}"] for k in range(3)]


def gradients(results, leaves):
    total = sum((k + 1) * one.sin().sum() for k, one in enumerate(results))
    return torch.autograd.grad(total, list(leaves.values()), materialize_grads=True)


@pytest.mark.parametrize("pair", RUNNING)
@pytest.mark.parametrize("name", OPTIONS)
def test_options(name, pair):
    """Every integral and gradient, in either direction."""
    backend, device = pair
    extra, make = OPTIONS[name]
    leaves = {key: leaf.requires_grad_() for key, leaf in CASE.draw(device=device).items()}
    leaves = wide(leaves, extra)
    options, drawn = make(leaves), CASE.draw_probes(device=device)
    solves = [("rk4_38", TIMES, False), ("midpoint", TIMES[::-1], True), ("euler", TIMES, True)]
    if interpreted(pair):
        method, times, exact = solves[list(OPTIONS).index(name) % 3]
        solves = [(method, times[:3], exact)]
    for method, times, exact in solves:
        probes = None if exact else drawn
        with cgm_kernels.use_backend(backend):
            found = cgm_kernels.mlp_flow(
                leaves["x"], *layers(leaves), times=times, method=method, probes=probes, exact=exact,
                regularizers=True, keep_states=not exact, **options,
            )  # fmt: skip
        expected = by_torchdiffeq(leaves, probes, method, times, exact, options)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)
        for one, other in zip(gradients(found, leaves), gradients(expected, leaves), strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("pair", RUNNING)
def test_what_is_not_asked_for_is_none(pair):
    backend, device = pair
    leaves = {key: leaf.requires_grad_() for key, leaf in CASE.draw(device=device).items()}
    probes, times = CASE.draw_probes(device=device), TIMES[:2] if interpreted(pair) else TIMES
    with cgm_kernels.use_backend(backend):
        whole = cgm_kernels.mlp_flow(leaves["x"], *layers(leaves), times=times, probes=probes, regularizers=True)
        plain = cgm_kernels.mlp_flow(leaves["x"], *layers(leaves), times=times)
        kinetic = cgm_kernels.mlp_flow(leaves["x"], *layers(leaves), times=times, regularizers=True)
        nothing = cgm_kernels.mlp_flow(leaves["x"], *layers(leaves), times=TIMES[:1], probes=probes)
    assert all(one is not None for one in whole)
    assert plain[1:] == (None, None, None) and kinetic.divergence is kinetic.frobenius is None
    torch.testing.assert_close(plain.x, whole.x)
    torch.testing.assert_close(kinetic.kinetic, whole.kinetic)
    assert nothing.x.equal(leaves["x"]) and nothing.divergence.equal(leaves["x"].new_zeros(4))
    weight = leaves["weight1"]
    grads = [torch.autograd.grad(one.x.sin().sum(), weight)[0] for one in (whole, plain, kinetic)]
    torch.testing.assert_close(grads[1], grads[0])
    torch.testing.assert_close(grads[2], grads[0])


@pytest.mark.parametrize("pair", [pair for pair in RUNNING if not interpreted(pair.values[0])])
def test_times_may_be_a_tensor_and_steps_converge(pair):
    """A tensor of times is the list of them; halving the step divides the error by 2 to the order."""
    backend, device = pair
    leaves = CASE.draw(device=device)
    probes, errors = CASE.draw_probes(device=device), {}
    with cgm_kernels.use_backend(backend), torch.no_grad():

        def run(method, n):
            times = torch.linspace(0, 1, n + 1, dtype=torch.float64, device=device)
            return cgm_kernels.mlp_flow(leaves["x"], *layers(leaves), times=times, method=method, probes=probes)

        exact = run("rk4", 32)
        for method, order in (("euler", 1), ("midpoint", 2), ("rk4", 4), ("rk4_38", 4)):
            ends = [run(method, n) for n in (4, 8)]
            for index in (0, 1):
                errors = [(end[index] - exact[index]).abs().max().item() for end in ends]
                assert 0.75 * 2**order < errors[0] / errors[1] < 1.5 * 2**order
        listed = cgm_kernels.mlp_flow(leaves["x"], *layers(leaves), times=[0.0, 0.5, 1.0], probes=probes)
    torch.testing.assert_close(listed[:2], run("rk4", 2)[:2])


@pytest.mark.parametrize("pair", RUNNING)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(dtype, pair):
    backend, device = pair
    leaves, probes = CASE.draw(dtype, device), CASE.draw_probes(dtype, device)
    wider = {name: leaf.double() for name, leaf in leaves.items()}
    with cgm_kernels.use_backend(backend):
        found = cgm_kernels.mlp_flow(leaves["x"], *layers(leaves), times=TIMES, probes=probes)
    with cgm_kernels.use_backend("reference"):
        exact = cgm_kernels.mlp_flow(wider["x"], *layers(wider), times=TIMES, probes=probes.double())
    assert found.x.dtype is dtype and found.divergence.dtype is torch.float32
    for one, other in zip(found[:2], exact[:2], strict=True):
        assert (one.double() - other).abs().max() < 16 * torch.finfo(dtype).eps * other.abs().max()


def test_functions_of_the_time_may_write_to_it():
    times, leaves = [0.0, 0.125, 1.0], wide(CASE.draw(), 1)
    before = cgm_kernels.mlp_flow(leaves["x"], *layers(leaves), times=times).x

    def spoil(t):
        return t.mul_(0.0)[:, None]

    cgm_kernels.mlp_flow(leaves["x"], *layers(leaves), times=times, time_features=spoil)
    film = lambda t: [(spoil(t).expand(-1, 6), leaves["bias0"]), None, None]  # noqa: E731
    cgm_kernels.mlp_flow(leaves["x"], *layers(leaves), times=times, film=film)
    assert torch.equal(cgm_kernels.mlp_flow(leaves["x"], *layers(leaves), times=times).x, before)


def test_stand_ins_for_tensors_are_not_kept():
    times, leaves = [0.0, 0.375, 1.0], wide(CASE.draw(), 1)
    with FakeTensorMode(allow_non_fake_inputs=True):
        cgm_kernels.mlp_flow(leaves["x"], *layers(leaves), times=times)
    assert type(cgm_kernels.mlp_flow(leaves["x"], *layers(leaves), times=times).x) is torch.Tensor


def test_no_step_gives_a_copy():
    leaves = CASE.draw()
    found = cgm_kernels.mlp_flow(leaves["x"], *layers(leaves), times=[0.5], exact=True)
    assert torch.equal(found.x, leaves["x"]) and not found.divergence.any()
    assert found.x.data_ptr() != leaves["x"].data_ptr()
