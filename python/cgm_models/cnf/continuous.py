"""A vector field integrated from the latent to the data, as a transform of a flow."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Generator, Tensor

from cgm_kernels import hutchinson_probes
from cgm_kernels.divergence.hutchinson import NOISES

from ..flows.flow import Flow
from ..flows.transform import Transform
from ..options import check_choice, check_whole
from .field import VectorField
from .solve import solve
from .solver import Solution, Solver


class ContinuousTransform(Transform):
    """``x = z + ∫_0^1 v(t, x_t, context) dt``: forward integrates from t = 0, the latent, to t = 1, the data.

    ``log|det ∂x/∂z| = ∫_0^1 div v(t, x_t) dt``; the inverse integrates from 1 to 0, and its log-determinant is the
    integral over that way. Points are vectors, (batch, dim).

    Args:
        field: v; any module by ``ModuleField``.
        solver: how it is integrated.
        exact_up_to: the largest dimension for which the divergence is the exact trace, beyond it Hutchinson's estimate.
        n_probes: of the estimate; fresh ones are drawn for each solve, and kept for all its steps.
        noise: of the probes, 'rademacher' or 'gaussian'.
    """

    def __init__(
        self,
        field: VectorField,
        solver: Solver | None = None,
        exact_up_to: int = 64,
        n_probes: int = 1,
        noise: str = "rademacher",
    ) -> None:
        super().__init__()
        exact_up_to = check_whole("exact_up_to", exact_up_to, 0)
        n_probes = check_whole("n_probes", n_probes, 1)
        check_choice("noise", noise, NOISES)
        self.field, self.solver = field, solver or Solver()
        self.exact_up_to, self.n_probes, self.noise = exact_up_to, n_probes, noise
        self.n_evaluations = 0
        """Of the field in the last solve, its gradient aside."""
        self.measures = True
        """Whether the map is asked for its log-determinant; else it gives zeros."""
        self.generator: Generator | None = None
        """A CPU generator that the probes are drawn from; torch's own by default."""

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._mapped(z, context, inverse=False)

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._mapped(x, context, inverse=True)

    def solve(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        inverse: bool = False,
        exact: bool | None = None,
        divergence: bool = True,
        regularizers: bool = False,
        state: Tensor | None = None,
    ) -> Solution:
        """Either direction of the map, with what is integrated beside it.

        ``exact`` is whether the divergence is the exact trace, by default up to the dimension ``exact_up_to``; else its
        probes are drawn from the noise ``state`` on the device where one is given.
        """
        if exact is None:
            exact = x.shape[1] <= self.exact_up_to
        probes = None if exact or not divergence else self._probes(x, state)
        solution = solve(
            self.field, x, context, self.solver, *((1.0, 0.0) if inverse else (0.0, 1.0)), probes=probes,
            exact=exact and divergence, regularizers=regularizers,
        )  # fmt: skip
        self.n_evaluations = solution.n_evaluations
        return solution

    def trajectory(self, x: Tensor, n_times: int, context: Tensor | None = None, *, inverse: bool = False) -> Tensor:
        """``(n_times, batch, dim)``: where the points are at evenly spaced times, the first and the last included."""
        n_times = check_whole("n_times", n_times, 2)
        times = torch.linspace(0.0, 1.0, n_times, dtype=torch.float64).tolist()
        path, evaluations = [x], 0
        for start, end in itertools.pairwise(times):
            ends = (1.0 - start, 1.0 - end) if inverse else (start, end)
            solution = solve(self.field, path[-1], context, self.solver.shortened(end - start), *ends)
            path.append(solution.x)
            evaluations += solution.n_evaluations
        self.n_evaluations = evaluations
        return torch.stack(path)

    def _probes(self, x: Tensor, state: Tensor | None) -> Tensor:
        if state is None and x.is_cuda and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                "a captured graph would replay the same probes: give the loss a state, that of "
                "cgm_kernels.langevin.noise_state(device=...), which every replay advances"
            )
        generator = None if state is not None else self.generator
        return hutchinson_probes(x, self.n_probes, noise=self.noise, generator=generator, state=state)

    def _mapped(self, x: Tensor, context: Tensor | None, *, inverse: bool) -> tuple[Tensor, Tensor]:
        solution = self.solve(x, context, inverse=inverse, divergence=self.measures)
        return solution.x, x.new_zeros(len(x)) if solution.divergence is None else solution.divergence


class ContinuousFlow(Flow, abstract=True):
    """A flow with continuous transforms in it: their evaluations counted, their steps refined together."""

    @property
    def n_evaluations(self) -> int:
        """Evaluations of the vector fields in the last pass through the flow, in either direction."""
        return sum(layer.n_evaluations for layer in self._continuous())

    def sample(
        self, n: int, context: Tensor | None = None, generator: Generator | None = None, *, temperature: float = 1.0
    ) -> Tensor:
        layers = self._continuous()
        try:
            for layer in layers:
                layer.measures = False
            return super().sample(n, context, generator, temperature=temperature)
        finally:
            for layer in layers:
                layer.measures = True

    def sample_and_log_prob(
        self, n: int, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        layers = self._continuous()
        try:
            for layer in layers:
                layer.generator = generator
            return super().sample_and_log_prob(n, context, generator)
        finally:
            for layer in layers:
                layer.generator = None

    @contextmanager
    def refined(self, halvings: int) -> Iterator[None]:
        """Within, all steps are halved so many times."""
        layers = self._continuous()
        solvers = [layer.solver for layer in layers]
        try:
            for layer in layers:
                layer.solver = layer.solver.refined(halvings)
            yield
        finally:
            for layer, solver in zip(layers, solvers, strict=True):
                layer.solver = solver

    def _continuous(self) -> list[ContinuousTransform]:
        return [module for module in self.modules() if isinstance(module, ContinuousTransform)]
