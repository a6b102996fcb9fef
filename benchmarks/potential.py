"""OT-Flow's potential: its gradient and Laplacian, and the solve that its training makes, four steps of RK4.

Contenders: our backends; PyTorch eager written the best way, tangents by hand in one product with the hidden layer; the
same under torch.compile. The floor is the products that cannot be done without, those of value, covector and tangents
with the hidden layer, and with the gradient their transposes, into memory that is there already.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

import cgm_kernels
from cgm_kernels import checks

from . import floor
from .benchmark import Benchmark, Cell, Target, choose_backend, drawing
from .oracle import Method, Oracle, floor_of, results
from .timing import Contender

MODES = {"forward": "forward", "forward_backward": "forward + backward"}
KINDS = {"divergence": "gradient and Laplacian", "flow": "flow of 4 steps"}
HEADLINES = [
    {"kind": "flow", "n": 256, "d": 2, "width": 32},
    {"kind": "flow", "n": 4096, "d": 2, "width": 32},
    {"kind": "divergence", "n": 4096, "d": 2, "width": 32},
    {"kind": "divergence", "n": 512, "d": 64, "width": 64},
]
GRID = (
    HEADLINES
    + [{"kind": "divergence", "n": n, "d": 2, "width": 32} for n in (16, 256)]
    + [{"kind": "divergence", "n": 256, "d": 64, "width": width} for width in (64, 128, 256)]
    + [{"kind": "flow", "n": 64, "d": 64, "width": width} for width in (64, 128, 256)]
)
TITLES = {
    "native": "ours (native)",
    "triton": "ours (Triton)",
    "reference": "ours (reference)",
    "eager": "PyTorch eager",
    "compile": "torch.compile",
    "floor_gemm": "floor: matrix products",
}
OURS = ("native", "triton", "reference")
TIMES, RANK = (0.0, 0.25, 0.5, 0.75, 1.0), 2


def eager_divergence(
    s: Tensor, k0: Tensor, b0: Tensor, k1: Tensor, b1: Tensor, w: Tensor, a: Tensor, b: Tensor
) -> tuple[Tensor, Tensor]:
    """∇Φ and ΔΦ of two layers, at s = [x, t] (B, d + 1)."""
    z0 = F.linear(s, k0, b0)
    size = z0.abs()
    z1 = F.linear(size + torch.log1p(torch.exp(-2.0 * size)), k1, b1)
    slope0, slope1 = torch.tanh(z0), torch.tanh(z1)
    carried, symmetric, columns = w + (slope1 * w) @ k1, a.mT @ a, k0[:, :-1].mT
    gradient = torch.addmm(b, slope0 * carried, k0).addmm(s, symmetric)
    squares = ((slope0[:, None] * columns) @ k1.mT).square().sum(1)
    laplacian = ((1.0 - slope0.square()) * carried) @ columns.square().sum(0)
    laplacian = laplacian + ((1.0 - slope1.square()) * w * squares).sum(1)
    return gradient, laplacian + symmetric.diagonal()[:-1].sum()


def eager_flow(x: Tensor, *network: Tensor) -> tuple[Tensor, ...]:
    """x, ∫ div v, ∫ ½ |v|² and ∫ |∂_tΦ − ½ |∇_xΦ|²| as one state, by classical Runge–Kutta steps."""

    def rates(state: Tensor, t: float) -> Tensor:
        gradient, laplacian = eager_divergence(F.pad(state[:, :d], (0, 1), value=t), *network)
        energy = 0.5 * gradient[:, :-1].square().sum(1)
        others = torch.stack((-laplacian, energy, (gradient[:, -1] - energy).abs()), 1)
        return torch.cat((-gradient[:, :-1], others), 1)

    d = x.shape[1]
    state, h = F.pad(x, (0, 3)), TIMES[1]
    for t in TIMES[:-1]:
        first = rates(state, t)
        second = rates(torch.add(state, first, alpha=0.5 * h), t + 0.5 * h)
        third = rates(torch.add(state, second, alpha=0.5 * h), t + 0.5 * h)
        last = rates(torch.add(state, third, alpha=h), t + h)
        state = torch.add(state, first + 2.0 * (second + third) + last, alpha=h / 6.0)
    return (state[:, :d], *state[:, d:].unbind(1))


def at_half(x: Tensor, *network: Tensor) -> tuple[Tensor, Tensor]:
    return eager_divergence(F.pad(x, (0, 1), value=0.5), *network)


def our_divergence(
    x: Tensor, k0: Tensor, b0: Tensor, k1: Tensor, b1: Tensor, w: Tensor, a: Tensor, b: Tensor
) -> tuple[Tensor, Tensor]:
    return cgm_kernels.potential_divergence(x, 0.5, [k0, k1], [b0, b1], w, quadratic=a, linear=b)


def our_flow(
    x: Tensor, k0: Tensor, b0: Tensor, k1: Tensor, b1: Tensor, w: Tensor, a: Tensor, b: Tensor
) -> tuple[Tensor, ...]:
    found = cgm_kernels.potential_flow(x, [k0, k1], [b0, b1], w, times=TIMES, quadratic=a, linear=b)
    return tuple(one for one in found if one is not None)


METHODS: dict[tuple[bool, str], Method] = {
    (False, "divergence"): at_half,
    (False, "flow"): eager_flow,
    (True, "divergence"): our_divergence,
    (True, "flow"): our_flow,
}


class Problem:
    """The points and the potential of one cell, float32, and the contenders on them."""

    def __init__(self, cell: Cell, mode: str, device: str) -> None:
        checks.choice("mode", mode, MODES)
        self.cell, self.device, self.gradient = cell, device, mode == "forward_backward"
        n, d, width = cell["n"], cell["d"], cell["width"]
        draw = drawing(device)
        network = [draw(width, d + 1, scale=(d + 1) ** -0.5), draw(width), draw(width, width, scale=width**-0.5)]
        network += [draw(width), draw(width, scale=1.0 / width), draw(RANK, d + 1, scale=0.1), draw(d + 1, scale=0.1)]
        self.inputs = [one.requires_grad_(self.gradient) for one in (draw(n, d), *network)]
        rows = [(n, d + 1), (n,)] if cell["kind"] == "divergence" else [(n, d), (n,), (n,), (n,)]
        self.cotangents = [draw(*shape) for shape in rows] if self.gradient else None
        self.oracle = Oracle(cell, METHODS[False, cell["kind"]], self.inputs, self.cotangents)

    def contender(self, name: str, check: bool = True) -> Contender:
        """The named contender; with ``check`` its results must first agree with PyTorch eager in float64."""
        if name == "floor_gemm":
            return Contender(name, call=self._products())
        checks.choice("name", name, TITLES)
        method, prepare = METHODS[name in OURS, self.cell["kind"]], choose_backend(name)
        if name == "compile":
            torch._dynamo.reset()  # sizes must not count against the limit of recompilations
            method = torch.compile(method, fullgraph=True, dynamic=False)
        prepare()
        if check and name != "eager":
            self.oracle.check(name, method, floor_of(name))
        call = functools.partial(results, method, self.inputs, self.cotangents)
        return Contender(name, call=lambda index: call(), prepare=prepare)

    def _products(self) -> Callable[[int], None]:
        width, stages = self.cell["width"], 1 if self.cell["kind"] == "divergence" else 4 * (len(TIMES) - 1)
        rows = self.cell["n"] * (self.cell["d"] + 2)
        return floor.perceptron_products(rows, (width, width), self.device, layers=stages, gradient=self.gradient)


def why_not(name: str, cell: Cell, mode: str, quick: bool) -> str | None:
    """Why a contender is left out at a cell, or None."""
    if name == "compile" and (quick or cell not in HEADLINES):
        return "compiled only at the headline sizes of a full run"
    return None


BENCHMARK = Benchmark(
    name="potential",
    title="OT-Flow's potential",
    modes=MODES,
    kinds=KINDS,
    sizes={"n": "n = {:,}", "d": "d = {}", "width": "width {}"},
    columns="kind, n, d, width",
    grid=GRID,
    quick_grid=HEADLINES,
    headlines=HEADLINES,
    titles=TITLES,
    ours=OURS,
    floors=("floor_gemm",),
    floor_title="floor: matrix products",
    problem=Problem,
    why_not=why_not,
    targets=tuple(
        Target("never slower than PyTorch eager", device, tuple(MODES), "eager", 0.95, lambda cell: True)
        for device in ("cpu", "cuda")
    ),
    axis="width",
    axis_title="width",
    curve={"kind": "divergence", "n": 256, "d": 64},
    tiny={"kind": "divergence", "n": 8, "d": 2, "width": 8},
    memory_cells=HEADLINES[1:2],
    output_bytes=lambda cell, mode: 4 * cell["n"] * (cell["d"] + 3) * (2 if mode == "forward_backward" else 1),
)
