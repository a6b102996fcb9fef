"""The contenders of the divergence, Runge–Kutta and continuous-flow benchmarks compute the same thing."""

import pytest
import torch

import cgm_kernels
from benchmarks import divergence, models, potential, runge_kutta
from benchmarks.patching import patched


@pytest.fixture(autouse=True)
def as_it_was():
    torch.manual_seed(0)
    yield
    patched("torchdiffeq", False)
    cgm_kernels.set_backend("auto")


CELLS = {
    divergence: ["hutchinson:20x3x16x2", "exact:20x3x16x3"],
    potential: ["divergence:20x3x16", "flow:20x3x16"],
    runge_kutta: [f"{kind}:100" for kind in runge_kutta.KINDS],
    models: ["FFJORD:5x2", "FFJORD_exact:5x2"],
}


@pytest.mark.parametrize(("module", "text"), [(module, text) for module, texts in CELLS.items() for text in texts])
def test_every_contender_agrees_and_runs(module, text):
    cell = module.BENCHMARK.cell(text)
    for mode in module.MODES:
        names = [name for name in module.TITLES if name not in ("triton", "compile")]
        ran = [name for name in names if module.why_not(name, cell, mode, False) is None]
        if "native" in ran and cgm_kernels.backends.absence("native", "cpu"):
            ran.remove("native")
        problem = module.Problem(cell, mode, "cpu")
        for name in ran:
            contender = problem.contender(name)
            if contender.prepare is not None:
                contender.prepare()
            contender.call(0)


def test_a_wrong_divergence_is_found_out(monkeypatch):
    problem = divergence.Problem(divergence.BENCHMARK.cell("exact:20x3x16x2"), "forward_backward", "cpu")
    monkeypatch.setitem(divergence.PEERS, "vjp", lambda *args: [2.0 * part for part in divergence.ours(*args)])
    with pytest.raises(AssertionError, match=r"vjp at .* is off by"):
        problem.contender("vjp")


def test_torchdiffeq_is_patched_for_ours_alone():
    pytest.importorskip("torchdiffeq")
    problem = runge_kutta.Problem({"kind": "dopri5", "n": 100}, "forward", "cpu")
    entrants = [problem.contender(name) for name in ("reference", "eager", "reference")]
    counted = []
    for contender in entrants:
        contender.prepare()
        cgm_kernels.integrations.report(reset=True)
        contender.call(0)
        counted.append(any(row.ours for row in cgm_kernels.integrations.report(reset=True)))
    assert counted == [True, False, True]
