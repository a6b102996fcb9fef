"""Stacks of couplings as their operators take them, in PyTorch's operators: what their second derivatives are of."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from ..activations import ACTIVATIONS
from . import reference
from .layout import Layout
from .masked_reference import ACTIVATIONS as NAMED
from .scales import Scale
from .triton_stack_table import Channels, Stack, n_parameters


class Layers(NamedTuple):
    """A stack's layers, the numbers of stack_operators.py made out."""

    stack: Stack
    activation: int
    scale: Scale
    inverse: bool

    def forward(self, x: Tensor, parameters: Tensor, conditioning: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the layers make of x, and the log-determinant."""
        return self._through(x, list(self._cut(parameters, conditioning, len(x))), self.inverse)

    def input_of(self, y: Tensor, parameters: Tensor, conditioning: Tensor | None) -> Tensor:
        """The x of which the layers make y."""
        return self._through(y, list(self._cut(parameters, conditioning, len(y)))[::-1], not self.inverse)[0]

    def _through(
        self, x: Tensor, layers: Sequence[tuple[Channels, list[Tensor], Tensor | None]], inverse: bool
    ) -> tuple[Tensor, Tensor]:
        activate, log_det = NAMED[list(ACTIVATIONS)[self.activation]], x.new_zeros(len(x))
        for place, layer, added in layers:
            stop = place.passing_start + (layer[0].shape[1] - 1) * place.passing_step + 1
            h = F.linear(x[:, place.passing_start : stop : place.passing_step], layer[0], layer[1])
            h = h if added is None else h + added
            for weight, bias in zip(layer[2::2], layer[3::2], strict=True):
                h = F.linear(activate(h), weight, bias)
            x, log_det = reference.affine_event(x, h, log_det, Layout(*place[:4]), self.scale, inverse)
        return x, log_det

    def _cut(
        self, parameters: Tensor, conditioning: Tensor | None, batch: int
    ) -> Iterator[tuple[Channels, list[Tensor], Tensor | None]]:
        """Of each layer W_1, b_1, W_2, b_2, … and what is added to the first one's result."""
        first = 0
        for widths, place in zip(self.stack.widths, self.stack.channels, strict=True):
            own, parameters = parameters.tensor_split([n_parameters(widths)])
            matrices = []
            for number, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
                weight, own = own.tensor_split([inputs * outputs])
                bias, own = (own[-outputs:], own[:-outputs]) if number == 0 else own.tensor_split([outputs])
                matrices += [weight.view(outputs, inputs), bias]
            added = None
            if conditioning is not None and place.conditioned:
                added = conditioning[first : first + batch * widths[1]].view(batch, widths[1])
                first += batch * widths[1]
            yield place, matrices, added
