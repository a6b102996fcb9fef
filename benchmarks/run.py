"""Runs a benchmark: every size and mode, results on disk after each row."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch

import cgm_kernels

from . import floor, machine, memory, report, sliced_ot, suite, targets
from .timing import clock_for

QUICK_SECONDS = 110.0


def run(arguments: argparse.Namespace) -> int:
    """Measures, writes, and with ``--check`` returns 1 when a target is missed."""
    device, quick = arguments.device, arguments.quick
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"--device {device}: torch {torch.__version__} sees no CUDA device")
    torch.backends.cuda.matmul.allow_tf32 = False
    folder = arguments.out or report.RESULTS / machine.slug(machine.device_name(device).replace(",", ""))
    cells = arguments.sizes or (sliced_ot.QUICK_GRID if quick else [sliced_ot.HEADLINE, *_others(sliced_ot.GRID)])
    backends = tuple(arguments.backends) if arguments.backends else sliced_ot.available(device)
    started, plan = time.monotonic(), suite.QUICK if quick else suite.Plan()
    settings = {"device": device, "quick": quick, "backends": backends, "plan": vars(plan), "dtype": "float32"}
    result: dict[str, Any] = {"benchmark": "sliced_ot", "machine": machine.facts(device), "settings": settings}
    result |= {"copy_bytes_per_second": floor.copy_bandwidth(device), "memory": [], "rows": []}
    if arguments.resume:
        result["rows"] = report.earlier_rows(result, folder)
    wanted = [(cell, mode) for cell in cells for mode in arguments.modes]
    measured = [(row["cell"], row["mode"]) for row in result["rows"]]
    limit = arguments.seconds or (QUICK_SECONDS - 30 if quick else float("inf"))
    try:
        for cell, mode in [one for one in wanted if one not in measured]:
            if time.monotonic() - started > limit:
                print(f"time is up: {len(result['rows'])} of {len(wanted)} rows are measured", flush=True)
                break
            result["rows"].append(_row(cell, mode, device, backends, plan, quick))
            report.write(result, folder)
        if quick or len(result["rows"]) == len(wanted):
            _memory(result, backends, arguments, started)
    except KeyboardInterrupt:
        print("interrupted: what was measured is kept", flush=True)
    finally:
        cgm_kernels.set_backend("auto")
    return finish(result, folder, arguments.check)


def _others(grid: list[dict[str, int]]) -> list[dict[str, int]]:
    return [cell for cell in grid if cell != sliced_ot.HEADLINE]


def _row(
    cell: dict[str, int], mode: str, device: str, backends: tuple[str, ...], plan: suite.Plan, quick: bool
) -> dict[str, Any]:
    began = time.monotonic()
    entrants = sliced_ot.contenders(sliced_ot.Problem(cell, mode, device), backends, quick)
    full = cell == sliced_ot.HEADLINE and not quick
    found = suite.measure(entrants, backends, "eager", plan, clock_for(device), full)
    row = {"cell": cell, "mode": mode, "dtype": "float32"} | found
    mine = sliced_ot.primary(row)
    ratio = row["speedups"][mine]["eager"]
    own = report.milliseconds(row["contenders"][mine]["median"])
    took = time.monotonic() - began
    title = f"{report.cell_title(cell):>18}  {report.MODE_TITLES[mode]:<18}"
    print(f"{title} ours {own:>8}, PyTorch {report.speedup(ratio)} ({ratio['pairs']} pairs, {took:.0f} s)", flush=True)
    return row


def _memory(result: dict[str, Any], backends: tuple[str, ...], arguments: argparse.Namespace, started: float) -> None:
    if arguments.sizes and not arguments.memory:
        return
    modes = ("forward_backward",) if arguments.quick else sliced_ot.MODES
    directions = (500,) if arguments.quick else (50, 500)
    for count in directions:
        for mode in modes:
            for method in (*backends, "eager"):
                if arguments.quick and time.monotonic() - started > QUICK_SECONDS - 10:
                    return
                cell = sliced_ot.HEADLINE | {"n_projections": count}
                result["memory"].append(memory.measure(method, mode, cell, arguments.device))


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
    verdicts = targets.check(result)
    missed = [one for one in verdicts if not one["met"]]
    for one in missed:
        low = "not measured" if one["low"] is None else f"{one['low']:.3f}"
        place = f"{report.cell_title(one['cell'])} {report.MODE_TITLES[one['mode']]}"
        print(f"missed: {one['target']} at {place}: lower bound {low}, at least {one['least']:g} wanted")
    print(f"{len(verdicts) - len(missed)} of {len(verdicts)} targets met")
    return 1 if missed or not verdicts else 0
