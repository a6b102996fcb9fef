"""The benchmark harness: statistics, interleaving, floors, reports, targets, and one tiny run of the command."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import floor, machine, memory, readme, report, sliced_ot, suite, targets, timing
from benchmarks.benchmark import compiled_backends
from benchmarks.statistics import paired_ratio, spread
from tests.support.benchmarks import FakeClock, fake, result_with

ROOT = Path(__file__).resolve().parent.parent


def test_paired_ratio_of_a_constant_speedup_is_exact_under_common_noise():
    noise = np.exp(np.random.default_rng(0).normal(size=40))  # the machine's state, shared within a round
    ratio = paired_ratio(3 * noise, noise)
    assert (ratio.value, ratio.low, ratio.high, ratio.pairs) == pytest.approx((3, 3, 3, 40))
    assert ratio.of_medians == pytest.approx(3)


def test_paired_ratio_interval_covers_the_true_median_about_95_percent_of_the_time():
    generator, covered = np.random.default_rng(1), 0
    for _ in range(200):
        other, ours = 2 * np.exp(generator.normal(0, 0.3, 30)), np.exp(generator.normal(0, 0.3, 30))
        ratio = paired_ratio(other, ours, resamples=500)
        assert ratio.low <= ratio.value <= ratio.high
        covered += ratio.low <= 2 <= ratio.high
    assert 180 <= covered <= 200


@pytest.mark.parametrize("other, ours", [([], []), ([1.0], [1.0, 2.0]), ([0.0], [1.0]), ([1.0], [-1.0])])
def test_paired_ratio_refuses_series_that_are_no_pairs_of_times(other, ours):
    with pytest.raises(ValueError, match="other and ours must be"):
        paired_ratio(other, ours)


def test_spread_gives_the_quartiles():
    assert spread([4, 1, 3, 2, 5]) == (2, 3, 4)


@pytest.mark.parametrize("rounds", [1, 7, 30])
def test_a_contender_takes_part_in_exactly_its_own_number_of_rounds(rounds):
    for own in range(1, rounds + 1):
        assert sum(timing.takes_part(index, rounds, own) for index in range(rounds)) == own
    assert all(timing.takes_part(index, rounds, None) for index in range(rounds))


def test_samples_of_short_calls_last_a_millisecond():
    for seconds in (1e-6, 3e-5, 2e-3, 0.5):
        found, calls = timing.warm_up(fake("a", seconds), FakeClock())
        assert found == pytest.approx(seconds)
        assert calls * seconds >= timing.SAMPLE_SECONDS
        assert calls == 1 or calls * seconds < 4 * timing.SAMPLE_SECONDS


def test_rounds_interleave_in_changing_order():
    clock, prepared = FakeClock(), []
    entrants = [fake(name, 1.0) for name in "abc"]
    entrants[0].prepare = lambda: prepared.append(len(clock.log))
    entrants[2].rounds = 4
    series = timing.interleave(entrants, {"a": 1, "b": 2, "c": 1}, 12, clock)
    assert [len(series[name].seconds) for name in "abc"] == [12, 12, 4]
    assert len(prepared) == 12
    assert all(clock.log[position][0] == "a" for position in prepared)
    orders = {tuple(name for name, _, _ in clock.log if name != "c")[2 * i : 2 * i + 2] for i in range(12)}
    assert orders == {("a", "b"), ("b", "a")}
    assert series["b"].seconds == [1.0] * 12  # a mean over its two calls


def test_garbage_collection_is_off_only_during_the_rounds():
    import gc

    seen = []
    one = timing.Contender("a", call=lambda index: seen.append(gc.isenabled()))
    timing.interleave([one], {"a": 1}, 2, timing.CpuClock())
    assert seen == [False, False]
    assert gc.isenabled()


def test_cycles_of_a_contender_are_collected_between_samples():
    alive = []

    class Cycle:
        def __init__(self):
            self.own = self

    def call(index):
        alive.append(weakref.ref(Cycle()))
        assert sum(one() is not None for one in alive) <= 1

    timing.interleave([timing.Contender("leaking", call=call)], {"leaking": 1}, 5, timing.CpuClock())
    assert len(alive) == 5


def test_only_common_rounds_are_paired():
    one, other = timing.Series(1, [0, 1, 2], [1.0, 2.0, 3.0]), timing.Series(1, [0, 2], [10.0, 30.0])
    assert timing.common_rounds(one, other) == ([1.0, 3.0], [10.0, 30.0])


def test_a_plan_keeps_thirty_pairs_below_a_second_a_call_and_at_the_headline():
    plan = suite.Plan()
    assert [plan.rounds(seconds) for seconds in (1e-6, 0.05, 0.5, 1.0)] == [100, 40, 30, 30]
    assert [plan.rounds(seconds) for seconds in (2.0, 100.0)] == [15, 7]
    assert plan.rounds(5.0, full=True) == 30


def test_measure_compares_ours_with_each_other_contender():
    entrants = [fake("native", 0.1), fake("eager", 0.4), fake("pot", 3.0), timing.Contender("compile", skipped="why")]
    row = suite.measure(entrants, ["native"], "eager", suite.Plan(), FakeClock())
    assert row["rounds"] == 30
    assert row["contenders"]["compile"] == {"skipped": "why"}
    assert row["contenders"]["native"]["seconds"] == [0.1] * 30
    speedups = row["speedups"]["native"]
    assert speedups["eager"]["low"] == pytest.approx(4)
    assert speedups["pot"]["value"] == pytest.approx(30)
    assert speedups["pot"]["pairs"] == 10


def test_packed_keys_sort_as_the_floats_and_carry_the_index():
    keys = torch.tensor([[0.5, -1.0, 0.0, float("inf"), -3e-40, -float("inf"), 2.0]])
    order = np.sort(floor.packed(keys), axis=-1) & 0xFFFFFFFF
    assert torch.equal(torch.from_numpy(order), keys.argsort(-1))


@pytest.mark.parametrize("threads, rows", [(1, 3), (2, 1), (2, 60)])
def test_the_sort_floor_sorts_all_rows_each_time(threads, rows):
    source = np.random.default_rng(0).normal(size=(rows, 1000)).astype(np.float32)
    sorted_buffers = []
    original = floor._sort

    def spy(one, buffer):
        original(one, buffer)
        sorted_buffers.append((one, buffer))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(floor, "_sort", spy)
        call = floor.sort_call([source, source.astype(np.float64)], threads)
        call(0)
    assert sum(len(one) for one, _ in sorted_buffers) == 2 * rows
    assert all(np.array_equal(np.sort(one, -1), buffer) for one, buffer in sorted_buffers)


@pytest.mark.parametrize("mode", sliced_ot.MODES)
@pytest.mark.parametrize("name", ["native", "reference", "pot", "floor_sort", "floor_gemm"])
def test_every_contender_computes_what_pytorch_does(name, mode):
    if name == "native" and "native" not in compiled_backends("cpu"):
        pytest.skip("the extension is not built")
    if name == "pot":
        pytest.importorskip("ot")
    problem = sliced_ot.Problem({"n": 50, "d": 3, "n_projections": 4}, mode, "cpu")
    try:
        problem.contender(name).call(0)
    finally:
        problem.contender("eager").prepare()


def test_a_wrong_contender_is_found_out(monkeypatch):
    monkeypatch.setattr(sliced_ot, "ours", lambda x, y, projections: 1.01 * sliced_ot.eager(x, y, projections))
    problem = sliced_ot.Problem({"n": 50, "d": 3, "n_projections": 4}, "forward", "cpu")
    with pytest.raises(AssertionError):
        problem.contender("reference")
    problem.contender("eager").prepare()


def test_the_grid_holds_the_sizes_that_must_not_be_slower():
    sizes = {tuple(cell.values()) for cell in sliced_ot.GRID}
    assert len(sizes) == 45
    assert tuple(sliced_ot.HEADLINE.values()) in sizes


def test_targets_pass_by_the_lower_bound():
    met = targets.check(result_with({"forward": (9, 90), "forward_backward": (6, 30)}))
    assert len(met) == 5
    assert all(verdict["met"] for verdict in met)
    result = result_with({"forward": (7.9, 90), "forward_backward": (0.9, 19)})
    missed = targets.check(result)
    assert [verdict["met"] for verdict in missed] == [False, False, False, True, False]
    assert "forward, PyTorch ≥ 8×: 0 of 1, lowest 7.90 (missed: 10,000, 64, 500: 7.90)" in readme.goals(result)
    assert "1 of 2, lowest 0.90 (missed: 10,000, 64, 500, forward + backward: 0.90)." in readme.goals(result)
    assert "| **missed**: forward, PyTorch ≥ 8× |" in report.markdown(result)


def test_a_result_is_written_read_and_put_into_a_readme(tmp_path):
    result = result_with({"forward": (9, 90), "forward_backward": (6, 30)})
    path = report.write(result, tmp_path / "device")
    assert json.loads(path.read_text()) == json.loads(json.dumps(result))
    table = readme.tables("sliced_ot", tmp_path)
    heads, _, forward, both = (line for line in table.splitlines() if line.startswith("|"))
    assert heads == "| n, d, directions |  | ours | PyTorch eager | POT | floor / ours |"
    assert forward == "| 10,000, 64, 500 | forward | 10 ms | 9.00× [9.00, 9.00] | 90.00× [90.00, 90.00] | 0.30 |"
    assert both.startswith("| 10,000, 64, 500 | forward + backward | ")
    assert "never slower than PyTorch ≥ 0.95×: 2 of 2, lowest 6.00" in table
    text = "before\n<!-- benchmark:sliced_ot -->\nold\n<!-- /benchmark:sliced_ot -->\nafter\n"
    once = readme.insert(text, "sliced_ot", table)
    assert "old" not in once
    assert once.startswith("before\n")
    assert once.endswith("after\n")
    assert readme.insert(once, "sliced_ot", table) == once
    with pytest.raises(ValueError, match="once each"):
        readme.insert("no markers", "sliced_ot", table)


def test_units_are_readable():
    assert [report.milliseconds(value) for value in (1.5, 0.0123, 4.2e-5)] == ["1500 ms", "12.3 ms", "42 µs"]


def test_sizes_are_read_from_the_command_line():
    chosen = command.parse(["sliced_ot", "--sizes", "16x2x1", "--modes", "forward"])
    assert chosen.sizes == [{"n": 16, "d": 2, "n_projections": 1}]
    with pytest.raises(SystemExit):
        command.parse(["sliced_ot", "--sizes", "16x2"])


def test_rows_of_an_earlier_run_are_kept_only_when_it_was_the_same(tmp_path):
    facts = {"device": "cpu", "torch": "2.13.0", "threads": 2, "commit": "abc", "date": "today"}
    result = {"benchmark": "sliced_ot", "machine": facts, "settings": {"quick": False, "backends": ("native",)}}
    assert report.earlier(result, tmp_path) == {}
    kept = {"rows": [{"mode": "forward"}], "memory": [{"bytes": 1}]}
    (tmp_path / "sliced_ot.json").write_text(json.dumps(result | kept))
    assert report.earlier(result | {"machine": facts | {"date": "later"}}, tmp_path) == kept
    assert report.earlier(result | {"machine": facts | {"commit": "def"}}, tmp_path) == {}
    assert report.earlier(result | {"settings": {"quick": False, "backends": ()}}, tmp_path) == {}


@pytest.mark.parametrize("commit", ["abc+", None])
def test_rows_of_sources_that_no_commit_names_are_measured_again(commit, tmp_path):
    facts = {"device": "cpu", "torch": "2.13.0", "threads": 2, "commit": commit}
    result = {"benchmark": "sliced_ot", "machine": facts, "settings": {"quick": False}, "rows": [1], "memory": []}
    (tmp_path / "sliced_ot.json").write_text(json.dumps(result))
    assert report.earlier(result, tmp_path) == {}


def test_a_commit_names_the_sources_only_where_nothing_differs_from_it(monkeypatch):
    def git(changed, *arguments):
        return "abc" if arguments[0] == "rev-parse" else changed

    for changed, name, names in (("", "abc", True), (" M python/cgm_models/model.py", "abc+", False)):
        monkeypatch.setattr(machine, "_git", functools.partial(git, changed))
        assert machine.commit() == name and machine.names_sources(name) is names
    assert not machine.names_sources(None)


def test_a_copy_without_git_is_named_by_the_environment(monkeypatch):
    def no_git(*arguments):
        raise FileNotFoundError("git")

    monkeypatch.setattr(machine, "_git", no_git)
    monkeypatch.delenv("CGM_COMMIT", raising=False)
    assert machine.commit() is None
    monkeypatch.setenv("CGM_COMMIT", "abc")
    assert machine.commit() == "abc"


def test_facts_name_machine_versions_and_date():
    facts = machine.facts("cpu")
    assert facts["torch"] == torch.__version__
    assert facts["threads"] == torch.get_num_threads()
    assert machine.slug("NVIDIA H200, 16 threads") == "nvidia-h200-16-threads"


@pytest.mark.skipif(not memory.RESET.exists(), reason="the high-water mark cannot be reset here")
def test_peak_memory_sees_what_pytorch_allocates():
    cell = {"n": 20_000, "d": 4, "n_projections": 100}
    row = memory.measure("sliced_ot", "eager", "forward", cell, "cpu")
    keys = 4 * cell["n"] * cell["n_projections"]  # the projections of one cloud
    assert 2 * keys < row["bytes"] < 20 * keys
    assert "no_such_method" in memory.measure("sliced_ot", "no_such_method", "forward", cell, "cpu")["skipped"]


def test_the_command_measures_a_tiny_size(tmp_path):
    pytest.importorskip("matplotlib")
    words = ["sliced_ot", "--quick", "--sizes", "16x2x1", "32x2x1", "--modes", "forward", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", "benchmarks", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    stored = json.loads((tmp_path / "sliced_ot_quick.json").read_text())
    assert [row["cell"]["n"] for row in stored["rows"]] == [16, 32]
    assert stored["rows"][0]["speedups"]
    assert "16, 2, 1" in (tmp_path / "sliced_ot_quick.md").read_text()
    assert (tmp_path / "sliced_ot_quick.png").stat().st_size > 10_000
