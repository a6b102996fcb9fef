"""What the fused kernels do not differentiate themselves: their second derivatives, and forward mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import TransformType, get_interpreter_stack
from torch.autograd import forward_ad

from .precision import wide


def pulled_back(
    function: Callable[..., Any], inputs: Sequence[Tensor | None], grads: Sequence[Tensor | None]
) -> list[Tensor]:
    """The gradients Σ_k grads_k ∂function_k/∂input of all inputs, which autograd differentiates again in all of them.

    A gradient that is None stands for zeros, and that by an input that is None is an empty tensor.
    """
    given = [tensor for tensor in inputs if tensor is not None]

    def values(*tensors: Tensor) -> tuple[Tensor, ...]:
        rest = iter(tensors)
        found = function(*(None if tensor is None else next(rest) for tensor in inputs))
        return (found,) if isinstance(found, Tensor) else tuple(found)

    run = _by_transform if torch._C._are_functorch_transforms_active() else _by_autograd
    found = iter(run(values, given, grads))
    return [given[0].new_empty(0) if tensor is None else next(found) for tensor in inputs]


def _by_transform(
    values: Callable[..., tuple[Tensor, ...]], inputs: Sequence[Tensor], grads: Sequence[Tensor | None]
) -> Sequence[Tensor]:
    outputs, pull = torch.func.vjp(values, *inputs)  # type: ignore[misc]
    return pull(tuple(_cotangent(output, grad) for output, grad in zip(outputs, grads, strict=True)))


def _by_autograd(
    values: Callable[..., tuple[Tensor, ...]], inputs: Sequence[Tensor], grads: Sequence[Tensor | None]
) -> Sequence[Tensor]:
    """Where hooks for saved tensors may be at work, which torch.func does not take."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Each a node of its own: an input may depend on another.
        own = [one.view_as(one) if one.requires_grad else one.detach().requires_grad_() for one in inputs]
        outputs = values(*own)
    cotangents = [_cotangent(output, grad) for output, grad in zip(outputs, grads, strict=True)]
    pairs = [(output, grad) for output, grad in zip(outputs, cotangents, strict=True) if output.requires_grad]
    ends, weights = [output for output, _ in pairs], [grad for _, grad in pairs]
    return torch.autograd.grad(ends, own, weights, create_graph=create_graph, materialize_grads=True)


def _cotangent(output: Tensor, grad: Tensor | None) -> Tensor:
    return torch.zeros_like(output) if grad is None else grad.to(output.dtype)


def differentiate_again(ctx: Any, composed: Callable[..., Any], grads: Sequence[Tensor | None]) -> tuple[Any, ...]:
    """The gradients of an operator by its arguments, those of ``ctx``, of which ``composed`` computes the results."""
    arguments = list(ctx.constants)
    for place, saved in zip(ctx.places, ctx.saved_tensors, strict=True):
        arguments[place] = saved
    wanted = [place for place in ctx.places if ctx.needs_input_grad[place]]

    def results(*tensors: Tensor) -> Any:
        given = dict(zip(wanted, tensors, strict=True))
        return composed(*(_wide(given.get(place, argument)) for place, argument in enumerate(arguments)))

    tensors = [arguments[place] for place in wanted]
    with torch.autocast(tensors[0].device.type, enabled=False):  # a backward may be called where autocast is on
        found = pulled_back(results, tensors, grads)
    result: list[Tensor | None] = [None] * len(arguments)
    for place, gradient in zip(wanted, found, strict=True):
        result[place] = gradient
    return tuple(result)


def keep_arguments(ctx: Any, inputs: Sequence[Any], output: Any) -> None:
    """Saves the arguments of an operator for :func:`differentiate_again`."""
    ctx.set_materialize_grads(False)
    ctx.places = [place for place, value in enumerate(inputs) if isinstance(value, Tensor)]
    ctx.constants = [None if isinstance(value, Tensor) else value for value in inputs]
    ctx.save_for_backward(*(inputs[place] for place in ctx.places))


def _wide(value: Any) -> Any:
    return wide(value) if isinstance(value, Tensor) else value


def beyond_kernels(*values: Any) -> bool:
    """Whether derivatives may be asked of a call on ``values`` that only the reference gives.

    Those are forward-mode ones, where a tensor, in lists too, has a tangent, and transforms of transforms: inside of
    torch.func.jvp or of two of grad, vjp and the like, as of hessian. In a compiled graph they are all transforms:
    Dynamo breaks on a Function with rules of its own for them (PyTorch's issues 129845 and 174067), or loses the rules.
    """
    if torch.compiler.is_compiling():
        return torch._C._are_functorch_transforms_active()
    if torch._C._are_functorch_transforms_active():
        kinds = [interpreter.key() for interpreter in get_interpreter_stack() or ()]
        return TransformType.Jvp in kinds or kinds.count(TransformType.Grad) > 1 or forward_ad._current_level >= 0
    return forward_ad._current_level >= 0 and _is_dual(values)


def carries_tangent(*values: Any) -> bool:
    """Whether forward mode is at work on ``values``: in torch.func.jvp all are taken for it."""
    if torch.compiler.is_compiling() or forward_ad._current_level < 0:
        return False
    kinds = [interpreter.key() for interpreter in get_interpreter_stack() or ()]
    return TransformType.Jvp in kinds or _is_dual(values)


def transformed(*values: Any) -> bool:
    """Whether any transform of torch.func is at work, or one of ``values`` carries a tangent.

    This is for operators without rules for transforms; those that have them ask :func:`beyond_kernels`.
    """
    if torch._C._are_functorch_transforms_active():
        return True
    return not torch.compiler.is_compiling() and forward_ad._current_level >= 0 and _is_dual(values)


def has_tangent(*values: Any) -> bool:
    """Whether one of ``values``, in lists too, itself carries a tangent of forward mode."""
    return forward_ad._current_level >= 0 and _is_dual(values)


def _is_dual(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(_is_dual(part) for part in value)
    return isinstance(value, Tensor) and forward_ad.unpack_dual(value).tangent is not None
