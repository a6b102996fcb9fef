"""The base distributions by name, so that a model's configuration holds them."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    Laplace,
    MixtureSameFamily,
    Normal,
    StudentT,
    TransformedDistribution,
    Uniform,
)
from torch.distributions.transforms import SigmoidTransform

from ..options import check_choice, check_positive, check_whole
from .base import LOG_2PI, Base, DistributionBase, StandardNormal
from .fixed_base import FixedBase


class Factorised(DistributionBase):
    """Independent dimensions of one law of all numbers, symmetric about 0.

    ``build`` makes it of zeros in the latent's shape; it is a function of a module, or a partial one: pickles name it.
    """

    full_support = True

    def __init__(self, event_shape: tuple[int, ...], build: Callable[[Tensor], Distribution]) -> None:
        super().__init__(event_shape)
        self._build = build

    def distribution(self, context: Tensor | None) -> Distribution:
        wide = torch.promote_types(self.like.dtype, torch.float32)  # not every law draws in half precision
        return self._build(self.like.new_zeros(self.event_shape, dtype=wide))

    def center(self, distribution: Distribution) -> Tensor:
        return self.like.new_zeros(())  # of symmetry; not every law here has a mean


class LearnableNormal(Base):
    """Independent normals of learned mean and log standard deviation, which a context shifts by a linear map.

    ``log p(z) = −½ Σ ((z − m) e^{−s})² − Σ s − ½ D log 2π``; it begins as the standard normal.
    """

    full_support = True

    def __init__(self, event_shape: tuple[int, ...], context_dim: int = 0) -> None:
        super().__init__(event_shape)
        self.mean = nn.Parameter(torch.zeros(event_shape))
        self.log_std = nn.Parameter(torch.zeros(event_shape))
        self.of_context = nn.Linear(context_dim, 2 * math.prod(event_shape), bias=False) if context_dim else None
        if self.of_context is not None:
            nn.init.zeros_(self.of_context.weight)

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        mean, log_std = self._conditioned(context)
        norm = torch.linalg.vector_norm(((z - mean) * torch.exp(-log_std)).flatten(1), dim=1)
        total = log_std.flatten(1).sum(1) if log_std.ndim == z.ndim else log_std.sum()
        return -0.5 * norm.square() - total - 0.5 * self.mean.numel() * LOG_2PI

    def draw(
        self, n: int, context: Tensor | None = None, generator: Generator | None = None, temperature: float = 1.0
    ) -> Tensor:
        mean, log_std = self._conditioned(context)
        return mean + temperature * log_std.exp() * self.noise(n, generator)

    def _conditioned(self, context: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.of_context is None:
            return self.mean, self.log_std
        if context is None:
            raise ValueError("this base is conditional: it needs a context")
        mean, log_std = self.of_context(context).view(len(context), 2, *self.event_shape).unbind(1)
        return self.mean + mean, self.log_std + log_std


class GaussianMixture(DistributionBase):
    """``Σ_k w_k N(m_k, diag e^{2 s_k})``; a context shifts the log-weights by a linear map."""

    full_support = True
    mean: Tensor
    log_std: Tensor
    logits: Tensor

    def __init__(
        self,
        event_shape: tuple[int, ...],
        context_dim: int = 0,
        n_components: int = 8,
        spread: float = 2.0,
        std: float = 1.0,
        learnable: bool = True,
    ) -> None:
        super().__init__(event_shape)
        n_components = check_whole("n_components", n_components, 1)
        check_positive("spread", spread)
        check_positive("std", std)
        self.has_rsample = False  # which component a point came from has no gradient
        shape = (n_components, *event_shape)
        for name, value in (
            ("mean", spread * torch.randn(shape)),
            ("log_std", torch.full(shape, math.log(std))),
            ("logits", torch.zeros(n_components)),
        ):
            if learnable:
                setattr(self, name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)
        self.of_context = nn.Linear(context_dim, n_components, bias=False) if context_dim and learnable else None
        if self.of_context is not None:
            nn.init.zeros_(self.of_context.weight)

    def distribution(self, context: Tensor | None) -> Distribution:
        logits = self.logits
        if self.of_context is not None:
            if context is None:
                raise ValueError("this base is conditional: it needs a context")
            logits = logits + self.of_context(context)
        shape = (*logits.shape, *self.event_shape)
        parts = Normal(self.mean.expand(shape), self.log_std.exp().expand(shape), validate_args=False)
        return MixtureSameFamily(
            Categorical(logits=logits, validate_args=False),
            Independent(parts, len(self.event_shape)),
            validate_args=False,
        )


class BoxUniform(DistributionBase):
    """Uniform on ``[low, high]`` in every dimension, of density 0 outside."""

    def __init__(
        self,
        event_shape: tuple[int, ...],
        context_dim: int = 0,
        low: float = -math.sqrt(3.0),
        high: float = math.sqrt(3.0),
    ) -> None:
        super().__init__(event_shape)
        if not -math.inf < low < high < math.inf:
            raise ValueError(f"low must be less than high, both finite: got {low!r} and {high!r}")
        self.low, self.high = low, high

    def distribution(self, context: Tensor | None) -> Distribution:
        zeros = self.like.new_zeros(self.event_shape)
        return Uniform(zeros + self.low, zeros + self.high, validate_args=False)


def _normal(event_shape: tuple[int, ...], context_dim: int) -> Base:
    return StandardNormal(event_shape)


def _standard_logistic(zeros: Tensor) -> Distribution:
    uniform = Uniform(zeros, zeros + 1.0, validate_args=False)
    return TransformedDistribution(uniform, [SigmoidTransform().inv])


def _standard_laplace(zeros: Tensor) -> Distribution:
    return Laplace(zeros, zeros + 1.0, validate_args=False)


def _standard_student_t(zeros: Tensor, df: float) -> Distribution:
    return StudentT(zeros + df, validate_args=False)


def _logistic(event_shape: tuple[int, ...], context_dim: int) -> Base:
    return Factorised(event_shape, _standard_logistic)


def _laplace(event_shape: tuple[int, ...], context_dim: int) -> Base:
    return Factorised(event_shape, _standard_laplace)


def _student_t(event_shape: tuple[int, ...], context_dim: int, df: float = 5.0) -> Base:
    check_positive("df", df)
    return Factorised(event_shape, functools.partial(_standard_student_t, df=df))


Builder = Callable[..., "Base | Distribution"]
_builders: dict[str, Builder] = {
    "gaussian_mixture": GaussianMixture,
    "laplace": _laplace,
    "learnable_normal": LearnableNormal,
    "logistic": _logistic,
    "normal": _normal,
    "student_t": _student_t,
    "uniform": BoxUniform,
}


def register_base(name: str, build: Builder) -> None:
    """Make ``build(event_shape, context_dim, **options)`` the base called ``name``; a later one takes its place.

    ``build`` returns a ``Base``, or any object of ``torch.distributions`` over points of ``event_shape``, whose tensors
    move with the flow. A saved flow with such a base is loaded where the base is registered again.
    """
    _builders[name] = build


def base_names() -> list[str]:
    return sorted(_builders)


def make_base(name: str, event_shape: tuple[int, ...], context_dim: int, options: dict[str, Any] | None) -> Base:
    """The base called ``name``.

    Raises:
        ValueError: if there is none, its options are wrong, or its events have another shape.
    """
    check_choice("base", name, base_names())
    try:
        with torch.device("cpu") if _on_meta() else contextlib.nullcontext():  # a distribution needs its numbers
            base = _builders[name](event_shape, context_dim, **(options or {}))
        if isinstance(base, Base) and _on_meta():
            base = _builders[name](event_shape, context_dim, **(options or {}))
    except TypeError as error:
        raise ValueError(f"base_options {options} do not fit the base {name!r}: {error}") from error
    return base if isinstance(base, Base) else FixedBase(event_shape, base)


def _on_meta() -> bool:
    return torch.get_default_device().type == "meta"
