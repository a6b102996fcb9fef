"""The command line, from fit to info."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import cgm_models
from cgm_models.training import RunDirectory
from cgm_models.transport import SlicedWassersteinFlow, fitting

pytest.importorskip("jsonargparse", reason="jsonargparse is not installed (pip install jsonargparse)")

from cgm_models.cli.main import COMMANDS, main
from cgm_models.cli.options import argument_texts, with_underscores

TINY = ["--n_steps", "6", "--n-particles=200", "--n_quantiles", "20", "--quiet"]


def fit(out, *more, data="digits"):
    return main(["fit", "SlicedWassersteinFlow", "--data", data, "--out", str(out), *TINY, *more])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "labelled"
    assert fit(path, "--conditional", "true", "--data_n", "300") == 0
    return path


def test_fit_writes_the_run_directory(run):
    assert {p.name for p in run.iterdir()} >= {"config.yaml", "model", "log.jsonl", "run.json"}
    model = cgm_models.load(run / "model")
    assert isinstance(model, SlicedWassersteinFlow) and model.context_dim == 10 and model.event_shape == (1, 8, 8)
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"] == "SlicedWassersteinFlow" and config["n_particles"] == 200 and "out" not in config
    assert RunDirectory.open(run).read_log()[-1]["step"] == 6


def test_config_repeats_a_run_and_options_override_it(run, tmp_path):
    config = str(run / "config.yaml")
    assert main(["fit", "--config", config, "--out", str(tmp_path / "same"), "--quiet"]) == 0
    weights = "model/weights.safetensors"
    assert (tmp_path / "same" / weights).read_bytes() == (run / weights).read_bytes()
    assert main(["fit", "--config", config, "--n_steps", "3", "--out", str(tmp_path / "other"), "--quiet"]) == 0
    assert cgm_models.load(tmp_path / "other" / "model").n_fitted == 3


def test_a_run_is_overwritten_only_when_told(tmp_path, capsys):
    assert fit(tmp_path / "a", data="moons") == 0
    before = (tmp_path / "a/model/weights.safetensors").read_bytes()
    assert fit(tmp_path / "a", "--seed", "1", data="moons") == 2
    assert "not empty: choose another directory, or pass --overwrite" in capsys.readouterr().err
    assert (tmp_path / "a/model/weights.safetensors").read_bytes() == before
    assert fit(tmp_path / "a", "--seed", "1", "--overwrite", data="moons") == 0
    assert (tmp_path / "a/model/weights.safetensors").read_bytes() != before
    (tmp_path / "a/thesis.tex").write_text("years of work")
    assert fit(tmp_path / "a", "--overwrite", data="moons") == 2
    assert "thesis.tex" in capsys.readouterr().err and (tmp_path / "a/thesis.tex").exists()


def test_without_out_the_run_is_named_after_model_and_data(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("Points.npy", np.random.default_rng(0).normal(size=(80, 2)).astype(np.float32))
    command = ["fit", "SlicedWassersteinFlow", *(option for option in TINY if option != "--quiet")]
    for named, place in (("moons", "moons"), (str(tmp_path / "Points.npy"), "points")):
        run = Path("runs") / f"slicedwassersteinflow-{place}"
        assert main([*command, "--data", named]) == 0
        assert capsys.readouterr().out.splitlines()[0] == f"run directory: {run}"
        before = _files(run)
        # The folder of a run is as safe as one that --out names, also from the run's own configuration.
        for again in ([*command, "--data", named], ["fit", "--config", str(run / "config.yaml")]):
            assert main([*again, "--seed=1"]) == 2
            assert f"{run} is not empty: choose another directory, or pass --overwrite" in capsys.readouterr().err
            assert _files(run) == before
        assert main(["fit", "--config", str(run / "config.yaml"), "--overwrite", "--seed=1"]) == 0
        assert _files(run) != before
        capsys.readouterr()


def _files(path):
    return {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_a_failing_overwrite_leaves_the_old_run(tmp_path, monkeypatch, capsys):
    out = tmp_path / "a"
    assert fit(out, data="moons") == 0
    (out / ".note").write_text("kept")
    before = _files(out)

    def fail(*arguments, error):
        raise error

    for error, status in ((RuntimeError("no memory"), 2), (KeyboardInterrupt(), 130)):
        monkeypatch.setattr(fitting, "_draw_directions", lambda *a, error=error: fail(error=error))
        assert fit(out, "--overwrite", data="moons") == status
        assert _files(out) == before and [p.name for p in tmp_path.iterdir()] == ["a"]
    monkeypatch.undo()
    assert fit(out, "--overwrite", "--seed", "1", data="moons") == 0
    after = _files(out)
    assert after.keys() == before.keys() and (out / ".note").read_text() == "kept"
    assert [p.name for p in tmp_path.iterdir()] == ["a"] and out.stat().st_mode & 0o444
    weights = next(p for p in after if p.suffix == ".safetensors")
    assert after[weights] != before[weights]


def test_an_interrupted_overwrite_keeps_its_steps(tmp_path, monkeypatch):
    assert fit(tmp_path / "a", data="moons") == 0
    real = fitting._draw_directions

    def draw(model, k, *rest):
        if k == 3:
            raise KeyboardInterrupt
        return real(model, k, *rest)

    (tmp_path / "link").symlink_to(tmp_path / "a")
    monkeypatch.setattr(fitting, "_draw_directions", draw)
    assert fit(tmp_path / "link", "--overwrite", data="moons") == 130
    assert cgm_models.load(tmp_path / "a/model").n_fitted == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "link"] and (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("suffix", ["npy", "csv", "png"])
def test_sample_writes_the_format_it_is_asked_for(run, tmp_path, suffix):
    out = tmp_path / f"deep/x.{suffix}"
    assert main(["sample", str(run), "-n", "6", "--out", str(out), "--label", "3", "--label", "1"]) == 0
    if suffix == "npy":
        model = cgm_models.load(run / "model")
        labels = torch.tensor([3, 1, 3, 1, 3, 1])
        wanted = model.sample(6, labels, generator=torch.Generator().manual_seed(0))
        np.testing.assert_array_equal(np.load(out), wanted.numpy())
    elif suffix == "csv":
        assert np.loadtxt(out, delimiter=",").shape == (6, 64)
    else:
        assert out.read_bytes().startswith(b"\x89PNG")


def test_sample_goes_to_the_run_without_out(run):
    assert main(["sample", str(run), "-n", "4"]) == 0
    assert (run / "samples/samples.png").is_file()


def test_evaluate_writes_json_and_a_table(run, capsys):
    assert main(["evaluate", str(run), "-n", "80", "--permutations", "9", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert set(rows) == {"isotropic noise", "fitted Gaussian", "SlicedWassersteinFlow", "training split"}
    assert json.loads((run / "metrics.json").read_text())["rows"] == rows
    assert rows["training split"]["exact_copies"] == 1.0
    noise, normal = (rows[name]["sliced_wasserstein"] for name in ("isotropic noise", "fitted Gaussian"))
    assert normal < noise
    assert main(["evaluate", str(run), "-n", "40", "--permutations", "9"]) == 0
    assert "fitted Gaussian" in capsys.readouterr().out


def test_info_and_list(run, capsys):
    assert main(["info", str(run)]) == 0
    text = capsys.readouterr().out
    assert "6 of 6 steps fitted" in text and "n_quantiles" in text and "MB" in text
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    assert "SlicedWassersteinFlow" in text and "mnist5k" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fti"], "unknown command 'fti'. Known: fit, sample"),
        (["fit", "SlicedWaserstein", "--data", "digits", "--out", "x"], "Did you mean 'SlicedWassersteinFlow'"),
        (["fit", "SlicedWassersteinFlow", "--data", "digit", "--out", "x"], "Did you mean 'digits'"),
        (["fit", "SlicedWassersteinFlow", "--out", "x"], "--data is missing"),
        (["fit"], "--model is missing.*Known: "),
        (["fit", "--data", "digits", "--out", "x"], "--model is missing.*Known: "),
        (["fit", "SlicedWassersteinFlow", "--data", "moons", "--out="], "--out is empty"),
        (["fit", "--config", "absent.yaml"], "there is no configuration file absent.yaml"),
        (["fit", "SlicedWassersteinFlow", "--widht", "3"], "widht"),
        (["fit", "SlicedWassersteinFlow", "--n_steps", "many"], "n_steps"),
        (["fit", "SlicedWassersteinFlow", "--data", "digits", "--out", "x", "--n_steps", "0"], "n_steps must be"),
        (
            ["fit", "SlicedWassersteinFlow", "--data", "pinwheel", "--out", "x", "--data_noise", "1"],
            "noise has no meaning",
        ),
        (["sample", "absent"], "there is no run directory absent"),
        (["evaluate", "."], "is not a run directory"),
    ],
)
def test_errors_name_what_is_wrong(arguments, message, capsys, tmp_path, monkeypatch):
    import re

    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert re.search(message, error, re.DOTALL), error
    assert not (tmp_path / "x").exists()


def test_sample_errors(run, tmp_path, capsys):
    assert main(["sample", str(run), "--label", "eleven"]) == 2
    assert "unknown class 'eleven'. Known: 0, 1" in capsys.readouterr().err
    assert main(["sample", str(run), "--out", str(tmp_path / "x.gif")]) == 2
    assert "must end in one of .png" in capsys.readouterr().err


def test_every_option_has_help(capsys):
    assert main(["fit", "SlicedWassersteinFlow", "--help"]) == 0
    text = capsys.readouterr().out
    for name in SlicedWassersteinFlow((2,)).config:
        assert name in ("event_shape", "context_dim") or f"--{name}" in text
    texts = argument_texts(SlicedWassersteinFlow.__doc__)
    assert set(texts) == set(SlicedWassersteinFlow((2,)).config) and all(len(t) > 10 for t in texts.values())
    for command in COMMANDS:
        assert main([command, "--help"]) == 0
        assert "usage: cgm" in capsys.readouterr().out


def test_dashes_and_underscores_are_one():
    assert with_underscores(["--n-steps", "3", "--a-b=c-d", "-n", "x-y"]) == [
        "--n_steps",
        "3",
        "--a_b=c-d",
        "-n",
        "x-y",
    ]


def test_help_needs_no_torch():
    program = "import sys; from cgm_models.cli.main import main; main(['--help']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, env=_environment(), stdout=subprocess.DEVNULL)


def test_ctrl_c_keeps_the_fitted_steps(tmp_path, monkeypatch, capsys):
    real, calls = fitting._draw_directions, []

    def draw(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            signal.raise_signal(signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr(fitting, "_draw_directions", draw)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with SIGINT ignored
    try:
        assert fit(tmp_path / "run") == 130
    finally:
        signal.signal(signal.SIGINT, before)
    monkeypatch.undo()
    assert cgm_models.load(tmp_path / "run/model").status() == "3 of 6 steps fitted: interrupted"
    assert json.loads((tmp_path / "run/run.json").read_text())["interrupted"] is True
    assert main(["sample", str(tmp_path / "run"), "-n", "2", "--out", str(tmp_path / "x.npy")]) == 0


def test_a_log_cut_short_is_still_read(tmp_path):
    run = RunDirectory.create(tmp_path / "run")
    run.log({"step": 1, "at": time.time()})
    with run.log_path.open("a") as file:
        file.write('{"step": 2, "a')
    assert [record["step"] for record in run.read_log()] == [1]


def _environment():
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
