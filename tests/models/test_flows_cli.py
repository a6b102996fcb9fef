"""Flows on the command line: fitted, sampled by class, and evaluated by their likelihood."""

import json

import pytest
import torch

import cgm_models
from cgm_models import data
from cgm_models.cli.main import main


def run_cgm(*arguments):
    assert main([str(argument) for argument in arguments]) == 0


@pytest.mark.parametrize(
    ("name", "given"),
    [("RealNVP", ("--n_layers", 4)), ("MADE", ("--base", "student_t", "--base_options", '{"df": 4.0}'))],
)
def test_a_flow_is_fitted_and_its_likelihood_held_against_the_truth(name, given, tmp_path, capsys):
    run = tmp_path / "moons"
    options = (*given, "--hidden_features", "[16]", "--data_n", 1000, "--trainer.max_steps", 60)
    run_cgm("fit", name, "--data", "moons", "--out", run, *options, "--quiet")
    capsys.readouterr()
    run_cgm("evaluate", run, "-n", 60, "--permutations", 9, "--json")
    row = json.loads(capsys.readouterr().out)[name]
    model, moons = cgm_models.load(run / "model"), data.load("moons", n=1000)
    with torch.no_grad():
        nll = -model.log_prob(moons.test_x)
    assert row["nll"] == pytest.approx(float(nll.mean()), abs=1e-5)
    excess = nll.double() + moons.density.log_prob(moons.test_x).double()
    assert row["above_truth"] == pytest.approx(float(excess.mean()), abs=1e-5)
    assert row["above_truth_error"] == pytest.approx(float(excess.std()) / len(excess) ** 0.5, abs=1e-5)
    run_cgm("evaluate", run, "-n", 60, "--permutations", 9)
    assert "NLL" in capsys.readouterr().out


def test_a_conditional_image_flow_is_fitted_sampled_and_evaluated(tmp_path, capsys):
    run = tmp_path / "digits"
    options = ("--n_levels", 17, "--n_steps", 1, "--hidden_channels", 8, "--data_n", 300, "--trainer.max_steps", 6)
    run_cgm("fit", "Glow", "--data", "digits", "--conditional", "true", "--out", run, *options, "--quiet")
    model = cgm_models.load(run / "model")
    assert all(buffer.item() for name, buffer in model.named_buffers() if name.endswith("initialized"))
    run_cgm("sample", run, "-n", 4, "--label", "3", "--out", tmp_path / "threes.npy")
    capsys.readouterr()
    rows = []
    for _ in range(2):
        run_cgm("evaluate", run, "-n", 60, "--permutations", 9, "--json")
        rows.append(json.loads(capsys.readouterr().out)["Glow"])
    assert 0.0 < rows[0]["bits_per_dim"] < 10.0 and rows[0]["bits_per_dim_error"] > 0.0
    assert rows[0] == rows[1]
    assert "nll" not in rows[0]
