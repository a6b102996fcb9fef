"""Energies whose gradient is known in closed form: what :func:`langevin_chain` runs many steps on in one call."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from .. import checks
from ..precision import outside_autocast
from .parameters import MixtureParameters, MlpParameters
from .spread import Spread

__all__ = ["Energy", "GaussianEnergy", "GaussianMixtureEnergy", "ProductEnergy"]


class Energy(ABC):
    """f: R^dims → R, the negative logarithm of a density up to a constant: p(x) ∝ exp(−f(x)).

    ``energy(x)`` gives f (chains,) at x (chains, *event), an event of ``dims`` numbers, and ``energy.gradient(x)``
    gives ∇f in the shape of x; both are PyTorch arithmetic in the dtype of x (float32 for half precision),
    differentiable in x and in the energy's tensors. The tensors are kept as they are given, so that parameters of a
    module stay what is trained.
    """

    dims: int

    @abstractmethod
    def tensors(self) -> Iterator[Tensor]:
        """What the energy was made of."""

    @abstractmethod
    def packed(self, dtype: torch.dtype) -> MixtureParameters | MlpParameters:
        """What the kernels take, in ``dtype``."""

    def __call__(self, x: Tensor) -> Tensor:
        return _energy(self._flat(x), self)

    def gradient(self, x: Tensor) -> Tensor:
        """∇f at x (chains, *event)."""
        return _gradient(self._flat(x), self).reshape(x.shape)

    def _flat(self, x: Tensor) -> Tensor:
        self.check(x)
        return x.reshape(len(x), self.dims).to(torch.promote_types(x.dtype, torch.float32))

    def check(self, x: Tensor) -> None:
        """Raise unless x is (chains, *event) with an event of ``dims`` numbers on the energy's device."""
        checks.tensor("x", x)
        if x.dim() == 0 or math.prod(x.shape[1:]) != self.dims:
            raise ValueError(
                f"x must be (chains, ...) with {self.dims} numbers for each chain, the dimensions of energy: "
                f"got {tuple(x.shape)}"
            )
        for tensor in self.tensors():
            if tensor.device != x.device:
                raise ValueError(f"energy must be on the device of x, {x.device}: got {tensor.device}")


@outside_autocast
def _energy(flat: Tensor, energy: Energy) -> Tensor:
    return energy.packed(flat.dtype).energy(flat)


@outside_autocast
def _gradient(flat: Tensor, energy: Energy) -> Tensor:
    return energy.packed(flat.dtype).gradient(flat)


class _ClosedForm(Energy):
    """An energy that is a sum of experts, each a mixture of Gaussians."""

    @abstractmethod
    def packed(self, dtype: torch.dtype) -> MixtureParameters: ...

    def __add__(self, other: object) -> ProductEnergy:
        """The energy of the product of the densities."""
        return ProductEnergy(self, other) if isinstance(other, _ClosedForm) else NotImplemented

    def __radd__(self, other: object) -> _ClosedForm:
        """``sum`` of energies, which begins with 0."""
        return self if isinstance(other, int) and other == 0 else NotImplemented


def _check_finite(name: str, value: Tensor) -> None:
    if not bool(value.isfinite().all()):
        raise ValueError(f"{name} must be finite")


class GaussianEnergy(_ClosedForm):
    """f(x) = ½ (x − μ)ᵀ Σ⁻¹ (x − μ) + ½ log det(2πΣ), the negative log-density of N(μ, Σ): ``log_prob`` is −f.

    Args:
        mean: μ (d,).
        covariance, precision, std: one of them: Σ (d, d), or its inverse, or standard deviations, a number for all
            dimensions or (d,).
    """

    def __init__(
        self,
        mean: Tensor,
        *,
        covariance: Tensor | None = None,
        precision: Tensor | None = None,
        std: Tensor | float | None = None,
    ) -> None:
        checks.tensor("mean", mean)
        if mean.dim() != 1 or len(mean) == 0:
            raise ValueError(f"mean must be (d,) with d at least 1: got {tuple(mean.shape)}")
        _check_finite("mean", mean)
        self.mean, self.dims = mean, len(mean)
        shapes: dict[str, list[tuple[int, ...]]] = {"matrix": [(self.dims, self.dims)], "std": [(), (self.dims,)]}
        self._spread = Spread({"covariance": covariance, "precision": precision, "std": std}, mean, shapes)

    def tensors(self) -> Iterator[Tensor]:
        yield from (self.mean, self._spread.value)

    def packed(self, dtype: torch.dtype) -> MixtureParameters:
        precisions, log_normalisers = self._spread.precisions(1, self.dims)
        return MixtureParameters(
            log_normalisers.to(dtype), self.mean.to(dtype).unsqueeze(0), precisions.to(dtype), (1,)
        )

    def log_prob(self, x: Tensor) -> Tensor:
        """The log-density (chains,)."""
        return -self(x)


class GaussianMixtureEnergy(_ClosedForm):
    """f(x) = −log Σ_k w_k N(x; μ_k, Σ_k), the negative log-density of a mixture: ``log_prob`` is −f.

    Args:
        weights: (K,), nonnegative and normalised inside; None for equal ones.
        means: μ (K, d).
        covariances, precisions, stds: one of them: Σ_k (K, d, d), or (d, d) for all, or their inverses, or standard
            deviations, a number for all, (K,) or (K, d).
    """

    def __init__(
        self,
        weights: Tensor | None,
        means: Tensor,
        *,
        covariances: Tensor | None = None,
        precisions: Tensor | None = None,
        stds: Tensor | float | None = None,
    ) -> None:
        checks.tensor("means", means)
        if means.dim() != 2 or 0 in means.shape:
            raise ValueError(f"means must be (K, d) with K and d at least 1: got {tuple(means.shape)}")
        _check_finite("means", means)
        self.means, self.weights = means, weights
        n_components, self.dims = means.shape
        if weights is not None:
            checks.tensor("weights", weights)
            if weights.shape != (n_components,):
                raise ValueError(f"weights must be ({n_components},), as means has rows: got {tuple(weights.shape)}")
            if not (bool((weights >= 0).all()) and 0 < float(weights.double().sum()) < math.inf):
                raise ValueError("weights must be nonnegative numbers with a positive sum")
        matrix = (self.dims, self.dims)
        shapes: dict[str, list[tuple[int, ...]]] = {
            "matrix": [(n_components, *matrix), matrix],
            "std": [(), (n_components,), (n_components, self.dims)],
        }
        spreads = {"covariances": covariances, "precisions": precisions, "stds": stds}
        self._spread = Spread(spreads, means, shapes)

    def tensors(self) -> Iterator[Tensor]:
        yield from (self.means, self._spread.value)
        if self.weights is not None:
            yield self.weights

    def packed(self, dtype: torch.dtype) -> MixtureParameters:
        n_components = len(self.means)
        precisions, log_normalisers = self._spread.precisions(n_components, self.dims)
        if self.weights is None:
            log_weights = log_normalisers - math.log(n_components)
        else:
            weights = self.weights.double()
            log_weights = log_normalisers + torch.log(weights / weights.sum())
        return MixtureParameters(
            log_weights.to(dtype), self.means.to(dtype), precisions.to(dtype).contiguous(), (n_components,)
        )

    def log_prob(self, x: Tensor) -> Tensor:
        """The log-density (chains,)."""
        return -self(x)


class ProductEnergy(_ClosedForm):
    """f(x) = Σ_i f_i(x), the energy of a product of experts, also written ``first + second``; not normalised.

    Args:
        experts: :class:`GaussianEnergy`, :class:`GaussianMixtureEnergy` or products of them, all of the same ``dims``.
    """

    def __init__(self, *experts: Energy) -> None:
        if not experts:
            raise ValueError("experts must be at least one energy: got none")
        self.experts: list[_ClosedForm] = []
        for number, expert in enumerate(experts):
            if not isinstance(expert, _ClosedForm):
                raise TypeError(
                    f"experts[{number}] must be a GaussianEnergy, GaussianMixtureEnergy or ProductEnergy: "
                    f"got {type(expert).__name__}"
                )
            if expert.dims != experts[0].dims:
                raise ValueError(
                    f"experts[{number}] must have the dims of experts[0], {experts[0].dims}: got {expert.dims}"
                )
            self.experts += expert.experts if isinstance(expert, ProductEnergy) else [expert]
        self.dims = experts[0].dims

    def tensors(self) -> Iterator[Tensor]:
        for expert in self.experts:
            yield from expert.tensors()

    def packed(self, dtype: torch.dtype) -> MixtureParameters:
        parts = [expert.packed(dtype) for expert in self.experts]
        kind = max(part.precisions.dim() for part in parts)
        ends, total = [], 0
        for part in parts:
            total += len(part.means)
            ends.append(total)
        return MixtureParameters(
            torch.cat([part.log_weights for part in parts]),
            torch.cat([part.means for part in parts]),
            torch.cat([_widened(part.precisions, kind, self.dims) for part in parts]),
            tuple(ends),
        )


def _widened(precisions: Tensor, kind: int, dims: int) -> Tensor:
    """Isotropic precisions (K,) as diagonal (K, d) or full ones (K, d, d), as ``kind`` dimensions ask for."""
    if precisions.dim() == 1 and kind > 1:
        precisions = precisions.unsqueeze(1).expand(-1, dims)
    return torch.diag_embed(precisions) if precisions.dim() == 2 and kind == 3 else precisions
