"""Elements in memory as the emulated kernels of coupling see them: dtypes, matrices inside buffers, guards."""

import numpy as np

from .coupling_structures import Matrix

EPSILON = {"float32": 2.0**-23, "float64": 2.0**-52, "float16": 2.0**-10, "bfloat16": 2.0**-7}
WIDE = {"float32": np.float32, "float64": np.float64, "float16": np.float32, "bfloat16": np.float32}
GUARD = 64


def narrow(values: np.ndarray, dtype: str) -> np.ndarray:
    """As memory holds them; bfloat16 as its 16 bits, rounded towards zero."""
    if dtype == "bfloat16":
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(dtype)


def widen(values: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "bfloat16":
        return (values.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return values.astype(np.float64)


class Buffer:
    """Elements in memory with guards at both ends, the first ``offset`` elements behind an address of 16 bytes."""

    def __init__(self, size: int, dtype: str, offset: int = 0):
        kind = np.dtype("uint16" if dtype == "bfloat16" else dtype)
        self.dtype, self.first, self.size = dtype, GUARD + offset, size
        whole = np.empty((size + 2 * GUARD + offset) * kind.itemsize + 16, np.uint8)
        start = -whole.ctypes.data % 16
        self.whole = whole[start:][: (size + 2 * GUARD + offset) * kind.itemsize].view(kind)
        self.whole[:] = narrow(np.full(1, 7.0), dtype)[0]

    @property
    def inside(self) -> np.ndarray:
        return self.whole[self.first : self.first + self.size]

    def address(self, element: int = 0) -> int:
        return self.whole.ctypes.data + (self.first + element) * self.whole.itemsize

    def check(self, name: str, written: np.ndarray) -> None:
        """Fails where anything but the elements ``written`` has changed."""
        untouched = np.ones(len(self.whole), bool)
        untouched[self.first + written.ravel()] = False
        if not np.all(self.whole[untouched] == narrow(np.full(1, 7.0), self.dtype)[0]):
            raise AssertionError(f"stray writes beside {name}")


class Grid:
    """The elements (i, j) of a matrix inside a buffer of its own or of another."""

    def __init__(self, buffer: Buffer, rows: int, cols: int, row: int, step: int, start: int = 0):
        self.buffer, self.row, self.step, self.start = buffer, row, step, start
        self.places = start + np.arange(rows)[:, None] * row + np.arange(cols)[None, :] * step

    def fill(self, values: np.ndarray) -> np.ndarray:
        """Stores the values; what memory then holds, in float64."""
        self.buffer.inside[self.places] = narrow(values, self.buffer.dtype)
        return self.values

    @property
    def values(self) -> np.ndarray:
        return widen(self.buffer.inside[self.places], self.buffer.dtype)

    @property
    def matrix(self) -> Matrix:
        return Matrix(self.buffer.address(self.start), self.row, self.step)
