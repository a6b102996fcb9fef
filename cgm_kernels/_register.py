"""Turns a schema, a fake and the parts of a backward into a registered operator of every backend.

Each operation lives in one operator namespace per backend (``cgm_native``, ``cgm_triton``) under the same schema, so that
both run in one process and a compiled graph keeps the backend it was traced with. The native implementations are
registered by the extension itself (``TORCH_LIBRARY_IMPL``), in whichever order the two are loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import forward_ad

NAMESPACES = ("cgm_native", "cgm_triton")


def register(
    name: str,
    schema: str,
    *,
    fake: Callable[..., Any],
    setup_context: Callable[..., None],
    backward: Callable[..., Any],
    triton: Callable[..., Any],
) -> None:
    """Define ``name`` in both namespaces.

    ``schema`` is the signature without the name. The first output is the value; the others are kept for the backward
    and are not differentiable: ``backward(ctx, grad_value)`` gets the gradient of the value alone, and a gradient that
    reaches a kept output (double backward) raises.
    """

    def setup(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.set_materialize_grads(False)
        setup_context(ctx, inputs, output)

    def differentiate(ctx: Any, grad_value: torch.Tensor | None, *kept_grads: torch.Tensor | None) -> Any:
        if any(grad is not None for grad in kept_grads):
            raise RuntimeError(f"{name}: {DOUBLE_BACKWARD}")
        return backward(ctx, grad_value)

    for namespace in NAMESPACES:
        operator = f"{namespace}::{name}"
        torch.library.define(operator, schema, tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.register_fake(operator, fake)
        torch.library.register_autograd(operator, differentiate, setup_context=setup)
    torch.library.impl(f"cgm_triton::{name}", ("CPU", "CUDA"), triton)


DOUBLE_BACKWARD = (
    "second derivatives are not available from the fused kernels; use cgm_kernels.use_backend('reference')"
)


def refuse_gradients(**tensors: torch.Tensor | None) -> None:
    """Raise where a gradient is wanted by an argument that the fused kernels do not differentiate."""
    if torch.is_grad_enabled():
        for name, tensor in tensors.items():
            if tensor is not None and tensor.requires_grad:
                raise ValueError(
                    f"{name} requires grad, which this operation gives only under "
                    f"cgm_kernels.use_backend('reference'): use it, or {name}.detach()"
                )


def refuse_forward_gradients(**tensors: torch.Tensor | None) -> None:
    """Raise where an argument carries a forward-mode tangent, which a registered operator would silently drop."""
    if torch.compiler.is_compiling() or forward_ad._current_level < 0:
        return
    for name, tensor in tensors.items():
        if tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None:
            raise RuntimeError(
                f"{name} carries a forward-mode tangent; forward-mode derivatives come from "
                "cgm_kernels.use_backend('reference') alone"
            )


def operator(backend: str, name: str) -> Callable[..., Any]:
    """The registered operator ``name`` of ``backend`` ("native" or "triton")."""
    return getattr(getattr(torch.ops, f"cgm_{backend}"), name)
