"""Wrong arguments of the Langevin operations: each raises an error that names the argument."""

import math

import pytest
import torch

import cgm_kernels
from cgm_kernels.langevin import noise_state
from tests.support.backends import running

x = torch.zeros(4, 6)
leaf = torch.zeros(4, 6, requires_grad=True)
ratio = torch.zeros(4)


def step(*arguments, **options):
    return lambda: cgm_kernels.langevin_step(*arguments, **options)


def normal(*arguments, **options):
    return lambda: cgm_kernels.normal(*arguments, **options)


def accept(*arguments, **options):
    return lambda: cgm_kernels.mala_accept(*arguments, **options)


CASES = {
    "x must be a tensor: got list": (TypeError, step([1.0], x, 0.1)),
    "grad must be a tensor: got NoneType": (TypeError, step(x, None, 0.1)),
    "grad must be a tensor: got float": (TypeError, step(x, 1.0, 0.1)),
    "x must be float32, .*: got torch.int64": (TypeError, step(x.long(), x, 0.1)),
    "grad must be float32, .*: got torch.complex64": (TypeError, step(x, x.cfloat(), 0.1)),
    "x must be a dense tensor": (TypeError, step(x.to_sparse(), x, 0.1)),
    r"grad must have the shape of x, \(4, 6\): got \(4, 5\)": (ValueError, step(x, x[:, :5], 0.1)),
    r"grad must have the shape of x, \(4, 6\): got \(6,\)": (ValueError, step(x, x[0], 0.1)),
    "grad must be on the device of x, cpu: got meta": (ValueError, step(x, x.to("meta"), 0.1)),
    "step_size must be a number or a tensor: got str": (TypeError, step(x, x, "0.1")),
    "step_size must be a number or a tensor: got NoneType": (TypeError, step(x, x, None)),
    "step_size must be a number or a tensor: got bool": (TypeError, step(x, x, True)),
    "step_size must not be negative: got -0.1": (ValueError, step(x, x, -0.1)),
    "step_size must be finite: got nan": (ValueError, step(x, x, math.nan)),
    "step_size must be finite: got inf": (ValueError, step(x, x, math.inf)),
    r"step_size must be \(\) or \(4,\), one for each chain of x: got \(6,\)": (ValueError, step(x, x, torch.ones(6))),
    r"step_size must be \(\) or \(4,\), .*: got \(4, 6\)": (ValueError, step(x, x, x)),
    r"step_size must be \(\) for x of shape \(\): got \(1,\)": (
        ValueError,
        step(torch.zeros(()), torch.zeros(()), torch.ones(1)),
    ),
    "step_size must be float32, .*: got torch.int64": (TypeError, step(x, x, torch.ones(4, dtype=torch.int64))),
    "step_size must be on the device of x, cpu: got meta": (ValueError, step(x, x, ratio.to("meta"))),
    "temperature must be a number or a tensor: got str": (TypeError, step(x, x, 0.1, temperature="1")),
    "temperature must be a number or a tensor: got bool": (TypeError, step(x, x, 0.1, temperature=False)),
    "temperature must not be negative: got -1": (ValueError, step(x, x, 0.1, temperature=-1)),
    r"temperature must be \(\) or \(4,\), .*: got \(1,\)": (ValueError, step(x, x, 0.1, temperature=torch.ones(1))),
    "clamp must be a pair of numbers .*: got 1.0": (TypeError, step(x, x, 0.1, clamp=1.0)),
    r"clamp must be a pair of numbers .*: got \(0, 1, 2\)": (TypeError, step(x, x, 0.1, clamp=(0, 1, 2))),
    r"clamp must be a pair of numbers .*: got \(None, 1\)": (TypeError, step(x, x, 0.1, clamp=(None, 1))),
    r"clamp must be a pair of numbers .*: got \(False, 1\)": (TypeError, step(x, x, 0.1, clamp=(False, 1))),
    "clamp must be a pair of numbers .*: got 'ab'": (TypeError, step(x, x, 0.1, clamp="ab")),
    r"clamp must have low <= high: got \(1, 0\)": (ValueError, step(x, x, 0.1, clamp=(1, 0))),
    r"clamp must have low <= high: got \(nan, 0\)": (ValueError, step(x, x, 0.1, clamp=(math.nan, 0))),
    "max_grad_norm must be positive: got 0": (ValueError, step(x, x, 0.1, max_grad_norm=0)),
    "max_grad_norm must be positive: got nan": (ValueError, step(x, x, 0.1, max_grad_norm=math.nan)),
    "max_grad_norm must be a number or None: got str": (TypeError, step(x, x, 0.1, max_grad_norm="1")),
    "max_grad_norm must be a number or None: got bool": (TypeError, step(x, x, 0.1, max_grad_norm=True)),
    "generator must be a torch.Generator or None: got int": (TypeError, step(x, x, 0.1, generator=3)),
    "generator and state exclude each other": (
        ValueError,
        step(x, x, 0.1, generator=torch.Generator(), state=noise_state()),
    ),
    r"state must be an int64 tensor \(2,\) or None: got int": (TypeError, step(x, x, 0.1, state=3)),
    "state must be int64: got torch.float32": (TypeError, step(x, x, 0.1, state=torch.zeros(2))),
    r"state must be \(2,\), .*: got \(3,\)": (ValueError, step(x, x, 0.1, state=torch.zeros(3, dtype=torch.int64))),
    r"state must be \(2,\), .*: got \(1, 2\)": (ValueError, step(x, x, 0.1, state=noise_state()[None])),
    "state must be contiguous: got stride 2": (ValueError, step(x, x, 0.1, state=torch.arange(4)[::2])),
    "state must be on the device of x, cpu: got meta": (ValueError, step(x, x, 0.1, state=noise_state().to("meta"))),
    "out must be a tensor: got list": (TypeError, step(x, x, 0.1, out=[])),
    "out must have the dtype of the result, torch.float32: got torch.float64": (
        TypeError,
        step(x, x, 0.1, out=x.double()),
    ),
    r"out must have the shape of x, \(4, 6\): got \(4, 5\)": (ValueError, step(x, x, 0.1, out=x[:, :5])),
    "out must be on the device of x, cpu: got meta": (ValueError, step(x, x, 0.1, out=x.to("meta"))),
    r"out must not overlap itself: got strides \(0, 1\)": (
        ValueError,
        step(x, x, 0.1, out=torch.zeros(6).expand(4, 6)),
    ),
    r"out must not overlap itself: got strides \(1, 1\)": (
        ValueError,
        step(x, x, 0.1, out=torch.zeros(9).as_strided((4, 6), (1, 1))),
    ),
    "out must be None where a gradient is wanted": (ValueError, step(leaf, x, 0.1, out=x)),
    "out must be None where a gradient is wanted: ": (ValueError, step(x, x, torch.ones(4, requires_grad=True), out=x)),
    "out must not require grad": (ValueError, step(x, x, 0.1, out=leaf)),
    "shape must be an int or a sequence of ints: got float": (TypeError, normal(2.0)),
    r"shape must hold ints: got \(2.5,\)": (TypeError, normal((2.5,))),
    r"shape must not be negative: got \(-1,\)": (ValueError, normal(-1)),
    r"shape must not be negative: got \(2, -3\)": (ValueError, normal((2, -3))),
    "dtype must be float32, .*: got torch.int32": (TypeError, normal(3, dtype=torch.int32)),
    "generator must be a torch.Generator or None: got str": (TypeError, normal(3, generator="0")),
    "state must be on the device of the result, meta: got cpu": (
        ValueError,
        normal(3, state=noise_state(), device="meta"),
    ),
    "proposal must be a tensor: got int": (TypeError, accept(x, 3, ratio)),
    r"proposal must have the shape of x, \(4, 6\): got \(4, 5\)": (ValueError, accept(x, x[:, :5], ratio)),
    "log_ratio must be a tensor: got float": (TypeError, accept(x, x, 0.5)),
    r"log_ratio must be \(4,\), one for each chain of x: got \(6,\)": (ValueError, accept(x, x, torch.zeros(6))),
    r"log_ratio must be \(4,\), .*: got \(4, 1\)": (ValueError, accept(x, x, torch.zeros(4, 1))),
    "log_ratio must be float32, .*: got torch.bool": (TypeError, accept(x, x, torch.zeros(4).bool())),
    "log_ratio must be on the device of x, cpu: got meta": (ValueError, accept(x, x, torch.zeros(4, device="meta"))),
    "state must be int64: got torch.int32": (TypeError, accept(x, x, torch.zeros(4), state=noise_state().int())),
}


@pytest.mark.parametrize("pair", [pair for pair in running() if "cpu" in pair.id])
@pytest.mark.parametrize("message", CASES)
def test_errors_name_the_argument(message, pair):
    kind, call = CASES[message]
    torch.manual_seed(0)
    with cgm_kernels.use_backend(pair[0]), pytest.raises(kind, match=message):
        call()
    after = torch.rand(1)
    torch.manual_seed(0)
    assert after.equal(torch.rand(1)), "a call that fails draws nothing"


def test_a_failed_call_leaves_the_state():
    source = noise_state()
    before = source.clone()
    with pytest.raises(ValueError, match="out"):
        cgm_kernels.langevin_step(x, x, 0.1, state=source, out=x[:2])
    assert source.equal(before)
