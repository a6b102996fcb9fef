"""Normalizing flows: a base distribution carried to the data by invertible transforms."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from ..inputs import context_rows, points_like, sample_size
from ..model import GenerativeModel
from ..options import check_whole
from .actnorm import ActNorm
from .bases import make_base
from .diagnosis import explain_non_finite, traced
from .preprocess import Sigmoid, bits_per_dim, check_levels, dequantize
from .transform import Composition, Transform


class Flow(GenerativeModel, abstract=True):
    """``x = T(z)``, z from the base: ``log p(x | c) = log p_base(T⁻¹(x)) + log|det ∂T⁻¹/∂x|``.

    ``transforms`` are applied first to last from the latent to the data; ``base`` and ``base_options`` name the base
    distribution (``bases.base_names()``). With ``n_levels`` the data are images of that many levels in [0, 1]: ``loss``
    dequantises them, a logit with ``logit_alpha`` comes before the transforms, and ``log_prob`` is the density of
    dequantised images.

    ``context`` is (context_dim,) for all points or (n, context_dim), one row a point; integer class labels () or (n,)
    stand for one-hot rows.
    """

    instead_of_objects: ClassVar[dict[str, str]] = {
        "base": "register_base of cgm_models.flows gives a distribution of your own a name",
        "transforms": "derive a class that makes them in its constructor, of arguments that JSON can hold",
    }
    check_finite = True
    """Whether a result that is not finite raises an error that names the layer.

    It reads one number back from the device in each call, but in compiled graphs and under ``torch.func.vmap``, which
    allow none.
    """

    def __init__(
        self,
        event_shape: tuple[int, ...],
        context_dim: int,
        transforms: Iterable[Transform],
        base: str = "normal",
        base_options: dict[str, Any] | None = None,
        n_levels: int | None = None,
        logit_alpha: float = 0.05,
    ) -> None:
        super().__init__(event_shape, context_dim)
        check_whole("context_dim", context_dim, 0)
        check_levels(n_levels)
        self.n_levels = n_levels
        self.transform = Composition([*transforms, *([] if n_levels is None else [Sigmoid(logit_alpha)])])
        self.base = make_base(base, self.event_shape, context_dim, base_options)

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``(x, log|det ∂x/∂z|)`` of latent points."""
        self._check_points("z", z)
        x, log_det = self.transform(z, self.expand_context(context, len(z)))
        return x, self._finite("forward", log_det, z, context, inverse=False, result=x)

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``(z, log|det ∂z/∂x|)`` of data points."""
        self._check_points("x", x)
        z, log_det = self.transform.inverse(x, self.expand_context(context, len(x)))
        return z, self._finite("inverse", log_det, x, context, inverse=True, result=z)

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """``(batch,)``, in nats; −inf where the base has no mass.

        Raises:
            ValueError: if ``x`` holds values that are not finite.
            FloatingPointError: if a layer gives a value that is not finite, with its name, or the density underflows
                though the base has mass everywhere and the points are within reach of it.
        """
        return self._finite("log_prob", self._log_prob(x, context), x, context, inverse=True)

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The mean of −log p(x | context) in nats: KL(data ‖ model) less the entropy of the data."""
        if self.n_levels is not None:
            x = dequantize(x, self.n_levels)
        loss = self._log_prob(x, context).mean().neg()
        return self._finite("loss", loss, x, context, inverse=True)

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Set the layers that wait for a first batch (actnorm) by the data ``x``, of all processes together.

        The first batch of a training does it, too; before a flow is averaged or sharded it must have happened.
        """
        if any(layer.waits for layer in self.modules() if isinstance(layer, ActNorm)):
            x = x if self.n_levels is None else dequantize(x, self.n_levels)
            self._check_points("x", x)
            self.transform.inverse(x, self.expand_context(context, len(x)))

    def reverse_kl(
        self,
        log_density: Callable[[Tensor], Tensor],
        n: int,
        context: Tensor | None = None,
        generator: Generator | None = None,
    ) -> Tensor:
        """``E_q[log q(x) − log p̃(x)]`` over ``n`` samples of the flow: KL(q ‖ p) less log ∫p̃, to be minimised.

        ``log_density`` maps points ``(n, *event)`` to log p̃ ``(n,)``, normalised or not.
        """
        n = check_whole("n", n, 1)
        x, log_prob = self.sample_and_log_prob(n, context, generator)
        target = log_density(x)
        if target.shape != (n,):
            raise ValueError(f"log_density must map {tuple(x.shape)} to ({n},): got {tuple(target.shape)}")
        loss = (log_prob - target).mean()
        if self.check_finite and not traced() and not torch.isfinite(loss):
            raise FloatingPointError(f"{type(self).__name__}.reverse_kl: log_density is not finite on some samples")
        return loss

    def sample_and_log_prob(
        self, n: int, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Samples ``(n, *event)`` and their log-density ``(n,)`` in one pass, differentiable in the parameters."""
        learnt = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.base.parameters())
        if learnt and not self.base.has_rsample:
            raise ValueError("samples of this base do not carry the gradient of its parameters: fix them")
        n = sample_size(n)
        context = self.expand_context(context, n)
        z = self.base.draw(n, context, generator)
        x, log_det = self.transform(z, context)
        log_prob = self.base.log_prob(z, context) - log_det
        return x, self._finite("sample_and_log_prob", log_prob, z, context, inverse=False)

    @torch.no_grad()
    def sample(
        self, n: int, context: Tensor | None = None, generator: Generator | None = None, *, temperature: float = 1.0
    ) -> Tensor:
        """``(n, *event)``; ``temperature`` scales the latent points about the mean of the base."""
        if not temperature >= 0.0:
            raise ValueError(f"temperature must be a number, not negative: got {temperature!r}")
        n = sample_size(n)
        context = self.expand_context(context, n)
        z = self.base.draw(n, context, generator, temperature)
        x, log_det = self.transform(z, context)
        self._finite("sample", log_det, z, context, inverse=False, result=x)
        return x

    @torch.no_grad()
    def interpolate(
        self, x: Tensor, y: Tensor, n_steps: int, context: Tensor | None = None, *, spherical: bool = True
    ) -> Tensor:
        """``(n_steps, batch, *event)``: from ``x`` to ``y`` along a curve between their latent points.

        The spherical curve turns and scales at an even pace, and so stays where a normal base has its mass; the other
        is the straight line.
        """
        n_steps = check_whole("n_steps", n_steps, 0)
        start, end = (self.inverse(points, context)[0] for points in (x, y))
        path = [_between(start, end, float(share), spherical) for share in torch.linspace(0, 1, n_steps)]
        return torch.stack([self(z, context)[0] for z in path]) if path else x.new_empty(0, *x.shape)

    @torch.no_grad()
    def bits_per_dim(
        self, x: Tensor, context: Tensor | None = None, *, n_draws: int = 1, generator: Generator | None = None
    ) -> Tensor:
        """``(batch,)``: an upper bound on −log₂ P(image) / D, tight as ``n_draws`` of the dequantisation grow.

        It is the average over the noise of −log₂ p for one draw, of the importance-weighted log mean for more.
        """
        if self.n_levels is None:
            raise ValueError("bits_per_dim needs the number of levels of the images: construct with n_levels")
        n_draws = check_whole("n_draws", n_draws, 1)
        draws = [self.log_prob(dequantize(x, self.n_levels, generator), context) for _ in range(n_draws)]
        log_prob = torch.stack(draws).logsumexp(0) - math.log(n_draws)
        return bits_per_dim(log_prob, math.prod(self.event_shape), self.n_levels)

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        self._check_points("x", x)
        context = self.expand_context(context, len(x))
        z, log_det = self.transform.inverse(x, context)
        return self.base.log_prob(z, context) + log_det

    def expand_context(self, context: Tensor | None, n: int) -> Tensor | None:
        """``context`` as (n, context_dim) in the dtype of the flow."""
        return context_rows(context, n, self.context_dim, self.base.like)

    def _check_points(self, name: str, points: Tensor) -> None:
        points_like(name, points, self.event_shape, self.base.like)

    def _finite(
        self,
        name: str,
        value: Tensor,
        points: Tensor,
        context: Tensor | None,
        *,
        inverse: bool,
        result: Tensor | None = None,
    ) -> Tensor:
        """``value``, once it and the ``result`` of the map are known to be finite; else an error names the layer."""
        if self.check_finite and not traced():
            total = value.detach().sum()
            if not torch.isfinite(total if result is None else total + result.detach().sum()):
                explain_non_finite(
                    self, name, value, points, self.expand_context(context, len(points)), inverse=inverse
                )
        return value


def _between(start: Tensor, end: Tensor, share: float, spherical: bool) -> Tensor:
    if not spherical:
        return torch.lerp(start, end, share)
    a, b = start.flatten(1), end.flatten(1)
    norm_a, norm_b = a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True)
    unit_a, unit_b = a / norm_a.clamp_min(1e-12), b / norm_b.clamp_min(1e-12)
    angle = 2.0 * torch.atan2((unit_a - unit_b).norm(dim=1, keepdim=True), (unit_a + unit_b).norm(dim=1, keepdim=True))
    # sinc keeps the weights finite as the angle goes to 0; opposite points have no shortest arc and take the line.
    weight_a = (1 - share) * torch.sinc((1 - share) * angle / torch.pi) / torch.sinc(angle / torch.pi)
    weight_b = share * torch.sinc(share * angle / torch.pi) / torch.sinc(angle / torch.pi)
    arc = (weight_a * unit_a + weight_b * unit_b) * torch.lerp(norm_a, norm_b, share)
    return torch.where(angle < 3.14, arc, torch.lerp(a, b, share)).view_as(start)
