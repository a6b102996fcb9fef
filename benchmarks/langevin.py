"""Langevin dynamics: a step x − h·g + √(2h)·z, the same in place, its noise alone, and chains on a 2-D mixture.

Contenders: our backends (on a GPU the native one as a CUDA graph too); PyTorch eager written the best way, for a step
``x - h * grad + c * torch.randn_like(x)``, in place with one buffer for the noise; the same under torch.compile;
torchebm, as it is and with its step on our kernel. Chains move on 8 Gaussians of one width, of which the plain loop
takes the gradient by two products and a softmax; torchebm's sampler has the same analytic gradient. The floor copies as
many bytes as must move: 12 an element of a step, 4 of noise; chains have none.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

import cgm_kernels
from cgm_kernels import checks
from cgm_kernels.langevin.energies import GaussianMixtureEnergy
from cgm_kernels.langevin.state import noise_state

from . import floor, langevin_peers
from .benchmark import Benchmark, Cell, Target, choose_backend, input_copies, not_installed, with_graph
from .patching import patched
from .timing import Contender, captured

MODES = {"sample": "sampling"}
KINDS = {"step": "step", "in_place": "step in place", "normal": "normals", "chain": "chain on 8 Gaussians"}
ON_CUDA = torch.cuda.is_available()
LARGE = 10**8  # elements from which a GPU is held to its bandwidth
STEP_SIZES = [1, 10, 100, 1000, 10**4, 10**5, 10**6, 10**7, *[LARGE] * ON_CUDA]
CHAINS = [(1, 1000), (100, 1000), (10_000, 1000)]
HEADLINES = [{"kind": "step", "n": n, "steps": 1} for n in (10**5, 10**7)] + [
    {"kind": "in_place", "n": 10**7, "steps": 1},
    {"kind": "normal", "n": 10**7, "steps": 1},
    {"kind": "chain", "n": 1, "steps": 1000},
    {"kind": "chain", "n": 10_000, "steps": 1000},
]
HEADLINES += [{"kind": kind, "n": LARGE, "steps": 1} for kind in ("step", "in_place", "normal")] * ON_CUDA
GRID = [{"kind": kind, "n": n, "steps": 1} for kind in ("step", "in_place", "normal") for n in STEP_SIZES] + [
    {"kind": "chain", "n": n, "steps": steps} for n, steps in CHAINS
]
QUICK_GRID = [
    {"kind": kind, "n": n, "steps": 1}
    for kind in ("step", "in_place", "normal")
    for n in (1, 1000, 10**5, 10**7, *[LARGE] * ON_CUDA)
] + [{"kind": "chain", "n": n, "steps": 100} for n in (1, 10_000)]
TITLES = {
    "native": "ours (native)",
    "triton": "ours (Triton)",
    "reference": "ours (reference)",
    "native_graph": "ours (native, CUDA graph)",
    "eager": "PyTorch eager",
    "eager_graph": "PyTorch eager, CUDA graph",
    "compile": "torch.compile",
    "torchebm": "torchebm",
    "torchebm_patched": "torchebm, its step on our kernel",
    "floor_copy": "floor: copy",
}
OURS = ("native", "triton", "reference", "native_graph")
STEP_SIZE = 0.01
DEVIATION = math.sqrt(2 * STEP_SIZE)
MOVED_BYTES = {"step": 12, "in_place": 12, "normal": 4, "chain": 0}
RADIUS, STD = 2.0, 0.5  # of the mixture: chains cross between its components


def mixture_means() -> Tensor:
    angles = torch.arange(8) * (math.pi / 4)
    return RADIUS * torch.stack((angles.cos(), angles.sin()), 1)


def eager_step(x: Tensor, grad: Tensor) -> Tensor:
    return x - STEP_SIZE * grad + DEVIATION * torch.randn_like(x)


def eager_in_place(x: Tensor, grad: Tensor, noise: Tensor) -> Tensor:
    return x.add_(grad, alpha=-STEP_SIZE).add_(noise.normal_(), alpha=DEVIATION)


def compiled_in_place(x: Tensor, grad: Tensor, noise: Tensor) -> Tensor:
    return x.copy_(eager_step(x, grad))


def mixture_gradient(x: Tensor, means: Tensor) -> Tensor:
    """(x − Σ r_k μ_k) / s², r the softmax of x·μ_k / s²: all |μ_k| are equal."""
    return torch.addmm(x, torch.softmax(x @ means.T * STD**-2, 1), means, alpha=-1.0).mul_(STD**-2)


def chain_step(x: Tensor, means: Tensor) -> Tensor:
    return x.add(mixture_gradient(x, means), alpha=-STEP_SIZE).add_(torch.randn_like(x), alpha=DEVIATION)


class Problem:
    """The inputs of one cell, float32, and the contenders on them."""

    def __init__(self, cell: Cell, mode: str, device: str) -> None:
        checks.choice("mode", mode, MODES)
        self.cell, self.kind, self.device = cell, cell["kind"], device
        n, self.steps = cell["n"], cell["steps"]
        self.moved_bytes = MOVED_BYTES[self.kind] * n
        generator = torch.Generator().manual_seed(0)
        self.means = mixture_means().to(device)
        # What x and grad hold is of no matter to the time, so that copies of large ones are cheap.
        shape, copies = ((n, 2) if self.kind == "chain" else (n,)), input_copies(8 * n, device)
        self.x, self.grad = (torch.randn(shape, generator=generator).to(device) for _ in range(2))
        self.inputs = [(self.x.clone(), self.grad.clone()) for _ in range(copies)]
        self.noise = torch.empty_like(self.x)

    def contender(self, name: str, check: bool = True) -> Contender:
        """The named contender; with ``check`` its samples must first have the law of the step or chain."""
        if name == "floor_copy":
            return Contender(name, call=floor.copy_call(self.moved_bytes // 2, self.device, len(self.inputs)))
        prepare, base = self._preparation(name), name.partition("_")[0]
        prepare()
        calls = [self._sampler(base, name.endswith("_graph"), *inputs) for inputs in self.inputs]
        if check:
            self._check(name, self._sampler(base, False, self.x.clone(), self.grad.clone())())
        call = functools.partial(self._call, calls)
        return Contender(name, call=captured(name, call, len(calls)), prepare=prepare)

    @staticmethod
    def _call(calls: list[Callable[[], Tensor]], index: int) -> None:
        calls[index % len(calls)]()

    @staticmethod
    def _preparation(name: str) -> Callable[[], None]:
        base, _, variant = name.partition("_")
        choose = choose_backend(base)
        if base != "torchebm":
            return choose

        def prepare() -> None:
            choose()
            patched("torchebm", variant == "patched")

        return prepare

    def _sampler(self, name: str, captured: bool, x: Tensor, grad: Tensor) -> Callable[[], Tensor]:
        """What a contender calls with these inputs."""
        if name in OURS:
            return self._ours(captured, x, grad)
        if name == "torchebm":
            if self.kind == "step":
                return langevin_peers.step(x, grad, STEP_SIZE)
            gradient = functools.partial(mixture_gradient, means=self.means)
            return langevin_peers.chain(x, gradient, STEP_SIZE, self.steps)
        checks.choice("name", name, ("eager", "compile"))
        return self._plain(name == "compile", x, grad)

    def _ours(self, captured: bool, x: Tensor, grad: Tensor) -> Callable[[], Tensor]:
        """By a key of torch's generator a call; a graph holds a state."""
        state = noise_state(device=self.device) if captured else None
        if self.kind == "normal":
            return lambda: cgm_kernels.normal(x.shape, state=state, device=self.device)
        if self.kind == "chain":
            energy = GaussianMixtureEnergy(None, self.means, stds=STD)
            return lambda: cgm_kernels.langevin_chain(x, energy, self.steps, STEP_SIZE, state=state)
        out = x if self.kind == "in_place" else None
        return lambda: cgm_kernels.langevin_step(x, grad, STEP_SIZE, state=state, out=out)

    def _plain(self, compiled: bool, x: Tensor, grad: Tensor) -> Callable[[], Tensor]:
        def built(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
            if not compiled:
                return function
            torch._dynamo.reset()  # sizes must not count against the limit of recompilations
            return torch.compile(function, fullgraph=True, dynamic=False)

        if self.kind == "normal":
            return functools.partial(built(torch.randn), x.shape, device=self.device)
        if self.kind == "step":
            return functools.partial(built(eager_step), x, grad)
        if self.kind == "in_place":
            function = compiled_in_place if compiled else eager_in_place
            return functools.partial(built(function), x, grad, self.noise)
        move, means = built(chain_step), self.means

        def loop() -> Tensor:
            position = x
            for _ in range(self.steps):
                position = move(position, means)
            return position

        return loop

    def _check(self, name: str, found: Tensor) -> None:
        """Mean and variance of the noise, or of the distances that chains have come to, within 6 standard errors."""
        if self.kind == "chain":
            sample, exact = found.double().norm(dim=1), self._distances
            mean, variance, errors = exact.mean(), exact.var(), math.sqrt(2)
        else:
            start = 0 if self.kind == "normal" else self.x.double() - STEP_SIZE * self.grad.double()
            sample = (found.double() - start) / (1 if self.kind == "normal" else DEVIATION)
            mean, variance, errors = sample.new_zeros(()), sample.new_ones(()), 1.0
        n = sample.numel()
        if found.shape != self.x.shape or not bool(sample.isfinite().all()):
            raise AssertionError(f"{name} at {self.cell} gives {tuple(found.shape)}, or what is not finite")
        bound = 6 * errors * float(variance) ** 0.5 / math.sqrt(n)
        off = float((sample.mean() - mean).abs())
        spread = float((sample.var() / variance - 1).abs()) if n > 1000 else 0.0
        if off > bound or spread > 6 * errors * math.sqrt(3 / n):
            raise AssertionError(f"{name} at {self.cell} has a mean off by {off:.1e}, a variance by {spread:.1e}")

    @functools.cached_property
    def _distances(self) -> Tensor:
        """How far from the centre the plain loop's chains have come; of one chain, 1000 of them."""
        x = self.x if len(self.x) > 1 else self.x.expand(1000, 2)
        return self._plain(False, x, x)().double().norm(dim=1)


def why_not(name: str, cell: Cell, mode: str, quick: bool) -> str | None:
    """Why a contender is left out at a cell, or None."""
    kind = cell["kind"]
    if name.startswith("torchebm"):
        return not_installed("torchebm") if kind in ("step", "chain") else "torchebm has no such call"
    if name == "floor_copy" and kind == "chain":
        return "a chain moves next to no memory"
    if name.endswith("_graph") and kind == "chain":
        return "one launch already"
    if name == "compile" and quick and cell not in HEADLINES:
        return "compiled only at the headline sizes"
    return None


def _at(kind: str, *sizes: int) -> Callable[[Cell], bool]:
    return lambda cell: cell["kind"] == kind and cell["n"] in sizes


def _single(cell: Cell) -> bool:
    return cell["kind"] != "chain"


BENCHMARK = Benchmark(
    name="langevin",
    title="Langevin dynamics",
    modes=MODES,
    kinds=KINDS,
    sizes={"n": "n = {:,}", "steps": "{:,} steps"},
    columns="kind, n, steps",
    grid=GRID,
    quick_grid=QUICK_GRID,
    headlines=HEADLINES,
    titles=TITLES,
    ours=OURS,
    floors=("floor_copy",),
    floor_title="floor: copy",
    cuda_only=("native_graph", "eager_graph"),
    problem=Problem,
    why_not=why_not,
    available=with_graph,
    targets=(
        Target("step, PyTorch", "cpu", ("sample",), "eager", 4.0, _at("step", 10**5, 10**7)),
        Target("step in place, PyTorch", "cpu", ("sample",), "eager", 2.0, _at("in_place", 10**7)),
        Target("chain, plain loop", "cpu", ("sample",), "eager", 4.0, _at("chain", 10_000)),
        Target("never slower than PyTorch", "cpu", ("sample",), "eager", 0.95, lambda cell: True),
        Target(
            "on a GPU, share of the copy bandwidth", "cuda", ("sample",), "floor_copy", 0.85,
            lambda cell: _single(cell) and cell["n"] >= LARGE,
        ),
        Target("never slower than PyTorch", "cuda", ("sample",), "eager", 0.95, lambda cell: True),
        Target("CUDA graphs never slower", "cuda", ("sample",), "eager_graph", 0.95, _single, "native_graph"),
    ),
    axis_title="elements",
    curve={"kind": "step", "steps": 1},
    libraries=("torchebm",),
    tiny={"kind": "step", "n": 16, "steps": 1},
)  # fmt: skip
