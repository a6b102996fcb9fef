"""A short run of every GPU kernel through the public operations: the program that compute-sanitizer watches.

    python tools/gpu_sanitize.py [--backend native|triton] [--device cuda]

Sizes are small (a sanitizer slows a kernel down many times) but reach every path: single points, tails, several blocks
of threads, sizes beyond shared memory, unequal sizes, weights, batches, every gradient.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "python")]

import torch  # noqa: E402

import cgm_kernels as ck  # noqa: E402

SIZES = [(1, 1), (1, 5), (7, 7), (33, 20), (128, 128), (257, 300), (1000, 1000), (3000, 5000)]
LARGE = [(20_000, 20_000), (70_000, 50_001)]
Case = tuple[str, Callable[[], object]]


def cloud(shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int) -> torch.Tensor:
    points = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return points.to(device=device, dtype=dtype).requires_grad_()


def weights(n: int, device: str, seed: int) -> torch.Tensor:
    values = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    values[0] += 1e-3
    return values.to(device)


def with_gradient(function: Callable[..., torch.Tensor], *inputs: torch.Tensor, **options: object) -> None:
    value = function(*inputs, **options)
    if value.requires_grad:
        value.sum().backward()
    for tensor in (value, *(t.grad for t in inputs if t.grad is not None)):
        if not bool(torch.isfinite(tensor).all()):
            raise AssertionError(f"{function.__name__} of {[tuple(t.shape) for t in inputs]} gave a value not finite")


def sliced_ot(device: str) -> Iterator[Case]:
    for dtype, (n, m), p in itertools.product((torch.float32, torch.float64), SIZES, (1.0, 2.0, 1.5)):
        yield from one_size(device, dtype, n, m, p, n_projections=3)
    for dtype, (n, m) in itertools.product((torch.float32, torch.float64), LARGE):
        yield from one_size(device, dtype, n, m, 2.0, n_projections=2)
    for dtype in (torch.float16, torch.bfloat16):
        yield from one_size(device, dtype, 33, 20, 2.0, n_projections=3)


def one_size(device: str, dtype: torch.dtype, n: int, m: int, p: float, n_projections: int) -> Iterator[Case]:
    name = f"{str(dtype).removeprefix('torch.')} n={n} m={m} p={p}"
    a, b = weights(n, device, 3), weights(m, device, 4)
    sliced = {"n_projections": n_projections, "p": p}

    def clouds(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
        return cloud((*shape[:-1], n, shape[-1]), dtype, device, 1), cloud(
            (*shape[:-1], m, shape[-1]), dtype, device, 2
        )

    def lines() -> tuple[torch.Tensor, torch.Tensor]:
        return cloud((2, n), dtype, device, 5), cloud((2, m), dtype, device, 6)

    distance, move = ck.sliced_wasserstein_distance, ck.sliced_displacement
    yield f"distance {name}", lambda: with_gradient(distance, *clouds(3), **sliced)
    yield f"distance, weights {name}", lambda: with_gradient(distance, *clouds(3), x_weights=a, y_weights=b, **sliced)
    yield f"distance, batch {name}", lambda: with_gradient(distance, *clouds(2, 5), **sliced)
    yield f"wasserstein_1d {name}", lambda: with_gradient(ck.wasserstein_1d, *lines(), p=p)
    yield f"wasserstein_1d, weights {name}", lambda: weighted_rows(*lines(), a, b, p)
    if p == 2.0:
        yield (
            f"displacement {name}",
            lambda: with_gradient(move, *(c.detach() for c in clouds(3)), n_projections=n_projections),
        )
    with torch.no_grad():
        yield f"distance, no gradient {name}", lambda: distance(*(c.detach() for c in clouds(3)), **sliced)


def weighted_rows(x: torch.Tensor, y: torch.Tensor, a: torch.Tensor, b: torch.Tensor, p: float) -> None:
    a, b = a.to(x.dtype).requires_grad_(), b.to(y.dtype).requires_grad_()
    with_gradient(lambda *t: ck.wasserstein_1d(t[0], t[1], x_weights=t[2], y_weights=t[3], p=p), x, y, a, b)


OPERATIONS = {"sliced_ot": sliced_ot}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="native", choices=["native", "triton"])
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    count = 0
    with ck.use_backend(options.backend):
        for operation in OPERATIONS.values():
            for name, run in operation(options.device):
                try:
                    run()
                except Exception as error:
                    print(f"failed: {name}: {error}", flush=True)
                    return 1
                count += 1
    if options.device == "cuda":
        torch.cuda.synchronize()
    print(f"{count} cases ran on the {options.backend} backend", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
