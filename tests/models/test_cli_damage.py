"""Damaged files of a run, and numbers that make no sense, are named in one line."""

import pytest

from cgm_models.cli.main import main


@pytest.fixture
def run(tmp_path):
    options = ["--n_steps", "2", "--n_particles", "50", "--n_quantiles", "5", "--quiet", "--data_n", "100"]
    assert main(["fit", "SlicedWassersteinFlow", "--data", "moons", "--out", str(tmp_path / "run"), *options]) == 0
    return tmp_path / "run"


def _error(capsys, *arguments):
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("cgm: error: ") and error.count("\n") == 1
    return error


def test_damaged_run_json(run, capsys):
    for content in (b"[1, 2]", b"null", b"\xff\xfe", b"{"):
        (run / "run.json").write_bytes(content)
        for command in ("sample", "info"):
            assert "run.json" in _error(capsys, command, run)


def test_damaged_config(run, capsys):
    for content in (b"data: [", b"", b"seed: 1", b"data: 3", b"\xff\xfe", b"data: moons\ndata_size: 3\n"):
        (run / "config.yaml").write_bytes(content)
        assert "config.yaml" in _error(capsys, "evaluate", run)
    (run / "config.yaml").write_bytes(b"model: [\n")
    assert "config.yaml" in _error(capsys, "fit", "--config", run / "config.yaml")


def test_evaluate_names_its_numbers(run, capsys):
    assert "-n must be at least" in _error(capsys, "evaluate", run, "-n", "0")
    assert "--permutations must be" in _error(capsys, "evaluate", run, "--permutations", "0")
