"""The published models, evaluated again: a number on the page must be what its committed weights give."""

import json
from pathlib import Path

import pytest
import torch

from cgm_models.model import load
from fidelity import __main__ as command
from fidelity import configuration, page, problems, results
from fidelity.annealed import is_annealed

ALL = configuration.read_all()
TRAINED = [c for c in ALL if results.read(c).runs]
ROUNDING = 2e-3  # between processors, in nats or bits


@pytest.mark.parametrize("chosen", TRAINED, ids=lambda c: c.name)
def test_the_weights_give_the_published_number(chosen):
    result, problem = results.read(chosen), problems.find(chosen.problem)
    run = result.median()
    assert run.seed == result.published
    model = load(results.weights_folder(chosen))
    value, error = problem.measure(model)
    # Chains that round differently part ways: between processors an annealed log Z moves within its error.
    tolerance, relative = (6 * run.error, 0.5) if is_annealed(type(model)) else (ROUNDING, 0.05)
    assert value == pytest.approx(run.value, abs=tolerance)
    assert error == pytest.approx(run.error, rel=relative)
    if problem.relative_to_truth:
        assert value > -3 * error, "more likely than the truth: the density does not integrate to one"


@pytest.mark.parametrize("chosen", [c for c in ALL if c.target is not None], ids=lambda c: c.name)
def test_promises_are_kept(chosen):
    run = results.read(chosen).median()
    assert run.value <= chosen.target
    if chosen.target_seconds is not None:
        assert run.seconds <= chosen.target_seconds


@pytest.mark.parametrize("chosen", ALL, ids=lambda c: c.name)
def test_the_median_is_that_of_all_trainings_asked_for(chosen):
    result = results.read(chosen)
    assert [run.seed for run in result.runs] == list(range(chosen.n_seeds))
    assert result.published == result.median().seed


@pytest.mark.parametrize("name", [name for name in problems.NAMES if problems.find(name).best_target is not None])
def test_the_best_model_of_a_problem_is_as_good_as_promised(name):
    best = min(results.read(c).median().value for c in TRAINED if c.problem == name)
    assert best <= problems.find(name).best_target


def test_results_are_of_the_configurations_as_they_are():
    known = {c.name: c for c in ALL}
    for path in results.RESULTS.glob("*.json"):
        assert json.loads(path.read_text())["training"] == known[path.stem].training(), f"{path.stem} changed since"
    assert {folder.name for folder in results.WEIGHTS.iterdir()} == {c.name for c in TRAINED}
    assert sum(file.stat().st_size for file in Path(results.WEIGHTS).rglob("*.safetensors")) < 12e6


def test_the_page_shows_the_results():
    assert page.PAGE.read_text(encoding="utf-8") == page.render()


def timed(date, load):
    facts = {"device": "a processor", "commit": "abc", "date": f"2026-11-{date}T10:00:00", "load_average": load}
    return results.Timing(0.01, 0.1, facts)


def test_times_of_one_go_are_said_to_be_so_and_those_of_several_are_marked():
    one, other = timed("21", [8.0, 8.0, 8.0]), timed("22", None)
    said = page._goes([one, one])
    assert said == "taken in one go (a processor, 2026-11-21T10:00, commit abc, load average 8.0 before it)"
    assert page._mark(page._marks([one, one]), one) == ""
    said = page._goes([other, one, other])
    assert "in 2 goes" in said and said.index("[1] a processor, 2026-11-21") < said.index("[2] a processor, 2026-11-22")
    assert page._mark(page._marks([other, one]), other) == "[2] "
    assert page._goes([]) == "not taken yet"


def test_all_models_that_are_timed_at_once_have_one_go(monkeypatch):
    goes = []
    monkeypatch.setattr(command.timing, "measure", lambda c, go: goes.append(go) or timed("21", None))
    command._time(ALL[:3])
    assert len(goes) == 3 and all(go is goes[0] for go in goes)


def test_a_conditional_problem_scores_the_truth_zero():
    """The exact conditional, computed another way: from the joint density and the marginal of the context."""
    problem = problems.find("gaussian")
    points = problem.test
    joint = torch.cat((points.context, points.x), 1).double()
    centred = joint - joint.mean(0)
    covariance = centred.T @ centred / len(joint)

    class Fitted:
        def log_prob(self, x, context):
            both = torch.cat((context, x), 1).double()
            whole = torch.distributions.MultivariateNormal(joint.mean(0), covariance)
            given = torch.distributions.MultivariateNormal(joint.mean(0)[:2], covariance[:2, :2])
            return whole.log_prob(both) - given.log_prob(context.double())

    value, _ = problem.measure(Fitted())
    assert abs(value) < 1e-3
