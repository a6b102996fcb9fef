"""One page of all results: a table and a picture for each problem."""

from __future__ import annotations

from typing import Any

from cgm_models.model import GenerativeModel, load
from cgm_models.registry import find as find_model
from cgm_models.training import write_atomic

from . import annealed, continuous, pictures, problems, results
from .configuration import FOLDER, Configuration, read_all
from .results import Result, Run, Timing

PAGE = FOLDER / "RESULTS.md"
_COLUMNS = ("model", "score", "seeds", "target", "parameters", "training", "a step", "sampling")
_HEAD = """\
# What the models reach

Written by `make fidelity` from the committed [configurations](configurations), [results](results) and
[weights](weights), which the tests evaluate again. The score is that of the median seed with the standard error over
the test points, in brackets the range over the seeds; the weights are the median seed's. Times of a step and of
sampling are medians, {goes}; that of the training is as it was, on a machine with other work.
Of models marked "annealed", energy-based ones, log Z is an estimate by annealed importance sampling of {chains} chains
and {temperatures} temperatures; its standard error is part of theirs. Of continuous flows the steps are halved until
that moves the score by less than {step:g}, and in the plane the density integrates to 1 within {mass:g}; a model that
does not come there is not published.
"""


def write(drawn: bool = True) -> None:
    """Write the page from what is there, and its pictures with it unless not ``drawn``."""
    for name in problems.NAMES if drawn else ():
        if pictures.has_picture(name) and (found := _ranked(name)):
            pictures.draw(problems.find(name), {c.model: kept(c) for c in found})
    write_atomic(PAGE, render())


def render() -> str:
    """The page."""
    known = read_all()
    sections = [_section(problems.find(name)) for name in problems.NAMES if name in [c.problem for c in known]]
    head = _HEAD.format(
        goes=_goes(timings()),
        chains=annealed.N_CHAINS, temperatures=annealed.N_TEMPERATURES,
        step=continuous.TOLERANCE, mass=continuous.MASS_TOLERANCE,
    )  # fmt: skip
    return "\n".join([head, *sections])


def timings() -> list[Timing]:
    """Those of all models that have been timed."""
    return [timing for timing in (results.read(c).timing for c in read_all()) if timing is not None]


def _goes(timed: list[Timing]) -> str:
    """In how many goes the times were taken, and how busy the machine was before each of them."""
    if not timed:
        return "not taken yet"
    marks = _marks(timed)
    said = {timing.go: f"{_mark(marks, timing)}{_said(timing.machine)}" for timing in timed}
    if len(marks) == 1:
        return f"taken in one go ({said.popitem()[1]})"
    listed = "; ".join(said[go] for go in marks)
    return f"taken in {len(marks)} goes, and only those with the same number compare ({listed})"


def _marks(timed: list[Timing]) -> dict[tuple[str, str, str], int]:
    return {go: number for number, go in enumerate(sorted({timing.go for timing in timed}), 1)}


def _mark(marks: dict[tuple[str, str, str], int], timing: Timing) -> str:
    """What stands before a time that not all have in common."""
    return f"[{marks[timing.go]}] " if len(marks) > 1 else ""


def _said(facts: dict[str, Any]) -> str:
    load = facts["load_average"]
    busy = "" if load is None else f", load average {load[0]:.1f} before it"
    return f"{facts['device']}, {facts['date'][:16]}, commit {facts['commit']}{busy}"


def _ranked(name: str) -> dict[Configuration, Result]:
    """What is trained of a problem, the best first."""
    found = {c: results.read(c) for c in read_all() if c.problem == name}
    trained = [c for c in found if found[c].runs]
    return {c: found[c] for c in sorted(trained, key=lambda c: found[c].median().value)}


def _section(problem: problems.Problem) -> str:
    found = _ranked(problem.name)
    lines = [f"## {problem.title}", "", problem.note, ""]
    if found:
        lines += [f"| {' | '.join(_COLUMNS)} |", "|---" * len(_COLUMNS) + "|"]
        lines += [_row(problem, c, result) for c, result in found.items()] + [""]
        best, result = next(iter(found.items()))
        lines += [_best(problem, best, result.median()), ""]
        if pictures.has_picture(problem.name):
            lines += [f"![{problem.title}](pictures/{problem.name}.png)", ""]
        lines += [_machines(list(found.values())), ""]
    names = {c.name for c in found}
    if missing := [c.name for c in read_all() if c.problem == problem.name and c.name not in names]:
        lines += [f"Not trained: {', '.join(missing)}.", ""]
    return "\n".join(lines)


def kept(configuration: Configuration) -> GenerativeModel:
    return load(results.weights_folder(configuration))


def _row(problem: problems.Problem, configuration: Configuration, result: Result) -> str:
    timing, run, values = result.timing, result.median(), [run.value for run in result.runs]
    mark = "" if timing is None else _mark(_marks(timings()), timing)
    spread = f" ({min(values):.4f} to {max(values):.4f})" if len(values) > 1 else ""
    target = ""
    if configuration.target is not None:
        target = f"≤ {configuration.target:g}: {met(run.value, configuration.target)}"
    estimated = ", annealed" if annealed.is_annealed(find_model(configuration.model)) else ""
    cells = (
        f"[{configuration.model}](configurations/{configuration.name}.yaml){estimated}",
        f"{run.value:.4f} ± {run.error:.4f}{spread}",
        f"{len(values)} of {configuration.n_seeds}",
        target,
        f"{run.n_parameters:,}",
        f"{run.steps:,} × {configuration.trainer['batch_size']}, {_time(run.seconds)}",
        "" if timing is None else mark + _time(timing.step_seconds),
        "" if timing is None else f"{mark}{problem.n_samples:,} in {_time(timing.sampling_seconds)}",
    )
    return f"| {' | '.join(cells)} |"


def _best(problem: problems.Problem, best: Configuration, run: Run) -> str:
    text = f"The best is {best.model}: {run.value:.4f} {problem.unit}"
    if problem.best_target is None:
        return f"{text}."
    return f"{text}; the best has to reach {problem.best_target:g}: {met(run.value, problem.best_target)}."


def met(value: float, target: float) -> str:
    return "met" if value <= target else "**missed**"


def _machines(found: list[Result]) -> str:
    """Where the medians were trained."""
    medians = [result.median() for result in found]
    trained = {f"{run.machine['device']}, torch {run.machine['torch']}, {run.machine['date'][:10]}" for run in medians}
    return f"Trained: {'; '.join(sorted(trained))}."


def _time(seconds: float) -> str:
    if seconds < 1.0:
        return f"{1e3 * seconds:.3g} ms"
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
