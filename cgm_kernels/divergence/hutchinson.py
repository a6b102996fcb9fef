"""Hutchinson's estimate of the divergence of any vector field, by vector–Jacobian products.

Reverse mode was measured to be the faster one for networks, with and without a graph: forward-mode products took as
long to three times as long. Source: Hutchinson 1989, "A stochastic estimator of the trace of the influence matrix for
Laplacian smoothing splines"; for flows Grathwohl et al. 2019, "FFJORD".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor
from torch.autograd import forward_ad

from ..checks import choice, count, tensor
from ..langevin.op import normal
from . import checks

__all__ = ["hutchinson_divergence", "hutchinson_probes"]

NOISES = ("rademacher", "gaussian")


def hutchinson_divergence(
    fn: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    probes: Tensor | None = None,
    n_probes: int = 1,
    noise: str = "rademacher",
    generator: Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """The value v = fn(x) and the estimate (1/P) Σ_p e_pᵀ J e_p of its divergence tr J, J = ∂v/∂x of each row.

    The estimate is unbiased for probes with E[e eᵀ] = 1. Its variance is 2 |S|_F² / P with Gaussian probes, S the
    symmetric part of J, and less by 2 Σ_i J_ii² / P with Rademacher ones.

    Args:
        fn: any callable that maps x to a tensor of its shape, rows independent of one another; run once. Modules with
            parameters are such, and :func:`functools.partial` of a field f(t, x).
        x: (B, *event).
        probes: e, (P, B, *event), constants, for instance those of a whole ODE solve; None draws them.
        n_probes, noise, generator: as in :func:`hutchinson_probes`, where probes are not given.

    Returns:
        v (B, *event) and the estimate (B,) in the dtype of x. Where grad mode is on and x, or anything else that fn
        reads, requires grad, both are differentiable as often as fn is: the estimate is a first derivative of fn, so
        that its gradient takes the second one of fn (a "double backward"). Fused kernels refuse that: call fn with
        PyTorch's attention under ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)``, and compile what calls this
        function rather than fn. Else, as under ``torch.no_grad()``, no graph is kept.

    Raises:
        TypeError, ValueError: naming the argument that has a wrong type, dtype, device, shape or value.
    """
    if not callable(fn):
        raise TypeError(f"fn must be callable: got {type(fn).__name__}")
    _points(x)
    checks.generator(generator, probes)
    if probes is None:
        probes = hutchinson_probes(x, n_probes, noise=noise, generator=generator)
    else:
        checks.probe_tensor(probes, x)
    value, products = value_and_products(fn, x, probes)
    return value, mean_of_dots(products, probes)


def hutchinson_probes(
    x: Tensor,
    n_probes: int = 1,
    *,
    noise: str = "rademacher",
    generator: Generator | None = None,
    state: Tensor | None = None,
) -> Tensor:
    """Random probes e with E[e eᵀ] = 1, (P, *x.shape), for points x.

    Args:
        x: says shape, dtype and device.
        n_probes: P.
        noise: "rademacher", signs, or "gaussian", standard normals: those of :func:`normal`, whose signs the former
            are.
        generator: a CPU generator, default torch's own; one seed gives the same signs on every device and in every
            dtype, and the same normals up to rounding.
        state: (key, step), int64 (2,) on x's device, in place of a generator; the step is advanced by 1 on the device,
            so that a captured CUDA graph draws fresh probes at every replay
            (:func:`cgm_kernels.langevin.noise_state` makes one).

    Raises:
        TypeError, ValueError: naming the argument.
    """
    tensor("x", x)
    choice("noise", noise, NOISES)
    shape = (count("n_probes", n_probes), *x.shape)
    drawn = normal(shape, generator=generator, state=state, dtype=x.dtype, device=x.device)
    return drawn if noise == "gaussian" else torch.ones_like(drawn).copysign(drawn)


def value_and_products(fn: Callable[[Tensor], Tensor], x: Tensor, probes: Tensor) -> tuple[Tensor, list[Tensor]]:
    """v = fn(x) and eᵀ J of each probe, of the shape of x; :func:`hutchinson_divergence` says when with a graph."""
    # Any level of forward mode, not only tangents of x: what fn closes over may carry some.
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return _transformable(fn, x, probes)
    if torch.is_inference_mode_enabled():
        with torch.inference_mode(False), torch.no_grad():
            return _eager(fn, x.clone(), probes.clone())
    return _eager(fn, x, probes)


def mean_of_dots(ones: Sequence[Tensor], others: Sequence[Tensor] | Tensor) -> Tensor:
    """The mean over pairs (B, *event) of the dot products of their rows, (B,)."""
    terms = [one * other for one, other in zip(ones, others, strict=True)]
    sums = [term.flatten(1).sum(1) if term.dim() > 1 else term for term in terms]
    return sums[0] if len(sums) == 1 else torch.stack(sums).mean(0)


def _points(x: Tensor) -> None:
    tensor("x", x)
    if x.dim() == 0:
        raise ValueError("x must be (B, *event): got shape ()")


def _checked(value: Tensor, x: Tensor) -> Tensor:
    tensor("fn(x)", value)
    if value.shape != x.shape:
        raise ValueError(f"fn must keep the shape of x, {tuple(x.shape)}: got {tuple(value.shape)}")
    return value


def _transformable(fn: Callable[[Tensor], Tensor], x: Tensor, probes: Tensor) -> tuple[Tensor, list[Tensor]]:
    """What compiled graphs, the transforms of torch.func and forward-mode derivatives understand."""
    value, pull_back = torch.func.vjp(fn, x)  # type: ignore[misc]
    _checked(value, x)
    return value, [pull_back(probe.to(value.dtype))[0] for probe in probes]


def _eager(fn: Callable[[Tensor], Tensor], x: Tensor, probes: Tensor) -> tuple[Tensor, list[Tensor]]:
    wanted = torch.is_grad_enabled()
    with torch.enable_grad():
        # A tensor of its own, so that the derivative is that by the argument alone, whatever else fn knows of x.
        point = x.view_as(x) if wanted and x.requires_grad else x.detach().requires_grad_()
        value = _checked(fn(point), x)
        if not value.requires_grad:
            return value, [torch.zeros_like(x) for _ in probes]
        keep = wanted and (x.requires_grad or _reads_other_leaves(value, point))
        products = []
        for number, probe in enumerate(probes):
            (product,) = torch.autograd.grad(
                value, point, probe.to(value.dtype), create_graph=keep, retain_graph=keep or number + 1 < len(probes),
                allow_unused=True, materialize_grads=True,
            )  # fmt: skip
            products.append(product)
    return (value, products) if keep else (value.detach(), [product.detach() for product in products])


def _reads_other_leaves(value: Tensor, point: Tensor) -> bool:
    """Whether the graph of ``value`` ends in any leaf but ``point``."""
    waiting, seen = [value.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if type(node).__name__ == "AccumulateGrad" and node.variable is not point:  # type: ignore[attr-defined]
            return True
        waiting += [following for following, _ in node.next_functions]
    return False
