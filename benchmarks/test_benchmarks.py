"""The suite as tests: ``pytest benchmarks/ --benchmark-only``. Each is checked against PyTorch before it is timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import cgm_kernels
from benchmarks import registry

pytest.importorskip("pytest_benchmark")

SIZES = {
    "sliced_ot": ["128x2x50", "1000x64x50"],
    "coupling": ["exp:16x2", "tanh:4096x64", "event:4096x64", "actnorm:4096x64"],
    "langevin": ["step:1000x1", "in_place:1000x1", "normal:1000x1", "chain:100x20"],
    "masked_inverse": ["standardize:64x8"],
    "models": ["RealNVP:512x16", "MAF:64x4"],
}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def cases() -> Iterator[tuple[str, str, str, str]]:
    for benchmark in map(registry.find, SIZES):
        ours = benchmark.available(DEVICE)
        left_out = [name for name in benchmark.ours if name not in ours]
        left_out += [] if DEVICE == "cuda" else benchmark.cuda_only
        for size in SIZES[benchmark.name]:
            for mode in benchmark.modes:
                yield from ((benchmark.name, size, mode, name) for name in benchmark.titles if name not in left_out)


@pytest.fixture(autouse=True)
def automatic_backend() -> Iterator[None]:
    yield
    cgm_kernels.set_backend("auto")


@pytest.mark.parametrize("name, size, mode, contender", list(cases()))
def test_benchmark(benchmark: Callable[..., Any], name: str, size: str, mode: str, contender: str) -> None:
    measured = registry.find(name)
    cell = measured.cell(size)
    if (reason := measured.why_not(contender, cell, mode, True)) is not None:
        pytest.skip(reason)
    one = measured.problem(cell, mode, DEVICE).contender(contender)
    if one.prepare is not None:
        one.prepare()
    benchmark.group = f"{name} {size} {mode}"  # type: ignore[attr-defined]

    def call() -> None:
        assert one.call is not None
        one.call(0)
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    benchmark(call)
