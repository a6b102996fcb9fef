"""Affine couplings: y = σ(s)·x + t with its log-determinant; forward, and with the gradients in all inputs.

Contenders: our backends; PyTorch eager written the best way (one ``addcmul``, contiguous inputs); the same under
torch.compile; on a GPU both also as CUDA graphs. The floor copies as many bytes as must move: every input read and
every output written once, in the forward and again in the backward. The gradient in the shift is that of y: it moves
nothing, except in the one gradient of a conditioner's output.

Much of eager's time at large sizes is that of fresh memory: glibc hands large blocks back to the system, and the next
ones cost a fault a page. Whoever sets its variables before a process begins keeps them. So the sizes of the goals are
measured a second time, in a process with these variables, ours in it as well.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import cgm_kernels
from cgm_kernels import checks

from . import floor
from .benchmark import Benchmark, Cell, Target, choose_backend, drawing, input_copies, with_graph
from .oracle import Oracle
from .timing import Contender, captured

Pair = tuple[Tensor, Tensor]

MODES = {"forward": "forward", "forward_backward": "forward + backward"}
SCALES: dict[str, dict[str, Any]] = {
    "exp": {"scale": "exp"},
    "tanh": {"scale": "tanh", "bound": 2.0},
    "softclip": {"scale": "softclip", "bound": 2.0},
    "sigmoid": {"scale": "sigmoid", "offset": 2.0, "eps": 0.0},
    "softplus": {"scale": "softplus", "offset": 0.5, "eps": 1e-3},
    "gate": {"scale": "gate"},
}
TITLED = {**{name: name for name in SCALES}, "inverse": "exp, inverse", "event": "whole event", "actnorm": "actnorm"}
KEPT = "_kept"
KINDS = TITLED | {f"{kind}{KEPT}": f"{title}, heap kept" for kind, title in TITLED.items()}
HEAP_KEPT = {"MALLOC_TRIM_THRESHOLD_": str(2**30), "MALLOC_MMAP_THRESHOLD_": str(2**30)}
SIZES = [(1, 2), (16, 2), (128, 8), (1024, 16), (4096, 32), (4096, 64), (65536, 64), (4096, 3072)]
CURVE_SIZES = [(n, 64) for n in (16, 128, 1024, 16384, 262144)]
GOAL_SIZES = [(65536, 64), (4096, 3072)]
HEADLINES = [{"kind": kind, "n": n, "d": d} for n, d in GOAL_SIZES for kind in ("exp", f"exp{KEPT}")]
GRID = [{"kind": "exp", "n": n, "d": d} for n, d in SIZES + CURVE_SIZES] + [
    {"kind": kind, "n": n, "d": d}
    for kind in TITLED
    if kind != "exp"
    for n, d in ((1, 2), (128, 8), (4096, 64), *GOAL_SIZES)
]
GRID += [{"kind": f"{kind}{KEPT}", "n": n, "d": d} for kind in TITLED for n, d in GOAL_SIZES]
UNKEPT = [cell for cell in HEADLINES if cell["kind"] == "exp"]
QUICK_GRID = UNKEPT + [
    {"kind": kind, "n": n, "d": d}
    for kind, n, d in (
        ("exp", 1, 2),
        ("exp", 128, 8),
        ("exp", 4096, 64),
        ("tanh", 65536, 64),
        ("event", 16, 2),
        ("event", 4096, 64),
        ("actnorm", 16, 2),
        ("actnorm", 4096, 64),
    )
]
TITLES = {
    "native": "ours (native)",
    "triton": "ours (Triton)",
    "reference": "ours (reference)",
    "native_graph": "ours (native, CUDA graph)",
    "eager": "PyTorch eager",
    "eager_graph": "PyTorch eager, CUDA graph",
    "compile": "torch.compile",
    "floor_copy": "floor: copy",
}
OURS = ("native", "triton", "reference", "native_graph")
# Elements that must be read or written at least once, in units of n·d: forward, and forward with backward.
MOVED = {**dict.fromkeys((*SCALES, "inverse"), (4, 9)), "gate": (4, 10), "event": (3, 7), "actnorm": (2, 5)}
LARGE = 2**22  # elements from which a GPU is held to its bandwidth


def eager_exp(x: Tensor, s: Tensor, t: Tensor) -> Pair:
    return torch.addcmul(t, x, s.exp()), s.sum(-1)


def eager_tanh(x: Tensor, s: Tensor, t: Tensor) -> Pair:
    return eager_exp(x, 2.0 * torch.tanh(0.5 * s), t)


def eager_softclip(x: Tensor, s: Tensor, t: Tensor) -> Pair:
    return eager_exp(x, s / (1.0 + (0.5 * s).abs()), t)


def eager_sigmoid(x: Tensor, s: Tensor, t: Tensor) -> Pair:
    shifted = s + 2.0
    return torch.addcmul(t, x, shifted.sigmoid()), F.logsigmoid(shifted).sum(-1)


def eager_softplus(x: Tensor, s: Tensor, t: Tensor) -> Pair:
    sigma = F.softplus(s + 0.5) + 1e-3
    return torch.addcmul(t, x, sigma), sigma.log().sum(-1)


def eager_gate(x: Tensor, s: Tensor, t: Tensor) -> Pair:
    return torch.lerp(t, x, s.sigmoid()), F.logsigmoid(s).sum(-1)


def eager_inverse(y: Tensor, s: Tensor, t: Tensor) -> Pair:
    return (y - t) * s.neg().exp(), -s.sum(-1)


def eager_event(x: Tensor, parameters: Tensor) -> Pair:
    half = x.shape[1] // 2
    s, t = parameters.chunk(2, dim=1)
    moved, log_det = eager_exp(x[:, half:], s, t)
    return torch.cat((x[:, :half], moved), dim=1), log_det


def eager_actnorm(x: Tensor, s: Tensor, t: Tensor) -> Pair:
    return torch.addcmul(t, x, s.exp()), s.sum().expand(len(x))


def ours_event(x: Tensor, parameters: Tensor) -> Pair:
    return cgm_kernels.affine_coupling_event(x, parameters, x.shape[1] // 2)


EAGER: dict[str, Callable[..., Pair]] = {
    "exp": eager_exp,
    "tanh": eager_tanh,
    "softclip": eager_softclip,
    "sigmoid": eager_sigmoid,
    "softplus": eager_softplus,
    "gate": eager_gate,
    "inverse": eager_inverse,
    "event": eager_event,
    "actnorm": eager_actnorm,
}
OUR_CALLS: dict[str, Callable[..., Pair]] = {
    **{kind: functools.partial(cgm_kernels.affine_coupling, **options) for kind, options in SCALES.items()},
    "inverse": cgm_kernels.affine_coupling_inverse,
    "event": ours_event,
    "actnorm": cgm_kernels.affine_coupling,
}


class Problem:
    """The inputs of one cell and mode, float32, and the contenders on them; with a backward, also the gradients of y
    and log_det that it starts from."""

    def __init__(self, cell: Cell, mode: str, device: str) -> None:
        checks.choice("mode", mode, MODES)
        self.cell, self.device, self.gradient = cell, device, mode == "forward_backward"
        n, d = cell["n"], cell["d"]
        self.kind = cell["kind"].removesuffix(KEPT)
        self.moved_bytes = 4 * n * d * MOVED[self.kind][self.gradient]
        shapes = {"event": [(n, d), (n, 2 * (d - d // 2))], "actnorm": [(n, d), (d,), (d,)]}
        draw = drawing(device)
        self.inputs = [
            tuple(draw(*shape).requires_grad_(self.gradient) for shape in shapes.get(self.kind, [(n, d)] * 3))
            for _ in range(input_copies(self.moved_bytes, device))
        ]
        self.cotangents = (draw(n, d), draw(n))
        wanted = self.cotangents if self.gradient else None
        self.oracle = Oracle(cell, EAGER[self.kind], self.inputs[0], wanted)

    def contender(self, name: str, check: bool = True) -> Contender:
        """The named contender; with ``check`` its results must first agree with PyTorch eager in float64."""
        if name == "floor_copy":
            call = floor.copy_call(self.moved_bytes // 2, self.device, len(self.inputs))
            return Contender(name, call=call)
        method, prepare = self._method(name.removesuffix("_graph")), choose_backend(name)
        prepare()
        if check and name != "eager":
            self.oracle.check(name, method)
        call = functools.partial(self._step, method)
        return Contender(name, call=captured(name, call, len(self.inputs)), prepare=prepare)

    def _method(self, name: str) -> Callable[..., Pair]:
        if name == "compile":
            torch._dynamo.reset()  # sizes must not count against the limit of recompilations
            return torch.compile(EAGER[self.kind], fullgraph=True, dynamic=False)
        checks.choice("name", name, ("eager", *OURS))
        return EAGER[self.kind] if name == "eager" else OUR_CALLS[self.kind]

    def _step(self, method: Callable[..., Pair], index: int) -> None:
        inputs = self.inputs[index % len(self.inputs)]
        if self.gradient:
            torch.autograd.grad(method(*inputs), inputs, self.cotangents)
        else:
            method(*inputs)


def why_not(name: str, cell: Cell, mode: str, quick: bool) -> str | None:
    """Why a contender is left out at a cell, or None."""
    if name != "compile" or (cell in HEADLINES and (not quick or mode == "forward_backward")):
        return None
    if quick:
        return "compiled only at the headline sizes, with the gradient"
    return None if cell["kind"] == "exp" and cell["d"] == 64 else "compiled only at the sizes of headlines and plot"


def _of_goals(kept: bool) -> Callable[[Cell], bool]:
    return lambda cell: (cell["n"], cell["d"]) in GOAL_SIZES and cell["kind"].endswith(KEPT) == kept


def _large(cell: Cell) -> bool:
    return cell["n"] * cell["d"] >= LARGE


BENCHMARK = Benchmark(
    name="coupling",
    title="Affine coupling",
    modes=MODES,
    kinds=KINDS,
    sizes={"n": "n = {:,}", "d": "d = {:,}"},
    columns="kind, n, d",
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
        *(
            Target(f"{modes}, PyTorch{said}", "cpu", (mode,), "eager", least, _of_goals(kept))
            for kept, said in ((False, ""), (True, ", heap kept"))
            for mode, modes, least in (("forward", "forward", 2.0), ("forward_backward", "forward+backward", 3.0))
        ),
        Target("never slower than PyTorch", "cpu", tuple(MODES), "eager", 0.95, lambda cell: True),
        Target("on a GPU, share of the copy bandwidth", "cuda", tuple(MODES), "floor_copy", 0.85, _large),
        Target("never slower than PyTorch", "cuda", tuple(MODES), "eager", 0.95, lambda cell: True),
        Target(
            "CUDA graphs never slower", "cuda", tuple(MODES), "eager_graph", 0.95, lambda cell: True, "native_graph"
        ),
    ),
    axis_title="events",
    curve={"kind": "exp", "d": 64},
    tiny={"kind": "exp", "n": 16, "d": 4},
    environments={kind: HEAP_KEPT for kind in KINDS if kind.endswith(KEPT)},
    note=(
        '"Heap kept": all contenders in a process begun with MALLOC_TRIM_THRESHOLD_ and MALLOC_MMAP_THRESHOLD_ at '
        "1 GiB, so that glibc keeps what PyTorch frees, as our blocks are kept anyway. The others are under glibc's "
        "defaults, where eager pays faults for fresh pages: at large sizes much of their ratios is that."
    ),
    memory_cells=UNKEPT,
    output_bytes=lambda cell, mode: 4 * cell["n"] * cell["d"] * (2 if mode == "forward_backward" else 1),
)
