"""Likelihoods that may be published, and continuous flows that are trained."""

import copy
import json
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import cgm_models
from cgm_models import data
from cgm_models.cli.main import main
from cgm_models.cnf import FFJORD, NotConvergedError, check_mass, converge, converged_log_prob, mass_in_the_plane
from cgm_models.training import Trainer
from fidelity import continuous
from fidelity.__main__ import main as fidelity
from tests.support.cnf import make, moved

BOX = ((-9.0, 9.0), (-9.0, 9.0))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def stiff(noise=1.0, **options):
    """A flow whose field is so strong that few steps do not integrate it."""
    return moved(FFJORD(dim=2, **{"hidden_features": (8, 8), "n_steps": 1, **options}), noise).double().eval()


def test_the_step_is_halved_until_the_mean_moves_no_more():
    flow, x = stiff(), torch.randn(100, 2, generator=torch.Generator().manual_seed(0)).double()
    found = converged_log_prob(flow, x)
    assert found.change < 1e-3 and found.halvings >= 2
    assert flow.transform.layers[0].solver.n_steps == 1
    with torch.no_grad():
        coarse = flow.log_prob(x)
        with flow.refined(7):
            exact = flow.log_prob(x)
    assert abs(float((found.values - exact).mean())) < 1e-3 < abs(float((coarse - exact).mean()))
    with pytest.raises(NotConvergedError, match=r"still moves by .* at halving 1 of the step") as caught:
        converged_log_prob(flow, x, most_halvings=1)
    assert caught.value.change > 1e-3
    with pytest.raises(ValueError, match="tolerance must be a positive"):
        converged_log_prob(flow, x, tolerance=0.0)


def test_steps_that_leave_the_range_of_numbers_are_halved_too():
    flow = stiff()

    def evaluate():
        n_steps = flow.transform.layers[0].solver.n_steps
        if n_steps < 4:
            raise FloatingPointError("too long")
        flow.sample(1)
        return torch.tensor([1.0 + n_steps**-4.0])

    assert converge(flow, evaluate).halvings == 4
    with pytest.raises(FloatingPointError, match="too long"):
        converge(flow, evaluate, most_halvings=1)


def test_noise_does_not_move_what_converges():
    flow = stiff(exact_up_to=0, n_steps=8)
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0)).double()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    found = converge(flow, lambda: flow.log_prob(x), n_probes=300)
    assert found.change < 1e-3 and torch.equal(torch.get_rng_state(), before)


def test_probes_that_leave_the_mean_uncertain_are_refused():
    """In 65 dimensions, where the same probes at every halving hide how much they matter."""
    flow = moved(FFJORD(dim=65, hidden_features=(16,), n_steps=4)).eval()
    x = torch.randn(20, 65, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        means = torch.stack([flow.log_prob(x).mean() for _ in range(200)])
    expected = float(means.std()) / math.sqrt(8)
    with pytest.raises(
        NotConvergedError, match=r"a standard error of .* exact=True, or for \d+ times as many"
    ) as caught:
        converged_log_prob(flow, x)
    assert caught.value.change < 1e-3 and 0.3 * expected < caught.value.probe_error < 2.0 * expected
    found = converged_log_prob(flow, x, exact=True)
    assert found.probe_error == 0.0 and found.change < 1e-3
    exactly = FFJORD(dim=65, hidden_features=(16,), n_steps=4, exact_up_to=65).eval()
    exactly.load_state_dict(flow.state_dict())
    torch.testing.assert_close(found.values, converged_log_prob(exactly, x).values)
    many = converged_log_prob(flow, x, n_probes=64, tolerance=0.05)
    assert 0.0 < many.probe_error < caught.value.probe_error
    assert abs(float((many.values - found.values).mean())) < 5.0 * many.probe_error
    with pytest.raises(ValueError, match="n_probes must be a whole number, at least 1: got 0"):
        converged_log_prob(flow, x, n_probes=0)


def test_what_seeds_itself_does_not_hide_its_probes():
    flow = stiff(exact_up_to=0, n_steps=8)
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0)).double()

    def evaluate():
        torch.manual_seed(0)
        return flow.log_prob(x)

    assert converge(flow, evaluate, tolerance=1.0).probe_error > 1e-3


def test_an_evaluation_past_the_model_is_refused():
    """Of a copy, or in another thread, the steps are not halved: the mean would not move, whatever they are."""
    flow, x = stiff(), torch.randn(9, 2, generator=torch.Generator().manual_seed(0)).double()
    other = copy.deepcopy(flow)
    for evaluate in (lambda: other.log_prob(x), lambda: ThreadPoolExecutor(1).submit(flow.log_prob, x).result()):
        with pytest.raises(RuntimeError, match="integrated nothing of this FFJORD"):
            converge(flow, evaluate)


def test_adaptive_steps_converge_too():
    flow = stiff(solver="dopri5", rtol=1e-2, atol=1e-2)
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0)).double()
    assert converged_log_prob(flow, x).halvings >= 1
    assert flow.transform.layers[0].solver.rtol == 1e-2


def test_a_density_has_mass_one_where_the_steps_are_fine_enough():
    flow = make("concat")
    assert check_mass(flow, BOX, n=80) == pytest.approx(1.0, abs=1e-3)
    assert mass_in_the_plane(flow, ((0.0, 9.0), (-9.0, 9.0)), n=80) < 0.9
    with pytest.raises(NotConvergedError, match=r"the density integrates to .* not to 1 ± 0.01"):
        check_mass(flow, ((0.0, 9.0), (-9.0, 9.0)), n=80)
    conditional = make("context-film", noise=0.3)
    mass = mass_in_the_plane(conditional, BOX, torch.tensor([0.5, -0.5]).double(), n=80)
    assert mass == pytest.approx(1.0, abs=1e-3)
    with pytest.raises(ValueError, match=r"points of the plane: got event_shape \(3,\)"):
        mass_in_the_plane(make("film"), BOX)
    for extent in (((9.0, -9.0), (-9.0, 9.0)), ((-9.0, 9.0), (1.0, 1.0)), ((-9.0, math.inf), (-9.0, 9.0))):
        with pytest.raises(ValueError, match=r"extent must be \(\(x_min, x_max\), .* each minimum the smaller: got"):
            check_mass(flow, extent)


def test_a_chunk_is_a_whole_number_of_rows():
    flow, x = make("concat"), torch.zeros(3, 2).double()
    for chunk in (0, -1, 2.5):
        with pytest.raises(ValueError, match="chunk must be a whole number, at least 1"):
            converged_log_prob(flow, x, chunk=chunk)
        with pytest.raises(ValueError, match="chunk must be a whole number, at least 1"):
            mass_in_the_plane(flow, BOX, n=3, chunk=chunk)
    torch.testing.assert_close(converged_log_prob(flow, x, chunk=2).values, converged_log_prob(flow, x).values)


def test_a_solver_too_coarse_makes_mass_and_is_caught():
    """Divergence by one Euler step: the number that comes out is no density."""
    flow = stiff(noise=1.5, solver="euler")
    assert mass_in_the_plane(flow, BOX, n=80) > 1.02
    with pytest.raises(NotConvergedError):
        check_mass(flow, BOX, n=80)
    with flow.refined(7):
        check_mass(flow, BOX, n=80)


def test_what_is_published_is_converged_and_has_mass_one(monkeypatch):
    flow, x = stiff(), torch.randn(50, 2, generator=torch.Generator().manual_seed(0)).double()
    values = continuous.published(flow, lambda: flow.log_prob(x), BOX)
    torch.testing.assert_close(values, converged_log_prob(flow, x).values)
    with pytest.raises(NotConvergedError, match="integrates to"):
        continuous.published(flow, lambda: flow.log_prob(x), ((0.0, 1.0), (0.0, 1.0)))
    discrete = cgm_models.flows.RealNVP(dim=2, n_layers=1)
    assert continuous.published(discrete, lambda: x[:, 0], BOX) is not None


def test_a_flow_whose_likelihood_is_none_does_not_stop_the_others(monkeypatch, capsys):
    """Trained with steps too long, a flow learns to make mass of their error."""

    def run(configuration, seed):
        raise NotConvergedError("FFJORD: the density integrates to 0.3029", 0.7)

    monkeypatch.setattr("fidelity.runner.run", run)
    monkeypatch.setattr("fidelity.page.write", lambda drawn: None)
    assert fidelity(["moons-ffjord", "pinwheel", "--seeds", "1"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in told] == [
        f"{name}-ffjord seed 0: not published" for name in ("moons", "pinwheel")
    ]


def test_a_flow_trained_on_a_gaussian_comes_close_to_it(tmp_path):
    """KL(p ‖ q) over fresh points, with the trainer, its moving average and its checkpoints."""
    generator = torch.Generator().manual_seed(0)
    mean, root = torch.tensor([1.0, -0.5]), torch.tensor([[0.8, 0.0], [0.5, 0.4]])
    law = torch.distributions.MultivariateNormal(mean, scale_tril=root)
    x = mean + torch.randn(4000, 2, generator=generator) @ root.T
    flow = FFJORD(dim=2, hidden_features=(16,), activation="softplus", n_steps=4, kinetic=0.01, frobenius=0.01)
    trainer = Trainer(
        max_steps=150, batch_size=256, lr=0.03, schedule="one-cycle", ema_decay=0.95, tensorboard=False, progress=False,
        accelerator="cpu",
    )  # fmt: skip
    trainer.fit(flow, x[:3000], validation_x=x[3000:], run=tmp_path / "run")
    again = cgm_models.load(tmp_path / "run" / "model")
    fresh = mean + torch.randn(2000, 2, generator=generator) @ root.T
    found = converged_log_prob(again, fresh)
    excess = law.log_prob(fresh) - found.values
    error = float(excess.std()) / math.sqrt(len(excess))
    assert -4 * error < float(excess.mean()) < 0.05
    with again.refined(found.halvings):
        check_mass(again, ((-4.0, 6.0), (-5.0, 4.0)), n=80)


def test_a_continuous_flow_on_the_command_line(tmp_path, capsys):
    run, options = tmp_path / "moons", ("--hidden_features", "[16]", "--n_steps", "4", "--data_n", "400")
    assert (
        main(["fit", "FFJORD", "--data", "moons", "--out", str(run), *options, "--trainer.max_steps=20", "--quiet"])
        == 0
    )
    assert main(["sample", str(run), "-n", "8", "--out", str(tmp_path / "eight.npy")]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(run), "-n", "30", "--permutations", "9", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["FFJORD"]
    model, moons = cgm_models.load(run / "model"), data.load("moons", n=400)
    assert row["nll"] == pytest.approx(-float(converged_log_prob(model, moons.test_x).values.mean()), abs=1e-5)
    assert row["step_change"] < 1e-3 and row["n_evaluations"] % (4 * 4) == 0 < row["n_evaluations"]
    assert main(["evaluate", str(run), "-n", "30", "--permutations", "9"]) == 0
    assert "NFE" in capsys.readouterr().out
    assert main(["list", "models"]) == 0
    assert "FFJORD" in capsys.readouterr().out


def test_images_by_class(tmp_path, capsys):
    run = tmp_path / "digits"
    options = ("--n_levels=17", "--hidden_features=[16]", "--n_steps=2", "--data_n=200", "--trainer.max_steps=4")
    assert (
        main(["fit", "FFJORD", "--data", "digits", "--conditional=true", "--out", str(run), *options, "--quiet"]) == 0
    )
    capsys.readouterr()
    assert main(["evaluate", str(run), "-n", "20", "--permutations", "9", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["FFJORD"]
    assert 0.0 < row["bits_per_dim"] < 10.0 and row["step_change"] < 1e-3


def test_a_likelihood_that_does_not_converge_is_not_shown(monkeypatch):
    from cgm_models.cli import scores

    flow, moons = stiff(), data.load("moons", n=200)
    monkeypatch.setattr(moons.__class__, "density", None, raising=False)
    monkeypatch.setattr("cgm_models.cnf.converge", lambda *_: (_ for _ in ()).throw(NotConvergedError("it moves", 0.5)))
    assert scores.likelihood(flow.float(), moons) == {"step_change": 0.5}
    monkeypatch.undo()
    noisy = FFJORD(dim=2, hidden_features=(8,), n_steps=4, exact_up_to=0)
    told = scores.likelihood(moved(noisy, 0.5), moons)
    assert told.keys() == {"step_change", "probe_error"} and told["step_change"] < 1e-3 < told["probe_error"]
