"""The combinations of a Runge–Kutta step, against closed forms and PyTorch in float64."""

import math

import pytest
import torch
from torch.library import opcheck

import cgm_kernels
from cgm_kernels._extension import _C
from cgm_kernels.divergence.runge_kutta import runge_kutta_error, runge_kutta_update
from tests.support.backends import running
from tests.support.called import made_by
from tests.support.levels import LEVELS, simd_level
from tests.support.runge_kutta import COEFFICIENTS, draw, plain, plain_error
from tests.support.tolerances import assert_as_accurate

NATIVE = [pair for pair in running() if pair.id == "native-cpu"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("pair", running())
@pytest.mark.parametrize("layout", ["dense", "stacked", "transposed"])
@pytest.mark.parametrize("shape, count", [((7,), 1), ((3, 5), 4), ((2, 3, 4), 7), ((40, 33), 3)], ids=str)
def test_values_and_gradients(shape, count, layout, pair, dtype):
    if layout == "transposed" and len(shape) == 1:
        pytest.skip("one dimension")
    backend, device = pair
    leaves = [one.to(device) for one in draw(*shape, count=count, dtype=dtype, layout=layout)]
    step = torch.tensor(-0.37, dtype=dtype, device=device)
    weights = torch.linspace(-1, 2, math.prod(shape), device=device, dtype=dtype).reshape(shape)

    def results(update, leaves, step):
        leaves, step = [leaf.detach().requires_grad_() for leaf in leaves], step.detach().requires_grad_()
        out = update(leaves[0], leaves[1:], step)
        return [out.detach(), *torch.autograd.grad((out * weights.to(out)).sum(), [*leaves, step])]

    with cgm_kernels.use_backend(backend):
        actual = results(lambda y, k, h: runge_kutta_update(y, k, COEFFICIENTS[:count], h), leaves, step)
        by_number = runge_kutta_update(leaves[0], leaves[1:], COEFFICIENTS[:count], step.item())
    exact = results(plain, [leaf.double() for leaf in leaves], step.double())
    eager = results(plain, leaves, step)
    for one, true, other in zip([*actual, by_number], [*exact, exact[0]], [*eager, eager[0]], strict=True):
        assert_as_accurate(one, true, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("pair", running())
@pytest.mark.parametrize("layout", ["dense", "stacked", "transposed"])
@pytest.mark.parametrize("shape, count", [((3, 5), 4), ((41, 50), 7)], ids=str)
def test_error_norm(shape, count, layout, pair, dtype):
    backend, device = pair
    leaves = [one.to(device) for one in draw(*shape, count=count + 1, dtype=dtype, layout=layout)]
    for step in (0.21, torch.tensor(0.21, device=device)):
        with cgm_kernels.use_backend(backend):
            y0, y1, *stages = leaves
            found = runge_kutta_error(y0, y1, stages, COEFFICIENTS[:count], step, 1e-2, 1e-3)
        exact = plain_error(y0.double(), y1.double(), [k.double() for k in stages], float(step))
        assert_as_accurate(found, exact, plain_error(y0, y1, stages, float(step)))


@pytest.mark.parametrize("pair", NATIVE)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("elements", [1, 1023, 1025, 70_001])
def test_levels_threads_and_ends_of_tiles(elements, level, pair):
    threads, norms = torch.get_num_threads(), []
    for layout in ("dense", "stacked"):
        y, *stages = draw(elements, count=4, dtype=torch.float32, layout=layout)
        exact = plain(y.double(), [k.double() for k in stages], 0.1)
        try:
            for count in (1, 2):
                torch.set_num_threads(count)
                with simd_level(level):
                    found = runge_kutta_update(y, stages, COEFFICIENTS[:4], 0.1)
                    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=1e-6)
                    norms.append(runge_kutta_error(y, found, stages, COEFFICIENTS[:4], 0.1, 1e-2, 1e-3).item())
        finally:
            torch.set_num_threads(threads)
    assert len(set(norms)) == 1
    expected = plain_error(y.double(), exact, [k.double() for k in stages], 0.1).item()
    assert norms[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("pair", running())
def test_gradcheck_to_second_order(pair):
    backend, device = pair
    leaves = [one.to(device).requires_grad_() for one in draw(2, 3, count=2)]
    step = torch.tensor(0.4, dtype=torch.float64, device=device, requires_grad=True)

    def update(step, y, *stages):
        return runge_kutta_update(y, stages, COEFFICIENTS[:2], step)

    def error(step, y, *stages):
        return runge_kutta_error(y, y.sin(), stages, COEFFICIENTS[:2], step, 0.3, 0.2)

    with cgm_kernels.use_backend(backend):
        for function in (update, error):
            assert torch.autograd.gradcheck(function, (step, *leaves))
            assert torch.autograd.gradgradcheck(function, (step, *leaves))


@pytest.mark.parametrize("pair", NATIVE)
@pytest.mark.parametrize("tensor_step", [False, True])
def test_opcheck(tensor_step, pair):
    y, *stages = (one.requires_grad_() for one in draw(4, 3, count=3))
    step = torch.tensor(0.2, dtype=torch.float64, requires_grad=True) if tensor_step else None
    opcheck(torch.ops.cgm_native.runge_kutta_update, (y, stages, COEFFICIENTS[:3], step, 0.2))
    y, *stages = draw(4, 3, count=3)
    step = None if step is None else step.detach()
    opcheck(torch.ops.cgm_native.runge_kutta_error, (y, y, stages, COEFFICIENTS[:3], step, 0.2, 1e-3, 1e-4))


@pytest.mark.parametrize("pair", running())
def test_compiled_transformed_and_batched(pair):
    backend, device = pair
    y, *stages = (one.to(device) for one in draw(4, 3, count=3))
    step = torch.tensor(0.2, dtype=torch.float64, device=device)

    def call(y, step, *stages):
        out = runge_kutta_update(y, stages, COEFFICIENTS[:3], step)
        with torch.no_grad():
            scale = runge_kutta_error(y, out, stages, COEFFICIENTS[:3], step, 1e-2, 1e-3)
        return (out.square() * scale).sum()

    with cgm_kernels.use_backend(backend):
        leaves = [one.clone().requires_grad_() for one in (y, step, *stages)]
        value = call(*leaves)
        expected = torch.autograd.grad(value, leaves)
        compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(torch.autograd.grad(compiled(*leaves), leaves), expected)
        torch._dynamo.reset()
        torch.testing.assert_close(torch.func.grad(call, argnums=tuple(range(5)))(y, step, *stages), expected)
        out = runge_kutta_update(leaves[0], leaves[2:], COEFFICIENTS[:3], leaves[1])
        eye = torch.eye(12, device=device, dtype=torch.float64).reshape(12, 4, 3)
        batched = torch.autograd.grad(out, leaves, eye, is_grads_batched=True)
        torch.testing.assert_close(batched[2], 0.2 * COEFFICIENTS[0] * eye)
        mapped = torch.func.vmap(lambda y: runge_kutta_update(y, [y.sin()], [0.5], 0.1))(y)
        torch.testing.assert_close(mapped, y + 0.05 * y.sin())
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(y, torch.ones_like(y))
            tangent = torch.autograd.forward_ad.unpack_dual(runge_kutta_update(dual, [dual], [1.0], 0.5)).tangent
        torch.testing.assert_close(tangent, torch.full_like(y, 1.5))


@pytest.mark.parametrize("pair", running())
def test_wanted_gradients_alone(pair):
    backend, device = pair
    y, *stages = (one.to(device) for one in draw(5, count=3))
    with cgm_kernels.use_backend(backend):
        stages[1].requires_grad_()
        out = runge_kutta_update(y, stages, COEFFICIENTS[2:5], 0.5)
        (found,) = torch.autograd.grad(out.sum(), stages[1])
        torch.testing.assert_close(found, torch.full_like(y, 0.5 * COEFFICIENTS[3]))
        with torch.no_grad():
            assert not runge_kutta_update(y, stages, COEFFICIENTS[2:5], 0.5).requires_grad
        assert not runge_kutta_update(y, [stages[0]], [1.0], 0.5).requires_grad
        assert runge_kutta_update(y.requires_grad_(), [stages[0]], [1.0], 0.5).requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("pair", running())
def test_half_precision_is_computed_in_float32(pair, dtype):
    backend, device = pair
    y, *stages = (one.to(device) for one in draw(6, 5, count=3, dtype=dtype))
    with cgm_kernels.use_backend(backend):
        found = runge_kutta_update(y, stages, COEFFICIENTS[:3], 0.3)
        norm = runge_kutta_error(y, y, stages, COEFFICIENTS[:3], 0.3, 1e-2, 1e-2)
    widened = [k.float() for k in stages]
    assert found.dtype is norm.dtype is dtype
    torch.testing.assert_close(found, plain(y.float(), widened, 0.3).to(dtype), rtol=2e-2, atol=1e-3)
    torch.testing.assert_close(norm, plain_error(y.float(), y.float(), widened, 0.3, 1e-2, 1e-2).to(dtype))


@pytest.mark.parametrize("pair", running())
def test_nan_stays_in_its_element(pair):
    backend, device = pair
    nan, inf = math.nan, math.inf
    y = torch.tensor([nan, 0.0, inf, 1.0, 2.0], device=device)
    k = torch.tensor([1.0, nan, 1.0, -inf, 3.0], device=device)
    with cgm_kernels.use_backend(backend):
        found = runge_kutta_update(y, [k, torch.ones_like(k)], [1.0, 2.0], 0.5)
        torch.testing.assert_close(found.cpu(), torch.tensor([nan, nan, inf, -inf, 4.5]), equal_nan=True)
        assert runge_kutta_update(y[3:], [k[1:3]], [0.0], 0.5).isnan().tolist() == [True, False]
        one = torch.ones(3, device=device)
        for place in range(3):
            states = [one.clone() for _ in range(3)]
            states[place][1] = nan
            assert runge_kutta_error(*states[:2], states[2:], [1.0], 1.0, 0.1, 0.1).isnan()
        assert runge_kutta_error(one, one, [one], [1.0], 1.0, 0.0, 0.0).item() == inf


@pytest.mark.parametrize("pair", running())
def test_empty_states_and_states_of_one_number(pair):
    backend, device = pair
    empty, one = torch.zeros(0, 3, device=device, requires_grad=True), torch.tensor(2.0, device=device)
    with cgm_kernels.use_backend(backend):
        out = runge_kutta_update(empty, [empty], [1.0], 0.5)
        assert out.shape == (0, 3) and torch.autograd.grad(out.sum(), empty)[0].shape == (0, 3)
        with torch.no_grad():
            assert runge_kutta_error(empty, empty, [empty], [1.0], 0.5, 0.1, 0.1).isnan()
        assert runge_kutta_update(one, [one], [1.5], 2.0).item() == 8.0
        many = [one] * 20
        assert runge_kutta_update(one, many, [0.5] * 20, 0.1).item() == pytest.approx(4.0)
        assert runge_kutta_error(one, one, many, [0.5] * 20, 0.1, 0.5, 1.0).item() == pytest.approx(1.0)


y, k, other = draw(4, 3, count=2)
WRONG = {
    "y must be a tensor: got NoneType": (TypeError, lambda: runge_kutta_update(None, [k], [1.0], 1.0)),
    "y must be float32": (TypeError, lambda: runge_kutta_update(y.int(), [k.int()], [1.0], 1.0)),
    "stages must be a list or a tuple: got Tensor": (TypeError, lambda: runge_kutta_update(y, k, [1.0], 1.0)),
    "coefficients must be a list or a tuple": (TypeError, lambda: runge_kutta_update(y, [k], torch.ones(1), 1.0)),
    "stages must have at least one tensor": (ValueError, lambda: runge_kutta_update(y, [], [], 1.0)),
    "coefficients must be as many as stages, 1: got 2": (
        ValueError,
        lambda: runge_kutta_update(y, [k], [1.0, 2.0], 1.0),
    ),
    r"stages\[1\] must have the shape of y, \(4, 3\): got \(3,\)": (
        ValueError,
        lambda: runge_kutta_update(y, [k, k[0]], [1.0, 1.0], 1.0),
    ),
    r"stages\[0\] must have the dtype of y, torch.float64: got torch.float32": (
        TypeError,
        lambda: runge_kutta_update(y, [k.float()], [1.0], 1.0),
    ),
    r"stages\[0\] must be on the device of y, cpu: got meta": (
        ValueError,
        lambda: runge_kutta_update(y, [k.to("meta")], [1.0], 1.0),
    ),
    r"coefficients\[0\] must be a number: got str": (TypeError, lambda: runge_kutta_update(y, [k], ["1"], 1.0)),
    r"coefficients\[0\] must be finite: got nan": (ValueError, lambda: runge_kutta_update(y, [k], [math.nan], 1.0)),
    "step must be a number or a tensor .*: got bool": (TypeError, lambda: runge_kutta_update(y, [k], [1.0], True)),
    r"coefficients\[0\] must be a number: got bool": (TypeError, lambda: runge_kutta_update(y, [k], [True], 1.0)),
    "rtol must be a number: got bool": (
        TypeError,
        lambda: runge_kutta_error(y, y, [k], [1.0], 1.0, True, 0.1),
    ),
    "step must be a number or a tensor .*: got NoneType": (
        TypeError,
        lambda: runge_kutta_update(y, [k], [1.0], None),
    ),
    r"step must be a number or a tensor \(\): got shape \(1,\)": (
        ValueError,
        lambda: runge_kutta_update(y, [k], [1.0], torch.ones(1)),
    ),
    "step must be float32.*: got torch.int64": (
        TypeError,
        lambda: runge_kutta_update(y, [k], [1.0], torch.tensor(1)),
    ),
    r"y1 must have the shape of y0, \(4, 3\): got \(3,\)": (
        ValueError,
        lambda: runge_kutta_error(y, k[0], [k], [1.0], 1.0, 0.1, 0.1),
    ),
    "y1 must be a tensor: got float": (TypeError, lambda: runge_kutta_error(y, 1.0, [k], [1.0], 1.0, 0.1, 0.1)),
    "rtol must not be negative: got -1": (ValueError, lambda: runge_kutta_error(y, y, [k], [1.0], 1.0, -1, 0.1)),
    "atol must be a number: got Tensor": (
        TypeError,
        lambda: runge_kutta_error(y, y, [k], [1.0], 1.0, 0.1, torch.ones(3)),
    ),
}


@pytest.mark.parametrize("pair", running())
@pytest.mark.parametrize("message", WRONG)
def test_errors_name_the_argument(message, pair):
    kind, call = WRONG[message]
    with cgm_kernels.use_backend(pair[0]), pytest.raises(kind, match=message):
        call()


@pytest.mark.parametrize("pair", NATIVE)
def test_eager_calls_take_the_direct_path(pair):
    y, *stages = draw(4, 3, count=2, layout="stacked")
    assert _C.runge_kutta_update(y, stages, [1.0, 2.0], None, 0.5) is not None
    assert _C.runge_kutta_error(y, y, stages, [1.0, 2.0], None, 0.5, 0.1, 0.1) is not None
    leaf = y.clone().requires_grad_()
    assert "UpdateFunction" in made_by(runge_kutta_update(leaf, stages, [1.0, 2.0], 0.5))
    with torch.utils._python_dispatch.TorchDispatchMode():
        assert _C.runge_kutta_update(y, stages, [1.0, 2.0], None, 0.5) is None
