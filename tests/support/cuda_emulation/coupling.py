"""The emulated kernels of coupling against float64 NumPy; shared by the tests, the sanitized run and the mutations.

`python -m tests.support.cuda_emulation.coupling LIBRARY [SEED...]` runs all cases until one fails.
"""

import ctypes
import sys
from pathlib import Path

import numpy as np

from . import Machine
from .coupling_cases import GRADIENTS, Case, ChannelCase, cases, channel_cases
from .coupling_memory import EPSILON, WIDE, Buffer, Grid, narrow, widen
from .coupling_structures import Affine, AffineBackward, Channel, ChannelBackward, Passing


def sigma_and_slope(case: Case, s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """σ, log σ and d log σ / ds."""
    bound, offset, eps = case.scale.bound, case.scale.offset, case.scale.eps
    u = s if case.kind == "gate" else s + offset
    logistic = np.exp(-np.logaddexp(0, -u))
    if case.kind == "exp":
        log_sigma, slope = s, np.ones_like(s)
    elif case.kind == "tanh":
        log_sigma, slope = bound * np.tanh(s / bound), 1 - np.tanh(s / bound) ** 2
    elif case.kind == "softclip":
        log_sigma, slope = s / (1 + abs(s / bound)), 1 / (1 + abs(s / bound)) ** 2
    elif case.kind == "softplus":
        sigma = np.logaddexp(0, u) + eps
        return sigma, np.log(sigma), logistic / sigma
    else:
        sigma = logistic + eps
        return sigma, np.log(sigma), logistic * np.exp(-np.logaddexp(0, u)) / sigma
    return np.exp(log_sigma), log_sigma, slope


def compare(case, name: str, actual: np.ndarray, exact: np.ndarray, precision: float) -> None:
    scale = 1 + np.abs(exact).max(initial=0)
    worst = np.abs(actual - exact).max(initial=0)
    if not worst <= precision * scale:
        raise AssertionError(f"{name} of {case}: error {worst:.3e} at scale {scale:.3e}")


def run(machine: Machine, case: Case, seed: int) -> np.ndarray:
    """Runs the case forward and backward with the schedule of `seed` and compares everything with NumPy.

    Returns the log-determinants.
    """
    generator = np.random.default_rng(1234)

    def draw(grid: Grid) -> np.ndarray:
        return grid.fill(generator.normal(size=grid.places.shape))

    machine.seed(seed)
    x_whole, x_part = case.event()
    s_grid, t_grid = case.parameters()
    event, s, t = draw(x_whole), draw(s_grid), draw(t_grid)
    x = x_part.values
    sigma, log_sigma, slope = sigma_and_slope(case, np.broadcast_to(s, x.shape))
    rest = 1 - sigma if case.kind == "gate" else 1.0
    result = (x - rest * t) / sigma if case.inverse else sigma * x + rest * t
    log_det = log_sigma.sum(1) * (-1 if case.inverse else 1)
    computed = forward(machine, case, (x_whole, x_part, s_grid, t_grid), event, result, log_det)
    backward(machine, case, (s_grid, t_grid), (x, result), (sigma, slope, rest, t), draw)
    return computed


def forward(
    machine: Machine, case: Case, inputs, event: np.ndarray, result: np.ndarray, log_det: np.ndarray
) -> np.ndarray:
    x_whole, x_part, s_grid, t_grid = inputs
    y_whole, y_part = case.event()
    total = Buffer(case.rows, WIDE[case.dtype]().dtype.name)
    before = Buffer(2 * case.rows, total.dtype)
    problem = Affine(case.rows, case.cols, case.scale, case.inverse, x_part.matrix, s_grid.matrix, t_grid.matrix)
    problem.y, problem.passing = y_part.matrix, case.passing(x_whole, y_whole)
    problem.log_det, problem.log_det_before_step = total.address(), 2
    if case.before:
        before.inside[:] = np.arange(2 * case.rows)
        problem.log_det_before = before.address()
        log_det = log_det + 2 * np.arange(case.rows)
    machine.launches()
    machine.call(f"affine_{case.dtype}", ctypes.byref(problem))
    launches = machine.launches()
    if case.launches is not None and launches != case.launches:
        raise AssertionError(f"{launches} launches where {case.launches} were expected")
    y_whole.buffer.check("y", y_whole.places)
    total.check("log_det", np.arange(case.rows))
    y = y_part.values
    compare(case, "y", y, result, 4 * EPSILON[case.dtype])
    compare(case, "log_det", total.inside, log_det, 8 * np.finfo(total.inside.dtype).eps)
    passed = np.isin(y_whole.places, y_part.places, invert=True)
    if not np.array_equal(y_whole.values[passed], event[passed]):
        raise AssertionError(f"what passes has changed in {case}")
    return total.inside


def backward(machine: Machine, case: Case, parameters, values, scaled, draw) -> None:
    (s_grid, t_grid), (x, result), (sigma, slope, rest, t) = parameters, values, scaled
    grad_whole, grad_part = case.event()
    _, kept = case.event()
    into_whole, into = case.event()
    by_parameters = Buffer(2 * case.rows * case.cols, case.dtype, case.offset)
    second = 1 if case.step == 2 else case.cols
    by_s, by_t = (Grid(by_parameters, case.rows, case.cols, 2 * case.cols, case.step, start) for start in (0, second))
    event, grad = draw(grad_whole), grad_part.values
    kept.fill(result if case.inverse else x)
    x = kept.values
    grad_log_det = Buffer(2 * case.rows, WIDE[case.dtype]().dtype.name)
    grad_log_det.inside[:] = np.linspace(-1, 1, 2 * case.rows)
    g = widen(grad_log_det.inside[::2], grad_log_det.dtype)[:, None]
    problem = AffineBackward(case.rows, case.cols, case.scale, case.inverse, kept=kept.matrix, passing=Passing())
    problem.log_scale = s_grid.matrix
    if case.kind == "gate":
        problem.shift = t_grid.matrix
    if case.given[0]:
        problem.grad_y, problem.passing = grad_part.matrix, case.passing(grad_whole, into_whole)
    if case.given[1]:
        problem.grad_log_det, problem.grad_log_det_step = grad_log_det.address(), 2
    grad, g = grad * case.given[0], g * case.given[1]
    outputs = dict(zip(GRADIENTS, (into, by_s, by_t), strict=True))
    for name in case.wanted:
        setattr(problem, f"grad_{name}", outputs[name].matrix)
    machine.call(f"affine_backward_{case.dtype}", ctypes.byref(problem))

    gated = t if case.kind == "gate" else 0.0
    if case.inverse:
        exact = grad / sigma, (grad * (gated - x) - g) * slope, -rest * grad / sigma
    else:
        exact = sigma * grad, (grad * sigma * (x - gated) + g) * slope, rest * grad
    for name, expected in zip(GRADIENTS, exact, strict=True):
        if name in case.wanted:
            compare(case, f"grad_{name}", outputs[name].values, expected, 8 * EPSILON[case.dtype])
    written = into_whole.places if case.given[0] else into.places
    into_whole.buffer.check("grad_x", written if "x" in case.wanted else np.zeros(0, int))
    halves = [outputs[name].places.ravel() for name in GRADIENTS[1:] if name in case.wanted]
    by_parameters.check("the gradients of the parameters", np.concatenate([np.zeros(0, int), *halves]))
    passed = np.isin(into_whole.places, into.places, invert=True)
    if case.given[0] and not np.array_equal(into_whole.values[passed], event[passed]):
        raise AssertionError(f"the gradient of what passes has changed in {case}")


def run_channel(machine: Machine, case: ChannelCase, seed: int) -> np.ndarray:
    """The same for channels; returns the gradients of the multipliers."""
    generator = np.random.default_rng(4321)
    shape = (case.outer, case.channels, case.inner)
    size, wide = int(np.prod(shape)), WIDE[case.dtype]().dtype.name
    everything = np.arange(size)
    buffers = {name: Buffer(size, case.dtype, case.offset) for name in ("x", "grad_y", "y", "grad_x")}
    names = ("multiplier", "added", "grad_multiplier", "grad_added")
    buffers.update({name: Buffer(case.channels, wide) for name in names})
    for name in ("x", "grad_y"):
        buffers[name].inside[:] = narrow(generator.normal(size=size), case.dtype)
    for name in ("multiplier", "added"):
        buffers[name].inside[:] = generator.uniform(0.5, 2, size=case.channels)
    value = {name: widen(buffers[name].inside, buffers[name].dtype) for name in ("x", "grad_y", *names[:2])}
    x, grad = value["x"].reshape(shape), value["grad_y"].reshape(shape)
    m, a = value["multiplier"][:, None], value["added"][:, None]
    problem, backward_problem = Channel(*shape, case.inverse), ChannelBackward(*shape, case.inverse)
    for structure in (problem, backward_problem):
        for name, kind in structure._fields_:
            if kind is ctypes.c_void_p:
                setattr(structure, name, buffers[name].address())
    machine.seed(seed)
    machine.call(f"channel_{case.dtype}", ctypes.byref(problem))
    machine.call(f"channel_backward_{case.dtype}", ctypes.byref(backward_problem))
    product = (grad * (x - a if case.inverse else x)).sum((0, 2))
    total = grad.sum((0, 2)) * (-m[:, 0] if case.inverse else 1)
    exact = {"y": (x - a) * m if case.inverse else m * x + a, "grad_x": grad * m}
    for name, expected in exact.items():
        buffers[name].check(name, everything)
        compare(case, name, widen(buffers[name].inside, case.dtype), expected.ravel(), 2 * EPSILON[case.dtype])
    precision = 4 * EPSILON[wide] * max(1.0, (case.outer * case.inner) ** 0.5)
    for name, expected in (("grad_multiplier", product), ("grad_added", total)):
        buffers[name].check(name, np.arange(case.channels))
        compare(case, name, buffers[name].inside.astype(float), expected, precision)
    return buffers["grad_multiplier"].inside


def everything() -> list[tuple]:
    """(run, case) for all cases."""
    return [*((run, case) for case in cases()), *((run_channel, case) for case in channel_cases())]


def main(arguments: list[str]) -> int:
    machine = Machine(Path(arguments[0]))
    for seed in [int(argument) for argument in arguments[1:]] or [0]:
        for function, case in everything():
            print(f"{case}, seed {seed}", flush=True)
            function(machine, case, seed)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
