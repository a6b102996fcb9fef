"""How long a step and a sample take. Times of one go, and those alone, can be compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from cgm_models.model import load

from . import problems, results, runner
from .configuration import Configuration
from .results import Timing

_STEPS, _DRAWS = 20, 3


def measure(configuration: Configuration, go: dict[str, Any]) -> Timing:
    """Time the steps of a new model, and the samples of the published one; the result is stored.

    ``go`` are the facts of the machine at the beginning of the run, which tell its times from those of another.
    """
    draws = _median(_sampling(configuration), _DRAWS)
    timing = Timing(round(_median(_stepping(configuration), _STEPS), 6), round(draws, 6), go)
    results.write(configuration, replace(results.read(configuration), timing=timing))
    return timing


def _stepping(configuration: Configuration) -> Callable[[], object]:
    points = problems.find(configuration.problem).train(configuration.trainer["batch_size"])
    rows = slice(0, configuration.trainer["batch_size"])
    x, context = points.x[rows], None if points.context is None else points.context[rows]
    model = runner.build(configuration).train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)

    def step() -> None:
        model.loss(x, context).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _sampling(configuration: Configuration) -> Callable[[], object]:
    problem = problems.find(configuration.problem)
    context = problem.test.context
    if context is not None:  # those of the test points, again and again
        context = context[torch.arange(problem.n_samples, device=context.device) % len(context)]
    model = load(results.weights_folder(configuration))
    return lambda: model.sample(problem.n_samples, context)


def _median(action: Callable[[], object], rounds: int) -> float:
    seconds = []
    for _ in range(1 + rounds):
        began = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])  # the first warms up
