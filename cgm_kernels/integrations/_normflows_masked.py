"""normflows' masked couplings as layers of :func:`cgm_kernels.affine_coupling_stack`, alone and in a row.

y = b·x + (1 − b)(x·e^s + t) is two layers of what b leaves, x·e^s and then the shift by t, with the networks s and t
without the inputs and outputs that b makes zero. The features that the first mask passes are brought to the front once
for the whole row, in which constant layers may stand between the couplings. As in normflows s and t that are not finite
make y NaN, where the mask uses them: a row with such numbers is computed in turn. What it multiplies by 0 is not
computed, and makes nothing NaN, where it does in normflows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from normflows.flows import normalization
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
    """y = b·x + (1 − b)(x·e^s + t); s and t that are not finite where b is 0 make it NaN, as in normflows."""
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


class _Constant(NamedTuple):
    """A scale by e^s and a shift by t of each feature, both (1, D)."""

    log_scale: Tensor
    shift: Tensor


class MaskedRow(Row):
    """Masked couplings under perceptrons, of one mask and its complement, and constant layers behind them."""

    def __init__(self) -> None:
        super().__init__()
        self._steps: list[_Part | _Constant] = []
        self._masks: list[_Mask] = []

    def take(self, flow: Any) -> bool:
        masked = kind_of(flow) is coupling_source.MaskedAffineFlow
        found = self._masked(flow) if masked else self._constants(flow)
        if not found:
            return False
        self.flows.append(flow)
        self._steps += found
        self.n_couplings += masked
        return True

    def _masked(self, flow: Any) -> Sequence[_Part]:
        try:
            refuse_hooks(flow, inside=False)
            plain(flow.b)
        except PassOn:
            return []
        found = _parts_of(flow)
        if not found or (self._masks and found[0].mask.passes not in self._masks[0][:2]):
            return []
        self._masks.append(found[0].mask)
        return found

    def _constants(self, flow: Any) -> Sequence[_Constant]:
        kind = kind_of(flow)
        if not self._masks or kind not in (normalization.ActNorm, coupling_source.AffineConstFlow):
            return []
        try:
            refuse_hooks(flow, inside=False)
        except PassOn:
            return []
        if kind is normalization.ActNorm and not flow.data_dep_init_done > 0.0:  # its first batch is its own
            return []
        log_scale, shift = flow.s, flow.t
        size = len(self._masks[0].passes)
        return [_Constant(log_scale, shift)] if log_scale.shape == shift.shape == (1, size) else []

    def at_once(self, z: Tensor, inverse: bool) -> tuple[Tensor, Tensor] | None:
        if not self._fits(z):
            return None
        order, back = self._masks[0].order, self._masks[0].back
        y, log_det = self._ordered(z if order is None else z.index_select(1, order), inverse)
        if not math.isfinite((y.detach().sum() + log_det.detach().sum()).item()):
            return None
        return y if back is None else y.index_select(1, back), log_det

    def _ordered(self, z: Tensor, inverse: bool) -> tuple[Tensor, Any]:
        """The steps on events whose halves lie one behind the other: the parts between two constant layers at once."""
        steps = self._steps[::-1] if inverse else self._steps
        layers = iter(_layers([step for step in steps if isinstance(step, _Part)], inverse))
        log_det: Any = None
        for are_parts, group in itertools.groupby(steps, lambda step: isinstance(step, _Part)):
            if are_parts:
                z, log_det = affine_coupling_stack(z, [next(layers) for _ in group], log_det)
                continue
            for step in group:
                z, own = self._scale_and_shift(z, step, inverse)
                log_det = own if log_det is None else log_det + own
        return z, log_det

    def _scale_and_shift(self, z: Tensor, constants: Any, inverse: bool) -> tuple[Tensor, Tensor]:
        order = self._masks[0].order
        log_scale, shift = constants if order is None else (one.index_select(1, order) for one in constants)
        return (affine_coupling_inverse if inverse else affine_coupling)(z, log_scale, shift)

    def _fits(self, z: Tensor) -> bool:
        networks = [step.network for step in self._steps if isinstance(step, _Part)]
        tensors = [one for step in self._steps if isinstance(step, _Constant) for one in step]
        tensors += [flow.b for flow in self.flows if kind_of(flow) is coupling_source.MaskedAffineFlow]
        try:
            plain(z, *tensors, *(one for network in networks for one in network.tensors))
        except PassOn:
            return False
        if z.dim() != 2 or z.shape[1] != len(self._masks[0].passes):
            return False
        if z.is_cuda and torch.cuda.is_current_stream_capturing():  # a graph cannot look whether numbers are finite
            return False
        largest = max(one.numel() for network in networks for one in (network.weights[0], network.weights[-1]))
        return len(z) >= _MANY_ROWS or largest <= _SMALL
