"""Steps of fixed size whose backward makes each of them again from the state at its beginning."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.autograd.graph import get_gradient_edge

from .integration import evaluations, integrate
from .solver import Solver
from .steps import Rates, advance


def integrate_with_checkpoints(
    rates: Rates, coupled: Sequence[Tensor], beside: Sequence[Tensor], parameters: Sequence[Tensor], solver: Solver,
    start: float, end: float,
) -> tuple[list[Tensor], int]:  # fmt: skip
    """``integrate``, of which nothing is kept but ``coupled`` at the beginning of each step; differentiable once.

    ``torch.utils.checkpoint`` does not do: rates that differentiate, as a divergence does, have it make its steps
    again, and keep them, within the forward pass. It is taken all the same, by ``integrate``, where the rates depend on
    more than the points and ``parameters``, whose gradients this could not give.
    """
    learnt = [parameter for parameter in parameters if parameter.requires_grad]
    if not torch.is_grad_enabled() or depends_on_more(rates, coupled, start, learnt):
        return integrate(rates, coupled, beside, solver, start, end)
    counted: list[int] = []
    tensors = (*coupled, *beside, *learnt)
    results = _Steps.apply(rates, solver, (start, end), counted, (len(coupled), len(beside)), *tensors)
    return list(results), counted[0]


class _Steps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rates: Rates, solver: Solver, span: tuple[float, float], counted: list[int], sizes: tuple[int, int],
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        n_coupled, n_state = sizes[0], sum(sizes)
        state, kept = list(tensors[:n_state]), list(tensors[n_state:])
        for t, following in itertools.pairwise(solver.times(*span)):
            kept += state[:n_coupled]
            state = advance(rates, n_coupled, solver.method, t, following - t, *state)
        counted.append(evaluations(solver))
        ctx.rates, ctx.solver, ctx.span, ctx.sizes = rates, solver, span, sizes
        ctx.n_learnt = len(tensors) - n_state
        device = tensors[0].device.type
        ctx.autocast = device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        ctx.save_for_backward(*kept)
        return tuple(state)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        learnt, states = ctx.saved_tensors[: ctx.n_learnt], ctx.saved_tensors[ctx.n_learnt :]
        n_coupled, sums = ctx.sizes[0], [torch.zeros_like(parameter) for parameter in learnt]
        by_coupled, by_beside = list(grads[:n_coupled]), grads[n_coupled:]
        for number, (t, following) in reversed(list(enumerate(itertools.pairwise(ctx.solver.times(*ctx.span))))):
            with torch.enable_grad(), torch.autocast(*ctx.autocast):
                begin = [one.detach().requires_grad_() for one in states[number * n_coupled : (number + 1) * n_coupled]]
                sum_before = [torch.zeros_like(grad) for grad in by_beside]  # which gradients do not depend on
                ends = advance(ctx.rates, n_coupled, ctx.solver.method, t, following - t, *begin, *sum_before)
            pairs = [
                (one, grad) for one, grad in zip(ends, (*by_coupled, *by_beside), strict=True) if one.requires_grad
            ]
            found = torch.autograd.grad(
                [one for one, _ in pairs], [*begin, *learnt], [grad for _, grad in pairs], materialize_grads=True
            )
            by_coupled = list(found[:n_coupled])
            for total, part in zip(sums, found[n_coupled:], strict=True):
                total += part
        return (None,) * 5 + (*by_coupled, *by_beside, *sums)


def depends_on_more(rates: Rates, coupled: Sequence[Tensor], start: float, known: Sequence[Tensor]) -> bool:
    """Whether the rates read anything with a gradient beside the coupled tensors and the known ones."""
    with torch.enable_grad():
        points = [one.detach().requires_grad_() for one in coupled]
        begin = points[0].view_as(points[0]).grad_fn
        found = rates(start, *points)
    assert begin is not None
    ends = {get_gradient_edge(tensor)[:2] for tensor in (*points, *known)}
    rest: list[Any] = [get_gradient_edge(one)[:2] for one in found if one.requires_grad]
    seen = {*ends, *rest}
    while rest:
        node, _ = rest.pop()
        if not node.next_functions or node._sequence_nr() < begin._sequence_nr():
            return True  # a leaf, or of a graph that was there before
        new: set[Any] = {edge for edge in node.next_functions if edge[0] is not None} - seen
        seen |= new
        rest += new
    return False
