"""Contenders with known times, and results made of them."""

from __future__ import annotations

from benchmarks import machine, sliced_ot, suite, timing
from benchmarks.benchmark import Benchmark, Target


class FakeClock:
    """Every call costs what its contender says; samples are recorded in order."""

    def __init__(self):
        self.log = []

    def __call__(self, call, first, calls):
        name, seconds = call(first)
        self.log.append((name, first, calls))
        return seconds * calls


def fake(name, seconds):
    return timing.Contender(name, call=lambda index: (name, seconds))


def result_with(ratios):
    """A stored result at the headline with the given speedups, times in seconds."""
    rows = []
    for mode, (eager, pot) in ratios.items():
        seconds = {"native": 0.01, "eager": 0.01 * eager, "pot": 0.01 * pot, "floor_sort": 2e-3, "floor_gemm": 1e-3}
        entrants = [fake(name, value) for name, value in seconds.items()]
        entrants.append(timing.Contender("compile", skipped="no compiler"))
        row = suite.measure(entrants, ["native"], "eager", suite.Plan(), FakeClock())
        rows.append({"cell": sliced_ot.HEADLINE, "mode": mode, "dtype": "float32"} | row)
    settings = {"device": "cpu", "quick": False}
    return {
        "benchmark": "sliced_ot", "machine": machine.facts("cpu"), "settings": settings, "memory": [], "rows": rows,
    }  # fmt: skip


class FakeProblem:
    """Contenders that cost what the cell says; ``broken`` raises, ``wrong`` computes something else."""

    def __init__(self, cell, mode, device):
        self.cell = cell

    def contender(self, name, check=True):
        if name == "broken":
            raise RuntimeError("no compiler\nand a long trace")
        if name == "wrong":
            raise AssertionError("another number")
        return fake(name, {"native": 1.0, "eager": 2.0}[name] * self.cell["n"])


def fake_benchmark(**options):
    titles = {"native": "ours", "graph": "graph", "eager": "PyTorch", "broken": "broken", "left": "left"}
    return Benchmark(
        **{"name": "fake", "title": "Fake", "modes": {"run": "run"}, "sizes": {"n": "n = {}"}, "columns": "n",
           "grid": [{"n": 1}, {"n": 2}], "quick_grid": [{"n": 1}], "headlines": [{"n": 2}], "titles": titles,
           "ours": ("native", "graph"), "cuda_only": ("graph",), "problem": FakeProblem,
           "why_not": lambda name, cell, mode, quick: "too slow" if name == "left" else None,
           "targets": (Target("twice", "cpu", ("run",), "eager", 2.0, lambda cell: True),)} | options
    )  # fmt: skip
