"""Sliced optimal transport: batched one-dimensional transport by sorting, along many directions.

For clouds X = {x_i} and Y = {y_j} in R^d with weights a and b, and unit directions θ_1 … θ_L,

    C_p(X, Y) = (1/L) Σ_l W_p^p(⟨X, θ_l⟩, ⟨Y, θ_l⟩),        SW_p = C_p^(1/p),
    W_p^p(u, v) = ∫₀¹ |Q_u(t) − Q_v(t)|^p dt,                Q the quantile functions.

Sources: Rabin et al. 2012, "Wasserstein barycenter and its application to texture mixing"; Bonneel et al. 2015, "Sliced
and Radon Wasserstein barycenters of measures". Half-precision tensors are computed in float32. A NaN or an infinity in
an item's points makes that item's result NaN. Second derivatives, forward-mode derivatives and gradients by weights
(except in :func:`wasserstein_1d`) or by projections are available from the reference backend alone.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from .. import backends
from .._derivatives import beyond_kernels
from .._extension import _C
from .._register import operator, refuse_gradients
from ..precision import HALVES, outside_autocast
from . import checks, reference
from .directions import random_projections
from .operators import GRADIENT, NOTHING, keep_for

__all__ = [
    "random_projections",
    "sliced_displacement",
    "sliced_wasserstein_cost",
    "sliced_wasserstein_distance",
    "wasserstein_1d",
]


@outside_autocast
def wasserstein_1d(
    x: Tensor, y: Tensor, *, x_weights: Tensor | None = None, y_weights: Tensor | None = None, p: float = 2.0
) -> Tensor:
    """W_p^p between one-dimensional samples, exact, by sorting.

    Args:
        x: points (..., n); y: points (..., m). Leading dimensions broadcast.
        x_weights: nonnegative masses (n,) or (..., n), normalised inside; None is uniform. y_weights: likewise.
        p: the exponent, at least 1.

    Returns:
        (...): W_p^p (not its root) of each row, differentiable in the points and the weights. Where the optimal
        coupling is not unique, or p = 1 and points meet, it returns one subgradient.

    Raises:
        TypeError, ValueError: naming the argument that has a wrong type, dtype, device, shape or value.
    """
    x, y = checks.rows(x, y)
    p = checks.power(p)
    checks.weights("x_weights", x_weights, "x", x.shape, x)
    checks.weights("y_weights", y_weights, "y", y.shape, y)
    if x.dtype in HALVES:
        return wasserstein_1d(x.float(), y.float(), x_weights=x_weights, y_weights=y_weights, p=p).to(x.dtype)
    backend = "reference" if beyond_kernels(x, y, x_weights, y_weights) else backends.select(x.device.type)
    if backend == "reference":
        return reference.wasserstein_1d(x, y, x_weights, y_weights, p)
    grad = torch.is_grad_enabled()
    keeps = [grad and t is not None and t.requires_grad for t in (x, y, x_weights, y_weights)]
    if backend == "native" and not torch.compiler.is_compiling():
        value = _C.wasserstein_1d(x, y, x_weights, y_weights, p, *keeps)
        if value is not None:
            return value
    return operator(backend, "wasserstein_1d_forward")(x, y, x_weights, y_weights, p, *keeps)[0]


@outside_autocast
def sliced_wasserstein_distance(
    x: Tensor,
    y: Tensor,
    *,
    projections: Tensor | None = None,
    n_projections: int = 64,
    p: float = 2.0,
    x_weights: Tensor | None = None,
    y_weights: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """SW_p, the p-th root of the mean of W_p^p over directions.

    Args:
        x: a cloud (n, d), or a batch (B, n, d); y: (m, d) or (B, m, d).
        projections: directions (d, L), unit columns (not checked); None draws ``n_projections`` with
            :func:`random_projections` from ``generator`` (default: torch's CPU generator).
        p: the exponent, at least 1.
        x_weights: nonnegative masses (n,) or (B, n), normalised inside; None is uniform. y_weights: likewise.

    Returns:
        () or (B,), differentiable in x and y; the gradient is 0 where the distance is 0.

    Raises:
        TypeError, ValueError: naming the argument that has a wrong type, dtype, device, shape or value.
    """
    return _sliced(x, y, projections, n_projections, p, x_weights, y_weights, generator, root=True)


@outside_autocast
def sliced_wasserstein_cost(
    x: Tensor,
    y: Tensor,
    *,
    projections: Tensor | None = None,
    n_projections: int = 64,
    p: float = 2.0,
    x_weights: Tensor | None = None,
    y_weights: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """The mean of W_p^p over directions: SW_p^p, smooth where the distance is not.

    Arguments, result and errors as in :func:`sliced_wasserstein_distance`. For p = 2 and n = m the gradient is
    (2/nL) Σ_θ (⟨θ, x_i⟩ − y_(rank of i)) θ, with y_(k) the k-th smallest projection of y.
    """
    return _sliced(x, y, projections, n_projections, p, x_weights, y_weights, generator, root=False)


@outside_autocast
def sliced_displacement(
    x: Tensor,
    y: Tensor,
    *,
    projections: Tensor | None = None,
    n_projections: int = 64,
    x_weights: Tensor | None = None,
    y_weights: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """The mean over directions of (T_θ(⟨x, θ⟩) − ⟨x, θ⟩) θ.

    T_θ is the barycentric projection of the monotone coupling of the projected clouds. Equal to
    −(1/2a_i) ∇_{x_i} C_2: the drift of the sliced-Wasserstein flow (Liutkus et al. 2019). A point without mass does not
    move. Arguments and errors as in :func:`sliced_wasserstein_distance`.

    Returns:
        The shape of x. Differentiable in x, as the piecewise-linear map it is (ranks held fixed); the gradient in y
        comes from the reference backend alone, the others refuse it.
    """
    projections = _checked_directions(x, y, projections, n_projections, x_weights, y_weights, generator)
    if x.dtype in HALVES:
        widened = projections.float()
        return sliced_displacement(
            x.float(), y.float(), projections=widened, x_weights=x_weights, y_weights=y_weights
        ).to(x.dtype)
    beyond = beyond_kernels(x, y, projections, x_weights, y_weights)
    backend = "reference" if beyond else backends.select(x.device.type)
    if backend == "reference":
        return reference.sliced_displacement(x, y, projections, x_weights, y_weights)
    refuse_gradients(projections=projections, x_weights=x_weights, y_weights=y_weights, y=y)
    point = x.detach()
    _, gradient, _ = operator(backend, "sliced_forward")(
        point, y, projections, x_weights, y_weights, 2.0, False, GRADIENT, NOTHING
    )
    move = _per_mass(gradient.reshape(x.shape), x_weights)
    if x.requires_grad and torch.is_grad_enabled():
        # With the ranks held fixed only −⟨x, θ⟩ θ depends on x; its value cancels, its derivative stays.
        move = move + _fixed_rank_part(point, projections, x_weights) - _fixed_rank_part(x, projections, x_weights)
    return move


def _per_mass(gradient: Tensor, weights: Tensor | None) -> Tensor:
    """−gradient_i / (2 a_i), 0 where a_i is 0."""
    if weights is None:
        return gradient * (-0.5 * gradient.shape[-2])
    mass = (weights.double() / weights.double().sum(-1, keepdim=True)).unsqueeze(-1)
    scale = torch.where(mass > 0, -0.5 / torch.where(mass > 0, mass, 1.0), 0.0)
    return (gradient.double() * scale).to(gradient.dtype)


def _fixed_rank_part(x: Tensor, projections: Tensor, weights: Tensor | None) -> Tensor:
    moved = (x @ projections) @ projections.T / projections.shape[1]
    return moved if weights is None else torch.where((weights > 0).unsqueeze(-1), moved, 0.0)


def _sliced(
    x: Tensor,
    y: Tensor,
    projections: Tensor | None,
    n_projections: int,
    p: float,
    x_weights: Tensor | None,
    y_weights: Tensor | None,
    generator: Generator | None,
    root: bool,
) -> Tensor:
    projections = _checked_directions(x, y, projections, n_projections, x_weights, y_weights, generator)
    p = checks.power(p)
    if x.dtype in HALVES:
        clouds = (x.float(), y.float())
        return _sliced(*clouds, projections.float(), n_projections, p, x_weights, y_weights, None, root).to(x.dtype)
    beyond = beyond_kernels(x, y, projections, x_weights, y_weights)
    backend = "reference" if beyond else backends.select(x.device.type)
    if backend == "reference":
        return reference.sliced_wasserstein(x, y, projections, x_weights, y_weights, p, root)
    refuse_gradients(projections=projections, x_weights=x_weights, y_weights=y_weights)
    n_directions = projections.shape[1]
    arguments = (x, y, projections, x_weights, y_weights, p, root, keep_for(x, n_directions), keep_for(y, n_directions))
    if backend == "native" and not torch.compiler.is_compiling():
        value = _C.sliced_wasserstein(*arguments)
        if value is not None:
            return value
    return operator(backend, "sliced_forward")(*arguments)[0]


def _checked_directions(
    x: Tensor,
    y: Tensor,
    projections: Tensor | None,
    n_projections: int,
    x_weights: Tensor | None,
    y_weights: Tensor | None,
    generator: Generator | None,
) -> Tensor:
    checks.clouds(x, y)
    checks.weights("x_weights", x_weights, "x", x.shape[:-1], x)
    checks.weights("y_weights", y_weights, "y", y.shape[:-1], y)
    if projections is None:
        dtype = torch.float32 if x.dtype in HALVES else x.dtype
        return random_projections(x.shape[-1], n_projections, generator=generator, dtype=dtype, device=x.device)
    checks.directions(projections, x)
    return projections
