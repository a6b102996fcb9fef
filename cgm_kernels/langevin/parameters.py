"""Energies as the kernels take them, and their plain PyTorch evaluation: the oracle of every test of the chains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..activations import ACTIVATIONS


class MixtureParameters(NamedTuple):
    """A sum of experts, each a mixture of Gaussians; all components lie one after another.

    E(x) = −Σ_e log Σ_(k in e) exp(c_k − ½ (x − μ_k)ᵀ P_k (x − μ_k)), where c_k holds the log-weight and the logarithm
    of the density's normaliser.
    """

    log_weights: Tensor  # c, (K,)
    means: Tensor  # (K, d)
    precisions: Tensor  # (K,) isotropic, (K, d) diagonal, or (K, d, d)
    ends: tuple[int, ...]  # of each expert the end of its components

    def _logits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """c_k − ½ q_k(x) (n, K) and P_k (x − μ_k) (n, K, d).

        Far from a component the quadratic form overflows; it is cut at the largest finite number, so that a point far
        from all components still has weights of sum one and a gradient that leads back.
        """
        difference = x.unsqueeze(1) - self.means
        if self.precisions.dim() == 3:
            scaled = torch.einsum("kij,nkj->nki", self.precisions, difference)
        else:
            scaled = difference * self.precisions.reshape(len(self.means), -1)
        forms = (-0.5 * (difference * scaled).sum(-1)).clamp(min=torch.finfo(x.dtype).min)
        return self.log_weights + forms, scaled

    def _experts(self) -> list[slice]:
        return [slice(start, end) for start, end in zip((0, *self.ends), self.ends, strict=False)]

    def energy(self, x: Tensor) -> Tensor:
        """E (n,) at x (n, d)."""
        logits, _ = self._logits(x)
        return -sum(torch.logsumexp(logits[:, expert], 1) for expert in self._experts())  # type: ignore[return-value]

    def gradient(self, x: Tensor) -> Tensor:
        """∇E (n, d) at x (n, d): the sum over experts of Σ_k softmax_k(c − ½ q)_k P_k (x − μ_k)."""
        logits, scaled = self._logits(x)
        total = torch.zeros_like(x)
        for expert in self._experts():
            shares = torch.softmax(logits[:, expert], 1).unsqueeze(-1)
            total = total + (shares * scaled[:, expert]).sum(1)
        return total


class MlpParameters(NamedTuple):
    """f(x) = W_n a(… a(W_1 x + b_1) …) + b_n from R^d to R; ``weights`` (out, in)."""

    weights: Sequence[Tensor]
    biases: Sequence[Tensor]
    activation: str
    slope: float  # of leaky ReLU below zero

    def energy(self, x: Tensor) -> Tensor:
        """f (n,) at x (n, d)."""
        activate, _ = ACTIVATIONS[self.activation]
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = activate(F.linear(x, weight, bias), self.slope)
        return F.linear(x, self.weights[-1], self.biases[-1]).squeeze(-1)

    def gradient(self, x: Tensor) -> Tensor:
        """∇f (n, d) at x (n, d), by a sweep back over the layers."""
        activate, differentiate = ACTIVATIONS[self.activation]
        derivatives, value = [], x
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            sums = F.linear(value, weight, bias)
            derivatives.append(differentiate(sums, self.slope))
            value = activate(sums, self.slope)
        gradient = self.weights[-1].expand(len(x), -1)
        for weight, derivative in zip(self.weights[-2::-1], derivatives[::-1], strict=True):
            gradient = (gradient * derivative) @ weight
        return gradient.clone() if not derivatives else gradient
