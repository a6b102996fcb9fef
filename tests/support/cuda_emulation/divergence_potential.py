"""The emulated steps of OT-Flow's potential, csrc/divergence/potential_cuda.cu, against its formula in NumPy.

The gradients are compared with derivatives of the formula along random directions by complex steps (Squire and Trapp
1998), which are exact. `python -m tests.support.cuda_emulation.divergence_potential LIBRARY [SEED...]` runs all cases
until one fails.
"""

import ctypes
import itertools
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import Machine
from .coupling_memory import EPSILON, Buffer

CONSTANT = 0.25
POINTERS = ("matrices", "biases", "output", "tangents", "squares", "s", "by_gradient", "by_laplacian", "gradient")
POINTERS += ("laplacian", "grad_s", "by_matrices", "by_biases", "by_output", "by_tangents", "by_squares")
GRADIENTS = ("s", "matrices", "biases", "output", "tangents", "squares")


def structure(dtype: str) -> type[ctypes.Structure]:
    """Of divergence_potential_capi.cpp, field by field in its order."""
    numbers = [(name, ctypes.c_int64) for name in ("layers", "width", "inputs", "rank", "directions", "block", "rows")]
    constant = ("constant", ctypes.c_float if dtype == "float32" else ctypes.c_double)
    fields = [*numbers, constant, *((name, ctypes.c_void_p) for name in POINTERS)]
    return type("Problem", (ctypes.Structure,), {"_fields_": fields})


@dataclass(frozen=True)
class Case:
    rows: int
    width: int
    layers: int = 2
    inputs: int = 3
    rank: int = 2
    directions: int = 2
    block: int = 2
    dtype: str = "float32"
    laplacian: bool = True  # a gradient reaches it

    def __str__(self) -> str:
        return "-".join(map(str, vars(self).values()))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        matrices = self.width * self.inputs + (self.layers - 1) * self.width**2 + self.rank * self.inputs
        return {
            **{"matrices": (matrices,), "biases": (self.layers, self.width), "output": (self.width,)},
            **{"tangents": (self.directions, self.width), "squares": (self.width,), "s": (self.rows, self.inputs)},
        }


def formula(case: Case, given: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Gradient and Laplacian, of complex arguments too; the tangents of K_0 s, and their squares, are arguments."""
    ends = [case.width * case.inputs + at * case.width**2 for at in range(case.layers)]
    first, *hidden, quadratic = np.split(given["matrices"], ends)
    weights = [first.reshape(case.width, case.inputs), *(part.reshape(case.width, case.width) for part in hidden)]
    quadratic = quadratic.reshape(case.rank, case.inputs)
    step = 1 / max(case.layers - 1, 1)
    u, tangent, slopes, squares = given["s"], given["tangents"][:, None], [], [given["squares"]]
    for layer, (weight, bias) in enumerate(zip(weights, given["biases"], strict=True)):
        z = u @ weight.T + bias
        slopes.append(np.tanh(z))
        if layer > 0:
            along = tangent @ weight.T
            squares.append((along**2).sum(0))
        bent = np.log(np.exp(z) + np.exp(-z))
        u = bent if layer == 0 else u + step * bent
        tangent = slopes[0] * tangent if layer == 0 else tangent + step * slopes[-1] * along
    v, laplacian = given["output"], np.full(case.rows, CONSTANT)
    for layer in range(case.layers - 1, -1, -1):
        weight = step if layer else 1
        laplacian = laplacian + weight * ((1 - slopes[layer] ** 2) * v * squares[layer]).sum(1)
        if layer:
            v = v + step * (slopes[layer] * v) @ weights[layer]
    return (slopes[0] * v) @ weights[0] + (given["s"] @ quadratic.T) @ quadratic, laplacian


def run(machine: Machine, case: Case, seed: int) -> list[np.ndarray]:
    generator = np.random.default_rng(5)
    shapes = case.shapes()
    shapes |= {"by_gradient": (case.rows, case.inputs), "by_laplacian": (case.rows,)}
    given, buffers = {}, {}
    for name, shape in shapes.items():
        scale = case.width**-0.5 if name in ("matrices", "tangents") else 1
        buffers[name] = Buffer(math.prod(shape), case.dtype)
        buffers[name].inside[:] = scale * generator.normal(size=math.prod(shape))
        given[name] = buffers[name].inside.astype(float).reshape(shape)
    results = {"gradient": "s", "laplacian": "by_laplacian", "grad_s": "s"}
    results |= {f"by_{name}": name for name in GRADIENTS[1:]}
    for name, like in results.items():
        buffers[name] = Buffer(buffers[like].size, case.dtype)
        buffers[name].inside[:] = 0
    problem = structure(case.dtype)()
    for name in ("layers", "width", "inputs", "rank", "directions", "block", "rows"):
        setattr(problem, name, getattr(case, name))
    problem.constant = CONSTANT
    for name in POINTERS:
        setattr(problem, name, buffers[name].address())
    if not case.laplacian:
        problem.by_laplacian, given["by_laplacian"] = None, np.zeros(case.rows)
    machine.seed(seed)
    for backward in (False, True):
        machine.call(f"potential_{case.dtype}", ctypes.byref(problem), ctypes.c_bool(backward))
    found = {name: buffers[name].inside.astype(float) for name in results}
    compare(case, given, found, generator)
    for name in results:
        buffers[name].check(f"{name} of {case}", np.arange(buffers[name].size))
    return list(found.values())


def compare(
    case: Case, given: dict[str, np.ndarray], found: dict[str, np.ndarray], generator: np.random.Generator
) -> None:
    bound = 200 * EPSILON[case.dtype]
    for name, exact in zip(("gradient", "laplacian"), formula(case, given), strict=True):
        error = np.abs(found[name] - exact.ravel()).max(initial=0)
        if not error <= bound * (1 + np.abs(exact).max(initial=0)):
            raise AssertionError(f"{name} of {case}: error {error:.3e}")
    for name, _ in itertools.product(GRADIENTS, range(2)):
        along = generator.normal(size=given[name].shape)
        gradient, laplacian = formula(case, {**given, name: given[name] + 1e-30j * along})
        exact = ((gradient.imag * given["by_gradient"]).sum() + laplacian.imag @ given["by_laplacian"]) / 1e-30
        exact *= 2 if name == "squares" else 1  # what is wanted of it is multiplied by the tangents
        terms = found["grad_s" if name == "s" else f"by_{name}"] * along.ravel()
        if not abs(terms.sum() - exact) <= bound * (1 + np.abs(terms).sum()):
            raise AssertionError(f"gradient by {name} of {case}: {terms.sum()} where {exact} was expected")


def cases() -> list[Case]:
    """One layer to four; directions at once, in blocks and none; several blocks of threads; rows beyond a warp."""
    found = [Case(5, 4, layers, dtype=dtype) for layers in (1, 2, 3, 4) for dtype in ("float32", "float64")]
    options = [
        {"directions": 5, "inputs": 6, "layers": 3},
        {"directions": 3, "block": 1, "rank": 0},
        {"rank": 0, "laplacian": False},
        {"laplacian": False, "layers": 1},
        {"directions": 3, "block": 3, "inputs": 4, "layers": 4},
        {"directions": 0, "block": 1, "layers": 3},
    ]
    sizes = itertools.cycle(((1, 1), (9, 33), (70, 5), (33, 32)))
    for option, dtype in itertools.product(options, ("float64", "float32")):
        found.append(Case(*next(sizes), dtype=dtype, **option))  # type: ignore[arg-type]
    return found


def everything() -> list[tuple]:
    """(run, case) for all cases."""
    return [(run, case) for case in cases()]


def main(arguments: list[str]) -> int:
    machine = Machine(Path(arguments[0]))
    for seed in [int(argument) for argument in arguments[1:]] or [0]:
        for case in cases():
            print(f"{case}, seed {seed}", flush=True)
            run(machine, case, seed)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
