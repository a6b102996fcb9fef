"""The emulated kernels of the Langevin chains against float64 NumPy; shared by the tests and the sanitized run.

`python -m tests.support.cuda_emulation.langevin_chain LIBRARY [SEED...]` runs all cases until one fails.
"""

import ctypes
import itertools
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from . import Machine
from .langevin import normals
from .langevin_chain_energies import ACTIVATIONS, KINDS, Mixtures, Network
from .langevin_structures import PerChain

LARGE_DEVICE, SMALL_DEVICE = 227 * 1024, 1024  # the second holds no tile and no team: all take the workspace
I64, POINTER, DOUBLE = ctypes.c_int64, ctypes.c_void_p, ctypes.c_double
GUARD = 32


class Chain(ctypes.Structure):
    _fields_ = [(name, I64) for name in ("chains", "dims", "steps")]
    _fields_ += [("x", POINTER), ("out", POINTER), ("step_size", PerChain), ("temperature", PerChain)]
    _fields_ += [(name, DOUBLE) for name in ("max_grad_norm", "low", "high")] + [("state", POINTER)]


@dataclass(frozen=True)
class Case:
    energy: Mixtures | Network
    dims: int = 2
    chains: int = 70
    steps: int = 4
    dtype: str = "float32"
    step_size: str = "number"  # number, one (a tensor for all), or each
    temperature: str = "number"
    max_grad_norm: float = math.inf
    clamp: tuple[float, float] = (-math.inf, math.inf)
    first: float = 0.0  # where not 0, the first chain begins here
    state: tuple[int, int] = (-(2**62) + 12345, 2**32 - 2)  # the step's high word changes on the way
    device: int = LARGE_DEVICE

    def __str__(self) -> str:
        energy = "-".join(str(value).replace(", ", "x") for value in vars(self.energy).values())
        rest = [str(value) for name, value in vars(self).items() if name not in ("energy", "state")]
        return "-".join([type(self.energy).__name__, energy, *rest])

    def per_chain(self, kind: str, value: float) -> tuple[PerChain, np.ndarray]:
        """The structure, and the numbers (chains, 1), which own the memory."""
        each = value * np.linspace(0.5, 1.5, self.chains) if kind == "each" else np.full(self.chains, value)
        memory = np.ascontiguousarray(each, self.dtype)
        if kind == "number":
            return PerChain(None, 0, value), np.full((self.chains, 1), value)
        return PerChain(memory.ctypes.data, int(kind == "each"), 0.0), memory[:, None]


def projected(gradient: np.ndarray, case: Case) -> np.ndarray:
    if case.max_grad_norm == math.inf:
        return gradient
    largest = np.maximum(abs(gradient).max(1, keepdims=True, initial=0), np.finfo(gradient.dtype).tiny)
    with np.errstate(divide="ignore", invalid="ignore"):
        norm = largest * np.sqrt(((gradient / largest) ** 2).sum(1, keepdims=True))
        return gradient * np.minimum(1, case.max_grad_norm / norm)


def expected(case: Case, x: np.ndarray, numbers: list[np.ndarray], h: np.ndarray, t: np.ndarray) -> np.ndarray:
    """The chain in the dtype of x."""
    for step in range(case.steps):
        noise = normals(x.size, case.state[0], case.state[1] + step).reshape(x.shape).astype(x.dtype)
        gradient = projected(case.energy.gradient(x, numbers), case)
        x = np.clip(x - h * gradient + np.sqrt(2 * h * t) * noise, *case.clamp).astype(x.dtype)
    return x


def run(machine: Machine, case: Case, seed: int) -> np.ndarray:
    """Runs the case with the schedule of `seed` and compares it with NumPy; returns x after the last step.

    The error is at most twice that of NumPy in the same dtype, and a floor.
    """
    generator = np.random.default_rng(5)
    x = np.ascontiguousarray(generator.normal(size=(case.chains, case.dims)), case.dtype)
    if case.first != 0:
        x[0] = case.first
    numbers = case.energy.draw(case.dims, case.dtype)
    step_size, h = case.per_chain(case.step_size, 0.1)
    temperature, t = case.per_chain(case.temperature, 0.7)
    state, given = np.array(case.state, np.int64), x.copy()
    out = np.full(x.size + 2 * GUARD, 7.0, case.dtype)
    chain = Chain(
        *(case.chains, case.dims, case.steps, x.ctypes.data, out[GUARD:].ctypes.data, step_size, temperature),
        *(case.max_grad_norm, *case.clamp, state.ctypes.data),
    )
    machine.seed(seed)
    machine.shared_memory_limit(case.device)
    name = "mixture" if isinstance(case.energy, Mixtures) else "mlp"
    energy = case.energy.structure(case.dims, numbers)
    machine.call(f"{name}_{case.dtype}", ctypes.byref(chain), ctypes.byref(energy))
    if not (out[:GUARD] == 7.0).all() or not (out[len(out) - GUARD :] == 7.0).all():
        raise AssertionError(f"stray writes of {case}")
    if not np.array_equal(x, given, equal_nan=True):
        raise AssertionError(f"{case} changed its input")
    if state.tolist() != [case.state[0], case.state[1] + case.steps]:
        raise AssertionError(f"the state of {case} became {state}")
    found = out[GUARD : len(out) - GUARD].reshape(x.shape)
    exact = expected(case, x.astype(float), numbers, h.astype(float), t.astype(float))
    eager = expected(case, x, numbers, h.astype(case.dtype), t.astype(case.dtype))
    if not np.array_equal(np.isnan(found), np.isnan(exact)):
        raise AssertionError(f"{case}: NaN in the wrong places")
    found, exact, eager = (np.nan_to_num(values) for values in (found, exact, eager))
    scale = 1 + abs(exact).max(1, initial=0)
    bound = 2 * abs(eager - exact).max(1, initial=0) + 32 * np.finfo(case.dtype).eps * scale
    error = abs(found - exact).max(1, initial=0)
    if not (error <= bound).all():
        raise AssertionError(f"{case}: error {error.max():.3e} at scale {scale.max():.3e}")
    return found


def mixture_cases() -> list[Case]:
    thread = [Case(Mixtures(kind=KINDS[dims % 3]), dims, chains=65 + dims) for dims in range(1, 9)]
    team = [Case(Mixtures(kind=kind), dims, 37) for dims, kind in itertools.product((9, 33, 130), KINDS)]
    experts = [Case(Mixtures((2, 1, 3), kind), dims, 40) for dims, kind in itertools.product((3, 20), KINDS)]
    single = Case(Mixtures((1,), "full"), 4), Case(Mixtures((1,), "diagonal"), 12, 9)
    return [*thread, *team, *experts, *single]


def mlp_cases() -> list[Case]:
    kinds = [Case(Network((6, 5), activation=name), 3, 33) for name in ACTIVATIONS]
    shapes = [
        Case(Network(()), 5, 9),
        Case(Network((1,)), 1, 1),
        Case(Network((40, 3)), 2, 130),
        Case(Network((33, 70, 12)), 35, 20),
        Case(Network((5, 6, 7, 8), "silu"), 2, 6, steps=2),
        Case(Network((17, 100)), 16, 70, steps=2),
    ]
    return [*kinds, *shapes]


def cases() -> list[Case]:
    """Every path with every option of the steps, in both dtypes, and with too little shared memory."""
    plain = [*mixture_cases(), *mlp_cases()]
    paths = [
        Case(Mixtures((2, 2)), 2, 5),
        Case(Mixtures((2, 2), "full"), 11, 5),
        Case(Network((9, 8)), 3, 5),
    ]
    options = [
        {"max_grad_norm": 0.3},
        {"clamp": (-0.5, 0.4), "step_size": "each"},
        {"step_size": "one", "temperature": "each", "max_grad_norm": 2.0},
        {"temperature": "one", "steps": 1},
        {"steps": 0, "chains": 3},
        {"chains": 0},
        {"first": math.nan, "steps": 2, "max_grad_norm": 1.0},
    ]
    far = [{"first": 1e22, "steps": 2}, {"first": 1e22, "steps": 2, "max_grad_norm": 1.0}]
    infinite = Case(Mixtures((2, 2)), 2, 5, steps=1, first=math.inf, max_grad_norm=1.0)
    distant = [paths[0], Case(Mixtures((2, 2), "diagonal"), 11, 5), paths[2]]
    optional = [replace(case, **option) for case in paths for option in options]
    optional += [replace(case, **option) for case in distant for option in far]
    doubled = [replace(case, dtype="float64") for case in [*plain[::3], *paths]]
    workspace = [replace(case, device=SMALL_DEVICE, **option) for case in paths[1:] for option in options[:3]]
    return [*plain, *optional, infinite, *doubled, *workspace]


def main(library: str, *seeds: str) -> None:
    machine = Machine(Path(library))
    for case in cases():
        for seed in map(int, seeds or ("0",)):
            run(machine, case, seed)
        print(case, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
