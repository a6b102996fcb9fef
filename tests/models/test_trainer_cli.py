"""``cgm fit`` of models that the trainer trains."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

import cgm_models
from cgm_models.flows import RealNVP
from cgm_models.training import RunDirectory, Trainer
from tests.support.training import forkserver

pytest.importorskip("jsonargparse", reason="jsonargparse is not installed (pip install jsonargparse)")

from cgm_models.cli.main import main
from cgm_models.cli.options import argument_texts

SMALL = ["--n_layers", "2", "--hidden-features=[8]", "--data_n", "300", "--quiet", "--trainer.tensorboard=false"]


def fit(out, *more, data="moons", steps=30):
    options = ["--trainer.max_steps", str(steps), "--trainer.log-every=10", "--trainer.accelerator=cpu"]
    return main(["fit", "RealNVP", "--data", data, "--out", str(out), *SMALL, *options, *more])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "run"
    assert fit(path, "--trainer.ema_decay=0.9", "--trainer.sample_every", "15", "--trainer.betas=[0.8, 0.99]") == 0
    return path


def _weights(run):
    return (run / "model/weights.safetensors").read_bytes()


def test_fit_trains_and_writes_the_run_directory(run):
    assert isinstance(cgm_models.load(run / "model"), RealNVP)
    log = RunDirectory.open(run).read_log()
    assert [record["step"] for record in log] == [10, 20, 30] and "validation_loss" in log[-1]
    assert sorted(p.name for p in (run / "samples").iterdir()) == ["step-00000015.png", "step-00000030.png"]
    facts = json.loads((run / "run.json").read_text())
    assert facts["status"] == "30 steps, averaged weights" and facts["interrupted"] is False
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"] == "RealNVP" and config["hidden_features"] == [8]
    assert config["trainer"]["max_steps"] == 30 and config["trainer"]["betas"] == [0.8, 0.99]
    assert not {"out", "resume", "quiet"} & config.keys() and not {"seed", "progress"} & config["trainer"].keys()


def test_the_other_commands_take_the_run(run, tmp_path, capsys):
    assert main(["sample", str(run), "-n", "5", "--out", str(tmp_path / "x.npy")]) == 0
    assert main(["info", str(run)]) == 0
    assert "30 steps, averaged weights" in capsys.readouterr().out


def test_config_repeats_a_run_and_options_override_it(run, tmp_path):
    config = ["fit", "--config", str(run / "config.yaml"), "--quiet"]
    assert main([*config, "--out", str(tmp_path / "same")]) == 0
    assert _weights(tmp_path / "same") == _weights(run)
    assert main([*config, "--out", str(tmp_path / "other"), "--trainer.max_steps=5", "--seed=3"]) == 0
    assert json.loads((tmp_path / "other/run.json").read_text())["status"] == "5 steps, averaged weights"
    assert _weights(tmp_path / "other") != _weights(run)


@pytest.mark.parametrize("more", [[], ["--actnorm=true", "--trainer.ema_decay=0.9", "--data=digits", "--n_levels=17"]])
def test_resume_goes_on_with_the_options_of_the_run(more, tmp_path):
    assert fit(tmp_path / "whole", *more, steps=40) == 0
    assert fit(tmp_path / "parts", *more, steps=20) == 0
    assert main(["fit", "--resume", "--out", str(tmp_path / "parts"), "--trainer.max_steps=40", "--quiet"]) == 0
    whole, parts = (load_file(tmp_path / name / "model/weights.safetensors") for name in ("whole", "parts"))
    assert all((whole[name] == parts[name]).all() for name in whole)
    # The same command starts a run that is not there yet, and does nothing to one that has ended.
    for _ in range(2):
        assert fit(tmp_path / "fresh", *more, "--resume", steps=40) == 0
    assert _weights(tmp_path / "fresh") == _weights(tmp_path / "whole")


def _fit_and_be_killed(out):
    """Dies at the renaming that would switch to the second checkpoint."""
    switched = []

    def hook(event, arguments):
        if event == "os.rename" and "checkpoints" in str(arguments[0]):
            switched.append(arguments)
            if len(switched) == 2:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    fit(out, "--trainer.checkpoint_every=7")


def test_a_killed_fit_is_resumed(tmp_path):
    assert fit(tmp_path / "whole") == 0
    process = forkserver().Process(target=_fit_and_be_killed, args=(tmp_path / "killed",))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [p.name for p in (tmp_path / "killed/checkpoints").glob("step-*")] == ["step-00000007"]
    assert main(["fit", "--resume", "--out", str(tmp_path / "killed"), "--quiet"]) == 0
    assert _weights(tmp_path / "killed") == _weights(tmp_path / "whole")
    assert [record["step"] for record in RunDirectory(tmp_path / "killed").read_log()] == [10, 20, 30]


def test_resume_finds_the_run_that_out_did_not_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["fit", "RealNVP", "--data", "moons", *SMALL, "--trainer.max_steps=20", "--trainer.log_every=10"]
    assert main(command) == 0
    Path("config.yaml").write_text("model: Glow")  # of another place
    assert main(["fit", "RealNVP", "--data", "moons", "--resume", "--trainer.max_steps=40", "--quiet"]) == 0
    run = RunDirectory.open("runs/realnvp-moons")
    assert [record["step"] for record in run.read_log()] == [10, 20, 30, 40]
    assert main(["fit", "--config", "runs/realnvp-moons/config.yaml", "--resume", "--trainer.max_steps=50"]) == 0
    assert run.read_log()[-1]["step"] == 50


def test_resume_sweeps_what_a_kill_left_of_the_files(tmp_path):
    run = tmp_path / "run"
    assert fit(run, steps=10) == 0
    mine = [run / "model/notes.partial", run / ".mine", run / "model/.draft.partial"]
    left = [run / "model/.config.json.abcd_123.partial", run / "model/.weights.safetensors.abcd_123.partial"]
    left.append(run / ".run.json.abcd_123.partial")
    for path in (*mine, *left):
        path.write_text("{")
    assert main(["fit", "--resume", "--out", str(run), "--trainer.max_steps=20", "--quiet"]) == 0
    assert all(path.exists() for path in mine) and not any(path.exists() for path in left)


def test_a_run_killed_before_its_config_was_written_needs_the_whole_command(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / ".config.yaml.abcd_123.partial").write_text("model: Rea")
    for words in ([], ["RealNVP"], ["--data=moons"]):
        assert main(["fit", *words, "--resume", "--out", str(run)]) == 2
        error = capsys.readouterr().err
        assert "killed before its config was written, repeat the whole command with --resume" in error
    assert fit(run, "--resume") == 0
    assert _weights(run) and not list(run.glob(".*.partial"))


def test_labels_become_the_context(tmp_path):
    more = ["--conditional", "true", "--trainer.sample_every=3"]
    assert fit(tmp_path / "run", *more, data="pinwheel", steps=3) == 0
    assert (tmp_path / "run/samples/step-00000003.png").is_file()
    model = cgm_models.load(tmp_path / "run/model")
    assert model.context_dim == 5
    assert main(["sample", str(tmp_path / "run"), "--label", "1", "--out", str(tmp_path / "x.npy")]) == 0


def test_a_loss_that_is_not_finite_is_named(tmp_path, capsys):
    assert fit(tmp_path / "run") == 0
    before = _weights(tmp_path / "run")
    capsys.readouterr()
    more = ["--overwrite", "--trainer.lr=1e30", "--trainer.checkpoint_every=1"]
    assert fit(tmp_path / "run", *more) == 2
    error = capsys.readouterr().err
    assert error.startswith("cgm: error: training stopped at step 2 (batch") and "RealNVP" in error
    # The old run stays, the checkpoint that the message names too.
    assert _weights(tmp_path / "run") == before
    named = error.rpartition("the last good checkpoint, ")[2].strip()
    assert named.endswith("step-00000001") and os.path.isdir(named)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--trainer.lr=-1"], "lr must be a number above 0: got -1.0"),
        (["--trainer.optimizer=lion"], "optimizer must be one of adam, adamw, sgd"),
        (["--trainer.steps=3"], "trainer.steps"),
        (["--validation_fraction=1"], "--validation_fraction must lie in"),
        (["--validation_fraction=0", "--trainer.patience=2"], "it needs validation_x"),
        (["--resume", "--overwrite"], "choose one of them"),
    ],
)
def test_errors_name_what_is_wrong(more, message, tmp_path, capsys):
    assert fit(tmp_path / "run", *more) == 2
    assert message in capsys.readouterr().err


def test_resume_refuses_a_folder_that_is_no_run(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert fit(tmp_path, "--resume") == 2
    assert "holds something, and no run" in capsys.readouterr().err


def test_every_option_of_the_trainer_has_help(capsys):
    assert main(["fit", "RealNVP", "--help"]) == 0
    text = capsys.readouterr().out
    texts = argument_texts(Trainer.__doc__)
    assert set(texts) == set(Trainer.__dataclass_fields__)
    for name in texts:
        assert (f"--trainer.{name} " in text) == (name not in ("seed", "progress")), name
    assert main(["fit", "SlicedWassersteinFlow", "--help"]) == 0
    assert "--trainer" not in capsys.readouterr().out
