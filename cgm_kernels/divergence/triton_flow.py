"""The flow of perceptrons on Triton: the implementations of the registered operators."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .tableaus import METHODS, TABLEAUS
from .triton_launch import contiguous, flags, network, of_tiles, sum_dtype, whole
from .triton_plan import TRACE, WARPS, Problem, plan
from .triton_trace import add_trace_gradients

_MOST_STATES = 2**26  # numbers of states that a backward without them computes again at a time


def mlp_flow(
    x: Tensor, probes: Tensor | None, parameters: Tensor, time_bias: Tensor, added: Tensor | None,
    film: Tensor | None, steps: Sequence[float], method: int, widths: Sequence[int], activation: int, residual: bool,
    regularize: bool, keep_states: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """x at the end, the integrals (3, B), and x at the beginning of each step."""
    problem = Problem.of(x, probes, film, widths, activation, residual, regularize, len(time_bias))
    wide, batch = sum_dtype(x), problem.batch
    x1, states = x.new_empty(x.shape), x.new_empty((len(steps), *x.shape) if keep_states else (0,))
    if x.numel() == 0:
        return x1, x.new_zeros(3, batch, dtype=wide), states
    from .triton_flow_kernels import flow_kernel

    chosen, tableau = plan(problem, x.is_cuda, x.element_size()), TABLEAUS[METHODS[method]]
    parameters, integrals = parameters.contiguous(), of_tiles(x, chosen.tiles, 3, batch)
    with torch.cuda.device_of(x):
        flow_kernel[(chosen.programs,)](
            x.contiguous(), contiguous(probes, x), network(problem, parameters, film), contiguous(film, x),
            time_bias.contiguous(), contiguous(added, x), _method(tuple(steps), method, x.device), x1, integrals,
            states, x.new_empty(chosen.programs * problem.columns * chosen.stack),
            x.new_empty(chosen.programs * (1 + tableau.stages) * chosen.block * problem.d, dtype=wide),
            batch, problem.tangents, chosen.tiles, chosen.jobs, flags(chosen, wide, added is not None, True),
            KEEP=keep_states, REGULARIZE=regularize, num_warps=WARPS,
        )  # fmt: skip
    integrals = whole(integrals, chosen.tiles)
    if problem.count > 1:
        integrals[0::2] /= problem.count
    return x1, integrals, states


@torch.no_grad()  # a backward that is to be differentiated runs with gradients on
def mlp_flow_backward(
    grad_x1: Tensor | None, grad_integrals: Tensor | None, x: Tensor, probes: Tensor | None, parameters: Tensor,
    time_bias: Tensor, added: Tensor | None, film: Tensor | None, states: Tensor, steps: Sequence[float],
    method: int, widths: Sequence[int], activation: int, residual: bool, regularize: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """The gradients by x, parameters, time_bias, added and film."""
    wide = sum_dtype(x)
    grads = [torch.zeros_like(like, dtype=wide) for like in (parameters, time_bias)]
    grad_film = x.new_zeros(0 if film is None else film.shape, dtype=wide)
    by_x, by_added = [x.new_empty(0, x.shape[1])], []
    for rows in _chunks(x, states, len(steps)):
        part, e = x[rows], None if probes is None else probes[:, rows]
        own = None if added is None else added[rows]
        if len(states) > 0 or not steps:
            kept = states[:, rows] if steps else x.new_empty(0, *part.shape)
        else:
            nothing = x.new_empty(0, *part.shape)
            kept = mlp_flow(
                part, nothing, parameters, time_bias, own, film, steps, method, widths, activation, residual,
                False, True,
            )[2]  # fmt: skip
        by_end = None if grad_x1 is None else grad_x1[rows]
        by_integrals = None if grad_integrals is None else grad_integrals[:, rows]
        found = _backward(
            by_end, by_integrals, kept, e, parameters, time_bias, own, film, steps, method, widths, activation,
            residual, regularize,
        )  # fmt: skip
        by_x.append(found[0])
        by_added.append(found[3])
        for total, more in zip((*grads, grad_film), (found[1], found[2], found[4]), strict=True):
            total += more
    added_grad = x.new_empty(0) if added is None else torch.cat(by_added or [added.new_empty(added.shape)])
    return tuple(grad.to(x.dtype) for grad in (torch.cat(by_x), *grads, added_grad, grad_film))


def _chunks(x: Tensor, states: Tensor, n_steps: int) -> Iterator[slice]:
    """All rows where there are states; else as many at a time as their states may take."""
    size = len(x) if len(states) > 0 else max(1, _MOST_STATES // (max(1, n_steps) * max(1, x.shape[1])))
    return (slice(first, first + size) for first in range(0, len(x) if x.numel() else 0, max(size, 1)))


def _backward(
    grad_x1: Tensor | None, grad_integrals: Tensor | None, states: Tensor, probes: Tensor | None, parameters: Tensor,
    time_bias: Tensor, added: Tensor | None, film: Tensor | None, steps: Sequence[float], method: int,
    widths: Sequence[int], activation: int, residual: bool, regularize: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """With the states (N, B, d), in the dtype of sums."""
    from .triton_flow_kernels import flow_backward_kernel

    shape = states.shape[1:]
    problem = Problem.of(
        states.new_empty(shape), probes, film, widths, activation, residual, regularize, len(time_bias)
    )  # fmt: skip
    wide, batch, stages = sum_dtype(states), problem.batch, TABLEAUS[METHODS[method]].stages
    parameters = parameters.contiguous()
    given = network(problem, parameters, film)
    rows = [given.n_parameters, given.n_matrix, time_bias.numel(), 0 if film is None else film.numel()]
    chosen = plan(problem, states.is_cuda, states.element_size(), sum(rows))
    shared = states.new_zeros(chosen.programs, sum(rows), dtype=wide)
    by_x = of_tiles(states, chosen.tiles, *shape)
    by_added = shared if added is None else of_tiles(states, chosen.tiles, *added.shape).zero_()
    stack = problem.columns * chosen.stack * (2 * stages + 2)
    points = chosen.programs * (3 + 2 * stages) * chosen.block * problem.d
    incoming = states.new_zeros(3, batch, dtype=wide) if grad_integrals is None else grad_integrals.clone()
    if problem.count > 1:
        incoming[0::2] /= problem.count
    start = states.new_zeros(shape) if grad_x1 is None else grad_x1.contiguous()
    with torch.cuda.device_of(states):
        flow_backward_kernel[(chosen.programs,)](
            states.contiguous(), contiguous(probes, states), given, contiguous(film, states), time_bias.contiguous(),
            contiguous(added, states), _method(tuple(steps), method, states.device), start, incoming.contiguous(),
            by_x, shared, by_added, states.new_empty(chosen.programs * stack), states.new_empty(points, dtype=wide),
            batch, problem.tangents, chosen.tiles, chosen.jobs, sum(rows), flags(chosen, wide, added is not None, True),
            num_warps=WARPS,
        )  # fmt: skip
    grads = shared.sum(0).split(rows)
    if problem.mode == TRACE:
        add_trace_gradients(grads[1].view(given.matrix.shape), parameters.to(wide), film, widths, grads[0], None)
    by_film = grads[3] if film is None else grads[3].view(film.shape)
    by_added = by_added if added is None else whole(by_added, chosen.tiles)
    return whole(by_x, chosen.tiles), grads[0], grads[2].view(time_bias.shape), by_added, by_film


@functools.lru_cache(maxsize=64)
def _method(steps: tuple[float, ...], method: int, device: torch.device) -> Any:
    """The steps and the tableau as the kernels take them."""
    from .triton_flow_kernels import Method

    tableau = TABLEAUS[METHODS[method]]
    rows = (*tableau.matrix, tableau.weights)
    padded = [c for row in rows for c in (*row, *[0.0] * (tableau.stages - len(row)))]
    numbers = torch.tensor([*steps, *padded], dtype=torch.float64).to(device)
    return Method(numbers, len(steps), numbers[len(steps) :], tableau.stages)
