"""Derivatives of a fused call beyond those that its kernels give, held to the reference's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import cgm_kernels


def assert_further_derivatives(
    call: Callable[..., Sequence[Tensor]], leaves: Sequence[Tensor], backend: str, *, func: bool = True
) -> None:
    """Second and third derivatives by autograd, those in batches, and with ``func`` torch.func's and forward mode's.

    ``call(*leaves)`` gives the tensors of a result, in float64.
    """

    def total(*leaves: Tensor) -> Tensor:
        return sum(((one * waves(one)).square().sum() + one.sin().sum() for one in call(*leaves)), torch.zeros(()))

    with cgm_kernels.use_backend("reference"):
        expected = _derivatives(total, leaves, func)
    with cgm_kernels.use_backend(backend):
        found = _derivatives(total, leaves, func)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def of_tensors(
    function: Callable[..., Any], arguments: Mapping[str, Any], constants: Sequence[str] = ()
) -> tuple[Callable[..., list[Tensor]], list[Tensor]]:
    """``function(**arguments)`` as a function of the float tensors among them, in lists too, and these."""
    kept = {name: value for name, value in arguments.items() if name in constants}
    values, spec = pytree.tree_flatten({name: value for name, value in arguments.items() if name not in constants})
    places = [k for k, value in enumerate(values) if isinstance(value, Tensor) and value.is_floating_point()]

    def call(*leaves: Tensor) -> list[Tensor]:
        given = dict(zip(places, leaves, strict=True))
        every = pytree.tree_unflatten([given.get(k, value) for k, value in enumerate(values)], spec)
        return [one for one in function(**every, **kept) if one is not None]

    return call, [values[k].detach() for k in places]


def waves(like: Tensor) -> Tensor:
    """Numbers that tell the elements of a tensor apart."""
    return torch.arange(like.numel(), dtype=like.dtype, device=like.device).cos().reshape(like.shape)


def _derivatives(total: Callable[..., Tensor], leaves: Sequence[Tensor], func: bool) -> list[Tensor]:
    inputs = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    first = _gradients(total(*inputs), inputs)
    second = _gradients(sum((one * waves(one)).sum() for one in first), inputs)
    third = _gradients(sum(one.sin().sum() for one in second), inputs)
    found = [*first, *second, *third]
    directions = torch.stack([waves(first[0]), torch.ones_like(first[0])])
    found += torch.autograd.grad(first[0], inputs[0], directions, is_grads_batched=True, retain_graph=True)
    if func:
        others, tangents = [leaf.detach() for leaf in leaves[1:]], tuple(waves(leaf) for leaf in leaves)
        found.append(torch.func.hessian(lambda one: total(one, *others))(leaves[0].detach()))
        found.append(torch.func.jacrev(torch.func.grad(lambda one: total(one, *others)))(leaves[0].detach()))
        found += torch.func.jvp(total, tuple(leaf.detach() for leaf in leaves), tangents)
    return [one.detach() for one in found]


def _gradients(value: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(value, inputs, create_graph=True, allow_unused=True)
    return [torch.zeros_like(one) if grad is None else grad for grad, one in zip(found, inputs, strict=True)]
