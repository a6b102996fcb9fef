"""Autoregressive models of images with levels: a discrete distribution for each pixel given those before it."""

from __future__ import annotations

import math
from typing import Any, NoReturn

import torch
from torch import Generator, Tensor, nn

from ..inputs import context_rows, points_like, sample_size
from ..model import GenerativeModel
from ..options import check_whole
from .diagnosis import refuse_non_finite, traced
from .logistic_mixture import draw, log_probabilities
from .options import require_image


class PixelModel(GenerativeModel, abstract=True):
    """``P(x) = Π P(x_i | x_<i)`` over pixels in row-major order, and the colours of each; x_i a mixture of logistics.

    Pixels are k / (n_levels − 1), k = 0 … n_levels − 1, and probabilities are of images, not densities. There is no
    latent variable, and so no ``forward``, ``inverse`` or ``reverse_kl``. A subclass implements ``_distributions``.
    """

    check_finite = True
    """Whether values that are not finite are an error; looking at them waits for the device."""

    def __init__(
        self, model: str, event_shape: tuple[int, ...], context_dim: int, n_levels: int, n_components: int
    ) -> None:
        shape = require_image(model, event_shape, context_dim)
        check_whole("n_levels", n_levels, 2)
        check_whole("n_components", n_components, 1)
        super().__init__(shape, context_dim)
        self.n_levels, self.n_components = n_levels, n_components

    def _distributions(self, x: Tensor, context: Tensor | None) -> Tensor:
        """``(batch, channels, rows, width, 3 K)``: the mixtures given ``x`` in [−1, 1], perhaps its first rows only."""
        raise NotImplementedError

    def forward(self, *arguments: Any, **options: Any) -> NoReturn:
        raise NotImplementedError(
            f"{type(self).__name__}: a discrete autoregressive model has no latent variable, and so no forward, "
            "inverse or reverse_kl: use log_prob, sample or sample_and_log_prob"
        )

    inverse = reverse_kl = forward

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """``(batch,)``: log P(x | context), in nats."""
        levels, context = self._levels(x), self.expand_context(context, len(x))
        parameters = self._distributions(2.0 * x - 1.0, context)
        log_prob = log_probabilities(parameters, levels, self.n_levels).flatten(1).sum(1)
        self._refuse_non_finite("log_prob", log_prob.detach().isfinite().all(), context)
        return log_prob

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The mean of −log P(x | context) in nats."""
        if not len(x):
            raise ValueError(f"x must have at least one row, for a mean: got {tuple(x.shape)}")
        return self.log_prob(x, context).mean().neg()

    @torch.no_grad()
    def bits_per_dim(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """``(batch,)``: −log₂ P(x | context) / D, exact."""
        return -self.log_prob(x, context) / (math.prod(self.event_shape) * math.log(2.0))

    @torch.no_grad()
    def sample(self, n: int, context: Tensor | None = None, generator: Generator | None = None) -> Tensor:
        """``(n, *event)``, with one pass of the network over the rows so far for each number of the image."""
        n = sample_size(n)
        context = self.expand_context(context, n)
        like = next(self.parameters())
        channels, height, width = self.event_shape
        device = generator.device if generator is not None else like.device
        noise = torch.rand((n, *self.event_shape), generator=generator, dtype=like.dtype, device=device).to(like.device)
        x = torch.zeros_like(noise)
        finite = torch.ones((), dtype=torch.bool, device=x.device)
        for row in range(height):
            for column in range(width):
                for channel in range(channels):
                    place = (slice(None), channel, row, column)
                    parameters = self._distributions(2.0 * x[:, :, : row + 1] - 1.0, context)[place]
                    finite &= parameters.isfinite().all()
                    x[place] = draw(parameters, self.n_levels, noise[place]).to(x) / (self.n_levels - 1)
        self._refuse_non_finite("sample", finite, context)
        return x

    def sample_and_log_prob(
        self, n: int, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """``sample``, and ``log_prob`` of it: a gradient reaches the parameters through the probabilities alone."""
        x = self.sample(n, context, generator)
        return x, self.log_prob(x, context)

    def expand_context(self, context: Tensor | None, n: int) -> Tensor | None:
        """``context`` as (n, context_dim); integer class labels () or (n,) stand for one-hot rows."""
        return context_rows(context, n, self.context_dim, next(self.parameters()))

    def _refuse_non_finite(self, call: str, finite: Tensor, context: Tensor | None) -> None:
        if self.check_finite and not traced() and not finite:
            where = f"{type(self).__name__}.{call}"
            refuse_non_finite(self, where, {"context": context})
            raise FloatingPointError(f"{where}: the network gives distributions of pixels that are not finite")

    def _levels(self, x: Tensor) -> Tensor:
        points_like("x", x, self.event_shape, next(self.parameters()))
        scaled = x * (self.n_levels - 1)
        levels = scaled.round()
        if x.numel() and not torch.compiler.is_compiling():
            outside = not 0.0 <= float(x.min()) <= float(x.max()) <= 1.0
            if outside or float((scaled - levels).abs().max()) > 0.01:
                raise ValueError(f"x must hold pixels k / {self.n_levels - 1} with whole k, from 0 to 1")
        return levels.long()

    def _begin(self, output: nn.Conv2d) -> None:
        """Begin with components spread over the levels: those that begin alike stay alike."""
        middles = (torch.arange(self.n_components) + 0.5) / self.n_components
        with torch.no_grad():
            bias = output.bias.view(self.event_shape[0], 3, self.n_components)  # type: ignore[union-attr]
            bias[:, 0] = 0.0
            bias[:, 1] = 2.0 * middles - 1.0
            bias[:, 2] = -math.log(self.n_components)

    def _unpack(self, outputs: Tensor) -> Tensor:
        """(batch, channels · 3 K, rows, width) to (batch, channels, rows, width, 3 K)."""
        return outputs.unflatten(1, (self.event_shape[0], -1)).permute(0, 1, 3, 4, 2)
