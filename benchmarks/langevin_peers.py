"""torchebm in the Langevin benchmark: its step and its sampler, as they are and with their step on our kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def step(x: Tensor, grad: Tensor, step_size: float) -> Callable[[], Tensor]:
    """The step that torchebm's sampler takes, with a gradient that is there already."""
    from torchebm.integrators import EulerMaruyamaIntegrator

    integrator = EulerMaruyamaIntegrator(device=x.device, dtype=x.dtype)
    force = -grad

    def drift(position: Tensor, time: Tensor) -> Tensor:
        return force

    def run() -> Tensor:
        with torch.no_grad():
            return integrator.step({"x": x}, step_size, drift=drift, noise_scale=1.0)["x"]

    return run


def chain(x: Tensor, gradient: Callable[[Tensor], Tensor], step_size: float, steps: int) -> Callable[[], Tensor]:
    """torchebm's sampler on a model that overrides the gradient by the analytic one."""
    from torchebm.core import BaseModel
    from torchebm.samplers import LangevinDynamics

    class Analytic(BaseModel):
        def forward(self, x: Tensor) -> Tensor:
            raise NotImplementedError("the sampler asks for gradients alone")

        def gradient(self, x: Tensor, model_kwargs: dict[Any, Any] | None = None) -> Tensor:
            return gradient(x)

    sampler = LangevinDynamics(Analytic(), step_size=step_size, dtype=x.dtype, device=x.device)
    return lambda: sampler.sample(x=x, n_steps=steps)
