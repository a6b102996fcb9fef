"""Energies for the emulated chains: their numbers, their gradients in NumPy, and the structures of chain.h."""

import ctypes
import itertools
import math
from dataclasses import dataclass

import numpy as np

I64, POINTER, DOUBLE = ctypes.c_int64, ctypes.c_void_p, ctypes.c_double
MOST_EXPERTS, MOST_LAYERS = 64, 32
KINDS = ("isotropic", "diagonal", "full")
ACTIVATIONS = ("tanh", "softplus", "silu", "gelu", "relu", "leaky_relu", "elu", "sin")
LEAK = 0.1


class MixtureStructure(ctypes.Structure):
    _fields_ = [(name, I64) for name in ("dims", "components", "experts")]
    _fields_ += [("ends", I64 * MOST_EXPERTS)]
    _fields_ += [(name, POINTER) for name in ("log_weights", "means", "precisions")] + [("kind", ctypes.c_int)]


class MlpStructure(ctypes.Structure):
    _fields_ = [("layers", I64), ("widths", I64 * (MOST_LAYERS + 1))]
    _fields_ += [(name, POINTER * MOST_LAYERS) for name in ("weights", "biases")]
    _fields_ += [("activation", ctypes.c_int), ("slope", DOUBLE)]


@dataclass(frozen=True)
class Mixtures:
    """A sum of experts of ``components`` Gaussians each; in experts of three or more the second has weight 0."""

    components: tuple[int, ...] = (3,)
    kind: str = "isotropic"

    def draw(self, dims: int, dtype: str) -> list[np.ndarray]:
        generator = np.random.default_rng(11)
        count = sum(self.components)
        log_weights = generator.normal(size=count)
        log_weights[
            [start + 1 for start, size in zip(self.starts(), self.components, strict=True) if size > 2]
        ] = -np.inf
        factor = generator.normal(size=(count, dims, dims)) / dims**0.5
        precisions = {
            "isotropic": generator.uniform(0.5, 1.5, count),
            "diagonal": generator.uniform(0.5, 1.5, (count, dims)),
            "full": 0.5 * np.eye(dims) + factor @ factor.swapaxes(1, 2),
        }[self.kind]
        return [np.ascontiguousarray(v, dtype) for v in (log_weights, generator.normal(size=(count, dims)), precisions)]

    def starts(self) -> list[int]:
        return [0, *np.cumsum(self.components)[:-1].tolist()]

    def structure(self, dims: int, numbers: list[np.ndarray]) -> MixtureStructure:
        ends = tuple(np.cumsum(self.components).tolist())
        addresses = [array.ctypes.data for array in numbers]
        return MixtureStructure(dims, sum(self.components), len(ends), ends, *addresses, KINDS.index(self.kind))

    def gradient(self, x: np.ndarray, numbers: list[np.ndarray]) -> np.ndarray:
        log_weights, means, precisions = (array.astype(x.dtype) for array in numbers)
        difference = x[:, None] - means
        if self.kind == "full":
            pull = np.einsum("kij,nkj->nki", precisions, difference)
        else:
            pull = difference * precisions.reshape(len(means), -1)
        with np.errstate(over="ignore"):
            forms = np.maximum(-0.5 * (difference * pull).sum(-1), np.finfo(x.dtype).min)
        total = np.zeros_like(x)
        for start, size in zip(self.starts(), self.components, strict=True):
            logits = (log_weights + forms)[:, start : start + size]
            shares = np.exp(logits - logits.max(1, keepdims=True))
            shares = shares / shares.sum(1, keepdims=True)
            total += (shares[..., None] * pull[:, start : start + size]).sum(1)
        return total


@dataclass(frozen=True)
class Network:
    """A network with hidden layers as wide as ``hidden``."""

    hidden: tuple[int, ...] = (7,)
    activation: str = "tanh"

    def draw(self, dims: int, dtype: str) -> list[np.ndarray]:
        generator = np.random.default_rng(13)
        widths = (dims, *self.hidden, 1)
        weights = [generator.normal(size=(b, a)) / a**0.5 for a, b in itertools.pairwise(widths)]
        biases = [0.3 * generator.normal(size=width) for width in widths[1:]]
        return [np.ascontiguousarray(values, dtype) for values in (*weights, *biases)]

    def structure(self, dims: int, numbers: list[np.ndarray]) -> MlpStructure:
        layers = len(self.hidden) + 1
        addresses = [array.ctypes.data for array in numbers]
        widths = (dims, *self.hidden, 1)
        activation = ACTIVATIONS.index(self.activation)
        return MlpStructure(layers, widths, tuple(addresses[:layers]), tuple(addresses[layers:]), activation, LEAK)

    def gradient(self, x: np.ndarray, numbers: list[np.ndarray]) -> np.ndarray:
        layers = len(self.hidden) + 1
        weights, biases = ([a.astype(x.dtype) for a in part] for part in (numbers[:layers], numbers[layers:]))
        slopes = []
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            x, slope = activated(self.activation, x @ weight.T + bias)
            slopes.append(slope)
        gradient = np.broadcast_to(weights[-1], (len(x), weights[-1].shape[1]))
        for weight, slope in zip(weights[-2::-1], slopes[::-1], strict=True):
            gradient = (gradient * slope) @ weight
        return gradient


def activated(name: str, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a(z) and a'(z)."""
    with np.errstate(invalid="ignore"):
        logistic = np.exp(-np.logaddexp(0, -z))
    below = np.vectorize(lambda value: 0.5 * math.erfc(-value / math.sqrt(2)), otypes=[z.dtype])(z)
    positive = (z > 0).astype(z.dtype)
    return {
        "tanh": lambda: (np.tanh(z), 1 - np.tanh(z) ** 2),
        "softplus": lambda: (np.logaddexp(0, z), logistic),
        "silu": lambda: (z * logistic, logistic * (1 + z * (1 - logistic))),
        "gelu": lambda: (z * below, below + z * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)),
        "relu": lambda: (np.maximum(z, 0), positive),
        "leaky_relu": lambda: (np.where(z > 0, z, LEAK * z), np.where(z > 0, 1, LEAK).astype(z.dtype)),
        "elu": lambda: (np.where(z > 0, z, np.expm1(np.minimum(z, 0))), np.exp(np.minimum(z, 0))),
        "sin": lambda: (np.sin(z), np.cos(z)),
    }[name]()
