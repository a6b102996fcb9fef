"""The flows every test goes through, and the exact Jacobian to hold them to."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from cgm_models.flows import NICE, Flow, Glow, NeuralSplineFlow, PlanarFlow, RadialFlow, RealNVP

SMALL: dict[str, object] = {"n_layers": 3, "hidden_features": (8, 8)}
IMAGE: dict[str, object] = {"n_layers": 2, "hidden_features": (6,)}

FLOWS: dict[str, Callable[[], Flow]] = {
    "realnvp": lambda: RealNVP(dim=5, **SMALL),
    "realnvp-context": lambda: RealNVP((4,), 3, **SMALL),
    "realnvp-exp": lambda: RealNVP(dim=3, scale="exp", **SMALL),
    "realnvp-softclip": lambda: RealNVP(dim=3, scale="softclip", **SMALL),
    "realnvp-sigmoid": lambda: RealNVP(dim=3, scale="sigmoid", **SMALL),
    "realnvp-softplus": lambda: RealNVP(dim=3, scale="softplus", **SMALL),
    "realnvp-actnorm": lambda: RealNVP(dim=4, actnorm=True, activation="gelu", **SMALL),
    "realnvp-levels": lambda: RealNVP((1, 2, 3), n_scales=0, n_levels=17, **SMALL),
    "realnvp-image": lambda: RealNVP((2, 4, 4), 2, actnorm=True, **IMAGE),
    "realnvp-image-one-scale": lambda: RealNVP((1, 2, 6), n_levels=4, **IMAGE),
    "nice": lambda: NICE(dim=5, **SMALL),
    "nice-context": lambda: NICE((1, 2, 2), 2, n_levels=9, **SMALL),
    "glow-lu": lambda: Glow((1, 4, 4), n_steps=2, hidden_channels=6),
    "glow-plain": lambda: Glow((3, 4, 4), 2, n_steps=1, hidden_channels=6, convolution="plain"),
    "glow-levels": lambda: Glow((1, 8, 8), 2, n_steps=1, hidden_channels=6, n_levels=17),
    "planar": lambda: PlanarFlow(dim=3, n_layers=4),
    "planar-context": lambda: PlanarFlow(dim=2, context_dim=2, n_layers=3),
    "planar-line": lambda: PlanarFlow(dim=1, n_layers=3),
    "radial": lambda: RadialFlow(dim=3, n_layers=4),
    "radial-context": lambda: RadialFlow((1, 1, 2), 2, n_layers=3),
    "spline": lambda: NeuralSplineFlow(dim=5, n_bins=5, **SMALL),
    "spline-context": lambda: NeuralSplineFlow(dim=2, context_dim=3, mixing="none", bound=2.0, **SMALL),
}


def make(name: str, *, seed: int = 0, noise: float = 0.1, dtype: torch.dtype = torch.float64) -> Flow:
    """A flow away from the identity, its parameters random by ``noise``, in evaluation mode."""
    torch.manual_seed(seed)
    flow = FLOWS[name]().to(dtype).eval()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return flow


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def points(flow: Flow, n: int = 4, *, seed: int = 1) -> Tensor:
    """Points the flow accepts: inside the unit cube for images with levels."""
    generator = torch.Generator().manual_seed(seed)
    shape = (n, *flow.event_shape)
    dtype = flow.base.like.dtype
    if flow.n_levels is not None:
        return 0.05 + 0.9 * torch.rand(shape, generator=generator, dtype=dtype)
    return torch.randn(shape, generator=generator, dtype=dtype)


def context_of(flow: Flow, n: int = 4, *, seed: int = 2) -> Tensor | None:
    if not flow.context_dim:
        return None
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, flow.context_dim, generator=generator, dtype=flow.base.like.dtype)


def log_abs_det(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """log|det J| of a map of ``(batch, *event)`` that treats its rows alone, by autograd: ``(batch,)``."""
    size = math.prod(x.shape[1:])
    rows = torch.autograd.functional.jacobian(lambda v: function(v).sum(0), x)
    jacobian = rows.reshape(size, len(x), size).transpose(0, 1)
    return torch.linalg.slogdet(jacobian).logabsdet
