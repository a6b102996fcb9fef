"""``cgm fit`` of the models that the trainer trains."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from .options import add_trainer

if TYPE_CHECKING:
    from ..data import Dataset
    from ..model import GenerativeModel
    from ..training import RunDirectory, Trainer

TRAINING_OPTIONS = ("trainer", "resume", "validation_fraction")


def is_trained(kind: type[GenerativeModel]) -> bool:
    """Whether ``kind`` has a loss to take gradient steps on, rather than a fit of its own."""
    from ..model import GenerativeModel

    return kind.loss is not GenerativeModel.loss


def add_training(parser: Any) -> None:
    """Add the options of a training to those of ``cgm fit``."""
    from ..training import Trainer

    text = "go on from the last checkpoint in --out, with the options in its config.yaml; begin if there is none"
    parser.add_argument("--resume", action="store_true", help=text)
    text = "share of the training points that are not trained on but validated with (default: 0.1)"
    parser.add_argument("--validation_fraction", type=float, default=0.1, help=text)
    add_trainer(parser, Trainer)


def launched_rank() -> int:
    """The rank of this process under torchrun, else 0; known without importing torch."""
    return int(os.environ.get("RANK", "0")) if "TORCHELASTIC_RUN_ID" in os.environ else 0


def make_trainer(options: dict[str, Any]) -> Trainer | None:
    """The trainer that the options describe, None for models that fit themselves."""
    if "trainer" not in options:
        return None
    from ..training import Trainer

    fraction = options["validation_fraction"]
    if not 0.0 <= fraction < 1.0:
        raise ValueError(f"--validation_fraction must lie in [0, 1): got {fraction}")
    return Trainer(**options["trainer"], seed=options["seed"], progress=not options["quiet"])


def train(trainer: Trainer, model: GenerativeModel, data: Dataset, options: dict[str, Any], run: RunDirectory) -> str:
    """Train, and say in a few words how it went."""
    from ..training import NonFiniteError

    n = data.n_train - round(options["validation_fraction"] * data.n_train)
    x, context = data.train_x, data.train_context if model.context_dim else None
    held_out = (x[n:], None if context is None else context[n:]) if n < len(x) else (None, None)
    try:
        result = trainer.fit(
            model, x[:n], None if context is None else context[:n], *held_out, run=run, resume=options["resume"]
        )
    except NonFiniteError:
        run.leave()  # the message names its checkpoint
        raise
    return result.status() if result.step else "not fitted"
