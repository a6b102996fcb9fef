"""A state and the slopes of its stages, and what a Runge–Kutta step makes of them in PyTorch's arithmetic."""

import torch

COEFFICIENTS = [0.3, 0.0, -1.25, 2.0, 1 / 7, 0.5, -0.1]


def draw(*shape, count=3, dtype=torch.float64, layout="dense", seed=0):
    """y and its stages: separate, as views of one stacked tensor, or all transposed."""
    generator = torch.Generator().manual_seed(seed)
    if layout == "transposed":
        return [one.mT for one in draw(*shape[:-2], shape[-1], shape[-2], count=count, dtype=dtype)]
    y, stacked = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in (shape, (*shape, count)))
    stages = stacked.to(dtype).unbind(-1)
    return [y.to(dtype), *(stages if layout == "stacked" else [stage.clone() for stage in stages])]


def plain(y, stages, step):
    return y + step * sum(c * k for c, k in zip(COEFFICIENTS, stages, strict=False))


def plain_error(y0, y1, stages, step, rtol=1e-2, atol=1e-3):
    scaled = plain(torch.zeros_like(y0), stages, step) / (atol + rtol * torch.maximum(y0.abs(), y1.abs()))
    return scaled.square().mean().sqrt()
