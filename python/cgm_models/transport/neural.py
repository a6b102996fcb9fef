"""The sliced-Wasserstein flow learned by a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike

import torch
from torch import Generator, Tensor

from cgm_kernels import checks, random_projections, sliced_wasserstein_cost

from ..inputs import float_points, sample_size
from ..model import GenerativeModel
from ..options import check_event_shape
from .directions import default_patch_sizes
from .neural_base import gaussian_points
from .neural_checks import data_rows, finite_context, flow_time
from .neural_network import VelocityNetwork
from .neural_pool import FlowOptions, TrajectoryPool
from .options import check_neural_options

_CHUNK = 2048  # rows whose hidden layers stay in the cache
_HELD_OUT_DIRECTIONS = 64
_FEWER = 8  # in the second stage the regression has a small part and takes one particle in so many


class NeuralSlicedWassersteinFlow(GenerativeModel):
    """A network that sends base points where the sliced-Wasserstein flow carries them, at any time of the flow.

    Particles X_t follow the flow from X_0 ~ N(0, I), dX/dt = mean_θ (T_θ(⟨X, θ⟩) − ⟨X, θ⟩) θ, in clouds that are
    simulated while the network learns. From a base point z the flow map takes K steps on the straight way,

        z_0 = z,   z_{k+1} = z_k + v(t, k/K, z_k) / K,   F_t(z) = z_K,

    as the flow couples X_0 and X_t nearly optimally, so that straight ways hardly cross. It learns in two stages,

        ρ E |v(t, u, (1 − u) X_0 + u X_t) − (X_t − X_0)|²  +  SW_2²(law of F_end(z), law of the data),

    u one of 0, 1/K, …, (K − 1)/K: at first the regression on the particles' mean velocities alone, with ρ = 1, which
    says where each point goes but blurs what the randomness of the particles leaves open; then with a small ρ, beside
    the distance from the end of the map to the data, towards which the flow runs. That sharpens the map and takes the
    error of the few steps away. By itself it would be blind to which part of the base goes where.

    ``loss(x, context)`` shows the points ``x`` to the pool of particles, moves these by ``steps_per_loss`` steps, and
    takes both parts over ``n_points`` particles and base points; the data are the last ones shown. In evaluation mode
    it is W_2², sliced, between ``x`` and as many samples under the same context: the held-out loss. ``context_dim``
    numbers, or classes, condition it; the particles match (point, context) jointly (:class:`TrajectoryPool`), and so
    does the distance.

    Args:
        event_shape: the shape of one point; (channels, height, width) for images.
        context_dim: the length of a context, or how many classes there are to condition on; 0 for none.
        hidden_features: widths of the hidden layers.
        activation: between the layers.
        n_frequencies: of the sines and cosines of the times that the network sees.
        n_steps: K, evaluations of the network for one sample.
        n_flow_steps: steps of the simulated flow.
        step_size: h, the time of one step; by default a quarter of the largest that helps, min(L, d)/4.
        n_projections: L, directions a step; by default the dimension, at least 32 and at most 128. In the plane they
            are spread evenly (:func:`directions.planar_projections`).
        n_particles: in one cloud, and the number of the last data points that it is drawn to. With the size of the
            training set, shown at once in every batch, these are the training set.
        n_clouds: clouds in the pool, at least 2: one on its way, the others to learn from.
        n_knots: times at which a cloud is kept, closer together at the start; straight lines in between.
        steps_per_loss: steps of the flow in every call of the loss.
        end_fraction: the share of the regression that is at the end of the flow rather than at random times.
        law_after: calls of the loss in the first stage; None for no second one.
        regression_weight: ρ of the second stage. With a smaller one the map is a little nearer to the data at the end
            of the flow and further from the particles before it.
        n_points: particles in the regression of the first stage (of the second an eighth), and base points whose law
            is compared in every call of the loss; with context it is compared over as many as the data have.
        even_samples: take scrambled Sobol points for the base (:func:`neural_base.even_points`), in learning and in
            sampling: each sample has the law of the model, and all together follow it more closely than independent
            ones, as particles do. False for independent samples.
        context_scale: s, how far apart contexts are that differ by 1, in standard deviations of the data; it has no
            meaning for labels, which are matched class by class.
        patch_sizes: sides of the image patches that directions of the later steps are confined to; by default halves of
            the image side down to 1 for images, none for other points; [] for none.
        global_fraction: the share of steps, the first ones, with directions over the whole image.

    ``save`` leaves the pool out: the saved model holds the network, the mean and the scale of the data, and nothing
    else. Trained further, it keeps this mean and scale, and fills a new pool. Checkpoints of the trainer hold the pool,
    and at most ``pool.n_bytes()`` more.
    """

    location: Tensor
    scale: Tensor
    n_losses: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        context_dim: int = 0,
        hidden_features: Sequence[int] = (96, 96, 96, 96),
        activation: str = "relu",
        n_frequencies: int = 0,
        n_steps: int = 1,
        n_flow_steps: int = 80,
        step_size: float | None = None,
        n_projections: int | None = None,
        n_particles: int = 2048,
        n_clouds: int = 7,
        n_knots: int = 8,
        steps_per_loss: int = 2,
        end_fraction: float = 0.5,
        law_after: int | None = 1000,
        regression_weight: float = 0.01,
        n_points: int = 2048,
        even_samples: bool = True,
        context_scale: float = 2.0,
        patch_sizes: Sequence[int] | None = None,
        global_fraction: float = 0.6,
    ) -> None:
        super().__init__(check_event_shape(event_shape), context_dim)
        self.dim = math.prod(self.event_shape)
        n_projections = min(128, max(32, self.dim)) if n_projections is None else n_projections
        if patch_sizes is None:
            patch_sizes = default_patch_sizes(self.event_shape)
        flow = FlowOptions(
            n_steps=n_flow_steps,
            step_size=min(n_projections, self.dim) / 4 if step_size is None else step_size,
            n_projections=n_projections,
            n_particles=n_particles,
            n_clouds=n_clouds,
            n_knots=n_knots,
            context_scale=context_scale,
            patch_sizes=tuple(checks.listed("patch_sizes", patch_sizes, "a list of whole numbers")),
            global_fraction=global_fraction,
        )
        whole = {
            "context_dim": (context_dim, 0),
            "n_frequencies": (n_frequencies, 0),
            "n_steps": (n_steps, 1),
            "steps_per_loss": (steps_per_loss, 0),
            "law_after": (0 if law_after is None else law_after, 0),
            "n_points": (n_points, 1),
        }
        check_neural_options(flow, self.event_shape, whole, end_fraction, regression_weight, even_samples)
        self.n_steps, self.steps_per_loss, self.end_fraction = n_steps, steps_per_loss, end_fraction
        self.law_after, self.regression_weight, self.n_points = law_after, regression_weight, n_points
        self.even_samples = even_samples
        self.network = VelocityNetwork(self.dim, context_dim, hidden_features, n_frequencies, activation)
        self.pool = TrajectoryPool(self.event_shape, self.dim, context_dim, flow)
        self.register_buffer("location", torch.zeros(self.dim))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("n_losses", torch.zeros((), dtype=torch.int64))

    @property
    def end_time(self) -> float:
        """The time of the flow at its end: step size times steps, as of ``particle_flow``."""
        return self.pool.options.n_steps * self.pool.options.step_size

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Send a first cloud to the points ``x``, whose mean and scale the model takes if it has learnt nothing yet."""
        self._start(*self._data(x, context))

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The two parts over the pool, which moves on; in evaluation mode the sliced W_2² from samples to ``x``."""
        flat, rows = self._data(x, context)
        if not self.training:
            return self._distance(flat, rows)
        if not self.pool.started:
            self._start(flat, rows)
        # Half precision is for the network alone.
        with torch.no_grad(), torch.autocast(flat.device.type, enabled=False):
            self.pool.remember(self._standardised(flat), rows)
            self.pool.advance(self.steps_per_loss)
        self.n_losses += 1
        if self.law_after is None or int(self.n_losses) <= self.law_after:
            return self._regression(self.n_points)
        return self._law_distance() + self.regression_weight * self._regression(-(-self.n_points // _FEWER))

    def sample(
        self,
        n: int,
        context: Tensor | None = None,
        generator: Generator | None = None,
        *,
        time: float | Tensor | None = None,
    ) -> Tensor:
        """``(n, *event)`` where the flow has base points at ``time``, by default at its end.

        ``context`` holds class labels of shape () or (n,), or numbers of shape (c,) or (n, c). The samples are
        independent only if ``even_samples`` is False.
        """
        return self.transport(self.sample_base(n, generator), context, time=time)

    def sample_base(self, n: int, generator: Generator | None = None) -> Tensor:
        """``(n, *event)`` points of the base, in the units of the data."""
        n = sample_size(n)
        return self._to_event(gaussian_points(n, self.dim, generator, self.location, even=self.even_samples))

    @torch.no_grad()
    def transport(self, points: Tensor, context: Tensor | None = None, *, time: float | Tensor | None = None) -> Tensor:
        """``points`` (n, *event) of the base, in the units of the data, where the flow has them at ``time``."""
        x = float_points("points", points, self.event_shape).to(self.location)
        x = self._standardised(x.reshape(len(x), self.dim))
        context, w = finite_context(context, len(x), self.context_dim, self.location), self._w(time)
        if not w or not len(x):
            return self._to_event(x)
        steps = self._steps(w, context)
        size = _CHUNK if x.device.type == "cpu" else len(x)
        starts = zip(range(0, len(x), size), x.split(size), strict=True)
        parts = [self._move(rows, [_rows(step, begin, begin + size) for step in steps]) for begin, rows in starts]
        return self._to_event(torch.cat(parts))

    def trajectory(self, points: Tensor, times: Sequence[float] | Tensor, context: Tensor | None = None) -> Tensor:
        """``(len(times), n, *event)``: ``points`` of the base where the flow has them at these times."""
        states = [self.transport(points, context, time=time) for time in times]
        if states:
            return torch.stack(states)
        return self.transport(points, context, time=0.0).new_empty(0, *points.shape)

    def memory_bytes(self) -> int:
        """Bytes of the saved model."""
        kept = [*self.network.parameters(), self.location, self.scale]
        return sum(tensor.numel() * tensor.element_size() for tensor in kept)

    def save(self, directory: str | PathLike[str]) -> None:
        with self.pool.left_out():
            super().save(directory)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.config.items() if value is not None)

    @torch.no_grad()
    def _start(self, flat: Tensor, rows: Tensor) -> None:
        if not int(self.n_losses):
            self.location.copy_(flat.double().mean(0))
            scale = (flat - self.location).double().square().mean().sqrt()
            self.scale.copy_(torch.where(scale > 0, scale, torch.ones_like(scale)))
        with torch.autocast(flat.device.type, enabled=False):
            self.pool.start(self._standardised(flat), rows)

    def _regression(self, n: int) -> Tensor:
        """E |v − (X_t − X_0)|² over n particles of the pool, at the beginning of a random one of the steps."""
        with torch.no_grad():
            drawn = self.pool.draw(n, self.end_fraction)
            u = (torch.randint(self.n_steps, (n,)) / self.n_steps).to(drawn.w)
            between = torch.lerp(drawn.start, drawn.position, u[:, None])
            velocity = drawn.position - drawn.start
        context = drawn.context if self.context_dim else None
        predicted = self.network(between, self.network.features(drawn.w, u, context))
        return (predicted.to(velocity.dtype) - velocity).square().mean()

    def _law_distance(self) -> Tensor:
        """SW_2² from moved base points to the data that the pool remembers."""
        target, context = self.pool.remembered()
        # With contexts both sides hold the same ones, and few neighbours among them would draw points to their mean.
        n = len(target) if self.context_dim else self.n_points
        base = gaussian_points(n, self.dim, None, target, even=self.even_samples)
        moved = self._move(base, self._steps(1.0, context if self.context_dim else None)).to(target.dtype)
        directions = self.pool.directions(int(torch.randint(self.pool.options.n_steps, ()))).to(target)
        with torch.autocast(target.device.type, enabled=False):
            return self._cost(moved, target, context, directions)

    def _steps(self, w: float, context: Tensor | None) -> list[Tensor]:
        """What the network is told in each of its steps."""
        times = self.location.new_tensor([[w, k / self.n_steps] for k in range(self.n_steps)])
        return [self.network.features(time[:1], time[1:], context) for time in times]

    def _move(self, x: Tensor, steps: list[Tensor]) -> Tensor:
        for step in steps:
            x = torch.add(x, self.network(x, step), alpha=1.0 / self.n_steps)
        return x

    def _cost(self, x: Tensor, y: Tensor, context: Tensor, directions: Tensor) -> Tensor:
        """W_2², averaged over directions, between standardised clouds with the same contexts."""
        if not self.context_dim:
            return sliced_wasserstein_cost(x, y, projections=directions)
        joint = self.pool.joint_directions(directions, context)
        return sliced_wasserstein_cost(torch.cat((x, context), 1), torch.cat((y, context), 1), projections=joint)

    def _distance(self, flat: Tensor, context: Tensor) -> Tensor:
        samples = self.sample(len(flat), context if self.context_dim else None).reshape(len(flat), self.dim)
        directions = random_projections(self.dim, _HELD_OUT_DIRECTIONS, dtype=flat.dtype, device=flat.device)
        clouds = self._standardised(samples), self._standardised(flat)
        return self._cost(*clouds, context, directions) * self.scale.square()

    def _w(self, time: float | Tensor | None) -> float:
        if time is None:
            return 1.0
        return self.pool.w_of(flow_time(time, self.end_time) / self.pool.options.step_size)

    def _data(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return data_rows(x, context, self.event_shape, self.context_dim, self.location)

    def _standardised(self, flat: Tensor) -> Tensor:
        return (flat - self.location) / self.scale

    def _to_event(self, x: Tensor) -> Tensor:
        return (x * self.scale + self.location).reshape(len(x), *self.event_shape)


def _rows(features: Tensor, begin: int, end: int) -> Tensor:
    """Those of some points; a single row is that of all points."""
    return features if len(features) == 1 else features[begin:end]
