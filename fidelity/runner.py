"""Trains a configuration, measures the model, and keeps what is published."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine
from cgm_models.model import GenerativeModel, load
from cgm_models.registry import find as find_model
from cgm_models.training import Trainer

from . import problems, results
from .configuration import FOLDER, Configuration
from .results import Result, Run

RUNS = FOLDER.parent / "runs" / "fidelity"
_TRAINER: dict[str, Any] = {"tensorboard": False, "accelerator": "cpu", "checkpoint_every": 2000, "log_every": 100}


def run(configuration: Configuration, seed: int) -> Result:
    """The result with the training of ``seed`` in it, which is made if it is missing, and the median's weights kept."""
    result = results.read(configuration)
    if result.of(seed) is None:
        result = result.with_run(train(configuration, seed))
    median = result.median().seed
    if median != result.published:
        source = model_folder(configuration, median)
        if not source.is_dir():  # of another checkout, whose weights were not kept
            result = result.with_run(train(configuration, median))
        shutil.copytree(source, results.weights_folder(configuration), dirs_exist_ok=True)
        result = replace(result, published=median)  # its times do not depend on the seed
    results.write(configuration, result)
    return result


def train(configuration: Configuration, seed: int) -> Run:
    """Train with ``seed``, from the last checkpoint if an earlier attempt left one, and measure."""
    problem = problems.find(configuration.problem)
    torch.manual_seed(seed)
    model = build(configuration)
    points, held_out = problem.train(configuration.n_train), problem.validation
    trainer = Trainer(**{**_TRAINER, **configuration.trainer}, seed=seed)
    folder = model_folder(configuration, seed).parent
    outcome = trainer.fit(
        model, points.x, points.context, held_out.x, held_out.context, run=folder, resume=folder.is_dir()
    )
    if outcome.ending == "interrupted":
        raise KeyboardInterrupt
    model = load(model_folder(configuration, seed))
    value, error = problem.measure(model)
    return Run(
        seed=seed,
        value=value,
        error=error,
        validation_loss=outcome.validation_loss,
        steps=outcome.step,
        seconds=round(outcome.seconds, 1),
        n_parameters=sum(parameter.numel() for parameter in model.parameters()),
        machine=machine.facts("cpu"),
    )


def build(configuration: Configuration) -> GenerativeModel:
    problem = problems.find(configuration.problem)
    kind: Any = find_model(configuration.model)
    return kind(problem.event_shape, problem.context_dim, **configuration.options)


def model_folder(configuration: Configuration, seed: int) -> Path:
    """Where the training of ``seed`` leaves its weights; not committed."""
    return RUNS / f"{configuration.name}-{configuration.digest()}" / str(seed) / "model"
