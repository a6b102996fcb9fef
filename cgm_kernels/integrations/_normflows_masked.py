"""normflows' masked couplings as layers of :func:`cgm_kernels.affine_coupling_stack`, alone and in a row.

y = b·x + (1 − b)(x·e^s + t) is two layers of what b leaves, x·e^s and then the shift by t, with the networks s and t
without the inputs and outputs that b makes zero. The features that the first mask passes are brought to the front once
for the whole row. As in normflows s and t that are not finite make y NaN: a row with such numbers is computed in turn.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from normflows.flows.affine import coupling as coupling_source
from torch import Tensor
from torch.nn import functional as F

from ..coupling.mlp import CouplingLayer, affine_coupling_stack
from ..coupling.op import affine_coupling, affine_coupling_inverse
from ._flows import as_slice, parameters_of, plain, refuse_hooks, remembered, select
from ._library import PassOn
from ._normflows_couplings import kind_of
from ._normflows_rows import Row
from ._perceptron import Perceptron, perceptron

_SMALL = 8192  # numbers of a matrix that take no longer to copy than a call takes
_MANY_ROWS = 256  # for which larger ones are worth being cut


def masked_flow(original: Any, self: Any, z: Any, *, inverse: bool) -> Any:
    """y = b·x + (1 − b)(x·e^s + t); networks that are not finite make it NaN, as in normflows."""
    plain(z, self.b)
    if z.dim() < 2 or z.shape[1:] != self.b.shape[1:]:
        raise PassOn("shape")
    if _mask_of(self) is None:
        raise PassOn("a mask that is not 0 and 1")
    row = MaskedRow()
    if row.take(self) and (found := row.at_once(z, inverse)) is not None:
        return found
    masked, free = self.b * z, 1 - self.b
    log_scale, shift = (_finite(parameters_of(network, z, masked)) for network in (self.s, self.t))
    if log_scale.shape != z.shape or shift.shape != z.shape:
        raise PassOn("parameters of another shape")
    return (affine_coupling_inverse if inverse else affine_coupling)(z, free * log_scale, free * shift)


def _finite(value: Tensor) -> Tensor:
    return value.nan_to_num(math.nan, math.nan, math.nan)


class _Mask(NamedTuple):
    """A mask of 0 and 1: the features that pass, those that do not, and what brings the part with the first forward."""

    passes: bytes  # 1 or 0 for each feature
    leaves: bytes
    passed: slice | Tensor
    moved: slice | Tensor
    place: slice  # of the moved, where the halves lie one behind the other
    order: Tensor | None  # that puts them so; None where they lie so
    back: Tensor | None
    splits: bool  # events of one dimension in two


def _mask_of(flow: Any) -> _Mask | None:
    """None where it is not 0 and 1."""
    return remembered(flow, (flow.b,), _read)


@torch.inference_mode(False)
def _read(mask: Tensor) -> _Mask | None:
    if not bool(((mask == 0) | (mask == 1)).all()):
        return None
    passes = mask.flatten() == 1
    passed, moved = (where.nonzero().squeeze(-1) for where in (passes, ~passes))
    passed_first = len(moved) == 0 or bool(passes[0])
    order = torch.cat([passed, moved] if passed_first else [moved, passed])
    back = order.argsort()
    lies_so = torch.equal(order, order.sort().values)
    return _Mask(
        bytes(passes.tolist()), bytes((~passes).tolist()), _contiguous(passed), _contiguous(moved),
        slice(len(passed), len(order)) if passed_first else slice(0, len(moved)),
        None if lies_so else order, None if lies_so else back, mask.dim() == 2 and len(passed) > 0 and len(moved) > 0,
    )  # fmt: skip


def _contiguous(index: Tensor) -> slice | Tensor:
    """The slice that selects what ``index`` does, where that is one run of features."""
    found = as_slice(index)
    return found if isinstance(found, slice) and found.step in (None, 1) else index


class _Part(NamedTuple):
    """What one network of a masked coupling does: a scale by e^s, or a shift by t."""

    network: Perceptron
    mask: _Mask
    is_shift: bool


def _parts_of(flow: Any) -> list[_Part]:
    """In turn; none where the flow is not a masked coupling of events of one dimension under perceptrons."""
    mask = _mask_of(flow)
    if mask is None or not mask.splits:
        return []
    result, size = [], len(mask.passes)
    for is_shift, network in enumerate((flow.s, flow.t)):
        if network is torch.zeros_like:
            continue
        layers = perceptron(network)
        if layers is None or not layers.takes(size, size):
            return []
        result.append(_Part(layers, mask, bool(is_shift)))
    return result


def _layers(parts: list[_Part], inverse: bool) -> list[CouplingLayer]:
    """Each part as a coupling whose other parameters are zeros."""
    weights = [list(part.network.weights) for part in parts]
    biases = [list(part.network.biases) for part in parts]
    for own, cut in zip(weights, _cut(parts, [own[0] for own in weights], _passed), strict=True):
        own[0] = cut
    for tensors in (weights, biases):
        for own, cut in zip(tensors, _cut(parts, [own[-1] for own in tensors], _moved), strict=True):
            own[-1] = cut
    return [
        CouplingLayer(*tensors, part.mask.place, inverse=inverse)
        for tensors, part in zip(zip(weights, biases, strict=True), parts, strict=True)
    ]


def _cut(parts: list[_Part], tensors: list[Tensor], cut: Callable[[Tensor, _Part], Tensor]) -> list[Tensor]:
    """``cut`` of each part's tensor, of small ones of one shape and use at once: a call costs more than its work."""
    alike: dict[Any, list[int]] = {}
    for index, (part, tensor) in enumerate(zip(parts, tensors, strict=True)):
        large = index if tensor.numel() > _SMALL else None
        alike.setdefault((tensor.shape, part.mask.place.start, part.is_shift, large), []).append(index)
    result = list(tensors)
    for places in alike.values():
        stacked = torch.stack([tensors[place] for place in places]) if len(places) > 1 else tensors[places[0]][None]
        for place, one in zip(places, cut(stacked, parts[places[0]]).unbind(), strict=True):
            result[place] = one
    return result


def _passed(weights: Tensor, part: _Part) -> Tensor:
    """Of first layers (…, H, D) what takes the features that pass."""
    return select(weights, part.mask.passed, 2)


def _moved(tensors: Tensor, part: _Part) -> Tensor:
    """Of last layers (…, D, H) and their biases (…, D) what gives log-scales and shifts of the moved, some zeros."""
    place = part.mask.place
    size = place.stop - place.start
    ends = (size, 0) if part.is_shift else (0, size)
    return F.pad(select(tensors, part.mask.moved, 1), ends if tensors.dim() == 2 else (0, 0, *ends))


class MaskedRow(Row):
    """Masked couplings under perceptrons whose masks are one and its complement."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[_Part] = []

    def take(self, flow: Any) -> bool:
        if kind_of(flow) is not coupling_source.MaskedAffineFlow:
            return False
        try:
            refuse_hooks(flow, inside=False)
            plain(flow.b)
        except PassOn:
            return False
        found = _parts_of(flow)
        if not found or (self._parts and found[0].mask.passes not in self._parts[0].mask[:2]):
            return False
        self.flows.append(flow)
        self._parts += found
        self.n_couplings += 1
        return True

    def at_once(self, z: Tensor, inverse: bool) -> tuple[Tensor, Tensor] | None:
        if not self._fits(z):
            return None
        mask = self._parts[0].mask
        layers = _layers(self._parts[::-1] if inverse else self._parts, inverse)
        y, log_det = affine_coupling_stack(z if mask.order is None else z.index_select(1, mask.order), layers)
        if not math.isfinite((y.detach().sum() + log_det.detach().sum()).item()):
            return None
        return y if mask.back is None else y.index_select(1, mask.back), log_det

    def _fits(self, z: Tensor) -> bool:
        networks = [part.network for part in self._parts]
        try:
            plain(z, *(flow.b for flow in self.flows), *(one for network in networks for one in network.tensors))
        except PassOn:
            return False
        if z.dim() != 2 or z.shape[1] != len(self._parts[0].mask.passes):
            return False
        if z.is_cuda and torch.cuda.is_current_stream_capturing():  # a graph cannot look whether numbers are finite
            return False
        largest = max(one.numel() for network in networks for one in (network.weights[0], network.weights[-1]))
        return len(z) >= _MANY_ROWS or largest <= _SMALL
