"""``cgm fit MODEL --data DATA [--out RUN]``."""

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
from .training import TRAINING_OPTIONS, add_training, is_trained, launched_rank, make_trainer, train

_DATA_OPTIONS = {
    "n": (int, "how many points: drawn for the 2-D sets, a random subset of the others"),
    "seed": (int, "fixes the drawing, the order of the rows and thereby the split"),
    "test_fraction": (float, "share held out for testing"),
    "folder": (str, "where the IDX files of mnist lie"),
    "noise": (float, "noise level of moons, circles, rings and swissroll in place of the standard one"),
    "without_class": (
        str,
        "leave out a class of images or of a table, by its name; cgm evaluate counts it as outliers",
    ),
    "label_column": (str, "name or number of a file's column that holds the class label"),
}
_NOT_WRITTEN = ("config", "overwrite", "quiet", "out", "resume")


def run(arguments: list[str]) -> int:
    options = parse(arguments)
    return fit(options)


def parse(arguments: list[str]) -> dict[str, Any]:
    """The options of a fit; those of the model, and of the trainer, are read off the constructors."""
    arguments = with_underscores(arguments)
    if arguments and not arguments[0].startswith("-"):
        arguments = ["--model", *arguments]
    arguments = _with_config_of_run(arguments)
    name = _model_name(arguments)
    parser = _parser(name)
    options = parser.parse_args(arguments).as_dict()
    for needed in ("model", "data"):
        if not options.get(needed):
            known = f" Known: {', '.join(registry.names())}." if needed == "model" else ""
            raise ValueError(f"--{needed} is missing: say cgm fit MODEL --data DATA.{known}")
    options["out"] = _out(options["out"], options["model"], options["data"])
    if options.get("resume") and options["overwrite"]:
        raise ValueError("--resume goes on with the run that --overwrite would replace: choose one of them")
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
    trainer = make_trainer(options)
    first = launched_rank() == 0
    if first and not options["quiet"]:
        print(f"run directory: {options['out']}", flush=True)
    torch.manual_seed(options["seed"])
    model = kind(event_shape=data.event_shape, context_dim=context_dim, **_model_options(options))
    run = _run_directory(options, first)
    try:
        if first:
            write_atomic(run.config_path, _yaml({k: plain(v) for k, v in options.items() if k not in _NOT_WRITTEN}))
        began = time.perf_counter()
        if trainer is None:
            status = _fit_alone(model, data, options, run)
        else:
            status = train(trainer, model, data, options, run)
        return _finish(run, model, data, time.perf_counter() - began, status, options["quiet"]) if first else 0
    finally:
        run.discard()  # does nothing once the run is committed


def _fit_alone(model: Any, data: Any, options: dict[str, Any], run: RunDirectory) -> str:
    """Let the model fit itself; its status."""
    import torch

    model.fit(
        data.train_x,
        data.train_context if model.context_dim else None,
        generator=torch.Generator().manual_seed(options["seed"]),
        progress=not options["quiet"],
        log=run.log,
    )
    return model.status()


def _run_directory(options: dict[str, Any], first: bool) -> RunDirectory:
    """Of several processes the first makes it."""
    if not first:
        return RunDirectory(options["out"])
    if options.get("resume"):
        return RunDirectory.continued(options["out"])
    return RunDirectory.create(options["out"], overwrite=options["overwrite"])


def _finish(run: RunDirectory, model: Any, data: Any, seconds: float, status: str, quiet: bool) -> int:
    import torch

    if run.replaces_another and status == "not fitted":
        raise KeyboardInterrupt  # nothing new that could take the place of the old run
    interrupted = "interrupted" in status
    model.save(run.model_path)
    facts = {
        "model": type(model).__name__,
        "data": data.name,
        "event_shape": list(data.event_shape),
        "value_range": list(data.value_range),
        "class_names": None if data.class_names is None else list(data.class_names),
        "n_train": data.n_train,
        "status": status,
        "interrupted": interrupted,
        "fit_seconds": round(seconds, 2),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "torch": torch.__version__,
        "python": sys.version.split()[0],
    }
    run.write_json(run.info_path, facts)
    run.commit()
    if not quiet:
        print(f"{type(model).__name__} on {data.name}: {status} in {seconds:.1f} s, written to {run.path}")
    return 130 if interrupted or status == "not fitted" else 0


def _parser(name: str | None) -> Any:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        prog="cgm fit", usage="cgm fit MODEL --data DATA [--out RUN] [options]", description=_describe(name)
    )
    parser.add_argument("--config", action="config", help="a YAML file of these options, as a run's config.yaml")
    parser.add_argument("--model", type=str | None, help=f"one of {', '.join(registry.names())}")
    parser.add_argument("--data", type=str | None, help="a data set by name or path (cgm list tells the names)")
    parser.add_argument(
        "--out", type=str | None, help="the run directory to write (default: runs/<model>-<data>, in lower case)"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the run in the directory once the new one is fitted"
    )
    parser.add_argument("--conditional", type=bool, default=False, help="condition on the class labels")
    parser.add_argument("--seed", type=int, default=0, help="fixes the fit (default: 0)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar, no closing line")
    for key, (kind, text) in _DATA_OPTIONS.items():
        parser.add_argument(f"--data_{key}", type=kind | None, help=text)
    if name is not None:
        kind = registry.find(name)
        add_constructor(parser, kind)
        if is_trained(kind):
            add_training(parser)
    return parser


def _describe(name: str | None) -> str:
    if name is None:
        return f"Fit a model; cgm fit MODEL --help tells its options. Models: {', '.join(registry.names())}."
    return f"{name}: {registry.summaries().get(name, '')}. -- may be spelled with - or _."


def _values(arguments: list[str], *names: str) -> dict[str, str]:
    """What the options of these names are given, before anything else is known."""
    values = {}
    for flag, follower in zip(arguments, [*arguments, ""][1:], strict=True):
        name, equals, value = flag.partition("=")
        if name in names:
            values[name] = value if equals else follower
    return values


def _out(given: str | None, model: str, data: str) -> str:
    """The run directory that is asked for, else the one named after model and data (a file without its suffix)."""
    if given is not None and not given.strip():
        raise ValueError("--out is empty: name a run directory, or leave it out for runs/<model>-<data>")
    return given or str(Path("runs", f"{model}-{Path(data).stem}".lower()))


def _with_config_of_run(arguments: list[str]) -> list[str]:
    """With --resume, what the run was started with counts where the options say nothing else."""
    values = _values(arguments, "--out", "--config", "--resume", "--model", "--data")
    whole = "--model" in values and "--data" in values
    if "--resume" not in values or "--config" in values or not (whole or "--out" in values):
        return arguments
    out = _out(values.get("--out"), values.get("--model", ""), values.get("--data", ""))
    config = RunDirectory(out).config_path
    if config.is_file():
        return ["--config", str(config), *arguments]
    if not whole:
        raise ValueError(
            f"--resume takes the model and the data from {config}, which is not there: if the run was killed before "
            "its config was written, repeat the whole command with --resume"
        )
    return arguments


def _model_name(arguments: list[str]) -> str | None:
    """The model that the options name, or else the file given by --config."""
    values = _values(arguments, "--model", "--config")
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
    own |= {f"data_{key}" for key in _DATA_OPTIONS} | set(TRAINING_OPTIONS)
    return {key: value for key, value in options.items() if key not in own}


def _yaml(options: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(options, sort_keys=False)
