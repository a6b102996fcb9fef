"""What all samplers share: chains that start, warm up, go on and are recorded."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Generator, Tensor

from cgm_kernels.langevin import noise_state

from ..training.progress import progress_bar
from . import options
from .adaptation import DualAveraging
from .recorder import Recorder, Reporter
from .samples import Samples
from .state import State
from .target import EnergyLike, Target, unguarded

_CHECK_EVERY = 100  # steps between two looks at whether the chains are finite, each of which waits for the device


class Sampler(ABC):
    """A Markov chain on positions (chains, *event), of law p(x) ∝ exp(−E(x)/T) or close to it.

    All noise comes from ``cgm_kernels``: one generator fixes a run, on every device and backend alike up to rounding.
    A subclass says how to take one ``step``; a step evaluates the energy where it arrives and keeps the gradient.
    """

    target_acceptance: float | None = None
    """The mean acceptance that a warm-up brings about by the step size; None where nothing is rejected."""
    needs_energy = False
    """Whether ∇E alone does not do."""
    replicas = 1

    def __init__(self, step_size: float, temperature: float = 1.0) -> None:
        self.step_size = options.positive("step_size", step_size)
        self.temperature = options.not_negative("temperature", temperature)

    @abstractmethod
    def step(self, state: State, target: Target) -> None:
        """Take one step, in ``state`` itself; its tensors may be written over."""

    def run(
        self,
        initial: Tensor | State,
        energy: EnergyLike,
        n_steps: int,
        *,
        warmup: int = 0,
        thin: int = 1,
        keep_trajectory: bool = True,
        context: Tensor | None = None,
        generator: Generator | None = None,
        progress: bool = False,
    ) -> Samples:
        """``warmup`` steps that are dropped, then ``n_steps`` with a draw after every ``thin`` of them.

        No gradient flows through the chains. A step that would go where E or ∇E is not finite is rejected by the
        samplers that can; the others stop with an error. Up to rounding the steps n₁ + n₂ are the same chain as n₁
        steps and then n₂ from ``samples.state``, bit for bit on the CPU.

        Args:
            initial: where the chains start, (chains, *event) in float32 or float64; or the ``state`` of an earlier
                run of this sampler on the same energy and context, which is left as it is.
            energy: what to sample; see ``Target`` for all it may be.
            warmup: steps before the first draw. Samplers with a ``target_acceptance`` find their step size here, one
                for all chains, and keep it from then on.
            keep_trajectory: False keeps the last position alone, as one draw whatever ``thin`` is.
            context: given to the energy as second argument: one for all chains, or one row a chain.
            generator: a CPU generator that the noise's key is drawn from, default torch's own; not with a state.
            progress: show a bar where the standard error is a terminal.

        Raises:
            TypeError, ValueError: naming the argument that is wrong; also where E is not finite at the start.
            FloatingPointError: if chains of a sampler that rejects nothing leave the finite numbers.
        """
        n_steps = options.whole("n_steps", n_steps, 0)
        warmup = options.whole("warmup", warmup, 0)
        thin = options.whole("thin", thin, 1)
        target = Target(energy, context, replicas=self.replicas)
        if self.needs_energy and not target.has_energy:
            raise ValueError(f"energy must give E, not its gradient alone: {type(self).__name__} accepts by E")
        with torch.inference_mode(False), torch.no_grad(), unguarded(energy):
            state = self._begin(initial, target, generator)
            name = type(self).__name__
            with progress_bar(name, warmup + n_steps, show=progress) as advance:
                reporter = Reporter(advance, warmup + n_steps, shown=progress)
                self._warm_up(state, target, warmup, reporter)
                n_draws, spacing = (n_steps // thin, thin) if keep_trajectory else (1, n_steps)
                recorder = Recorder(self, state, n_draws)
                for _ in range(n_draws):
                    self._advance_and_watch(state, target, spacing, reporter)
                    recorder.keep(state)
                self._advance_and_watch(state, target, n_steps - n_draws * spacing, reporter)
            self._check_finite(state)
        return recorder.samples(state)

    def advance(self, state: State, target: Target, n_steps: int) -> None:
        """``n_steps`` steps; the statistics of ``state`` are then their means."""
        sums: dict[str, Tensor] = {}
        for _ in range(n_steps):
            self.step(state, target)
            for name, value in state.statistics.items():
                sums[name] = sums[name] + value if name in sums else value
        state.statistics = {name: value / n_steps for name, value in sums.items()} if n_steps > 1 else sums

    def conditions(self, step: int) -> dict[str, float]:
        """What the energy is told by keyword when the chains have taken ``step`` steps."""
        return {}

    def kept(self, state: State) -> tuple[Tensor, Tensor]:
        """The positions and energies that make a draw."""
        return state.position, state.energy

    def kept_statistics(self, state: State) -> dict[str, Tensor]:
        """The statistics that go with a draw."""
        return state.statistics

    def step_size_of(self, state: State) -> float | Tensor:
        """The size of the last step."""
        return self.step_size if state.step_size is None else state.step_size

    def prepare(self, state: State) -> None:  # noqa: B027  most samplers need nothing more
        """Complete a state that has a position and its energy, new or continued."""

    def arrive(self, state: State, target: Target, position: Tensor) -> None:
        """End a step at ``position``, whatever the energy is there."""
        state.step += 1
        state.position = position
        state.energy, state.gradient = target.evaluate(position, **self.conditions(state.step))

    def _begin(self, initial: Tensor | State, target: Target, generator: Generator | None) -> State:
        name = type(self).__name__
        if isinstance(initial, State):
            if generator is not None:
                raise ValueError("generator must be None where initial is a state, which holds the noise's key")
            if initial.sampler != name:
                raise ValueError(f"initial must be a state of {name}: got one of {initial.sampler}; give its position")
            state = initial.copy()
        else:
            position = _checked_start(initial).detach().repeat(self.replicas, *[1] * (initial.ndim - 1))
            energy, gradient = target.evaluate(position, **self.conditions(0))
            _check_start(energy if target.has_energy else None, gradient, len(initial))
            state = State(name, position, energy, gradient, noise_state(generator, position.device))
        self.prepare(state)
        return state

    def _warm_up(self, state: State, target: Target, n_steps: int, reporter: Reporter) -> None:
        if self.target_acceptance is None or not n_steps:
            self._advance_and_watch(state, target, n_steps, reporter)
            return
        search = state.adaptation or DualAveraging.start(self._first_step_sizes(state))
        for _ in range(n_steps):
            state.step_size = self._for_rows(search.log_step, state)
            self.step(state, target)
            acceptance = state.statistics["acceptance"].view(self.replicas, -1).mean(1)
            search = search.updated(acceptance, self.target_acceptance)
            reporter.add(1, state.statistics)
        state.adaptation, state.statistics = search, {}
        found = self._for_rows(search.log_average, state)
        state.step_size = found if self.replicas > 1 else float(found)

    def _first_step_sizes(self, state: State) -> Tensor:
        """(replicas,)"""
        size = self.step_size if state.step_size is None else state.step_size
        if isinstance(size, Tensor):
            return size.view(self.replicas, -1)[:, 0]
        return torch.full((self.replicas,), size, dtype=torch.float64, device=state.position.device)

    def _for_rows(self, log_step: Tensor, state: State) -> Tensor:
        """Step sizes of the replicas as the kernels take them: () for one replica, else (rows,)."""
        size = log_step.exp().to(state.position.dtype)
        return size[0] if self.replicas == 1 else size.repeat_interleave(len(state.position) // self.replicas)

    def _advance_and_watch(self, state: State, target: Target, n_steps: int, reporter: Reporter) -> None:
        """``advance`` in parts, between which the bar moves and the chains are looked at."""
        means: dict[str, Tensor] = {}
        for done in range(0, n_steps, _CHECK_EVERY):
            part = min(_CHECK_EVERY, n_steps - done)
            self.advance(state, target, part)
            for name, value in state.statistics.items():
                share = value * (part / n_steps)
                means[name] = means[name] + share if name in means else share
            reporter.add(part, state.statistics)
            if reporter.steps // _CHECK_EVERY != (reporter.steps - part) // _CHECK_EVERY:
                self._check_finite(state)
        state.statistics = means

    def _check_finite(self, state: State) -> None:
        bad = ~state.position.reshape(len(state.position), -1).isfinite().all(1)
        if bool(bad.any()):
            name, size = type(self).__name__, self.step_size_of(state)
            chains = _which(bad.view(self.replicas, -1).any(0))
            raise FloatingPointError(
                f"{name}: {chains} are not finite after {state.step} steps: the step_size ({size}) is too "
                "large for this energy, or the energy is not finite where they went"
            )


def _checked_start(initial: Tensor) -> Tensor:
    if not isinstance(initial, Tensor):
        raise TypeError(f"initial must be a tensor or the state of a run: got {type(initial).__name__}")
    if initial.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"initial must be float32 or float64: got {initial.dtype}")
    if initial.ndim == 0 or initial.numel() == 0:
        raise ValueError(f"initial must be (chains, *event) with at least one chain: got {tuple(initial.shape)}")
    _refuse_non_finite("initial", initial, len(initial))
    return initial


def _check_start(energy: Tensor | None, gradient: Tensor, chains: int) -> None:
    if energy is not None:
        _refuse_non_finite("energy", energy, chains, " at initial")
    _refuse_non_finite("the gradient of energy", gradient, chains, " at initial")


def _refuse_non_finite(name: str, values: Tensor, chains: int, where: str = "") -> None:
    bad = ~values.reshape(len(values), -1).isfinite().all(1)
    if bool(bad.any()):
        raise ValueError(f"{name} must be finite{where}: {_which(bad.view(-1, chains).any(0))} are not")


def _which(bad: Tensor) -> str:
    rows = bad.nonzero()[:, 0].tolist()
    return f"chains {rows[:5]}{'...' if len(rows) > 5 else ''}"
