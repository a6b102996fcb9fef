"""Checks of the flows' arguments, with errors that name the argument."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..options import check_choice, check_flag, check_not_negative, check_positive, check_share, check_whole, is_whole

if TYPE_CHECKING:
    from .flow import SlicedWassersteinFlow
    from .neural_pool import FlowOptions


def check_step(step_size: Any, regularization: Any) -> None:
    check_positive("step_size", step_size)
    check_not_negative("regularization", regularization)


def check_options(flow: SlicedWassersteinFlow, patch_sizes: tuple[int, ...], global_fraction: float) -> None:
    """The numbers and switches, then those that depend on one another."""
    if not is_whole(flow.context_dim, 0):
        raise ValueError(f"context_dim must be the number of classes, 0 for none: got {flow.context_dim!r}")
    for name in ("n_steps", "n_projections", "n_quantiles", "n_particles", "batch_size"):
        if not (name == "batch_size" and flow.batch_size is None):
            check_whole(name, getattr(flow, name), 2 if name == "n_quantiles" else 1)
    check_choice("base", flow.base, ("gaussian", "uniform", "given"))
    for name in ("orthogonal", "standardize"):
        check_flag(name, getattr(flow, name))
    check_step(flow.step_size, flow.regularization)
    check_share("global_fraction", global_fraction)
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
        check_whole(name, value, least)
    for name in ("step_size", "context_scale"):
        check_positive(name, getattr(flow, name))
    check_not_negative("regression_weight", regression_weight)
    check_flag("even_samples", even_samples)
    check_share("end_fraction", end_fraction)
    check_share("global_fraction", flow.global_fraction)
    if flow.patch_sizes and len(event_shape) != 3:
        raise ValueError(f"patch_sizes need images (channels, height, width): got event_shape {event_shape}")
    if not all(is_whole(size, 1) for size in flow.patch_sizes):
        raise ValueError(f"patch_sizes must be whole numbers, at least 1: got {flow.patch_sizes}")
