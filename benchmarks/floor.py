"""What cannot be beaten by much: the best known sort of the same keys, the same matrix products, the copy bandwidth.

CPU sort: NumPy's in-place sort of float32 rows (a vectorised quicksort where the processor has AVX2 or AVX-512), the
rows dealt to as many threads as torch has. With a gradient, the cloud that needs one is sorted as int64, the key in
the upper half and the index in the lower. Restoring the unsorted keys is included: it stands for the projections being
written. It is a floor as long as no better sort is known; a faster kernel shows as a share above 1.
CUDA sort: one read and one write of every key at the copy bandwidth.
"""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

SERIAL_KEYS = 50_000  # below, handing rows to threads costs more than it gains
COPY_BYTES = 256 * 2**20


def packed(keys: Tensor) -> np.ndarray:
    """int64 whose order is that of the float32 keys of a row, the index within the row in the lower half."""
    bits = keys.contiguous().view(torch.int32).to(torch.int64)
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return ((ordered << 32) | torch.arange(keys.shape[-1])).numpy()


def sort_call(rows: list[np.ndarray], threads: int) -> Callable[[int], None]:
    """Restores and sorts every row of every array, rows dealt to ``threads`` threads."""
    pairs = [(source, np.empty_like(source)) for source in rows]
    if threads == 1 or sum(source.size for source in rows) < SERIAL_KEYS:
        return lambda index: _sort_all(pairs)
    blocks = [
        (one, other)
        for source, buffer in pairs
        for one, other in zip(np.array_split(source, threads), np.array_split(buffer, threads), strict=True)
    ]
    pool = _pool(threads)
    return lambda index: _sort_all_in(pool, blocks)


def _sort_all(pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for source, buffer in pairs:
        _sort(source, buffer)


def _sort_all_in(pool: concurrent.futures.ThreadPoolExecutor, pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    concurrent.futures.wait([pool.submit(_sort, *pair) for pair in pairs])


def _sort(source: np.ndarray, buffer: np.ndarray) -> None:
    np.copyto(buffer, source)
    buffer.sort(axis=-1)


@functools.cache
def _pool(threads: int) -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(threads)


def gemm_call(x: Tensor, y: Tensor, projections: Tensor, gradient: bool) -> Callable[[int], None]:
    """Both projections into memory that is there already, and with a gradient the product back to the points."""
    directions = projections.shape[1]
    first, second = x.new_empty(x.shape[0], directions), y.new_empty(y.shape[0], directions)
    back = torch.empty_like(x)
    transposed = projections.T

    def call(index: int) -> None:
        torch.mm(x, projections, out=first)
        torch.mm(y, projections, out=second)
        if gradient:
            torch.mm(first, transposed, out=back)

    return call


def copy_call(n_bytes: int, device: str, copies: int = 1) -> Callable[[int], None]:
    """A copy that reads and writes ``n_bytes`` each, of ``copies`` sources in turn."""
    sources = [torch.zeros(max(1, n_bytes // 4), device=device) for _ in range(copies)]
    targets = [torch.empty_like(source) for source in sources]
    return lambda index: _copy(targets[index % copies], sources[index % copies])


def _copy(target: Tensor, source: Tensor) -> None:
    target.copy_(source)


def copy_bandwidth(device: str) -> float:
    """Bytes a second, read and write together, of the best of 7 large copies."""
    call = copy_call(COPY_BYTES, device)
    synchronize = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None
    best = float("inf")
    for index in range(8):
        synchronize()
        begin = time.perf_counter()
        call(index)
        synchronize()
        if index:
            best = min(best, time.perf_counter() - begin)
    return 2 * COPY_BYTES / best


def perceptron_products(
    n: int, widths: Sequence[int], device: torch.device | str, *, layers: int = 1, gradient: bool
) -> Callable[[int], None]:
    """The products of ``layers`` perceptrons; with the gradient also those by each weight and by each input."""
    values = [torch.zeros(n, width, device=device) for width in widths]
    weights = [torch.zeros(pair, device=device) for pair in itertools.pairwise(widths)]
    gradients, back = [torch.empty_like(one) for one in weights], [torch.empty_like(one) for one in values]

    def call(index: int) -> None:
        for _ in range(layers):
            for layer, weight in enumerate(weights):
                torch.mm(values[layer], weight, out=values[layer + 1])
            for layer in reversed(range(len(weights))) if gradient else ():
                torch.mm(values[layer].T, back[layer + 1], out=gradients[layer])
                torch.mm(back[layer + 1], weights[layer].T, out=back[layer])

    return call
