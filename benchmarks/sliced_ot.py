"""Sliced optimal transport: the mean squared difference of sorted projections, and its gradient in x.

Contenders: our backends; PyTorch eager; the same under torch.compile; POT; the sort and the matrix products alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

import cgm_kernels
from cgm_kernels import checks

from . import floor
from .benchmark import Benchmark, Cell, Target, choose_backend, input_copies, not_installed, relative_error
from .timing import Contender

MODES = {"forward": "forward", "forward_backward": "forward + backward"}
HEADLINE = {"n": 10_000, "d": 64, "n_projections": 500}
CURVE = {"d": 64, "n_projections": 500}  # the sizes of the plot
GRID = [
    {"n": n, "d": d, "n_projections": directions}
    for d in (2, 64, 784)
    for directions in (1, 50, 500)
    for n in (16, 128, 1_000, 10_000, 100_000)
]
QUICK_GRID = [
    HEADLINE,  # first: on a busy machine the time may be up before the last
    {"n": 16, "d": 2, "n_projections": 1},
    {"n": 1_000, "d": 784, "n_projections": 50},
    {"n": 128, "d": 64, "n_projections": 500},
    {"n": 1_000, "d": 64, "n_projections": 500},
]
TITLES = {
    "native": "ours (native)",
    "triton": "ours (Triton)",
    "reference": "ours (reference)",
    "eager": "PyTorch eager",
    "compile": "torch.compile",
    "pot": "POT",
    "floor_sort": "floor: sort",
    "floor_gemm": "floor: projections",
}
OURS = ("native", "triton", "reference")
POT_KEYS = 10_000_000


def eager(x: Tensor, y: Tensor, projections: Tensor) -> Tensor:
    """The same cost in plain PyTorch."""
    first = (x @ projections).T.contiguous().sort(dim=-1).values
    second = (y @ projections).T.contiguous().sort(dim=-1).values
    return (first - second).square().mean()


def ours(x: Tensor, y: Tensor, projections: Tensor) -> Tensor:
    return cgm_kernels.sliced_wasserstein_cost(x, y, projections=projections)


def pot(x: Tensor, y: Tensor, projections: Tensor) -> Tensor:
    """POT's distance: the root of the cost."""
    import ot

    return ot.sliced_wasserstein_distance(x, y, projections=projections)


class Problem:
    """The inputs of one size and mode, float32, and the contenders on them.

    On CUDA successive calls rotate through enough copies of the inputs that none is found in the cache.
    """

    def __init__(self, cell: Cell, mode: str, device: str) -> None:
        checks.choice("mode", mode, MODES)
        self.cell, self.device, self.gradient = cell, device, mode == "forward_backward"
        generator = torch.Generator().manual_seed(0)
        n, d = cell["n"], cell["d"]
        self.inputs = []
        for _ in range(input_copies(8 * n * d, device)):
            x, y = (torch.randn(n, d, generator=generator).to(device) for _ in range(2))
            self.inputs.append((x.requires_grad_(self.gradient), y))
        drawn = cgm_kernels.random_projections(d, cell["n_projections"], generator=generator)
        self.projections = drawn.to(device)

    def contender(self, name: str, check: bool = True) -> Contender:
        """The named contender; with ``check`` its value and gradient must first agree with PyTorch eager."""
        if name.startswith("floor_"):
            return self._floor(name)
        method, prepare = self._method(name)
        one = Contender(name, call=functools.partial(self._step, method), prepare=prepare)
        if check and name != "eager":
            self._check(name, one, method)
        return one

    def _method(self, name: str) -> tuple[Callable[[Tensor, Tensor, Tensor], Tensor], Callable[[], None]]:
        prepare = choose_backend(name)
        if name == "compile":
            torch._dynamo.reset()  # sizes must not count against the limit of recompilations
            return torch.compile(eager, fullgraph=True, dynamic=False), prepare
        methods = {"eager": eager, "pot": pot} | dict.fromkeys(OURS, ours)
        checks.choice("name", name, methods)
        return methods[name], prepare

    def _step(self, method: Callable[[Tensor, Tensor, Tensor], Tensor], index: int) -> None:
        x, y = self.inputs[index % len(self.inputs)]
        if self.gradient:
            x.grad = None
            method(x, y, self.projections).backward()
        else:
            method(x, y, self.projections)

    @functools.cached_property
    def _expected(self) -> tuple[Tensor, Tensor | None, float]:
        """The float64 value of PyTorch eager, its gradient in x where it is timed, and float32 eager's error in it."""
        x, y = (cloud.detach().double() for cloud in self.inputs[0])
        value = eager(x.requires_grad_(self.gradient), y, self.projections.double())
        if not self.gradient:
            return value, None, 0.0
        wanted = torch.autograd.grad(value, x)[0]
        x, y = self.inputs[0]
        plain = torch.autograd.grad(eager(x, y, self.projections), x)[0]
        return value.detach(), wanted, relative_error(plain, wanted)

    def _check(self, name: str, one: Contender, method: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        """In float32 near-ties swap ranks, the more the larger n is: a peer's gradient may err by 1%, ours by 0.1% more
        than twice eager's error."""
        x, y = self.inputs[0]
        assert one.prepare is not None
        expected, wanted, bound = self._expected
        one.prepare()
        found = method(x, y, self.projections)
        found = found**2 if name == "pot" else found
        torch.testing.assert_close(found.detach().double(), expected, rtol=1e-4, atol=1e-7)
        one.warm = True
        if wanted is not None:
            error = relative_error(torch.autograd.grad(found, x)[0], wanted)
            if not error <= (2 * bound + 1e-3 if name in OURS else 1e-2):
                raise AssertionError(
                    f"the gradient of {name} at {self.cell} is off by {error:.1e}, PyTorch's by {bound:.1e}"
                )

    def _floor(self, name: str) -> Contender:
        x, y = (one.detach() for one in self.inputs[0])
        if name == "floor_gemm":
            return Contender(name, call=floor.gemm_call(x, y, self.projections, self.gradient))
        if torch.device(self.device).type == "cuda":
            return Contender(name, call=floor.copy_call(8 * x.shape[0] * self.projections.shape[1], self.device))
        first, second = ((cloud @ self.projections).T.contiguous() for cloud in (x, y))
        rows = [floor.packed(first) if self.gradient else first.numpy(), second.numpy()]
        return Contender(name, call=floor.sort_call(rows, torch.get_num_threads()))


def why_not(name: str, cell: Cell, mode: str, quick: bool) -> str | None:
    """Why a contender is left out at a size, or None."""
    if quick and cell == HEADLINE and mode == "forward" and name in ("compile", "pot"):
        return "timed with the gradient alone in a quick run"
    if name == "compile":
        on_curve = all(cell[key] == value for key, value in CURVE.items())
        if not on_curve or (quick and cell != HEADLINE):
            return "compiled only at the " + ("headline size" if quick else "sizes of the plot")
    if name == "pot":
        if cell["n"] * cell["n_projections"] > POT_KEYS:
            return "more than ten seconds a call"
        return not_installed("ot", "POT")
    return None


def _headline(cell: Cell) -> bool:
    return cell == HEADLINE


def _small_enough(cell: Cell) -> bool:
    return _headline(cell) or (1_000 <= cell["n"] <= 16_384 and cell["n_projections"] == 500)


BENCHMARK = Benchmark(
    name="sliced_ot",
    title="Sliced OT",
    modes=MODES,
    sizes={"n": "n = {:,}", "d": "d = {}", "n_projections": "{} directions"},
    columns="n, d, directions",
    grid=GRID,
    quick_grid=QUICK_GRID,
    headlines=[HEADLINE],
    titles=TITLES,
    ours=OURS,
    floors=("floor_sort", "floor_gemm"),
    floor_title="floor: sort + GEMM",
    problem=Problem,
    why_not=why_not,
    targets=(
        Target("forward+backward, PyTorch", "cpu", ("forward_backward",), "eager", 5.0, _headline),
        Target("forward+backward, POT", "cpu", ("forward_backward",), "pot", 20.0, _headline),
        Target("forward, PyTorch", "cpu", ("forward",), "eager", 8.0, _headline),
        Target("never slower than PyTorch", "cpu", tuple(MODES), "eager", 0.95, lambda cell: True),
        Target("on a GPU, PyTorch", "cuda", tuple(MODES), "eager", 5.0, _small_enough),
        Target("never slower than PyTorch", "cuda", tuple(MODES), "eager", 0.95, lambda cell: True),
    ),
    axis_title="points in each cloud",
    curve=CURVE,
    libraries=("numpy", "POT"),
    tiny={"n": 64, "d": 2, "n_projections": 4},
    memory_cells=[HEADLINE | {"n_projections": count} for count in (50, 500)],
    output_bytes=lambda cell, mode: 4 * cell["n"] * cell["d"] if mode == "forward_backward" else 0,
)
