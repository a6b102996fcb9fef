"""A short run of every GPU kernel through the public operations: the program that compute-sanitizer watches.

    python tools/gpu_sanitize.py [--backend native|triton] [--device cuda] [OPERATION ...]

Sizes are small (a sanitizer slows a kernel down many times) but reach every path: single points, tails, several blocks
of threads, sizes beyond shared memory, unequal sizes, weights, batches, every gradient.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "python"), str(ROOT / "tools")]

import torch  # noqa: E402

import cgm_kernels as ck  # noqa: E402
from gpu_sanitize_divergence import divergence_cases  # noqa: E402
from gpu_sanitize_langevin import langevin_cases  # noqa: E402

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


# Lanes of a warp, a warp, a block and several blocks a row; rows that packets fit and rows that they do not.
EVENTS = [(1, 1), (300, 1), (70, 5), (40, 16), (9, 63), (5, 256), (3, 700), (3, 2048), (2, 9001), (1, 140_000)]
SCALES = ("exp", "tanh", "softclip", "sigmoid", "softplus", "gate")


def both(outputs: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return torch.cat([part.double().flatten() for part in outputs])


def coupling(device: str) -> Iterator[Case]:
    dtypes = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    scales = itertools.cycle(itertools.product(SCALES, (False, True)))
    for dtype, (rows, cols) in itertools.product(dtypes, EVENTS):
        for (scale, inverse), _ in zip(scales, range(3), strict=False):
            yield from one_event(device, dtype, rows, cols, scale, inverse)
    for dtype, shape in itertools.product(dtypes, [(1, 1), (300, 6), (20, 1100), (7, 3, 5, 5), (5, 4, 32, 32)]):
        for channel in {1, len(shape) - 1}:
            parameters = (shape[channel], *[1] * (len(shape) - 1 - channel))
            tensors = [cloud(size, dtype, device, seed) for seed, size in enumerate((shape, parameters, parameters))]
            name = f"actnorm {dtype} {shape} of dimension {channel}"
            for map_ in (ck.affine_coupling, ck.affine_coupling_inverse):
                yield f"{name}, {map_.__name__}", lambda f=map_, t=tensors: with_gradient(lambda *u: both(f(*u)), *t)


def one_event(device: str, dtype: torch.dtype, rows: int, cols: int, scale: str, inverse: bool) -> Iterator[Case]:
    name = f"{str(dtype).removeprefix('torch.')} {rows} x {cols} {scale}{' inverse' * inverse}"
    map_ = ck.affine_coupling_inverse if inverse else ck.affine_coupling

    def event(split: int | slice, size: int, layout: str, eps: float = 0.0) -> None:
        x, log_det = cloud((rows, size), dtype, device, 1), cloud((rows,), dtype, device, 2)
        parameters = cloud((rows, 2 * cols), dtype, device, 3)
        options: dict[str, Any] = {"inverse": inverse, "scale": scale, "layout": layout, "eps": eps}
        with_gradient(
            lambda x, p, total: both(ck.affine_coupling_event(x, p, split, total, **options)), x, parameters, log_det
        )

    def halves() -> None:
        x = cloud((rows, 2 * cols), dtype, device, 1)
        with_gradient(lambda x: both(map_(x[:, cols:], x[:, :cols], x[:, ::2], scale=scale)), x)

    yield f"coupling of halves {name}", halves
    yield f"event, second part {name}", lambda: event(cols + 3, 2 * cols + 3, "scale_shift")
    yield f"event, first part {name}", lambda: event(slice(0, cols), 2 * cols, "shift_scale", 0.1)
    yield f"event, every other {name}", lambda: event(slice(0, None, 2), 2 * cols, "interleaved_scale_shift")


def masked(device: str) -> Iterator[Case]:
    """In shared memory and, of wide layers, in a workspace; every activation and scale; one row and many warps."""
    activations = itertools.cycle(("relu", "tanh", "sigmoid", "silu", "gelu", "elu", "softplus"))
    scales, maps = itertools.cycle(SCALES), itertools.cycle(("affine", "standardize"))
    shapes = [(1, 1, (4,)), (70, 7, (20, 9)), (33, 64, (64, 64)), (40, 6, (9, 9, 9)), (5, 9, (1500, 1200))]
    for dtype, (rows, dim, hidden), _ in itertools.product((torch.float32, torch.float64), shapes, range(2)):
        options = {"activation": next(activations), "scale": next(scales), "map": next(maps), "eps": 0.1}
        name = f"masked inverse {dtype} {rows} x {dim} {hidden} {options}"
        yield name, lambda a=(device, dtype, rows, dim, hidden), o=options: one_network(*a, **o)


def one_network(device: str, dtype: torch.dtype, rows: int, dim: int, hidden: tuple[int, ...], **options: Any) -> None:
    """An autoregressive network with residual blocks where the depth allows them, and a context."""
    degrees = [torch.cat([torch.arange(dim) + 1, torch.zeros(2, dtype=torch.long)])]
    degrees += [torch.arange(width) % dim for width in hidden]
    masks = [after.unsqueeze(1) >= before for before, after in itertools.pairwise(degrees)]
    masks.append((torch.arange(2 * dim) % dim + 1).unsqueeze(1) > degrees[-1])
    masks = [mask.to(device) for mask in masks]
    weights = [
        cloud(tuple(mask.shape), dtype, device, seed).detach() / mask.shape[1] for seed, mask in enumerate(masks)
    ]
    first = weights[0].requires_grad_()
    biases = [cloud((len(mask),), dtype, device, seed) for seed, mask in enumerate(masks)]
    y, context = cloud((rows, dim), dtype, device, 1), cloud((rows, 2), dtype, device, 2)

    def run(y: torch.Tensor, context: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        residual = len(weights) == 4
        return both(ck.masked_mlp_inverse(y, weights, biases, masks, context=context, residual=residual, **options))

    with_gradient(run, y, context, first, *biases)


def stacks(device: str) -> Iterator[Case]:
    """One number of a part and more than a tile, one row and many blocks; layers of two sizes, one with a context."""
    activations, scales = itertools.cycle(("relu", "tanh", "silu", "gelu", "elu", "softplus")), itertools.cycle(SCALES)
    shapes = [(1, 2, (4,)), (70, 7, (20, 9)), (33, 64, (64, 64)), (40, 6, (9, 9, 9)), (300, 150, (128, 5))]
    dtypes = (torch.float32, torch.float64, torch.bfloat16)
    for dtype, (rows, dim, hidden), inverse in itertools.product(dtypes, shapes, (False, True)):
        options = {"activation": next(activations), "scale": next(scales), "inverse": inverse}
        name = f"stack {dtype} {rows} x {dim} {hidden} {options}"
        yield name, lambda a=(device, dtype, rows, dim, hidden), o=options: one_stack(*a, **o)


def one_stack(device: str, dtype: torch.dtype, rows: int, dim: int, hidden: tuple[int, ...], **options: Any) -> None:
    half, layers, leaves = dim // 2, [], [cloud((rows, dim), dtype, device, 1), cloud((rows,), dtype, device, 2)]
    for split, passing in ((half, half), (slice(0, half), dim - half), (half, half)):
        widths = [passing, *hidden, 2 * (dim - passing)]
        biases = [cloud((width,), dtype, device, seed) for seed, width in enumerate(widths[1:])]
        weights = [cloud(pair[::-1], dtype, device, 3).detach() / pair[0] for pair in itertools.pairwise(widths)]
        context = [cloud((rows, hidden[0]), dtype, device, 4)] if isinstance(split, slice) else []
        leaves += [weights[0].requires_grad_(), *biases, *context]
        layers.append(ck.CouplingLayer(weights, biases, split, conditioning=context[0] if context else None, **options))
    with_gradient(lambda x, total, *_: both(ck.affine_coupling_stack(x, layers, total)), *leaves)


OPERATIONS = {
    **{"sliced_ot": sliced_ot, "coupling": coupling, "masked": masked, "stacks": stacks},
    **{"langevin": langevin_cases, "divergence": divergence_cases},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="native", choices=["native", "triton"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("operations", nargs="*", metavar="OPERATION", help=f"of {', '.join(OPERATIONS)}; else all")
    options = parser.parse_args()
    if unknown := set(options.operations) - set(OPERATIONS):
        parser.error(f"no such operation: {', '.join(sorted(unknown))}")
    count = 0
    with ck.use_backend(options.backend):
        for operation in options.operations or OPERATIONS:
            began, before = time.monotonic(), count
            for name, run in OPERATIONS[operation](options.device):
                try:
                    run()
                except Exception as error:
                    print(f"failed: {name}: {error}", flush=True)
                    return 1
                count += 1
            if options.device == "cuda":
                torch.cuda.synchronize()
            # A run that is stopped has said how far it came.
            print(f"{operation}: {count - before} cases in {time.monotonic() - began:.0f} s", flush=True)
    print(f"{count} cases ran on the {options.backend} backend", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
