"""The contenders of the divergence, Runge–Kutta and continuous-flow benchmarks compute the same thing."""

import pytest
import torch

import cgm_kernels
from benchmarks import divergence, flow_libraries, models, potential, runge_kutta
from benchmarks.patching import patched


@pytest.fixture(autouse=True)
def as_it_was():
    torch.manual_seed(0)
    yield
    patched("torchdiffeq", False)
    cgm_kernels.set_backend("auto")


CELLS = {
    divergence: ["hutchinson:20x3x16x2", "exact:20x3x16x3", "film:20x3x16x2", "value:20x3x16x2"],
    potential: ["divergence:20x3x16", "flow:20x3x16"],
    runge_kutta: [f"{kind}:100" for kind in runge_kutta.KINDS],
    models: [f"{kind}:5x2" for kind in models.CONTINUOUS_KINDS if kind != "FFJORD_40"],
    flow_libraries: ["zuko_CNF:5x2", "zuko_CNF_estimate:5x2"],
}


@pytest.mark.parametrize(("module", "text"), [(module, text) for module, texts in CELLS.items() for text in texts])
def test_every_contender_agrees_and_runs(module, text):
    cell = module.BENCHMARK.cell(text)
    for mode in module.MODES:
        names = [name for name in module.TITLES if name not in ("triton", "compile", *module.BENCHMARK.cuda_only)]
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


@pytest.mark.parametrize("mode", divergence.MODES)
def test_what_a_graph_of_the_divergence_holds_is_checked_and_runs(monkeypatch, mode):
    monkeypatch.setattr("benchmarks.timing.graphed", lambda call, copies: call)
    problem = divergence.Problem(divergence.BENCHMARK.cell("hutchinson:20x3x16x2"), mode, "cpu")
    for name in ["eager_graph"] + ["native_graph"] * (cgm_kernels.backends.absence("native", "cpu") is None):
        problem.contender(name).call(0)


@pytest.mark.parametrize("text", ["FFJORD:5x2", "FFJORD_exact:5x2"])
def test_what_a_graph_of_a_training_step_holds_runs(monkeypatch, text):
    pytest.importorskip("cgm_models")
    monkeypatch.setattr("benchmarks.timing.graphed", lambda call, copies: call)
    cell = models.BENCHMARK.cell(text)
    problem = models.Problem(cell, "log_prob_backward", "cpu")
    for name in ["eager_graph"] + ["native_graph"] * (cgm_kernels.backends.absence("native", "cpu") is None):
        assert models.why_not(name, cell, "log_prob_backward", False) is None
        problem.contender(name).call(0)
    assert all(parameter.grad is not None for parameter in problem.ours.parameters)
    assert models.why_not("native_graph", cell, "sample", False) is not None


def test_the_density_that_a_graph_holds_draws_fresh_probes_about_the_exact_trace():
    pytest.importorskip("cgm_models")
    problem = models.Problem({"kind": "FFJORD", "n": 6, "d": 3}, "log_prob_backward", "cpu")
    problem.contender("reference").prepare()
    graphed = models.with_state(problem.ours, "cpu")
    with torch.no_grad():
        draws = torch.stack([graphed.log_prob(problem.x) for _ in range(40)])
        exact = problem.ours.module.log_prob(problem.x).mean()
    assert len(draws.unique()) > 1
    assert float((draws.mean() - exact).abs()) <= 5 * float(draws.std()) / 40**0.5 + 1e-3


def test_the_loop_in_pytorch_makes_no_number_a_tensor_in_its_stages(monkeypatch):
    flow = models.PlainFFJORD(models.our_flow("FFJORD", 2).module, 2)
    x, times = torch.randn(5, 2), []

    def rates(t, state):
        times.append(t)
        return flow.divergence(None, state[0], *flow._at(t))

    for name in ("tensor", "as_tensor", "scalar_tensor"):
        monkeypatch.delattr(torch, name)  # each would copy from the host, which waits for a GPU
    flow.solve(rates, (x, x.new_zeros(5)), 1.0, 0.0)
    monkeypatch.undo()
    assert len(times) == 4 * flow.solver.n_steps
    torch.testing.assert_close(torch.stack(times[:4]), torch.tensor([1.0, 1.0 - 0.05 / 3, 1.0 - 0.1 / 3, 0.95]))
