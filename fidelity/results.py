"""What the trainings reached, as committed: one JSON file and one set of weights for each configuration."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cgm_models.training import write_atomic

from .configuration import FOLDER, Configuration

RESULTS, WEIGHTS = FOLDER / "results", FOLDER / "weights"


@dataclass(frozen=True)
class Run:
    """One training: ``value`` ± ``error`` on the test points, and the lowest ``validation_loss`` on the way."""

    seed: int
    value: float
    error: float
    validation_loss: float | None
    steps: int
    seconds: float
    n_parameters: int
    machine: dict[str, Any]


@dataclass(frozen=True)
class Timing:
    """Medians: of a step of the training, and of drawing as many samples as the problem asks for.

    ``machine`` is that of the whole go, as it was when the first model of it was timed.
    """

    step_seconds: float
    sampling_seconds: float
    machine: dict[str, Any]

    @property
    def go(self) -> tuple[str, str, str]:
        """What tells a go from another: its date, commit and device."""
        return self.machine["date"], str(self.machine["commit"]), self.machine["device"]


@dataclass(frozen=True)
class Result:
    """All trainings of a configuration; the weights of the seed ``published``, the median one, are kept."""

    training: dict[str, Any]
    runs: list[Run] = field(default_factory=list)
    published: int | None = None
    timing: Timing | None = None

    def of(self, seed: int | None) -> Run | None:
        return next((run for run in self.runs if run.seed == seed), None)

    def median(self) -> Run:
        """The run in the middle, the worse one of two."""
        value = statistics.median_high(run.value for run in self.runs)
        return next(run for run in self.runs if run.value == value)

    def with_run(self, run: Run) -> Result:
        runs = sorted([*(old for old in self.runs if old.seed != run.seed), run], key=lambda r: r.seed)
        return replace(self, runs=runs)


def weights_folder(configuration: Configuration) -> Path:
    return WEIGHTS / configuration.name


def read(configuration: Configuration) -> Result:
    """The result so far; empty where there is none, or where it is of another training."""
    path = RESULTS / f"{configuration.name}.json"
    if not path.is_file():
        return Result(configuration.training())
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["training"] != configuration.training():
        return Result(configuration.training())
    timing = None if content["timing"] is None else Timing(**content["timing"])
    return Result(content["training"], [Run(**run) for run in content["runs"]], content["published"], timing)


def write(configuration: Configuration, result: Result) -> None:
    write_atomic(RESULTS / f"{configuration.name}.json", json.dumps(asdict(result), indent=2) + "\n")
