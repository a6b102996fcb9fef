"""What every benchmark fulfils, and what the harness makes of its description: contenders, targets, tables, plots."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import (
    apart,
    coupling,
    flow_peers,
    machine,
    masked_inverse,
    models,
    plot,
    readme,
    registry,
    report,
    run,
    suite,
    targets,
)
from benchmarks.benchmark import compiled_backends
from tests.support.benchmarks import FakeClock, fake_benchmark, result_with

SETTINGS = {"device": "cpu", "backends": ["native"], "plan": vars(suite.QUICK), "quick": True}


def test_every_benchmark_is_complete_and_its_cells_have_titles():
    for name in registry.NAMES:
        benchmark = registry.find(name)
        assert benchmark.name == name
        assert {*benchmark.ours, *benchmark.floors, *benchmark.cuda_only, benchmark.baseline} <= set(benchmark.titles)
        assert set(benchmark.available("cpu")) <= set(benchmark.ours)
        names = {*(("kind",) if benchmark.kinds else ()), *benchmark.sizes}
        for cell in [*benchmark.grid, *benchmark.quick_grid, *benchmark.headlines, *benchmark.memory_cells]:
            assert set(cell) == names
            kind, sizes = cell.get("kind", ""), [str(cell[size]) for size in benchmark.sizes]
            assert benchmark.cell(":".join([kind, "x".join(sizes)]) if kind else "x".join(sizes)) == cell
            assert benchmark.describe(cell)
        assert all(cell in benchmark.grid for cell in benchmark.headlines)
        assert all(set(target.modes) <= set(benchmark.modes) for target in benchmark.targets)
        assert all(target.other in benchmark.titles for target in benchmark.targets)
    with pytest.raises(ValueError, match="a benchmark is one of sliced_ot, coupling"):
        registry.find("nothing")


@pytest.mark.parametrize(
    "text, message",
    [("16", "a size is nxd"), ("16x0", "a size is nxd"), ("16xd", "a size"), ("cubic:16x2", "got 'cubic'")],
)
def test_a_size_that_cannot_be_read_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        coupling.BENCHMARK.cell(text)
    assert coupling.BENCHMARK.cell("16x2") == {"kind": "exp", "n": 16, "d": 2}
    assert coupling.BENCHMARK.cell("event:16x2") == {"kind": "event", "n": 16, "d": 2}


@pytest.mark.parametrize("mode", coupling.MODES)
@pytest.mark.parametrize("kind", coupling.KINDS)
def test_every_coupling_contender_computes_what_pytorch_does(kind, mode):
    cell = {"kind": kind, "n": 33, "d": 6}
    for name in ("native", "reference", "eager", "floor_copy"):
        if name == "native" and name not in compiled_backends("cpu"):
            continue
        problem = coupling.Problem(cell, mode, "cpu")
        problem.contender(name).call(0)
        problem.contender("eager").prepare()


@pytest.mark.parametrize("mode", masked_inverse.MODES)
@pytest.mark.parametrize("kind", masked_inverse.KINDS)
def test_every_contender_of_the_masked_inverse_computes_what_pytorch_does(kind, mode):
    problem = masked_inverse.Problem({"kind": kind, "n": 33, "d": 6}, mode, "cpu")
    for name in (*compiled_backends("cpu"), "reference", "eager", "floor_gemm"):
        problem.contender(name).call(0)
    problem.contender("eager").prepare()


def test_a_wrong_masked_inverse_is_found_out(monkeypatch):
    right = masked_inverse.ours
    monkeypatch.setattr(masked_inverse, "ours", lambda *inputs: (right(*inputs)[0] * 1.001, right(*inputs)[1]))
    problem = masked_inverse.Problem({"kind": "affine", "n": 33, "d": 6}, "forward", "cpu")
    with pytest.raises(AssertionError, match=r"reference at .* is off by"):
        problem.contender("reference")
    problem.contender("eager").prepare()


@pytest.mark.parametrize("mode", coupling.MODES)
def test_a_coupling_with_a_wrong_log_determinant_is_found_out(monkeypatch, mode):
    def wrong(x, s, t):
        y, log_det = coupling.eager_exp(x, s, t)
        return y, 1.001 * log_det

    monkeypatch.setitem(coupling.OUR_CALLS, "exp", wrong)
    problem = coupling.Problem({"kind": "exp", "n": 33, "d": 6}, mode, "cpu")
    with pytest.raises(AssertionError, match="is off by"):
        problem.contender("reference")
    problem.contender("eager").prepare()


@pytest.mark.parametrize("mode", models.MODES)
@pytest.mark.parametrize("kind", flow_peers.LAYERS)
def test_the_plain_flow_has_our_numbers_and_every_library_our_size(kind, mode):
    pytest.importorskip("cgm_models")
    problem = models.Problem({"kind": kind, "n": 5, "d": 4}, mode, "cpu")
    for name in ("reference", "eager", *flow_peers.LIBRARIES, "floor_gemm"):
        if models.why_not(name, problem.cell, mode, quick=False) is None:
            problem.contender(name).call(0)
    problem.contender("eager").prepare()
    if mode == "log_prob_backward":
        assert all(parameter.grad is not None for parameter in problem.ours.parameters)


def test_a_plain_flow_with_other_numbers_and_a_larger_library_are_found_out(monkeypatch):
    pytest.importorskip("cgm_models")
    problem = models.Problem({"kind": "RealNVP", "n": 5, "d": 4}, "sample", "cpu")
    larger = flow_peers.FlowModel(torch.nn.Linear(3, 3), None, None)
    monkeypatch.setitem(flow_peers.LIBRARIES, "zuko", lambda kind, dim: larger)
    with pytest.raises(AssertionError, match="RealNVP of zuko has 12 parameters"):
        problem.contender("zuko")
    plain = models.PLAIN["RealNVP"]
    monkeypatch.setattr(plain, "push", lambda self, z: 1.01 * z)
    with pytest.raises(AssertionError, match="not close"):
        problem.contender("eager")


def test_planar_and_radial_layers_of_normflows_are_ours_in_other_parameters():
    flows = pytest.importorskip("normflows").flows
    ours = pytest.importorskip("cgm_models.flows")
    torch.manual_seed(0)
    z = torch.randn(7, 3)
    planar, radial = (flow(dim=3, n_layers=1).transform.layers[0] for flow in (ours.PlanarFlow, ours.RadialFlow))
    for parameter in (*planar.parameters(), *radial.parameters()):
        torch.nn.init.normal_(parameter)
    w, u, b = planar._conditioned(None)
    along = (w * u).sum()
    free = u + ((along + 1).expm1().log() - along) * w / w.square().sum()  # which normflows takes back to u
    center, alpha, gamma = radial._conditioned(None)
    theirs = flows.Planar((3,), u=free[None], w=w[None], b=b[None]), flows.Radial((3,), z_0=center[None])
    theirs[1].alpha.data.fill_(alpha)
    theirs[1].beta.data.fill_((alpha * (1 + gamma)).expm1().log())
    for mine, other in zip((planar, radial), theirs, strict=True):
        for found, wanted in zip(mine(z), other(z), strict=True):
            torch.testing.assert_close(found, wanted)


def test_a_row_is_measured_in_a_process_that_keeps_its_heap(tmp_path):
    pytest.importorskip("matplotlib")
    words = ["coupling", "--quick", "--sizes", "exp_kept:16x2", "--modes", "forward", "--out", str(tmp_path)]
    assert command.main(words) == 0
    (row,) = json.loads((tmp_path / "coupling_quick.json").read_text())["rows"]
    assert row["cell"] == {"kind": "exp_kept", "n": 16, "d": 2}
    assert row["speedups"]
    cell = {"kind": "exp_kept", "n": 16, "d": 2}
    with pytest.raises(RuntimeError, match="KeyError"):
        apart.row("coupling", cell, "forward", {"device": "cpu"}, False, coupling.HEAP_KEPT)


def test_contenders_that_do_not_run_carry_the_reason_and_wrong_ones_stop_the_run():
    found = {one.name: one.skipped for one in fake_benchmark().entrants({"n": 3}, "run", "cpu", ("native",), False)}
    assert found == {"native": None, "eager": None, "broken": "failed: RuntimeError: no compiler", "left": "too slow"}
    with pytest.raises(AssertionError, match="another number"):
        fake_benchmark(titles={"native": "ours", "wrong": "wrong"}).entrants({"n": 3}, "run", "cpu", ("native",), False)
    with pytest.raises(RuntimeError):  # a baseline that fails is no result
        fake_benchmark(baseline="broken").entrants({"n": 3}, "run", "cpu", ("native",), False)


def test_a_cell_where_ours_does_not_run_is_left_out_with_the_reason(capsys):
    absent = fake_benchmark(why_not=lambda name, cell, mode, quick: "not written" if name == "native" else None)
    assert run.row(absent, {"n": 3}, "run", SETTINGS) is None
    assert "left out: not written" in capsys.readouterr().out


def test_a_new_benchmark_is_judged_reported_and_drawn_by_its_description_alone(monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    benchmark = fake_benchmark()
    monkeypatch.setattr(registry, "find", lambda name: benchmark)
    monkeypatch.setattr(run, "clock_for", lambda device: FakeClock())
    rows = [run.row(benchmark, cell, "run", SETTINGS) for cell in benchmark.grid]
    result = {"benchmark": "fake", "machine": machine.facts("cpu"), "settings": SETTINGS, "memory": [], "rows": rows}
    assert [verdict["met"] for verdict in targets.check(result)] == [True, True]
    text = report.markdown(result)
    assert "| PyTorch | 4000 ms (2.00× [2.00, 2.00], 3 pairs) |" in text
    assert "| 1 | run | 1000 ms | 3 | 2000 ms (2.00× [2.00, 2.00]) | – | – | met |" in text
    assert "![time against n](fake_quick.png)" in text
    assert plot.draw(result, tmp_path / "fake.png").stat().st_size > 10_000
    assert plot.draw(result | {"rows": rows[:1]}, tmp_path / "one.png") is None


def test_the_plot_takes_the_cells_that_differ_in_the_axis_alone():
    cells = [("exp", 1, 64), ("exp", 2, 64), ("tanh", 1, 64), ("tanh", 2, 64), ("exp", 1, 2)]
    rows = [{"cell": {"kind": kind, "n": n, "d": d}, "mode": "forward"} for kind, n, d in cells]
    found = report.curve_rows({"benchmark": "coupling", "rows": list(reversed(rows))})
    assert [row["cell"] for row in found] == [row["cell"] for row in rows[:2]]


def test_the_stored_results_can_be_read_judged_and_rendered():
    for path in report.RESULTS.glob("*/*.json"):
        if path.stem not in registry.NAMES:
            continue
        result = json.loads(path.read_text())
        assert report.markdown(result).startswith(f"# Benchmark of {path.stem}")
        assert targets.check(result)
        assert f"and peak memory: [{path.stem}.md]" in readme.tables(path.stem)


def test_all_full_runs_are_put_into_the_readme(monkeypatch, tmp_path, capsys):
    result = result_with({"forward": (9, 90), "forward_backward": (6, 30)})
    report.write(result, tmp_path / "results" / "device")
    page = tmp_path / "README.md"
    page.write_text("<!-- benchmark:sliced_ot -->\n<!-- /benchmark:sliced_ot -->\n")
    assert command.fill(page, tmp_path / "results") == 0
    assert "9.00× [9.00, 9.00]" in page.read_text()
    assert "no full run of coupling" in capsys.readouterr().err
    page.write_text("no markers")
    assert command.fill(page, tmp_path / "results") == 1
    assert command.fill(page, tmp_path / "nothing") == 1
