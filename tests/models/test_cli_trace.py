"""cgm evaluate with what only some models take: the exact trace, or a number of probes."""

import json
import re

import pytest
import torch

import cgm_models
from cgm_models import data, metrics
from cgm_models.cli.main import main
from cgm_models.cnf import converged_log_prob

SIZES = {"FFJORD": ["--hidden_features=[8]", "--n_steps=4"], "RealNVP": ["--hidden_features=[4]", "--n_layers=2"]}
KINDS = {
    "probes": ("FFJORD", ["--exact_up_to=0", *SIZES["FFJORD"]]),
    "exact": ("FFJORD", SIZES["FFJORD"]),
    "potential": ("OTFlow", []),
    "flow": ("RealNVP", SIZES["RealNVP"]),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs")
    for name, (model, options) in KINDS.items():
        command = ["fit", model, "--data=moons", "--data_n=400", f"--out={path / name}", *options, "--quiet"]
        assert main([*command, "--trainer.max_steps=20"]) == 0
    return path


def evaluated(runs, name, capsys, *arguments):
    capsys.readouterr()
    command = ["evaluate", str(runs / name), "-n", "20", "--permutations", "9", "--json", *arguments]
    assert main(command) == 0
    return json.loads(capsys.readouterr().out)["FFJORD"]


def test_the_exact_trace_and_the_probes_reach_the_likelihood(runs, capsys):
    model, x = cgm_models.load(runs / "probes" / "model"), data.load("moons", n=400).test_x
    exact = -float(converged_log_prob(model, x, exact=True).values.mean())
    row = evaluated(runs, "probes", capsys, "--exact")
    assert row["nll"] == pytest.approx(exact, abs=1e-5) and "probe_error" not in row
    assert json.loads((runs / "probes" / "metrics.json").read_text())["exact"] is True
    errors = []
    for spelling, number in (("--n-probes", 4), ("--n_probes", 256)):
        row = evaluated(runs, "probes", capsys, spelling, str(number))
        errors.append(row["probe_error"])
        assert abs(row["nll"] - exact) < 5 * row["probe_error"]
        assert json.loads((runs / "probes" / "metrics.json").read_text())["n_probes"] == number
    assert 0 < errors[1] < 0.5 * errors[0]


def test_outliers_are_told_by_the_exact_trace(runs, capsys):
    row = evaluated(runs, "probes", capsys, "--exact", "--outliers", "circles")
    model = cgm_models.load(runs / "probes" / "model")
    inliers, outliers = data.load("moons", n=400).test_x, data.load("circles").test_x
    with torch.no_grad(), model.asking(exact=True):
        area = metrics.auroc(-model.log_prob(inliers), -model.log_prob(outliers))
    assert row["auroc circles"] == pytest.approx(area, abs=1e-6)


def test_a_model_of_few_dimensions_takes_the_exact_trace_already(runs, capsys):
    assert evaluated(runs, "exact", capsys, "--exact") == evaluated(runs, "exact", capsys)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("flow", ["--exact"], "--exact is not for RealNVP, whose likelihood takes none of its own"),
        ("flow", ["--n-probes", "2"], "--n-probes is not for RealNVP, whose likelihood takes none of its own"),
        ("potential", ["--n-probes", "2"], "--n-probes is not for OTFlow, whose likelihood takes none of its own"),
        ("probes", ["--exact", "--n-probes", "2"], "--exact and --n-probes both say how the trace is taken"),
        ("probes", ["--n-probes", "0"], "--n-probes must be at least 1: got 0"),
        ("probes", ["--n-probes", "many"], "argument --n-probes.*: invalid int value: 'many'"),
        ("exact", ["--n-probes", "2"], "this FFJORD of 2 dimensions takes the exact trace, as up to 64"),
    ],
)
def test_errors_name_the_option(runs, name, arguments, message, capsys):
    assert main(["evaluate", str(runs / name), "-n", "20", *arguments]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert re.search(message, error), error
    assert "Traceback" not in error
