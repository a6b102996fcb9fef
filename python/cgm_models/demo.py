"""The main job, from data to tables and pictures: ``make demo``, or ``python -m cgm_models.demo``.

Fits the sliced-Wasserstein flow to scikit-learn's digits, without and with labels, by the commands of ``cgm``; compares
its samples with held-out digits; times the operation behind it; draws what came out.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch

from . import plots
from .cli import fit_command
from .cli.console import console
from .cli.demo_timing import timing_table
from .cli.evaluate_command import evaluate, load_data
from .cli.scores import table
from .model import load
from .training.run import RunDirectory
from .transport import SlicedWassersteinFlow

_PLAIN = ["SlicedWassersteinFlow", "--data", "digits"]
_LABELLED = [*_PLAIN, "--conditional", "true", "--n_steps", "60", "--n_quantiles", "50", "--n_particles", "20000"]
_QUICK = ["--n_steps", "10", "--n_quantiles", "20", "--n_particles", "500"]
_FLOW = "SlicedWassersteinFlow"


def main(argv: list[str] | None = None) -> int:
    """Run the demo; the exit status."""
    options = _parser().parse_args(argv)
    began = time.perf_counter()
    out = Path(options.out)
    show = console()
    extra = _QUICK if options.quick else []
    for name, arguments in (("flow", _PLAIN), ("flow_with_labels", _LABELLED)):
        code = fit_command.run([*arguments, *extra, "--out", str(out / name), "--overwrite"])
        if code:
            return code
    show.print(table(quality(out, 19 if options.quick else 199), "Held-out digits"))
    show.print(timing_table(rounds=2 if options.quick else 7, scale=0.02 if options.quick else 1.0))
    for picture in pictures(out):
        show.print(f"wrote {picture}", highlight=False)
    show.print(f"{time.perf_counter() - began:.0f} s in all", highlight=False)
    return 0


def quality(out: Path, n_permutations: int) -> dict[str, dict[str, float]]:
    """The rows of the first table."""
    rows = evaluate(str(out / "flow"), n_permutations=n_permutations)
    training = rows.pop("training split")
    rows["sliced-Wasserstein flow"] = rows.pop(_FLOW)
    rows["... with labels"] = evaluate(str(out / "flow_with_labels"), n_permutations=n_permutations)[_FLOW]
    rows["training split"] = training
    return rows


def pictures(out: Path) -> list[Path]:
    """Draw samples beside data, every class, the way of some particles, and the distance left; the files."""
    run, labelled = RunDirectory.open(out / "flow"), RunDirectory.open(out / "flow_with_labels")
    data = load_data(run)
    flow, classes = _flow(run), _flow(labelled)
    generator = torch.Generator().manual_seed(0)
    paths = [out / name for name in ("samples.png", "digits.png", "classes.png", "trajectories.png", "distance.png")]
    plots.sample_grid(flow.sample(96, generator=generator), paths[0], columns=16, title="samples")
    plots.sample_grid(data.test_x[:96], paths[1], columns=16, title="held-out digits")
    labels = torch.arange(10).repeat_interleave(16)
    names = list(data.class_names or [])
    by_class = classes.sample(160, labels, generator=generator)
    plots.sample_grid(by_class, paths[2], columns=16, row_labels=names, title="samples by label")
    base = flow.sample_base(8, generator)
    frames = flow.trajectory(base)
    shown = _frames_to_show(len(frames) - 1)
    steps = [f"step {k}" for k in shown]
    title = "from the base to the digits"
    plots.trajectory_strip(frames[shown], paths[3], times=steps, columns=len(shown), rows=8, title=title)
    log = run.read_log()
    curve = [record["sliced_wasserstein"] for record in log]
    steps_logged = [record["step"] for record in log]
    plots.loss_curve(
        curve, paths[4], steps=steps_logged, log_scale=True, ylabel="sliced Wasserstein to the training set"
    )
    return paths


def _frames_to_show(last: int) -> list[int]:
    """Steps closer together at the start, where most happens."""
    return sorted({round(last * (k / 9) ** 2.5) for k in range(10)})


def _flow(run: RunDirectory) -> SlicedWassersteinFlow:
    model: Any = load(run.model_path)
    if not isinstance(model, SlicedWassersteinFlow):
        raise TypeError(f"{run.path} holds a {type(model).__name__}, not a SlicedWassersteinFlow")
    return model


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m cgm_models.demo", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", default="demo", help="the folder to write (default: demo)")
    parser.add_argument("--quick", action="store_true", help="a tiny fit, to see that everything runs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
