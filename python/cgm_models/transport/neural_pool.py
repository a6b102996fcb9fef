"""The particles of the sliced-Wasserstein flow that a network learns from, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cgm_kernels import random_projections, sliced_displacement

from .directions import patch_projections, patch_size, planar_projections

_KNOT_POWER = 2.0  # knots lie closer together where the flow begins: there particles move the fastest
_GAP = 100.0  # standard deviations of the data between two classes


class FlowOptions(NamedTuple):
    """How particles are simulated; the arguments of the model, resolved."""

    n_steps: int
    step_size: float
    n_projections: int
    n_particles: int
    n_clouds: int
    n_knots: int
    context_scale: float
    patch_sizes: tuple[int, ...]
    global_fraction: float


class Rows(NamedTuple):
    """Particles drawn from the pool: where they began, where they stand at time w, and their context."""

    start: Tensor
    position: Tensor
    w: Tensor
    context: Tensor


class TrajectoryPool(nn.Module):
    """Clouds of N particles that follow the flow, each kept at the M knots of its way.

    One cloud is on its way, ``n_clouds − 1`` have arrived and are drawn from; once arrived, the running one takes the
    place of the oldest. Its goal are the last N points that the training has shown, and particle i has the context of
    point i of them, so that both clouds have the same contexts. The context is matched as further coordinates that the
    particles keep (Du et al. 2023, "Nonparametric Generative Modeling with Conditional Sliced-Wasserstein Flows"); see
    ``joint_directions``.

    Times are w in [0, 1], piecewise linear in the step of the flow, with knot m at w = m/M. All noise comes from
    torch's default generator, and everything is in buffers: a checkpoint resumes bit for bit.
    """

    memory: Tensor
    memory_context: Tensor
    goal: Tensor
    goal_context: Tensor
    particles: Tensor
    knots: Tensor
    contexts: Tensor
    counts: Tensor

    def __init__(self, event_shape: tuple[int, ...], dim: int, context_dim: int, options: FlowOptions) -> None:
        super().__init__()
        self.event_shape, self.dim, self.context_dim, self.options = event_shape, dim, context_dim, options
        steps, n = options.n_steps, options.n_knots
        self.knot_steps = sorted({max(1, round(steps * (m / n) ** _KNOT_POWER)) for m in range(1, n + 1)})
        self._shapes = self._full_shapes()
        for name, shape in self._shapes.items():
            self.register_buffer(name, torch.empty((0,) * len(shape)))
        # Clouds that arrived, steps of the running one, points seen.
        self.register_buffer("counts", torch.zeros(3, dtype=torch.int64))

    @property
    def started(self) -> bool:
        return self.memory.numel() > 0

    def n_bytes(self, itemsize: int = 4) -> int:
        """Bytes of the pool once it is filled."""
        return itemsize * sum(torch.Size(shape).numel() for shape in self._shapes.values())

    def start(self, x: Tensor, context: Tensor) -> None:
        """Begin anew, with one cloud that went all the way to ``x`` (n, d)."""
        for name, shape in self._shapes.items():
            setattr(self, name, x.new_zeros(shape))
        self.counts.zero_()
        self.remember(x, context)
        self._begin()
        self.advance(self.options.n_steps)

    def remember(self, x: Tensor, context: Tensor) -> None:
        """Let points (n, d) take the places of the oldest ones."""
        n, seen = self.options.n_particles, int(self.counts[2])
        places = (torch.arange(seen, seen + len(x), device=x.device) % n)[-n:]
        self.memory[places], self.memory_context[places] = x[-n:], context[-n:]
        self.counts[2] += len(x)

    def advance(self, n_steps: int) -> None:
        """Move the running cloud by ``n_steps`` of the flow."""
        total = self.options.n_steps
        for _ in range(n_steps):
            arrived, step, _ = self.counts.tolist()
            self.particles += self.options.step_size * self._displacement(step)
            if step + 1 in self.knot_steps:
                self.knots[self.knot_steps.index(step + 1) + 1, arrived % self.options.n_clouds] = self.particles
            self.counts[1] += 1
            if step + 1 == total:
                self.counts[0] += 1
                self._begin()

    def draw(self, n: int, end_fraction: float) -> Rows:
        """``n`` particles of arrived clouds at random times, a share ``end_fraction`` of them at the end."""
        arrived, clouds, m = int(self.counts[0]), self.options.n_clouds, len(self.knot_steps)
        device, dtype = self.knots.device, self.knots.dtype
        w = torch.rand(n, dtype=dtype)
        w[torch.rand(n) < end_fraction] = 1.0
        cloud = (arrived - 1 - torch.randint(min(arrived, clouds - 1), (n,))) % clouds
        row = torch.randint(self.options.n_particles, (n,))
        w, cloud, row = w.to(device), cloud.to(device), row.to(device)
        left = (w * m).long().clamp_(max=m - 1)
        share = (w * m - left)[:, None]
        position = torch.lerp(self.knots[left, cloud, row], self.knots[left + 1, cloud, row], share)
        return Rows(self.knots[0, cloud, row], position, w, self.contexts[cloud, row])

    def remembered(self) -> tuple[Tensor, Tensor]:
        """The last points (n, d) that the training has shown, at most N, and their contexts (n, c)."""
        rows = slice(min(int(self.counts[2]), self.options.n_particles))
        return self.memory[rows], self.memory_context[rows]

    def joint_directions(self, directions: Tensor, context: Tensor) -> Tensor:
        """(d + c, L): directions of (point, context) that continue these (d, L), for contexts (n, c).

        For one-hot contexts they go on with a random permutation of the first c multiples of a gap that is wider than
        the data: the classes lie apart along every direction, and no coupling mixes them. Others are shortened to
        (cos α · θ, s · sin α · φ), with α uniform in [0, π/2] and φ uniform on the sphere.
        """
        c, n = self.context_dim, directions.shape[1]
        if bool(((context == 0) | (context == 1)).all() and (context.sum(1) == 1).all()):
            places = torch.rand(c, n).argsort(0).to(directions)
            return torch.cat((directions, _GAP * places))
        angle = (torch.rand(n) * (torch.pi / 2)).to(directions)
        sphere = random_projections(c, n, dtype=directions.dtype).to(directions)
        return torch.cat((directions * angle.cos(), self.options.context_scale * sphere * angle.sin()))

    def w_of(self, step: float) -> float:
        """The time in [0, 1] of a step of the flow, whole or not; that of the last one for any beyond it."""
        knots = [0, *self.knot_steps]
        step = min(step, knots[-1])
        m = next(i for i, knot in enumerate(self.knot_steps) if step <= knot)
        return (m + (step - knots[m]) / (knots[m + 1] - knots[m])) / (len(knots) - 1)

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """Within, the pool is empty and takes no place in the state dictionary."""
        kept = {name: getattr(self, name) for name in (*self._shapes, "counts")}
        for name, tensor in kept.items():
            setattr(self, name, torch.zeros_like(tensor) if name == "counts" else tensor.new_empty((0,) * tensor.ndim))
        try:
            yield
        finally:
            for name, tensor in kept.items():
                setattr(self, name, tensor)

    def _begin(self) -> None:
        """Send a fresh cloud of the base on its way."""
        n, arrived, seen = self.options.n_particles, int(self.counts[0]), int(self.counts[2])
        rows = torch.randperm(min(seen, n)).repeat(-(-n // min(seen, n)))[:n].to(self.memory.device)
        self.goal.copy_(self.memory[rows])
        self.goal_context.copy_(self.memory_context[rows])
        self.particles.copy_(torch.randn(n, self.dim, dtype=self.particles.dtype))
        slot = arrived % self.options.n_clouds
        self.knots[0, slot], self.contexts[slot] = self.particles, self.goal_context
        self.counts[1] = 0

    def _displacement(self, step: int) -> Tensor:
        directions = self.directions(step).to(self.particles)
        if not self.context_dim:
            return sliced_displacement(self.particles, self.goal, projections=directions)
        joint = self.joint_directions(directions, self.goal_context)
        clouds = (torch.cat((points, self.goal_context), 1) for points in (self.particles, self.goal))
        return sliced_displacement(*clouds, projections=joint)[:, : self.dim]

    def directions(self, step: int) -> Tensor:
        """(d, L): random directions of this step of the flow."""
        o, dtype = self.options, self.particles.dtype
        patch = patch_size(step, o.n_steps, o.patch_sizes, o.global_fraction)
        if patch:
            channels, height, width = self.event_shape
            image, generator = (channels, height, width), torch.default_generator
            return patch_projections(image, patch, min(o.n_projections, self.dim), generator=generator, dtype=dtype)
        if self.dim == 2:
            return planar_projections(o.n_projections, generator=torch.default_generator, dtype=dtype)
        return random_projections(self.dim, o.n_projections, orthogonal=o.n_projections <= self.dim, dtype=dtype)

    def _full_shapes(self) -> dict[str, tuple[int, ...]]:
        o, c = self.options, self.context_dim
        n, clouds = o.n_particles, o.n_clouds
        return {
            "memory": (n, self.dim),
            "memory_context": (n, c),
            "goal": (n, self.dim),
            "goal_context": (n, c),
            "particles": (n, self.dim),
            "knots": (len(self.knot_steps) + 1, clouds, n, self.dim),
            "contexts": (clouds, n, c),
        }

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Take an empty pool, or a full one."""
        for name, shape in self._shapes.items():
            given, own = state_dict.get(prefix + name), getattr(self, name)
            if given is not None and given.shape in (torch.Size(shape), torch.Size((0,) * len(shape))):
                setattr(self, name, own.new_empty(given.shape))
        super()._load_from_state_dict(state_dict, prefix, *rest)
