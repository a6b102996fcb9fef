"""The cases of the emulated Langevin kernels: every path of the launchers, and what may be asked of them."""

import itertools
from dataclasses import dataclass, field

from .coupling_memory import EPSILON

LAYOUTS = ("dense", "padded", "turned", "wide")


@dataclass(frozen=True)
class StepCase:
    """One step: its logical shape, where its elements lie, and what is asked of it."""

    shape: tuple[int, ...]  # neighbouring dimensions merged; one dimension where everything is dense
    chains: int = 1
    dtype: str = "float32"
    layouts: tuple[str, str, str] = ("dense",) * 3  # of x, grad and out
    offset: int = 0  # elements by which every buffer misses an address of 16 bytes
    into: str = ""  # "x" or "grad": in place
    step_size: str = "number"  # "tensor", or "chain": of every chain its own, at stride 2
    temperature: str = "number"
    clamp: bool = False
    max_norm: float = 0.0  # 0: none
    values: str = "normal"  # "huge", "tiny", "zero" or "not finite" gradients in one chain each
    state: bool = False
    step: int = 0
    launches: int | None = field(default=None, compare=False)

    def __str__(self) -> str:
        parts = ["x".join(map(str, self.shape)), f"{self.chains}chains", self.dtype]
        parts += ["+".join(self.layouts)] if set(self.layouts) != {"dense"} else []
        parts += [f"offset{self.offset}"] * bool(self.offset) + [f"into-{self.into}"] * bool(self.into)
        parts += [f"h-{self.step_size}"] if self.step_size != "number" else []
        parts += [f"T-{self.temperature}"] if self.temperature != "number" else []
        parts += ["clamp"] * self.clamp + [f"norm{self.max_norm:g}"] * bool(self.max_norm)
        parts += [self.values] if self.values != "normal" else []
        return "-".join([*parts, *[f"state{self.step:x}"] * self.state])


@dataclass(frozen=True)
class NormalCase:
    elements: int
    dtype: str = "float32"
    offset: int = 0
    state: bool = False
    step: int = 0
    launches: int | None = field(default=None, compare=False)

    def __str__(self) -> str:
        parts = [f"normal-{self.elements}", self.dtype, *[f"offset{self.offset}"] * bool(self.offset)]
        return "-".join([*parts, *[f"state{self.step:x}"] * self.state])


@dataclass(frozen=True)
class AcceptCase:
    chains: int
    length: int
    dtype: str = "float32"
    offset: int = 0
    state: bool = False
    step: int = 0
    launches: int | None = field(default=None, compare=False)

    def __str__(self) -> str:
        parts = [f"accept-{self.chains}x{self.length}", self.dtype, *[f"offset{self.offset}"] * bool(self.offset)]
        return "-".join([*parts, *[f"state{self.step:x}"] * self.state])


def step_cases() -> list[StepCase]:
    """Groups and their tails, packets or not, any strides, coefficients and norms of chains, states of few blocks."""
    found = [StepCase((n,), dtype=dtype, launches=1) for n in (1, 2, 3, 4, 5, 7, 64, 1023) for dtype in EPSILON]
    found += [StepCase((n,), launches=1) for n in (1024, 1025, 4099)]
    found += [StepCase((n,), state=True, step=5, launches=1) for n in (1, 1023, 1024)]
    found += [StepCase((n,), state=True, step=step, launches=2) for n, step in ((1025, -1), (3000, 2**32 - 1))]
    found += [StepCase((0,), chains=chains, state=True, max_norm=1.0, launches=1) for chains in (0, 3)]
    found += [StepCase((n,), dtype=dtype, offset=1) for n in (9, 1030) for dtype in EPSILON]
    found += [StepCase((n,), dtype=dtype, into=into) for n, into in ((30, "x"), (1029, "grad")) for dtype in EPSILON]
    kinds = itertools.product(("number", "tensor", "chain"), repeat=2)
    shapes = itertools.cycle([((60,), 60), ((60,), 20), ((1200,), 3), ((63,), 9), ((35,), 7), ((1, 9), 9)])
    for (h, t), (shape, chains) in zip(kinds, shapes, strict=False):
        found += [StepCase(shape, chains, dtype, step_size=h, temperature=t, clamp=True) for dtype in EPSILON]
    strided = [(4, 7), (7, 64), (3, 5, 6), (2, 3, 4, 5), (2, 3, 2, 3, 2, 3), (40, 30)]
    layouts = itertools.cycle(itertools.product(LAYOUTS, repeat=3))
    for shape, (by, dtype) in itertools.product(strided, itertools.product(("number", "chain"), EPSILON)):
        found += [StepCase(shape, shape[0], dtype, next(layouts), step_size=by)]
        next(layouts)
    found += [StepCase((6, 9), 6, layouts=("turned",) * 3, into=into, step_size="chain") for into in ("x", "grad")]
    found += [StepCase((6, 8), 6, layouts=("padded", "padded", "dense"), state=True, max_norm=2.0)]
    for dtype in EPSILON:
        found += [StepCase((n * m,), n, dtype, max_norm=1.5) for n, m in ((50, 1), (33, 2), (20, 5), (7, 33), (3, 600))]
    found += [StepCase((n * m,), n, max_norm=9.0, launches=2) for n, m in ((1, 1000), (9, 64), (70, 3), (2, 8000))]
    found += [StepCase((n * m,), n, dtype, max_norm=9.0, launches=3) for n, m, dtype in LONG]
    found += [StepCase((2, 9000, 2), 2, layouts=("dense", "turned", "dense"), max_norm=0.1, launches=3)]
    for values, dtype in itertools.product(("huge", "tiny", "zero", "not finite"), ("float32", "float64")):
        found += [StepCase((n * m,), n, dtype, max_norm=1e-3, values=values) for n, m in ((6, 5), (4, 700))]
        found += [StepCase((2 * 17000,), 2, dtype, max_norm=1e-3, values=values)]
    found += [StepCase((40,), 8, values="not finite", clamp=True)]
    return found


LONG = [(1, 16384, "float32"), (1, 30001, "float64"), (2, 17000, "float16"), (12, 16400, "float32")]


def normal_cases() -> list[NormalCase]:
    found = [NormalCase(n, dtype, launches=1) for n in (1, 2, 3, 4, 6, 1024, 2051) for dtype in EPSILON]
    found += [NormalCase(n, dtype, offset=1) for n in (3, 8, 1031) for dtype in EPSILON]
    found += [NormalCase(n, state=True, step=step, launches=1) for n, step in ((5, 0), (1024, 2**63 - 1), (0, -7))]
    found += [NormalCase(n, state=True, step=3, launches=2) for n in (1025, 4100)]
    return found


def accept_cases() -> list[AcceptCase]:
    sizes = [(1, 1), (5, 1), (7, 3), (4, 2), (30, 4), (9, 8), (2, 700), (1025, 2)]
    found = [AcceptCase(*size, dtype, launches=2) for size in sizes for dtype in EPSILON]
    found += [AcceptCase(6, 8, dtype, offset=offset) for dtype in EPSILON for offset in (1, 2)]
    found += [AcceptCase(40, 3, state=True, step=9, launches=2), AcceptCase(1100, 1, state=True, launches=3)]
    found += [AcceptCase(3, 0, state=True, launches=1), AcceptCase(0, 5, state=True, launches=1)]
    return found
