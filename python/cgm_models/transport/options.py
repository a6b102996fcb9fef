"""Checks of the flows' arguments, with errors that name the argument."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..model import class_labels

if TYPE_CHECKING:
    from .flow import SlicedWassersteinFlow
    from .neural_pool import FlowOptions


def is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: Any) -> bool:
    """A finite real number, booleans left out."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def check_event_shape(event_shape: Sequence[int]) -> tuple[int, ...]:
    """The shape as a tuple."""
    if isinstance(event_shape, str) or not isinstance(event_shape, Sequence):
        raise TypeError(f"event_shape must be a tuple of sizes, as (2,): got {event_shape!r}")
    shape = tuple(event_shape)
    if not shape or not all(is_whole(size, 1) for size in shape):
        raise ValueError(f"event_shape must hold positive sizes: got {shape}")
    return shape


def check_step(step_size: Any, regularization: Any) -> None:
    if not is_number(step_size) or step_size <= 0:
        raise ValueError(f"step_size must be positive and a finite number: got {step_size!r}")
    if not is_number(regularization) or regularization < 0:
        raise ValueError(f"regularization must be a number, not negative: got {regularization!r}")


def check_options(flow: SlicedWassersteinFlow, patch_sizes: tuple[int, ...], global_fraction: float) -> None:
    """The numbers and switches, then those that depend on one another."""
    if not is_whole(flow.context_dim, 0):
        raise ValueError(f"context_dim must be the number of classes, 0 for none: got {flow.context_dim!r}")
    for name in ("n_steps", "n_projections", "n_quantiles", "n_particles", "batch_size"):
        value, least = getattr(flow, name), 2 if name == "n_quantiles" else 1
        if not (name == "batch_size" and value is None) and not is_whole(value, least):
            raise ValueError(f"{name} must be a whole number, at least {least}: got {value!r}")
    if flow.base not in ("gaussian", "uniform", "given"):
        raise ValueError(f"base must be 'gaussian', 'uniform' or 'given': got {flow.base!r}")
    for name in ("orthogonal", "standardize"):
        if not isinstance(getattr(flow, name), bool):
            raise ValueError(f"{name} must be True or False: got {getattr(flow, name)!r}")
    check_step(flow.step_size, flow.regularization)
    if not is_number(global_fraction) or not 0.0 <= global_fraction <= 1.0:
        raise ValueError(f"global_fraction must lie in [0, 1]: got {global_fraction!r}")
    if flow.n_particles < max(1, flow.context_dim):
        raise ValueError(f"n_particles must be at least the {flow.context_dim} classes: got {flow.n_particles}")
    _check_patches(flow, patch_sizes)


def _check_patches(flow: SlicedWassersteinFlow, patch_sizes: tuple[int, ...]) -> None:
    if patch_sizes and (not flow.orthogonal or len(flow.event_shape) != 3):
        raise ValueError(f"patch_sizes need orthogonal directions and images (c, h, w): got {flow.event_shape}")
    if not all(is_whole(size, 1) for size in patch_sizes):
        raise ValueError(f"patch_sizes must be whole numbers, at least 1: got {patch_sizes}")
    if flow.patch_sizes and flow.n_projections > flow.dim:
        raise ValueError(f"with patches n_projections must be at most {flow.dim}: got {flow.n_projections}")


def check_neural_options(
    flow: FlowOptions,
    event_shape: tuple[int, ...],
    whole_numbers: dict[str, tuple[Any, int]],
    end_fraction: Any,
    regression_weight: Any,
    even_samples: Any,
) -> None:
    """The arguments of ``NeuralSlicedWassersteinFlow`` that its network does not check; whole numbers, least ones."""
    whole = {
        **whole_numbers,
        "n_flow_steps": (flow.n_steps, 1),
        "n_projections": (flow.n_projections, 1),
        "n_particles": (flow.n_particles, 1),
        "n_clouds": (flow.n_clouds, 2),
        "n_knots": (flow.n_knots, 1),
    }
    for name, (value, least) in whole.items():
        if not is_whole(value, least):
            raise ValueError(f"{name} must be a whole number, at least {least}: got {value!r}")
    for name, value in {"step_size": flow.step_size, "context_scale": flow.context_scale}.items():
        if not is_number(value) or value <= 0:
            raise ValueError(f"{name} must be positive and a finite number: got {value!r}")
    if not is_number(regression_weight) or regression_weight < 0:
        raise ValueError(f"regression_weight must be a number, not negative: got {regression_weight!r}")
    if not isinstance(even_samples, bool):
        raise ValueError(f"even_samples must be True or False: got {even_samples!r}")
    for name, value in {"end_fraction": end_fraction, "global_fraction": flow.global_fraction}.items():
        if not is_number(value) or not 0.0 <= value <= 1.0:
            raise ValueError(f"{name} must lie in [0, 1]: got {value!r}")
    if flow.patch_sizes and len(event_shape) != 3:
        raise ValueError(f"patch_sizes need images (channels, height, width): got event_shape {event_shape}")
    if not all(is_whole(size, 1) for size in flow.patch_sizes):
        raise ValueError(f"patch_sizes must be whole numbers, at least 1: got {flow.patch_sizes}")


def flat_points(x: Tensor, name: str, event_shape: tuple[int, ...]) -> Tensor:
    """``x`` (n, *event) as (n, d)."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"{name} must be a floating-point Tensor: got {getattr(x, 'dtype', type(x).__name__)}")
    if not x.ndim or tuple(x.shape[1:]) != event_shape:
        raise ValueError(f"{name} must have shape (n, {', '.join(map(str, event_shape))}): got {tuple(x.shape)}")
    return x.reshape(len(x), math.prod(event_shape))


def context_rows(context: Tensor | None, n: int, context_dim: int) -> Tensor | None:
    """``context`` as (n, context_dim), labels as one-hot rows; None for a flow without context."""
    if not context_dim:
        if context is not None:
            raise ValueError("this flow has no context: construct it with context_dim, or leave context out")
        return None
    if not isinstance(context, Tensor):
        got = "None" if context is None else type(context).__name__
        raise ValueError(f"this flow is conditional: context must be a Tensor of {context_dim}: got {got}")
    if not context.is_floating_point():
        return torch.nn.functional.one_hot(class_labels(context, n, context_dim), context_dim)
    if context.shape not in ((context_dim,), (n, context_dim)):
        expected = f"({context_dim},) or ({n}, {context_dim})"
        raise ValueError(f"context must have shape {expected}: got {tuple(context.shape)}")
    return context.expand(n, context_dim)
