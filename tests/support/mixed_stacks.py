"""Stacks whose couplings differ in direction, scale, activation and layout, and their layers one by one."""

import itertools

import torch

import cgm_kernels
from cgm_kernels import CouplingLayer
from tests.support.called import made_by

OPTIONS = [
    dict(scale="tanh"),
    dict(scale="exp", inverse=True, layout="interleaved_shift_scale"),
    dict(scale="softclip", activation="tanh", layout="shift_scale"),
    dict(scale="gate", inverse=True),
    dict(scale="none"),
]
ADDITIVE = [dict(scale="none", activation="tanh"), dict(scale="none", inverse=True)]


def draw(size, batch, n_layers, hidden=(16, 9), conditioned=(), dtype=torch.float64, seed=0):
    """x, a running total, and of every layer the weights, the biases and the conditioning."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    half, layers = size // 2, []
    for k in range(n_layers):
        passing, moved = (half, size - half) if k % 2 == 0 else (size - half, half)
        widths = [passing, *hidden, 2 * moved]
        weights = [0.5 * normal(n, m) / m**0.5 for m, n in itertools.pairwise(widths)]
        biases = [0.2 * normal(n) for n in widths[1:]]
        layers.append((weights, biases, normal(batch, widths[1]) if k in conditioned else None))
    return normal(batch, size), normal(batch), layers


def leaves_of(x, log_det, layers):
    tensors = [x, log_det]
    for weights, biases, conditioning in layers:
        tensors += [*weights, *biases, *([] if conditioning is None else [conditioning])]
    return tensors


def stacked(size, layers, options=OPTIONS):
    half, result = size // 2, []
    for k, (weights, biases, conditioning) in enumerate(layers):
        chosen = options[k % len(options)]
        if chosen["scale"] == "none":
            n_shifts = len(biases[-1]) // 2
            weights, biases = [*weights[:-1], weights[-1][:n_shifts]], [*biases[:-1], biases[-1][:n_shifts]]
        split = half if k % 2 == 0 else slice(0, half)
        result.append(CouplingLayer(weights, biases, split, conditioning=conditioning, **chosen))
    return result


def one_by_one(x, layers, log_det):
    for layer in layers:
        x, log_det = cgm_kernels.affine_coupling_mlp(
            x, layer.weights, layer.biases, layer.split, log_det, activation=layer.activation,
            conditioning=layer.conditioning, inverse=layer.inverse, scale=layer.scale, layout=layer.layout,
        )  # fmt: skip
    return x, log_det


def results(call, drawn, size, backend, running_total=True, dtype=None):
    dtype = dtype or drawn[0].dtype
    x, log_det, layers = drawn

    def leaf(tensor):
        return None if tensor is None else tensor.detach().to(dtype).clone().requires_grad_()

    x, log_det = leaf(x), leaf(log_det)
    layers = [([leaf(w) for w in ws], [leaf(b) for b in bs], leaf(c)) for ws, bs, c in layers]
    with cgm_kernels.use_backend(backend):
        y, total = call(x, stacked(size, layers), log_det if running_total else None)
        node = made_by(y)
        scalar = (y * torch.linspace(-1, 2, y.numel(), dtype=dtype).reshape(y.shape)).sum() + total.square().sum()
        leaves = leaves_of(x, log_det, layers)
        grads = torch.autograd.grad(scalar, leaves, allow_unused=not running_total)
    filled = (torch.zeros_like(at) if grad is None else grad for grad, at in zip(grads, leaves, strict=True))
    return [y.detach(), total.detach(), *filled], node
