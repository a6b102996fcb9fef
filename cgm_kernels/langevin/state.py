"""The noise state: which stream a call draws from, and where it stands in it.

A state is an int64 tensor (2,) = (key, step). The key names the stream; every call that draws uses the words of its
step (see :mod:`cgm_kernels.philox`) and then adds 1 to it, on the device, so that a captured CUDA graph draws fresh
noise at every replay. Without a state a call draws a key of its own from a generator, and uses step 0.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from ..philox import draw_key_tensor

_UNIFORMS = -(2**63)  # the top bit of the step: the uniforms of acceptances never meet the normals of steps


def noise_state(generator: Generator | None = None, device: torch.device | str | None = None) -> Tensor:
    """A state (key, 0) on ``device`` (default: the CPU) with a key drawn from ``generator``.

    Args:
        generator: a CPU generator, default torch's own; the same one gives the same stream on every device.

    Raises:
        TypeError, ValueError: naming ``generator`` where it is not a CPU generator.
    """
    key = draw_key_tensor(generator)
    return torch.stack((key, torch.zeros_like(key))).to(device=device or "cpu")


def uniform_step(state: Tensor) -> Tensor:
    """The step word of the uniforms at this state, ()."""
    return state[1] | _UNIFORMS


def check(state: Tensor, name: str, other: torch.device) -> None:
    """``state`` is one, on the device ``other`` of the argument ``name``."""
    if not isinstance(state, Tensor):
        raise TypeError(f"state must be an int64 tensor (2,) or None: got {type(state).__name__}")
    if state.dtype is not torch.int64:
        raise TypeError(f"state must be int64: got {state.dtype}")
    if tuple(state.shape) != (2,) or state.layout is not torch.strided:
        raise ValueError(f"state must be (2,), the key and the step: got {tuple(state.shape)}")
    if state.stride(0) != 1:
        raise ValueError(f"state must be contiguous: got stride {state.stride(0)}")
    if state.device != other:
        raise ValueError(f"state must be on the device of {name}, {other}: got {state.device}")


def check_source(generator: Generator | None, state: Tensor | None, name: str, device: torch.device) -> None:
    """At most one of ``generator`` and ``state`` is given, and it is right."""
    if state is None:
        return
    check(state, name, device)
    if generator is not None:
        raise ValueError("generator and state exclude each other: the state holds the key of its stream")
