"""`make gpu-check`: the judging of logs, and stages that go on where they stopped."""

import subprocess
import sys
from pathlib import Path

import pytest

import gpu_check
import gpu_logs
import gpu_parts

ROOT = Path(__file__).resolve().parent.parent

FACTS = {"gpu": "NVIDIA H200", "torch": "2.11.0", "cuda": "13.0", "python": "3.12.3"}
MEMCHECK = "========= COMPUTE-SANITIZER\n346 cases ran on the native backend\n========= ERROR SUMMARY: {} errors\n"
RACE = "========= Error: Race reported between Write access at void {}(float*)+0x10 and Read access\n"


@pytest.mark.parametrize(
    ("tool", "code", "log", "passed", "words"),
    [
        ("memcheck", 0, MEMCHECK.format(0), True, "0 errors, 346 cases"),
        ("memcheck", 1, "========= Invalid __global__ read\n" + MEMCHECK.format(3), False, "3 errors"),
        ("memcheck", 1, "346 cases ran on the native backend\n", False, "no error summary"),
        ("memcheck", 124, "=========\n", False, "too slow"),
        ("memcheck", 1, "========= Device not supported\n", False, "the run itself failed"),
        ("racecheck", 0, MEMCHECK.format(0), True, "0 races in our kernels, 0 elsewhere"),
        (
            "racecheck",
            0,
            RACE.format("at::sort") + MEMCHECK.format(1),
            True,
            "0 races in our kernels, 1 elsewhere",
        ),
        ("racecheck", 0, RACE.format("cgm::sliced_ot::kernel") + MEMCHECK.format(1), False, "1 races in our kernels"),
    ],
)
def test_judging_a_sanitizer_log(tool, code, log, passed, words):
    found = gpu_logs.judge(tool, code, log)
    assert found["passed"] is passed
    assert words in found["summary"]


def test_reading_a_test_report(tmp_path):
    report = tmp_path / "tests.xml"
    cases = '<testcase name="a"/><testcase name="b"><failure/></testcase><testcase name="c"><error/></testcase>'
    skipped = '<testcase name="d"><skipped message="no POT"/></testcase>'
    report.write_text(f"<testsuites><testsuite>{cases}{skipped}</testsuite></testsuites>")
    counts, reasons = gpu_logs.read_report(report)
    assert counts == {"passed": 1, "failed": 2, "skipped": 1}
    assert reasons == {"no POT": 1}


def test_stages_are_recorded_beside_each_other(tmp_path):
    gpu_check.record(tmp_path, FACTS, "build", {"passed": True, "summary": "built", "seconds": 60, "date": "today"})
    gpu_check.record(tmp_path, FACTS, "test", {"passed": False, "summary": "1 failed", "seconds": 9, "date": "today"})
    table = (tmp_path / "gpu_check.md").read_text()
    assert "| build | passed: built | 60 | today |" in table
    assert "| test | **failed**: 1 failed | 9 | today |" in table
    assert gpu_check.slug("NVIDIA H200") == "nvidia-h200"


REPORT = '<testsuites><testsuite><testcase name="a"/>{}</testsuite></testsuites>'


@pytest.fixture
def tests_run(monkeypatch, tmp_path):
    """The parts of the tests that the stage runs, 200 seconds each; those in ``failing`` have a failure."""
    monkeypatch.setattr(gpu_check, "commit", lambda: "abc")
    monkeypatch.setattr(gpu_check, "LOGS", tmp_path)
    ran, clock, failing = [], [0.0], set()
    monkeypatch.setattr(gpu_parts.time, "monotonic", lambda: clock[0])

    def run(name, command, limit, **variables):
        part = name.removeprefix("tests_")
        assert variables["TRITON_INTERPRET"] == "0" and command[command.index("tests_run") :] == ["tests_run", part]
        ran.append(part)
        clock[0] += min(limit, 200)
        if limit < 200:
            return 124, ""
        failure = '<testcase name="b"><failure/></testcase>' if part in failing else ""
        (tmp_path / f"tests_{part}.xml").write_text(REPORT.format(failure))
        return int(part in failing), ""

    monkeypatch.setattr(gpu_check, "run", run)
    monkeypatch.setattr(gpu_check, "TESTS", {name: ["tests_run", name] for name in "abcd"})
    monkeypatch.setattr(gpu_check.importlib.util, "find_spec", lambda name: None)
    return ran, clock, failing


def stage(tmp_path, clock):
    clock[0] = 0.0
    found = gpu_check.test(tmp_path)
    gpu_check.record(tmp_path, FACTS, "test", found | {"seconds": 9, "date": "today"})
    return found


def test_the_test_stage_goes_on_where_it_stopped(tests_run, tmp_path):
    ran, clock, failing = tests_run
    failing.add("b")
    found = stage(tmp_path, clock)
    assert ran == ["a", "b", "c"] and not found["passed"]
    assert found["summary"] == (
        "2 passed, 1 failed, 0 skipped; b: 1 passed, 1 failed, 0 skipped; c: stopped: too slow; "
        "not done: c, d; run again to go on"
    )
    again = stage(tmp_path, clock)
    assert ran[3:] == ["c", "d"] and not again["passed"]
    assert again["summary"] == "4 passed, 1 failed, 0 skipped; b: 1 passed, 1 failed, 0 skipped"


def test_the_test_stage_begins_anew_on_other_sources(tests_run, tmp_path, monkeypatch):
    ran, clock, _ = tests_run
    for commit in ("abc", "def", None, None):
        monkeypatch.setattr(gpu_check, "commit", lambda commit=commit: commit)
        stage(tmp_path, clock)
    assert ran == ["a", "b", "c"] * 4
    monkeypatch.setattr(gpu_check, "commit", lambda: "abc")
    stage(tmp_path, clock)
    assert stage(tmp_path, clock) | {"summary": ""} == {
        **{"passed": True, "summary": "", "commit": "abc"},
        "parts": {name: stage(tmp_path, clock)["parts"][name] for name in "abcd"},
    }
    assert ran[12:] == ["a", "b", "c", "c", "d"]


@pytest.fixture
def benchmarks_run(monkeypatch, tmp_path):
    """The commands of the benchmarks that the stage runs, each taking ``seconds`` and giving what ``outputs`` says."""
    monkeypatch.setattr(gpu_check, "commit", lambda: "abc")
    ran, clock = [], [0.0]
    monkeypatch.setattr(gpu_check.time, "monotonic", lambda: clock[0])

    def install(seconds=1.0, outputs=None):
        def run(name, command, limit, **variables):
            given = command[command.index("benchmarks") + 1 :]
            ran.append((given[0], "--headlines" in given))
            if given[0] == "check":
                return 1, "missed: models: one: lower bound 0.9\nmodels: 4 of 5 targets met\n"
            left = float(given[given.index("--seconds") + 1])
            assert 0 < left <= gpu_check.BENCH_SECONDS - clock[0] + 0.1
            assert clock[0] + limit <= gpu_check.STAGE_SECONDS
            clock[0] += seconds
            (tmp_path / f"{given[0]}.json").touch()
            return (outputs or {}).get(given[0], (0, ""))

        monkeypatch.setattr(gpu_check, "run", run)
        return ran, clock

    return install


def test_the_bench_stage_takes_all_headlines_first_and_names_missed_targets(benchmarks_run, tmp_path):
    ran, _ = benchmarks_run()
    found = gpu_check.bench(tmp_path)
    assert [name for name, headlines in ran if headlines] == list(gpu_check.BENCHMARKS)
    assert [name for name, _ in ran] == [*gpu_check.BENCHMARKS, *gpu_check.BENCHMARKS, "check"]
    assert found["passed"]
    assert found["missed"] == ["models: one: lower bound 0.9"]
    assert "1 of 5 targets missed" in found["summary"]
    gpu_check.record(tmp_path, FACTS, "bench", found | {"seconds": 9, "date": "today"})
    assert "- models: one: lower bound 0.9" in (tmp_path / "gpu_check.md").read_text()


def test_the_bench_stage_goes_on_where_it_stopped(benchmarks_run, tmp_path):
    outputs = {"models": (0, "time is up: 3 of 9 rows are measured\n")}
    ran, clock = benchmarks_run(gpu_check.BENCH_SECONDS / 5, outputs)
    found = gpu_check.bench(tmp_path)
    assert [name for name, _ in ran] == [*gpu_check.BENCHMARKS[:5], "check"]
    assert "run the stage again" in found["summary"]
    gpu_check.record(tmp_path, FACTS, "bench", found | {"seconds": 9, "date": "today"})
    ran.clear()
    clock[0] = 0.0
    gpu_check.bench(tmp_path)
    assert [name for name, _ in ran][:3] == ["models", *gpu_check.BENCHMARKS[5:7]]


def test_the_bench_stage_begins_anew_where_no_commit_names_the_sources(benchmarks_run, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "commit", lambda: None)
    ran, clock = benchmarks_run(outputs={"models": (0, "time is up: 3 of 9 rows are measured\n")})
    found = gpu_check.bench(tmp_path)
    assert "another run begins anew" in found["summary"]
    gpu_check.record(tmp_path, FACTS, "bench", found | {"seconds": 9, "date": "today"})
    ran.clear()
    clock[0] = 0.0
    gpu_check.bench(tmp_path)
    assert [name for name, _ in ran] == [*gpu_check.BENCHMARKS, *gpu_check.BENCHMARKS, "check"]


def test_a_benchmark_that_fails_fails_the_stage_after_the_others(benchmarks_run, tmp_path):
    ran, _ = benchmarks_run(outputs={"models": (1, "Traceback\n")})
    found = gpu_check.bench(tmp_path)
    assert not found["passed"]
    assert "models failed" in found["summary"]
    assert {name for name, _ in ran} == {*gpu_check.BENCHMARKS, "check"}


def test_every_benchmark_takes_part_in_the_bench_stage():
    from benchmarks import registry

    assert sorted(gpu_check.BENCHMARKS) == sorted(registry.NAMES)


def test_gpu_check_without_a_gpu_says_so(tmp_path):
    (tmp_path / "torch.py").write_text("__version__ = '2.13.0'\nclass cuda:\n    is_available = staticmethod(bool)\n")
    (tmp_path / "torch.py").open("a").write("class version:\n    cuda = None\n")
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "gpu_check.py"), "test"],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "no GPU: torch 2.13.0 sees no CUDA device, so nothing was checked" in done.stderr


def test_the_cases_of_the_sanitizer_run_by_operation_and_say_how_far_they_came():
    """On the CPU the same cases reach the same operations."""
    command = [sys.executable, str(ROOT / "tools" / "gpu_sanitize.py"), "--device", "cpu"]
    done = subprocess.run([*command, "masked"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    first, last = done.stdout.splitlines()
    assert first.startswith("masked: 20 cases in ") and last == "20 cases ran on the native backend"
    assert "no such operation: none" in subprocess.run([*command, "none"], capture_output=True, text=True).stderr
