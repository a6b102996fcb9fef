"""torchdiffeq's solvers with and without our kernels."""

import contextlib
import sys

import pytest
import torch
from torch import nn

torchdiffeq = pytest.importorskip("torchdiffeq", reason="torchdiffeq is not installed (pip install torchdiffeq)")

from cgm_kernels import integrations  # noqa: E402
from tests.support.flow_libraries import counts, outcome  # noqa: E402

FIXED = {"rk4": "RK4.integrate", "heun2": "Heun2.integrate", "heun3": "Heun3.integrate"}
STEP, NORM = "_runge_kutta_step", "_compute_error_ratio"
ADAPTIVE = ["dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun"]


@pytest.fixture(autouse=True)
def small_states(request, monkeypatch):
    """Small states take the fused steps, too."""
    from cgm_kernels.integrations.torchdiffeq import LEAST

    if "small" not in request.node.name:
        monkeypatch.setitem(LEAST, "cpu", dict.fromkeys(LEAST["cpu"], 1))


class Field(nn.Module):
    def __init__(self, dim=3, dtype=torch.float64):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(dim + 1, 16), nn.Tanh(), nn.Linear(16, dim)).to(dtype)

    def forward(self, t, y):
        return self.layers(torch.cat((y, t.to(y.dtype).expand(*y.shape[:-1], 1)), -1))


def state(n=40, dim=3, dtype=torch.float64):
    return torch.randn(n, dim, dtype=dtype, generator=torch.Generator().manual_seed(1)).requires_grad_()


def both(call, *inputs, module=None, rtol=1e-10):
    """``call`` with and without the patch gives the same, gradients too; what was counted."""
    module = module or nn.Module()
    plain = outcome(module, call, *inputs)
    counts()
    with integrations.patch("torchdiffeq"):
        patched = outcome(module, call, *inputs)
    rows = counts()
    torch.testing.assert_close(patched, plain, rtol=rtol, atol=rtol)
    torch.testing.assert_close(outcome(module, call, *inputs), plain, rtol=0, atol=0)
    assert not counts()
    return {name.removeprefix("torchdiffeq."): row for name, row in rows.items()}


def only(rows, *names):
    """These ran on our kernels, at every call, and nothing else was called."""
    assert set(rows) == set(names)
    assert all(row.ours > 0 and row.passed_on == 0 for row in rows.values())


@pytest.mark.parametrize("method", FIXED)
@pytest.mark.parametrize("perturb", [False, True])
@pytest.mark.parametrize("backward", [False, True])
def test_fixed_steps(method, perturb, backward):
    field, y = Field(), state()
    t = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64, requires_grad=True)
    times = t.flip(0) if backward else t
    options = {"step_size": 0.1, "perturb": perturb}
    rows = both(lambda m: torchdiffeq.odeint(m, y, times, method=method, options=options), y, t, module=field)
    only(rows, FIXED[method])


@pytest.mark.parametrize("method", ADAPTIVE)
def test_adaptive_steps(method):
    field, y = Field(), state()
    t = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64, requires_grad=True)
    options = {"first_step": 0.05}
    call = lambda m: torchdiffeq.odeint(m, y, t, method=method, rtol=1e-4, atol=1e-5, options=options)  # noqa: E731
    only(both(call, y, t, module=field, rtol=1e-9), STEP, NORM)


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_states_that_are_tuples(method):
    field, y, log = Field(), state(), torch.zeros(40, dtype=torch.float64, requires_grad=True)

    def augmented(t, pair):
        slope = field(t, pair[0])
        return slope, slope.square().sum(-1)

    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    rows = both(lambda m: torchdiffeq.odeint(augmented, (y, log), t, method=method), y, log, module=field)
    if method == "dopri5":
        norm = rows.pop(NORM)
        assert norm.ours == 0 and [*norm.reasons] == ["a norm of one's own, or of a tuple"]
    only(rows, FIXED.get(method, STEP))


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_the_adjoint(method):
    field, y, t = Field(), state(), torch.tensor([0.0, 1.0], dtype=torch.float64)
    options = {"step_size": 0.1} if method == "rk4" else {}
    call = lambda m: torchdiffeq.odeint_adjoint(m, y, t, method=method, options=options)  # noqa: E731
    rows = both(call, y, module=field, rtol=1e-9)
    if method == "dopri5":
        norm = rows.pop(NORM)
        assert norm.ours > 0 and norm.passed_on > 0  # forward, and back with a norm of the adjoint's parts
    only(rows, FIXED.get(method, STEP))


def test_events_steps_and_jumps():
    y, t0 = state(), torch.zeros((), dtype=torch.float64)
    decay = lambda t, y: -y  # noqa: E731
    event = lambda t, y: y.abs().max() - 1.0  # noqa: E731
    only(
        both(lambda m: torchdiffeq.odeint_event(decay, y, t0, event_fn=event, odeint_interface=torchdiffeq.odeint), y),
        STEP,
        NORM,
    )
    for method in FIXED:
        options = {"method": method, "options": {"step_size": 0.1}, "odeint_interface": torchdiffeq.odeint}
        rows = both(lambda m, o=options: torchdiffeq.odeint_event(decay, y, t0, event_fn=event, **o), y)
        only(rows, f"{FIXED[method]}_until_event")
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    options = {"step_t": torch.tensor([0.37]), "jump_t": torch.tensor([0.5])}
    jump = lambda t, y: torch.where(t < 0.5, -y, y)  # noqa: E731
    only(both(lambda m: torchdiffeq.odeint(jump, y, times, options=options), y), STEP, NORM)


def test_single_precision_with_times_in_double():
    y, field = state(dtype=torch.float32), Field(dtype=torch.float32)
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    only(both(lambda m: torchdiffeq.odeint(m, y, t, method="dopri5"), y, module=field, rtol=1e-4), STEP, NORM)
    call = lambda m: torchdiffeq.odeint(m, y, t, method="rk4", options={"step_size": 0.1})  # noqa: E731
    only(both(call, y, module=field, rtol=1e-5), FIXED["rk4"])


def test_a_field_that_is_broadcast():
    y, t = state(), torch.tensor([0.0, 1.0], dtype=torch.float64)
    constant = lambda t, y: y.new_full((3,), 2.0)  # noqa: E731
    only(both(lambda m: torchdiffeq.odeint(constant, y, t, method="rk4"), y), FIXED["rk4"])


@pytest.mark.parametrize("method", ADAPTIVE)
def test_a_field_that_writes_all_its_slopes_to_one_tensor(method):
    y, t = state().detach(), torch.tensor([0.0, 1.0], dtype=torch.float64)
    slope = torch.empty_like(y)
    solve = lambda m: torchdiffeq.odeint(lambda t, y: torch.sin(y, out=slope), y, t, method=method, rtol=1e-4)  # noqa: E731
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            only(both(solve, rtol=1e-6), STEP, NORM)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_slopes_of_another_dtype_take_the_state_s(dtype):
    y, t, weight = state(dtype=torch.float32), torch.tensor([0.0, 1.0]), torch.eye(3)
    field = lambda t, y: -(y @ weight).to(dtype)  # noqa: E731
    solve = lambda m: torchdiffeq.odeint(field, y, t, method="dopri5", rtol=1e-3, options={"first_step": 0.1})  # noqa: E731
    for inputs in ((y,), ()):
        with torch.set_grad_enabled(bool(inputs)):
            step = both(solve, *inputs, rtol=1e-5)[STEP]
        assert step.ours >= 1 >= step.passed_on  # the first, whose slope is the field's own


def test_tolerances_without_bound_are_torchdiffeq_s():
    y, t = state().detach(), torch.tensor([0.0, 1.0], dtype=torch.float64)
    rows = both(lambda m: torchdiffeq.odeint(lambda t, y: -y, y, t, atol=float("inf")))
    assert rows[NORM].ours == 0 and [*rows[NORM].reasons] == ["tolerances that are negative or infinite"]


@pytest.mark.parametrize("case", ["small", "complex", "half"])
def test_what_is_passed_on(case):
    y = {"small": state(4), "complex": (state().detach() * 1j).requires_grad_(), "half": state(dtype=torch.float16)}[
        case
    ]
    t = torch.tensor([0.0, 1.0], dtype=y.real.dtype if case == "complex" else y.dtype)
    (row,) = both(lambda m: torchdiffeq.odeint(lambda t, y: -y, y, t, method="rk4").real, y).values()
    assert row.ours == 0 and row.passed_on > 0


@pytest.mark.parametrize("method", FIXED)
def test_small_states_cost_nothing_a_step(method):
    """They are looked at once a solve, after which the steps are torchdiffeq's own."""
    from torchdiffeq._impl import fixed_grid

    y, t = state(4).detach(), torch.linspace(0.0, 1.0, 21, dtype=torch.float64)
    solver = getattr(fixed_grid, method.upper() if method == "rk4" else method.capitalize())
    own, seen = solver._step_func, []

    def field(t, y):
        frame = sys._getframe()
        while frame is not None and frame.f_code is not own.__code__:
            frame = frame.f_back
        seen.append(frame is not None)
        return -y

    (row,) = both(lambda m: torchdiffeq.odeint(field, y, t, method=method)).values()
    assert row == integrations.Calls(f"torchdiffeq.{FIXED[method]}", 0, 1, {"a small state": 1})
    assert all(seen)


def test_states_of_another_device_are_torchdiffeqs(monkeypatch):
    """Where it has not been measured that fused steps gain."""
    from cgm_kernels.integrations.torchdiffeq import LEAST

    monkeypatch.delitem(LEAST, "cpu")
    y, t = state(), torch.tensor([0.0, 0.5], dtype=torch.float64)
    for method, name in {"rk4": FIXED["rk4"], "dopri5": STEP}.items():
        row = both(lambda m, method=method: torchdiffeq.odeint(lambda t, y: -y, y, t, method=method), y)[name]
        assert row.ours == 0 and [*row.reasons] == ["not measured on cpu"]


def test_a_solver_derived_from_torchdiffeqs_keeps_its_own_steps():
    from torchdiffeq._impl.fixed_grid import RK4

    class Other(RK4):
        pass

    solver = Other(lambda t, y, perturb=None: -y, state().detach(), rtol=0.0, atol=0.0)
    solver.func.callback_step = lambda *args: None
    t = torch.tensor([0.0, 0.5], dtype=torch.float64)
    (row,) = both(lambda m: solver.integrate(t)).values()
    assert row.ours == 0 and [*row.reasons] == ["a subclass"]
    assert "_step_func" not in vars(solver)


@pytest.mark.parametrize("case", ["tolerances", "norm", "inf", "nan"])
def test_the_error_norm(case):
    """Tolerances of each element and other norms are torchdiffeq's; what is not finite ends as it does there."""
    y, t = state().detach(), torch.tensor([0.0, 0.5], dtype=torch.float64)
    given = {"rtol": 1e-4, "atol": 1e-5}
    if case == "tolerances":
        given["rtol"] = torch.full(y.shape, 1e-4, dtype=torch.float64)
    if case == "norm":
        given["options"] = {"norm": lambda e: e.abs().max()}
    if case in ("tolerances", "norm"):
        rows = both(lambda m: torchdiffeq.odeint(lambda t, y: -y * y.square(), y, t, **given))
        assert rows[NORM].ours == 0 < rows[NORM].passed_on
        return
    number, messages = float(case), []
    for on in (False, True):
        patch = integrations.patch("torchdiffeq") if on else contextlib.nullcontext()
        with patch, pytest.raises(AssertionError) as error:
            torchdiffeq.odeint(lambda t, y: torch.where(t > 0.2, number, -y), y, t, **given)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_a_tableau_of_ones_own():
    """A solver derived from torchdiffeq's with another tableau has its own numbers read."""
    from torchdiffeq._impl.bosh3 import Bosh3Solver
    from torchdiffeq._impl.odeint import SOLVERS

    class Other(Bosh3Solver):
        tableau = Bosh3Solver.tableau._replace(c_sol=Bosh3Solver.tableau.c_sol.flip(0))

    SOLVERS["other"] = Other
    try:
        y, t = state(), torch.tensor([0.0, 0.2], dtype=torch.float64)
        options = {"first_step": 0.1, "min_step": 0.1}
        call = lambda m: torchdiffeq.odeint(lambda t, y: -y, y, t, method="other", options=options)  # noqa: E731
        only(both(call, y), STEP, NORM)
    finally:
        del SOLVERS["other"]


@pytest.mark.parametrize("method", ADAPTIVE)
def test_slopes_of_another_shape_are_refused_as_before(method):
    y, times = state(5, 2), torch.tensor([0.0, 1.0], dtype=torch.float64)
    refused = pytest.raises(RuntimeError, match="is invalid for input of size")
    for gradient in (True, False):
        with torch.set_grad_enabled(gradient), integrations.patch("torchdiffeq"), refused:
            torchdiffeq.odeint(lambda t, y: y[:, :1], y, times, method=method)
