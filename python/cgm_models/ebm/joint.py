"""A classifier as an energy-based model (Grathwohl, Wang, Jacobsen, Duvenaud, Norouzi and Swersky 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import parametrize

from ..options import check_choice, check_not_negative, check_whole
from .model import EnergyModel


class JointEnergyModel(EnergyModel):
    """``p(x, y) ∝ exp(l(x)[y])`` for classes y = 0, ..., K − 1, l the logits of a classifier.

    The energy of a point is −log Σ_y exp l(x)[y] without a class, −l(x)[y] with one, the reference of
    :class:`EnergyModel` added to both, and p(y | x) is the softmax of the logits: p(x, y) = p(x) p(y | x).
    The loss is an objective of :class:`EnergyModel` for p(x) plus ``class_weight`` times the cross entropy of the
    labels. ``sample`` with labels moves chains on the energies of these classes, without labels on the energy of a
    point; the chains of the training have no class.

    Args:
        class_weight: of the cross entropy beside the objective for the points.
        energy_options: further arguments of EnergyModel, as {"objective": "pcd", "n_steps": 20, "step_size": 0.01}.
        network: 'mlp' of the flattened event, or 'convolutional' for images.
        hidden_features: widths of the hidden layers; of 'convolutional' its channels, the image halved between them.
    """

    context_is_optional = True
    """Whether points have an energy without a context too."""

    def __init__(
        self,
        event_shape: Sequence[int] | None = None,
        context_dim: int = 2,
        network: str = "mlp",
        hidden_features: Sequence[int] = (128, 128),
        class_weight: float = 1.0,
        energy_options: dict[str, Any] | None = None,
        *,
        dim: int | None = None,
    ) -> None:
        check_whole("context_dim", context_dim, 2)
        check_choice("network", network, ("mlp", "convolutional"))
        check_not_negative("class_weight", class_weight)
        super().__init__(event_shape, context_dim, network, hidden_features, dim=dim, **(energy_options or {}))
        self.class_weight = class_weight

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The objective of p(x), plus the cross entropy of the labels; in evaluation mode as of ``EnergyModel``."""
        rows = self.rows(context, len(x))
        if rows is None:
            raise ValueError(f"the classes of the points must be given: context must be labels of shape ({len(x)},)")
        with parametrize.cached():
            generative = super().loss(x)
            return generative - self.class_weight * (self.class_log_prob(x) * rows).sum(1).mean()

    def class_log_prob(self, x: Tensor) -> Tensor:
        """log p(y | x): ``(n, *event) -> (n, K)``."""
        logits: Tensor = self.network(self.standardised(self._points(x)))
        return F.log_softmax(logits.to(self.location), 1)

    def network_energy(self, u: Tensor, rows: Tensor | None) -> Tensor:
        logits: Tensor = self.network(u).to(u.dtype)
        return -logits.logsumexp(1) if rows is None else -(logits * rows).sum(1)

    def rows(self, context: Tensor | None, n: int) -> Tensor | None:
        """``context`` as one-hot rows (n, K), or None."""
        return None if context is None else super().rows(context, n)

    def _network_sizes(self) -> tuple[int, int]:
        return 0, self.context_dim
