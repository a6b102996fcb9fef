"""The divergence part of what compute-sanitizer watches; see ``gpu_sanitize.py``."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch

import cgm_kernels as ck
from cgm_kernels.activations import ACTIVATIONS
from cgm_kernels.divergence.tableaus import METHODS

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# Rows, d and hidden widths: packets and tails, lanes of a row and whole warps, several blocks of rows and of columns.
NETWORKS = [
    (1, 1, (1,)),
    (5, 3, (7, 5)),
    (300, 2, (64, 64)),
    (33, 6, (130, 33)),
    (70, 5, (16, 16, 16)),
    (9, 3, (2048,)),
]
Case = tuple[str, Callable[[], object]]


def divergence_cases(device: str) -> Iterator[Case]:
    """Every way to a trace with every option that has a kernel; flows by every method; combinations; potentials."""
    activations, ways = itertools.cycle(ACTIVATIONS), itertools.cycle(_ways())
    for dtype, network in itertools.product(DTYPES, NETWORKS):
        for (way, options), activation, _ in zip(ways, activations, range(3), strict=False):
            name = f"divergence {way} {_short(dtype)} {network} {activation}"
            given = {**options, "activation": activation}
            yield name, lambda a=(device, dtype, network), o=given: _divergence(*a, **o)
    flows = itertools.cycle(METHODS)
    for dtype, (way, options), network in itertools.product(DTYPES[:3], _ways(), NETWORKS[1:3]):
        if way in ("film by row",):
            continue
        name, method = f"flow {way} {_short(dtype)} {network}", next(flows)
        yield f"{name} {method}", lambda a=(device, dtype, network, method), o=options: _flow(*a, **o)
    for dtype, elements in itertools.product(DTYPES, (1, 7, 1024, 300_001)):
        name = f"combination {_short(dtype)} {elements}"
        yield name, lambda a=(device, dtype, elements): _combination(*a)
    for dtype, layers, (rows, d, width) in itertools.product(
        DTYPES[:2], (1, 2, 3), ((1, 1, 1), (33, 5, 32), (300, 9, 5))
    ):
        name = f"potential {_short(dtype)} {layers} layers {rows} x {d} {width}"
        yield name, lambda a=(device, dtype, rows, d, width, layers): _potential(*a)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _ways() -> list[tuple[str, dict[str, Any]]]:
    return [
        ("one probe", {"n_probes": 1}),
        ("probes, norm", {"n_probes": 3, "norm": True}),
        ("residual", {"n_probes": 2, "residual": True}),
        ("exact", {}),
        ("exact, norm", {"norm": True, "residual": True}),
        ("film", {"n_probes": 2, "film": "shared"}),
        ("film by row", {"film": "rows"}),
    ]


def _normal(device: str, dtype: torch.dtype, *shape: int, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return (scale * torch.randn(shape, generator=generator)).to(device, dtype).requires_grad_()


def _network(device: str, dtype: torch.dtype, network: tuple[int, int, tuple[int, ...]]) -> tuple[Any, ...]:
    rows, d, hidden = network
    weights = [_normal(device, dtype, b, a, scale=a**-0.5) for a, b in itertools.pairwise((d, *hidden, d))]
    biases = [_normal(device, dtype, len(weight), scale=0.3) for weight in weights]
    return _normal(device, dtype, rows, d), weights, biases


def _estimate(x: torch.Tensor, n_probes: int) -> dict[str, Any]:
    shape = (n_probes, *x.shape)
    return {"probes": _normal(x.device.type, x.dtype, *shape).detach()} if n_probes else {"exact": True}


def _differentiate(*results: torch.Tensor | None) -> None:
    found = [result for result in results if result is not None]
    total = sum((result.float().square().mean() for result in found), start=torch.zeros((), device=found[0].device))
    total.backward()
    if not all(bool(torch.isfinite(result).all()) for result in found):
        raise AssertionError(f"a value of {[tuple(result.shape) for result in found]} is not finite")


def _divergence(
    device: str, dtype: torch.dtype, network: Any, n_probes: int = 0, norm: bool = False, film: str = "", **options: Any
) -> None:
    x, weights, biases = _network(device, dtype, network)
    if film:
        rows = [len(x)] if film == "rows" else []
        sizes = [[*rows, len(bias)] for bias in biases]
        options["film"] = [(_normal(device, dtype, *size), _normal(device, dtype, *size)) for size in sizes]
    _differentiate(*ck.mlp_divergence(x, weights, biases, frobenius=norm, **_estimate(x, n_probes), **options))


def _flow(
    device: str, dtype: torch.dtype, network: Any, method: str, n_probes: int = 0, norm: bool = False, film: str = "",
    **options: Any,
) -> None:  # fmt: skip
    x, weights, biases = _network(device, dtype, network)
    if film:
        options["film"] = [(0.5 * bias, bias) for bias in biases]
    times = {"times": [0.0, 0.1, 0.3], "method": method, "keep_states": method != "rk4"}
    _differentiate(*ck.mlp_flow(x, weights, biases, regularizers=norm, **times, **_estimate(x, n_probes), **options))


def _combination(device: str, dtype: torch.dtype, elements: int) -> None:
    y, stages = _normal(device, dtype, elements), _normal(device, dtype, elements, 3).unbind(-1)
    step = torch.tensor(0.1, device=device)
    after = ck.runge_kutta_update(y, stages, [0.5, -1.0, 0.25], step)
    with torch.no_grad():
        error = ck.runge_kutta_error(y, after, stages, [0.1, 0.2, -0.3], step, 1e-2, 1e-3)
    _differentiate(after, ck.runge_kutta_update(y, stages[:1], [1.0], 0.1))
    if not bool(torch.isfinite(error)):
        raise AssertionError(f"the error of {elements} elements is {error}")


def _potential(device: str, dtype: torch.dtype, rows: int, d: int, width: int, layers: int) -> None:
    x, weights, biases = _network(device, dtype, (rows, d + 1, (width,) * layers))
    arguments = (weights[:layers], biases[:layers], _normal(device, dtype, width))
    quadratic, linear = _normal(device, dtype, 2, d + 1), _normal(device, dtype, d + 1)
    _differentiate(*ck.potential_divergence(x[:, :d], 0.5, *arguments, quadratic=quadratic, linear=linear))
    _differentiate(*ck.potential_flow(x[:, :d], *arguments, times=[0.0, 0.5], quadratic=quadratic))
