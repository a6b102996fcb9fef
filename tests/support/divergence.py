"""Perceptrons with times, contexts, FiLM and probes for every backend of mlp_divergence, and their divergence by
definition: PyTorch's Jacobian of a network written with torch.nn.functional.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import cgm_kernels
from cgm_kernels.divergence.operators import backend_of
from tests.support.backends import running

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    **{"tanh": torch.tanh, "softplus": F.softplus, "silu": F.silu, "gelu": F.gelu, "relu": F.relu},
    **{"leaky_relu": F.leaky_relu, "elu": F.elu, "sin": torch.sin},
}
SMOOTH = ("tanh", "softplus", "silu", "gelu", "elu", "sin")
CONTEXT = 2


def running_kernels(name: str, *, reference: bool = True) -> list[pytest.ParameterSet]:
    """As ``running``, and skipped too where a backend has no kernel of that name; with or without the reference."""
    pairs = []
    for pair in running():
        backend, device = pair.values[0]  # type: ignore[misc]
        if backend == "reference" and not reference:
            continue
        marks = list(pair.marks)
        if not marks:
            with cgm_kernels.use_backend(backend):
                if backend_of(name, device) != backend:
                    marks = [pytest.mark.skip(reason=f"{backend} has no {name}")]
        pairs.append(pytest.param((backend, device), id=pair.id, marks=marks))
    return pairs


@dataclass(frozen=True)
class Case:
    """One problem; ``draw`` makes the leaves that gradients are taken by, and the probes."""

    d: int = 3
    hidden: tuple[int, ...] = (7, 5)
    batch: int = 6
    probes: int = 1  # 0: the exact trace
    activation: str = "tanh"
    t: str = ""  # number, scalar or rows
    context: str = ""  # shared or rows
    film: str = ""  # shared, rows, or last: by row in the last layer and not in the first
    residual: bool = False
    frobenius: bool = False
    biases: bool = True

    def __str__(self) -> str:
        parts = [f"{self.batch}x{self.d}", "x".join(map(str, self.hidden)) or "linear", self.activation]
        parts.append(f"P{self.probes}" if self.probes else "exact")
        parts += [f"t-{self.t}"] if self.t else []
        parts += [f"c-{self.context}"] if self.context else []
        parts += [f"film-{self.film}"] if self.film else []
        names = (("residual", self.residual), ("norm", self.frobenius), ("unbiased", not self.biases))
        return "-".join(parts + [name for name, given in names if given])

    @property
    def widths(self) -> tuple[int, ...]:
        return (self.d, *self.hidden, self.d)

    def draw(self, dtype: torch.dtype = torch.float64, device: str = "cpu", seed: int = 0) -> dict[str, Tensor]:
        """Leaves by name."""
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int, scale: float = 1.0) -> Tensor:
            return (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).to(device, dtype)

        leaves = {"x": normal(self.batch, self.d)}
        others = bool(self.t) + CONTEXT * bool(self.context)
        for k, (inputs, outputs) in enumerate(itertools.pairwise(self.widths)):
            inputs += others if k == 0 else 0
            leaves[f"weight{k}"] = normal(outputs, inputs, scale=1.2 / inputs**0.5)
            if self.biases or k == 1:
                leaves[f"bias{k}"] = normal(outputs, scale=0.3)
        if self.t in ("scalar", "rows"):
            leaves["t"] = normal(*([self.batch] if self.t == "rows" else []))
        if self.context:
            leaves["context"] = normal(*([self.batch] if self.context == "rows" else []), CONTEXT)
        for k, width in enumerate(self.widths[1:]):
            if not self.film or (self.film == "last" and k == 0):
                continue
            by_row = self.film == "rows" or (self.film == "last" and k == len(self.hidden))
            rows = [self.batch] if by_row else []
            leaves[f"scale{k}"] = 1 + normal(*rows, width, scale=0.3)
            leaves[f"shift{k}"] = normal(*([] if self.film == "rows" and k == 1 else rows), width, scale=0.3)
        return leaves

    def draw_probes(self, dtype: torch.dtype = torch.float64, device: str = "cpu") -> Tensor | None:
        if not self.probes:
            return None
        generator = torch.Generator().manual_seed(1)
        shape = (self.probes, self.batch, self.d)
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)

    def options(self, leaves: dict[str, Tensor]) -> dict[str, object]:
        """The arguments of ``mlp_divergence`` by name, without x and the probes."""
        layers = range(len(self.widths) - 1)
        film = [(leaves[f"scale{k}"], leaves[f"shift{k}"]) if f"scale{k}" in leaves else None for k in layers]
        return {
            "weights": [leaves[f"weight{k}"] for k in layers],
            "biases": [leaves.get(f"bias{k}") for k in layers],
            "t": 0.7 if self.t == "number" else leaves.get("t"),
            "context": leaves.get("context"),
            "film": film if self.film else None,
            "activation": self.activation,
            "residual": self.residual,
        }

    def call(self, leaves: dict[str, Tensor], probes: Tensor | None) -> tuple[Tensor, ...]:
        options = {**self.options(leaves), "exact": probes is None, "frobenius": self.frobenius}
        return cgm_kernels.mlp_divergence(leaves["x"], probes=probes, **options)  # type: ignore[arg-type]

    def by_definition(self, leaves: dict[str, Tensor], probes: Tensor | None) -> tuple[Tensor, ...]:
        """Value, divergence and norm by torch.func's Jacobian of each row; differentiable."""
        batched = {name: leaf for name, leaf in leaves.items() if self._by_row(name, leaf)}

        def network(x: Tensor, rows: dict[str, Tensor]) -> Tensor:
            own = self.options({**leaves, **rows})
            h = torch.cat([x, *(torch.atleast_1d(part) for part in _others(own["t"], own["context"], x))])
            before = None
            for k, weight in enumerate(own["weights"]):  # type: ignore[arg-type, var-annotated]
                u = F.linear(h, weight, own["biases"][k])  # type: ignore[index]
                if own["film"] is not None and own["film"][k] is not None:  # type: ignore[index]
                    u = own["film"][k][0] * u + own["film"][k][1]  # type: ignore[index]
                if k == len(self.hidden):
                    return u
                h = ACTIVATIONS[self.activation](u)
                if self.residual and before is not None and before.shape == h.shape:
                    h = h + before
                before = h
            raise AssertionError

        rows = {name: leaf for name, leaf in batched.items() if name != "x"}
        value = torch.func.vmap(network)(leaves["x"], rows)
        jacobian = torch.func.vmap(torch.func.jacrev(network))(leaves["x"], rows)
        if probes is None:
            found = value, jacobian.diagonal(dim1=1, dim2=2).sum(1), jacobian.square().sum((1, 2))
        else:
            products = torch.einsum("bij,pbj->pbi", jacobian, probes)
            found = value, (products * probes).sum(2).mean(0), products.square().sum(2).mean(0)
        return found if self.frobenius else found[:2]

    def _by_row(self, name: str, leaf: Tensor) -> bool:
        dims = {"x": 1, "t": 0, "context": 1}.get(name, 2 if name.startswith("weight") else 1)
        return leaf.dim() > dims


def _others(t: object, context: object, x: Tensor) -> list[Tensor]:
    t = torch.full((), t, dtype=x.dtype, device=x.device) if isinstance(t, float) else t
    return [part for part in (t, context) if isinstance(part, Tensor)]


def with_gradients(
    case: Case,
    function: Callable[[dict[str, Tensor], Tensor | None], tuple[Tensor, ...]],
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
) -> list[Tensor]:
    """The results of ``function`` (``case.call`` or ``case.by_definition``), and the gradients by all leaves."""
    drawn = case.draw(torch.float32).items()  # rounded once, so that all dtypes solve one problem
    leaves = {name: leaf.to(device, dtype).requires_grad_() for name, leaf in drawn}
    probes = case.draw_probes(torch.float32)
    outputs = function(leaves, None if probes is None else probes.to(device, dtype))
    generator = torch.Generator().manual_seed(2)
    cotangents = [torch.randn(one.shape, generator=generator).to(one) for one in outputs]
    grads = torch.autograd.grad(outputs, list(leaves.values()), cotangents, allow_unused=True, materialize_grads=True)
    return [one.detach() for one in (*outputs, *grads)]


CASES = [
    Case(1, (), probes=0),
    Case(4, (), probes=2, t="rows", film="shared", frobenius=True),
    Case(2, (9,), probes=0, t="number"),
    Case(3, (8,), probes=1, context="rows"),
    Case(3, (6,), probes=0, film="rows"),
    Case(2, (16, 16), batch=37, t="scalar"),
    Case(2, (16, 16), batch=37, probes=0, t="scalar"),
    Case(5, (16, 9), batch=70, probes=3, t="rows", context="shared", activation="silu"),
    Case(5, (16, 9), batch=70, probes=0, t="rows", context="rows", activation="softplus", biases=False),
    Case(3, probes=0, film="shared"),
    Case(3, probes=0, film="last"),
    Case(3, probes=0, film="rows", activation="sin"),
    Case(3, probes=2, film="rows", frobenius=True),
    Case(3, probes=1, film="last", frobenius=True, activation="gelu"),
    Case(3, probes=0, frobenius=True),
    Case(4, (8, 8), probes=0, residual=True),
    Case(4, (8, 8, 6, 6), probes=2, residual=True, film="shared", frobenius=True, t="number"),
    Case(4, (8, 8, 8), probes=0, residual=True, film="rows", frobenius=True),
    Case(7, (12, 10, 9), probes=0, batch=5),
    Case(7, (12, 10, 9, 8), probes=1, batch=19, context="rows", activation="elu"),
    Case(20, (33, 17), probes=1, batch=40),
    *[Case(3, (6, 6), probes=probes, activation=name) for name in ACTIVATIONS for probes in (0, 2)],
    Case(3, (8, 8), batch=0, probes=1, frobenius=True),
    Case(3, (8, 8), batch=0, probes=0, t="rows", film="rows"),
    Case(2, (4, 4), batch=1, probes=1, residual=True),
]
