"""Maximum-entropy models: the least committed law with the statistics of an example."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from cgm_kernels.langevin import noise_state

from ..inputs import drawn_labels, fitted_labels, float_points, sample_size
from ..model import GenerativeModel
from ..options import check_not_negative, resolve_event_shape
from . import features_points, features_spectral, features_texture, features_wavelet  # noqa: F401  they register
from .coordinates import Coordinates
from .features import FeatureList
from .maximum_entropy_fit import check_fit_options, deviations, fit_model, run_chains


class MaximumEntropyModel(GenerativeModel):
    """The law p(x) ∝ exp(−⟨θ, F(x) − F(x₀)⟩ − ε‖u‖²) whose mean statistics E F(x) are those of one example x₀.

    Among all laws with these statistics it is the one closest to the reference exp(−ε‖u‖²), of the highest entropy if
    ε = 0. θ minimises log ∫ exp(−⟨θ, F(x) − F(x₀)⟩ − ε‖u‖²) dx, which is convex, by stochastic gradient steps

        θ ← Π(θ + δ_n C⁻¹ (F̄ − F(x₀))),    u ← u − γ_n ∇(⟨θ, F(x)⟩ + ε‖u‖²) + √(2γ_n) z,

    F̄ the mean over persistent chains and over the steps of unadjusted Langevin that they take in between, C a running
    estimate of the covariance of F, which is the curvature of what is minimised, Π the projection to [−bound, bound]
    (De Bortoli, Desolneux, Galerne and Leclaire 2019, "Macrocanonical models for texture synthesis"). The law is that
    of the chains with their finite step, which is a little wider than exp(−energy): θ makes up for it, so that it is
    the samples that have the statistics.

    The chains move in coordinates u (see :class:`Coordinates`): the standardised field, or with ``whiten`` the field
    whitened by the spectrum of the example, so that the reference is the Gaussian texture of the example. Features see
    the standardised field; points of the torus are neither standardised nor whitened.

    Given several examples, the statistics are their means. With ``context_dim`` classes every class has an example, a θ
    and chains of its own.

    Args:
        event_shape: signals (n,), images (channels, height, width), or point sets (n, dim) on the torus [0, 1)^dim.
        context_dim: how many classes there are to condition on; 0 for none.
        features: names, or dictionaries of a name and its options: autocovariance, power_spectrum, histogram, wavelets,
            convolution; pair_counts, neighbour_counts of points. By default autocovariance of signals, wavelets and
            histogram of images, pair_counts of points.
        regularization: ε; by default ½ of fields, so that the reference is normal, and 0 of points.
        whiten: whether chains move in whitened coordinates; by default those of fields do.
        standardize: subtract the mean of the example and divide by its standard deviation.
        n_iterations: steps of θ.
        n_chains: persistent chains (of each class).
        steps_per_iteration: steps of every chain in an iteration.
        step_size: γ; by default 0.05 of fields, and n^(−2/dim)/1000 of n points, whose steps must be short beside the
            distances that the statistics tell apart.
        step_decay: γ_n = γ (1 + 10 n/n_iterations)^(−step_decay).
        learning_rate: δ, the share of a Newton step that an iteration makes.
        learning_rate_decay: δ_n likewise.
        bound: of |θ|, which grows without end where the example has nothing (no pair at a distance, an empty bin).
        average_from: the share of the iterations after which θ is averaged, weighted by δ_n.
        sample_steps: steps that chains take between two samples.
    """

    instead_of_log_prob = "energy(x) is −log p(x) up to a constant; mismatch() compares statistics with the example's"

    theta: Tensor
    average: Tensor
    weight: Tensor
    target: Tensor
    covariance: Tensor
    chains: Tensor
    noise: Tensor
    class_counts: Tensor
    iteration: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        context_dim: int = 0,
        features: Sequence[str | dict[str, Any]] | None = None,
        regularization: float | None = None,
        whiten: bool | None = None,
        standardize: bool = True,
        n_iterations: int = 500,
        n_chains: int = 8,
        steps_per_iteration: int = 5,
        step_size: float | None = None,
        step_decay: float = 0.0,
        learning_rate: float = 0.1,
        learning_rate_decay: float = 0.5,
        bound: float | None = None,
        average_from: float = 0.5,
        sample_steps: int = 200,
    ) -> None:
        super().__init__(resolve_event_shape(event_shape, None, context_dim), context_dim)
        self.n_classes = max(1, context_dim)
        self.features = FeatureList(self.event_shape, _default(self.event_shape) if features is None else features)
        periodic = self.features.periodic
        whiten = not periodic if whiten is None else whiten
        if whiten and periodic:
            raise ValueError("whiten is for signals and images: points on the torus have no spectrum to divide by")
        if regularization is None:
            regularization = 0.0 if periodic else 0.5
        check_not_negative("regularization", regularization)
        if periodic and regularization:
            raise ValueError(f"regularization must be 0 for points, their torus is compact: got {regularization}")
        if step_size is None:
            step_size = 1e-3 * self.event_shape[0] ** (-2.0 / self.event_shape[1]) if periodic else 0.05
        self.regularization, self.standardize, self.bound = regularization, standardize, bound
        self.n_iterations, self.n_chains, self.steps_per_iteration = n_iterations, n_chains, steps_per_iteration
        self.step_size, self.step_decay = step_size, step_decay
        self.learning_rate, self.learning_rate_decay = learning_rate, learning_rate_decay
        self.average_from, self.sample_steps = average_from, sample_steps
        check_fit_options(self)
        self.coordinates = Coordinates(self.event_shape, self.n_classes, periodic, whiten)
        for name, tensor in self._empty_state().items():
            self.register_buffer(name, tensor)

    def fit(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        generator: Generator | None = None,
        progress: bool = False,
        log: Callable[[dict[str, Any]], None] | None = None,
        resume: bool = False,
    ) -> MaximumEntropyModel:
        """Fit θ to the statistics of ``x``, one example (*event) or several (n, *event), with labels ``context`` (n,).

        Args:
            generator: a CPU generator; the same one gives the same fit. It is drawn from at the start only.
            progress: show a progress bar where the standard error is a terminal.
            log: called now and then with the iteration, the mismatch of the statistics (see :meth:`mismatch`) over the
                iterations since the last call, and the seconds; the model may be looked at from within.
            resume: continue an interrupted fit; with the same data it ends bit for bit where an undisturbed one does.

        Ctrl-C and SIGTERM end the fit after the running iteration; what was fitted is kept, and ``status()`` says so.

        Raises:
            NonFiniteError: if the chains diverge. The model is then not fitted.
        """
        fit_model(self, x, context, generator=generator, progress=progress, log=log, resume=resume)
        return self

    @torch.no_grad()
    def sample(self, n: int, context: Tensor | None = None, generator: Generator | None = None) -> Tensor:
        """``(n, *event)``: the chains of the fit, taken ``sample_steps`` further for every ``n_chains`` samples.

        They start where the fit left them, whatever the generator, so that ``sample_steps`` must be long enough for two
        calls to be independent. Without ``context`` classes are drawn as often as they were in the data.
        """
        self._check_fitted()
        n = sample_size(n)
        labels = self._sample_labels(n, context, generator)
        state = noise_state(generator, self.theta.device)
        # The k-th sample of a class is the chain k modulo n_chains of that class, after 1 + k // n_chains rounds.
        before = torch.zeros_like(labels)
        for label in labels.unique().tolist():
            mine = labels == label
            before[mine] = torch.arange(int(mine.sum()), device=labels.device)
        chain, last_round = labels * self.n_chains + before % self.n_chains, before // self.n_chains
        u, u_labels = self._chain_rows()
        samples = u.new_empty(n, *self.event_shape)
        for k in range(int(last_round.max()) + 1 if n else 0):
            rows = chain[last_round >= k].unique()
            u[rows], _ = run_chains(self, u[rows], u_labels[rows], self.multipliers, self.sample_steps, state)
            due = last_round == k
            samples[due] = self.coordinates.to_data(u[chain[due]], labels[due])
        return samples

    def energy(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """⟨θ, F(x)⟩ + ε‖u‖², (batch,): −log p(x) up to a constant (of each class), up to the step of the chains."""
        self._check_fitted()
        float_points("x", x, self.event_shape)
        labels = self._labels(context, len(x))
        u = self.coordinates.from_data(x.to(self.theta), labels)
        return self._energy_and_features(u, labels, self.multipliers)[0]

    def statistics(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """F(x), (batch, n_features)."""
        float_points("x", x, self.event_shape)
        labels = self._labels(context, len(x))
        coordinates = self.coordinates
        return self.features(coordinates.field(coordinates.from_data(x.to(self.theta), labels), labels))

    @torch.no_grad()
    def mismatch(self, x: Tensor, context: Tensor | None = None) -> dict[str, float]:
        """How far the mean statistics of ``x`` (n, *event) are from the example's, (mean F(x) − F(x₀))/σ by feature.

        σ is the standard deviation of every statistic between samples of the law, as the fit estimated it; the values
        are root mean squares over the statistics of a feature, and over classes. n independent samples of the law that
        has the example's statistics give about 1/√n.
        """
        self._check_fitted()
        labels = self._labels(context, len(x))
        found, present = self.statistics(x, context), labels.unique().tolist()
        gaps = torch.stack([found[labels == label].mean(0) - self.target[label] for label in present])
        relative = gaps.double() / deviations(self.covariance[present])
        return {name: float(part.square().mean().sqrt()) for name, part in self.features.split(relative).items()}

    @torch.no_grad()
    def positions(self) -> Tensor:
        """Where the chains stand, (classes · n_chains, *event)."""
        return self.coordinates.to_data(*self._chain_rows())

    @property
    def multipliers(self) -> Tensor:
        """θ, (classes, n_features): the average, or the last one as long as there is none."""
        return self.average if bool(self.weight > 0) else self.theta

    @property
    def n_fitted(self) -> int:
        """Iterations that were made."""
        return int(self.iteration)

    def status(self) -> str:
        if not self.n_fitted:
            return "not fitted"
        note = "" if self.n_fitted == self.n_iterations else ": interrupted"
        return f"{self.n_fitted} of {self.n_iterations} iterations{note}"

    def _energy_and_features(self, u: Tensor, labels: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        found = self.features(self.coordinates.field(u, labels))
        energy = (found * theta[labels]).sum(1)
        if self.regularization:
            energy = energy + self.regularization * u.square().flatten(1).sum(1)
        return energy, found

    def _chain_rows(self) -> tuple[Tensor, Tensor]:
        """A copy of the chains as one batch, and their labels."""
        labels = torch.arange(self.n_classes, device=self.chains.device).repeat_interleave(self.n_chains)
        return self.chains.flatten(0, 1).clone(), labels

    def _labels(self, context: Tensor | None, n: int) -> Tensor:
        seen = self.class_counts if self.n_fitted else torch.ones_like(self.class_counts)
        labels = fitted_labels(self, context, n, seen)
        return seen.new_zeros(n) if labels is None else labels

    def _sample_labels(self, n: int, context: Tensor | None, generator: Generator | None) -> Tensor:
        if self.context_dim and context is None:
            context = drawn_labels(self.class_counts, n, generator)
        return self._labels(context, n)

    def _empty_state(self) -> dict[str, Tensor]:
        multipliers = torch.zeros(self.n_classes, self.features.n_features)
        return {
            "theta": multipliers,
            "average": multipliers.clone(),
            "weight": torch.zeros(()),
            "target": multipliers.clone(),
            "covariance": torch.zeros(self.n_classes, self.features.n_features, self.features.n_features),
            "chains": torch.zeros(self.n_classes, self.n_chains, *self.event_shape),
            "noise": torch.zeros(2, dtype=torch.int64),
            "class_counts": torch.zeros(self.n_classes, dtype=torch.int64),
            "iteration": torch.zeros((), dtype=torch.int64),
        }

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Take the dtype from what is loaded."""
        given = state_dict.get(prefix + "theta")
        if given is not None and given.is_floating_point():
            self.to(given.dtype)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _check_fitted(self) -> None:
        if not self.n_fitted:
            raise RuntimeError("this MaximumEntropyModel is not fitted: call fit(x) first")


def _default(event_shape: tuple[int, ...]) -> list[str | dict[str, Any]]:
    by_rank: dict[int, list[str | dict[str, Any]]] = {
        1: ["autocovariance"],
        2: ["pair_counts"],
        3: ["wavelets", "histogram"],
    }
    if len(event_shape) not in by_rank:
        raise ValueError(f"event_shape must be (n,), (n, dim) or (channels, height, width): got {event_shape}")
    return by_rank[len(event_shape)]
