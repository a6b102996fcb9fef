"""POT's gradients under the patch, and the calls that stay POT's."""

import numpy as np
import pytest
import torch

ot = pytest.importorskip("ot", reason="POT is not installed (pip install POT)")

import cgm_kernels  # noqa: E402
from cgm_kernels import integrations  # noqa: E402

SLICED = ("sliced_wasserstein_distance", "max_sliced_wasserstein_distance")


def clouds(n=9, m=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return draw(n, 3), draw(m, 3), draw(3, 5)


def rows():
    return {row.function.removeprefix("ot."): row for row in integrations.report(reset=True)}


def with_and_without(function):
    theirs = function()
    integrations.report(reset=True)
    with integrations.patch("pot"):
        ours = function()
    return ours, theirs


def reason(name, call):
    """Why ``call`` was passed on; its outcome is compared with POT's own."""
    ours, theirs = with_and_without(call)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
    (found,) = rows()[name].reasons
    return found


@pytest.mark.parametrize("sizes", [(9, 9), (9, 14)])
@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("name", SLICED)
def test_sliced_gradients(name, p, sizes):
    def gradients(log, directions_too):
        x, y, directions = (t.requires_grad_() for t in clouds(*sizes))
        directions.requires_grad_(directions_too)
        value = getattr(ot, name)(x, y, projections=directions, p=p, log=log)
        value = value[0] + value[1]["projected_emds"].square().sum() if log else value
        return torch.autograd.grad(value, [x, y, directions][: 2 + directions_too])

    for log in (False, True):
        for directions_too in (False, True):
            ours, theirs = with_and_without(lambda: gradients(log, directions_too))  # noqa: B023
            assert rows()[name].ours == 1
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("p", [1, 2, 2.5])
def test_wasserstein_1d_gradients(p):
    def gradients():
        x, y, _ = (t.requires_grad_() for t in clouds(7, 12))
        a = torch.arange(1.0, 8.0, dtype=torch.float64) / 28.0
        return torch.autograd.grad(ot.wasserstein_1d(x, y, a, p=p).exp().sum(), (x, y))

    ours, theirs = with_and_without(gradients)
    assert rows()["wasserstein_1d"].ours == 1
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_second_derivatives_and_two_backwards():
    def derivatives():
        x, y, directions = clouds()
        x.requires_grad_()
        value = ot.sliced_wasserstein_distance(x.sin(), y, projections=directions, p=3)
        (first,) = torch.autograd.grad(value, x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x, retain_graph=True)
        (again,) = torch.autograd.grad(value, x)
        return first.detach(), second, again

    ours, theirs = with_and_without(derivatives)
    assert rows()[SLICED[0]].ours == 1
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_gradient_where_clouds_coincide_is_pots():
    def gradient():
        x, _, directions = clouds()
        x.requires_grad_()
        return torch.autograd.grad(ot.sliced_wasserstein_distance(x, x.detach(), projections=directions), x)[0]

    ours, theirs = with_and_without(gradient)
    torch.testing.assert_close(ours, theirs, equal_nan=True)


def test_a_changed_input_is_noticed():
    x, y, directions = clouds()
    leaf = x.requires_grad_()
    moved = leaf * 1.0
    with integrations.patch("pot"):
        value = ot.sliced_wasserstein_distance(moved, y, projections=directions, p=3)
    moved.detach().zero_()
    with torch.no_grad():
        moved.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_emd2_1d_has_no_gradient_as_in_pot():
    x, y, _ = clouds()
    x.requires_grad_()
    for value in with_and_without(lambda: ot.emd2_1d(x[:, 0], y[:, 0])):
        assert not value.requires_grad


def test_gradients_by_the_weights_are_pots():
    def gradient(function):
        x, y, _ = clouds(6, 11)
        a = torch.full((6,), 1 / 6, dtype=torch.float64, requires_grad=True)
        return torch.autograd.grad(function(x, y, a), a)[0]

    assert "weights" in reason("wasserstein_1d", lambda: gradient(lambda x, y, a: ot.wasserstein_1d(x, y, a).sum()))
    sliced = lambda x, y, a: ot.sliced_wasserstein_distance(x, y, a, seed=0)  # noqa: E731
    assert "weights" in reason(SLICED[0], lambda: gradient(sliced))


def test_transforms_and_modes_are_pots():
    x, y, directions = clouds()
    distance = lambda x: ot.sliced_wasserstein_distance(x, y, projections=directions)  # noqa: E731
    line = lambda x: ot.wasserstein_1d(x, y)  # noqa: E731
    assert reason(SLICED[0], lambda: torch.func.grad(distance)(x)) == "torch.func"
    assert reason(SLICED[0], lambda: torch.func.jvp(distance, (x,), (y,))) == "torch.func"
    assert reason("wasserstein_1d", lambda: torch.func.vjp(line, x)[0]) == "torch.func"

    def dual():
        with torch.autograd.forward_ad.dual_level():
            value = distance(torch.autograd.forward_ad.make_dual(x, y))
            return tuple(torch.autograd.forward_ad.unpack_dual(value))

    assert reason(SLICED[0], dual) == "a forward-mode tangent"

    def autocast():
        with torch.autocast("cpu"):
            return distance(x)

    assert reason(SLICED[0], autocast) == "autocast"


def test_what_is_passed_on_says_why():
    x, y, directions = clouds()
    u, v = x[:, 0], y[:, 0]

    class Cloud(torch.Tensor):
        pass

    one = lambda call: reason("wasserstein_1d", call)  # noqa: E731
    assert one(lambda: ot.wasserstein_1d(u.half(), v.half())) == "dtype float16"
    assert one(lambda: ot.wasserstein_1d(u.as_subclass(Cloud), v).as_subclass(torch.Tensor)).endswith("Cloud")
    if hasattr(ot.utils, "DataScaler"):  # POT 0.9.7
        assert one(lambda: ot.wasserstein_1d(x, y, return_plans="")) == "return_plans"
    emd = lambda call: reason("emd2_1d", call)  # noqa: E731
    assert emd(lambda: ot.emd2_1d([0.0, 2.0], [3.0, 1.0])) == "builtins.list"
    assert emd(lambda: ot.emd2_1d(np.array([0, 2]), np.array([3, 1]))) == "dtype int64"
    assert emd(lambda: ot.emd2_1d(u, v, metric="minkowski", p=0.5)).startswith("p is not")
    assert reason(SLICED[0], lambda: ot.sliced_wasserstein_distance(x, y, projections=directions[:, :0])).startswith(
        "shape"
    )


@pytest.mark.parametrize(
    "call",
    [
        lambda x, y: ot.sliced_wasserstein_distance(x, y[:, :2]),
        lambda x, y: ot.max_sliced_wasserstein_distance(x, y[:, :2]),
        lambda x, y: ot.sliced_wasserstein_distance(x, y.numpy()),
        lambda x, y: ot.sliced_wasserstein_distance(x, y, p=0.5),
        lambda x, y: ot.sliced_wasserstein_distance(x, y, wrong=1),
        lambda x, y: ot.sliced_wasserstein_distance(x),
        lambda x, y: ot.wasserstein_1d(x, y, p=0),
        lambda x, y: ot.wasserstein_1d(x[:, 0], y),
        lambda x, y: ot.emd2_1d(x, y),
        lambda x, y: ot.emd2_1d(x[:, 0], y[:, 0], metric="hamming"),
        lambda x, y: ot.emd2_1d(x[:, 0], y[:, 0], torch.ones(9), torch.full((9,), 2.0)),
    ],
)
def test_errors_are_pots(call):
    x, y, _ = clouds()
    with pytest.raises(Exception) as theirs:
        call(x, y)
    with integrations.patch("pot"), pytest.raises(type(theirs.value)) as ours:
        call(x, y)
    assert str(ours.value) == str(theirs.value)
    assert type(ours.value.__context__) is type(theirs.value.__context__)


@pytest.mark.parametrize("backend", cgm_kernels.available_backends())
def test_every_backend(backend):
    x, y, directions = clouds(12, 7)
    expected = ot.sliced_wasserstein_distance(x, y, projections=directions)
    with integrations.patch("pot"), cgm_kernels.use_backend(backend):
        found = ot.sliced_wasserstein_distance(x, y, projections=directions)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_tensors():
    x, y, directions = (t.cuda() for t in clouds(12, 7))
    for name in SLICED:
        ours, theirs = with_and_without(lambda: getattr(ot, name)(x, y, projections=directions))  # noqa: B023
        assert rows()[name].ours == 1
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)
