"""Coupling layers: one part of the channels is transformed under parameters computed from the other, which passes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cgm_kernels import CouplingLayer, affine_coupling_event, affine_coupling_stack
from cgm_kernels.coupling.additive import additive_coupling_event
from cgm_kernels.coupling.layout import passing_part

from ..nets import MLP
from .transform import Transform

MLP_ACTIVATIONS = ("relu", "tanh")  # those that the kernels fuse with the products


class Coupling(Transform):
    """What couplings share: they are layers of ``cgm_kernels.affine_coupling_stack`` where the kernels take them."""

    def __init__(self, conditioner: nn.Module, split: int | slice, scale: str, bound: float) -> None:
        super().__init__()
        self.conditioner = conditioner
        self.split = split
        self.scale, self.bound = scale, bound

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.accumulate(z, context, None, inverse=False)

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.accumulate(x, context, None, inverse=True)

    def accumulate(
        self, x: Tensor, context: Tensor | None, log_det: Tensor | None, *, inverse: bool
    ) -> tuple[Tensor, Tensor]:
        layer = self._fused(x, context, inverse)
        if layer is not None:
            return affine_coupling_stack(x, [layer], log_det)
        parameters = self.conditioner(x[:, passing_part(self.split, x.shape[1])], context)
        return self._map(x, parameters, log_det, inverse)

    def coupling_layer(self, x: Tensor, context: Tensor | None, *, inverse: bool) -> CouplingLayer | None:
        own = type(self).accumulate is Coupling.accumulate and "accumulate" not in self.__dict__
        return self._fused(x, context, inverse) if own else None

    def _fused(self, x: Tensor, context: Tensor | None, inverse: bool) -> CouplingLayer | None:
        """A coupling of vectors with its conditioner, where that is a perceptron that the kernels take."""
        conditioner = self._modules["conditioner"]
        if type(conditioner) is not MLP or x.ndim != 2 or conditioner.activation_name not in MLP_ACTIVATIONS:
            return None
        found = conditioner.weights_and_biases()
        if found is None:
            return None
        conditioning = conditioner.input.conditioning(context)
        return CouplingLayer(
            *found, self.split, conditioner.activation_name, conditioning, inverse, self.scale, self.bound
        )

    def _map(self, x: Tensor, parameters: Tensor, log_det: Tensor | None, inverse: bool) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


class AffineCoupling(Coupling):
    """``x_b = z_b · σ(s) + t``, ``x_a = z_a`` with ``(s, t) = conditioner(z_a, context)`` (Dinh et al. 2017).

    Args:
        conditioner: maps the part that passes, and the context, to the log-scales s, then the shifts t, along
            dimension 1.
        split: an int k transforms the channels from k on; a slice transforms the channels it selects, and must leave a
            slice of them.
        scale, bound: σ and what bounds it, as in ``cgm_kernels.affine_coupling``.
    """

    def __init__(self, conditioner: nn.Module, split: int | slice, *, scale: str = "tanh", bound: float = 2.0) -> None:
        super().__init__(conditioner, split, scale, bound)

    def _map(self, x: Tensor, parameters: Tensor, log_det: Tensor | None, inverse: bool) -> tuple[Tensor, Tensor]:
        return affine_coupling_event(
            x, parameters, self.split, log_det, inverse=inverse, scale=self.scale, bound=self.bound
        )


class AdditiveCoupling(Coupling):
    """``x_b = z_b + t``, ``x_a = z_a`` with ``t = conditioner(z_a, context)``: it keeps volumes (Dinh et al. 2015).

    ``split`` is as in :class:`AffineCoupling`.
    """

    def __init__(self, conditioner: nn.Module, split: int | slice) -> None:
        super().__init__(conditioner, split, "none", 2.0)

    def _map(self, x: Tensor, parameters: Tensor, log_det: Tensor | None, inverse: bool) -> tuple[Tensor, Tensor]:
        return additive_coupling_event(x, parameters, self.split, log_det, inverse=inverse)


class Halves:
    """The two parts of the channels: an int k transforms those from k on, ``slice(0, k)`` those before k."""

    def __init__(self, split: int | slice) -> None:
        self.first = isinstance(split, slice)
        if isinstance(split, slice) and (split.start or split.stop is None or split.step not in (None, 1)):
            raise ValueError(f"split must be an int or slice(0, k): got {split}")
        self.at = split.stop if isinstance(split, slice) else split
        if self.at < 0:
            raise ValueError(f"split must not be negative: got {split}")

    def cut(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The part that passes, and the one that is transformed."""
        if self.at > x.shape[1]:
            raise ValueError(f"split must be within the {x.shape[1]} channels: got {self.at}")
        before, behind = x[:, : self.at], x[:, self.at :]
        return (behind, before) if self.first else (before, behind)

    def join(self, passed: Tensor, moved: Tensor) -> Tensor:
        return torch.cat((moved, passed) if self.first else (passed, moved), dim=1)


def alternating_split(index: int, dim: int) -> tuple[int | slice, int, int]:
    """(split, channels that pass, channels transformed) of layer ``index``: each half in turn, the second first."""
    half = dim // 2
    return (half, half, dim - half) if index % 2 == 0 else (slice(0, half), dim - half, half)
