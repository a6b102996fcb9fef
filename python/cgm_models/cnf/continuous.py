"""A vector field integrated from the latent to the data, as a transform of a flow."""

from __future__ import annotations

import itertools
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Generator, Tensor

from cgm_kernels import hutchinson_probes
from cgm_kernels.divergence.hutchinson import NOISES

from ..flows.flow import Flow
from ..flows.transform import Transform
from ..options import check_choice, check_whole
from .asked import Count, asked_of, asking
from .field import VectorField
from .solve import solve
from .solver import Solution, Solver


class ContinuousTransform(Transform):
    """``x = z + ∫_0^1 v(t, x_t, context) dt``: forward integrates from t = 0, the latent, to t = 1, the data.

    ``log|det ∂x/∂z| = ∫_0^1 div v(t, x_t) dt``; the inverse integrates from 1 to 0, and its log-determinant is the
    integral over that way. Points are vectors, (batch, dim).

    Args:
        field: v; any module by ``ModuleField``.
        solver: how it is integrated; set later, it holds in training and out of it.
        exact_up_to: the largest dimension for which the divergence is the exact trace, beyond it Hutchinson's estimate.
        n_probes: of the estimate; fresh ones are drawn for each solve, and kept for all its steps.
        noise: of the probes, 'rademacher' or 'gaussian'.
        evaluation_solver: how it is integrated out of training; as in training by default.
    """

    def __init__(
        self,
        field: VectorField,
        solver: Solver | None = None,
        exact_up_to: int = 64,
        n_probes: int = 1,
        noise: str = "rademacher",
        evaluation_solver: Solver | None = None,
    ) -> None:
        super().__init__()
        exact_up_to = check_whole("exact_up_to", exact_up_to, 0)
        n_probes = check_whole("n_probes", n_probes, 1)
        check_choice("noise", noise, NOISES)
        self.field, self.solver = field, solver or Solver()
        if evaluation_solver is not None:
            self._solvers[False] = evaluation_solver
        self.exact_up_to, self.n_probes, self.noise = exact_up_to, n_probes, noise
        self._evaluations = Count()

    @property
    def n_evaluations(self) -> int:
        """Of the field in the last solve that this thread made, its gradient aside."""
        return self._evaluations.get()

    @property
    def solver(self) -> Solver:
        """That of the mode, training or evaluation; where a thread is within ``refined``, it sees its steps halved."""
        solver, halvings = self._solvers[self.training], asked_of(self).halvings
        return solver.refined(halvings) if halvings else solver

    @solver.setter
    def solver(self, solver: Solver) -> None:
        self._solvers = {True: solver, False: solver}

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
            exact = x.shape[1] <= self.exact_up_to or asked_of(self).exact
        probes = None if exact or not divergence else self._probes(x, state)
        solution = solve(
            self.field, x, context, self.solver, *((1.0, 0.0) if inverse else (0.0, 1.0)), probes=probes,
            exact=exact and divergence, regularizers=regularizers,
        )  # fmt: skip
        self._solved(solution.n_evaluations)
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
        self._solved(evaluations)
        return torch.stack(path)

    def _solved(self, n_evaluations: int) -> None:
        """To be called after each solve."""
        self._evaluations.set(n_evaluations)
        if (seen := asked_of(self).seen) is not None:
            seen.solved = True

    def _probes(self, x: Tensor, state: Tensor | None) -> Tensor:
        if state is None and x.is_cuda and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                "a captured graph would replay the same probes: give the loss a state, that of "
                "cgm_kernels.langevin.noise_state(device=...), which every replay advances"
            )
        asked = asked_of(self)
        if asked.seen is not None:
            asked.seen.estimated = True
        generator = None if state is not None else asked.generator
        return hutchinson_probes(x, asked.n_probes or self.n_probes, noise=self.noise, generator=generator, state=state)

    def _mapped(self, x: Tensor, context: Tensor | None, *, inverse: bool) -> tuple[Tensor, Tensor]:
        solution = self.solve(x, context, inverse=inverse, divergence=asked_of(self).measures)
        return solution.x, x.new_zeros(len(x)) if solution.divergence is None else solution.divergence


class ContinuousFlow(Flow, abstract=True):
    """A flow with continuous transforms in it: their evaluations counted, their steps refined together."""

    @property
    def n_evaluations(self) -> int:
        """Evaluations of the vector fields in this thread's last pass through the flow, in either direction."""
        return sum(layer.n_evaluations for layer in self._continuous())

    def sample(
        self, n: int, context: Tensor | None = None, generator: Generator | None = None, *, temperature: float = 1.0
    ) -> Tensor:
        with self.asking(measures=False):
            return super().sample(n, context, generator, temperature=temperature)

    def sample_and_log_prob(
        self, n: int, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        with self.asking(generator=generator):
            return super().sample_and_log_prob(n, context, generator)

    def refined(self, halvings: int) -> AbstractContextManager[None]:
        """Within, all steps that this thread makes are halved so many times; those of threads it starts are not."""
        return self.asking(halvings=check_whole("halvings", halvings, 0))

    def asking(self, **changes: Any) -> AbstractContextManager[None]:
        """Within, this thread asks so of the continuous transforms: fields of ``Asked``."""
        return asking(self._continuous(), **changes)

    def _continuous(self) -> list[ContinuousTransform]:
        return [module for module in self.modules() if isinstance(module, ContinuousTransform)]
