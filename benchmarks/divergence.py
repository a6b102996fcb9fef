"""The divergence of a tanh perceptron beside its value: with one probe a point, and exactly; and with all gradients.
The value alone is what samples are drawn by.

With FiLM each layer is scaled and shifted, as FFJORD's are by the time; where all rows share scale and shift, the best
that PyTorch can do is to put them into the weights and biases first.

Contenders: our backends; PyTorch in three ways, tangents by hand, a reverse-mode VJP and torch.func.jvp
(``divergence_peers``); the first of them under torch.compile; on a GPU ours and the first also as CUDA graphs. The
floor is the products that one probe cannot do without: those of value and tangent, and with the gradient their
transposes, into memory that is there already.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

import cgm_kernels
from cgm_kernels import checks

from . import floor
from .benchmark import ON_A_GPU, Benchmark, Cell, Target, choose_backend, drawing, with_graph
from .divergence_peers import PEERS, Pair, network
from .oracle import Oracle, floor_of, results
from .timing import Contender, captured

MODES = {"forward": "forward", "forward_backward": "forward + backward"}
KINDS = {"hutchinson": "one probe", "exact": "exact trace", "film": "one probe, FiLM", "value": "value alone"}
WIDTHS, DEPTHS, N = (32, 64, 128, 256), (2, 3), 4096
HEADLINES = [{"kind": "hutchinson", "n": N, "d": d, "width": 64, "hidden": depth} for d in (2, 64) for depth in DEPTHS]
GRID = (
    HEADLINES
    + [
        {"kind": "hutchinson", "n": N, "d": d, "width": width, "hidden": depth}
        for d in (2, 64)
        for width in WIDTHS
        for depth in DEPTHS
        if width != 64
    ]
    + [{"kind": "hutchinson", "n": n, "d": d, "width": 64, "hidden": 2} for n in (1, 16, 256) for d in (2, 64)]
    + [
        {"kind": "exact", "n": n, "d": d, "width": 64, "hidden": depth}
        for n, d in ((16, 2), (N, 2), (N, 16), (512, 64))
        for depth in DEPTHS
    ]
    + [{"kind": "film", "n": n, "d": d, "width": 64, "hidden": 2} for n in (1, 16, 256, N) for d in (2, 64)]
    + [{"kind": "value", "n": n, "d": 64, "width": width, "hidden": 3} for n in (1, 16, 256, N) for width in (64, 256)]
)
QUICK_GRID = (
    HEADLINES
    + [{"kind": "exact", "n": 512, "d": 16, "width": 64, "hidden": depth} for depth in DEPTHS]
    + [{"kind": "film", "n": 1, "d": 2, "width": 64, "hidden": 2}]
)
TITLES = {
    "native": "ours (native)",
    "triton": "ours (Triton)",
    "reference": "ours (reference)",
    "native_graph": "ours (native, CUDA graph)",
    "eager": "PyTorch, tangents by hand",
    "eager_graph": "tangents by hand, CUDA graph",
    "vjp": "PyTorch, VJP",
    "jvp": "torch.func.jvp",
    "compile": "tangents by hand, torch.compile",
    "floor_gemm": "floor: matrix products",
}
OURS = ("native", "triton", "reference", "native_graph")
WAYS = ("eager", "vjp", "jvp")
Method = Callable[..., tuple[Tensor, ...]]


def ours(probes: Tensor | None, x: Tensor, *layers: Tensor, film: Sequence[Tensor] = ()) -> Pair:
    pairs = list(zip(film[::2], film[1::2], strict=True)) or None
    value, divergence = cgm_kernels.mlp_divergence(
        x, layers[::2], layers[1::2], probes=probes, exact=probes is None, film=pairs
    )
    return value, divergence


def value(probes: None, x: Tensor, *layers: Tensor) -> tuple[Tensor]:
    return (cgm_kernels.mlp_value(x, layers[::2], layers[1::2]),)


def plain_value(probes: None, x: Tensor, *layers: Tensor) -> tuple[Tensor]:
    return (network(x, layers),)


def within(layers: Sequence[Tensor], film: Sequence[Tensor]) -> list[Tensor]:
    """``γ ∘ (W h + b) + β`` as weights and biases alone."""
    found = []
    for weight, bias, scale, shift in zip(layers[::2], layers[1::2], film[::2], film[1::2], strict=True):
        found += [scale[:, None] * weight, torch.addcmul(shift, scale, bias)]
    return found


class Problem:
    """The points and the network of one cell, float32, and the contenders on them."""

    def __init__(self, cell: Cell, mode: str, device: str) -> None:
        checks.choice("mode", mode, MODES)
        self.cell, self.device, self.gradient = cell, device, mode == "forward_backward"
        n, d = cell["n"], cell["d"]
        self.widths = (d, *[cell["width"]] * cell["hidden"], d)
        draw = drawing(device)
        self.inputs = [draw(n, d)]
        for before, after in zip(self.widths, self.widths[1:], strict=False):
            self.inputs += [draw(after, before, scale=before**-0.5), draw(after, scale=0.1)]
        self.n_film = 2 * len(self.widths[1:]) if cell["kind"] == "film" else 0
        for width in self.widths[1:] if self.n_film else ():
            self.inputs += [draw(width).sigmoid(), draw(width, scale=0.1)]
        for one in self.inputs:
            one.requires_grad_(self.gradient)
        self.valued = cell["kind"] == "value"
        self.probes = draw(1, n, d).sign() if cell["kind"] in ("hutchinson", "film") else None
        cotangents = (draw(n, d), *([] if self.valued else [draw(n)]))
        self.cotangents = cotangents if self.gradient else None
        self.oracle = Oracle(cell, functools.partial(self._call, self._peer()), self.inputs, self.cotangents)

    def contender(self, name: str, check: bool = True) -> Contender:
        """The named contender; with ``check`` its results must first agree with PyTorch eager in float64."""
        if name == "floor_gemm":
            return Contender(name, call=self._products())
        prepare = choose_backend(name)
        prepare()
        method = functools.partial(self._call, self._method(name.removesuffix("_graph")))
        if check and name != "eager":
            self.oracle.check(name, method, floor_of(name))
        call = captured(name, lambda index: results(method, self.inputs, self.cotangents))
        return Contender(name, call=call, prepare=prepare)

    def _peer(self, name: str = "eager") -> Method:
        return plain_value if self.valued else PEERS[name]

    def _method(self, name: str) -> Method:
        if name == "compile":
            torch._dynamo.reset()  # sizes must not count against the limit of recompilations
            return torch.compile(self._peer(), fullgraph=True, dynamic=False)
        checks.choice("name", name, (*PEERS, *OURS))
        if name in PEERS:
            return self._peer(name)
        return value if self.valued else ours

    def _call(self, method: Method, x: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        probes = None if self.probes is None else self.probes.to(x.dtype)
        n_layers = len(parameters) - self.n_film
        layers, film = parameters[:n_layers], parameters[n_layers:]
        if film and method is ours:
            return ours(probes, x, *layers, film=film)
        return method(probes, x, *(within(layers, film) if film else layers))

    def _products(self) -> Callable[[int], None]:
        rows = self.cell["n"] * (1 if self.valued else 2)
        return floor.perceptron_products(rows, self.widths, self.device, gradient=self.gradient)


def why_not(name: str, cell: Cell, mode: str, quick: bool) -> str | None:
    """Why a contender is left out at a cell, or None."""
    if name == "compile" and (quick or cell not in HEADLINES):
        return "compiled only at the headline sizes of a full run"
    if name == "floor_gemm" and cell["kind"] == "exact":
        return "the exact trace needs no particular products"
    if name in ("vjp", "jvp") and cell["kind"] == "value":
        return "it has no divergence"
    return None


def _wide(cell: Cell) -> bool:
    return cell["kind"] == "hutchinson" and cell["n"] == N


def _measured_by(way: str) -> Callable[[Cell], bool]:
    return lambda cell: why_not(way, cell, "", False) is None


TARGETS = [
    *(Target(f"one probe, {TITLES[way]}", "cpu", ("forward_backward",), way, 1.4, _wide) for way in WAYS),
    *(
        Target(f"never slower than {TITLES[way]}", device, tuple(MODES), way, 0.95, _measured_by(way))
        for device in ("cpu", "cuda")
        for way in WAYS
    ),
    Target(
        "on a GPU, VJP", "cuda", ("forward_backward",), "vjp", 5.0,
        lambda cell: _wide(cell) and cell["width"] == 64, ON_A_GPU,
    ),
    Target("CUDA graphs never slower", "cuda", tuple(MODES), "eager_graph", 0.95, lambda cell: True, "native_graph"),
]  # fmt: skip

BENCHMARK = Benchmark(
    name="divergence",
    title="Divergence of a perceptron",
    modes=MODES,
    kinds=KINDS,
    sizes={"n": "n = {:,}", "d": "d = {}", "width": "width {}", "hidden": "{} hidden layers"},
    columns="kind, n, d, width, hidden layers",
    grid=GRID,
    quick_grid=QUICK_GRID,
    headlines=HEADLINES,
    titles=TITLES,
    ours=OURS,
    floors=("floor_gemm",),
    floor_title="floor: matrix products",
    cuda_only=("native_graph", "eager_graph"),
    problem=Problem,
    why_not=why_not,
    available=with_graph,
    targets=tuple(TARGETS),
    axis="width",
    axis_title="width",
    curve={"kind": "hutchinson", "n": N, "d": 64, "hidden": 3},
    tiny={"kind": "hutchinson", "n": 8, "d": 4, "width": 16, "hidden": 2},
    memory_cells=HEADLINES[-1:],
    output_bytes=lambda cell, mode: 4 * cell["n"] * (cell["d"] + 1) * (2 if mode == "forward_backward" else 1),
)
