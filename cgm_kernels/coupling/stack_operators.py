"""The registered operators of stacks of couplings: which stacks they take, schemas, fakes, and what autograd keeps.

``parameters`` holds W_1, W_2, b_2, …, W_K, b_K, b_1 of one layer after the other, each row-major; ``widths`` the
channels that pass, the hidden units and the parameters of each layer; ``channels`` the numbers of ``Channels`` of each.
``conditioning`` holds that of one conditioned layer after the other. With ``keep`` the forward keeps what each layer
transformed. Triton alone has kernels: on the CPU the native stack is C++ with its own autograd (csrc/coupling/mlp*).
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._derivatives import beyond_kernels, pulled_back
from .._register import define, operator, register
from ..activations import ACTIVATIONS
from ..precision import autocasts
from . import layout, scales
from .checks import log_det_dtype
from .masked_reference import ACTIVATIONS as NAMED
from .stack_reference import Layers
from .triton_stack_table import Channels, Stack

if TYPE_CHECKING:
    from .mlp import CouplingLayer

MOST_UNITS = 128
"""Of a hidden layer, and of the channels that pass or are transformed: beyond, a library's products are faster."""
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def chosen(backend: str) -> bool:
    """Whether stacks run in one kernel.

    Where the Triton backend is asked for. Whether that beats the layers one by one on the native backend's CUDA kernels
    is not measured on a GPU yet: benchmarks/models.py does it, "ours (Triton)" beside "ours (native), layer by layer".
    """
    return backend == "triton"


def whole_stack(x: Tensor, layers: Sequence[CouplingLayer], log_det: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """What the kernel gives; None where the arguments are wrong or not for it."""
    if beyond_kernels(x, log_det, *itertools.chain.from_iterable(layers)):
        return None
    try:
        kinds = {(layer.scale, layer.bound, layer.offset, layer.eps) for layer in layers}
        ways = {(layer.inverse, layer.activation, len(layer.weights)) for layer in layers}
        if len(kinds) != 1 or len(ways) != 1:
            return None
        scale = scales.checked(*kinds.pop())
        places = [_channels(layer, x.shape[1]) for layer in layers]
    except (TypeError, ValueError):  # said better by the composition
        return None
    ((inverse, activation, _),) = ways
    if activation not in ACTIVATIONS or activation not in NAMED or not _fits(x, layers, places, log_det):
        return None
    return _run(x, layers, log_det, places, list(ACTIVATIONS).index(activation), scale, inverse)


def _channels(layer: CouplingLayer, n_channels: int) -> Channels:
    """``ValueError`` or ``TypeError`` where split or layout are wrong."""
    moved = layout.transformed(layer.split, n_channels)
    passing = range(n_channels)[layout.passing_part(layer.split, n_channels)]
    steps = [1 if len(part) <= 1 else part.step for part in (moved, passing)]
    return Channels(
        moved.start, len(moved), steps[0], layout.INDEX.get(layer.layout, -1), passing.start, steps[1],
        int(layer.conditioning is not None),
    )  # fmt: skip


def _fits(x: Tensor, layers: Sequence[CouplingLayer], places: Sequence[Channels], log_det: Tensor | None) -> bool:
    """Whether all tensors are as they must be, and the layers narrow enough."""
    if x.dtype not in _DTYPES or autocasts(x.device.type):
        return False
    try:
        if log_det is not None and not (
            log_det.shape == x.shape[:1] and log_det.device == x.device and log_det.is_floating_point()
        ):
            return False
        return all(_layer_fits(x, layer, place) for layer, place in zip(layers, places, strict=True))
    except (AttributeError, IndexError):  # no tensor
        return False


def _layer_fits(x: Tensor, layer: CouplingLayer, place: Channels) -> bool:
    dtype, device, last = x.dtype, x.device, len(layer.weights) - 1
    width = x.shape[1] - place.size
    if not (0 < place.size <= MOST_UNITS and 0 < width <= MOST_UNITS and place.order >= 0):
        return False
    if last < 1 or len(layer.biases) != len(layer.weights):
        return False
    for number, (weight, bias) in enumerate(zip(layer.weights, layer.biases, strict=True)):
        units = bias.shape[0]
        if weight.shape != (units, width) or bias.shape != (units,) or not (number == last or 0 < units <= MOST_UNITS):
            return False
        if weight.dtype != dtype or bias.dtype != dtype or weight.device != device or bias.device != device:
            return False
        width = units
    added = layer.conditioning
    return width == 2 * place.size and (
        added is None
        or (added.shape == (x.shape[0], layer.biases[0].shape[0]) and added.dtype == dtype and added.device == device)
    )


def _run(
    x: Tensor, layers: Sequence[CouplingLayer], log_det: Tensor | None, places: Sequence[Channels], activation: int,
    scale: scales.Scale, inverse: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    parts: list[Tensor] = []
    added: list[Tensor] = []
    widths: list[int] = []
    for layer in layers:
        weights = [weight.reshape(-1) for weight in layer.weights]
        later = zip(weights[1:], layer.biases[1:], strict=True)
        parts += [weights[0], *itertools.chain.from_iterable(later), layer.biases[0]]
        added += [] if layer.conditioning is None else [layer.conditioning.reshape(-1)]
        widths += [layer.weights[0].shape[1], *(bias.shape[0] for bias in layer.biases)]
    parameters = torch.cat(parts)
    conditioning = torch.cat(added) if added else None
    inputs = (x, log_det, parameters, conditioning)
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
    log_det = None if log_det is None else log_det.to(log_det_dtype(x.dtype))
    numbers = widths, list(itertools.chain.from_iterable(places)), activation, *scale, inverse, keep
    y, total, _ = operator("triton", "coupling_stack_forward")(x, log_det, parameters, conditioning, *numbers)
    return y, total


def _triton(name: str) -> Callable[..., Any]:
    def run(*arguments: Any) -> Any:
        return getattr(importlib.import_module("cgm_kernels.coupling.triton_stack"), name)(*arguments)

    return run


_LAYERS = "int[] widths, int[] channels, int activation, int scale, float bound, float offset, float eps, bool inverse"


def _fake(
    x: Tensor, log_det: Tensor | None, parameters: Tensor, conditioning: Tensor | None, widths: list[int],
    channels: list[int], *rest: Any,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    size = len(Channels._fields)
    kept = x.shape[0] * sum(channels[1::size]) if rest[-1] else 0
    return x.new_empty(x.shape), x.new_empty(x.shape[:1], dtype=log_det_dtype(x.dtype)), x.new_empty((kept,))


def _setup(ctx: Any, inputs: Any, output: Any) -> tuple[Tensor | None, ...]:
    _, log_det, parameters, conditioning, *ctx.options, _ = inputs
    ctx.running, ctx.wanted = log_det is not None, ctx.needs_input_grad[2]
    return output[0], output[2], parameters, conditioning


def _backward(
    ctx: Any, grad_y: Tensor | None, grad_log_det: Tensor | None, *saved: Tensor | None
) -> tuple[Tensor | None, ...]:
    if grad_y is None and grad_log_det is None:
        return (None,) * 13
    backward = operator(ctx.backend, "coupling_stack_backward")
    by_x, by_parameters, by_conditioning = backward(grad_y, grad_log_det, *saved, *ctx.options, ctx.wanted)
    return (
        by_x, grad_log_det if ctx.running else None, by_parameters if ctx.wanted else None,
        None if saved[3] is None else by_conditioning, *[None] * 9,
    )  # fmt: skip


def _backward_fake(
    grad_y: Tensor | None, grad_log_det: Tensor | None, y: Tensor, kept: Tensor, parameters: Tensor,
    conditioning: Tensor | None, *rest: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    shapes = (y.shape, parameters.shape if rest[-1] else (0,), (0,) if conditioning is None else conditioning.shape)
    return tuple(y.new_empty(shape) for shape in shapes)


def _backward_composed(
    grad_y: Tensor | None, grad_log_det: Tensor | None, y: Tensor, kept: Tensor, parameters: Tensor,
    conditioning: Tensor | None, *rest: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    widths, channels, activation, *scale, inverse, want_parameters = rest
    layers = Layers(Stack.of(widths, channels), activation, scales.Scale(*scale), inverse)
    x = layers.input_of(y, parameters, conditioning)
    found = pulled_back(layers.forward, (x, parameters, conditioning), (grad_y, grad_log_det))
    return found[0], found[1] if want_parameters else y.new_empty(0), found[2]


register(
    "coupling_stack_forward",
    f"(Tensor x, Tensor? log_det, Tensor parameters, Tensor? conditioning, {_LAYERS}, bool keep) "
    "-> (Tensor, Tensor, Tensor)",
    fake=_fake,
    setup_context=_setup,
    backward=_backward,
    triton=_triton("coupling_stack_forward"),
    values=2,
)
define(
    "coupling_stack_backward",
    "(Tensor? grad_y, Tensor? grad_log_det, Tensor y, Tensor kept, Tensor parameters, Tensor? conditioning, "
    f"{_LAYERS}, bool want_parameters) -> (Tensor, Tensor, Tensor)",
    fake=_backward_fake,
    triton=_triton("coupling_stack_backward"),
    composed=_backward_composed,
)
