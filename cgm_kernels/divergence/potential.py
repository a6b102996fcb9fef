"""OT-Flow's potential: its gradient by space and time and its Laplacian, in closed form.

With s = [x, t] in R^(d+1), s_c = [x, t, c] where a context c is given, m units, M layers and h = 1/(M − 1):

    Φ(s) = w·N(s_c) + ½ |A s|² + b·s,     N = u_(M−1)
    u_0 = σ(K_0 s_c + b_0)                σ(z) = log(e^z + e^(−z)), σ' = tanh
    u_l = u_(l−1) + h σ(K_l u_(l−1) + b_l)

Onken, Wu Fung, Li & Ruthotto 2021, "OT-Flow: fast and accurate continuous normalizing flows via optimal transport".
Their constant term changes nothing but Φ itself: whoever plots it adds it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import backends
from .._derivatives import beyond_kernels
from .._extension import _C
from .._register import operator
from ..checks import listed
from ..precision import HALVES, outside_autocast
from . import potential_checks as checks
from . import potential_operators as operators
from . import potential_reference as reference

__all__ = ["potential_divergence", "potential_gradient", "potential_value"]


def potential_divergence(
    x: Tensor,
    t: Tensor | float,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    output: Tensor,
    *,
    quadratic: Tensor | None = None,
    linear: Tensor | None = None,
    context: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """∇Φ by space and time, and the Laplacian of Φ in space: tr ∂²Φ/∂x².

    Args:
        x: (B, d).
        t: a number, () or (B,).
        weights: K_0 of shape (m, d + 1 + c), for x, t and the context in this order, then K_1, …, K_(M−1), each (m, m);
            at least K_0. ``biases``: as many, each (m,).
        output: w (m,).
        quadratic: A (r, d + 1), or None for no such term.
        linear: b (d + 1,), or None.
        context: (c,) or (B, c), read by the network alone.

    Returns:
        The gradient (B, d + 1), whose last column is ∂Φ/∂t, and the Laplacian (B,); differentiable in x, t,
        context and all parameters. The velocity of OT-Flow is −∇_xΦ, and its divergence minus the Laplacian. Half
        precision is computed in float32.

    Raises:
        TypeError, ValueError: naming the argument that has a wrong type, dtype, device or shape.
    """
    return _differentiated(x, t, weights, biases, output, quadratic, linear, context, tangents=True)


def potential_gradient(
    x: Tensor,
    t: Tensor | float,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    output: Tensor,
    *,
    quadratic: Tensor | None = None,
    linear: Tensor | None = None,
    context: Tensor | None = None,
) -> Tensor:
    """∇Φ by space and time alone, (B, d + 1); else as :func:`potential_divergence`, whose tangents it does without."""
    return _differentiated(x, t, weights, biases, output, quadratic, linear, context, tangents=False)[0]


def potential_value(
    x: Tensor,
    t: Tensor | float,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    output: Tensor,
    *,
    quadratic: Tensor | None = None,
    linear: Tensor | None = None,
    context: Tensor | None = None,
) -> Tensor:
    """Φ itself (B,), by PyTorch's own operations on every backend; arguments as of :func:`potential_divergence`."""
    return _value(x, t, listed("weights", weights), listed("biases", biases), output, quadratic, linear, context)


@outside_autocast
def _value(
    x: Tensor, t: Tensor | float, weights: Sequence[Tensor], biases: Sequence[Tensor], output: Tensor,
    quadratic: Tensor | None, linear: Tensor | None, context: Tensor | None,
) -> Tensor:  # fmt: skip
    checks.arguments(x, t, weights, biases, output, quadratic, linear, context)
    return reference.potential_value(_joined(x, t, context), x.shape[1] + 1, weights, biases, output, quadratic, linear)


def _differentiated(
    x: Tensor, t: Tensor | float, weights: Sequence[Tensor], biases: Sequence[Tensor], output: Tensor,
    quadratic: Tensor | None, linear: Tensor | None, context: Tensor | None, *, tangents: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """∇Φ and the Laplacian; without ``tangents`` the second is not to be read."""
    weights, biases = listed("weights", weights), listed("biases", biases)
    found = _fused(x, t, weights, biases, output, quadratic, linear, context, tangents)
    return _divergence(x, t, weights, biases, output, quadratic, linear, context, tangents) if found is None else found


@outside_autocast
def _divergence(
    x: Tensor, t: Tensor | float, weights: Sequence[Tensor], biases: Sequence[Tensor], output: Tensor,
    quadratic: Tensor | None, linear: Tensor | None, context: Tensor | None, tangents: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    checks.arguments(x, t, weights, biases, output, quadratic, linear, context)
    if x.dtype in HALVES:
        wide = [[part.float() for part in parts] for parts in (weights, biases)]
        rest = [part if part is None else part.float() for part in (output, quadratic, linear, context)]
        time = t.float() if isinstance(t, Tensor) else t
        found = _divergence(x.float(), time, *wide, *rest, tangents=tangents)  # type: ignore[misc, arg-type]
        return found[0].to(x.dtype), found[1]
    s = _joined(x, t, context)
    beyond = beyond_kernels(s, weights, biases, output, quadratic, linear)
    backend = "reference" if beyond else backends.select(x.device.type)
    if backend == "reference":
        none = None if tangents else weights[0].new_empty(0, len(weights[0]))
        return reference.potential_divergence(s, x.shape[1], weights, biases, output, quadratic, linear, none)
    rank = 0 if quadratic is None else len(quadratic)
    return operator(backend, "potential_divergence")(
        s, operators.packed(weights, biases, output, quadratic, linear),
        operators.directions(weights[0], x.shape[1] if tangents else 0, len(weights)),
        x.shape[1], len(weights[0]), len(weights), rank, linear is not None,
    )  # fmt: skip


def _fused(
    x: Tensor, t: Tensor | float, weights: Sequence[Tensor], biases: Sequence[Tensor], output: Tensor,
    quadratic: Tensor | None, linear: Tensor | None, context: Tensor | None, tangents: bool,
) -> tuple[Tensor, Tensor] | None:  # fmt: skip
    """What the kernel gives a plain eager call on the CPU; None where it is not one or an argument is wrong."""
    if torch.compiler.is_compiling() or not isinstance(x, Tensor) or not x.is_cpu or backends.select("cpu") != "native":
        return None
    if isinstance(t, bool):
        return None
    times = (t, 0.0) if isinstance(t, Tensor) else (None, t)
    try:
        return _C.potential_divergence(x, *times, weights, biases, output, quadratic, linear, context, tangents)
    except TypeError:  # an argument of a wrong type: said better by the checks
        return None


def _joined(x: Tensor, t: Tensor | float, context: Tensor | None) -> Tensor:
    """s_c = [x, t, c], (B, d + 1 + c)."""
    time = t.expand(len(x)).unsqueeze(1) if isinstance(t, Tensor) else x.new_full((len(x), 1), t)
    return torch.cat([x, time] if context is None else [x, time, context.expand(len(x), -1)], 1)
