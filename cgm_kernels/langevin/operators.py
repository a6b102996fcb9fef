"""The registered operators of the Langevin operations: schemas and fakes. None has a derivative: see ``op.py``.

``state`` is (key, step) on the device of x, advanced by 1; without it the stream is that of ``key``, at step 0.
``step_sizes`` and ``temperatures`` are None (then the number beside them counts) or tensors () or (chains,) of the
dtype that is computed in; an infinite ``max_grad_norm``, ``low`` or ``high`` asks for nothing. x, grad and out have one
dtype, shape and device, and any strides; results are contiguous. out may be x or grad, or overlap them in any way.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._register import define
from . import triton

_STEP = (
    "Tensor x, Tensor grad, Tensor(a!)? state, int key, Tensor? step_sizes, float step_size, Tensor? temperatures, "
    "float temperature, float max_grad_norm, float low, float high"
)


def _step_fake(x: Tensor, *rest: Any) -> Tensor:
    return x.new_empty(x.shape)


def _nothing_fake(*rest: Any) -> None:
    return None


def _accept_fake(x: Tensor, proposal: Tensor, log_ratio: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), torch.empty(log_ratio.shape, dtype=torch.bool, device=x.device)


define("langevin_step", f"({_STEP}) -> Tensor", fake=_step_fake, triton=triton.langevin_step)
define("langevin_step_out", f"({_STEP}, Tensor(b!) out) -> ()", fake=_nothing_fake, triton=triton.langevin_step_out)
# out is contiguous, of any float dtype
define(
    "normal_fill", "(Tensor(b!) out, Tensor(a!)? state, int key) -> ()", fake=_nothing_fake, triton=triton.normal_fill
)
# x and proposal of one dtype and shape, log_ratio float64 with one number for each chain
define(
    "mala_accept",
    "(Tensor x, Tensor proposal, Tensor log_ratio, Tensor(a!)? state, int key) -> (Tensor, Tensor)",
    fake=_accept_fake,
    triton=triton.mala_accept,
)
