"""Stacks of couplings in one Triton kernel, against the layers one by one in float64.

Without a GPU it runs in Triton's interpreter.
"""

import dataclasses
import itertools

import pytest
import torch

import cgm_kernels
from cgm_kernels import affine_coupling_stack
from tests.support.called import Called, made_by
from tests.support.coupling_stacks import Case
from tests.support.derivatives import assert_further_derivatives
from tests.support.gpu_compile import compiled_for_gpus
from tests.support.tolerances import assert_as_accurate

pytest.importorskip("triton")
from cgm_kernels.coupling import triton_stack, triton_stack_kernels
from cgm_kernels.divergence import triton_plan

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = pytest.mark.skipif(
    cgm_kernels.backends.absence("triton", DEVICE) is not None, reason="Triton does not run here"
)
OPERATORS = torch.ops.cgm_triton
FORWARD = "coupling_stack_forward"
FAKE = ("test_faketensor",)


def options(scale, activation="relu", inverse=False, layout="scale_shift", **more):
    return dict(scale=scale, activation=activation, inverse=inverse, layout=layout, **more)


CASES = [
    Case(7, batch=18, conditioned=(0, 2), options=options("exp")),
    Case(7, batch=1, conditioned=(1,), options=options("exp", "silu", inverse=True)),
    Case(2, (20,), 18, 4, options=options("tanh", "tanh", layout="shift_scale", bound=1.3)),
    Case(9, (5, 18, 3), 18, split=slice(2, 9), conditioned=(0, 1, 2), options=options("tanh", "gelu", inverse=True)),
    Case(
        33, (17,), 17, 2, split=slice(0, None, 2), options=options("softclip", "elu", layout="interleaved_shift_scale")
    ),
    Case(6, options=options("softclip", "softplus", inverse=True, bound=0.7)),
    Case(12, (17, 4), 3, 2, options=options("sigmoid", layout="interleaved_scale_shift", eps=0.1)),
    Case(5, (4,), split=slice(0, 3), options=options("sigmoid", inverse=True, offset=1.0)),
    Case(6, options=options("softplus", "silu", eps=0.01)),
    Case(6, batch=17, n_layers=1, conditioned=(0,), options=options("softplus", inverse=True, offset=0.5)),
    Case(6, conditioned=(2,), options=options("gate")),
    Case(6, batch=40, n_layers=2, options=options("gate", "tanh", inverse=True, layout="shift_scale")),
]


@pytest.fixture
def small_tiles(monkeypatch):
    """Those of a GPU, the smallest, for two programs; and numbers that nobody has written are NaN."""
    original = triton_plan.plan
    for name, value in {"_BLOCK_ROWS": 32, "_COLUMNS": 16, "PROGRAMS": 2}.items():
        monkeypatch.setattr(triton_plan, name, value)
    monkeypatch.setattr(triton_plan, "plan", lambda problem, _, *rest: original(problem, True, *rest))
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


DTYPES = [*itertools.product(CASES, [torch.float32]), *itertools.product(CASES[::4], [torch.float64])]


@pytest.mark.parametrize("case, dtype", DTYPES, ids=str)
def test_coupling_stack_values_and_gradients(case, dtype, small_tiles):
    tensors = case.draw(dtype, DEVICE)
    exact, _ = case.differentiated(tensors, "reference", torch.float64)
    plain, _ = case.differentiated(tensors, "reference")
    found, made = case.differentiated(tensors, "triton")
    assert FORWARD in made
    for one, true, eager in zip(found, exact, plain, strict=True):
        assert_as_accurate(one, true, eager)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", [CASES[0], CASES[3], CASES[11]], ids=str)
def test_coupling_stack_halves(case, dtype):
    tensors = case.draw(dtype, DEVICE)
    exact, _ = case.differentiated(tensors, "reference", torch.float64)
    plain, _ = case.differentiated(tensors, "reference")
    found, made = case.differentiated(tensors, "triton")
    assert FORWARD in made and found[1].dtype == torch.float32
    for one, true, eager in zip(found, exact, plain, strict=True):
        assert_as_accurate(one, true, eager.to(one.dtype), roundings=64 if one.dtype == dtype else 2**15)


def test_coupling_stack_repeats_its_bits_and_leaves_its_arguments(small_tiles):
    case = CASES[9]
    tensors = case.draw(torch.float32, DEVICE)
    before = [part.clone() for part in tensors[0]]
    first, second = (case.differentiated(tensors, "triton")[0] for _ in range(2))
    assert all(map(torch.equal, first, second))
    assert all(map(torch.equal, before, tensors[0]))


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("batch", [0, 3])
def test_coupling_stack_without_a_running_total_and_empty(batch, running):
    case = dataclasses.replace(CASES[10], batch=batch)
    tensors = case.draw(device=DEVICE)
    exact, _ = case.differentiated(tensors, "reference", running=running)
    found, made = case.differentiated(tensors, "triton", running=running)
    assert FORWARD in made
    torch.testing.assert_close(found, exact, rtol=1e-11, atol=1e-11)
    with torch.no_grad(), cgm_kernels.use_backend("triton"):
        without = affine_coupling_stack(tensors[0][0], case.layers(tensors), tensors[0][1] if running else None)
    torch.testing.assert_close(without, tuple(exact[:2]), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("wanted", ["x", "log_det", "conditioning", "weight"])
def test_coupling_stack_gradients_of_some(wanted):
    """And of one of the results alone."""
    case = Case(6, conditioned=(0, 1, 2), options=options("tanh"))
    tensors = case.draw(device=DEVICE)
    leaf = {"x": tensors[0][0], "log_det": tensors[0][1], "conditioning": tensors[2][-1], "weight": tensors[1][1]}
    leaf = leaf[wanted].requires_grad_()
    for result in (1,) if wanted == "log_det" else (0, 1):
        grads = []
        for backend in ("reference", "triton"):
            with cgm_kernels.use_backend(backend):
                value = affine_coupling_stack(tensors[0][0], case.layers(tensors), tensors[0][1])[result]
            grads += torch.autograd.grad(value.sin().sum(), leaf)
        torch.testing.assert_close(grads[1], grads[0], rtol=1e-11, atol=1e-11)


def test_coupling_stack_nan_and_infinity_stay_in_their_rows(small_tiles):
    case = Case(6, (20,), 18, options=options("tanh", "tanh"))
    tensors = case.draw(torch.float32, DEVICE)
    tensors[0][0][3, 1], tensors[0][0][16, 5] = torch.nan, torch.inf
    with cgm_kernels.use_backend("triton"):
        y, total = affine_coupling_stack(tensors[0][0], case.layers(tensors), tensors[0][1])
    with cgm_kernels.use_backend("reference"):
        expected = affine_coupling_stack(tensors[0][0], case.layers(tensors), tensors[0][1])
    torch.testing.assert_close((y, total), expected, rtol=1e-5, atol=1e-5, equal_nan=True)
    assert total.isnan().nonzero().flatten().tolist() == [3]


def layered():
    """What does not fit, (the case, what is done to its layers)."""
    plain = Case(6, options=options("tanh"))
    return {
        "a sigmoid": (Case(6, options=options("tanh", "sigmoid")), lambda layers: layers),
        "no hidden layer": (Case(6, (), options=options("tanh")), lambda layers: layers),
        "a wide layer": (Case(6, (129,), options=options("tanh")), lambda layers: layers),
        "a wide event": (Case(258, (4,), options=options("tanh")), lambda layers: layers),
        "two directions": (plain, lambda layers: [layers[0], layers[1]._replace(inverse=True)]),
        "two scales": (plain, lambda layers: [layers[0], layers[1]._replace(bound=1.5)]),
        "nothing moves": (plain, lambda layers: [_moves_nothing(layers[0])]),
    }


def _moves_nothing(layer):
    widened = torch.cat([layer.weights[0]] * 2, 1)
    ends = layer.weights[2][:0], layer.biases[2][:0]
    return layer._replace(
        weights=[widened, layer.weights[1], ends[0]], biases=[*layer.biases[:2], ends[1]], split=6
    )  # fmt: skip


@pytest.mark.parametrize("name", layered())
def test_what_does_not_fit_goes_layer_by_layer(name):
    case, change = layered()[name]
    tensors = case.draw(device=DEVICE)
    tensors[0][0].requires_grad_()
    found = {}
    for backend in ("reference", "triton"):
        with cgm_kernels.use_backend(backend):
            found[backend] = affine_coupling_stack(tensors[0][0], change(case.layers(tensors)), tensors[0][1])
    torch.testing.assert_close(found["triton"], found["reference"], rtol=1e-11, atol=1e-11)
    assert FORWARD not in made_by(found["triton"][0])


def test_coupling_stack_schemas_and_fakes():
    case = Case(5, (4,), 2, 2, conditioned=(1,), options=options("tanh"))
    (x, log_det), *parts = ([t.requires_grad_() for t in part] for part in case.draw(device=DEVICE))
    parameters = torch.cat([t.reshape(-1) for own in parts for t in (*own[:2], own[3], own[2])]).detach()
    conditioning = parts[1][-1].detach().reshape(-1)
    numbers = [2, 4, 6, 3, 4, 4], [2, 3, 1, 0, 0, 1, 0, 0, 2, 1, 0, 2, 1, 1], 0, 1, 1.7, 0.0, 0.0, False
    inputs = [x, log_det, parameters.requires_grad_(), conditioning.requires_grad_()]
    torch.library.opcheck(OPERATORS.coupling_stack_forward.default, (*inputs, *numbers, True))
    x, log_det, parameters, conditioning = (t.detach() for t in inputs)
    y, total, kept = OPERATORS.coupling_stack_forward(x, None, parameters, None, *numbers[:1], numbers[1][:-1] + [0],
                                                      *numbers[2:], True)  # fmt: skip
    backward, arguments = OPERATORS.coupling_stack_backward.default, (parameters, conditioning, *numbers)
    torch.library.opcheck(backward, (None, total, y, kept, *arguments, True), test_utils=("test_schema", *FAKE))
    torch.library.opcheck(backward, (y, None, y, kept, *arguments, False), test_utils=FAKE)


def test_coupling_stack_in_transforms_and_compiled_graphs():
    case = Case(6, (5,), 4, 2, options=options("tanh", "silu"))
    tensors = case.draw(device=DEVICE)
    x, layers = tensors[0][0], case.layers(tensors)

    def call(x):
        y, total = affine_coupling_stack(x, layers)
        return (y.square().sum() + total.sum()).sin()

    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(call(leaf), leaf)
    with cgm_kernels.use_backend("triton"):
        torch.testing.assert_close(torch.func.grad(call)(x), expected)
        each = torch.func.vmap(torch.func.grad(lambda row: call(row[None])))(x)
        compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(torch.autograd.grad(compiled(leaf), leaf)[0], expected)
        torch._dynamo.reset()
    assert_further_derivatives(lambda x: affine_coupling_stack(x, layers), [x], "triton")
    for row, grad in zip(x, each, strict=True):
        torch.testing.assert_close(torch.func.grad(lambda one: call(one[None]))(row), grad)


def test_coupling_stack_waits_for_nothing(monkeypatch):
    """After a first call no number comes from the device or goes there, so that a CUDA graph can capture it."""
    for kernel in (triton_stack_kernels.coupling_stack_kernel, triton_stack_kernels.coupling_stack_backward_kernel):
        monkeypatch.setattr(kernel, "run", lambda *_, **__: None)
    tensors = torch.ones(3, 4, device=DEVICE), None, torch.ones(40, device=DEVICE), None
    numbers = [2, 4, 4], [2, 2, 1, 0, 0, 1, 0], 0, 1, 1.0, 0.0, 0.0, False
    y, total, kept = triton_stack.coupling_stack_forward(*tensors, *numbers, True)
    with Called() as called:
        triton_stack.coupling_stack_forward(*tensors, *numbers, True)
        triton_stack.coupling_stack_backward(y, total, y, kept, *tensors[2:], *numbers, True)
    assert "new_empty" in called.names
    assert not called.names & {"_local_scalar_dense", "lift_fresh", "_to_copy", "nonzero"}


def test_kernels_compile_for_gpus(tmp_path):
    """To cubins for sm_80 and sm_90, GPU or not."""
    lines = [line.split() for line in compiled_for_gpus("triton_compile_stack", tmp_path)]
    wanted = {f"coupling_stack{name}_kernel" for name in ("", "_backward")}
    assert set(itertools.product(("sm_80", "sm_90"), wanted)) == {(gpu, name) for gpu, name, *_ in lines}
    assert all(int(size) <= 99 * 1024 for _, _, size, *_ in lines)  # the shared memory of the smallest GPUs
