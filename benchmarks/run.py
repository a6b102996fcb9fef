"""Runs a benchmark: every size and mode, results on disk after each row."""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import cgm_kernels

from . import apart, floor, machine, memory, registry, report, suite, targets
from .benchmark import DEFERRED, FAILED, Benchmark, Cell
from .timing import clock_for, settle_allocator

QUICK_SECONDS = 110.0
_UNITS = {"rows": "rows", "memory": "peaks of memory"}


def run(arguments: argparse.Namespace) -> int:
    """Measures, writes, and with ``--check`` returns 1 when a target is missed."""
    device = arguments.device
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"--device {device}: torch {torch.__version__} sees no CUDA device")
    torch.backends.cuda.matmul.allow_tf32 = False
    settle_allocator()
    benchmark, started = registry.find(arguments.command), time.monotonic()
    folder = arguments.out or report.RESULTS / machine.slug(machine.device_name(device).replace(",", ""))
    result, source = _begun(benchmark, arguments, folder), {}
    if arguments.add:
        source = {"source": report.source(result)}
        result = report.without(result, folder, arguments.sizes or [], arguments.modes)
    measuring, in_time = _Measuring(benchmark, arguments, result, folder, started, source), True
    try:
        in_time = measuring.rows()
        if in_time or arguments.quick:
            measuring.memory()
    except KeyboardInterrupt:
        print("interrupted: what was measured is kept", flush=True)
    finally:
        cgm_kernels.set_backend("auto")
    return finish(result, folder, arguments.check) if result["rows"] else int(in_time)


def _begun(benchmark: Benchmark, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The result without rows, or with those of an earlier run that is gone on with."""
    device, quick = arguments.device, arguments.quick
    backends = tuple(arguments.backends) if arguments.backends else benchmark.available(device)
    plan = suite.QUICK if quick else suite.Plan()
    settings = {"device": device, "quick": quick, "backends": backends, "plan": vars(plan), "dtype": "float32"}
    result: dict[str, Any] = {"benchmark": benchmark.name, "machine": machine.facts(device), "settings": settings}
    result |= {"copy_bytes_per_second": floor.copy_bandwidth(device), "memory": [], "rows": []}
    return result | (report.earlier(result, folder) if arguments.resume else {})


def _cells(benchmark: Benchmark, arguments: argparse.Namespace) -> list[Cell]:
    """What is timed, the headlines first; on a GPU without those that ask for an environment."""
    headlines = benchmark.headlines
    if arguments.sizes or arguments.headlines:
        cells = arguments.sizes or headlines
    elif arguments.quick:
        cells = benchmark.quick_grid
    else:
        cells = [*headlines, *(cell for cell in benchmark.grid if cell not in headlines)]
    on_cuda = torch.device(arguments.device).type == "cuda"
    return [cell for cell in cells if not (on_cuda and benchmark.environment(cell))]


@dataclass(frozen=True)
class _Measuring:
    """What one run measures, for how long, and where it is written."""

    benchmark: Benchmark
    arguments: argparse.Namespace
    result: dict[str, Any]
    folder: Path
    started: float
    source: dict[str, Any]

    def rows(self) -> bool:
        """The times of all contenders; whether there was time for all sizes and modes."""
        settings, compiled = self.result["settings"], not self.arguments.without_compile
        pairs = itertools.product(_cells(self.benchmark, self.arguments), self.arguments.modes)
        wanted = [{"cell": cell, "mode": mode} for cell, mode in pairs]

        def measure(cell: Cell, mode: str) -> dict[str, Any] | None:
            environment = self.benchmark.environment(cell)
            if environment.items() <= os.environ.items():
                found = row(self.benchmark, cell, mode, settings, compiled)
            else:
                found = apart.row(self.benchmark.name, cell, mode, settings, compiled, environment)
            return found and found | self.source

        return self._rest("rows", wanted, measure, lambda row: _unfinished(row, compiled), QUICK_SECONDS - 30)

    def memory(self) -> None:
        """Peak memory of ours and the baseline; a quick run takes the last cell in one mode alone."""
        if (self.arguments.sizes or self.arguments.headlines) and not self.arguments.memory:
            return
        benchmark, quick, modes = self.benchmark, self.arguments.quick, list(self.benchmark.modes)
        cells = benchmark.memory_cells[-1:] if quick else benchmark.memory_cells
        methods = [*self.result["settings"]["backends"], benchmark.baseline]
        # A graph's memory is taken when it is captured, not when it runs.
        methods = [one for one in methods if one not in benchmark.cuda_only]
        wanted = [
            {"method": method, "mode": mode, "cell": cell}
            for cell, mode, method in itertools.product(cells, modes[-1:] if quick else modes, methods)
            if benchmark.why_not(method, cell, mode, quick) is None
        ]
        peak = functools.partial(memory.measure, benchmark.name, device=self.arguments.device)
        self._rest("memory", wanted, peak, _failed, QUICK_SECONDS - 10)

    def _rest(
        self,
        part: str,
        wanted: list[dict[str, Any]],
        measure: Callable[..., dict[str, Any] | None],
        again: Callable[[dict[str, Any]], bool],
        quick_seconds: float,
    ) -> bool:
        """Measures what the part lacks of ``wanted``, each written at once; whether there was time for all."""
        rows = self.result[part]

        def place(one: dict[str, Any]) -> int:
            return next((i for i, row in enumerate(rows) if one.items() <= row.items()), len(rows))

        left = [one for one in wanted if place(one) == len(rows) or again(rows[place(one)])]
        for number, one in enumerate(left):
            if not self._within(quick_seconds):
                done = len(wanted) - len(left) + number
                print(f"time is up: {done} of {len(wanted)} {_UNITS[part]} are measured", flush=True)
                return False
            found = measure(**one)
            if found is not None:
                rows[(at := place(one)) : at + 1] = [found]
                report.write(self.result, self.folder)
        return True

    def _within(self, quick_seconds: float) -> bool:
        limit = quick_seconds if self.arguments.quick else math.inf
        limit = limit if self.arguments.seconds is None else self.arguments.seconds
        return time.monotonic() - self.started < limit


def _failed(entry: dict[str, Any]) -> bool:
    return entry.get("skipped", "").startswith(FAILED)


def _unfinished(row: dict[str, Any], compiled: bool) -> bool:
    """Whether a contender failed, or the row was measured without the torch.compile that belongs to it."""
    contenders = row["contenders"]
    deferred = contenders.get("compile", {}).get("skipped") == DEFERRED
    return (compiled and deferred) or any(map(_failed, contenders.values()))


def row(
    benchmark: Benchmark, cell: Cell, mode: str, settings: dict[str, Any], compiled: bool = True
) -> dict[str, Any] | None:
    """One measured row, said in a line on the screen; None with a line that says why there is none."""
    device, backends, quick = settings["device"], tuple(settings["backends"]), settings["quick"]
    began, title = time.monotonic(), f"{benchmark.cell_title(cell):>24}  {benchmark.modes[mode]:<18}"
    entrants = benchmark.entrants(cell, mode, device, backends, quick, compiled)
    missing = [one.skipped for one in entrants if one.name in backends and one.skipped]
    if len(missing) == len(backends):
        print(f"{title} left out: {missing[0]}", flush=True)
        return None
    full = cell in benchmark.headlines and not quick
    plan = suite.Plan(**settings["plan"])
    found = suite.measure(entrants, backends, benchmark.baseline, plan, clock_for(device), full)
    measured = {"cell": cell, "mode": mode, "dtype": "float32"} | found
    mine = benchmark.primary(measured)
    others = measured["speedups"][mine]
    name = next((one for one in (benchmark.baseline, *benchmark.peers) if one in others), None)
    said = [f"{title} ours {report.milliseconds(measured['contenders'][mine]['median']):>8}"]
    if name is not None:
        said.append(f"{benchmark.titles[name]} {report.speedup(others[name])}, {others[name]['pairs']} pairs")
    print(", ".join([*said, f"{time.monotonic() - began:.0f} s"]), flush=True)
    return measured


def finish(result: dict[str, Any], folder: Path, check: bool) -> int:
    """Files, plot, table on the screen, verdict; 1 too where one of ours failed."""
    path = report.write(result, folder)
    try:
        from . import plot

        plot.draw(result, path.with_suffix(".png"))
    except ImportError as error:
        print(f"no plot: {error}")
    print("\n" + report.markdown(result))
    print(f"written to {folder}")
    failed = report.failures(result)
    print("".join(f"failed: {line}\n" for line in failed), end="")
    return max(int(bool(failed)), verdict(result) if check else 0)


def verdict(result: dict[str, Any]) -> int:
    """Prints every missed target; 1 when there is one, or when no target was measured."""
    benchmark, verdicts = report.benchmark_of(result), targets.check(result)
    missed = [one for one in verdicts if not one["met"]]
    for one in missed:
        low = "not measured" if one["low"] is None else f"{one['low']:.3f}"
        mine = f" of {benchmark.titles[one['mine']]}" if one["mine"] else ""
        place = f"{benchmark.cell_title(one['cell'])} {benchmark.modes[one['mode']]}"
        said = f"{one['target']} at {place}: lower bound{mine} {low}, at least {one['least']:g} wanted"
        print(f"missed: {benchmark.name}: {said}")
    print(f"{benchmark.name}: {len(verdicts) - len(missed)} of {len(verdicts)} targets met")
    return 1 if missed or not verdicts else 0
