"""An object of ``torch.distributions`` as a base that moves with its module."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.distributions import Distribution, Transform

from cgm_kernels.precision import wide

from ..nets.constants import register_constant
from .base import DistributionBase


class FixedBase(DistributionBase):
    """``distribution``, whose tensors are buffers of this module: ``to`` and ``double`` take them along.

    In half precision it draws, and gives its density, in float32. Its tensors that require gradients are somebody
    else's to move.
    """

    def __init__(self, event_shape: tuple[int, ...], distribution: Distribution) -> None:
        super().__init__(event_shape)
        shape = tuple(distribution.batch_shape + distribution.event_shape)
        if shape != event_shape:
            raise ValueError(f"a base must have events of shape {event_shape}: got {distribution} of shape {shape}")
        self.has_rsample = bool(distribution.has_rsample)
        found: dict[int, Tensor] = {}
        _changed(distribution, lambda tensor: found.setdefault(id(tensor), tensor))
        self._tensors = [tensor for tensor in found.values() if not tensor.requires_grad]  # of the distribution
        self._distribution = distribution
        for number, tensor in enumerate(self._tensors):
            # Contiguous: distributed training writes to buffers, which expanded ones do not allow.
            register_constant(self, f"tensor{number}", tensor.contiguous)

    def distribution(self, context: Tensor | None) -> Distribution:
        # Not every law draws in half precision.
        tensors = [wide(getattr(self, f"tensor{number}")) for number in range(len(self._tensors))]
        if any(new is not old for new, old in zip(tensors, self._tensors, strict=True)):
            known = {id(old): new for old, new in zip(self._tensors, tensors, strict=True)}
            self._distribution = _changed(self._distribution, lambda tensor: known.get(id(tensor), tensor))
            self._tensors = tensors
        return self._distribution


def _changed(value: Any, change: Callable[[Tensor], Tensor], copies: dict[int, Any] | None = None) -> Any:
    """A copy of ``value`` with ``change(tensor)`` for each tensor in it, distributions and transforms within included.

    Made without their constructors, which ask for other arguments than they keep, and without ``copy``, which loses
    what the inverse of a transform inverts. ``copies`` are those of what was met: a transform and its inverse know each
    other.
    """
    copies = {} if copies is None else copies
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (Distribution, Transform)):
        if id(value) not in copies:
            copy = copies[id(value)] = object.__new__(type(value))
            vars(copy).update({name: _changed(part, change, copies) for name, part in vars(value).items()})
        return copies[id(value)]
    if isinstance(value, weakref.ref):  # to the inverse of a transform, which makes it again
        return None
    if type(value) in (list, tuple):
        return type(value)(_changed(part, change, copies) for part in value)
    return {name: _changed(part, change, copies) for name, part in value.items()} if type(value) is dict else value
