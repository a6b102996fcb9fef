"""Peak memory of one call above its inputs and outputs, in a fresh process (Linux for the CPU; CUDA anywhere)."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from . import registry
from .benchmark import FAILED, Cell
from .timing import Contender

ROOT = Path(__file__).resolve().parent.parent
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def measure(benchmark: str, method: str, mode: str, cell: Cell, device: str) -> dict[str, Any]:
    """``{"method", "mode", "cell", "bytes"}``, or ``"skipped"`` with the reason in place of the bytes."""
    row: dict[str, Any] = {"method": method, "mode": mode, "cell": cell}
    if torch.device(device).type == "cpu" and not RESET.exists():
        return row | {"skipped": "no /proc/self/clear_refs on this system"}
    command = [sys.executable, "-m", "benchmarks.memory", benchmark, method, mode, json.dumps(cell)]
    command += ["--device", device, "--threads", str(torch.get_num_threads())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        return row | {"skipped": f"{FAILED}{(done.stderr.strip() or 'no output').splitlines()[-1][:160]}"}
    return row | {"bytes": json.loads(done.stdout.splitlines()[-1])}


def _resident(name: str) -> int:
    for line in STATUS.read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{name} is not in {STATUS}")


def _call(one: Contender) -> None:
    assert one.call is not None and one.prepare is not None
    one.prepare()
    one.call(0)


def _peak(name: str, method: str, mode: str, cell: Cell, device: str) -> int:
    benchmark = registry.find(name)
    on_cuda = torch.device(device).type == "cuda"
    kind = {key: value for key, value in cell.items() if key == "kind"}
    small = benchmark.problem({**benchmark.tiny, **kind}, mode, device)
    _call(small.contender(method, check=False))  # libraries and thread pools are not the call's own memory
    contender = benchmark.problem(cell, mode, device).contender(method, check=False)
    if on_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        RESET.write_text("5")  # the high-water mark starts at the present size
        before = _resident("VmRSS")
    _call(contender)
    if on_cuda:
        torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() if on_cuda else _resident("VmHWM")
    return max(0, peak - before - benchmark.output_bytes(cell, mode))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for word in ("benchmark", "method", "mode"):
        parser.add_argument(word)
    parser.add_argument("cell", type=json.loads)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=None)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(_peak(arguments.benchmark, arguments.method, arguments.mode, arguments.cell, arguments.device))


if __name__ == "__main__":
    main()
