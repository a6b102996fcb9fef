"""The sliced-Wasserstein flow learned by a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike

import torch
from torch import Generator, Tensor

from cgm_kernels import random_projections, sliced_wasserstein_cost

from ..model import GenerativeModel, class_labels
from .directions import default_patch_sizes
from .neural_network import VelocityNetwork
from .neural_pool import FlowOptions, TrajectoryPool
from .options import check_event_shape, check_neural_options, is_number, is_whole

_CHUNK = 2048  # rows whose hidden layers stay in the cache
_HELD_OUT_DIRECTIONS = 64


class NeuralSlicedWassersteinFlow(GenerativeModel):
    """A network that sends base points where the sliced-Wasserstein flow carries them, at any time of the flow.

    Particles X_t follow the flow from X_0 ~ N(0, I), dX/dt = mean_θ (T_θ(⟨X, θ⟩) − ⟨X, θ⟩) θ, in clouds that are
    simulated while the network learns. For every time t of the flow the network regresses on the mean velocity of the
    particles until then, X_t − X_0, at the points Z_u of the straight way between the two places,

        loss = E |v(t, u, Z_u) − (X_t − X_0)|²,    Z_u = (1 − u) X_0 + u X_t,    u ~ U(0, 1).

    The solution of dz/du = v(t, u, z) from z ~ N(0, I) has the law of Z_u at every u, and so that of X_t at u = 1. As
    the flow couples X_0 and X_t nearly optimally, the ways hardly cross, its solutions are nearly straight, and one or
    two steps of the midpoint rule are enough whatever t is. (The regression on dX/dt itself would accumulate its errors
    over a hundred steps, and one on X_t given X_0 would blur what the randomness of the particles leaves open.)

    ``loss(x, context)`` shows the points ``x`` to the pool of particles, moves these by ``steps_per_loss`` steps, and
    gives the regression over as many of them. In evaluation mode it is W_2², sliced, between ``x`` and as many samples
    under the same context: the held-out loss. ``context_dim`` numbers, or classes, condition it; the particles match
    (point, context) jointly (:class:`TrajectoryPool`).

    Args:
        event_shape: the shape of one point; (channels, height, width) for images.
        context_dim: the length of a context, or how many classes there are to condition on; 0 for none.
        hidden_features: widths of the hidden layers.
        activation: between the layers.
        n_frequencies: of the sines and cosines of the times that the network sees.
        n_flow_steps: steps of the simulated flow.
        step_size: h, the time of one step; by default a quarter of the largest that helps, min(L, d)/4.
        n_projections: L, directions a step; by default the dimension, at least 32 and at most 128.
        n_particles: in one cloud, and the number of the last data points that it is drawn to.
        n_clouds: clouds in the pool, at least 2: one on its way, the others to learn from.
        n_knots: times at which a cloud is kept, closer together at the start; straight lines in between.
        steps_per_loss: steps of the flow in every call of the loss.
        end_fraction: the share of the regression that is at the end of the flow rather than at random times.
        context_scale: s, how far apart contexts are that differ by 1, in standard deviations of the data; it has no
            meaning for labels, which are matched class by class.
        patch_sizes: sides of the image patches that directions of the later steps are confined to; by default halves of
            the image side down to 1 for images, none for other points; [] for none.
        global_fraction: the share of steps, the first ones, with directions over the whole image.
        n_steps: steps of the midpoint rule in sampling, two evaluations of the network each.

    ``save`` leaves the pool out: the saved model holds the network, the mean and the scale of the data, and nothing
    else. Checkpoints of the trainer hold the pool, and at most ``pool.n_bytes()`` more.
    """

    location: Tensor
    scale: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        context_dim: int = 0,
        hidden_features: Sequence[int] = (64, 64, 64),
        activation: str = "silu",
        n_frequencies: int = 3,
        n_flow_steps: int = 80,
        step_size: float | None = None,
        n_projections: int | None = None,
        n_particles: int = 2048,
        n_clouds: int = 7,
        n_knots: int = 8,
        steps_per_loss: int = 2,
        end_fraction: float = 0.5,
        context_scale: float = 2.0,
        patch_sizes: Sequence[int] | None = None,
        global_fraction: float = 0.6,
        n_steps: int = 2,
    ) -> None:
        super().__init__(check_event_shape(event_shape), context_dim)
        self.dim = math.prod(self.event_shape)
        n_projections = min(128, max(32, self.dim)) if n_projections is None else n_projections
        sizes = default_patch_sizes(self.event_shape) if patch_sizes is None else tuple(patch_sizes)
        flow = FlowOptions(
            n_steps=n_flow_steps,
            step_size=min(n_projections, self.dim) / 4 if step_size is None else step_size,
            n_projections=n_projections,
            n_particles=n_particles,
            n_clouds=n_clouds,
            n_knots=n_knots,
            context_scale=context_scale,
            patch_sizes=sizes,
            global_fraction=global_fraction,
        )
        check_neural_options(flow, self.event_shape, context_dim, n_frequencies, steps_per_loss, end_fraction, n_steps)
        self.steps_per_loss, self.end_fraction, self.n_steps = steps_per_loss, end_fraction, n_steps
        self.network = VelocityNetwork(self.dim, context_dim, hidden_features, n_frequencies, activation)
        self.pool = TrajectoryPool(self.event_shape, self.dim, context_dim, flow)
        self.register_buffer("location", torch.zeros(self.dim))
        self.register_buffer("scale", torch.ones(()))

    @property
    def end_time(self) -> float:
        """The time of the flow at its end: step size times steps, as of ``particle_flow``."""
        return self.pool.options.n_steps * self.pool.options.step_size

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Take mean and scale from the points ``x``, and send a first cloud to them."""
        flat, context = self._points(x), self._context(context, len(x))
        self.location.copy_(flat.double().mean(0))
        scale = (flat - self.location).double().square().mean().sqrt()
        self.scale.copy_(torch.where(scale > 0, scale, torch.ones_like(scale)))
        with torch.autocast(flat.device.type, enabled=False):
            self.pool.start(self._standardised(flat), self._rows(context, len(x)))

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The regression on the pool, which moves on; in evaluation mode the sliced W_2² from samples to ``x``."""
        flat, rows = self._points(x), self._rows(self._context(context, len(x)), len(x))
        if not self.training:
            return self._distance(flat, rows)
        if not self.pool.started:
            self.initialize(x, context)
        # Half precision is for the network alone.
        with torch.no_grad(), torch.autocast(flat.device.type, enabled=False):
            self.pool.remember(self._standardised(flat), rows)
            self.pool.advance(self.steps_per_loss)
            drawn = self.pool.draw(len(x), self.end_fraction)
            u = torch.rand(len(x), dtype=flat.dtype).to(flat.device)
            between = torch.lerp(drawn.start, drawn.position, u[:, None])
            velocity = drawn.position - drawn.start
        predicted = self.network(drawn.w, u, between, drawn.context if self.context_dim else None)
        return (predicted.to(velocity.dtype) - velocity).square().mean()

    def sample(
        self,
        n: int,
        context: Tensor | None = None,
        generator: Generator | None = None,
        *,
        n_steps: int | None = None,
        time: float | None = None,
    ) -> Tensor:
        """``(n, *event)`` where the flow has base points at ``time``, by default at its end.

        ``context`` holds class labels of shape () or (n,), or numbers of shape (c,) or (n, c).
        """
        if not is_whole(n, 0):
            raise ValueError(f"n must be a whole number, not negative: got {n!r}")
        return self.transport(self.sample_base(n, generator), context, n_steps=n_steps, time=time)

    def sample_base(self, n: int, generator: Generator | None = None) -> Tensor:
        """``(n, *event)`` points of the base, in the units of the data."""
        device = self.location.device if generator is None else generator.device
        noise = torch.randn(n, self.dim, generator=generator, dtype=self.location.dtype, device=device)
        return self._to_event(noise.to(self.location.device))

    @torch.no_grad()
    def transport(
        self, points: Tensor, context: Tensor | None = None, *, n_steps: int | None = None, time: float | None = None
    ) -> Tensor:
        """``points`` (n, *event) of the base, in the units of the data, where the flow has them at ``time``."""
        x = self._standardised(self._points(points, "points"))
        context = self._context(context, len(x))
        n_steps = self.n_steps if n_steps is None else n_steps
        if not is_whole(n_steps, 1):
            raise ValueError(f"n_steps must be a whole number, at least 1: got {n_steps!r}")
        w = self._w(time)
        size = _CHUNK if x.device.type == "cpu" else max(1, len(x))
        parts = [
            self._integrate(rows, None if context is None else context[begin : begin + size], w, n_steps)
            for begin, rows in zip(range(0, len(x), size), x.split(size), strict=False)
        ]
        return self._to_event(torch.cat(parts) if parts else x)

    def trajectory(self, points: Tensor, times: Sequence[float], context: Tensor | None = None) -> Tensor:
        """``(len(times), n, *event)``: ``points`` of the base where the flow has them at these times."""
        return torch.stack([self.transport(points, context, time=time) for time in times])

    def memory_bytes(self) -> int:
        """Bytes of the saved model."""
        kept = [*self.network.parameters(), self.location, self.scale]
        return sum(tensor.numel() * tensor.element_size() for tensor in kept)

    def save(self, directory: str | PathLike[str]) -> None:
        with self.pool.left_out():
            super().save(directory)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.config.items() if value is not None)

    def _integrate(self, x: Tensor, context: Tensor | None, w: float, n_steps: int) -> Tensor:
        """The midpoint rule for dz/du = v(w, u, z), u from 0 to 1."""
        if not w:
            return x
        h, time = 1.0 / n_steps, x.new_tensor([w])
        for k in range(n_steps):
            velocity = self.network(time, x.new_tensor([k * h]), x, context)
            middle = torch.add(x, velocity, alpha=h / 2)
            x = torch.add(x, self.network(time, x.new_tensor([(k + 0.5) * h]), middle, context), alpha=h)
        return x

    def _distance(self, flat: Tensor, context: Tensor) -> Tensor:
        samples = self.sample(len(flat), context if self.context_dim else None).reshape(len(flat), self.dim)
        if not self.context_dim:
            return sliced_wasserstein_cost(samples, flat, n_projections=_HELD_OUT_DIRECTIONS)
        directions = random_projections(self.dim, _HELD_OUT_DIRECTIONS, dtype=flat.dtype, device=flat.device)
        joint = self.pool.joint_directions(directions, context)
        clouds = (torch.cat((self._standardised(points), context), 1) for points in (samples, flat))
        return sliced_wasserstein_cost(*clouds, projections=joint) * self.scale.square()

    def _w(self, time: float | None) -> float:
        if time is None:
            return 1.0
        if not is_number(time) or not 0.0 <= time <= self.end_time:
            raise ValueError(f"time must lie in [0, {self.end_time:g}], the times of the flow: got {time!r}")
        return self.pool.w_of(time / self.pool.options.step_size)

    def _points(self, x: Tensor, name: str = "x") -> Tensor:
        """``x`` as (n, d)."""
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise TypeError(f"{name} must be a floating-point Tensor: got {getattr(x, 'dtype', type(x).__name__)}")
        if not x.ndim or tuple(x.shape[1:]) != self.event_shape:
            wanted = ", ".join(map(str, self.event_shape))
            raise ValueError(f"{name} must have shape (n, {wanted}): got {tuple(x.shape)}")
        return x.to(self.location).reshape(len(x), self.dim)

    def _context(self, context: Tensor | None, n: int) -> Tensor | None:
        """``context`` as (n, context_dim) in the dtype of the model."""
        if not self.context_dim:
            if context is not None:
                raise ValueError("this flow has no context: construct it with context_dim, or leave context out")
            return None
        if not isinstance(context, Tensor):
            got = "None" if context is None else type(context).__name__
            raise ValueError(f"this flow is conditional: context must be a Tensor of {self.context_dim}: got {got}")
        if not context.is_floating_point():
            labels = class_labels(context, n, self.context_dim)
            return torch.nn.functional.one_hot(labels, self.context_dim).to(self.location)
        if context.shape not in ((self.context_dim,), (n, self.context_dim)):
            expected = f"({self.context_dim},) or ({n}, {self.context_dim})"
            raise ValueError(f"context must have shape {expected}: got {tuple(context.shape)}")
        return context.to(self.location).expand(n, self.context_dim)

    def _rows(self, context: Tensor | None, n: int) -> Tensor:
        return self.location.new_empty(n, 0) if context is None else context

    def _standardised(self, flat: Tensor) -> Tensor:
        return (flat - self.location) / self.scale

    def _to_event(self, x: Tensor) -> Tensor:
        return (x * self.scale + self.location).reshape(len(x), *self.event_shape)
