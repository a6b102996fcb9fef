"""The suite as tests: ``pytest benchmarks/ --benchmark-only``. Each is checked against PyTorch before it is timed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import cgm_kernels
from benchmarks import sliced_ot

pytest.importorskip("pytest_benchmark")

CELLS = [{"n": 128, "d": 2, "n_projections": 50}, {"n": 1_000, "d": 64, "n_projections": 50}]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAMES = [*sliced_ot.available(DEVICE), "eager", "pot", "floor_sort", "floor_gemm"]


@pytest.fixture(autouse=True)
def automatic_backend() -> Iterator[None]:
    yield
    cgm_kernels.set_backend("auto")


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: "x".join(map(str, cell.values())))
@pytest.mark.parametrize("mode", sliced_ot.MODES)
@pytest.mark.parametrize("name", NAMES)
def test_sliced_ot(benchmark, name: str, mode: str, cell: dict[str, int]) -> None:
    if (reason := sliced_ot.why_not(name, cell, quick=True)) is not None:
        pytest.skip(reason)
    one = sliced_ot.Problem(cell, mode, DEVICE).contender(name)
    if one.prepare is not None:
        one.prepare()
    benchmark.group = f"{mode} {'x'.join(map(str, cell.values()))}"

    def call() -> None:
        assert one.call is not None
        one.call(0)
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    benchmark(call)
