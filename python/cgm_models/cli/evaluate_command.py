"""``cgm evaluate RUN``."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..training.run import RunDirectory
from .of_models import check_taken, spellings

if TYPE_CHECKING:
    from torch import Tensor

    from ..data import Dataset
    from ..model import GenerativeModel


def run(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    settings = {"n": options.n, "seed": options.seed, "n_permutations": options.permutations}
    trace = {"exact": options.exact, "n_probes": options.n_probes}
    rows = evaluate(options.run, outliers=options.outliers or (), **trace, **settings)
    if options.json:
        import json

        print(json.dumps(rows, indent=2))
        return 0
    from .console import console
    from .scores import table

    console().print(
        table(rows, f"{options.run}: {'as many as training points' if options.n is None else options.n} samples")
    )
    return 0


def evaluate(
    run_path: str,
    *,
    n: int | None = None,
    seed: int = 0,
    n_permutations: int = 199,
    outliers: Sequence[str] = (),
    exact: bool = False,
    n_probes: int | None = None,
) -> dict[str, dict[str, float]]:
    """Score a run's samples beside the reference rows; also written to the run's ``metrics.json``.

    ``outliers`` are data sets of the same shape for the model to tell from the held-out points; ``exact`` and
    ``n_probes`` say how a continuous flow that estimates its trace takes it here.
    """
    import torch

    from ..model import load
    from .outliers import detection
    from .scores import likelihood, references, score

    run = RunDirectory.open(run_path)
    data = _checked_data(run, n, n_permutations)
    model: Any = load(run.model_path)
    trace = _trace(model, exact, n_probes)
    n = data.n_train if n is None else n
    clouds = references(data, n, torch.Generator().manual_seed(seed))
    training = clouds.pop("training split")
    name = type(model).__name__
    clouds[name] = _samples(model, data, n, seed)
    clouds["training split"] = training
    rows = {key: score(cloud, data, n_permutations=n_permutations) for key, cloud in clouds.items()}
    rows[name] |= likelihood(model, data, **trace)
    with model.asking(**trace) if trace else contextlib.nullcontext():
        found = detection(model, data, outliers)
    for key, row in found.items():
        rows[key] |= row
    content = {"n_samples": n, "n_held_out": len(data.test_x), "seed": seed, **trace, "rows": rows}
    run.write_json(run.metrics_path, content)
    return rows


def _checked_data(run: RunDirectory, n: int | None, n_permutations: int) -> Dataset:
    """The data of the run, if there are enough of them and the numbers of the command line make sense."""
    if n is not None and n < 6:
        raise ValueError(f"-n must be at least 6, for the neighbours that the metrics count: got {n}")
    if n_permutations < 1:
        raise ValueError(f"--permutations must be at least 1: got {n_permutations}")
    data = load_data(run)
    if len(data.test_x) < 6:
        raise ValueError(f"{data.name} holds out {len(data.test_x)} points: too few to evaluate on")
    return data


def _trace(model: GenerativeModel, exact: bool, n_probes: int | None) -> dict[str, Any]:
    """What was asked for, if the model can be asked for it."""
    from ..cnf import ContinuousFlow

    trace = ({"exact": True} if exact else {}) | ({} if n_probes is None else {"n_probes": n_probes})
    arguments = inspect.signature(type(model)).parameters if isinstance(model, ContinuousFlow) else {}
    check_taken(model, trace, [name for name in ("exact", "n_probes") if name in arguments], "whose likelihood takes")
    if n_probes is None:
        return trace
    if exact:
        raise ValueError("--exact and --n-probes both say how the trace is taken: choose one of them")
    if n_probes < 1:
        raise ValueError(f"--n-probes must be at least 1: got {n_probes}")
    dim, exact_up_to = math.prod(model.event_shape), model.config.get("exact_up_to", 0)
    if dim <= exact_up_to:
        raise ValueError(
            f"--n-probes: this {type(model).__name__} of {dim} dimensions takes the exact trace, as up to {exact_up_to}"
        )
    return trace


def _samples(model: GenerativeModel, data: Dataset, n: int, seed: int) -> Tensor:
    """Of classes as often as in the data, and in the order of the training split, which is random."""
    import torch

    labels = None
    if model.context_dim and data.train_context is not None:
        labels = data.train_context[torch.arange(n) % data.n_train]
    return model.sample(n, labels, generator=torch.Generator().manual_seed(seed)).float()


def load_data(run: RunDirectory) -> Dataset:
    """The data set that the run was fitted to."""
    import yaml

    from .. import data as data_sets

    if not run.config_path.is_file():
        raise FileNotFoundError(f"{run.path} has no config.yaml, which names its data")
    try:
        options: Any = yaml.safe_load(run.config_path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"{run.config_path} is not valid YAML: {said}") from error
    if not isinstance(options, dict) or not isinstance(options.get("data"), str):
        raise ValueError(f"{run.config_path} does not name its data: it needs a line like 'data: digits'")
    options = {str(key): value for key, value in options.items()}
    given = {k.removeprefix("data_"): v for k, v in options.items() if k.startswith("data_") and v is not None}
    try:
        return data_sets.load(options["data"], **given)
    except TypeError as error:
        raise ValueError(f"{run.config_path} holds wrong options of the data: {error}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("cgm evaluate", description="Compare a run's samples with held-out data.")
    parser.add_argument("run", help="a run directory")
    parser.add_argument("-n", type=int, help="how many samples (default: as many as training points)")
    parser.add_argument("--seed", type=int, default=0, help="fixes the samples (default: 0)")
    parser.add_argument("--permutations", type=int, default=199, help="of the energy test (default: 199)")
    text = "a data set of the same shape to tell from the held-out points; several times for several"
    parser.add_argument("--outliers", action="append", help=text)
    text = "of FFJORD: the likelihood by the exact trace in any dimension"
    parser.add_argument("--exact", action="store_true", help=text)
    text = "of FFJORD beyond exact_up_to dimensions: how many probes estimate the trace (default: the model's)"
    parser.add_argument(*spellings("n_probes"), dest="n_probes", type=int, metavar="N", help=text)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser
