"""zuko's free-form Jacobian transform: the trace of its perceptron's Jacobian, exact or Hutchinson's, on our kernel.

The solver stays zuko's own, adaptive and with its checkpointed adjoint; what it integrates is the same to rounding, and
draws the same noise.
"""

from __future__ import annotations

import functools
import types
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from zuko.flows.continuous import FFJTransform
from zuko.nn import MLP, Linear
from zuko.utils import odeint

from ..activations import ACTIVATIONS
from ..divergence.op import mlp_divergence
from ._flows import activation_name, plain, refuse_hooks
from ._library import PassOn


class _Network:
    """The perceptron of an ``FFJTransform`` whose first layer takes time features, the point and the context."""

    def __init__(self, module: Any, x: Tensor, context: Tensor | None) -> None:
        linears, self.activation = layers_of(module.ode)
        self.weights, self.biases = [one.weight for one in linears], [one.bias for one in linears]
        self.freqs, self.features, self.context = module.freqs, x.shape[-1], context
        plain(x, self.freqs, *self.weights, *self.biases, *([] if context is None else [context]))
        n_context = 0 if context is None else context.shape[-1]
        if self.weights[0].shape[1] != 2 * len(self.freqs) + self.features + n_context:
            raise PassOn("shape")
        if context is not None and torch.broadcast_shapes(x.shape[:-1], context.shape[:-1]) != x.shape[:-1]:
            raise PassOn("shape of the context")

    def __call__(self, t: Tensor, x: Tensor, probe: Tensor | None) -> tuple[Tensor, Tensor]:
        """Value and divergence at x (…, D); the features of the time join the first bias."""
        angles = self.freqs * t[..., None]
        time, rest = self.weights[0].split((2 * len(self.freqs), self.weights[0].shape[1] - 2 * len(self.freqs)), 1)
        bias = F.linear(torch.cat((angles.cos(), angles.sin()), -1), time, self.biases[0])
        rows = x.reshape(-1, self.features)
        context = None
        if self.context is not None:
            context = self.context.expand(*x.shape[:-1], -1).reshape(len(rows), self.context.shape[-1])
        value, divergence = mlp_divergence(
            rows,
            [rest, *self.weights[1:]],
            [bias, *self.biases[1:]],
            activation=self.activation,
            probes=None if probe is None else probe.reshape(1, *rows.shape),
            exact=probe is None,
            context=context,
        )
        return value.reshape(x.shape), divergence.reshape(x.shape[:-1])


def layers_of(network: Any) -> tuple[list[Any], str]:
    """The layers of zuko's MLP, between which one activation stands."""
    if type(network) is not MLP:
        raise PassOn("a network that is not MLP")
    refuse_hooks(network)
    linears, activations = list(network)[0::2], list(network)[1::2]
    if len(linears) != len(activations) + 1 or any(type(one) is not Linear for one in linears):
        raise PassOn("layers of another kind")
    if any(one.weight.dim() != 2 or one.bias is None for one in linears):
        raise PassOn("stacked layers, or layers without a bias")
    names = {activation_name(one) for one in activations}
    if len(names) > 1:
        raise PassOn("activations of several kinds")
    name = names.pop() if names else "tanh"
    if name not in ACTIVATIONS:
        raise PassOn("an activation that the kernel does not have")
    return linears, name


def _maker(transform: Any) -> tuple[Any, Tensor | None]:
    """The ``FFJTransform`` that made this transform, and its context."""
    f = transform.f
    method = f.func if type(f) is functools.partial and not f.args and f.keywords.keys() == {"c"} else None
    if type(method) is not types.MethodType or method.__func__ is not FFJTransform.f:
        raise PassOn("a transform that no FFJTransform made")
    module = method.__self__
    if getattr(type(module), "_accelerates", type(module)) is not FFJTransform:
        raise PassOn("a subclass")
    return module, f.keywords["c"]


def call_and_ladj(original: Any, self: Any, x: Any) -> tuple[Tensor, Tensor]:
    plain(x)
    if x.dim() == 0:
        raise PassOn("shape")
    module, context = _maker(self)
    network = _Network(module, x, context)
    probe = None if self.exact else torch.randn_like(x)
    scale = self.trace_scale

    def augmented(t: Tensor, x: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        value, divergence = network(t, x, probe)
        return value, divergence * scale

    given = (x, torch.zeros_like(x[..., 0]))
    y, ladj = odeint(augmented, given, self.t0, self.t1, self.phi, self.atol, self.rtol)
    return y, ladj * (1 / scale)
