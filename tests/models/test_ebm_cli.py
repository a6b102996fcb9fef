"""Energy-based models on the command line."""

import json

import pytest
import torch

import cgm_models
from cgm_models import data
from cgm_models.cli.main import main

TINY = ("--n_steps", 3, "--buffer_size", 100, "--trainer.max_steps", 20, "--trainer.validate_every", 10, "--quiet")


def run_cgm(*arguments):
    assert main([str(argument) for argument in arguments]) == 0


def evaluated(run, model, capsys, *more):
    capsys.readouterr()
    run_cgm("evaluate", run, "-n", 60, "--permutations", 9, "--json", *more)
    return json.loads(capsys.readouterr().out)[model]


def test_an_energy_model_is_fitted_sampled_and_evaluated_with_its_error(tmp_path, capsys):
    run = tmp_path / "moons"
    run_cgm("fit", "EnergyModel", "--data", "moons", "--out", run, "--data_n", 500, "--hidden_features", "[16]", *TINY)
    run_cgm("sample", run, "-n", 5, "--out", tmp_path / "points.npy")
    row = evaluated(run, "EnergyModel", capsys)
    model, moons = cgm_models.load(run / "model"), data.load("moons", n=500)
    with torch.no_grad():
        likelihood = model.log_likelihood(moons.test_x, generator=torch.Generator().manual_seed(0))
    assert row["nll"] == pytest.approx(float(-likelihood.log_prob.double().mean()), abs=1e-5)
    excess = moons.density.log_prob(moons.test_x) - likelihood.log_prob
    assert row["above_truth"] == pytest.approx(float(excess.mean()), abs=1e-5)
    assert row["log_z_error"] == pytest.approx(float(likelihood.log_z_error[0]), rel=1e-5) and row["log_z_error"] > 0
    own = float(excess.double().std()) / 10
    assert row["above_truth_error"] == pytest.approx((own**2 + row["log_z_error"] ** 2) ** 0.5, rel=1e-4)
    run_cgm("evaluate", run, "-n", 60, "--permutations", 9)
    assert "annealed" in " ".join(capsys.readouterr().out.split())


def test_a_joint_model_of_digits_by_class(tmp_path, capsys):
    run = tmp_path / "digits"
    shape = ("--hidden_features", "[8]", "--data_n", 200, "--conditional", "true")
    options = '{"n_steps": 2, "buffer_size": 50, "sample_steps": 2, "clamp": [0, 1]}'
    trainer = ("--trainer.max_steps", 3, "--trainer.batch_size", 20, "--quiet")
    arguments = (*shape, "--energy_options", options, *trainer)
    run_cgm("fit", "JointEnergyModel", "--data", "digits", "--out", run, *arguments)
    run_cgm("sample", run, "-n", 4, "--label", "3", "--out", tmp_path / "threes.png")
    assert 0.0 < evaluated(run, "JointEnergyModel", capsys, "--outliers", "patches")["auroc patches"] <= 1.0
    assert cgm_models.load(run / "model").context_dim == 10


def test_a_left_out_class_and_other_sets_are_told_from_the_data(tmp_path, capsys):
    run = tmp_path / "digits"
    shape = ("--hidden_features", "[8]", "--data_n", 400, "--data_without_class", "0")
    run_cgm("fit", "EnergyModel", "--data", "digits", "--out", run, *shape, *TINY)
    capsys.readouterr()
    run_cgm("evaluate", run, "-n", 60, "--permutations", 9, "--outliers", "patches", "--json")
    rows = json.loads(capsys.readouterr().out)
    for name in ("EnergyModel", "fitted Gaussian"):
        assert 0.0 < rows[name]["auroc left out"] < 1.0 and 0.0 < rows[name]["auroc patches"] <= 1.0
    assert rows["fitted Gaussian"]["auroc patches"] > 0.99
    run_cgm("evaluate", run, "-n", 60, "--permutations", 9, "--outliers", "patches")
    assert "AUROC" in capsys.readouterr().out
    assert main(["evaluate", str(run), "-n", "60", "--outliers", "moons"]) == 2
    assert "moons has points of shape (2,), not (1, 8, 8)" in capsys.readouterr().err


def test_models_without_a_density_of_points_are_not_asked_for_outliers(tmp_path, capsys):
    run, tiny = tmp_path / "digits", ("--n_steps", 3, "--n_particles", 100, "--n_quantiles", 9, "--quiet")
    arguments = ("--data", "digits", "--data_n", 300, "--data_without_class", 0, "--out", run, *tiny)
    run_cgm("fit", "SlicedWassersteinFlow", *arguments)
    assert "auroc left out" not in evaluated(run, "SlicedWassersteinFlow", capsys)
    assert main(["evaluate", str(run), "-n", "60", "--outliers", "patches"]) == 2
    assert "has no density of a point without a context" in capsys.readouterr().err
