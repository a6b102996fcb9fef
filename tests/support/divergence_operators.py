"""Calls of the registered operators of the divergence, forward and backward, and the same by the plain PyTorch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cgm_kernels.activations import ACTIVATIONS
from cgm_kernels.divergence import packing, potential_operators, potential_reference, reference
from cgm_kernels.divergence.tableaus import METHODS, TABLEAUS

from .potentials import leaves

STEPS = (0.2, -0.1, 0.15)


@dataclass(frozen=True)
class Call:
    """One problem; tensors are drawn in float64 and rounded to ``dtype``."""

    widths: tuple[int, ...] = (3, 7, 6, 3)
    batch: int = 6
    probes: int | None = 2  # None: the exact trace
    activation: str = "tanh"
    film: str = ""  # shared or rows; of a flow, there or not
    residual: bool = False
    norms: bool = False  # |J e|², of a flow also |v|²
    by_row: bool = False  # added has rows
    method: str = ""  # of a flow
    keep: bool = True
    dtype: torch.dtype = torch.float64

    def __str__(self) -> str:
        parts = ["x".join(map(str, self.widths)), f"{self.batch}rows"]
        parts.append("exact" if self.probes is None else f"P{self.probes}")
        parts += [self.activation, str(self.dtype).removeprefix("torch.")]
        parts += [f"film-{self.film}"] * bool(self.film) + [self.method] * bool(self.method)
        names = ("residual", "norms", "by_row", "keep")
        return "-".join(parts + [name for name in names if getattr(self, name)])

    @property
    def stages(self) -> int:
        return len(STEPS) * TABLEAUS[self.method].stages

    @property
    def results(self) -> int:
        return 3 if self.norms and not self.method else 2

    def draw(self, device: str = "cpu") -> dict[str, Tensor | None]:
        """The tensor arguments of the operator, by name and in its order."""
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
            values = shift + scale * torch.randn(shape, generator=generator, dtype=torch.float64)
            return values.to(device, self.dtype)

        d, *hidden = self.widths
        weights = [normal(b, a, scale=a**-0.5) for a, b in itertools.pairwise(self.widths)]
        biases = [None, *(normal(width, scale=0.3) for width in hidden[1:])]
        rows = self.stages if self.method else self.batch if self.film == "rows" else 1
        film = normal(rows, 2 * sum(hidden), scale=0.3, shift=1) if self.film else None
        found: dict[str, Tensor | None] = {"x": normal(self.batch, d)}
        found["probes"] = None if self.probes is None else normal(self.probes, self.batch, d)
        found["parameters"] = packing.pack(weights, biases, d)
        if self.method:
            found["time_bias"] = normal(self.stages, hidden[0])
            found["added"] = normal(self.batch, hidden[0]) if self.by_row else None
        else:
            found["added"] = normal(self.batch if self.by_row else 1, hidden[0])
        return {**found, "film": film}

    def numbers(self) -> list[Any]:
        index = list(ACTIVATIONS).index(self.activation)
        steps = [list(STEPS), METHODS.index(self.method)] if self.method else []
        return [*steps, list(self.widths), index, self.residual, self.norms]


def differentiated(call: Call, ops: Any, given: dict[str, Tensor | None]) -> tuple[Tensor, ...]:
    """The results of the operators of a namespace, then the gradients of what is there; no autograd is involved."""
    tensors, name = list(given.values()), "mlp_flow" if call.method else "mlp_divergence"
    *results, kept = getattr(ops, name)(*tensors, *call.numbers(), call.keep or not call.method)
    absent = [None] * (not call.method and not call.norms)
    results = results[: len(results) - len(absent)]
    found = getattr(ops, f"{name}_backward")(*directions(results), *absent, *tensors, kept, *call.numbers())
    wanted = [leaf for key, leaf in given.items() if key != "probes"]
    return *results, *(grad for leaf, grad in zip(wanted, found, strict=True) if leaf is not None)


def by_reference(call: Call, given: dict[str, Tensor | None], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """The same in plain PyTorch in another dtype."""
    own = {key: None if leaf is None else leaf.to(dtype).requires_grad_(key != "probes") for key, leaf in given.items()}
    weights, biases = packing.unpack(own["parameters"], call.widths)
    film = own["film"]
    films = [None] if film is None else [film] if not call.method else film.split(1)
    unpacked = [packing.unpack_film(rows, call.widths) for rows in films]
    network = reference.Network(weights, biases, unpacked[0], call.activation, call.residual)
    if call.method:
        stages = unpacked if film is not None else unpacked * call.stages
        others = (own["added"], stages, STEPS, call.method, call.norms)
        results = list(reference.mlp_flow(own["x"], own["probes"], network, own["time_bias"], *others))
    else:
        results = list(reference.mlp_divergence(own["x"], own["probes"], network, own["added"]))
        results = results if call.norms else results[:2]
    inputs = [leaf for key, leaf in own.items() if leaf is not None and key != "probes"]
    total = sum(
        (result * grad.to(result.dtype)).sum() for result, grad in zip(results, directions(results), strict=True)
    )
    found = torch.autograd.grad(total, inputs, materialize_grads=True)
    return *(result.detach() for result in results), *found


def directions(results: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of the results, of few bits so that every dtype has the same."""
    generator = torch.Generator().manual_seed(9)
    values = [torch.randint(-8, 9, result.shape, generator=generator) / 8 for result in results]
    return [value.to(result.device, result.dtype) for value, result in zip(values, results, strict=True)]


def divergence_calls() -> list[Call]:
    """Every way to a trace, and the value alone, at one to four layers; FiLM, residuals, norms, activations, dtypes."""
    linear, two, three, four = (3, 3), (3, 5, 3), (3, 8, 4, 3), (2, 5, 5, 5, 2)
    ways = [
        Call(),
        Call(probes=1, residual=True, norms=True),
        Call(film="shared", probes=3, by_row=True),
        Call(film="rows", norms=True),
        Call(probes=None),
        Call(probes=None, film="shared", by_row=True),
        Call(probes=None, film="rows", residual=True),
        Call(probes=None, norms=True, by_row=True),
        Call(probes=0),
        Call(probes=0, film="rows", residual=True, by_row=True),
    ]
    found = [replace(call, widths=widths) for call in ways for widths in (linear, two, three, four)]
    found += [Call(four, residual=True, by_row=True), Call((5, 8, 4, 8, 5), batch=70), Call(batch=1, film="rows")]
    found += [Call(batch=0), Call(batch=0, probes=None, film="rows", by_row=True)]
    found += [Call(activation=name) for name in ACTIVATIONS if name != "tanh"]
    lower = [Call((4, 8, 8, 4), residual=True, film="shared", norms=True), Call((4, 8, 4), probes=None, film="rows")]
    lower += [Call((4, 8, 8, 4), probes=None, film="shared"), Call((2, 16, 16, 2), by_row=True)]
    dtypes = (torch.float32, torch.float16, torch.bfloat16)
    return [*found, *(replace(call, dtype=dtype) for call in lower for dtype in dtypes)]


def flow_calls() -> list[Call]:
    methods = itertools.cycle(METHODS)
    two, three, four = (3, 5, 3), (3, 5, 6, 3), (2, 5, 5, 5, 2)
    found = [
        Call(three, by_row=True),
        Call(four, residual=True, norms=True, probes=1, keep=False),
        Call(three, film="rows", by_row=True, probes=3, keep=False),
        Call(two, probes=0, norms=True, film="rows"),
        Call(three, probes=None, keep=False),
        Call(two, probes=None, film="rows"),
        Call(three, probes=None, film="rows", by_row=True),
        Call(four, probes=None, norms=True, residual=True, by_row=True, keep=False),
        Call(two, probes=None, by_row=True),
        Call(four, probes=0, by_row=True, keep=False),
        Call(four, probes=None, film="rows"),
        Call(three, batch=0),
    ]
    found = [replace(call, method=next(methods)) for call in found]
    lower = Call((4, 8, 4), method="rk4", norms=True, by_row=True, film="rows")
    halves = [replace(lower, dtype=dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)]
    return [*found, *halves, Call((3, 3), method="midpoint")]


def potential(
    ops: Any, arguments: dict[str, Any], only: int | None = None, tangents: bool = True
) -> tuple[Tensor, ...]:
    """Of OT-Flow's potential likewise, by operators or, where they are None, in plain PyTorch.

    The gradients are those by the tensors of ``arguments``; ``only`` one of the results may have one. Without
    ``tangents`` the Laplacian is not to be read.
    """
    inputs, network = leaves(arguments), [arguments[name] for name in ("weights", "biases", "output")]
    terms, first = [arguments["quadratic"], arguments["linear"]], arguments["weights"][0]
    dims = arguments["x"].shape[1]
    t, context = torch.as_tensor(arguments["t"], dtype=first.dtype), arguments["context"]
    columns = [arguments["x"], t.expand(len(arguments["x"])).unsqueeze(1)]
    s = torch.cat(columns if context is None else [*columns, context], 1)
    if ops is None:
        results = list(potential_reference.potential_divergence(s, dims, *network, *terms))
        sources, grads = results, directions(results)
        sources, grads = (values if only is None else values[only : only + 1] for values in (sources, grads))
    else:
        along = potential_operators.directions(first, dims, len(network[0]))[: None if tangents else 0]
        sources = [s, potential_operators.packed(*network, *terms), along]
        rank = 0 if terms[0] is None else len(terms[0])
        options = (dims, len(first), len(network[0]), rank, terms[1] is not None)
        given = [source.detach() for source in sources]
        results = list(ops.potential_divergence(*given, *options))
        by_results = [grad if only in (None, at) else None for at, grad in enumerate(directions(results))]
        grads = ops.potential_divergence_backward(*by_results, *given, *options)
    found = torch.autograd.grad(sources, inputs, grads, materialize_grads=True)
    return *(result.detach() for result in results), *found
