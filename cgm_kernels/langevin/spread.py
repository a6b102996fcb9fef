"""Covariances, precisions or standard deviations of Gaussian components, whichever is given."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import checks


class Spread:
    """How wide components are: the one argument given among covariances, precisions and standard deviations.

    ``mean`` is (d,) of one component or (K, d); ``shapes`` holds what a "matrix" and a "std" may be.
    """

    def __init__(
        self, given: dict[str, Tensor | float | None], mean: Tensor, shapes: dict[str, list[tuple[int, ...]]]
    ) -> None:
        present = {name: value for name, value in given.items() if value is not None}
        if len(present) != 1:
            got = ", ".join(present) or "none"
            raise ValueError(f"one of {', '.join(given)} must be given: got {got}")
        ((self.name, value),) = present.items()
        self.is_std = self.name.startswith("std")
        if self.is_std and not isinstance(value, Tensor):
            value = torch.tensor(checks.number(self.name, value), dtype=torch.float64, device=mean.device)
        checks.tensor(self.name, value)
        assert isinstance(value, Tensor)
        allowed = shapes["std" if self.is_std else "matrix"]
        if tuple(value.shape) not in allowed:
            expected = " or ".join(map(str, allowed))
            raise ValueError(f"{self.name} must be {expected}: got {tuple(value.shape)}")
        if value.device != mean.device:
            raise ValueError(f"{self.name} must be on the device of the means, {mean.device}: got {value.device}")
        self.value: Tensor = value
        self.per_dimension = self.is_std and value.dim() == mean.dim()
        self._check_positive()

    def _check_positive(self) -> None:
        value = self.value.detach().double()
        finite = bool(value.isfinite().all())
        if self.is_std:
            if not (finite and bool((value > 0).all())):
                raise ValueError(f"{self.name} must be positive and finite")
        elif not (finite and _symmetric(value)) or bool(torch.linalg.cholesky_ex(value).info.any()):
            raise ValueError(f"{self.name} must be symmetric and positive definite")

    def precisions(self, n_components: int, dims: int) -> tuple[Tensor, Tensor]:
        """The precisions and ½ log det(P / 2π) (K,), in float64, for the sake of matrices that are nearly singular."""
        value = self.value.double()
        constant = -0.5 * dims * math.log(2 * math.pi)
        if self.is_std:
            wide = value.expand(n_components, dims) if self.per_dimension else value.expand(n_components)
            logs = torch.log(wide)
            return wide**-2, constant - (logs.sum(1) if self.per_dimension else dims * logs)
        value = 0.5 * (value + value.mT)  # kernels read a column where they want a row
        # No error is raised, which would wait for the device: a matrix that has lost its sign since gives NaN.
        factor, failed = torch.linalg.cholesky_ex(value)
        factor = torch.where(failed[..., None, None] == 0, factor, torch.full_like(factor, torch.nan))
        half_log_det = torch.diagonal(factor, dim1=-2, dim2=-1).log().sum(-1).expand(n_components)
        if self.name.startswith("precision"):
            return value.expand(n_components, dims, dims), constant + half_log_det
        return torch.cholesky_inverse(factor).expand(n_components, dims, dims), constant - half_log_det


def _symmetric(matrices: Tensor) -> bool:
    """Up to the rounding of float32, beside the largest number of each matrix."""
    sizes = matrices.abs().amax((-2, -1), keepdim=True)
    return bool(((matrices - matrices.mT).abs() <= 1e-5 * sizes).all())
