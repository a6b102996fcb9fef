"""The inverse of a masked autoregressive network: a MAF's samples, an IAF's densities; and with all gradients.

Contenders: our backends; PyTorch eager written the best way, which masks the weights once and evaluates the whole
network once for each dimension. The floor is the matrix products of one evaluation, into memory that is there already,
and with the gradient those by its weights and inputs: the inverse cannot do with less.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

import cgm_kernels
from cgm_kernels import checks
from cgm_models.nets import MaskedMLP

from . import floor
from .benchmark import Benchmark, Cell, Target, choose_backend, drawing
from .flow_peers import HIDDEN
from .oracle import Oracle, results
from .timing import Contender

MODES = {"forward": "inverse", "forward_backward": "inverse + backward"}
KINDS = {"standardize": "MAF sampling", "affine": "IAF density"}
HEADLINES = [{"kind": "standardize", "n": 4096, "d": 64}]
GRID = HEADLINES + [
    {"kind": kind, "n": n, "d": d}
    for kind in KINDS
    for n, d in ((1, 2), (64, 8), (512, 16), (256, 256), (4096, 64))
    if {"kind": kind, "n": n, "d": d} not in HEADLINES
]
QUICK_GRID = HEADLINES + [{"kind": "standardize", "n": 64, "d": 8}, {"kind": "affine", "n": 512, "d": 16}]
TITLES = {
    "native": "ours (native)",
    "triton": "ours (Triton)",
    "reference": "ours (reference)",
    "eager": "PyTorch eager, d passes",
    "floor_gemm": "floor: matrix products of one pass",
}
OURS = ("native", "triton", "reference")
Pair = tuple[Tensor, Tensor]


def eager(y: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], masks: Sequence[Tensor], map: str) -> Pair:
    """Pass k makes the k-th dimension right; the last one makes all of them differentiable."""
    masked = [weight * mask for weight, mask in zip(weights, masks, strict=True)]
    x = torch.zeros_like(y)
    for _ in range(y.shape[1]):
        h = x
        for number, (weight, bias) in enumerate(zip(masked, biases, strict=True)):
            h = F.linear(F.relu(h) if number else h, weight, bias)
        s, t = h.chunk(2, 1)
        x = torch.addcmul(t, y, s.exp()) if map == "standardize" else (y - t) * torch.exp(-s)
    return x, s.sum(1) if map == "standardize" else -s.sum(1)


def ours(y: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], masks: Sequence[Tensor], map: str) -> Pair:
    return cgm_kernels.masked_mlp_inverse(y, weights, biases, masks, map=map)


class Problem:
    """The points and the network of one cell, float32, and the contenders on them."""

    def __init__(self, cell: Cell, mode: str, device: str) -> None:
        checks.choice("mode", mode, MODES)
        self.cell, self.device, self.gradient = cell, device, mode == "forward_backward"
        n, d = cell["n"], cell["d"]
        draw = drawing(device)
        layers = MaskedMLP(list(range(d)), 2, (HIDDEN, HIDDEN)).layers
        self.masks = [layer.mask.to(device) for layer in layers]
        # Small enough that d passes in float32 agree with float64.
        weights = [draw(*mask.shape, scale=0.3 / mask.shape[1] ** 0.5) for mask in self.masks]
        self.inputs = [draw(n, d), *weights, *(draw(len(mask), scale=0.1) for mask in self.masks)]
        for one in self.inputs:
            one.requires_grad_(self.gradient)
        self.cotangents = (draw(n, d), draw(n)) if self.gradient else None
        self.oracle = Oracle(cell, functools.partial(self._inverse, eager), self.inputs, self.cotangents)

    def contender(self, name: str, check: bool = True) -> Contender:
        """The named contender; with ``check`` its results must first agree with PyTorch eager in float64."""
        if name == "floor_gemm":
            return Contender(name, call=self._products())
        checks.choice("name", name, ("eager", *OURS))
        inverse = functools.partial(self._inverse, eager if name == "eager" else ours)
        prepare = choose_backend(name)
        prepare()
        if check and name != "eager":
            self.oracle.check(name, inverse)
        return Contender(name, call=lambda index: results(inverse, self.inputs, self.cotangents), prepare=prepare)

    def _inverse(self, method: Callable[..., Pair], y: Tensor, *layers: Tensor) -> Pair:
        half, masks = len(layers) // 2, [mask.to(y.dtype) for mask in self.masks]
        return method(y, layers[:half], layers[half:], masks, self.cell["kind"])

    def _products(self) -> Callable[[int], None]:
        n, d = self.cell["n"], self.cell["d"]
        return floor.perceptron_products(n, (d, HIDDEN, HIDDEN, 2 * d), self.device, gradient=self.gradient)


BENCHMARK = Benchmark(
    name="masked_inverse",
    title="Masked autoregressive inverse",
    modes=MODES,
    kinds=KINDS,
    sizes={"n": "n = {:,}", "d": "d = {:,}"},
    columns="kind, n, d",
    grid=GRID,
    quick_grid=QUICK_GRID,
    headlines=HEADLINES,
    titles=TITLES,
    ours=OURS,
    floors=("floor_gemm",),
    floor_title="floor: matrix products",
    problem=Problem,
    targets=tuple(
        Target("never slower than PyTorch", device, tuple(MODES), "eager", 0.95, lambda cell: True)
        for device in ("cpu", "cuda")
    ),
    axis_title="points",
    tiny={"kind": "standardize", "n": 8, "d": 4},
    memory_cells=HEADLINES,
    output_bytes=lambda cell, mode: 4 * cell["n"] * cell["d"] * (2 if mode == "forward_backward" else 1),
)
