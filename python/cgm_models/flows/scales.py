"""The scales σ of affine layers, and where they begin."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

SCALES = ("exp", "tanh", "softclip", "sigmoid", "softplus")

# First log-scales s that are not 0. σ = softplus(s + 2) is then 1; the gate, σ = sigmoid(s), is near 1.
_FIRST = {"softplus": math.log(math.expm1(1.0)) - 2.0, "gate": 2.0}


def begin(last: nn.Module, scale: str) -> None:
    """Set the first half of the bias of ``last``, whose other numbers are 0, to the log-scales that σ begins with.

    σ is then 1, but for 'sigmoid' and 'gate', which do not reach 1: they begin at sigmoid(2) = 0.88.
    """
    bias: Any = last.bias
    if scale in _FIRST:
        nn.init.constant_(bias[: len(bias) // 2], _FIRST[scale])
