"""The comparison of another library's own tests without and with a patch: what is missing is said, outcomes kept."""

import json

import pytest

import flow_suites
import suite
from benchmarks.machine import commit

FAKE = {
    "torchdiffeq/__init__.py": "",
    "tests/first_tests.py": "def test_one():\n    assert True\n\n\ndef test_two():\n    assert False\n",
}


def source(folder, **files):
    for name, text in {**FAKE, **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_a_missing_package_is_named(tmp_path, capsys):
    absent = "import cgm_no_such_package\n"
    folder = source(tmp_path / "torchdiffeq-0", **{"tests/second_tests.py": absent, "tests/third_tests.py": absent})
    with pytest.raises(SystemExit) as end:
        flow_suites._check(folder, [], tmp_path / "table.md")
    assert "the tests of torchdiffeq cannot run here" in end.value.code
    assert "No module named 'cgm_no_such_package' (2 files)" in end.value.code
    assert not (tmp_path / "table.md").exists()


def outcomes(ours=3, **found):
    return {"outcomes": found, "report": [{"function": "f", "ours": ours, "passed_on": 1, "reasons": {"small": 1}}]}


def test_outcomes_are_compared(capsys):
    plain = outcomes(0, one="passed", two="failed")
    assert suite.compare(plain, outcomes(one="passed", two="failed")) == 0
    assert suite.compare(plain, outcomes(one="passed", two="passed")) == 1
    assert "differs: two: failed without the patch, passed with it" in capsys.readouterr().out
    assert suite.compare(plain, outcomes(one="passed")) == 1
    assert suite.compare(plain, outcomes(0, one="passed", two="failed")) == 1
    assert suite.compare(outcomes(), outcomes()) == 1


def test_outcomes_are_recorded(tmp_path):
    table, one = tmp_path / "table.md", {"one": "passed"}
    suite.record(table, "zuko-1", outcomes(**one), outcomes(**one))
    suite.record(table, "nflows-1", outcomes(**one), outcomes(**one))
    suite.record(table, "zuko-1", outcomes(two="failed", **one), outcomes(**one))
    first, second = table.read_text().removeprefix(suite.HEAD).splitlines()
    assert first.startswith("| nflows-1 | 1 | 1 passed | 0 | 3 | 1 | ")
    assert f" | {commit()} | " in first
    assert second.startswith("| zuko-1 | 2 | 1 failed, 1 passed | 1 | 3 | 1 | ")


def test_a_run_has_every_outcome(tmp_path, monkeypatch, capsys):
    """Of a suite that passes one test and fails another, in a process of its own."""
    folder = source(tmp_path)
    found = suite.run("torchdiffeq", folder, [folder / "tests/first_tests.py"], False, [])
    assert found["outcomes"] == {"tests/first_tests.py::test_one": "passed", "tests/first_tests.py::test_two": "failed"}
    assert not found["not_collected"] and json.dumps(found["report"])
