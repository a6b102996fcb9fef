"""cgm sample with what only some models take: temperatures, steps, times and numbers to condition on."""

import re

import numpy as np
import pytest
import torch

import cgm_models
from cgm_models.cli.main import main
from cgm_models.ebm import EnergyModel
from cgm_models.flows import RealNVP
from cgm_models.transport import SlicedWassersteinFlow


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of each kind, as ``save`` leaves it."""
    path = tmp_path_factory.mktemp("runs")
    torch.manual_seed(0)
    models = {
        "flow": RealNVP(dim=2, n_layers=2, context_dim=2, hidden_features=(4,)),
        "energy": EnergyModel(dim=2, hidden_features=(4,), sample_steps=3),
        "particles": SlicedWassersteinFlow((2,), n_steps=2, n_particles=20),
    }
    for parameter in models["flow"].parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    models["particles"].fit(torch.randn(20, 2))
    for name, model in models.items():
        model.save(path / name / "model")
    return path


def drawn(runs, name, *arguments):
    out = runs / "x.npy"
    assert main(["sample", str(runs / name), "-n", "5", "--out", str(out), *arguments]) == 0
    return torch.from_numpy(np.load(out))


def expected(runs, name, *arguments, **options):
    model = cgm_models.load(runs / name / "model")
    return model.sample(5, *arguments, generator=torch.Generator().manual_seed(0), **options)


def test_contexts_are_numbers_taken_in_turn(runs):
    for arguments, rows in (
        (["--context", "0.5,-1"], [[0.5, -1.0]]),
        (["--context", "-1e-1,2", "--context=3,-4"], [[-0.1, 2.0], [3.0, -4.0]]),
    ):
        context = torch.tensor(rows)[torch.arange(5) % len(rows)]
        assert torch.equal(drawn(runs, "flow", *arguments), expected(runs, "flow", context))


def test_options_reach_the_sample_of_the_model(runs):
    context = torch.ones(2)
    cold = drawn(runs, "flow", "--context", "1,1", "--temperature", "0.25")
    assert torch.equal(cold, expected(runs, "flow", context, temperature=0.25))
    assert not torch.equal(cold, expected(runs, "flow", context))
    for spelling in ("--n-steps", "--n_steps"):
        chains = drawn(runs, "energy", spelling, "7", "--start", "noise")
        assert torch.equal(chains, expected(runs, "energy", n_steps=7, start="noise"))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "particles",
            ["--temperature", "1"],
            "--temperature is not for SlicedWassersteinFlow, whose .* none of its own",
        ),
        (
            "energy",
            ["--temperature", "1"],
            "--temperature is not for EnergyModel, whose samples take --n-steps, --start",
        ),
        ("flow", ["--context", "1,1", "--time", "1"], "--time is not for RealNVP, whose samples take --temperature"),
        ("flow", ["--context", "1,1", "--temperature", "-1"], "temperature must be a number, not negative: got -1.0"),
        ("flow", ["--context", "1,1", "--temperature", "inf"], "RealNVP"),
        ("flow", ["--context", "1,1", "--temperature", "warm"], "argument --temperature: invalid float value: 'warm'"),
        ("energy", ["--start", "here"], "start must be one of"),
        ("flow", ["--context", "1,2,3"], r"--context must hold 2 numbers for this model: got 3 \(1,2,3\)"),
        ("flow", ["--context", "1,x"], "argument --context: must be finite numbers with commas .* got '1,x'"),
        ("flow", ["--context", "nan,1"], "must be finite numbers"),
        ("flow", ["--context", "1,1", "--label", "3"], "--label and --context both say"),
        ("energy", ["--context", "1"], "--context: the model of this run has no context"),
    ],
)
def test_errors_name_the_option(runs, name, arguments, message, capsys):
    assert main(["sample", str(runs / name), "--out", str(runs / "none.npy"), *arguments]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert re.search(message, error), error
    assert not (runs / "none.npy").exists()
