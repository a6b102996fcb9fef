"""The cases of the emulated kernels of coupling: every path of the launchers, and what may be wanted of it."""

import itertools
from dataclasses import dataclass, field

from .coupling_memory import EPSILON, Buffer, Grid
from .coupling_structures import Passing, Scale

KINDS = ("exp", "tanh", "softclip", "sigmoid", "softplus", "gate")
GRADIENTS = ("x", "log_scale", "shift")


@dataclass(frozen=True)
class Case:
    """One coupling: its events, where its elements lie, and what is wanted of it."""

    rows: int
    cols: int
    kind: str = "exp"
    inverse: bool = False
    dtype: str = "float32"
    eps: float = 0.0
    start: int = -1  # >= 0: a whole event, of which the columns start, start + every, … are transformed
    length: int = 0
    every: int = 1
    padding: int = 0  # elements between rows
    step: int = 1  # between the elements of the parameters: 2 interleaves them
    offset: int = 0  # elements by which every buffer misses an address of 16 bytes
    shared: bool = False  # one row of parameters for all events
    before: bool = False
    given: tuple[bool, bool] = (True, True)  # the gradients of y and log_det
    wanted: tuple[str, ...] = GRADIENTS
    launches: int | None = field(default=None, compare=False)

    def __str__(self) -> str:
        parts = [f"{self.rows}x{self.cols}", self.dtype, self.kind + "-inverse" * self.inverse, f"eps{self.eps:g}"]
        parts += [f"event{self.start}:{self.every}of{self.length}"] if self.start >= 0 else []
        numbers = ("padding", "step", "offset")
        parts += [f"{name}{getattr(self, name)}" for name in numbers if getattr(self, name) != (name == "step")]
        parts += ["shared"] * self.shared + ["before"] * self.before
        parts += ["" if all(self.given) else f"grads{self.given[0]:d}{self.given[1]:d}"]
        parts += [f"wants {'+'.join(self.wanted)}"] if self.wanted != GRADIENTS else []
        return "-".join(part for part in parts if part)

    @property
    def scale(self) -> Scale:
        return Scale(KINDS.index(self.kind), 1.5, 1.25, self.eps)

    def event(self, buffer: Buffer | None = None) -> tuple[Grid, Grid]:
        """Whole rows, and the transformed elements among them."""
        length = self.length if self.start >= 0 else self.cols
        row = length + self.padding
        if buffer is None:
            buffer = Buffer(max(0, self.rows * row - self.padding), self.dtype, self.offset)
        whole = Grid(buffer, self.rows, length, row, 1)
        return whole, Grid(buffer, self.rows, self.cols, row, self.every, max(self.start, 0))

    def parameters(self) -> tuple[Grid, Grid]:
        """The log-scales and the shifts, in one buffer."""
        rows = 1 if self.shared else self.rows
        second = 1 if self.step == 2 else self.cols
        row = 2 * self.cols
        buffer = Buffer(rows * row, self.dtype, self.offset)
        grids = [Grid(buffer, rows, self.cols, row, self.step, start) for start in (0, second)]
        if self.shared:
            for grid in grids:
                grid.row = 0
        return grids[0], grids[1]

    def passing(self, source: Grid, to: Grid) -> Passing:
        if self.start < 0:
            return Passing()
        end = self.start if self.every > 1 else self.start + self.cols
        return Passing(source.buffer.address(), to.buffer.address(), source.row, to.row, self.length, self.start, end)


@dataclass(frozen=True)
class ChannelCase:
    """A scale and a shift of each channel of (outer, channels, inner)."""

    outer: int
    channels: int
    inner: int
    inverse: bool = False
    dtype: str = "float32"
    offset: int = 0

    def __str__(self) -> str:
        shape = f"channel-{self.outer}x{self.channels}x{self.inner}"
        return f"{shape}-{self.dtype}" + "-inverse" * self.inverse + f"-offset{self.offset}" * bool(self.offset)


def cases() -> list[Case]:
    """Every path: teams from a lane to several blocks, packets or not, what passes, every scale, what is wanted."""
    both = (False, True)
    found = [
        Case(5, 20, kind, inverse, dtype, eps=eps, launches=1)
        for (kind, eps), inverse, dtype in itertools.product(
            [*((kind, 0.0) for kind in KINDS), ("sigmoid", 0.125), ("softplus", 0.125)], both, EPSILON
        )
        if dtype != "bfloat16" or kind == "tanh"
    ]
    sizes = [(1, 1), (300, 1), (260, 2), (70, 5), (40, 16), (9, 64), (9, 63), (3, 130), (2, 512), (3, 700), (1, 2044)]
    found += [Case(*size, "tanh", inverse) for size in sizes for inverse in both]
    found += [Case(7, cols, "gate", dtype=dtype) for cols in (1, 7, 24, 260) for dtype in EPSILON]
    long = [(1, 9000), (2, 16388), (1, 9001), (1, 140_000)]
    found += [
        Case(*size, before=before, launches=2) for size, before in zip(long, (True, False, True, False), strict=True)
    ]
    found += [Case(2, 9001, "softclip", dtype="float64", launches=2)]
    events = [(8, 0, 16), (8, 8, 16), (8, 4, 16), (6, 1, 9), (3, 5, 11), (0, 4, 8), (0, 0, 5), (12, 0, 12)]
    found += [
        Case(21, cols, "gate", inverse, dtype, start=start, length=length)
        for (cols, start, length), inverse, dtype in itertools.product(events, both, ("float32", "float16"))
    ]
    stepping = [(4, 0, 8, 2), (4, 1, 8, 2), (4, 1, 9, 2), (3, 2, 14, 4), (5, 1, 40, 3), (2, 70, 90, 7), (20, 3, 50, 2)]
    found += [
        Case(11, cols, "exp", start=start, length=length, every=every, step=step)
        for (cols, start, length, every), step in itertools.product(stepping, (1, 2))
    ]
    found += [Case(2, cols, start=start, length=6000) for cols, start in ((8, 0), (3000, 3000), (5990, 4), (2990, 7))]
    found += [Case(1, 9000, start=9000, length=18000, before=True, launches=2)]
    found += [Case(1, 8, start=4, length=40_000, launches=2), Case(1, 9000, start=1, every=2, length=18001, launches=2)]
    found += [Case(6, 16, padding=padding, start=8, length=24) for padding in (3, 4)]
    found += [Case(6, 16, "tanh", offset=offset, start=0, length=24) for offset in (1, 2)]
    found += [Case(6, 16, "gate", inverse, step=2, start=8, length=24) for inverse in both]
    found += [Case(6, 16, shared=True), Case(6, 15, shared=True), Case(40, 3, before=True)]
    found += [
        Case(5, 12, kind, inverse, start=4, length=16, given=given)
        for kind, inverse, given in itertools.product(("exp", "gate"), both, ((True, False), (False, True)))
    ]
    wants = [GRADIENTS[:1], GRADIENTS[1:2], GRADIENTS[2:], GRADIENTS[1:]]
    found += [Case(5, cols, "gate", wanted=wanted) for wanted in wants for cols in (7, 8)]
    return found


def channel_cases() -> list[ChannelCase]:
    shapes = [(1, 1, 1), (70, 6, 1), (300, 5, 1), (3, 40, 7), (2, 3, 64), (5, 2, 65), (9, 3, 100), (1, 2, 3000)]
    shapes += [(3000, 2, 1), (40, 1100, 1), (700, 1, 72), (2, 1, 9001), (33, 300, 4)]
    found = [ChannelCase(*shape, inverse) for shape in shapes for inverse in (False, True)]
    found += [ChannelCase(20, 8, inner, True, dtype) for inner in (1, 3, 80) for dtype in EPSILON]
    found += [ChannelCase(*shape, offset=1) for shape in ((20, 8, 1), (3, 2, 128))]
    empty = ((0, 4, 3), (3, 4, 0), (3, 0, 1), (3, 0, 80))
    found += [ChannelCase(*shape, inverse) for shape in empty for inverse in (False, True)]
    return found
