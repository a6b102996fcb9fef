"""torchdiffeq's solvers with and without our kernels."""

import pytest
import torch
from torch import nn

torchdiffeq = pytest.importorskip("torchdiffeq", reason="torchdiffeq is not installed (pip install torchdiffeq)")

from cgm_kernels import integrations  # noqa: E402
from tests.support.flow_libraries import counts, outcome  # noqa: E402

FIXED = {"rk4": "rk4_alt_step_func", "heun2": "rk2_step_func", "heun3": "rk3_step_func"}
ADAPTIVE = ["dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun"]


@pytest.fixture(autouse=True)
def small_states(request, monkeypatch):
    """Small states take the fused steps, too."""
    from cgm_kernels.integrations.torchdiffeq import LEAST

    if "small" not in request.node.name:
        for name in LEAST:
            monkeypatch.setitem(LEAST, name, 1)


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
    return {name.rpartition(".")[2]: row for name, row in rows.items()}


def only(rows, name):
    (found,) = rows
    assert found == name and rows[name].ours > 0 and rows[name].passed_on == 0


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
    only(both(call, y, t, module=field, rtol=1e-9), "_runge_kutta_step")


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_states_that_are_tuples(method):
    field, y, log = Field(), state(), torch.zeros(40, dtype=torch.float64, requires_grad=True)

    def augmented(t, pair):
        slope = field(t, pair[0])
        return slope, slope.square().sum(-1)

    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    rows = both(lambda m: torchdiffeq.odeint(augmented, (y, log), t, method=method), y, log, module=field)
    only(rows, "rk4_alt_step_func" if method == "rk4" else "_runge_kutta_step")


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_the_adjoint(method):
    field, y, t = Field(), state(), torch.tensor([0.0, 1.0], dtype=torch.float64)
    options = {"step_size": 0.1} if method == "rk4" else {}
    call = lambda m: torchdiffeq.odeint_adjoint(m, y, t, method=method, options=options)  # noqa: E731
    only(both(call, y, module=field, rtol=1e-9), FIXED.get(method, "_runge_kutta_step"))


def test_events_steps_and_jumps():
    y, t0 = state(), torch.zeros((), dtype=torch.float64)
    decay = lambda t, y: -y  # noqa: E731
    event = lambda t, y: y.abs().max() - 1.0  # noqa: E731
    only(
        both(lambda m: torchdiffeq.odeint_event(decay, y, t0, event_fn=event, odeint_interface=torchdiffeq.odeint), y),
        "_runge_kutta_step",
    )
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    options = {"step_t": torch.tensor([0.37]), "jump_t": torch.tensor([0.5])}
    jump = lambda t, y: torch.where(t < 0.5, -y, y)  # noqa: E731
    only(both(lambda m: torchdiffeq.odeint(jump, y, times, options=options), y), "_runge_kutta_step")


def test_single_precision_with_times_in_double():
    y, field = state(dtype=torch.float32), Field(dtype=torch.float32)
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    only(both(lambda m: torchdiffeq.odeint(m, y, t, method="dopri5"), y, module=field, rtol=1e-4), "_runge_kutta_step")
    call = lambda m: torchdiffeq.odeint(m, y, t, method="rk4", options={"step_size": 0.1})  # noqa: E731
    only(both(call, y, module=field, rtol=1e-5), FIXED["rk4"])


def test_a_field_that_is_broadcast():
    y, t = state(), torch.tensor([0.0, 1.0], dtype=torch.float64)
    constant = lambda t, y: y.new_full((3,), 2.0)  # noqa: E731
    only(both(lambda m: torchdiffeq.odeint(constant, y, t, method="rk4"), y), FIXED["rk4"])


@pytest.mark.parametrize("case", ["small", "complex", "half"])
def test_what_is_passed_on(case):
    y = {"small": state(4), "complex": (state().detach() * 1j).requires_grad_(), "half": state(dtype=torch.float16)}[
        case
    ]
    t = torch.tensor([0.0, 1.0], dtype=y.real.dtype if case == "complex" else y.dtype)
    (row,) = both(lambda m: torchdiffeq.odeint(lambda t, y: -y, y, t, method="rk4").real, y).values()
    assert row.ours == 0 and row.passed_on > 0


def test_small_states_are_counted_however_a_step_is_called():
    from torchdiffeq._impl import rk_common

    y, t = state(4).detach(), torch.tensor([0.0, 0.1], dtype=torch.float64)
    field = lambda t, y, perturb=None: -y  # noqa: E731
    expected = rk_common.rk4_alt_step_func(field, t[0], t[1], t[1], y)
    counts()
    with integrations.patch("torchdiffeq"):
        for found in (
            rk_common.rk4_alt_step_func(field, t[0], t[1], t[1], y, f0=-y),
            rk_common.rk4_alt_step_func(field, t0=t[0], dt=t[1], t1=t[1], y0=y),
        ):
            torch.testing.assert_close(found, expected, rtol=0, atol=0)
        with pytest.raises(TypeError, match="y0"):
            rk_common.rk4_alt_step_func(field, t[0], t[1], t[1])
    (row,) = counts().values()
    assert row == integrations.Calls(
        "torchdiffeq.rk4_alt_step_func", 0, 3, {"a small state": 2, "arguments of no such call": 1}
    )


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
        only(both(call, y), "_runge_kutta_step")
    finally:
        del SOLVERS["other"]
