"""The plans that eager calls of the masked inverse keep: whose masks they follow, and when they are made again."""

import concurrent.futures
import weakref

import pytest
import torch

import cgm_kernels
from cgm_kernels import masked_mlp_inverse
from cgm_kernels.coupling.masked_plan import last_plan
from tests.support.masked import Case, moved, results

pytestmark = pytest.mark.skipif(bool(cgm_kernels.backends.absence("native", "cpu")), reason="no native backend")


@pytest.mark.parametrize("way", ["copied", "assigned", "shared"])
@pytest.mark.parametrize("floats", [False, True])
def test_masked_inverse_follows_masks_changed_unseen(way, floats):
    """No version counts what is written through ``.data`` or into memory that NumPy shares."""
    arguments, others = Case(5, (9,)).draw(), Case(5, (9,), order="reversed").draw()["masks"]
    if floats:
        arguments["masks"] = [mask.float() for mask in arguments["masks"]]
    first, _ = masked_mlp_inverse(**arguments)
    for mask, other in zip(arguments["masks"], others, strict=True):
        version = mask._version
        if way == "copied":
            mask.data.copy_(other)
        elif way == "assigned":
            mask.data = other.to(mask.dtype)
        else:
            mask.numpy()[:] = other.numpy()
        assert mask._version == version
    found = masked_mlp_inverse(**arguments)
    with cgm_kernels.use_backend("reference"):
        expected = masked_mlp_inverse(**arguments)
    assert not torch.allclose(first, found[0])
    torch.testing.assert_close(found, expected)


def test_masked_inverse_of_masks_no_longer_in_order():
    arguments = Case(5, (9,)).draw()
    masked_mlp_inverse(**arguments)
    for mask in arguments["masks"]:
        mask.data.fill_(True)
    with pytest.raises(ValueError, match="masks must be autoregressive"):
        masked_mlp_inverse(**arguments)


def test_masked_inverse_of_seen_masks_checks_all_else():
    arguments = Case(3, (4,), (5,), context=2).draw()
    masked_mlp_inverse(**arguments)
    weights, biases = arguments["weights"], arguments["biases"]
    for change, kind, message in (
        (dict(context=None), ValueError, r"weights\[0\] must be \(out, 3\) after y"),
        (dict(residual=0), TypeError, "residual must be True or False: got int"),
        (dict(bound=True), TypeError, "bound must be a number: got bool"),
        (dict(bound=-1), ValueError, "bound must be positive: got -1"),
        (dict(weights=[weights[0], weights[1].float()]), TypeError, r"weights\[1\] must have the dtype of y"),
        (dict(biases=[biases[0], 1.0]), TypeError, r"biases\[1\] must be a tensor"),
        (dict(map=1), ValueError, "map must be one of"),
        (dict(y=1.0), TypeError, "y must be a tensor"),
    ):
        with pytest.raises(kind, match=message):
            masked_mlp_inverse(**{**arguments, **change})


def test_masked_inverse_of_masks_from_inside_a_transform():
    """A plan that is first made under torch.func serves eager calls afterwards."""
    arguments = Case(4, (6,)).draw()

    def loss(y):
        x, log_det = masked_mlp_inverse(**{**arguments, "y": y})
        return x.square().sum() + log_det.sum()

    y = arguments["y"]
    inside = torch.func.grad(loss)(y)
    outside = torch.autograd.grad(loss(y.requires_grad_()), y)[0]
    torch.testing.assert_close(inside, outside)


@pytest.mark.parametrize("masked", [True, False])
def test_masked_inverse_trains_on_masks_first_seen_in_inference_mode(masked):
    arguments = moved(Case(4, (6,)).draw(), torch.float64)
    with torch.inference_mode():
        if not masked:
            for weight, mask in zip(arguments["weights"], arguments["masks"], strict=True):
                weight.data.mul_(mask)
            arguments["masks"] = None
        assert masked_mlp_inverse(**arguments)[0].is_inference()
    expected = results("reference", arguments)
    torch.testing.assert_close(results("native", arguments)[:3], expected[:3])


def test_masked_inverse_plans_go_with_their_masks():
    arguments = Case(5, (9,)).draw()
    kept = list(arguments["masks"])
    masked_mlp_inverse(**arguments)
    for _ in range(3):
        masks = [mask.clone() for mask in kept]
        masked_mlp_inverse(**{**arguments, "masks": masks})
        made = weakref.ref(last_plan(masks, 5, "scale_shift", False))
        masks = None
        masked_mlp_inverse(**Case(3, (4,)).draw())
        assert made() is None and last_plan(kept, 5, "scale_shift", False) is not None


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_masked_inverse_under_other_defaults(dtype):
    arguments, before = Case(4, (6,)).draw(torch.float32), torch.get_default_dtype()
    expected = masked_mlp_inverse(**arguments)
    arguments["masks"] = [mask.clone() for mask in arguments["masks"]]
    try:
        torch.set_default_dtype(dtype)
        with torch.device("meta"):
            found = masked_mlp_inverse(**arguments)
    finally:
        torch.set_default_dtype(before)
    assert all(map(torch.equal, found, expected))


def test_masked_inverse_from_many_threads():
    cases = [Case(d, (16, 9), (70,)).draw(seed=d) for d in range(2, 10)]
    expected = [masked_mlp_inverse(**arguments) for arguments in cases]
    fresh = [{**arguments, "masks": [mask.clone() for mask in arguments["masks"]]} for arguments in cases]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda arguments: masked_mlp_inverse(**arguments), fresh * 5))
    for ours, other in zip(found, expected * 5, strict=True):
        assert all(map(torch.equal, ours, other))
