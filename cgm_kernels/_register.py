"""Turns a schema, a fake and the parts of a backward into a registered operator of every backend.

Each operation lives in one operator namespace per backend (``cgm_native``, ``cgm_triton``) under the same schema, so
that both run in one process and a compiled graph keeps the backend it was traced with. The native implementations are
registered by the extension itself (``TORCH_LIBRARY_IMPL``), in whichever order the two are loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from ._derivatives import carries_tangent, differentiate_again, keep_arguments

NAMESPACES = ("cgm_native", "cgm_triton")

_NO_FORWARD_MODE = "forward-mode derivatives come from cgm_kernels.use_backend('reference') alone"
_NO_SECOND_DERIVATIVES = (
    "second derivatives are not available from the fused kernels; use cgm_kernels.use_backend('reference')"
)

_transformable: dict[str, type[Function]] = {}


def register(
    name: str,
    schema: str,
    *,
    fake: Callable[..., Any],
    setup_context: Callable[..., Sequence[Tensor | None]],
    backward: Callable[..., Any],
    triton: Callable[..., Any],
    values: int = 1,
    once: bool = False,
) -> None:
    """Define ``name`` in both namespaces.

    ``schema`` is the signature without the name. The first ``values`` outputs are the operation's; the others are kept
    for the backward and are not differentiable. ``setup_context(ctx, inputs, output)`` returns the tensors to save, all
    that the gradients depend on among them, and ``backward(ctx, *grads, *saved)`` gets the gradients of the values
    alone (None where nothing reached one) and finds "native" or "triton" in ``ctx.backend``. Its result can be
    differentiated again, by the ``composed`` of the operators that it calls; with ``once`` that raises.
    """
    define(name, schema, fake=fake, triton=triton)
    for namespace in NAMESPACES:
        backend = namespace.removeprefix("cgm_")
        _differentiable(f"{namespace}::{name}", *_autograd(backend, setup_context, backward, values, once))


def _autograd(
    backend: str,
    setup_context: Callable[..., Sequence[Tensor | None]],
    backward: Callable[..., Any],
    values: int,
    once: bool,
) -> tuple[Callable[..., None], Callable[..., Any]]:
    """What autograd runs: the saving of tensors after the forward, and the backward."""

    def setup(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.backend = backend
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(output[values:] if isinstance(output, tuple) else ()))
        ctx.save_for_backward(*setup_context(ctx, inputs, output))

    def differentiate(ctx: Any, *grad_outputs: Tensor | None) -> Any:
        wanted, saved = grad_outputs[:values], ctx.saved_tensors
        if carries_tangent(*wanted):
            raise RuntimeError(f"a backward's {_NO_FORWARD_MODE}")
        if not torch.is_grad_enabled() and not torch.compiler.is_compiling():
            with torch._C._AutoDispatchBelowAutograd():  # the operators' own derivatives take time even unasked
                return backward(ctx, *wanted, *saved)
        grads = backward(ctx, *wanted, *saved)
        if not once:
            return grads
        return tuple(grad if grad is None else _refuse(grad, *saved, *wanted) for grad in grads)

    return setup, differentiate


def define(
    name: str,
    schema: str,
    *,
    fake: Callable[..., Any],
    triton: Callable[..., Any],
    composed: Callable[..., Any] | None = None,
) -> None:
    """Define ``name`` in both namespaces, as the backward of another operator or for callers that differentiate it.

    ``composed`` is the same in PyTorch's operators, of the same arguments (half precision comes as float32): its
    derivatives are the operator's, which has none without.
    """
    for namespace in NAMESPACES:
        torch.library.define(f"{namespace}::{name}", schema, tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.register_fake(f"{namespace}::{name}", fake)
    torch.library.impl(f"cgm_triton::{name}", ("CPU", "CUDA"), triton)
    if composed is None:
        return

    def differentiate(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        return differentiate_again(ctx, composed, grads)

    for namespace in NAMESPACES:
        _differentiable(f"{namespace}::{name}", keep_arguments, differentiate)


def _differentiable(operator: str, setup: Callable[..., None], differentiate: Callable[..., Any]) -> None:
    torch.library.register_autograd(operator, differentiate, setup_context=setup)
    _transformable[operator] = _function(operator, setup, differentiate)


def _function(operator: str, setup: Callable[..., None], differentiate: Callable[..., Any]) -> type[Function]:
    """The operator as a Function that torch.func understands; it takes no part in ordinary calls."""
    namespace, name = operator.split("::")

    class Transformable(Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*inputs: Any) -> Any:
            return getattr(getattr(torch.ops, namespace), name)(*inputs)

        @staticmethod
        def jvp(ctx: Any, *_: Any) -> Any:
            raise RuntimeError(f"{name}: {_NO_FORWARD_MODE}")

        setup_context = staticmethod(setup)
        backward = staticmethod(differentiate)

    return Transformable


class _RefuseDoubleBackward(Function):
    """The identity on a gradient, tied by its sources to the graphs of all that it depends on."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gradient: Tensor, *sources: Tensor | None) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise RuntimeError(_NO_SECOND_DERIVATIVES)

    @staticmethod
    def jvp(ctx: Any, *_: Tensor) -> Any:
        raise RuntimeError(_NO_SECOND_DERIVATIVES)


def _refuse(gradient: Tensor, *sources: Tensor | None) -> Tensor:
    return _RefuseDoubleBackward.apply(gradient, *sources)


def refuse_gradients(**tensors: Tensor | None) -> None:
    """Raise where a gradient is wanted by an argument that the fused kernels do not differentiate."""
    if torch.is_grad_enabled():
        for name, tensor in tensors.items():
            if tensor is not None and tensor.requires_grad:
                raise ValueError(
                    f"{name} requires grad, which this operation gives only under "
                    f"cgm_kernels.use_backend('reference'): use it, or {name}.detach()"
                )


def operator(backend: str, name: str) -> Callable[..., Any]:
    """The registered operator ``name`` of ``backend`` ("native" or "triton"), in the form that this call can see."""
    if f"cgm_{backend}::{name}" in _transformable and torch._C._are_functorch_transforms_active():
        return _transformable[f"cgm_{backend}::{name}"].apply
    return getattr(getattr(torch.ops, f"cgm_{backend}"), name)
