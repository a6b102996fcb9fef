"""``cgm sample RUN -n 64 --out grid.png``."""

from __future__ import annotations

import argparse
import inspect
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..training.files import write_atomic
from ..training.run import RunDirectory
from .of_models import check_taken, spellings

if TYPE_CHECKING:
    from torch import Tensor

_SUFFIXES = (".png", ".pdf", ".svg", ".npy", ".csv")
# Arguments that the sample of some models takes.
_OF_MODELS: dict[str, tuple[type, str]] = {
    "temperature": (float, "of flows: scales the latent points about their mean"),
    "n_steps": (int, "of energy models: how many steps of the chains"),
    "start": (str, "of energy models: where chains begin, buffer or noise"),
    "time": (float, "of neural flows: when, from 0 to the flow's end"),
}


def run(arguments: list[str]) -> int:
    options = vars(_parser().parse_args(_joined(arguments)))
    given = {name: options[name] for name in _OF_MODELS if options[name] is not None}
    return sample(
        options["run"],
        options["n"],
        options["out"],
        labels=options["label"],
        contexts=options["context"],
        seed=options["seed"],
        **given,
    )


def sample(
    run_path: str,
    n: int,
    out: str | None = None,
    *,
    labels: list[str] | None = None,
    contexts: list[list[float]] | None = None,
    seed: int = 0,
    **given: Any,
) -> int:
    """Draw ``n`` samples from a run and write them where and as ``out`` says; with labels or contexts, these in turn.

    ``given`` are further arguments of the model's ``sample``.
    """
    import torch

    from ..model import load

    run = RunDirectory.open(run_path)
    facts = run.read_json(run.info_path)
    target = Path(out) if out else run.samples_path / f"samples{'.png' if _drawable(facts) else '.npy'}"
    if target.suffix not in _SUFFIXES:
        raise ValueError(f"--out must end in one of {', '.join(_SUFFIXES)}: got {str(target)!r}")
    if n < 1:
        raise ValueError(f"-n must be at least 1: got {n}")
    model = load(run.model_path)
    arguments = inspect.signature(model.sample).parameters
    check_taken(model, given, [name for name in _OF_MODELS if name in arguments], "whose samples take")
    if labels is not None and contexts is not None:
        raise ValueError("--label and --context both say what to condition on: choose one of them")
    context = None if labels is None else _label_context(labels, n, facts, model.context_dim)
    if contexts is not None:
        context = _number_context(contexts, n, model.context_dim)
    samples = model.sample(n, context, generator=torch.Generator().manual_seed(seed), **given)
    write_samples(samples, target, facts)
    print(f"{n} samples written to {target}")
    return 0


def write_samples(samples: Tensor, path: Path, facts: dict[str, Any]) -> None:
    """A picture, a ``.npy`` array of the samples' own shape, or a CSV table of one flattened sample a row."""
    import io

    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, samples.numpy())
        write_atomic(path, buffer.getvalue())
    elif path.suffix == ".csv":
        text = io.StringIO()
        np.savetxt(text, samples.flatten(1).numpy(), delimiter=",", fmt="%.9g")
        write_atomic(path, text.getvalue())
    elif samples.ndim == 4 and samples.shape[1] in (1, 3):
        from .. import plots

        low, high = facts.get("value_range", (0.0, 1.0))
        plots.sample_grid(samples, path, value_range=(low, high))
    elif samples.shape[1:] == (2,):
        from .. import plots

        plots.scatter_2d(samples, path)
    else:
        raise ValueError(f"samples of shape {tuple(samples.shape[1:])} have no picture: write them to .npy or .csv")


def _label_context(labels: list[str], n: int, facts: dict[str, Any], context_dim: int) -> Tensor:
    import torch

    if not context_dim:
        raise ValueError("--label: this run was fitted without --conditional")
    names = facts.get("class_names") or [str(k) for k in range(context_dim)]
    unknown = [label for label in labels if label not in names]
    if unknown:
        raise ValueError(f"--label: unknown class {unknown[0]!r}. Known: {', '.join(names)}.")
    codes = torch.tensor([names.index(label) for label in labels])
    return codes[torch.arange(n) % len(codes)]


def _number_context(contexts: list[list[float]], n: int, context_dim: int) -> Tensor:
    import torch

    if not context_dim:
        raise ValueError("--context: the model of this run has no context")
    for numbers in contexts:
        if len(numbers) != context_dim:
            shown = ",".join(f"{number:g}" for number in numbers)
            raise ValueError(f"--context must hold {context_dim} numbers for this model: got {len(numbers)} ({shown})")
    return torch.tensor(contexts, dtype=torch.float64)[torch.arange(n) % len(contexts)]


def _joined(arguments: list[str]) -> list[str]:
    """``--context=-1,2`` for ``--context -1,2``, which argparse takes for another option."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] == "--context" and re.match(r"-[\d.]", argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _numbers(text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(map(math.isfinite, numbers)):
        raise argparse.ArgumentTypeError(f"must be finite numbers with commas between them, as 0.5,-1: got {text!r}")
    return numbers


def _drawable(facts: dict[str, Any]) -> bool:
    shape = facts.get("event_shape", [])
    return shape == [2] or (len(shape) == 3 and shape[0] in (1, 3))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("cgm sample", description="Draw samples from a run.")
    parser.add_argument("run", help="a run directory")
    parser.add_argument("-n", type=int, default=64, help="how many samples (default: 64)")
    text = f"a file ending in {', '.join(_SUFFIXES)} (default: in the run's samples/)"
    parser.add_argument("-o", "--out", help=text)
    parser.add_argument("--label", action="append", help="a class to condition on; several times for classes in turn")
    text = "numbers to condition on, as 0.5,-1; several times for contexts in turn"
    parser.add_argument("--context", action="append", type=_numbers, metavar="NUMBERS", help=text)
    for name, (kind, text) in _OF_MODELS.items():
        parser.add_argument(*spellings(name), dest=name, type=kind, help=text)
    parser.add_argument("--seed", type=int, default=0, help="fixes the samples (default: 0)")
    return parser
