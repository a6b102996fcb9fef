"""Where a whole-event coupling finds what it transforms and its parameters."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ..checks import choice, integer

LAYOUTS = ("scale_shift", "shift_scale", "interleaved_scale_shift", "interleaved_shift_scale")
INDEX = {name: index for index, name in enumerate(LAYOUTS)}


class Layout(NamedTuple):
    """``size`` channels ``start, start + step, …`` are transformed; ``order`` is the place in ``LAYOUTS``."""

    start: int
    size: int
    step: int
    order: int

    @property
    def channels(self) -> slice:
        return slice(self.start, self.start + (self.size - 1) * self.step + 1 if self.size else self.start, self.step)

    def split_parameters(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Views of the log-scales and the shifts in ``parameters`` (B, 2 · count, …)."""
        if self.order >= 2:
            pair = parameters[:, 0::2], parameters[:, 1::2]
        else:
            pair = parameters[:, : self.size], parameters[:, self.size :]
        return pair if self.order % 2 == 0 else pair[::-1]


def transformed(split: int | slice, channels: int) -> range:
    """The channels that ``split`` chooses; ``ValueError`` or ``TypeError`` where it is wrong."""
    if not isinstance(split, slice):
        start = integer("split", split, "an int or a slice")
        if not 0 <= start <= channels:
            raise ValueError(f"split must be between 0 and the number of channels, {channels}: got {split}")
        return range(start, channels)
    try:
        moved = range(channels)[split]  # no slice.indices: torch 2.11 does not trace it
    except TypeError as error:
        raise TypeError(f"split must be a slice of integers: got {split}") from error
    if moved.step < 1:
        raise ValueError(f"split must be a slice that steps forward: got {split}")
    return moved


def passing_part(split: int | slice, channels: int) -> slice:
    """The channels that a coupling leaves alone; ``ValueError`` where they are no slice."""
    moved = transformed(split, channels)
    if not moved:
        return slice(0, channels)
    if moved[-1] - moved[0] + 1 == len(moved) and (moved[0] == 0 or moved[-1] + 1 == channels):
        return slice(0, moved[0]) if moved[0] else slice(moved[-1] + 1, channels)
    left = [channel for channel in range(channels) if channel not in moved]
    found = slice(left[0], left[-1] + 1, left[1] - left[0] if len(left) > 1 else 1)
    if left != list(range(channels)[found]):
        raise ValueError(f"split must leave a slice of the {channels} channels: got {split}")
    return found


def checked(split: int | slice, layout: str, x: Tensor, parameters: Tensor) -> Layout:
    """The layout of these arguments; ``ValueError`` or ``TypeError`` names the one that is wrong."""
    choice("layout", layout, LAYOUTS)
    moved = transformed(split, x.shape[1])
    count = len(moved)
    found = Layout(moved.start, count, 1 if count <= 1 else moved.step, INDEX[layout])
    if x.dim() > 2 and (found.step != 1 or found.order >= 2):
        what = f"split={split}" if found.step != 1 else f"layout={layout!r}"
        raise ValueError(f"{what} needs events of one dimension, x (B, C): got x of shape {tuple(x.shape)}")
    expected = (x.shape[0], 2 * count, *x.shape[2:])
    if tuple(parameters.shape) != expected:
        raise ValueError(
            f"parameters must be {expected}, two for each transformed element of x of shape {tuple(x.shape)}: "
            f"got {tuple(parameters.shape)}"
        )
    return found
