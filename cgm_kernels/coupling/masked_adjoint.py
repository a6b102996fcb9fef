"""The gradient of the masked inverse: the steps once more, in reverse.

With ḡ the gradient of all that depends on x_i, the log-scale and the shift of dimension i receive ḡ ∂x_i/∂s_i and
ḡ ∂x_i/∂t_i (and the log-determinant its own part), which the transposed network carries to earlier dimensions. A unit's
gradient is complete when the step that computed it is met, so that again each is computed once. Everything is (units,
batch): the units of a step are contiguous rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from .masked_plan import ends_a_block
from .masked_reference import ACTIVATIONS
from .scales import KINDS, Scale, sigma_and_log

_NAMES = list(ACTIVATIONS)


def _gelu_slope(z: Tensor, _: Tensor) -> Tensor:
    return 0.5 * (1.0 + torch.erf(z * 0.5**0.5)) + z * torch.exp(-0.5 * z * z) * 0.3989422804014327


_SLOPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # of the argument and the value
    "relu": lambda z, h: (z > 0).to(z.dtype),
    "tanh": lambda z, h: 1.0 - h * h,
    "sigmoid": lambda z, h: h * (1.0 - h),
    "silu": lambda z, h: torch.sigmoid(z) * (1.0 + z * torch.sigmoid(-z)),
    "gelu": _gelu_slope,
    "elu": lambda z, h: torch.where(z > 0, 1.0, h + 1.0),
    "softplus": lambda z, h: torch.sigmoid(z),
}


def log_scale_slope(s: Tensor, scale: Scale) -> Tensor:
    """∂ log σ(s) / ∂s."""
    kind = KINDS[scale.kind]
    if kind == "exp":
        return torch.ones_like(s)
    if kind == "tanh":
        return 1.0 - torch.tanh(s / scale.bound).square()
    if kind == "softclip":
        return (1.0 + (s / scale.bound).abs()).square().reciprocal()
    if kind == "gate":
        return torch.sigmoid(-s)
    shifted = s + scale.offset
    p = torch.sigmoid(shifted)
    if kind == "softplus":
        return p / (F.softplus(shifted) + scale.eps)
    return torch.sigmoid(-shifted) * (p / (p + scale.eps) if scale.eps else 1.0)


@dataclass
class Network:
    """The packed network at one batch of x, evaluated densely, and the gradients by what its units sum up."""

    widths: Sequence[int]
    activation: int
    residual: bool
    weights: list[Tensor]
    biases: list[Tensor]
    numbers: list[int]
    n_steps: int
    activated: list[Tensor] = field(default_factory=list)  # x, then the hidden layers
    slopes: list[Tensor | None] = field(default_factory=list)
    output_gradient: Tensor = field(default_factory=lambda: torch.empty(0))

    @staticmethod
    def unpacked(
        parameters: Tensor, numbers: Tensor, widths: Sequence[int], n_steps: int, activation: int, residual: bool
    ) -> Network:
        sizes = [rows * columns for columns, rows in itertools.pairwise(widths)] + list(widths[1:])
        pieces = parameters.split(sizes)
        n_layers = len(widths) - 1
        weights = [piece.view(-1, columns) for piece, columns in zip(pieces[:n_layers], widths, strict=False)]
        return Network(widths, activation, residual, weights, list(pieces[n_layers:]), numbers.tolist(), n_steps)

    @property
    def n_layers(self) -> int:
        return len(self.weights)

    def known(self, layer: int, step: int) -> int:
        """The units of hidden ``layer`` (the dimensions for -1) that are known after ``step``."""
        if step < 0:
            return 0
        start = self.widths[0]
        if layer < 0:
            return self.numbers[start + step]
        return self.numbers[start + self.n_steps + step * (self.n_layers - 1) + layer]

    def skip(self, layer: int) -> Tensor | None:
        """The places in the layer two before to which the units of ``layer`` are added."""
        if not ends_a_block(layer, self.n_layers, self.residual):
            return None
        start = self.widths[0] + self.n_steps * self.n_layers + sum(self.widths[1 : layer + 1])
        return torch.tensor(self.numbers[start : start + self.widths[layer + 1]], device=self.biases[0].device)

    def evaluate(self, x: Tensor, row_bias: Tensor | None, starts: Sequence[int]) -> Tensor:
        """The outputs (2 D, batch) at x (D, batch)."""
        name = _NAMES[self.activation]
        self.activated = [x]
        sums: list[Tensor] = []
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            z = torch.addmm(bias.unsqueeze(1), weight, self.activated[-1])
            if starts[layer] >= 0 and row_bias is not None:
                z += row_bias[:, starts[layer] : starts[layer] + len(z)].T
            if (skip := self.skip(layer)) is not None:
                z += sums[layer - 2][skip]
            sums.append(z)
            if layer == self.n_layers - 1:
                break
            if self.residual and layer == self.n_layers - 2:
                self.activated.append(z)
                self.slopes.append(None)
            else:
                self.activated.append(ACTIVATIONS[name](z))
                self.slopes.append(_SLOPES[name](z, self.activated[-1]))
        return sums[-1]


def _sweep(net: Network, grad_x: Tensor, by_scale: Tensor, by_shift: Tensor, scale_gradient: Tensor) -> list[Tensor]:
    """Completes ``grad_x`` (D, batch) in place; the gradients by each layer's sums."""
    hidden = [torch.zeros_like(a) for a in net.activated[1:]]
    sums = [torch.zeros_like(a) for a in net.activated[1:]]
    sums.append(grad_x.new_zeros(net.widths[-1], grad_x.shape[1]))
    skips = [net.skip(layer) for layer in range(net.n_layers)]
    for step in reversed(range(net.n_steps)):
        first, last = net.known(-1, step - 1), net.known(-1, step)
        sums[-1][2 * first : 2 * last : 2] = grad_x[first:last] * by_scale[first:last] + scale_gradient[first:last]
        sums[-1][2 * first + 1 : 2 * last : 2] = grad_x[first:last] * by_shift[first:last]
        rows = slice(2 * first, 2 * last)
        for layer in reversed(range(net.n_layers)):
            if layer < net.n_layers - 1:
                rows = slice(net.known(layer, step - 1), net.known(layer, step))
                slope = net.slopes[layer]
                sums[layer][rows] += hidden[layer][rows] if slope is None else hidden[layer][rows] * slope[rows]
            if rows.start == rows.stop:
                continue
            if (skip := skips[layer]) is not None:
                sums[layer - 2].index_add_(0, skip[rows], sums[layer][rows])
            columns = first if layer == 0 else net.known(layer - 1, step)
            below = grad_x if layer == 0 else hidden[layer - 1]
            below[:columns].addmm_(net.weights[layer][rows, :columns].T, sums[layer][rows])
    return sums


def masked_inverse_backward(
    grad_x: Tensor | None,
    grad_log_det: Tensor | None,
    x: Tensor,
    y: Tensor,
    parameters: Tensor,
    row_bias: Tensor | None,
    numbers: Tensor,
    widths: Sequence[int],
    starts: Sequence[int],
    n_steps: int,
    activation: int,
    residual: bool,
    kind: int,
    bound: float,
    offset: float,
    eps: float,
    standardize: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients by y, the packed parameters and the row biases (empty without)."""
    scale = Scale(kind, bound, offset, eps)
    net = Network.unpacked(parameters, numbers, widths, n_steps, activation, residual)
    dimensions = numbers[: widths[0]].long()
    x, y = x[:, dimensions].T.contiguous(), y[:, dimensions].T
    log_scale, shift = net.evaluate(x, row_bias, starts).unflatten(0, (-1, 2)).unbind(1)
    sigma, _ = sigma_and_log(log_scale, scale)
    slope = log_scale_slope(log_scale, scale)
    by_y = sigma if standardize else sigma.reciprocal()
    # x = by_y · y + moved: without a gate d moved / dt is 1 or −1/σ.
    gate = KINDS[kind] == "gate"
    by_shift = 1.0 - by_y if gate else torch.ones_like(by_y) if standardize else -by_y
    centre = shift if gate or standardize else torch.zeros_like(shift)
    by_scale = (x - centre) * (slope if standardize else -slope)
    gradient = torch.zeros_like(x) if grad_x is None else grad_x[:, dimensions].T.contiguous()
    scale_gradient = torch.zeros_like(x)
    if grad_log_det is not None:
        scale_gradient = grad_log_det * (slope if standardize else -slope)
    sums = _sweep(net, gradient, by_scale, by_shift, scale_gradient)
    packed = [(g @ a.T).flatten() for g, a in zip(sums, net.activated, strict=True)] + [g.sum(1) for g in sums]
    grad_y = torch.empty_like(gradient.T.contiguous())
    grad_y[:, dimensions] = (gradient * by_y).T
    rows = [g.T for g, start in zip(sums, starts, strict=True) if start >= 0]
    return grad_y, torch.cat(packed), torch.cat(rows, 1) if rows else y.new_empty(0)
