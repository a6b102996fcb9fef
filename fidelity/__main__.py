"""Trains the published models from their committed configurations, and writes ``fidelity/RESULTS.md``.

What is finished is not done again, and what was interrupted goes on. Seed 0 of all comes first, then seed 1 of all.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks import machine
from cgm_models.cnf import NotConvergedError

from . import page, problems, results, runner, timing
from .configuration import Configuration, choose


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fidelity", description=__doc__)
    parser.add_argument("names", nargs="*", help="configurations or problems (default: all)")
    parser.add_argument("--seeds", type=int, help="train at most this many seeds of each")
    parser.add_argument("--times", action="store_true", help="time steps and samples of what is trained; do this idle")
    parser.add_argument("--page", action="store_true", help="only write the page and its pictures from the results")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    chosen = parse(arguments)
    try:
        configurations = choose(chosen.names)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        _train(configurations, 0 if chosen.page or chosen.times else chosen.seeds)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        return 130
    if chosen.times:
        _time(configurations)
    page.write(drawn=not chosen.times)
    return 0


def _time(configurations: list[Configuration]) -> None:
    go = machine.facts("cpu")
    for configuration in configurations:
        if results.read(configuration).runs:
            found = timing.measure(configuration, go)
            print(
                f"{configuration.name}: a step {found.step_seconds} s, samples {found.sampling_seconds} s", flush=True
            )


def _train(configurations: list[Configuration], most_seeds: int | None) -> None:
    most = max(c.n_seeds for c in configurations)
    for seed in range(most if most_seeds is None else min(most, most_seeds)):
        for configuration in configurations:
            if seed < configuration.n_seeds:
                print(f"{configuration.name} seed {seed}: {_reached(configuration, seed)}", flush=True)


def _reached(configuration: Configuration, seed: int) -> str:
    try:
        done = runner.run(configuration, seed).of(seed)
    except NotConvergedError as error:
        return f"not published, for {error}"
    assert done is not None
    unit = problems.find(configuration.problem).unit
    return f"{done.value:.4f} ± {done.error:.4f} {unit}, {done.steps} steps in {done.seconds:.0f} s"


if __name__ == "__main__":
    sys.exit(main())
