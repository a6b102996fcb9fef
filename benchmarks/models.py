"""Whole flows: log_prob with the gradient in all parameters, and sampling, of ours and of the libraries people use.

Contenders: our flows on each backend; a minimal PyTorch flow with our weights, which must give our numbers; the same
under torch.compile; zuko, normflows and nflows with as many layers, widths and parameters. The floor is the matrix
products of the conditioners alone, into memory that is there already.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from . import floor
from .benchmark import Benchmark, Cell, Target, choose_backend, not_installed
from .flow_peers import HIDDEN, LAYERS, LIBRARIES, SPLINE_BINS, SPLINE_BOUND, SPLINE_LAYERS, FlowModel
from .plain_flows import PLAIN, PlainFlow
from .timing import Contender

MODES = {"log_prob_backward": "log_prob forward + backward", "sample": "sampling"}
WIDTHS = {"hidden_features": (HIDDEN, HIDDEN)}
FAMILIES: dict[str, dict[str, Any]] = {
    **{kind: {"n_layers": n_layers, **WIDTHS} for kind, n_layers in LAYERS.items()},
    "NICE": {"n_layers": LAYERS["RealNVP"], **WIDTHS},
    "NeuralSplineFlow": {
        "n_layers": SPLINE_LAYERS, "n_bins": SPLINE_BINS, "bound": SPLINE_BOUND, "mixing": "none", **WIDTHS
    },
    "MADE": {**WIDTHS},
    "IAF": {"n_layers": LAYERS["MAF"], **WIDTHS},
    "Glow": {"n_steps": 4, "hidden_channels": 32},
    "PlanarFlow": {"n_layers": 16},
    "RadialFlow": {"n_layers": 16},
}  # fmt: skip
KINDS = {name: name for name in FAMILIES}
HEADLINES = [{"kind": kind, "n": 4096, "d": 64} for kind in LAYERS]
GRID = [{"kind": kind, "n": n, "d": d} for kind in LAYERS for n, d in ((4096, 64), (512, 2), (512, 16))] + [
    {"kind": kind, "n": 512 if kind == "Glow" else 4096, "d": 64} for kind in FAMILIES if kind not in LAYERS
]
OURS = ("native", "triton", "reference")
TITLES = {
    "native": "ours (native)",
    "triton": "ours (Triton)",
    "reference": "ours (reference)",
    "eager": "minimal PyTorch flow",
    "compile": "minimal flow, torch.compile",
    "zuko": "zuko",
    "normflows": "normflows",
    "nflows": "nflows",
    "floor_gemm": "floor: matrix products",
}
SAMPLES_ONE_BY_ONE = "MAF"  # the kind whose samples take a pass for each dimension everywhere but in ours


def our_flow(kind: str, dim: int) -> FlowModel:
    """Our flow with noise on its parameters (a new one is the identity); Glow's points are square images."""
    from cgm_models import flows

    generator = torch.Generator().manual_seed(0)
    shape = (1, math.isqrt(dim), math.isqrt(dim)) if kind == "Glow" else (dim,)
    model = getattr(flows, kind)(event_shape=shape, **FAMILIES[kind])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return FlowModel(model, model.log_prob, model.sample)


class Problem:
    """The points of one cell, float32, and the contenders that evaluate or draw as many."""

    def __init__(self, cell: Cell, mode: str, device: str) -> None:
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}: got {mode!r}")
        self.cell, self.mode, self.device = cell, mode, device
        self.x = torch.randn(cell["n"], cell["d"], generator=torch.Generator().manual_seed(1)).to(device)

        self.ours = our_flow(cell["kind"], cell["d"])
        self.ours.module.to(device)
        self.x = self.x.reshape(cell["n"], *self.ours.module.event_shape)  # type: ignore[misc]

    def contender(self, name: str, check: bool = True) -> Contender:
        """The named contender; with ``check`` the plain flow must first give our numbers, the libraries' our size."""
        if name == "floor_gemm":
            return Contender(name, call=self._products())
        prepare = choose_backend(name)
        prepare()
        flow = self._flow(name, check)
        call = self._sample(flow) if self.mode == "sample" else self._training(flow)
        return Contender(name, call=call, prepare=prepare)

    def _flow(self, name: str, check: bool) -> FlowModel:
        if name in OURS:
            return self.ours
        kind, dim = self.cell["kind"], self.cell["d"]
        if name in LIBRARIES:
            flow = LIBRARIES[name](kind, dim)
            flow.module.to(self.device)
            if check and flow.size != self.ours.size:
                raise AssertionError(f"{kind} of {name} has {flow.size} parameters, ours {self.ours.size}")
            return flow
        if name not in ("eager", "compile"):
            raise ValueError(f"name must be one of {', '.join(TITLES)}: got {name!r}")
        plain: PlainFlow = PLAIN[kind](self.ours.module, dim).to(self.device)
        if check:
            self._check(plain)
        if name == "compile":
            torch._dynamo.reset()
            return FlowModel(plain, torch.compile(plain.log_prob), torch.compile(plain.sample))
        return FlowModel(plain, plain.log_prob, plain.sample)

    @torch.no_grad()
    def _check(self, plain: PlainFlow) -> None:
        """Both ways the numbers of ours, to rounding."""
        few = self.x[:64]
        torch.testing.assert_close(plain.log_prob(few), self.ours.log_prob(few), rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(plain.push(few), self.ours.module(few)[0], rtol=1e-4, atol=1e-4)

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
        widths = (dim // 2, HIDDEN, HIDDEN, dim - dim % 2) if kind == "RealNVP" else (dim, HIDDEN, HIDDEN, 2 * dim)
        gradient = self.mode != "sample"
        return floor.perceptron_products(n, widths, self.device, layers=LAYERS[kind], gradient=gradient)


def why_not(name: str, cell: Cell, mode: str, quick: bool) -> str | None:
    """Why a contender is left out at a cell, or None."""
    if name in ("eager", "compile", "floor_gemm") and cell["kind"] not in LAYERS:
        return "written for RealNVP and MAF"
    if name in LIBRARIES and cell["kind"] not in (*LAYERS, *(["NeuralSplineFlow"] if name == "nflows" else [])):
        return "compared where it has the very family"
    if name == "compile":
        if mode == "sample" and cell["kind"] == SAMPLES_ONE_BY_ONE:
            return "a pass for each dimension takes minutes to compile"
        if cell not in HEADLINES or quick:
            return "compiled only at the headline sizes of a full run"
    return not_installed(name) if name in LIBRARIES else None


def _headline(kind: str) -> Callable[[Cell], bool]:
    return lambda cell: cell in HEADLINES and cell["kind"] == kind


def _faster(kind: str, modes: tuple[str, ...], least: dict[str, float]) -> list[Target]:
    return [
        Target(f"{kind}, {TITLES[other]}", device, modes, other, value, _headline(kind))
        for device in ("cpu", "cuda")
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
    problem=Problem,
    why_not=why_not,
    targets=(
        *_faster("RealNVP", tuple(MODES), {"zuko": 3.0, "normflows": 2.0, "eager": 1.3}),
        *_faster("MAF", ("sample",), {"zuko": 20.0}),
    ),
    libraries=("zuko", "normflows", "nflows"),
    axis_title="points",
    curve={"kind": "RealNVP", "d": 64},
    tiny={"kind": "RealNVP", "n": 8, "d": 4},
    memory_cells=HEADLINES[:1],
)
