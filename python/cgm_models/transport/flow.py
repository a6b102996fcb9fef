"""The sliced-Wasserstein flow with learned quantiles."""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from cgm_kernels import checks

from ..inputs import drawn_labels, fitted_labels, float_points, sample_size
from ..model import GenerativeModel
from ..options import check_event_shape
from .directions import default_patch_sizes
from .fitting import FIT_STATE, fit_flow
from .options import check_options
from .quantiles import move


class SlicedWassersteinFlow(GenerativeModel):
    """Particles of a simple base flow to the data along the sliced-Wasserstein drift (Liutkus et al. 2019).

    One step draws L fresh directions and moves every particle by

        x ← x + h · (1/L) Σ_θ (T_θ(⟨x, θ⟩) − ⟨x, θ⟩) θ + √(2λh) z,    T_θ = F_ν⁻¹ ∘ F_μ,

    where F_μ and F_ν are the distribution functions of the particles and of the data along θ. ``fit`` keeps the
    directions and both quantile functions of every step as tables of Q levels, and moves its own particles by these
    very tables, so that ``sample`` sends new base points through the same flow without the data. (Particles moved by
    the exact coupling drift away from what the tables describe, and new points then miss the data.)

    With ``context_dim`` classes every class has its own tables and particles, along directions that all share. That is
    the limit of matching (point, s · one-hot label) jointly with the label held fixed as s → ∞: the classes then lie
    apart along every direction, and the monotone coupling never mixes them.

    Args:
        event_shape: the shape of one point; (channels, height, width) for images.
        context_dim: how many classes there are to condition on; 0 for none.
        n_steps: K, the number of steps.
        n_projections: L, directions a step; by default the dimension, at most 128.
        n_quantiles: Q, levels of a quantile table.
        n_particles: particles that fit moves, over all classes together; more make the tables more precise.
        step_size: h. By default the largest that helps: min(L, d) for orthogonal directions, which then match all L
            marginals at once, else 1/(1/L + (1 − 1/L)/d).
        regularization: λ, the weight of the entropy; it adds the noise √(2λh) z.
        base: "gaussian" for N(0, I), "uniform" on the cube of the same mean and variance, or "given", for points handed
            to fit and transport.
        orthogonal: orthonormal directions instead of independent ones.
        batch_size: data points used in one step (of each class); by default all.
        patch_sizes: sides of the image patches that directions of the later steps are confined to; by default halves of
            the image side down to 1 for images, none for other points; [] for none.
        global_fraction: the share of steps, the first ones, with directions over the whole image.
        standardize: shift the data by its mean and divide it by one number, the root mean square deviation, so that
            h, λ and the base are in these units.

    The fitted flow keeps at most ``max_memory_bytes()``, linear in K, L and Q, whatever the size of the data.
    """

    location: Tensor
    scale: Tensor
    class_counts: Tensor
    fit_seed: Tensor
    directions: Tensor
    source_quantiles: Tensor
    target_quantiles: Tensor
    particles: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        context_dim: int = 0,
        n_steps: int = 300,
        n_projections: int | None = None,
        n_quantiles: int = 100,
        n_particles: int = 10_000,
        step_size: float | None = None,
        regularization: float = 0.0,
        base: str = "gaussian",
        orthogonal: bool = True,
        batch_size: int | None = None,
        patch_sizes: Sequence[int] | None = None,
        global_fraction: float = 0.6,
        standardize: bool = True,
    ) -> None:
        super().__init__(check_event_shape(event_shape), context_dim)
        self.dim = math.prod(self.event_shape)
        self.n_steps = n_steps
        self.n_projections = min(self.dim, 128) if n_projections is None else n_projections
        self.n_quantiles = n_quantiles
        self.n_particles = n_particles
        self.step_size = self._largest_step(orthogonal) if step_size is None else step_size
        self.regularization = regularization
        self.base = base
        self.orthogonal = orthogonal
        self.batch_size = batch_size
        given = [] if patch_sizes is None else checks.listed("patch_sizes", patch_sizes, "a list of whole numbers")
        sizes = default_patch_sizes(self.event_shape) if patch_sizes is None else tuple(given)
        self.patch_sizes = sizes if orthogonal else ()
        self.global_fraction = global_fraction
        self.standardize = standardize
        check_options(self, tuple(given), global_fraction)
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
        base: Tensor | None = None,
        resume: bool = False,
    ) -> SlicedWassersteinFlow:
        """Learn the flow to ``x`` (n, *event), with labels ``context`` (n,) where the flow has classes.

        Args:
            base: the particles (n_particles, *event) to start from where ``base`` is "given"; with classes, particle i
                has the class i modulo their number.
            generator: a CPU generator; the same one gives the same flow. It is drawn from once.
            resume: continue an interrupted fit; with the same data it ends bit for bit where an undisturbed one does.
            progress: show a progress bar where the standard error is a terminal.
            log: called now and then with the step, the sliced-Wasserstein distance left before it, and the seconds.

        Ctrl-C ends the fit after the last whole step and keeps that shorter flow, which samples and saves like any
        other; ``status()`` says so.
        """
        fit_flow(self, x, context, base=base, generator=generator, resume=resume, progress=progress, log=log)
        return self

    def sample(self, n: int, context: Tensor | None = None, generator: Generator | None = None) -> Tensor:
        """``(n, *event)`` new points: base points sent through the flow.

        ``context`` holds class labels of shape () or (n,), or one-hot rows (c,) or (n, c). A flow with classes and no
        ``context`` draws them as often as they were in the data.
        """
        self._check_fitted()
        n = sample_size(n)
        if self.context_dim and context is None:
            context = drawn_labels(self.class_counts, n, generator)
        return self.transport(self.sample_base(n, generator), context, generator)

    def sample_base(self, n: int, generator: Generator | None = None) -> Tensor:
        """``(n, *event)`` points of the base, in the units of the data."""
        if self.base == "given":
            raise ValueError("the base of this flow was given to fit: hand new base points to transport(points)")
        return self._to_event(self.draw_base((n, self.dim), generator, self.location))

    def draw_base(self, shape: tuple[int, ...], generator: Generator | None, like: Tensor) -> Tensor:
        """Standardised base points."""
        if self.base == "gaussian":
            points = torch.randn(shape, generator=generator, dtype=like.dtype)
        else:
            points = (torch.rand(shape, generator=generator, dtype=like.dtype) * 2 - 1) * math.sqrt(3)
        return points.to(like.device)

    def transport(self, points: Tensor, context: Tensor | None = None, generator: Generator | None = None) -> Tensor:
        """``points`` (n, *event) of the base, in the units of the data, at the end of the flow."""
        (last,) = collections.deque(self._states(points, context, generator), maxlen=1)
        return self._to_event(last)

    def trajectory(
        self, points: Tensor, context: Tensor | None = None, generator: Generator | None = None, *, every: int = 1
    ) -> Tensor:
        """``(frames, n, *event)``: ``points`` at the start, after every ``every`` steps and at the end."""
        states = enumerate(self._states(points, context, generator))
        return torch.stack([self._to_event(x) for k, x in states if k % every == 0 or k == self.n_fitted])

    @property
    def n_fitted(self) -> int:
        """Steps that were fitted: ``n_steps``, or fewer after an interruption."""
        return len(self.directions)

    def status(self) -> str:
        if not self.n_fitted:
            return "not fitted"
        note = "" if self.n_fitted == self.n_steps else ": interrupted"
        return f"{self.n_fitted} of {self.n_steps} steps fitted{note}"

    def memory_bytes(self) -> int:
        """Bytes that the fitted flow keeps."""
        return sum(buffer.numel() * buffer.element_size() for buffer in self.buffers())

    def max_memory_bytes(self, itemsize: int = 4) -> int:
        """Bytes that it can keep once fitted: K·L·(d + 2·C·Q) numbers, C = max(1, classes), and the standardisation."""
        classes = max(1, self.context_dim)
        numbers = self.n_steps * self.n_projections * (self.dim + 2 * classes * self.n_quantiles)
        return itemsize * (numbers + self.dim + 1) + 8 * (classes + 1)

    def extra_repr(self) -> str:
        shown = {k: v for k, v in self.config.items() if v is not None}
        return ", ".join(f"{k}={v!r}" for k, v in shown.items()) + f"; {self.status()}"

    @torch.no_grad()
    def _states(self, points: Tensor, context: Tensor | None, generator: Generator | None) -> Iterator[Tensor]:
        """The standardised points (n, d) before the first step and after each."""
        self._check_fitted()
        x = float_points("points", points, self.event_shape)
        x = (x.to(self.location).reshape(len(points), self.dim) - self.location) / self.scale
        groups = self._groups(context, len(x))
        noise = math.sqrt(2.0 * self.regularization * self.step_size)
        yield x
        for k in range(self.n_fitted):
            moved = torch.empty_like(x)
            for label, rows in groups:
                tables = self.source_quantiles[k, label], self.target_quantiles[k, label]
                moved[rows] = move(x[rows], self.directions[k], *tables, self.step_size)
            x = moved
            if noise:
                x = x + noise * torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
            yield x

    def _groups(self, context: Tensor | None, n: int) -> list[tuple[int, Any]]:
        """(class, its rows) for every class that occurs."""
        labels = fitted_labels(self, context, n, self.class_counts)
        if labels is None:
            return [(0, slice(None))]
        return [(label, (labels == label).nonzero()[:, 0]) for label in labels.unique().tolist()]

    def _to_event(self, x: Tensor) -> Tensor:
        """Standardised points (n, d), or base points, in the units and the shape of the data."""
        return (x * self.scale + self.location).reshape(len(x), *self.event_shape)

    def _largest_step(self, orthogonal: bool) -> float:
        n, d = max(1, self.n_projections), self.dim
        return float(min(n, d)) if orthogonal else 1.0 / (1.0 / n + (1.0 - 1.0 / n) / d)

    def _empty_state(self) -> dict[str, Tensor]:
        classes, n = max(1, self.context_dim), self.n_projections
        dtype = torch.get_default_dtype()
        return {
            "location": torch.zeros(self.dim, dtype=dtype),
            "scale": torch.ones((), dtype=dtype),
            "class_counts": torch.zeros(classes, dtype=torch.int64),
            "fit_seed": torch.zeros((), dtype=torch.int64),
            "directions": torch.empty(0, self.dim, n, dtype=dtype),
            "source_quantiles": torch.empty(0, classes, n, self.n_quantiles, dtype=dtype),
            "target_quantiles": torch.empty(0, classes, n, self.n_quantiles, dtype=dtype),
            # Where the particles stand, kept only while steps are missing, so that a fit can be resumed.
            "particles": torch.empty(classes, 0, self.dim, dtype=dtype),
        }

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Take the number of fitted steps, of particles, and the dtype from what is loaded."""
        for name in FIT_STATE:
            given, own = state_dict.get(prefix + name), getattr(self, name)
            if given is not None and given.ndim == own.ndim:
                free = {"particles": 1}.get(name, 0)
                shape = [given.shape[i] if i == free and own.ndim > 1 else s for i, s in enumerate(own.shape)]
                dtype = given.dtype if own.is_floating_point() and given.is_floating_point() else own.dtype
                setattr(self, name, own.new_zeros(shape, dtype=dtype))
        super()._load_from_state_dict(state_dict, prefix, *rest)
        lengths = {len(self.directions), len(self.source_quantiles), len(self.target_quantiles)}
        if len(lengths) > 1 or self.n_fitted > self.n_steps:
            rest[-1].append(f"the tables hold {sorted(lengths)} steps, n_steps is {self.n_steps}")

    def _check_fitted(self) -> None:
        if not self.n_fitted:
            raise RuntimeError("this SlicedWassersteinFlow is not fitted: call fit(x) first")
