"""The emulated kernel of the masked inverse against float64 NumPy; shared by the tests and the sanitized run.

`python -m tests.support.cuda_emulation.coupling_masked LIBRARY [SEED...]` runs all cases until one fails.
"""

import ctypes
import itertools
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import Machine
from .coupling_structures import Scale

LARGE_DEVICE, SMALL_DEVICE = 227 * 1024, 1024  # the second holds no case: all take the workspace
MOST_LAYERS = 64
KINDS = ("exp", "tanh", "softclip", "sigmoid", "softplus", "gate")
ACTIVATIONS = ("relu", "tanh", "sigmoid", "silu", "gelu", "elu", "softplus")
GUARD = 32


class Plan(ctypes.Structure):
    _fields_ = [
        *[(name, ctypes.c_int64) for name in ("layers", "steps")],
        ("widths", ctypes.c_int64 * (MOST_LAYERS + 1)),
        ("row_bias_start", ctypes.c_int64 * MOST_LAYERS),
        ("residual", ctypes.c_bool),
        *[(name, ctypes.c_void_p) for name in ("dimensions", "dimension_ends", "unit_ends", "skips")],
    ]


class Problem(ctypes.Structure):
    _fields_ = [
        ("rows", ctypes.c_int64),
        ("y", ctypes.c_void_p),
        *[(name, ctypes.c_int64) for name in ("y_row_stride", "y_stride")],
        *[(name, ctypes.c_void_p * MOST_LAYERS) for name in ("weights", "biases")],
        ("row_bias", ctypes.c_void_p),
        ("row_bias_stride", ctypes.c_int64),
        ("activation", ctypes.c_int),
        ("scale", Scale),
        ("standardize", ctypes.c_bool),
        *[(name, ctypes.c_void_p) for name in ("x", "log_det")],
    ]


@dataclass(frozen=True)
class Case:
    """One network, sorted by steps as a plan would, and the device it runs on."""

    dim: int = 5
    hidden: tuple[int, ...] = (7, 6)
    rows: int = 40
    dtype: str = "float32"
    activation: str = "relu"
    kind: str = "tanh"
    eps: float = 0.0
    standardize: bool = False
    residual: bool = False
    row_bias: int = -1  # the layer that has one
    together: int = 1  # dimensions of a step
    step: int = 1  # between the elements of y
    device: int = LARGE_DEVICE

    def __str__(self) -> str:
        parts = [self.dim, "x".join(map(str, self.hidden)), self.rows, self.dtype, self.activation, self.kind, self.eps]
        flags = [name for name in ("standardize", "residual") if getattr(self, name)]
        return "-".join(map(str, [*parts, *flags, self.row_bias, self.together, self.step, self.device]))


class Network:
    """Weights in the order of the steps; masked ones are NaN, since nothing may read them."""

    def __init__(self, case: Case):
        generator = np.random.default_rng(7)
        self.case = case
        self.steps = -(-case.dim // case.together)
        self.step_of_rank = np.arange(case.dim) // case.together
        hidden = [np.sort(np.arange(width) % (self.steps + 1)) for width in case.hidden]
        levels = [self.step_of_rank + 1, *hidden, np.repeat(self.step_of_rank, 2)]
        self.levels = levels[1:]
        self.masks = [own[:, None] >= before for own, before in zip(levels[1:], levels, strict=False)]
        self.weights = [self.draw(generator, *mask.shape) / max(mask.shape[1], 1) ** 0.5 for mask in self.masks]
        self.biases = [self.draw(generator, len(mask)) for mask in self.masks]
        self.dimensions = generator.permutation(case.dim)
        same = [generator.permutation(np.arange(start, stop)) for start, stop in self.runs()] if case.residual else []
        self.skip = np.concatenate(same) if same else np.zeros(0, int)
        self.row_bias = self.draw(generator, case.rows, len(self.biases[case.row_bias]) + 3)
        self.y = self.draw(generator, case.rows, case.dim * case.step)

    def draw(self, generator, *shape: int) -> np.ndarray:
        return generator.normal(size=shape).astype(self.case.dtype)

    def runs(self) -> list[tuple[int, int]]:
        """The ranges of units of one step, in hidden layers as wide as the first."""
        ends = np.searchsorted(self.levels[0], np.arange(self.steps + 2))
        return list(itertools.pairwise(ends))

    def sums(self, layer: int, h: np.ndarray) -> np.ndarray:
        weights = np.where(self.masks[layer], self.weights[layer].astype(float), 0.0)
        z = h @ weights.T + self.biases[layer]
        return z + self.row_bias[:, 2 : 2 + z.shape[1]] if layer == self.case.row_bias else z

    def outputs(self, x: np.ndarray) -> np.ndarray:
        h, kept, last = x, [], len(self.masks) - 1
        for layer in range(last):
            z = self.sums(layer, h)
            if self.case.residual and layer > 0 and layer % 2 == 0:
                z = z + kept[layer - 2][:, self.skip]
            kept.append(z)
            h = z if self.case.residual and layer == last - 1 else activate(self.case.activation, z)
        return self.sums(last, h)


def activate(name: str, z: np.ndarray) -> np.ndarray:
    logistic = np.exp(-np.logaddexp(0, -z))
    return {
        "relu": lambda: np.maximum(z, 0),
        "tanh": lambda: np.tanh(z),
        "sigmoid": lambda: logistic,
        "silu": lambda: z * logistic,
        "gelu": lambda: 0.5 * z * (1 + np.vectorize(math.erf)(z / math.sqrt(2))),
        "elu": lambda: np.where(z > 0, z, np.expm1(np.minimum(z, 0))),
        "softplus": lambda: np.logaddexp(0, z),
    }[name]()


def sigma_of(case: Case, s: np.ndarray) -> np.ndarray:
    u = s if case.kind == "gate" else s + 2.0
    return {
        "exp": lambda: np.exp(s),
        "tanh": lambda: np.exp(2.0 * np.tanh(s / 2.0)),
        "softclip": lambda: np.exp(s / (1 + abs(s / 2.0))),
        "sigmoid": lambda: np.exp(-np.logaddexp(0, -u)) + case.eps,
        "softplus": lambda: np.logaddexp(0, u) + case.eps,
        "gate": lambda: np.exp(-np.logaddexp(0, -u)),
    }[case.kind]()


def expected(net: Network) -> tuple[np.ndarray, np.ndarray]:
    """x by dimension and the log-determinant, the network run once for each step."""
    case = net.case
    y = net.y[:, :: case.step].astype(float)[:, net.dimensions]
    x = np.zeros_like(y)
    for step in range(net.steps):
        now = net.step_of_rank == step
        s, t = net.outputs(x)[:, 0::2][:, now], net.outputs(x)[:, 1::2][:, now]
        sigma = sigma_of(case, s)
        shift = (1 - sigma) * t if case.kind == "gate" else t
        x[:, now] = y[:, now] * sigma + shift if case.standardize else (y[:, now] - shift) / sigma
    log_det = np.log(sigma_of(case, net.outputs(x)[:, 0::2])).sum(1) * (1 if case.standardize else -1)
    by_dimension = np.empty_like(x)
    by_dimension[:, net.dimensions] = x
    return by_dimension, log_det


def run(machine: Machine, case: Case, seed: int) -> np.ndarray:
    """Runs the case with the schedule of `seed` and compares it with NumPy; returns x."""
    net = Network(case)
    x, log_det = expected(net)
    machine.seed(seed)
    machine.shared_memory_limit(case.device)
    kept = [np.where(mask, w, np.nan).astype(case.dtype) for mask, w in zip(net.masks, net.weights, strict=True)]
    steps = np.arange(net.steps)
    unit_ends = np.stack([np.searchsorted(own, steps, "right") for own in net.levels[:-1]] or [steps[:0]], 1)
    skips = np.concatenate([net.skip if k > 0 and k % 2 == 0 else np.full(w, -1) for k, w in enumerate(case.hidden)]
                           ) if case.residual else np.zeros(0)  # fmt: skip
    integers = [net.dimensions, np.searchsorted(net.step_of_rank, steps, "right"), unit_ends, skips]
    integers = [np.ascontiguousarray(values, np.int32) for values in integers]
    widths = (case.dim, *case.hidden, 2 * case.dim)
    starts = [2 if layer == case.row_bias else -1 for layer in range(len(kept))]
    plan = Plan(len(kept), net.steps, widths, tuple(starts), case.residual, *[i.ctypes.data for i in integers])
    outputs = [np.full(size + 2 * GUARD, 7.0, case.dtype) for size in (case.rows * case.dim, case.rows)]
    scale = Scale(KINDS.index(case.kind), 2.0, 2.0, case.eps)
    problem = Problem(
        case.rows, net.y.ctypes.data, net.y.shape[1], case.step, tuple(w.ctypes.data for w in kept),
        tuple(b.ctypes.data for b in net.biases), net.row_bias.ctypes.data, net.row_bias.shape[1],
        ACTIVATIONS.index(case.activation), scale, case.standardize,
        *[out[GUARD:].ctypes.data for out in outputs],
    )  # fmt: skip
    machine.call(f"masked_{case.dtype}", ctypes.byref(plan), ctypes.byref(problem))
    for name, out, exact in zip(("x", "log_det"), outputs, (x, log_det), strict=True):
        if not (out[:GUARD] == 7.0).all() or not (out[len(out) - GUARD :] == 7.0).all():
            raise AssertionError(f"stray writes beside {name} of {case}")
        inside = out[GUARD : len(out) - GUARD].reshape(exact.shape)
        error, size = abs(inside - exact).max(initial=0), 1 + abs(exact).max(initial=0)
        if not error <= 200 * np.finfo(case.dtype).eps * size:
            raise AssertionError(f"{name} of {case}: error {error:.3e} at scale {size:.3e}")
    return outputs[0]


def cases() -> list[Case]:
    found = [
        Case(1, (3,), 1),
        Case(3, (), 33),
        Case(9, (20, 8, 5), 70, together=4),
        Case(6, (8, 8, 8), residual=True, activation="tanh"),
        Case(6, (8, 5, 8, 9, 8), residual=True, row_bias=2, standardize=True),
        Case(6, (9, 7), rows=0),
        Case(5, step=3, row_bias=0),
        Case(5, row_bias=2, standardize=True),
        *[Case(4, (6,), 20, activation=name) for name in ACTIVATIONS],
        *[Case(4, (6,), 20, kind=kind, standardize=flag) for kind in KINDS for flag in (False, True)],
        Case(4, (6,), 20, kind="sigmoid", eps=0.1),
        Case(4, (6,), 20, kind="softplus", eps=0.1, standardize=True),
    ]
    doubled = [Case(**{**vars(case), "dtype": "float64"}) for case in found[:8]]
    workspace = [Case(**{**vars(case), "device": SMALL_DEVICE}) for case in found[:5]]
    return found + doubled + workspace


def main(library: str, *seeds: str) -> None:
    machine = Machine(Path(library))
    for case in cases():
        for seed in map(int, seeds or ("0",)):
            run(machine, case, seed)
        print(case, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
