"""The registered operators of the Langevin chains: schemas and fakes. They have no derivative; see chain.py.

x is (chains, d), of any strides; ``step_sizes`` and ``temperatures`` are tensors () or (chains,) of x's dtype, which go
before the numbers beside them; an infinite ``max_grad_norm``, ``low`` or ``high`` asks for nothing.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .._register import define
from . import triton_chain

_DYNAMICS = (
    "Tensor(a!) state, int n_steps, Tensor? step_sizes, float step_size, Tensor? temperatures, float temperature, "
    "float max_grad_norm, float low, float high"
)


def _fake(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


# `precisions` is (K,), (K, d) or (K, d, d); `ends` of each expert the end of its components.
define(
    "langevin_chain_mixture",
    f"(Tensor x, Tensor log_weights, Tensor means, Tensor precisions, int[] ends, {_DYNAMICS}) -> Tensor",
    fake=_fake,
    triton=triton_chain.mixture,
)
# `parameters` holds the weights (out, in) of all layers and then the biases, `widths` d and the outputs of each layer;
# `activation` counts in ACTIVATIONS.
define(
    "langevin_chain_mlp",
    f"(Tensor x, Tensor parameters, int[] widths, int activation, float slope, {_DYNAMICS}) -> Tensor",
    fake=_fake,
    triton=triton_chain.mlp,
)
