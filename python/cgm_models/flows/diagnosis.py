"""What of a flow or a pixel model gave the first value that is not finite."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cgm_kernels.precision import wide

from .transform import Transform

if TYPE_CHECKING:
    from .flow import Flow


@torch.no_grad()
def explain_non_finite(
    flow: Flow, call: str, value: Tensor, points: Tensor, context: Tensor | None, *, inverse: bool
) -> None:
    """Run the map again with every layer watched, and raise an error that says where it left the finite numbers.

    Returns where nothing is wrong: the sum that was tested overflowed, a base of bounded support has no mass at some
    points, or these are so far away that their squares overflow.
    """
    where, argument = f"{type(flow).__name__}.{call}", "x" if inverse else "z"
    if not len(points):
        raise ValueError(f"{where}: {argument} must have at least one row, for a mean: got {tuple(points.shape)}")
    refuse_non_finite(flow, where, {argument: points, "context": context})
    with _watched(flow.transform, where):
        z, log_det = flow.transform.accumulate(points, context, None, inverse=inverse)
    if not log_det.isfinite().all():
        raise FloatingPointError(f"{where}: the log-determinants of the layers overflow when they are added")
    if value.isfinite().all():
        return
    carried = flow.base.full_support and value.ndim > 0 and _carried(points, value)
    if carried or value.isnan().any() or value.isposinf().any() or value.ndim == 0:
        latent = z if inverse else points
        density = flow.base.log_prob(latent, context)
        rows = f"{int((~density.isfinite()).sum())} of {len(density)} rows"
        base, reach = type(flow.base).__name__, float(latent.abs().max())
        raise FloatingPointError(f"{where}: the base {base} has no finite density at {rows}; |z| reaches {reach:.3g}")


def _carried(points: Tensor, density: Tensor) -> bool:
    """Whether a point lost its density on the way: it began where squares are finite."""
    near = wide(points).flatten(1).square().sum(1).isfinite()
    return bool((near & ~density.isfinite()).any())


def refuse_non_finite(model: nn.Module, where: str, arguments: Mapping[str, Tensor | None]) -> None:
    """An error that names the first argument, else the first parameter, that is not finite; none where all are."""
    for name, given in arguments.items():
        if given is not None and not given.isfinite().all():
            raise ValueError(f"{where}: {name} must be finite, and {_count(given)} rows are not")
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise FloatingPointError(f"{where}: the parameter {name} holds values that are not finite")


def traced() -> bool:
    """Whether no value can be read: in a graph being compiled or captured, or under ``torch.func.vmap``."""
    if torch.compiler.is_compiling() or (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()):
        return True
    transforms = torch._C._functorch.get_interpreter_stack() or ()
    return any(transform.key() == torch._C._functorch.TransformType.Vmap for transform in transforms)


def _count(points: Tensor) -> str:
    bad = ~points.reshape(len(points), -1).isfinite().all(1)
    return f"{int(bad.sum())} of {len(points)}"


@contextmanager
def _watched(root: Transform, where: str) -> Iterator[None]:
    """Inside, every transform under ``root`` raises when its result is not finite; the innermost raises first."""
    layers = [(name, layer) for name, layer in root.named_modules() if isinstance(layer, Transform)]
    try:
        for name, layer in layers:
            layer.accumulate = functools.partial(_checked, layer.accumulate, where, name, type(layer).__name__)  # type: ignore[method-assign]
        yield
    finally:
        for _, layer in layers:
            layer.__dict__.pop("accumulate", None)


def _checked(accumulate: Any, where: str, name: str, kind: str, x: Tensor, *rest: Any, **options: Any) -> Any:
    y, log_det = accumulate(x, *rest, **options)
    label = f"layer {name} ({kind})" if name else kind
    if not y.isfinite().all():
        raise FloatingPointError(f"{where}: {label} gives values that are not finite in {_count(y)} rows")
    if not log_det.isfinite().all():
        raise FloatingPointError(
            f"{where}: {label} gives a log-determinant that is not finite in {_count(log_det)} rows"
        )
    return y, log_det
