"""Runge–Kutta steps beside their evaluations: combinations, error norms, and torchdiffeq's solvers under a patch.

Contenders: our backends; PyTorch eager written the best way, a chain of fused multiply-adds and an error norm of few
passes; for whole solves, torchdiffeq as it is, of a field that costs one multiplication. The floor copies as many bytes
as a combination must move.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

import cgm_kernels
from cgm_kernels import checks

from . import floor
from .benchmark import Benchmark, Cell, Target, choose_backend, not_installed
from .oracle import Oracle, results
from .patching import patched
from .timing import Contender

MODES = {"forward": "forward", "forward_backward": "forward + backward"}
FIXED = ("rk4", "heun2", "heun3")
ADAPTIVE = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")
SOLVERS = (*FIXED, *ADAPTIVE)
KINDS = {"update": "combination", "error": "error norm"} | {name: f"torchdiffeq {name}" for name in SOLVERS}
SIZES = (100, 10**4, 10**6)
# Around the sizes from which the patch makes fused steps, and each solver that it routes.
FURTHER = {"rk4": (2**16, 2**18)} | dict.fromkeys(("heun2", "heun3"), (2**14, 2**16, 2**18))
FURTHER |= dict.fromkeys(ADAPTIVE[1:], (100, 2**16))
GRID = [{"kind": kind, "n": n} for kind in ("update", "error", "rk4", "dopri5") for n in SIZES]
HEADLINES = [cell for cell in GRID if cell["n"] == 10**6]
GRID += [{"kind": kind, "n": n} for kind, sizes in FURTHER.items() for n in sizes]
TITLES = {
    "native": "ours (native)",
    "triton": "ours (Triton)",
    "reference": "ours (reference)",
    "eager": "PyTorch eager; torchdiffeq as it is",
    "floor_copy": "floor: copy",
}
OURS = ("native", "triton", "reference")
WEIGHTS = (35 / 384, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)  # of Dormand and Prince's fifth-order step
STEP, RTOL, ATOL = 0.1, 1e-3, 1e-4


def eager_update(y: Tensor, *stages: Tensor) -> tuple[Tensor]:
    for stage, weight in zip(stages, WEIGHTS, strict=True):
        y = torch.add(y, stage, alpha=STEP * weight)
    return (y,)


def eager_error(y: Tensor, *stages: Tensor) -> tuple[Tensor]:
    error = stages[0] * (STEP * WEIGHTS[0])
    for stage, weight in zip(stages[1:], WEIGHTS[1:], strict=True):
        error = torch.add(error, stage, alpha=STEP * weight)
    tolerance = torch.maximum(y.abs(), stages[0].abs()).mul(RTOL).add(ATOL)
    return ((error / tolerance).square().mean().sqrt(),)


def our_update(y: Tensor, *stages: Tensor) -> tuple[Tensor]:
    return (cgm_kernels.runge_kutta_update(y, stages, WEIGHTS, STEP),)


def our_error(y: Tensor, *stages: Tensor) -> tuple[Tensor]:
    return (cgm_kernels.runge_kutta_error(y, stages[0], stages, WEIGHTS, STEP, RTOL, ATOL),)


def solve(method: str, y: Tensor, rate: Tensor) -> tuple[Tensor]:
    """20 fixed steps, or as many as the tolerances ask for; of a low order it would be thousands."""
    from torchdiffeq import odeint

    times = torch.linspace(0.0, 1.0, 21 if method in FIXED else 2, dtype=y.dtype, device=y.device)
    rtol = 1e-5 if method in ("dopri5", "dopri8") else 1e-3
    return (odeint(lambda t, x: rate * x, y, times, method=method, rtol=rtol, atol=0.1 * rtol)[-1],)


def fuse_where_unknown(device: str) -> None:
    """Every state takes fused steps on a device of which the patch does not know yet from what size they are faster."""
    from cgm_kernels.integrations import torchdiffeq

    torchdiffeq.LEAST.setdefault(torch.device(device).type, dict.fromkeys(torchdiffeq.LEAST["cpu"], 1))


METHODS: dict[tuple[bool, str], Callable[..., Sequence[Tensor]]] = {
    (False, "update"): eager_update,
    (False, "error"): eager_error,
    (True, "update"): our_update,
    (True, "error"): our_error,
}


class Problem:
    """The states of one cell, float32, and the contenders on them."""

    def __init__(self, cell: Cell, mode: str, device: str) -> None:
        checks.choice("mode", mode, MODES)
        self.cell, self.kind, self.device = cell, cell["kind"], device
        self.solves = self.kind in SOLVERS
        gradient = mode == "forward_backward"
        generator = torch.Generator().manual_seed(0)
        count = 2 if self.solves else 1 + len(WEIGHTS)
        self.inputs = [
            torch.randn(cell["n"], generator=generator).to(device).requires_grad_(gradient) for _ in range(count)
        ]
        output = () if self.kind == "error" else (cell["n"],)
        self.cotangents = [torch.randn(output, generator=generator).to(device)] if gradient else None
        self.oracle = Oracle(cell, self._method("eager"), self.inputs, self.cotangents)

    def contender(self, name: str, check: bool = True) -> Contender:
        """The named contender; with ``check`` its results must first agree with PyTorch eager in float64."""
        if name == "floor_copy":
            moved = 4 * self.cell["n"] * (len(WEIGHTS) + 2)
            return Contender(name, call=floor.copy_call(moved // 2, self.device))
        checks.choice("name", name, TITLES)
        choose = choose_backend(name)

        def prepare() -> None:
            choose()
            if self.solves:
                self._switch(name in OURS)

        method = self._method(name)
        prepare()
        if check and name != "eager":
            patched("torchdiffeq", False)
            self.oracle.expect()
            prepare()
            self.oracle.check(name, method)
        return Contender(name, call=lambda index: results(method, self.inputs, self.cotangents), prepare=prepare)

    def _switch(self, on: bool) -> None:
        """The patch on or off; a switch costs the interpreter what it learnt, 1 to 4 per cent of the next solve.

        Both contenders are measured after the same switches and a small solve that is not counted.
        """
        patched("torchdiffeq", not on)
        patched("torchdiffeq", on)
        fuse_where_unknown(self.device)
        solve(self.kind, *(state.detach()[:100] for state in self.inputs))

    def _method(self, name: str) -> Callable[..., Sequence[Tensor]]:
        if self.solves:
            return functools.partial(solve, self.kind)
        return METHODS[name in OURS, self.kind]


def why_not(name: str, cell: Cell, mode: str, quick: bool) -> str | None:
    """Why a contender is left out at a cell, or None."""
    if name == "floor_copy":
        return None if cell["kind"] == "update" and mode == "forward" else "counted for a combination"
    if cell["kind"] == "error" and mode == "forward_backward":
        return "with a gradient the error norm is PyTorch's arithmetic"
    return not_installed("torchdiffeq") if cell["kind"] in SOLVERS else None


BENCHMARK = Benchmark(
    name="runge_kutta",
    title="Runge–Kutta steps",
    modes=MODES,
    kinds=KINDS,
    sizes={"n": "n = {:,}"},
    columns="kind, n",
    grid=GRID,
    quick_grid=HEADLINES,
    headlines=HEADLINES,
    titles=TITLES,
    ours=OURS,
    floors=("floor_copy",),
    floor_title="floor: copy",
    problem=Problem,
    why_not=why_not,
    targets=tuple(
        Target("never slower than PyTorch", device, tuple(MODES), "eager", 0.95, lambda cell: True)
        for device in ("cpu", "cuda")
    ),
    axis_title="elements",
    curve={"kind": "update"},
    libraries=("torchdiffeq",),
    tiny={"kind": "update", "n": 16},
)
