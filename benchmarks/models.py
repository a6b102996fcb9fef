"""Whole flows: log_prob with the gradient in all parameters, and sampling, of ours and of the libraries people use.

Contenders: our flows on each backend; a minimal PyTorch flow with our weights, which must give our numbers; the same
under torch.compile; zuko, normflows and nflows with as many layers, widths and parameters, wherever one of them has
the family: of FFJORD that is zuko's, with its own solver and features of time. The floor is the matrix products of the
conditioners alone, into memory that is there already.

On a GPU the couplings of RealNVP are one Triton kernel a direction, and the layers one by one, on the native kernels,
stand beside them whichever of ours is preferred.

FFJORD takes 20 steps of Kutta's 3/8 rule, or those of dopri5 at the tolerances of zuko's CNF; one row of each trains by
Hutchinson's estimate, another by the exact trace. Its minimal flow exists with a loop in PyTorch, for fixed steps, and
with torchdiffeq's ``odeint``. zuko's CNF is given the field of ours and must give its numbers, to a solver's error; it
holds that of the log-density to a hundredth of the precision, and makes its steps again in the backward. On a GPU the
step of a training, ours and the loop, is also captured as a CUDA graph. The peaks of memory tell of FFJORD with
gradient="checkpoint" at two numbers of steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cgm_kernels import checks
from cgm_kernels.langevin import noise_state

from . import floor
from .benchmark import ON_A_GPU, Benchmark, Cell, Target, choose_backend, not_installed, with_graph
from .flow_peers import ABSENT, HIDDEN, LAYERS, LIBRARIES, NO_DENSITY, FlowModel, share_field
from .model_cells import (
    ADAPTIVE_KINDS,
    CHECKPOINTED,
    CONTINUOUS,
    CONTINUOUS_KINDS,
    ESTIMATED,
    FAMILIES,
    GRID,
    HEADLINES,
    KINDS,
    MEMORY_CELLS,
)
from .plain_cnf import PlainFFJORD, TorchdiffeqFFJORD
from .plain_flows import PLAIN, PlainFlow
from .timing import Contender, captured

MODES = {"log_prob_backward": "log_prob forward + backward", "sample": "sampling"}
MINIMAL: dict[tuple[bool, str], type[Any]] = {(False, kind): plain for kind, plain in PLAIN.items()} | {
    (by_library, kind): TorchdiffeqFFJORD if by_library else PlainFFJORD
    for by_library in (False, True)
    for kind in CONTINUOUS_KINDS
    if by_library or kind not in ADAPTIVE_KINDS
}
"""By whether torchdiffeq solves, and by the family."""
OURS = ("native", "triton", "reference", "native_graph")
TITLES = {
    "native": "ours (native)",
    "triton": "ours (Triton)",
    "reference": "ours (reference)",
    "native_graph": "ours (native, CUDA graph)",
    "layers": "ours (native), layer by layer",
    "eager": "minimal PyTorch flow",
    "eager_graph": "minimal flow, CUDA graph",
    "compile": "minimal flow, torch.compile",
    "torchdiffeq": "minimal flow, torchdiffeq",
    "zuko": "zuko",
    "normflows": "normflows",
    "nflows": "nflows",
    "floor_gemm": "floor: matrix products",
}
SAMPLES_ONE_BY_ONE = "MAF"  # the kind whose samples take a pass for each dimension everywhere but in ours


def our_flow(kind: str, dim: int) -> FlowModel:
    """Our flow with noise on its parameters (a new one is the identity); Glow's points are square images."""
    from cgm_models import cnf, flows

    generator = torch.Generator().manual_seed(0)
    shape = (1, math.isqrt(dim), math.isqrt(dim)) if kind == "Glow" else (dim,)
    family = cnf.FFJORD if kind in CONTINUOUS_KINDS else getattr(flows, kind)
    model = family(event_shape=shape, **FAMILIES[kind])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        if kind in ADAPTIVE_KINDS:
            model.transform.layers[0].field.layers[0].weight[:, dim] = 0.0  # of t, which zuko's has not
    log_prob = (lambda x: model.loss(x).neg()) if kind in ESTIMATED else model.log_prob  # whose trace is exact
    return FlowModel(model, log_prob, model.sample)


def with_state(flow: FlowModel, device: str) -> FlowModel:
    """FFJORD with probes of a state that the device advances: replays of a CUDA graph draw fresh ones."""
    model: Any = flow.module
    state = noise_state(device=device)
    return FlowModel(model, lambda x: model.loss(x, state=state).neg(), flow.sample)


class Problem:
    """The points of one cell, float32, and the contenders that evaluate or draw as many."""

    def __init__(self, cell: Cell, mode: str, device: str) -> None:
        checks.choice("mode", mode, MODES)
        self.cell, self.mode, self.device = cell, mode, device
        self.x = torch.randn(cell["n"], cell["d"], generator=torch.Generator().manual_seed(1)).to(device)

        self.ours = our_flow(cell["kind"], cell["d"])
        self.ours.module.to(device)
        self.x = self.x.reshape(cell["n"], *self.ours.module.event_shape)  # type: ignore[misc]

    def contender(self, name: str, check: bool = True) -> Contender:
        """The named contender; with ``check`` the plain flow must first give our numbers, the libraries' our size."""
        if name == "floor_gemm":
            return Contender(name, call=self._products())
        prepare = choose_backend("native" if name == "layers" else name)
        prepare()
        flow = self._flow(name.removesuffix("_graph"), check)
        if name == "native_graph" and self.cell["kind"] in ESTIMATED:
            flow = with_state(flow, self.device)
        call = self._sample(flow) if self.mode == "sample" else self._training(flow)
        return Contender(name, call=captured(name, call), prepare=prepare)

    def _flow(self, name: str, check: bool) -> FlowModel:
        if name in (*OURS, "layers"):
            return self.ours
        kind, dim = self.cell["kind"], self.cell["d"]
        if name in LIBRARIES:
            flow = LIBRARIES[name](kind, dim)
            flow.module.to(self.device)
            if kind in ADAPTIVE_KINDS:
                share_field(flow.module, self.ours.module)
                self._check(flow.log_prob, lambda z: flow.module().transform.inv(z))
            if check and flow.size != self.ours.size and kind not in CONTINUOUS_KINDS:  # zuko's time has more features
                raise AssertionError(f"{kind} of {name} has {flow.size} parameters, ours {self.ours.size}")
            return flow
        checks.choice("name", name, ("eager", "compile", "torchdiffeq"))
        plain: PlainFlow = MINIMAL[name == "torchdiffeq", kind](self.ours.module, dim).to(self.device)
        if check:
            self._check(plain.log_prob, plain.push)
        if name == "compile":
            torch._dynamo.reset()
            return FlowModel(plain, torch.compile(plain.log_prob), torch.compile(plain.sample))
        return FlowModel(plain, plain.log_prob, plain.sample)

    @torch.no_grad()
    def _check(self, log_prob: Callable[[Tensor], Tensor], push: Callable[[Tensor], Tensor]) -> None:
        """Both ways the numbers of ours, to rounding, and to an adaptive solver's error."""
        few, kind = self.x[:64], self.cell["kind"]
        if kind not in ESTIMATED:  # whose noise is drawn; their twin with the exact trace is compared
            torch.testing.assert_close(log_prob(few), self.ours.log_prob(few), rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(
            push(few), self.ours.module(few)[0], rtol=1e-4, atol=1e-3 if kind in ADAPTIVE_KINDS else 1e-4
        )

    def _training(self, flow: FlowModel) -> Callable[[int], None]:
        parameters, x = flow.parameters, self.x

        def call(index: int) -> None:
            for parameter in parameters:
                parameter.grad = None
            flow.log_prob(x).mean().neg().backward()

        return call

    def _sample(self, flow: FlowModel) -> Callable[[int], object]:
        n = self.cell["n"]

        def call(index: int) -> None:
            with torch.no_grad():
                flow.sample(n)

        return call

    def _products(self) -> Callable[[int], None]:
        """Every layer's product; with the gradient also those by its weight and by its input."""
        kind, dim, n = self.cell["kind"], self.cell["d"], self.cell["n"]
        widths: tuple[int, ...]
        if kind == "FFJORD":  # of the value, and of a tangent with the divergence
            widths, rows = (dim, HIDDEN, HIDDEN, HIDDEN, dim), n if self.mode == "sample" else 2 * n
            evaluations = 4 * CONTINUOUS["n_steps"]
            return floor.perceptron_products(
                rows, widths, self.device, layers=evaluations, gradient=self.mode != "sample"
            )
        widths = (dim // 2, HIDDEN, HIDDEN, dim - dim % 2) if kind == "RealNVP" else (dim, HIDDEN, HIDDEN, 2 * dim)
        gradient = self.mode != "sample"
        return floor.perceptron_products(n, widths, self.device, layers=LAYERS[kind], gradient=gradient)


def why_not(name: str, cell: Cell, mode: str, quick: bool) -> str | None:
    """Why a contender is left out at a cell, or None."""
    kind = cell["kind"]
    if name == "layers" and kind != "RealNVP":
        return "a stack of couplings is RealNVP's"
    if kind in CHECKPOINTED and (mode == "sample" or name not in (*OURS, "eager")):
        return "for its memory in training"
    if name.endswith("_graph") and (kind not in CONTINUOUS_KINDS or mode == "sample"):
        return "captured is the step of FFJORD's training"
    if name in ("eager", "compile", "torchdiffeq") and (name == "torchdiffeq", kind) not in MINIMAL:
        return "written for RealNVP, MAF and FFJORD" if name != "torchdiffeq" else "no differential equation"
    if name == "floor_gemm" and kind not in (*LAYERS, "FFJORD"):
        return "counted for RealNVP, MAF and FFJORD"
    if (name, kind) in ABSENT:
        return ABSENT[name, kind]
    if mode != "sample" and (name, kind) in NO_DENSITY:
        return NO_DENSITY[name, kind]
    if name == "compile":
        if kind in CONTINUOUS_KINDS or (mode == "sample" and kind == SAMPLES_ONE_BY_ONE):
            return "a pass for each evaluation or dimension takes minutes to compile"
        if cell not in HEADLINES or quick:
            return "compiled only at the headline sizes of a full run"
    return not_installed(name) if name in (*LIBRARIES, "torchdiffeq") else None


def _headline(kind: str) -> Callable[[Cell], bool]:
    return lambda cell: cell in HEADLINES and cell["kind"] == kind


def _faster(
    kind: str,
    modes: tuple[str, ...],
    least: dict[str, float],
    devices: tuple[str, ...] = ("cpu", "cuda"),
    mine: tuple[str, ...] | None = None,
) -> list[Target]:
    return [
        Target(f"{kind}, {TITLES[other]}", device, modes, other, value, _headline(kind), mine)
        for device in devices
        for other, value in least.items()
    ]


BENCHMARK = Benchmark(
    name="models",
    title="Flows",
    modes=MODES,
    kinds=KINDS,
    sizes={"n": "{:,} points", "d": "d = {}"},
    columns="flow, points, d",
    grid=GRID,
    quick_grid=HEADLINES,
    headlines=HEADLINES,
    titles=TITLES,
    ours=OURS,
    floors=("floor_gemm",),
    floor_title="floor: matrix products",
    cuda_only=("layers", "native_graph", "eager_graph"),
    problem=Problem,
    why_not=why_not,
    available=with_graph,
    targets=(
        *_faster("RealNVP", tuple(MODES), {"zuko": 3.0, "normflows": 2.0, "eager": 1.3}),
        Target(
            "RealNVP in one Triton kernel, layer by layer",
            "cuda",
            tuple(MODES),
            "layers",
            1.0,
            _headline("RealNVP"),
            "triton",
        ),
        *_faster("MAF", ("sample",), {"zuko": 20.0}),
        *_faster("FFJORD", ("log_prob_backward",), {"torchdiffeq": 1.5, "eager": 1.5}, ("cpu",)),
        *_faster(
            "FFJORD", ("log_prob_backward",), {"torchdiffeq": 5.0, "eager": 1.5, "eager_graph": 0.95}, ("cuda",),
            ON_A_GPU,
        ),
    ),
    libraries=("zuko", "normflows", "nflows", "torchdiffeq"),
    note=(
        "normflows draws samples with their densities, which the others leave out; zuko's splines are couplings of its "
        "parts, as its own NSF is autoregressive. Beside dopri5 zuko's CNF has the field of ours, and its own "
        "tolerances; to save memory it makes its steps again in the backward."
    ),
    axis_title="points",
    curve={"kind": "RealNVP", "d": 64},
    tiny={"kind": "RealNVP", "n": 8, "d": 4},
    memory_cells=MEMORY_CELLS,
)  # fmt: skip
