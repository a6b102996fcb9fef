"""The committed configurations: what is trained on what, and what it has to reach."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parent
CONFIGURATIONS = FOLDER / "configurations"


@dataclass(frozen=True, eq=False)
class Configuration:
    """A model on a problem.

    Args:
        name: the name of its file.
        problem: one of ``problems.NAMES``.
        model: by name, with its constructor's ``options``.
        trainer: options of ``cgm_models.training.Trainer``.
        n_train: points to draw for training, where the problem has as many as one likes.
        n_seeds: trainings, with the seeds 0, 1, ...; the median counts.
        target: what the score must not exceed, if there is such a promise.
        target_seconds: what the training must not take on two cores.
    """

    name: str
    problem: str
    model: str
    options: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    n_train: int = 1_000_000
    n_seeds: int = 5
    target: float | None = None
    target_seconds: float | None = None

    def training(self) -> dict[str, Any]:
        """The part that the weights depend on."""
        keys = ("problem", "model", "options", "trainer", "n_train")
        return {key: getattr(self, key) for key in keys}

    def digest(self) -> str:
        """Eight letters that differ where ``training()`` does."""
        return hashlib.sha256(json.dumps(self.training(), sort_keys=True).encode()).hexdigest()[:8]


def read(path: Path) -> Configuration:
    """The configuration in a YAML file."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        return Configuration(name=path.stem, **content)
    except TypeError as error:
        raise ValueError(f"{path} is not a configuration: {error}") from error


def read_all() -> list[Configuration]:
    """All committed configurations, by name."""
    return [read(path) for path in sorted(CONFIGURATIONS.glob("*.yaml"))]


def choose(names: list[str]) -> list[Configuration]:
    """Those of the given names, or of the given problems; without names all."""
    known = read_all()
    for name in names:
        if name not in [c.name for c in known] + [c.problem for c in known]:
            raise ValueError(f"unknown configuration {name!r}. Known: {', '.join(c.name for c in known)}.")
    return [c for c in known if not names or c.name in names or c.problem in names]
