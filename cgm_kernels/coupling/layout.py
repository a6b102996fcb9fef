"""Where a whole-event coupling finds what it transforms and its parameters."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

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


def checked(split: int | slice, layout: str, x: Tensor, parameters: Tensor) -> Layout:
    """The layout of these arguments; ``ValueError`` or ``TypeError`` names the one that is wrong."""
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}: got {layout!r}")
    channels = x.shape[1]
    if isinstance(split, slice):
        try:
            start, stop, step = split.indices(channels)
        except TypeError as error:
            raise TypeError(f"split must be a slice of integers: got {split}") from error
        if step < 1:
            raise ValueError(f"split must be a slice that steps forward: got {split}")
        count = len(range(start, stop, step))
    elif isinstance(split, bool) or not isinstance(split, int):
        raise TypeError(f"split must be an int or a slice: got {type(split).__name__}")
    elif not 0 <= split <= channels:
        raise ValueError(f"split must be between 0 and the number of channels, {channels}: got {split}")
    else:
        start, count, step = split, channels - split, 1
    found = Layout(start, count, 1 if count <= 1 else step, INDEX[layout])
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
