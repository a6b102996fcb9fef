"""Energy-based models: a network is the energy, and chains are the samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor
from torch.nn.utils import parametrize

from ..inputs import context_rows, float_points, sample_size
from ..model import GenerativeModel
from ..options import check_choice, check_whole, resolve_event_shape
from .annealing import LogPartition, summarise
from .chains import SAMPLERS, ChainOptions, run_chains
from .composition import Composable, Energy
from .likelihood import Likelihood, held_out_loss, log_likelihood, log_weights
from .networks import NETWORKS, make_network
from .objectives import CHAINS, OBJECTIVES
from .options import check_options, check_range
from .replay import ReplayBuffer


class EnergyModel(Composable, GenerativeModel):
    """``p(x | c) ∝ exp(−f(x, c))``, the energy f a network.

    Inside, points are u = (x − location) / scale, with the mean and the scale of the first batch, one number each for
    all pixels of an image. There the energy is the network plus, with a ``reference_scale`` of s, |u|²/2s²: a Gaussian
    that keeps it normalisable whatever the network does. Chains move there, x ← x − γ∇f(x) + √(2γ)z, and N(0, I) is
    where they begin. ``step_size``, ``input_noise`` and ``score_noise`` are in these units, ``clamp`` in the data's.

    The objectives: maximum likelihood, θ moving down the gradient of mean f(data) − mean f(chains), with chains from a
    replay buffer ("pcd", persistent contrastive divergence), from the data ("cd") or from noise ("short_run");
    denoising and sliced score matching ("dsm", "ssm"); and noise-contrastive estimation ("nce"), which learns the
    constant of the energy too. Of the first three the loss says little, so that in evaluation mode it is an estimate of
    −log p in nats, log Z by a short annealing.

    ``context`` is (context_dim,) for all points or (n, context_dim), one row a point; integer class labels () or (n,)
    stand for one-hot rows. Every chain keeps its context.

    Args:
        network: 'mlp' of the flattened event, 'convolutional' for images, or 'quadratic' for a Gaussian.
        hidden_features: widths of the hidden layers; of 'convolutional' its channels, the image halved between them.
        activation: between the layers; score matching needs a smooth one.
        spectral_norm: the spectral norm that every weight is given; by default it is left free.
        reference_scale: s, the standard deviation of the reference in units of the data's; None for no reference.
        standardize: take location and scale from the first batch, else they are 0 and 1.
        objective: 'pcd', 'cd', 'short_run', 'dsm', 'ssm' or 'nce'.
        n_steps: K, steps of the chains in every loss.
        step_size: γ.
        sampler: 'ula', or 'mala' with an acceptance that makes the chains' law exact.
        temperature: T of the chains, whose law is exp(−f/T); below 1 they see more of the gradient and less noise.
        clamp: (low, high), the range that chains of 'ula' are kept in after each step; of vectors it needs standardize
            off.
        max_grad_norm: the largest norm of a chain's gradient, longer ones are shortened to it.
        buffer_size: chains in the replay buffer; it is saved with the model, which samples from it.
        restart_probability: α, of a chain to begin at N(0, I) rather than where the buffer has it.
        input_noise: standard deviation of the noise put on the data in training.
        energy_penalty: weight of the mean squared energy of data and chains, which keeps energies near 0.
        max_energy_gap: the training stops where mean f(data) and mean f(chains) lie further apart.
        score_noise: σ of 'dsm'.
        n_slices: directions a point of 'ssm'.
        noise_ratio: ν, points of noise for each point of the data in 'nce'.
        sample_steps: steps of the chains in sampling.
    """

    instead_of_log_prob = "log_likelihood estimates it by annealed importance sampling, with an error"
    check_finite = True
    """Whether an energy gap out of bounds raises an error; else the loss becomes NaN, and no value is read."""

    location: Tensor
    scale: Tensor

    def __init__(
        self,
        event_shape: Sequence[int] | None = None,
        context_dim: int = 0,
        network: str = "mlp",
        hidden_features: Sequence[int] = (128, 128),
        activation: str = "silu",
        spectral_norm: float | None = None,
        reference_scale: float | None = 2.0,
        standardize: bool = True,
        objective: str = "pcd",
        n_steps: int = 20,
        step_size: float = 0.01,
        sampler: str = "ula",
        temperature: float = 1.0,
        clamp: Sequence[float] | None = None,
        max_grad_norm: float | None = None,
        buffer_size: int = 4096,
        restart_probability: float = 0.05,
        input_noise: float = 0.0,
        energy_penalty: float = 0.0,
        max_energy_gap: float = 1000.0,
        score_noise: float = 0.1,
        n_slices: int = 1,
        noise_ratio: int = 1,
        sample_steps: int = 200,
        *,
        dim: int | None = None,
    ) -> None:
        super().__init__(resolve_event_shape(event_shape, dim, context_dim), context_dim)
        check_options(locals(), {"network": NETWORKS, "objective": tuple(OBJECTIVES), "sampler": SAMPLERS})
        self.clamp = check_range("clamp", clamp)
        if self.clamp is not None and standardize and len(self.event_shape) != 3:
            raise ValueError("clamp is one range for all dimensions: of vectors it needs standardize=False")
        self.standardize, self.reference_scale, self.sample_steps = standardize, reference_scale, sample_steps
        self.objective, self.restart_probability, self.input_noise = objective, restart_probability, input_noise
        self.energy_penalty, self.max_energy_gap = energy_penalty, max_energy_gap
        self.score_noise, self.n_slices, self.noise_ratio = score_noise, n_slices, noise_ratio
        self._chains = ChainOptions(n_steps, step_size, sampler, temperature, None, max_grad_norm)
        inside, outputs = self._network_sizes()
        self.network = make_network(
            network, self.event_shape, outputs, inside, hidden_features, activation, spectral_norm
        )
        self.buffer = ReplayBuffer(buffer_size if objective == "pcd" else 0, self.event_shape, inside)
        shape = (1,) * len(self.event_shape) if len(self.event_shape) == 3 else self.event_shape
        self.register_buffer("location", torch.zeros(shape))
        self.register_buffer("scale", torch.ones(shape))

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Take location and scale from the points ``x`` (n, *event); a dimension without spread keeps scale 1."""
        if not self.standardize:
            return
        points = self._points(x).double()
        rows = points.reshape(-1, 1) if self.location.numel() == 1 else points.flatten(1)
        mean, std = rows.mean(0), rows.std(0, correction=0)
        self.location.copy_(mean.reshape(self.location.shape))
        self.scale.copy_(torch.where(std > 0, std, torch.ones_like(std)).reshape(self.scale.shape))

    def energy(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """f(x | context): ``(n, *event) -> (n,)``, −log p up to a constant that may depend on the context."""
        return self.standardised_energy(self.standardised(self._points(x)), self.rows(context, len(x)))

    def given(self, context: Tensor) -> Energy:
        """f(· | context) for one context (context_dim,) or one label: an energy to combine with others."""
        return Energy(lambda x: self.energy(x, context))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The energy: a model is called like the function that it is."""
        return self.energy(x, context)

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The objective on ``x`` (n, *event); in evaluation mode, of those with chains, an estimate of −log p."""
        u, rows = self.standardised(self._points(x)), self.rows(context, len(x))
        if not self.training and self.objective in CHAINS:
            return held_out_loss(self, u, rows)
        wanted = torch.is_grad_enabled()
        with torch.enable_grad(), parametrize.cached():
            noisy = u + self.input_noise * torch.randn_like(u) if self.input_noise and self.training else u
            loss = OBJECTIVES[self.objective](self, noisy, rows)
        return loss if wanted else loss.detach()

    @torch.no_grad()
    def sample(
        self,
        n: int,
        context: Tensor | None = None,
        generator: Generator | None = None,
        *,
        n_steps: int | None = None,
        start: str = "buffer",
    ) -> Tensor:
        """``(n, *event)``: chains of ``n_steps``, by default ``sample_steps``, as in the training.

        They begin at chains of the replay buffer with the same context where there are some, else at N(0, I);
        ``start="noise"`` has all begin there. ``generator`` is a CPU generator.
        """
        n = sample_size(n)
        check_choice("start", start, ("buffer", "noise"))
        rows = self.rows(context, n)
        steps = check_whole("n_steps", self.sample_steps if n_steps is None else n_steps, 0)
        known = rows if self.buffer.contexts.shape[1] else None
        u = self.buffer.sample(n, known, generator, from_noise=start == "noise")
        with parametrize.cached():
            options = self.chains._replace(n_steps=steps)
            return self.location + self.scale * run_chains(self.chain_energy(rows), u, options, generator)

    def log_partition(
        self,
        context: Tensor | None = None,
        *,
        n_chains: int = 1000,
        n_temperatures: int = 500,
        generator: Generator | None = None,
    ) -> LogPartition:
        """log ∫ exp(−f(x | context)) dx for one context (context_dim,), by annealed importance sampling."""
        rows = self.rows(context, 1)
        weights, acceptance = log_weights(self, rows, n_chains, n_temperatures, generator)
        return summarise(weights[0], acceptance)

    @torch.no_grad()
    def log_likelihood(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        n_chains: int | None = None,
        n_temperatures: int = 500,
        generator: Generator | None = None,
    ) -> Likelihood:
        """log p(x | context) of ``(batch, *event)``, with ``n_chains`` chains for every distinct context.

        By default these are 1000 over all contexts, and at least 50 for each.
        """
        u, rows = self.standardised(self._points(x)), self.rows(context, len(x))
        return log_likelihood(self, u, rows, n_chains, n_temperatures, generator)

    def chain_energy(self, rows: Tensor | None) -> Callable[[Tensor], Tensor]:
        """The energy of chains (n, *event) under the contexts (n, c), in the units of the model."""
        return lambda u: self.standardised_energy(u, rows)

    def standardised_energy(self, u: Tensor, rows: Tensor | None) -> Tensor:
        """f as a function of u = (x − location) / scale: ``(n, *event), (n, c) -> (n,)``."""
        return self.network_energy(u, rows) + self.reference_energy(u)

    def network_energy(self, u: Tensor, rows: Tensor | None) -> Tensor:
        """What the network says: ``(n, *event), (n, c) -> (n,)``."""
        return self.network(u, rows).squeeze(1).to(u.dtype)

    def reference_energy(self, u: Tensor) -> Tensor:
        """|u|²/2s², or zero without a reference."""
        if self.reference_scale is None:
            return u.new_zeros(len(u))
        return u.flatten(1).square().sum(1) / (2.0 * self.reference_scale**2)

    def standardised(self, x: Tensor) -> Tensor:
        """u of points x."""
        return (x - self.location) / self.scale

    def rows(self, context: Tensor | None, n: int) -> Tensor | None:
        """``context`` as (n, context_dim)."""
        return context_rows(context, n, self.context_dim, self.location)

    def check_gap(self, gap: Tensor) -> Tensor:
        """``gap`` = mean f(data) − mean f(chains), if it is within bounds.

        Raises:
            FloatingPointError: if it is not, which ends a training.
        """
        bad = ~(gap.detach().abs() <= self.max_energy_gap)
        if not self.check_finite:
            return torch.where(bad, torch.nan, gap)
        if bad:
            value = gap.item()
            what = "the energies of the data or of the chains are not finite"
            if math.isfinite(value):
                place = f"{abs(value):.4g} {'above' if value > 0 else 'below'} those of the chains"
                what = f"the energies of the data lie {place}, beyond max_energy_gap, {self.max_energy_gap:g}"
            raise FloatingPointError(
                f"{what}: the chains lost the energy; lower lr or step_size, set energy_penalty, trainer.clip_norm, "
                "max_grad_norm or spectral_norm"
            )
        return gap

    @property
    def chains(self) -> ChainOptions:
        """How the chains move, the clamp in the units of the model."""
        if self.clamp is None:
            return self._chains
        location, scale = (float(v.flatten()[0]) for v in (self.location, self.scale))
        low, high = self.clamp
        return self._chains._replace(clamp=((low - location) / scale, (high - location) / scale))

    def _network_sizes(self) -> tuple[int, int]:
        """(numbers of the context that the network sees, outputs)."""
        return self.context_dim, 1

    def _points(self, x: Tensor) -> Tensor:
        return float_points("x", x, self.event_shape).to(self.location)
