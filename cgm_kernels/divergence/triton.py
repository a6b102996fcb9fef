"""The divergence of perceptrons on Triton: the implementations of the registered operators.

Triton itself is imported by the first launch. Nothing here waits for the device once the small table of a network is
there, so that a CUDA graph can capture it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import packing
from .triton_flow import mlp_flow, mlp_flow_backward
from .triton_launch import contiguous, flags, network, of_tiles, sum_dtype, whole
from .triton_plan import TRACE, WARPS, Problem, plan
from .triton_runge_kutta import runge_kutta_error, runge_kutta_update
from .triton_trace import add_trace_gradients

__all__ = [
    "mlp_divergence", "mlp_divergence_backward", "mlp_flow", "mlp_flow_backward", "runge_kutta_error",
    "runge_kutta_update",
]  # fmt: skip


def mlp_divergence(
    x: Tensor, probes: Tensor | None, parameters: Tensor, added: Tensor, film: Tensor | None, widths: Sequence[int],
    activation: int, residual: bool, frobenius: bool, keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The value, the divergence, the norm and what the backward needs: z and ż of the hidden layers."""
    problem = Problem.of(x, probes, film, widths, activation, residual, frobenius)
    value, wide = x.new_empty(x.shape), sum_dtype(x)
    kept = x.new_empty(packing.kept_numbers(problem.batch, problem.n_probes, widths) if keep else 0)
    if x.numel() == 0:
        return value, x.new_zeros(len(x), dtype=wide), x.new_zeros(len(x) if frobenius else 0, dtype=wide), kept
    from . import triton_kernels as kernels

    chosen = plan(problem, x.is_cuda, x.element_size())
    divergence = of_tiles(x, chosen.tiles, problem.batch)
    norms = of_tiles(x, chosen.tiles, problem.batch if frobenius else 0)
    parameters = parameters.contiguous()
    scratch = x.new_empty(chosen.programs * problem.columns * chosen.stack)
    with torch.cuda.device_of(x):
        kernels.divergence_kernel[(chosen.programs,)](
            x.contiguous(), contiguous(probes, x), network(problem, parameters, film), contiguous(film, x),
            added.contiguous(), value, divergence, norms, kept, scratch, problem.batch, problem.tangents,
            chosen.tiles, chosen.jobs, flags(chosen, wide, len(added) > 1), KEEP=keep, num_warps=WARPS,
        )  # fmt: skip
    divergence, norms = whole(divergence, chosen.tiles), whole(norms, chosen.tiles)
    if problem.count > 1:
        divergence, norms = divergence / problem.count, norms / problem.count
    return value, divergence, norms, kept


@torch.no_grad()  # a backward that is to be differentiated runs with gradients on
def mlp_divergence_backward(
    grad_value: Tensor | None, grad_divergence: Tensor | None, grad_frobenius: Tensor | None, x: Tensor,
    probes: Tensor | None, parameters: Tensor, added: Tensor, film: Tensor | None, kept: Tensor,
    widths: Sequence[int], activation: int, residual: bool, frobenius: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """The gradients by x, parameters, added and film."""
    problem = Problem.of(x, probes, film, widths, activation, residual, frobenius)
    if x.numel() == 0:
        return tuple(x.new_zeros((0,) if like is None else like.shape) for like in (x, parameters, added, film))
    from . import triton_kernels as kernels

    batch, wide, by_row = problem.batch, sum_dtype(x), len(added) > 1
    parameters = parameters.contiguous()
    given = network(problem, parameters, film)
    share = given.n_parameters + given.n_matrix + given.n_bias + given.n_film
    chosen = plan(problem, x.is_cuda, x.element_size(), share)
    stack = problem.columns * chosen.stack * (4 if problem.residual else 3)
    shared = x.new_zeros(chosen.programs, share, dtype=wide)
    by_x = of_tiles(x, chosen.tiles, batch, problem.d)
    by_film = of_tiles(x, chosen.tiles, *film.shape) if film is not None and problem.film == 2 else shared
    by_added = of_tiles(x, chosen.tiles, *added.shape).zero_() if by_row else shared
    with torch.cuda.device_of(x):
        kernels.divergence_backward_kernel[(chosen.programs,)](
            x.contiguous(), contiguous(probes, x), given, contiguous(film, x), added.contiguous(), kept,
            contiguous(grad_value, x) if grad_value is not None else x.new_zeros(x.shape),
            _of_a_tangent(grad_divergence, x, problem.count), _of_a_tangent(grad_frobenius, x, problem.count),
            by_x, shared, by_film, by_added, x.new_empty(chosen.programs * stack), batch, problem.tangents,
            chosen.tiles, chosen.jobs, share, flags(chosen, wide, by_row), num_warps=WARPS,
        )  # fmt: skip
    parts = shared.split([given.n_parameters, given.n_matrix, given.n_bias, given.n_film], 1)
    # Summed apart: no result of an operator may be a view of another.
    by_parameters, by_matrix = parts[0].sum(0), parts[1].sum(0)
    added_grad = whole(by_added, chosen.tiles) if by_row else parts[2].sum(0, keepdim=True)
    film_grad = whole(by_film, chosen.tiles) if problem.film == 2 else parts[3].sum(0, keepdim=True)
    if problem.mode == TRACE:
        by_matrix = by_matrix.view(given.matrix.shape)
        add_trace_gradients(by_matrix, parameters.to(wide), film, widths, by_parameters, film_grad)
    found = (whole(by_x, chosen.tiles), by_parameters, added_grad, film_grad if problem.film else x.new_empty(0))
    return tuple(grad.to(x.dtype) for grad in found)


def _of_a_tangent(grad: Tensor | None, x: Tensor, count: int) -> Tensor:
    """By the sum over the tangents, given that by their mean."""
    if grad is None:
        return x.new_zeros(len(x), dtype=sum_dtype(x))
    return (grad / count if count > 1 else grad).contiguous()
