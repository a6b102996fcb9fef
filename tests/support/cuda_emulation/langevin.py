"""The emulated Langevin kernels against float64 NumPy; shared by the tests, the sanitized run and the mutations.

`python -m tests.support.cuda_emulation.langevin LIBRARY [SEED...]` runs all cases until one fails.
"""

import ctypes
import math
import sys
from pathlib import Path

import numpy as np

from . import Machine
from .coupling_memory import EPSILON, WIDE, Buffer, narrow, widen
from .langevin_cases import AcceptCase, NormalCase, StepCase, accept_cases, normal_cases, step_cases
from .langevin_structures import MAX_DIMS, Accept, Noise, Normal, PerChain, Step, Strided

KEY = -0x123456789ABCDEF
STEP_SIZE, TEMPERATURE, BOUND = 0.3, 0.7, 0.9
WORD = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)


def words(elements: int, key: int, step: int) -> np.ndarray:
    """Philox4x32-10 of Salmon, Moraes, Dror and Shaw 2011, in uint64 arithmetic."""
    group = np.arange((elements + 3) // 4, dtype=np.uint64)
    key, step = key % 2**64, step % 2**64
    ones = np.ones_like(group)
    a, b, c, d = group & WORD, group >> HALF, ones * np.uint64(step % 2**32), ones * np.uint64(step >> 32)
    for round_ in range(10):
        low = np.uint64((key + round_ * 0x9E3779B9) % 2**32)
        high = np.uint64(((key >> 32) + round_ * 0xBB67AE85) % 2**32)
        first, second = a * np.uint64(0xD2511F53), c * np.uint64(0xCD9E8D57)
        a, b, c, d = (second >> HALF) ^ b ^ low, second & WORD, (first >> HALF) ^ d ^ high, first & WORD
    return np.stack([a, b, c, d], 1).ravel()


def uniforms(elements: int, key: int, step: int) -> np.ndarray:
    return (words(elements, key, step)[:elements] + 0.5) * 2.0**-32


def box_muller(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """In float64, the angle reduced to its quadrant in integers."""
    radius = np.sqrt(-2 * np.log((first + 0.5) * 2.0**-32))
    shifted = (second.astype(np.int64) + 2**29) % 2**32
    angle = (2 * (shifted % 2**30) - 2**30 + 1) * (math.pi * 2.0**-32)
    sine, cosine = np.sin(angle), np.cos(angle)
    quadrant = shifted >> 30
    turned = [(cosine, sine), (-sine, cosine), (-cosine, -sine), (sine, -cosine)]
    return tuple(radius * np.choose(quadrant, [pair[part] for pair in turned]) for part in range(2))


def normals(elements: int, key: int, step: int) -> np.ndarray:
    found = words(elements, key, step).reshape(-1, 2)
    return np.stack(box_muller(found[:, 0], found[:, 1]), 1).ravel()[:elements]


class Source:
    """The noise of a case, given by numbers or by a state in memory."""

    def __init__(self, case):
        self.case, self.key, self.step = case, KEY, case.step if case.state else 0
        self.memory = np.array([7, KEY, self.step, 7], np.int64)
        self.noise = Noise(self.memory.ctypes.data + 8) if case.state else Noise(None, KEY, 0)

    def check(self) -> None:
        advanced = (self.step + 1 + 2**63) % 2**64 - 2**63 if self.case.state else self.step
        if self.memory.tolist() != [7, KEY, advanced, 7]:
            raise AssertionError(f"the state of {self.case} is {self.memory[1:3]}")


def launch(machine: Machine, case, name: str, problem: ctypes.Structure) -> None:
    machine.launches()
    machine.call(f"{name}_{case.dtype}", ctypes.byref(problem))
    launches = machine.launches()
    if case.launches is not None and launches != case.launches:
        raise AssertionError(f"{launches} launches where {case.launches} were expected of {case}")


def compare(case, actual: np.ndarray, exact: np.ndarray, allowed: np.ndarray) -> None:
    """Element by element; NaN must meet NaN."""
    error = np.abs(actual - exact)
    wrong = np.isnan(actual) != np.isnan(exact)
    if wrong.any() or not np.all((error <= allowed) | np.isnan(exact) | (actual == exact)):
        worst = np.nanargmax(np.where(np.isnan(error), 0, error - allowed))
        where = np.flatnonzero(wrong)[:3] if wrong.any() else worst
        raise AssertionError(f"{case}: error {error[worst]:.3e}, allowed {allowed[worst]:.3e}, at {where}")


class ReadOnly(Buffer):
    """Nothing lies behind the elements: a sanitizer sees what reads on."""

    def __init__(self, size: int, dtype: str, offset: int = 0):
        super().__init__(size, dtype, offset)
        self.whole = np.empty_like(self.whole[: self.first + size])
        assert self.whole.ctypes.data % 16 == 0


class Place:
    """A tensor of a case: its memory, and where its elements lie in it in logical order."""

    def __init__(self, case: StepCase, layout: str, written: bool):
        shape = case.shape
        strides = np.ones(len(shape), np.int64)
        if layout == "turned":
            strides[1:] = np.cumprod(shape[:-1])
        else:
            last = shape[-1] + 3 * (layout == "padded" and len(shape) > 1)
            strides[:-1] = np.cumprod((last, *shape[:0:-1][1:]))[::-1][: len(shape) - 1]
            strides *= 2 if layout == "wide" else 1
        self.strides = strides.tolist()
        places = sum(
            (np.arange(n).reshape(-1, *[1] * (len(shape) - 1 - d)) * self.strides[d] for d, n in enumerate(shape)),
            np.zeros(shape, int),
        )
        self.places = places.ravel()
        kind = Buffer if written else ReadOnly
        self.buffer = kind(int(places.max(initial=-1)) + 1, case.dtype, case.offset)

    def fill(self, values: np.ndarray) -> np.ndarray:
        self.buffer.inside[self.places] = narrow(values, self.buffer.dtype)
        return self.values

    @property
    def values(self) -> np.ndarray:
        return widen(self.buffer.inside[self.places], self.buffer.dtype)

    @property
    def structure(self) -> Strided:
        found = Strided(self.buffer.address())
        found.stride[: len(self.strides)] = self.strides
        return found


def coefficient(case: StepCase, kind: str, number: float, wide) -> tuple[PerChain, np.ndarray, object]:
    """As the kernel gets it, its value for every chain, and what must stay alive."""
    if kind == "number":
        return PerChain(None, 0, number), np.full(case.chains, number), None
    count = case.chains if kind == "chain" else 1
    memory = np.full(2 * count, np.nan, wide)
    memory[::2] = number * (1 + 0.1 * np.arange(count))
    values = np.broadcast_to(memory[::2].astype(float), case.chains)
    return PerChain(memory.ctypes.data, 2 if kind == "chain" else 0, math.nan), values, memory


def gradients(case: StepCase, generator, elements: int) -> np.ndarray:
    grad = generator.normal(size=(case.chains, -1 if case.chains == 0 else elements // case.chains) if elements else 0)
    if case.values == "huge":
        grad[1] *= 1e37 if case.dtype == "float32" else 1e300
    elif case.values == "tiny":
        grad[1] *= 1e-40 if case.dtype == "float32" else 1e-310
    elif case.values == "zero":
        grad[1] = 0
    elif case.values == "not finite":
        grad[0, -1], grad[1, 0] = np.nan, -np.inf
    return grad.ravel()


def projected(grad: np.ndarray, case: StepCase) -> np.ndarray:
    """g·min(1, c/‖g‖) of the rows of g; NaN where the norm is not finite."""
    if not case.max_norm or grad.size == 0:
        return grad
    largest = np.abs(grad).max(1, keepdims=True)
    largest = np.where(largest == 0, 1, largest)
    relative = np.sqrt(((grad / largest) ** 2).sum(1, keepdims=True))
    factor = np.minimum(1, case.max_norm / largest / np.where(relative == 0, 1, relative))
    factor[relative == 0] = 1
    factor[~np.isfinite(relative + largest)] = np.nan
    return grad * factor


def run_step(machine: Machine, case: StepCase, seed: int) -> np.ndarray:
    """Runs the case with the schedule of `seed` and compares everything with NumPy; returns what it computed."""
    generator = np.random.default_rng(1234)
    elements, wide = math.prod(case.shape), WIDE[case.dtype]
    names = zip(("x", "grad", ""), case.layouts, strict=True)
    x, grad, out = (Place(case, layout, name == case.into) for name, layout in names)
    before, force = x.fill(generator.normal(size=elements)), grad.fill(gradients(case, generator, elements))
    out = {"x": x, "grad": grad, "": out}[case.into]
    length = elements // case.chains if case.chains else 0
    problem = Step(case.chains, length)
    dense = case.layouts == ("dense",) * 3
    problem.dims = 1 if dense else len(case.shape)
    problem.size[: len(case.shape)] = [elements] if len(case.shape) == 1 else case.shape
    problem.x, problem.grad, problem.out = x.structure, grad.structure, out.structure
    if dense:
        problem.size[0] = elements
        for tensor in (problem.x, problem.grad, problem.out):
            tensor.stride[:MAX_DIMS] = [1] + [0] * (MAX_DIMS - 1)
    problem.step_size, h, *kept = coefficient(case, case.step_size, STEP_SIZE, wide)
    problem.temperature, t, *kept_too = coefficient(case, case.temperature, TEMPERATURE, wide)
    problem.max_grad_norm = case.max_norm or math.inf
    problem.low, problem.high = (-BOUND, BOUND / 2) if case.clamp else (-math.inf, math.inf)
    source = Source(case)
    problem.noise = source.noise
    machine.seed(seed)
    launch(machine, case, "step", problem)
    del kept, kept_too
    with np.errstate(invalid="ignore", over="ignore"):
        rows = projected(force.reshape(case.chains, -1) if elements else force, case)
        pull = (h[:, None] * rows).ravel() if elements else rows
        noise = (np.sqrt(2 * h * t)[:, None] * np.ones((case.chains, length))).ravel()
        noise = noise * normals(elements, source.key, source.step)
        exact = before - pull + noise
        size = np.abs(before) + np.abs(pull) + np.abs(noise)
        if case.clamp:
            exact = np.where(np.isnan(exact), exact, np.clip(exact, -BOUND, BOUND / 2))
        if case.dtype in ("float32", "float64"):  # what overflows in the dtype
            exact = exact.astype(wide).astype(float)
        allowed = 8 * EPSILON[np.dtype(wide).name] * size + EPSILON[case.dtype] * np.abs(exact)
    compare(case, out.values, exact, allowed)
    out.buffer.check("out", out.places)
    source.check()
    return out.values


def run_normal(machine: Machine, case: NormalCase, seed: int) -> None:
    out, source = Buffer(case.elements, case.dtype, case.offset), Source(case)
    problem = Normal(case.elements, out.address(), source.noise)
    machine.seed(seed)
    launch(machine, case, "normal", problem)
    exact = normals(case.elements, source.key, source.step)
    wide = EPSILON[np.dtype(WIDE[case.dtype]).name]
    half = EPSILON[case.dtype] if EPSILON[case.dtype] > wide else 0.0
    compare(case, widen(out.inside, case.dtype), exact, (half + 3 * wide) * np.abs(exact) + 2.0**-24 * (half > 0))
    out.check("out", np.arange(case.elements))
    source.check()


def run_accept(machine: Machine, case: AcceptCase, seed: int) -> None:
    generator = np.random.default_rng(4321)
    size, source = case.chains * case.length, Source(case)
    buffers = {name: Buffer(size, case.dtype, case.offset) for name in ("x", "proposal", "out")}
    for sign, name in ((1, "x"), (-1, "proposal")):
        buffers[name].inside[:] = narrow(sign * (1 + generator.random(size)), case.dtype)
    log_u = np.log(uniforms(case.chains, KEY, source.step | 2**63))
    choice = np.arange(case.chains) % 6
    log_ratio = np.choose(choice, [log_u + 1e-9, log_u - 1e-9, np.nan, np.inf, -np.inf, 0.0]).astype(float)
    accepted = np.full(case.chains + 2, 7, np.uint8)
    addresses = [buffers["x"].address(), buffers["proposal"].address(), log_ratio.ctypes.data]
    addresses += [buffers["out"].address(), accepted.ctypes.data + 1]
    problem = Accept(case.chains, case.length, *addresses, source.noise)
    machine.seed(seed)
    launch(machine, case, "accept", problem)
    expected = np.isin(choice, (0, 3, 5))
    if accepted.tolist() != [7, *expected.tolist(), 7]:
        raise AssertionError(f"{case} accepted {accepted.tolist()} where {expected.tolist()} were expected")
    rows = np.repeat(expected, case.length)
    chosen = np.where(rows, buffers["proposal"].inside, buffers["x"].inside)
    if not np.array_equal(buffers["out"].inside, chosen):
        raise AssertionError(f"{case} chose other rows than it accepted")
    buffers["out"].check("out", np.arange(size))
    source.check()


def everything() -> list[tuple]:
    """(run, case) for all cases."""
    pairs = ((run_step, step_cases()), (run_normal, normal_cases()), (run_accept, accept_cases()))
    return [(run, case) for run, found in pairs for case in found]


def main(arguments: list[str]) -> int:
    machine = Machine(Path(arguments[0]))
    for seed in [int(argument) for argument in arguments[1:]] or [0]:
        for function, case in everything():
            print(f"{case}, seed {seed}", flush=True)
            function(machine, case, seed)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
