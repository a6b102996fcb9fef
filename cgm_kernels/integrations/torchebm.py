"""torchebm: the step of its Langevin sampler (and of contrastive divergence, which samples by it) on our kernel.

The routed method is ``EulerMaruyamaIntegrator.step``, x + h·f(x) + σ√(2h)·ε with f = −∇U in ``LangevinDynamics``.
torchebm draws ε by ``torch.randn_like`` from ``generator``, or from torch's own where that is None; the kernel draws it
inside, from a key of 64 bits that comes from the same generator. So what is promised is not the same numbers but the
same law (ε independent and standard normal), the same determinism (one seed, one chain; an explicit generator leaves
torch's own untouched, and None takes from torch's own), and for given ε the same arithmetic to rounding. On a GPU the
key is drawn on the device: nothing waits, and generators of CUDA are honoured.

What stays with torchebm, each for a reason named in the report: other integrators and subclasses; steps without noise,
with given noise, or with a diffusion of their own; step sizes and noise scales that are tensors; states that are not
plain float32 or float64 tensors of the integrator's dtype and device; gradients through the step, autocast, torch.func.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Generator, Tensor

from ..langevin.op import langevin_step
from ._arrays import wants_gradient
from ._flows import plain, version_check
from ._library import Library, PassOn


def _step(
    original: Any,
    self: Any,
    state: Any,
    step_size: Any,
    drift: Any,
    diffusion: Any,
    noise: Any,
    noise_scale: Any,
    t: Any,
    generator: Any,
) -> dict[str, Tensor]:
    if drift is None or type(state) is not dict or "x" not in state:
        raise PassOn("arguments of no step")
    if diffusion is not None or noise is not None or noise_scale is None:
        raise PassOn("a step without noise, or with noise or diffusion given")
    if not all(type(value) in (int, float) and 0 <= value < math.inf for value in (step_size, noise_scale)):
        raise PassOn("a step size or noise scale that is not a number")
    x = state["x"]
    _check(self, x, generator)
    if t is None:
        t = x.new_zeros(x.shape[0])
    force = drift(x, t)
    # The drift may cost much and remember that it was called: torchebm gets what it gave.
    keep = {"drift": lambda position, time: force}
    if not isinstance(force, Tensor) or force.shape != x.shape or force.dtype is not x.dtype:
        raise PassOn("a drift of another shape or dtype", **keep)
    if type(force) is not Tensor or force.layout is not torch.strided or force.device != x.device:
        raise PassOn("a drift that is no plain tensor", **keep)
    if wants_gradient(x, force):
        raise PassOn("a gradient through the step", **keep)
    gradient = force.neg()
    return {
        "x": langevin_step(x, gradient, step_size, temperature=noise_scale**2, out=gradient, **_source(x, generator))
    }


def _check(self: Any, x: Any, generator: Any) -> None:
    plain(x)
    if x.dim() == 0:
        raise PassOn("a state without chains")
    device = self.device
    if x.dtype is not self.dtype or x.device.type != device.type or (x.device.index or 0) != (device.index or 0):
        raise PassOn("another dtype or device than the integrator's")
    if generator is not None and (type(generator) is not Generator or generator.device.type != x.device.type):
        raise PassOn("a generator of another device")


def _source(x: Tensor, generator: Generator | None) -> dict[str, Any]:
    """Where the key comes from; on a GPU a state whose key the device draws."""
    if x.device.type == "cpu":
        return {"generator": generator}
    state = torch.zeros(2, dtype=torch.int64, device=x.device)
    state[0].random_(-(2**63), None, generator=generator)
    return {"state": state}


LIBRARY = Library(
    name="torchebm",
    package="torchebm",
    routes={},
    check=version_check("torchebm", (0, 8), (0, 9)),
    methods={"torchebm.integrators.euler_maruyama:EulerMaruyamaIntegrator.step": _step},
)
