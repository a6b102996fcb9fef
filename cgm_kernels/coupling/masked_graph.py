"""The plan of masks in compiled graphs: an operator that looks at the masks whenever the graph runs.

They may so change between two runs. The sizes of its results follow from those of the masks alone: it has as many steps
as there are dimensions, of which the last may have nothing to do.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import backends

OPERATOR = "cgm_kernels::masked_plan"

# A captured CUDA graph would not look again.
torch.library.define(
    OPERATOR,
    "(Tensor[] masks, int n_features, str layout, bool weights, bool residual) -> (Tensor, Tensor[], Tensor)",
    tags=(torch.Tag.pt2_compliant_tag, torch.Tag.cudagraph_unsafe),
)


@torch.library.register_fake(OPERATOR)
def _fake(
    masks: Sequence[Tensor], n_features: int, layout: str, weights: bool, residual: bool
) -> tuple[Tensor, list[Tensor], Tensor]:
    def empty(size: int, dtype: torch.dtype) -> Tensor:
        return masks[0].new_empty(size, dtype=dtype)

    widths = [n_features, *map(len, masks)]
    packed = sum((inputs + 1) * units for inputs, units in itertools.pairwise(widths))
    numbers = n_features * (len(masks) + 1) + (sum(widths[1:-1]) if residual else 0)
    return empty(packed, torch.int64), [empty(units, torch.int64) for units in widths[1:]], empty(numbers, torch.int32)


def planned(
    masks: Sequence[Tensor], n_features: int, layout: str, weights: bool, residual: bool
) -> tuple[tuple[int, ...], int, Tensor, tuple[Tensor, ...], Tensor, tuple[tuple[int, int], ...], bool]:
    """The fields of a Plan, in a graph."""
    rest = n_features, layout, weights, residual
    gather, units, numbers = torch.ops.cgm_kernels.masked_plan(list(masks), *rest)
    if backends.select(masks[0].device.type) == "reference":  # it reads no plan, and the graph would drop the operator
        torch._assert_async(numbers[0] >= 0, "a plan")
    shapes = tuple((mask.shape[0], mask.shape[1]) for mask in masks)
    return (n_features, *map(len, masks)), n_features, gather, tuple(units), numbers, shapes, residual


def padded(numbers: Tensor, n_features: int, n_steps: int, n_layers: int) -> Tensor:
    """The numbers of a plan, as those of one with ``n_features`` steps."""
    ends = n_features + n_steps, n_features + n_steps * n_layers
    dimensions, known, units, skips = numbers.tensor_split((n_features, *ends))
    steps = torch.arange(n_features, device=numbers.device).clamp(max=n_steps - 1)
    return torch.cat([dimensions, known[steps], units.view(n_steps, n_layers - 1)[steps].flatten(), skips])
