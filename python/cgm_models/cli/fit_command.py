"""``cgm fit MODEL --data DATA --out RUN``."""

from __future__ import annotations

import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .. import registry
from ..training.files import write_atomic
from ..training.run import RunDirectory
from .options import add_constructor, plain, with_underscores

_DATA_OPTIONS = {
    "n": (int, "how many points: drawn for the 2-D sets, a random subset of the others"),
    "seed": (int, "fixes the drawing, the order of the rows and thereby the split"),
    "test_fraction": (float, "share held out for testing"),
    "folder": (str, "where the IDX files of mnist lie"),
    "noise": (float, "noise level of moons, circles, rings and swissroll in place of the standard one"),
    "label_column": (str, "name or number of a file's column that holds the class label"),
}
_NOT_WRITTEN = ("config", "overwrite", "quiet", "out")


def run(arguments: list[str]) -> int:
    options = parse(arguments)
    return fit(options)


def parse(arguments: list[str]) -> dict[str, Any]:
    """The options of a fit; those of the model are read off its constructor."""
    arguments = with_underscores(arguments)
    if arguments and not arguments[0].startswith("-"):
        arguments = ["--model", *arguments]
    name = _model_name(arguments)
    parser = _parser(name)
    options = parser.parse_args(arguments).as_dict()
    for needed in ("model", "data", "out"):
        if not options.get(needed):
            known = f" Known: {', '.join(registry.names())}." if needed == "model" else ""
            raise ValueError(f"--{needed} is missing: say cgm fit MODEL --data DATA --out RUN.{known}")
    return options


def fit(options: dict[str, Any]) -> int:
    """Fit, and write the run directory; 130 if it was interrupted, with what was fitted until then."""
    import torch

    from .. import data as data_sets

    given = {key: options[f"data_{key}"] for key in _DATA_OPTIONS if options.get(f"data_{key}") is not None}
    data = data_sets.load(options["data"], **given)
    if options["conditional"] and not data.n_classes:
        raise ValueError(f"--conditional needs class labels, and {data.name} has none")
    context_dim = data.n_classes if options["conditional"] else 0
    kind = registry.find(options["model"])
    torch.manual_seed(options["seed"])
    model = kind(event_shape=data.event_shape, context_dim=context_dim, **_model_options(options))
    run = RunDirectory.create(options["out"], overwrite=options["overwrite"])
    try:
        write_atomic(run.config_path, _yaml({k: plain(v) for k, v in options.items() if k not in _NOT_WRITTEN}))
        began = time.perf_counter()
        model.fit(
            data.train_x,
            data.train_context if context_dim else None,
            generator=torch.Generator().manual_seed(options["seed"]),
            progress=not options["quiet"],
            log=run.log,
        )
        return _finish(run, model, data, time.perf_counter() - began, options["quiet"])
    finally:
        run.discard()  # does nothing once the run is committed


def _finish(run: RunDirectory, model: Any, data: Any, seconds: float, quiet: bool) -> int:
    import torch

    if run.replaces_another and model.status() == "not fitted":
        raise KeyboardInterrupt  # nothing new that could take the place of the old run
    interrupted = "interrupted" in model.status()
    model.save(run.model_path)
    facts = {
        "model": type(model).__name__,
        "data": data.name,
        "event_shape": list(data.event_shape),
        "value_range": list(data.value_range),
        "class_names": None if data.class_names is None else list(data.class_names),
        "n_train": data.n_train,
        "status": model.status(),
        "interrupted": interrupted,
        "fit_seconds": round(seconds, 2),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "torch": torch.__version__,
        "python": sys.version.split()[0],
    }
    run.write_json(run.info_path, facts)
    run.commit()
    if not quiet:
        print(f"{type(model).__name__} on {data.name}: {model.status()} in {seconds:.1f} s, written to {run.path}")
    return 130 if interrupted or model.status() == "not fitted" else 0


def _parser(name: str | None) -> Any:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        prog="cgm fit", usage="cgm fit MODEL --data DATA --out RUN [options]", description=_describe(name)
    )
    parser.add_argument("--config", action="config", help="a YAML file of these options, as a run's config.yaml")
    parser.add_argument("--model", type=str | None, help=f"one of {', '.join(registry.names())}")
    parser.add_argument("--data", type=str | None, help="a data set by name or path (cgm list tells the names)")
    parser.add_argument("--out", type=str | None, help="the run directory to write")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the run in the directory once the new one is fitted"
    )
    parser.add_argument("--conditional", type=bool, default=False, help="condition on the class labels")
    parser.add_argument("--seed", type=int, default=0, help="fixes the fit (default: 0)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar, no closing line")
    for key, (kind, text) in _DATA_OPTIONS.items():
        parser.add_argument(f"--data_{key}", type=kind | None, help=text)
    if name is not None:
        add_constructor(parser, registry.find(name))
    return parser


def _describe(name: str | None) -> str:
    if name is None:
        return f"Fit a model; cgm fit MODEL --help tells its options. Models: {', '.join(registry.names())}."
    return f"{name}: {registry.summaries().get(name, '')}. -- may be spelled with - or _."


def _model_name(arguments: list[str]) -> str | None:
    """The model that the options name, or else the file given by --config."""
    values = {}
    for flag, follower in zip(arguments, [*arguments, ""][1:], strict=True):
        name, equals, value = flag.partition("=")
        if name in ("--model", "--config"):
            values[name] = value if equals else follower
    if "--model" in values or "--config" not in values:
        return values.get("--model")
    path = Path(values["--config"])
    if not path.is_file():
        raise FileNotFoundError(f"there is no configuration file {path}")
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not isinstance(content.get("model"), str):
        raise ValueError(f"{path} does not name a model: it needs a line like 'model: {registry.names()[0]}'")
    return content["model"]


def _model_options(options: dict[str, Any]) -> dict[str, Any]:
    own = {"config", "model", "data", "out", "overwrite", "conditional", "seed", "quiet"}
    own |= {f"data_{key}" for key in _DATA_OPTIONS}
    return {key: value for key, value in options.items() if key not in own}


def _yaml(options: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(options, sort_keys=False)
