"""The sliced Wasserstein distance, on the fused kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from cgm_kernels import sliced_wasserstein_distance

from ._pairwise import flat_clouds


def sliced_wasserstein(
    x: Tensor,
    y: Tensor,
    *,
    n_projections: int = 512,
    p: float = 2.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``SW_p = (mean_θ W_p^p(⟨x, θ⟩, ⟨y, θ⟩))^(1/p)`` over random directions ``θ`` on the unit sphere.

    Shapes: ``x (n, *event)``, ``y (m, *event)``, events flattened; gives a scalar of the wider dtype of the two.
    The directions come from ``generator``: give equally seeded ones to compare models on the same directions.
    NaN or infinity in a point gives NaN. No gradient; training uses ``cgm_kernels`` directly.

    Source: Rabin, Peyré, Delon and Bernot, "Wasserstein barycenter and its application to texture mixing", 2012.
    """
    dtype = torch.promote_types(x.dtype, y.dtype) if isinstance(x, Tensor) and isinstance(y, Tensor) else torch.float32
    a, b = flat_clouds(x=x, y=y)
    if dtype in (torch.float16, torch.bfloat16):
        dtype = torch.float32
    a, b = a.to(dtype), b.to(dtype)
    return sliced_wasserstein_distance(a, b, n_projections=n_projections, p=p, generator=generator)
