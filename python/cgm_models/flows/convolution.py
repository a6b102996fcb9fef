"""The invertible 1×1 convolution (Kingma and Dhariwal 2018), of vectors the invertible linear layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgm_kernels.precision import wide

from ..options import check_choice
from .transform import Transform


class InvertibleConvolution(Transform):
    """From the data, ``z = W x`` over the channels (dimension 1) at every pixel; ``log|det ∂z/∂x| = h w log|det W|``.

    The matrix is C×C, and what it costs (its determinant, its inverse) is paid once a call, not once a sample. Half
    precision is computed in float32.

    Args:
        parametrization: 'lu': ``W = P L (U + diag(±e^s))`` with a fixed permutation P and fixed signs, whose
            log-determinant is Σ s and which can never become singular; 'plain': W itself, by ``slogdet``.
        rotation: begin at a random rotation; else at the identity.
    """

    permutation: Tensor
    sign: Tensor

    def __init__(self, channels: int, parametrization: str = "lu", rotation: bool = True) -> None:
        super().__init__()
        check_choice("parametrization", parametrization, ("lu", "plain"))
        weight = torch.eye(channels)
        if rotation:
            nn.init.orthogonal_(weight)
        self.lu = parametrization == "lu"
        if not self.lu:
            self.weight = nn.Parameter(weight)
            return
        permutation, lower, upper = torch.linalg.lu(weight)
        self.register_buffer("permutation", permutation)
        self.register_buffer("sign", upper.diagonal().sign())
        self.lower = nn.Parameter(lower.tril(-1))
        self.upper = nn.Parameter(upper.triu(1))
        self.log_diagonal = nn.Parameter(upper.diagonal().abs().log())

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self.lu:
            permutation, lower, upper = self._factors()
            # Of two triangular systems, as exact as W is well-conditioned.
            rows = torch.linalg.solve_triangular(lower, permutation.t(), upper=False, unitriangular=True)
            inverse = torch.linalg.solve_triangular(upper, rows, upper=True)
        else:
            inverse = torch.linalg.inv(wide(self.weight))
        return self._mix(inverse, z), -self._log_det(z)

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if not self.lu:
            return self._mix(wide(self.weight), x), self._log_det(x)
        permutation, lower, upper = self._factors()
        with torch.autocast(x.device.type, enabled=False):
            weight = permutation @ lower @ upper
        return self._mix(weight, x), self._log_det(x)

    def _factors(self) -> tuple[Tensor, Tensor, Tensor]:
        lower, upper, diagonal = wide(self.lower), wide(self.upper), wide(self.log_diagonal)
        unit = torch.eye(len(lower), dtype=lower.dtype, device=lower.device)
        return wide(self.permutation), lower.tril(-1) + unit, upper.triu(1) + torch.diag(self.sign * diagonal.exp())

    def _log_det(self, x: Tensor) -> Tensor:
        """Of the inverse map: a scalar, expanded over the batch."""
        log_det = wide(self.log_diagonal).sum() if self.lu else torch.linalg.slogdet(wide(self.weight)).logabsdet
        return (log_det * x[0, 0].numel()).expand(len(x)) if len(x) else x.new_zeros(0)

    def _mix(self, weight: Tensor, x: Tensor) -> Tensor:
        # Not in the lower precision of autocast, in which the two directions would not undo each other.
        with torch.autocast(x.device.type, enabled=False):
            points = x.to(weight.dtype)
            return (F.linear(points, weight) if x.ndim == 2 else (weight @ points.flatten(2)).view_as(x)).to(x.dtype)
