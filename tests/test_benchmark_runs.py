"""Runs of a benchmark that are cut short and gone on with: what is kept, what is measured again, what is said."""

from __future__ import annotations

import dataclasses
import json

import pytest

from benchmarks import __main__ as command
from benchmarks import memory, registry, report, run, targets
from benchmarks.benchmark import DEFERRED, Benchmark, Target
from tests.support.benchmarks import FakeClock, FakeProblem, fake, fake_benchmark

TITLES = {"native": "ours", "native_graph": "graph", "triton": "Triton", "eager": "PyTorch", "compile": "compiled"}
SECONDS = {"native": 1.0, "native_graph": 0.5, "triton": 0.8, "eager": 2.0, "compile": 1.5}


class Problem(FakeProblem):
    def contender(self, name, check=True):
        return fake(name, SECONDS[name] * self.cell["n"])


@pytest.fixture
def measured(monkeypatch):
    """The rows and peaks of memory that were measured, by name, of a benchmark that measures nothing."""
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("benchmarks.plot.draw", lambda result, path: None)
    benchmark = fake_benchmark(
        titles=TITLES, ours=("native", "native_graph"), problem=Problem, why_not=lambda *_: None,
        cuda_only=("native_graph",), memory_cells=[{"n": 1}], available=lambda device: ("native", "native_graph"),
    )  # fmt: skip
    log, row = [], run.row

    def measure(name, method, mode, cell, device):
        log.append(f"memory of {method}")
        return {"method": method, "mode": mode, "cell": cell, "bytes": 1}

    def measure_row(benchmark, cell, mode, *options, **more):
        log.append(f"n = {cell['n']}")
        return row(benchmark, cell, mode, *options, **more)

    monkeypatch.setattr(registry, "find", lambda name: benchmark)
    monkeypatch.setattr(registry, "NAMES", ("fake",))
    monkeypatch.setattr(run.machine, "commit", lambda: "abc")
    monkeypatch.setattr(run.floor, "copy_bandwidth", lambda device: 1.0)
    monkeypatch.setattr(run, "clock_for", lambda device: FakeClock())
    monkeypatch.setattr(run, "row", measure_row)
    monkeypatch.setattr(memory, "measure", measure)
    return log


def measure(folder, *words):
    return command.main(["fake", "--out", str(folder), *words])


def test_no_seconds_are_no_time(measured, tmp_path, capsys):
    assert measure(tmp_path, "--seconds", "0") == 0
    assert measured == []
    assert "time is up: 0 of 2 rows" in capsys.readouterr().out
    assert measure(tmp_path, "--seconds", "1e9") == 0
    assert measured == ["n = 2", "n = 1", "memory of native", "memory of eager"]


def test_a_finished_run_is_not_measured_again(measured, tmp_path):
    measure(tmp_path)
    stored = json.loads((tmp_path / "fake.json").read_text())
    measured.clear()
    assert measure(tmp_path, "--resume") == 0
    assert measured == []
    again = json.loads((tmp_path / "fake.json").read_text())
    assert (again["rows"], again["memory"]) == (stored["rows"], stored["memory"])


def test_rows_and_peaks_of_memory_outlive_a_run_without_time(measured, tmp_path):
    measure(tmp_path)
    whole = json.loads((tmp_path / "fake.json").read_text())
    part = whole | {"rows": whole["rows"][:1], "memory": whole["memory"][:1]}
    (tmp_path / "fake.json").write_text(json.dumps(part))
    measured.clear()
    assert measure(tmp_path, "--resume", "--seconds", "0") == 0
    kept = json.loads((tmp_path / "fake.json").read_text())
    assert measured == []
    assert (len(kept["rows"]), len(kept["memory"])) == (1, 1)
    measure(tmp_path, "--resume")
    assert measured == ["n = 1", "memory of eager"]


def test_headlines_come_first_and_torch_compile_later(measured, tmp_path):
    measure(tmp_path, "--headlines", "--without-compile")
    (row,) = json.loads((tmp_path / "fake.json").read_text())["rows"]
    assert measured == ["n = 2"]
    assert row["contenders"]["compile"] == {"skipped": DEFERRED}
    measured.clear()
    measure(tmp_path, "--resume", "--without-compile", "--headlines")
    assert measured == []
    measure(tmp_path, "--resume")
    rows = json.loads((tmp_path / "fake.json").read_text())["rows"]
    assert measured == ["n = 2", "n = 1", "memory of native", "memory of eager"]
    assert [row["cell"]["n"] for row in rows] == [2, 1]
    assert all("median" in row["contenders"]["compile"] for row in rows)


def test_contenders_and_peaks_of_memory_that_failed_are_measured_again_in_their_place(measured, tmp_path):
    measure(tmp_path)
    whole = json.loads((tmp_path / "fake.json").read_text())
    whole["rows"][0]["contenders"]["native_graph"] = {"skipped": "failed: RuntimeError: out of memory"}
    whole["memory"][0] = {"method": "native", "mode": "run", "cell": {"n": 1}, "skipped": "failed: no output"}
    (tmp_path / "fake.json").write_text(json.dumps(whole))
    measured.clear()
    measure(tmp_path, "--resume")
    assert measured == ["n = 2", "memory of native"]
    again = json.loads((tmp_path / "fake.json").read_text())
    assert [row["cell"]["n"] for row in again["rows"]] == [2, 1]
    assert [(row["method"], row["bytes"]) for row in again["memory"]] == [("native", 1), ("eager", 1)]


def judged(monkeypatch, mine, rows):
    target = Target("five times", "cuda", ("run",), "eager", 5.0, lambda cell: True, mine)
    benchmark = fake_benchmark(titles=TITLES, ours=("native", "native_graph", "triton"), targets=(target,))
    monkeypatch.setattr(registry, "find", lambda name: benchmark)
    stored = [{"cell": {"n": 1}, "mode": "run", "contenders": {}, "speedups": row} for row in rows]
    return {"benchmark": "fake", "settings": {"device": "cuda", "quick": False}, "rows": stored, "memory": []}


def test_a_target_of_several_of_ours_is_judged_by_the_fastest_and_names_it(monkeypatch, capsys):
    def ratio(value):
        return {"eager": {"value": value, "low": value - 0.5}}

    rows = [{"native": ratio(2.0), "triton": ratio(6.0)}, {"native": ratio(4.0), "native_graph": ratio(3.0)}]
    several = judged(monkeypatch, ("native", "native_graph", "triton"), rows)
    assert [(one["mine"], one["low"], one["met"]) for one in targets.check(several)] == [
        ("triton", 5.5, True),
        ("native", 3.5, False),
    ]
    assert "| five times: at least 5× | 2 | 1 | 3.50, ours | 1: 3.50 |" in report.target_table(several)
    assert run.verdict(several) == 1
    said = capsys.readouterr().out
    assert "missed: fake: five times at 1 run: lower bound of ours 3.500, at least 5 wanted" in said
    assert "fake: 1 of 2 targets met" in said
    single = judged(monkeypatch, None, rows[1:])
    assert [(one["mine"], one["low"]) for one in targets.check(single)] == [(None, 3.5)]
    assert [one["low"] for one in targets.check(judged(monkeypatch, "triton", rows[1:]))] == [None]


def test_one_of_ours_that_fails_beside_the_preferred_one_is_said_and_fails_the_run(
    measured, monkeypatch, tmp_path, capsys
):
    def contender(self, name, check=True):
        if name == "native_graph":
            raise RuntimeError("cannot be captured")
        return fake(name, 1.0)

    benchmark = dataclasses.replace(registry.find("fake"), cuda_only=())
    monkeypatch.setattr(registry, "find", lambda name: benchmark)
    monkeypatch.setattr(Problem, "contender", contender)
    assert measure(tmp_path, "--headlines") == 1
    assert "failed: graph at 2, run: failed: RuntimeError: cannot be captured" in capsys.readouterr().out


def test_sizes_added_to_an_earlier_run_say_their_own_commit(measured, monkeypatch, tmp_path):
    measure(tmp_path)
    whole = json.loads((tmp_path / "fake.json").read_text())
    measured.clear()
    monkeypatch.setattr(run.machine, "commit", lambda: "def")
    measure(tmp_path, "--add", "--sizes", "1")
    assert measured == ["n = 1"]
    added = json.loads((tmp_path / "fake.json").read_text())
    assert added["machine"] == whole["machine"] and added["memory"] == whole["memory"]
    assert added["rows"][0] == whole["rows"][0]
    assert added["rows"][1]["source"]["commit"] == "def"
    said = (tmp_path / "fake.md").read_text()
    assert f"commit abc. Measured later ({added['rows'][1]['source']['date'][:10]}, commit def): 1." in said
    with pytest.raises(SystemExit, match="holds no run of these settings"):
        measure(tmp_path / "elsewhere", "--add", "--sizes", "1")


def test_cells_with_an_environment_are_measured_in_a_process_that_begins_with_it(measured, monkeypatch, tmp_path):
    asked = []

    def elsewhere(name, cell, mode, settings, compiled, environment):
        asked.append((cell, environment))

    monkeypatch.setattr(run.apart, "row", elsewhere)
    monkeypatch.setattr(Benchmark, "environment", lambda self, cell: {"A": "1"} if cell["n"] == 2 else {})
    measure(tmp_path)
    assert asked == [({"n": 2}, {"A": "1"})]
    assert measured[:1] == ["n = 1"]
    monkeypatch.setenv("A", "1")
    measured.clear()
    measure(tmp_path)
    assert len(asked) == 1
    assert measured[:2] == ["n = 2", "n = 1"]
