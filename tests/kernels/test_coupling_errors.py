"""Wrong arguments of the affine couplings: each raises an error that names the argument."""

import numpy as np
import pytest
import torch

import cgm_kernels
from tests.support.backends import running

x = torch.zeros(4, 6)
MATCHING = torch.zeros(4, 6)
CASES = {
    "x must be a tensor": (TypeError, lambda: cgm_kernels.affine_coupling([1.0], x, x)),
    "y must be a tensor": (TypeError, lambda: cgm_kernels.affine_coupling_inverse(None, x, x)),
    "log_scale must be a tensor": (TypeError, lambda: cgm_kernels.affine_coupling(x, 0.5, x)),
    "shift must be a tensor": (TypeError, lambda: cgm_kernels.affine_coupling(x, x, None)),
    "x must be float32": (TypeError, lambda: cgm_kernels.affine_coupling(x.long(), x, x)),
    "shift must be float32": (TypeError, lambda: cgm_kernels.affine_coupling(x, x, x.cfloat())),
    "x must be a dense tensor": (TypeError, lambda: cgm_kernels.affine_coupling(x.to_sparse(), x, x)),
    r"log_scale must broadcast to x: got \(4, 3\) for x of shape \(4, 6\)": (
        ValueError,
        lambda: cgm_kernels.affine_coupling(x, x[:, :3], x),
    ),
    r"shift must broadcast to y: got \(5, 6\)": (
        ValueError,
        lambda: cgm_kernels.affine_coupling_inverse(x, x, torch.zeros(5, 6)),
    ),
    "scale must be one of exp, tanh, softclip": (
        ValueError,
        lambda: cgm_kernels.affine_coupling(x, x, x, scale="relu"),
    ),
    "bound must be positive: got 0.0": (ValueError, lambda: cgm_kernels.affine_coupling(x, x, x, bound=0)),
    "bound must be a number": (TypeError, lambda: cgm_kernels.affine_coupling(x, x, x, bound="2")),
    "offset must be finite": (ValueError, lambda: cgm_kernels.affine_coupling(x, x, x, offset=float("nan"))),
    "eps must not be negative": (ValueError, lambda: cgm_kernels.affine_coupling(x, x, x, eps=-1e-3)),
    r"scale must be one of .*: got \['exp'\]": (
        ValueError,
        lambda: cgm_kernels.affine_coupling(x, x, x, scale=["exp"]),
    ),
    r"scale must be one of .*: got \['tanh'\]": (
        ValueError,
        lambda: cgm_kernels.affine_coupling_event(x, x, 3, scale=["tanh"]),
    ),
    "event_dims must be an int": (TypeError, lambda: cgm_kernels.affine_coupling(x, x, x, event_dims=1.0)),
    "event_dims must be an int: got bool": (TypeError, lambda: cgm_kernels.affine_coupling(x, x, x, event_dims=True)),
    "event_dims must be an int: got Tensor": (
        TypeError,
        lambda: cgm_kernels.affine_coupling(x, x, x, event_dims=torch.tensor(True)),
    ),
    "event_dims must be between 0 and 2": (ValueError, lambda: cgm_kernels.affine_coupling(x, x, x, event_dims=3)),
    r"x must have a batch dimension: got shape \(\)": (
        ValueError,
        lambda: cgm_kernels.affine_coupling(*[torch.zeros(())] * 3),
    ),
    r"x must be \(B, C, ...\)": (ValueError, lambda: cgm_kernels.affine_coupling_event(x[0], x, 3)),
    "inverse must be True or False: got str": (
        TypeError,
        lambda: cgm_kernels.affine_coupling_event(x, x, 3, inverse="no"),
    ),
    "split must be an int or a slice": (TypeError, lambda: cgm_kernels.affine_coupling_event(x, x, 3.0)),
    "split must be an int or a slice: got bool": (TypeError, lambda: cgm_kernels.affine_coupling_event(x, x, True)),
    "split must be between 0 and the number of channels, 6: got 7": (
        ValueError,
        lambda: cgm_kernels.affine_coupling_event(x, x, 7),
    ),
    "split must be between 0 .* got -1": (ValueError, lambda: cgm_kernels.affine_coupling_event(x, x, -1)),
    "split must be a slice that steps forward": (
        ValueError,
        lambda: cgm_kernels.affine_coupling_event(x, x, slice(None, None, -1)),
    ),
    "split must be a slice of integers": (
        TypeError,
        lambda: cgm_kernels.affine_coupling_event(x, x, slice("a", None)),
    ),
    r"parameters must be \(4, 4\), .*: got \(4, 6\)": (ValueError, lambda: cgm_kernels.affine_coupling_event(x, x, 4)),
    "layout must be one of": (ValueError, lambda: cgm_kernels.affine_coupling_event(x, x, 3, layout="both")),
    r"layout must be one of .*: got \['shift_scale'\]": (
        ValueError,
        lambda: cgm_kernels.affine_coupling_event(x, x, 3, layout=["shift_scale"]),
    ),
    "split=slice.* needs events of one dimension": (
        ValueError,
        lambda: cgm_kernels.affine_coupling_event(torch.zeros(2, 4, 3), torch.zeros(2, 4, 3), slice(0, None, 2)),
    ),
    "layout='interleaved_scale_shift' needs events of one dimension": (
        ValueError,
        lambda: cgm_kernels.affine_coupling_event(
            torch.zeros(2, 4, 3), torch.zeros(2, 4, 3), 2, layout="interleaved_scale_shift"
        ),
    ),
    r"log_det must be \(4,\), one for each event: got \(3,\)": (
        ValueError,
        lambda: cgm_kernels.affine_coupling_event(x, x, 3, torch.zeros(3)),
    ),
    "log_det must be a tensor": (TypeError, lambda: cgm_kernels.affine_coupling_event(x, x, 3, 0.0)),
    "parameters must be a tensor": (TypeError, lambda: cgm_kernels.affine_coupling_event(x, None, 3)),
}


@pytest.mark.parametrize("pair", [pair for pair in running() if "cpu" in pair.id])
@pytest.mark.parametrize("message", CASES)
def test_errors_name_the_argument(message, pair):
    kind, call = CASES[message]
    with cgm_kernels.use_backend(pair[0]), pytest.raises(kind, match=message):
        call()


@pytest.mark.parametrize("pair", [pair for pair in running() if "cpu" in pair.id])
@pytest.mark.parametrize("kind", [np.int64, np.uint8, torch.tensor], ids=lambda kind: kind.__name__)
def test_integers_of_any_type_count(kind, pair):
    generator = torch.Generator().manual_seed(0)
    x, s = torch.randn(2, 4, 6, generator=generator)
    weights, biases = [torch.randn(6, 3, generator=generator)], [torch.zeros(6)]
    with cgm_kernels.use_backend(pair[0]):
        for call in (
            lambda number: cgm_kernels.affine_coupling(x, s, s, event_dims=number(1)),
            lambda number: cgm_kernels.affine_coupling_event(x, s, number(3)),
            lambda number: cgm_kernels.affine_coupling_event(x, s, slice(None, number(3))),
            lambda number: cgm_kernels.affine_coupling_mlp(x, weights, biases, number(3)),
        ):
            for one, other in zip(call(kind), call(int), strict=True):
                assert torch.equal(one, other)


def test_devices_must_agree():
    meta = torch.zeros(4, 6, device="meta")
    with pytest.raises(ValueError, match="log_scale must be on the device of x, cpu: got meta"):
        cgm_kernels.affine_coupling(x, meta, x)
    with pytest.raises(ValueError, match="parameters must be on the device of x, cpu: got meta"):
        cgm_kernels.affine_coupling_event(x, meta, 3)


def test_any_sequence_of_layers_serves():
    generator = torch.Generator().manual_seed(0)
    weight, mask = torch.randn(6, 3, generator=generator), torch.ones(6, 3).tril(-1)
    mask[3:] = mask[:3]
    y = torch.randn(4, 3, generator=generator)
    expected = cgm_kernels.masked_mlp_inverse(y, [weight], [torch.zeros(6)], [mask])
    wide = torch.randn(4, 6, generator=generator)
    coupled = cgm_kernels.affine_coupling_mlp(wide, [weight], [torch.zeros(6)], 3)
    for kind in (torch.nn.ParameterList, tuple):
        weights, biases = kind([torch.nn.Parameter(weight)]), kind([torch.zeros(6)])
        found = cgm_kernels.masked_mlp_inverse(y, weights, biases, kind([mask]))
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(cgm_kernels.affine_coupling_mlp(wide, weights, biases, 3), coupled)
        found[0].sum().backward()
        assert weights[0].grad.any()


@pytest.mark.parametrize("option", ["activation", "map", "layout", "scale"])
def test_options_of_the_masked_inverse_are_names(option):
    y, weight = torch.zeros(2, 1), torch.zeros(2, 1)
    with pytest.raises(ValueError, match=rf"{option} must be one of .*: got \['relu'\]"):
        cgm_kernels.masked_mlp_inverse(y, [weight], [None], **{option: ["relu"]})
    with pytest.raises(TypeError, match="weights must be a list of tensors, one for each layer: got Tensor"):
        cgm_kernels.masked_mlp_inverse(y, weight, [None])
