"""The cases of the emulated kernels of sliced_ot: every path of the launchers, and what may be wanted of it."""

from dataclasses import dataclass, field

import numpy as np

LARGE_DEVICE, SMALL_DEVICE, NO_BLOCKS = 227 * 1024, 99 * 1024, 64
OUTPUTS = ("cost", "x_coefficients", "y_coefficients", "x_weight_coefficients", "y_weight_coefficients")
BOTH = ("x_coefficients", "y_coefficients")
ALL = OUTPUTS[1:]


@dataclass(frozen=True)
class Case:
    """One problem: its shape, what is wanted of it, how its points are drawn, and on which device."""

    n: int
    m: int
    rows: int = 2
    dtype: type = np.float32
    p: float = 2.0
    groups: int = 0  # of weights; 0: uniform
    wanted: tuple[str, ...] = BOTH
    points: str = "normal"  # "ties", "zeros", "not finite", "skewed", "far" or "bad weights"
    device: int = LARGE_DEVICE
    d: int = 0  # > 0: clouds of this dimension, projected in the kernel; `rows` are directions of 2 items
    alias: bool = False
    padding: int = 0  # between rows
    launches: int | None = field(default=None, compare=False)

    def __str__(self) -> str:
        parts = [f"{self.rows}x{self.n}x{self.m}", np.dtype(self.dtype).name, f"p{self.p:g}", self.points]
        parts += [f"{self.groups}groups"] * bool(self.groups) + [f"d{self.d}"] * bool(self.d) + ["alias"] * self.alias
        parts += ["+".join(name.replace("coefficients", "c") for name in self.wanted) or "cost"]
        return "-".join([*parts, {LARGE_DEVICE: "227KB", SMALL_DEVICE: "99KB", NO_BLOCKS: "large"}[self.device]])


def cases() -> list[Case]:
    """Every path: block shapes, large rows, couplings, costs, what is wanted, and what may go wrong."""
    f64 = np.float64
    shapes = [1, 31, 33, 128, 129, 500, 513, 1024, 1500]
    found = [Case(n, n, dtype=scalar, launches=1) for n in shapes for scalar in (np.float32, f64)]
    found += [Case(n, n, rows=1, wanted=(), launches=1) for n in (1, 40, 300, 900, 2049, 5000, 9000, 10240, 12001)]
    found += [Case(n, n, rows=1, launches=1) for n in (4000, 8001, 10001, 16384)]
    found += [Case(n, n, rows=1, dtype=f64, wanted=wanted) for n in (3000, 8192) for wanted in ((), BOTH)]
    pairs = [(1, 1), (1, 7), (7, 1), (2, 3), (16, 24), (100, 99), (1000, 300), (7, 900)]
    found += [
        Case(n, m, p=p, dtype=f64, launches=1) for (n, m), p in zip(pairs, [2, 1, 3, 2, 1, 2.5, 2, 1], strict=True)
    ]
    found += [
        Case(n, m, wanted=wanted) for n, m in ((33, 40), (600, 65)) for wanted in ((), *[(name,) for name in BOTH])
    ]
    found += [Case(n, n, p=p, points=points) for n in (50, 700) for p in (1, 3) for points in ("ties", "zeros")]
    found += [
        Case(60, 45, rows=6, groups=3, points=points, dtype=f64, launches=1) for points in ("normal", "ties", "skewed")
    ]
    found += [Case(n, m, groups=1, points="skewed") for n, m in ((1, 3), (5, 5), (700, 900), (1024, 100))]
    found += [
        Case(300, 300, groups=2, wanted=(), p=1, launches=1),
        Case(2000, 3000, rows=1, groups=1, device=SMALL_DEVICE),
    ]
    for n, m in ((90, 90), (90, 70), (600, 600)):
        found += [Case(n, m, rows=4, groups=groups, points="not finite") for groups in (0, 2)]
    found += [Case(n, n, alias=True, padding=0) for n in (20, 700)] + [Case(200, 150, padding=5)]
    found += [Case(n, m, rows=3, d=d, launches=1) for n, m, d in ((40, 40, 2), (30, 41, 5), (600, 600, 4), (1, 1, 3))]
    found += [
        Case(100, 100, rows=3, d=1),
        Case(64, 50, rows=2, d=64, dtype=f64),
        Case(80, 80, d=3, points="not finite"),
    ]
    found += [Case(50, 60, rows=3, d=7, groups=2), Case(90, 90, d=784, wanted=())]
    for device in (LARGE_DEVICE, NO_BLOCKS):
        found += [Case(20, 30, rows=3, groups=3, points="bad weights", device=device)]
        found += [Case(500, 400, rows=6, groups=6, points="far", dtype=f64, device=device)]
    found += [Case(n, m, rows=4, groups=4, points="skewed", dtype=f64, wanted=ALL) for n, m in ((40, 30), (9, 60))]

    large = [(1, 1), (3, 2), (300, 300), (2048, 2048), (2049, 2049), (1, 5000), (5000, 1), (3000, 2500), (4500, 4500)]
    found += [Case(n, m, device=NO_BLOCKS) for n, m in large]
    found += [
        Case(n, m, rows=5, dtype=f64, p=1, wanted=wanted, device=NO_BLOCKS)
        for n, m in large[2:3]
        for wanted in ((), BOTH)
    ]
    found += [
        Case(3000, 2100, rows=6, p=3, wanted=wanted, device=NO_BLOCKS) for wanted in ((), *[(name,) for name in BOTH])
    ]
    found += [Case(2500, 2500, wanted=(name,), device=NO_BLOCKS) for name in BOTH]
    found += [
        Case(n, m, rows=4, groups=2, points="skewed", dtype=f64, device=NO_BLOCKS) for n, m in ((40, 30), (3000, 5000))
    ]
    found += [
        Case(n, m, rows=2, groups=1, wanted=ALL, dtype=f64) for n, m in ((1, 1), (1, 9), (9, 1), (50, 70), (2500, 2100))
    ]
    found += [Case(n, m, rows=6, groups=2, wanted=ALL, p=p) for n, m, p in ((40, 40, 2), (300, 200, 1), (70, 50, 2.5))]
    found += [Case(60, 60, wanted=ALL, dtype=f64), Case(300, 200, rows=6, groups=3, wanted=ALL[2:3], points="ties")]
    found += [
        Case(n, m, rows=5, groups=g, points="not finite", wanted=ALL, device=NO_BLOCKS)
        for n, m, g in ((90, 90, 0), (3000, 2500, 5))
    ]
    found += [Case(n, n, rows=rows, alias=True, device=NO_BLOCKS) for n, rows in ((700, 2), (2500, 6))]
    found += [Case(2200, 1500, padding=3, points="ties", device=NO_BLOCKS)]
    return found
