"""The scale functions of the couplings: what σ is of the number s that a network gives.

============  ====================================================  ==============================================
``"exp"``       σ = e^s                                               RealNVP, normflows, Glow's actnorm
``"tanh"``      σ = e^(bound · tanh(s / bound))                       bounded to e^±bound; FrEIA
``"softclip"``  σ = e^(s / (1 + |s / bound|))                         bounded to e^±bound; zuko
``"sigmoid"``   σ = sigmoid(s + offset) + eps                         Glow, nflows, normflows
``"softplus"``  σ = softplus(s + offset) + eps                        nflows' autoregressive transform
``"gate"``      σ = sigmoid(s), and the shift is scaled by 1 − σ      inverse autoregressive flow
============  ====================================================  ==============================================
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..checks import choice, number

KINDS = ("exp", "tanh", "softclip", "sigmoid", "softplus", "gate")  # in the order of ScaleKind in formula.h
INDEX = {name: index for index, name in enumerate(KINDS)}


class Scale(NamedTuple):
    """A scale function: its place in ``KINDS`` and its parameters, in the order in which the operators take them."""

    kind: int
    bound: float
    offset: float
    eps: float


def checked(scale: str, bound: float, offset: float, eps: float) -> Scale:
    """The scale function of these arguments; ``ValueError`` or ``TypeError`` names the one that is wrong."""
    choice("scale", scale, KINDS)
    bound, offset, eps = number("bound", bound), number("offset", offset), number("eps", eps)
    if bound <= 0:
        raise ValueError(f"bound must be positive: got {bound}")
    if eps < 0:
        raise ValueError(f"eps must not be negative: got {eps}")
    return Scale(INDEX[scale], bound, offset, eps)


def sigma_and_log(s: Tensor, scale: Scale) -> tuple[Tensor, Tensor]:
    """σ(s) and log σ(s), in plain PyTorch."""
    kind = KINDS[scale.kind]
    if kind == "sigmoid":
        shifted = s + scale.offset
        sigma = shifted.sigmoid() + scale.eps
        return sigma, sigma.log() if scale.eps else F.logsigmoid(shifted)
    if kind == "softplus":
        sigma = F.softplus(s + scale.offset) + scale.eps
        return sigma, sigma.log()
    if kind == "gate":
        return s.sigmoid(), F.logsigmoid(s)
    if kind == "tanh":
        s = scale.bound * torch.tanh(s / scale.bound)
    elif kind == "softclip":
        s = s / (1.0 + (s / scale.bound).abs())
    return s.exp(), s
