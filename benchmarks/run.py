"""Runs a benchmark: every size and mode, results on disk after each row."""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import torch

import cgm_kernels

from . import floor, machine, memory, registry, report, suite, targets
from .benchmark import Benchmark, Cell
from .timing import clock_for

QUICK_SECONDS = 110.0


def run(arguments: argparse.Namespace) -> int:
    """Measures, writes, and with ``--check`` returns 1 when a target is missed."""
    device, quick = arguments.device, arguments.quick
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"--device {device}: torch {torch.__version__} sees no CUDA device")
    torch.backends.cuda.matmul.allow_tf32 = False
    benchmark = registry.find(arguments.command)
    folder = arguments.out or report.RESULTS / machine.slug(machine.device_name(device).replace(",", ""))
    cells = arguments.sizes or (benchmark.quick_grid if quick else [*benchmark.headlines, *_others(benchmark)])
    backends = tuple(arguments.backends) if arguments.backends else benchmark.available(device)
    started, plan = time.monotonic(), suite.QUICK if quick else suite.Plan()
    settings = {"device": device, "quick": quick, "backends": backends, "plan": vars(plan), "dtype": "float32"}
    result: dict[str, Any] = {"benchmark": benchmark.name, "machine": machine.facts(device), "settings": settings}
    result |= {"copy_bytes_per_second": floor.copy_bandwidth(device), "memory": [], "rows": []}
    if arguments.resume:
        result["rows"] = report.earlier_rows(result, folder)
    wanted = [(cell, mode) for cell in cells for mode in arguments.modes]
    left = [one for one in wanted if one not in [(row["cell"], row["mode"]) for row in result["rows"]]]
    limit = arguments.seconds or (QUICK_SECONDS - 30 if quick else float("inf"))
    try:
        while left and time.monotonic() - started <= limit:
            row = _row(benchmark, *left.pop(0), device, backends, plan, quick)
            if row is not None:
                result["rows"].append(row)
                report.write(result, folder)
        if left:
            print(f"time is up: {len(wanted) - len(left)} of {len(wanted)} rows are measured", flush=True)
        if quick or not left:
            _memory(benchmark, result, backends, arguments, started)
    except KeyboardInterrupt:
        print("interrupted: what was measured is kept", flush=True)
    finally:
        cgm_kernels.set_backend("auto")
    return finish(result, folder, arguments.check)


def _others(benchmark: Benchmark) -> list[Cell]:
    return [cell for cell in benchmark.grid if cell not in benchmark.headlines]


def _row(
    benchmark: Benchmark,
    cell: Cell,
    mode: str,
    device: str,
    backends: tuple[str, ...],
    plan: suite.Plan,
    quick: bool,
) -> dict[str, Any] | None:
    """One measured row, said in a line on the screen; None with a line that says why there is none."""
    began, title = time.monotonic(), f"{benchmark.cell_title(cell):>24}  {benchmark.modes[mode]:<18}"
    entrants = benchmark.entrants(cell, mode, device, backends, quick)
    missing = [one.skipped for one in entrants if one.name in backends and one.skipped]
    if len(missing) == len(backends):
        print(f"{title} left out: {missing[0]}", flush=True)
        return None
    full = cell in benchmark.headlines and not quick
    found = suite.measure(entrants, backends, benchmark.baseline, plan, clock_for(device), full)
    row = {"cell": cell, "mode": mode, "dtype": "float32"} | found
    mine = benchmark.primary(row)
    others = row["speedups"][mine]
    name = next((one for one in (benchmark.baseline, *benchmark.peers) if one in others), None)
    said = [f"{title} ours {report.milliseconds(row['contenders'][mine]['median']):>8}"]
    if name is not None:
        said.append(f"{benchmark.titles[name]} {report.speedup(others[name])}, {others[name]['pairs']} pairs")
    print(", ".join([*said, f"{time.monotonic() - began:.0f} s"]), flush=True)
    return row


def _memory(
    benchmark: Benchmark,
    result: dict[str, Any],
    backends: tuple[str, ...],
    arguments: argparse.Namespace,
    started: float,
) -> None:
    """Peak memory of ours and the baseline; a quick run takes the last cell in the last mode alone."""
    if arguments.sizes and not arguments.memory:
        return
    quick, modes = arguments.quick, list(benchmark.modes)
    cells = benchmark.memory_cells[-1:] if quick else benchmark.memory_cells
    for cell, mode in itertools.product(cells, modes[-1:] if quick else modes):
        for method in (*backends, benchmark.baseline):
            if quick and time.monotonic() - started > QUICK_SECONDS - 10:
                return
            result["memory"].append(memory.measure(benchmark.name, method, mode, cell, arguments.device))


def finish(result: dict[str, Any], folder: Path, check: bool) -> int:
    """Files, plot, table on the screen, verdict."""
    if not result["rows"]:
        return 1
    path = report.write(result, folder)
    try:
        from . import plot

        plot.draw(result, path.with_suffix(".png"))
    except ImportError as error:
        print(f"no plot: {error}")
    print("\n" + report.markdown(result))
    print(f"written to {folder}")
    return verdict(result) if check else 0


def verdict(result: dict[str, Any]) -> int:
    """Prints every missed target; 1 when there is one, or when no target was measured."""
    benchmark, verdicts = report.benchmark_of(result), targets.check(result)
    missed = [one for one in verdicts if not one["met"]]
    for one in missed:
        low = "not measured" if one["low"] is None else f"{one['low']:.3f}"
        place = f"{benchmark.cell_title(one['cell'])} {benchmark.modes[one['mode']]}"
        print(f"missed: {one['target']} at {place}: lower bound {low}, at least {one['least']:g} wanted")
    print(f"{len(verdicts) - len(missed)} of {len(verdicts)} targets met")
    return 1 if missed or not verdicts else 0
