"""The order in which a masked autoregressive network is evaluated once: derived from its masks, kept beside them.

Dimension i depends on dimension j where the masks leave a path from input j to an output of i. The dependencies have no
cycle, so that each dimension has a *step*: 0 where it depends on nothing, else one more than the latest it depends on.
A hidden unit belongs to the step by which all its inputs are known. Sorted by step, what a row of weights reads is a
prefix of the layer before, and one sweep over the steps computes every unit once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

from .._extension import _C
from . import masked_graph

_KEPT_PLANS = 256


@dataclass(frozen=True)
class Plan:
    """How the weights are packed, and what each step computes.

    ``numbers`` (int32) is what kernels read: for each rank the dimension it holds; the dimensions known after each
    step; for each step and hidden layer the units known after it; and with residual blocks, for each unit that ends a
    block the unit it is added to, -1 for the others.
    """

    widths: tuple[int, ...]  # inputs, hidden layers, outputs
    n_steps: int
    gather: Tensor  # packed = concatenate(weights, biases, 0)[gather]
    units: tuple[Tensor, ...]  # of each layer, the unit at each place
    numbers: Tensor
    shapes: tuple[tuple[int, int], ...]  # of the weights
    residual: bool
    masks: tuple[Tensor, ...] = ()  # copies, by which a plan of the CPU is known again

    @functools.cached_property
    def network(self) -> Any:
        """What the extension's eager calls on the CPU take."""
        with torch.inference_mode(False):
            return _C.MaskedNetwork(
                self.gather, self.numbers, self.widths, self.n_steps, self.residual, self.shapes, self.masks
            )


def plan(masks: Sequence[Tensor], n_features: int, layout: str, weights: bool, residual: bool) -> Plan:
    """The plan of ``masks``, made when they are first seen or have changed; with ``weights`` their zeros are the mask.

    On the CPU every number is compared. Elsewhere that would wait for the device, and a mask is taken to be as it was
    while it has its memory and its version: what writes through ``.data`` changes neither. Weights, which optimisers
    write to in this way, and inference tensors, which count no versions, have their plan made anew there.
    """
    if torch.compiler.is_compiling() and not torch._C._are_functorch_transforms_active():
        return Plan(*masked_graph.planned(masks, n_features, layout, weights, residual))
    return _found(masks, n_features, layout, weights, residual)


@torch.compiler.disable
def _found(masks: Sequence[Tensor], n_features: int, layout: str, weights: bool, residual: bool) -> Plan:
    rest = n_features, layout, weights, residual
    if any(map(torch._C._functorch.is_functorch_wrapped_tensor, masks)):
        return _made([_unmapped(number, mask, weights) for number, mask in enumerate(masks)], *rest)
    if all(mask.is_cpu for mask in masks):
        return _compared(masks, *rest)
    if weights or any(mask.is_inference() for mask in masks):
        return _made(masks, *rest)
    key = ("elsewhere", *_key(masks, n_features, layout, residual))
    versions = [(mask._version, mask.data_ptr(), mask.device) for mask in masks]
    if (kept := _plans.get(key)) is not None:
        found, references, kept_versions = kept
        if kept_versions == versions and all(r() is mask for r, mask in zip(references, masks, strict=True)):
            return found
    made = _made(masks, *rest)
    _keep(key, masks, made, versions)
    return made


@torch.library.impl(masked_graph.OPERATOR, "default")
def _planned(
    masks: Sequence[Tensor], n_features: int, layout: str, weights: bool, residual: bool
) -> tuple[Tensor, list[Tensor], Tensor]:
    """Copies, whose memory a graph may use for other things."""
    found = _found(masks, n_features, layout, weights, residual)
    numbers = masked_graph.padded(found.numbers, n_features, found.n_steps, len(masks))
    return found.gather.clone(), [unit.clone() for unit in found.units], numbers


def last_plan(masks: Sequence[Tensor], n_features: int, layout: str, residual: bool) -> Plan | None:
    """What was the plan of these tensors when they were last seen: on the CPU, the caller compares the masks."""
    kept = _plans.get(_key(masks, n_features, layout, residual))
    return None if kept is None else kept[0]


# A plan, the masks by which it was asked for, and away from the CPU the versions that show that it is right.
_plans: OrderedDict[tuple, tuple[Plan, list[weakref.ref[Tensor]], list | None]] = OrderedDict()


def _key(masks: Sequence[Tensor], n_features: int, layout: str, residual: bool) -> tuple:
    return (tuple(map(id, masks)), n_features, layout, residual)


def _keep(key: tuple, masks: Sequence[Tensor], made: Plan, versions: list | None) -> None:
    """A plan takes more memory than its masks: what those that are gone have left goes when the next one is made."""
    _plans[key] = (made, [weakref.ref(mask) for mask in masks], versions)
    for other, (_, references, _) in list(_plans.items()):
        if any(reference() is None for reference in references):
            _plans.pop(other, None)
    with contextlib.suppress(KeyError):  # another thread was first
        _plans.move_to_end(key)
        while len(_plans) > _KEPT_PLANS:
            _plans.popitem(last=False)


def _compared(masks: Sequence[Tensor], n_features: int, layout: str, weights: bool, residual: bool) -> Plan:
    current = [mask.detach() != 0 for mask in masks] if weights else list(masks)
    key = _key(masks, n_features, layout, residual)
    if (kept := _plans.get(key)) is not None:
        found = kept[0]
        if (_C is not None and found.network.is_of(current)) or all(map(_equal, found.masks, current)):
            return found
    made = _made(current, n_features, layout, weights, residual)
    _keep(key, masks, made, None)
    return made


def _equal(mask: Tensor, other: Tensor) -> bool:
    return mask.dtype is other.dtype and mask.shape == other.shape and torch.equal(mask, other)


def _unmapped(number: int, mask: Tensor, weights: bool) -> Tensor:
    """What is inside of torch.func's transforms, the same for all that vmap maps over: models stacked with masks."""
    functorch, dims = torch._C._functorch, []
    while functorch.is_functorch_wrapped_tensor(mask):
        dims += [functorch.maybe_get_bdim(mask)] if functorch.is_batchedtensor(mask) else []
        mask = functorch.get_unwrapped(mask)
    with temporarily_clear_interpreter_stack():
        values = mask.detach()
        for place, dim in enumerate(reversed(dims)):  # the outermost transform sees the fewest dimensions
            values = values.movedim(place + dim, place)
        if dims:
            values = values.flatten(0, len(dims) - 1)
            patterns = values != 0 if weights else values
            if not torch.equal(patterns, patterns[:1].expand_as(patterns)):
                name = f"the zeros of weights[{number}]" if weights else f"masks[{number}]"
                raise ValueError(f"{name} must be the same in all that torch.func.vmap maps over")
            values = values[0]
        return values


def _made(masks: Sequence[Tensor], n_features: int, layout: str, weights: bool, residual: bool) -> Plan:
    """The plan, of tensors that outlive the transform of torch.func or the inference mode in which it may be made."""
    with temporarily_clear_interpreter_stack(), torch.inference_mode(False):
        found = make_plan(_patterns(masks, weights), n_features, layout, residual, masks[0].device)
        if not masks[0].is_cpu:
            return found
        copies = tuple(mask.detach().clone(memory_format=torch.contiguous_format) for mask in masks)
        return dataclasses.replace(found, masks=copies)


def make_plan(patterns: Sequence[Tensor], n_features: int, layout: str, residual: bool, device: torch.device) -> Plan:
    """The plan of these masks, bool on the CPU."""
    shapes = [pattern.shape for pattern in patterns]
    rows = output_rows(n_features, layout)
    patterns = [patterns[0][:, :n_features], *patterns[1:]]
    patterns[-1] = patterns[-1][rows]
    steps = _steps_of_dimensions(_dependencies(patterns, residual))
    levels = _levels_of_units(patterns, steps, residual)
    levels[-1] = steps.repeat_interleave(2)
    units = [torch.argsort(level, stable=True) for level in levels]
    dimensions = torch.argsort(steps, stable=True)
    n_steps = int(steps.max()) + 1
    gather = _gather(patterns, shapes, dimensions, units, rows)
    numbers = [dimensions, _ends(steps, n_steps)]
    if len(levels) > 1:
        numbers.append(torch.stack([_ends(level, n_steps) for level in levels[:-1]], 1).flatten())
    if residual:
        numbers.append(_skips(units))
    units[-1] = rows[units[-1]]
    return Plan(
        (n_features, *(len(unit) for unit in units)),
        n_steps,
        gather.to(device),
        tuple(unit.to(device) for unit in units),
        torch.cat(numbers).to(device, torch.int32),
        tuple((shape[0], shape[1]) for shape in shapes),
        residual,
    )


def output_rows(n_features: int, layout: str) -> Tensor:
    """(2 n): the output that holds log_scale and shift of each dimension, one after the other."""
    index = torch.arange(n_features, device="cpu")
    halves = (index, index + n_features) if layout.endswith("scale_shift") else (index + n_features, index)
    if layout.startswith("interleaved"):
        halves = (2 * index, 2 * index + 1) if layout.endswith("scale_shift") else (2 * index + 1, 2 * index)
    return torch.stack(halves, 1).flatten()


def _patterns(masks: Sequence[Tensor], weights: bool) -> list[Tensor]:
    """Where the masks let weights through, on the CPU."""
    patterns = []
    for number, mask in enumerate(masks):
        values = mask.detach().cpu()
        patterns.append(values != 0)
        if not weights and not torch.equal(patterns[-1].to(values.dtype), values):
            raise ValueError(f"masks[{number}] must hold 0 and 1 only")
    return patterns


def _dependencies(patterns: Sequence[Tensor], residual: bool) -> Tensor:
    """(D, D) bool: whether row i's log_scale or shift depends on column j."""
    reached = [torch.eye(patterns[0].shape[1], dtype=torch.float32, device="cpu")]
    for number, pattern in enumerate(patterns):
        reach = pattern.float() @ reached[-1]
        if ends_a_block(number, len(patterns), residual):
            reach += reached[-2]
        reached.append((reach > 0).float())
    return reached[-1].unflatten(0, (-1, 2)).amax(1) > 0


def ends_a_block(number: int, n_layers: int, residual: bool) -> bool:
    return residual and number > 0 and number % 2 == 0 and number < n_layers - 1


def _steps_of_dimensions(dependencies: Tensor) -> Tensor:
    steps = torch.full((len(dependencies),), -1, device="cpu")
    missing = dependencies.sum(1)
    step = 0
    while bool((steps < 0).any()):
        ready = (steps < 0) & (missing == 0)
        if not bool(ready.any()):
            stuck = (steps < 0).nonzero().flatten().tolist()
            raise ValueError(
                "masks must be autoregressive in some order of the dimensions: under them each of the dimensions "
                f"{stuck[:8]}{' and more' if len(stuck) > 8 else ''} depends on itself or on one that does"
            )
        steps[ready] = step
        missing -= dependencies[:, ready].sum(1)
        step += 1
    return steps


def _levels_of_units(patterns: Sequence[Tensor], steps: Tensor, residual: bool) -> list[Tensor]:
    """For each layer, the step at which its units' inputs are known."""
    levels = [steps + 1]
    for number, pattern in enumerate(patterns):
        level = torch.where(pattern, levels[-1], 0).amax(1)
        if ends_a_block(number, len(patterns), residual):
            level = torch.maximum(level, levels[-2])
        levels.append(level)
    return levels[1:]


def _ends(levels: Tensor, n_steps: int) -> Tensor:
    return torch.bincount(levels, minlength=n_steps)[:n_steps].cumsum(0)


def _skips(units: Sequence[Tensor]) -> Tensor:
    """The place, in the layer two before, of the unit that each unit is added to."""
    skips = []
    for number, unit in enumerate(units[:-1]):
        if ends_a_block(number, len(units), True):
            skips.append(torch.argsort(units[number - 2])[unit])
        else:
            skips.append(torch.full_like(unit, -1))
    return torch.cat(skips)


def _gather(
    patterns: Sequence[Tensor],
    shapes: Sequence[torch.Size],
    dimensions: Tensor,
    units: Sequence[Tensor],
    rows: Tensor,
) -> Tensor:
    """Where each packed number comes from; a masked weight comes from the zero behind all others."""
    zero = sum(shape.numel() + shape[0] for shape in shapes)
    columns, start, packed = dimensions, 0, []
    for number, (pattern, shape) in enumerate(zip(patterns, shapes, strict=True)):
        unit = units[number]
        source = rows[unit] if number == len(patterns) - 1 else unit
        places = start + source.unsqueeze(1) * shape[1] + columns
        packed.append(torch.where(pattern[unit][:, columns], places, zero).flatten())
        columns, start = unit, start + shape.numel()
    for number, shape in enumerate(shapes):
        packed.append(start + (rows[units[number]] if number == len(patterns) - 1 else units[number]))
        start += shape[0]
    return torch.cat(packed)
