"""The flows of zuko, normflows and nflows, as they are and after ``cgm_kernels.accelerate``: the same model, parameters
and numbers, log_prob with the gradient in all parameters and sampling.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

import cgm_kernels
from cgm_kernels import checks, integrations

from .benchmark import Benchmark, Cell, Target, choose_backend, not_installed
from .flow_peers import HIDDEN, LAYERS, LIBRARIES, FlowModel
from .timing import Contender

MODES = {"log_prob_backward": "log_prob forward + backward", "sample": "sampling"}
KINDS = {f"{library}_{kind}": f"{kind} of {library}" for library in LIBRARIES for kind in LAYERS} | {
    "normflows_masked": "RealNVP of normflows, masked",
    "nflows_residual": "MAF of nflows, residual blocks",
    "zuko_CNF": "CNF of zuko, exact trace",
    "zuko_CNF_estimate": "CNF of zuko, one probe",
}
CONTINUOUS = ("zuko_CNF", "zuko_CNF_estimate")
HEADLINES = [{"kind": kind, "n": 4096, "d": 64} for kind in KINDS if kind not in CONTINUOUS] + [
    {"kind": kind, "n": 512, "d": 16} for kind in CONTINUOUS
]
GRID = [{"kind": kind, "n": n, "d": d} for kind in KINDS if kind not in CONTINUOUS for n, d in ((4096, 64), (512, 2))]
GRID += [{"kind": kind, "n": n, "d": d} for kind in CONTINUOUS for n, d in ((512, 16), (4096, 2), (64, 2))]
OURS = ("native", "triton", "reference")
TITLES = {
    "native": "accelerated (native)",
    "triton": "accelerated (Triton)",
    "reference": "accelerated (reference)",
    "library": "the library as it is",
}
MAF = ("zuko_MAF", "normflows_MAF", "nflows_MAF", "nflows_residual")


def masked_realnvp(dim: int) -> FlowModel:
    """normflows' RealNVP as its examples build it: one network for scales and one for shifts, of the whole event."""
    import normflows as library

    mask = (torch.arange(dim) % 2).float()
    network = functools.partial(library.nets.MLP, [dim, HIDDEN, HIDDEN, dim])
    layers = [
        library.flows.MaskedAffineFlow(mask if index % 2 else 1 - mask, network(), network())
        for index in range(LAYERS["RealNVP"])
    ]
    flow = library.NormalizingFlow(library.distributions.DiagGaussian(dim, trainable=False), layers)
    return FlowModel(flow, lambda x: flow.log_prob(x), lambda n: flow.sample(n))


def residual_maf(dim: int) -> FlowModel:
    """nflows' own MAF, whose networks have residual blocks unless told otherwise."""
    from nflows.flows import MaskedAutoregressiveFlow

    flow = MaskedAutoregressiveFlow(dim, HIDDEN, num_layers=LAYERS["MAF"], num_blocks_per_layer=1)
    return FlowModel(flow, lambda x: flow.log_prob(x), lambda n: flow.sample(n))


def build(kind: str, dim: int) -> FlowModel:
    """The flow of that kind, with random parameters that are the same each time."""
    torch.manual_seed(0)
    if kind == "normflows_masked":
        flow = masked_realnvp(dim)
    elif kind == "nflows_residual":
        flow = residual_maf(dim)
    else:
        library, _, family = kind.partition("_")
        flow = LIBRARIES[library](family, dim)
    for parameter in flow.parameters:
        nn.init.normal_(parameter, std=0.05)
    return flow


class Problem:
    """The points of one cell, float32, and the flow as it is or accelerated."""

    def __init__(self, cell: Cell, mode: str, device: str) -> None:
        checks.choice("mode", mode, MODES)
        self.cell, self.mode, self.device = cell, mode, device
        self.x = torch.randn(cell["n"], cell["d"], generator=torch.Generator().manual_seed(1)).to(device)

    def contender(self, name: str, check: bool = True) -> Contender:
        """The named contender; with ``check`` an accelerated flow must first give the numbers of the plain one."""
        checks.choice("name", name, TITLES)
        prepare = choose_backend(name)
        prepare()
        flow = build(self.cell["kind"], self.cell["d"])
        flow.module.to(self.device)
        if name in OURS:
            expected = self._results(flow) if check else []
            cgm_kernels.accelerate(flow.module)
            if check:
                self._check(flow, expected)
        call = functools.partial(self._sample if self.mode == "sample" else self._train, flow)
        return Contender(name, call=call, prepare=prepare)

    def _check(self, flow: FlowModel, expected: list[Tensor]) -> None:
        """The same densities, gradients and samples, and every layer on our kernels."""
        integrations.report(reset=True)
        found = self._results(flow)
        rows = integrations.report(reset=True)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        if not any(row.ours for row in rows) or any(row.passed_on for row in rows):
            raise AssertionError(f"not every call of {self.cell['kind']} ran on our kernels:\n{rows}")

    def _results(self, flow: FlowModel) -> list[Tensor]:
        few = self.x[:16]
        torch.manual_seed(0)
        log_prob = flow.log_prob(few)
        gradients = torch.autograd.grad(log_prob.mean(), flow.parameters)
        torch.manual_seed(0)
        with torch.no_grad():
            samples = flow.sample(16)
        return [log_prob.detach(), *gradients, samples[0] if isinstance(samples, tuple) else samples]

    def _train(self, flow: FlowModel, index: int) -> None:
        for parameter in flow.parameters:
            parameter.grad = None
        flow.log_prob(self.x).mean().neg().backward()

    def _sample(self, flow: FlowModel, index: int) -> None:
        with torch.no_grad():
            flow.sample(self.cell["n"])


def why_not(name: str, cell: Cell, mode: str, quick: bool) -> str | None:
    """Why a contender is left out at a cell, or None."""
    if cell["kind"] in CONTINUOUS and mode == "sample":
        return "a sample needs no divergence: nothing is swapped"
    return not_installed(cell["kind"].partition("_")[0])


def _headline(maf: bool) -> Callable[[Cell], bool]:
    return lambda cell: cell in HEADLINES and (cell["kind"] in MAF) == maf and cell["kind"] not in CONTINUOUS


BENCHMARK = Benchmark(
    name="flow_libraries",
    title="Flow libraries on our kernels",
    modes=MODES,
    kinds=KINDS,
    sizes={"n": "{:,} points", "d": "d = {}"},
    columns="flow, points, d",
    grid=GRID,
    quick_grid=HEADLINES,
    headlines=HEADLINES,
    titles=TITLES,
    ours=OURS,
    baseline="library",
    problem=Problem,
    why_not=why_not,
    targets=(
        Target("RealNVP", "cpu", tuple(MODES), "library", 1.5, _headline(False)),
        Target("MAF, log_prob", "cpu", ("log_prob_backward",), "library", 1.5, _headline(True)),
        Target("MAF, sampling", "cpu", ("sample",), "library", 15.0, _headline(True)),
        *(
            Target("never slower", device, tuple(MODES), "library", 0.95, lambda cell: True)
            for device in ("cpu", "cuda")
        ),
    ),
    libraries=("zuko", "normflows", "nflows"),
    axis_title="points",
    tiny={"kind": "zuko_RealNVP", "n": 8, "d": 4},
)
