"""What a benchmark is: sizes, contenders that compute the same thing at each of them, and what ours must reach.

A module of this package that holds ``BENCHMARK``, a :class:`Benchmark`, and is named in ``registry.NAMES`` is measured
by ``python -m benchmarks <name>``.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

import cgm_kernels

from .timing import Contender

Cell = dict[str, Any]
"""A size: numbers by name and, where the benchmark has kinds, which ``kind`` of thing is measured."""

ROTATION_BYTES = 128 * 2**20
ON_A_GPU = ("native", "native_graph", "triton")
"""Of ours, what a user of a GPU can choose among: targets that allow any of them take the fastest."""
DEFERRED = "left to a run with torch.compile"
FAILED = "failed: "
"""How the reason begins that a contender carries which raised an error."""


class Problem(Protocol):
    """The inputs of one cell and mode."""

    def contender(self, name: str, check: bool = True) -> Contender:
        """The named contender; with ``check`` what it computes is first compared with an oracle (AssertionError)."""
        ...


@dataclass(frozen=True)
class Target:
    """Ours at least ``least`` times as fast as ``other``, in ``modes``, at the cells where ``applies``.

    Where ``other`` is a floor, ``least`` is the share of it that ours must reach. ``mine`` is which of ours, the first
    measured one unless given; of several the fastest.
    """

    name: str
    device: str
    modes: Sequence[str]
    other: str
    least: float
    applies: Callable[[Cell], bool]
    mine: str | Sequence[str] | None = None


def compiled_backends(device: str) -> tuple[str, ...]:
    """Our compiled backends on a device; the reference only where there is none."""
    names = tuple(name for name in cgm_kernels.available_backends(device) if name != "reference")
    if torch.device(device).type == "cpu":
        names = tuple(name for name in names if name != "triton")  # its interpreter is no fair time
    return names or ("reference",)


def with_graph(device: str) -> tuple[str, ...]:
    """Ours on a device; on a GPU the native kernels also as a CUDA graph."""
    names = compiled_backends(device)
    return (*names, "native_graph") if torch.device(device).type == "cuda" and "native" in names else names


def choose_backend(name: str) -> Callable[[], None]:
    """What a contender runs before each sample: ours their backend, the others ``auto``."""
    known, base = ("native", "triton", "reference"), name.removesuffix("_graph")
    return functools.partial(cgm_kernels.set_backend, base if base in known else "auto")


def not_installed(module: str, library: str | None = None) -> str | None:
    """The reason to leave out a contender that imports ``module``, or None."""
    return None if importlib.util.find_spec(module) else f"{library or module} is not installed"


def input_copies(n_bytes: int, device: str) -> int:
    """How many copies of inputs of that size successive calls rotate through, so that a GPU's cache holds none."""
    if torch.device(device).type != "cuda":
        return 1
    return max(1, min(8, ROTATION_BYTES // max(1, n_bytes)))


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """The norm of the difference over that of ``wanted``."""
    return float((found.double() - wanted).norm() / wanted.norm().clamp_min(1e-30))


def _always(name: str, cell: Cell, mode: str, quick: bool) -> str | None:
    return None


def drawing(device: str) -> Callable[..., Tensor]:
    """``draw(*shape, scale=1.0)``: normal numbers times ``scale``, the same on every device and in every run."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(shape, generator=generator)).to(device)

    return draw


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """The description of a benchmark; everything else is generic.

    Attributes:
        name: of the module, the results and the README's markers. ``title``: of the plot.
        modes: what is timed, with titles.
        sizes: the numbers of a cell in the order of ``--sizes``, each with the format in which a sentence names it.
        columns: heading of the column that names cells.
        kinds: what a cell may measure, with titles; the first is meant where ``--sizes`` names none.
        grid, quick_grid, headlines: cells; the headlines are measured first and stand in the README.
        titles: of all contenders, in the order of the tables; ``ours`` are our own, the preferred one first, ``floors``
            the parts of the floor, ``cuda_only`` those left out silently on a CPU.
        baseline: the contender that takes part in all rounds and is named on the screen.
        problem: (cell, mode, device) -> :class:`Problem`.
        why_not: (name, cell, mode, quick) -> why a contender is left out there, or None.
        available: which of ours a device can run.
        axis, axis_title, curve: the plot is over the numbers named ``axis``; where several groups of cells have equally
            many, it shows ``curve``. Without two sizes there is no plot.
        libraries: distributions that the table names with their versions.
        environments: of kinds whose rows are measured in a process of their own, on a CPU alone: its variables.
        note: what a reader of the headlines has to know about them.
        tiny, memory_cells, output_bytes: cells of which peak memory is measured, after a call of their kind at
            ``tiny``, and the size of the outputs in a mode, which does not count.
    """

    name: str
    title: str
    modes: Mapping[str, str]
    sizes: Mapping[str, str]
    columns: str
    grid: Sequence[Cell]
    quick_grid: Sequence[Cell]
    headlines: Sequence[Cell]
    titles: Mapping[str, str]
    ours: Sequence[str]
    problem: Callable[[Cell, str, str], Problem]
    kinds: Mapping[str, str] = field(default_factory=dict)
    floors: Sequence[str] = ()
    floor_title: str = "floor"
    cuda_only: Sequence[str] = ()
    baseline: str = "eager"
    why_not: Callable[[str, Cell, str, bool], str | None] = _always
    available: Callable[[str], tuple[str, ...]] = compiled_backends
    targets: Sequence[Target] = ()
    axis: str = "n"
    axis_title: str = "n"
    curve: Cell = field(default_factory=dict)
    libraries: Sequence[str] = ()
    environments: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    note: str = ""
    tiny: Cell = field(default_factory=dict)
    memory_cells: Sequence[Cell] = ()
    output_bytes: Callable[[Cell, str], int] = lambda cell, mode: 0

    @property
    def peers(self) -> list[str]:
        """The contenders that are neither ours nor floors."""
        return [name for name in self.titles if name not in self.ours and name not in self.floors]

    def cell(self, text: str) -> Cell:
        """``10000x64x500``, or ``kind:10000x64``, as a cell; ValueError says what was expected."""
        kind, _, numbers = text.rpartition(":")
        parts, form = numbers.split("x"), "x".join(self.sizes)
        if len(parts) != len(self.sizes) or not all(part.isdigit() and int(part) > 0 for part in parts):
            raise ValueError(f"a size is {form}, as in {'x'.join('16' for _ in self.sizes)}: got {text!r}")
        if kind and kind not in self.kinds:
            raise ValueError(f"{self.name} measures {', '.join(self.kinds) or 'no kinds'}: got {kind!r} in {text!r}")
        found: Cell = {"kind": kind or next(iter(self.kinds))} if self.kinds else {}
        return found | dict(zip(self.sizes, map(int, parts), strict=True))

    def cell_title(self, cell: Cell) -> str:
        """The cell in a column of a table."""
        return ", ".join(self.kinds[value] if key == "kind" else f"{value:,}" for key, value in cell.items())

    def describe(self, cell: Cell) -> str:
        """The cell, or part of one, in a sentence."""
        return ", ".join(
            self.kinds[value] if key == "kind" else self.sizes[key].format(value) for key, value in cell.items()
        )

    def environment(self, cell: Cell) -> Mapping[str, str]:
        """The variables that a process measuring the cell must have begun with."""
        return self.environments.get(cell.get("kind", ""), {})

    def primary(self, row: dict[str, Any]) -> str:
        """The one of ours that a row is judged by: the first measured one."""
        return next(name for name in self.ours if name in row["speedups"])

    def floor_seconds(self, row: dict[str, Any]) -> float | None:
        """The parts of the floor together; None where one was not measured."""
        parts = [row["contenders"].get(name, {}).get("median") for name in self.floors]
        return None if None in parts or not parts else sum(parts)

    def entrants(
        self, cell: Cell, mode: str, device: str, ours: Sequence[str], quick: bool, compiled: bool = True
    ) -> list[Contender]:
        """All contenders at a cell; those that do not run here carry the reason, or that they failed.

        The baseline and the preferred one of ours must not fail: without them there is no row.
        """
        on_cuda = torch.device(device).type == "cuda"
        names = [name for name in self.titles if name in ours or name not in self.ours]
        names = [name for name in names if on_cuda or name not in self.cuda_only]
        reasons = {name: self.why_not(name, cell, mode, quick) for name in names}
        if not compiled and "compile" in reasons:
            reasons["compile"] = reasons["compile"] or DEFERRED
        if all(reasons[name] is not None for name in names if name in ours):
            return [Contender(name, skipped=reason or "ours does not run here") for name, reason in reasons.items()]
        problem = self.problem(cell, mode, device)
        must = (self.baseline, ours[0])
        return [self._entrant(problem, name, reason, name in must) for name, reason in reasons.items()]

    def _entrant(self, problem: Problem, name: str, reason: str | None, must: bool) -> Contender:
        if reason is None:
            try:
                return problem.contender(name)
            except AssertionError:  # it computes something else
                raise
            except Exception as error:
                if must:
                    raise
                lines = str(error).strip().splitlines() or [""]
                reason = f"{FAILED}{type(error).__name__}: {lines[0][:160]}"
        return Contender(name, skipped=reason)
