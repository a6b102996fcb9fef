"""The masked inverse against other libraries, on GPUs' compilers, and its errors."""

import math

import pytest
import torch

from cgm_kernels import masked_mlp_inverse
from tests.support.gpu_compile import compiled_for_gpus
from tests.support.masked import Case


def errors():
    good = Case(3, (4,), (5,), context=2).draw()
    w, b, m = good["weights"], good["biases"], good["masks"]
    everything = [torch.ones_like(mask) for mask in m]
    yield dict(y=[1.0]), TypeError, "y must be a tensor: got list"
    yield dict(y=torch.ones(5, 0)), ValueError, "y must have at least one dimension"
    yield dict(weights=w[0]), TypeError, "weights must be a list of tensors"
    yield dict(weights=[]), ValueError, "weights must have at least one layer"
    yield dict(biases=b[:1]), ValueError, r"biases must have 2 layers, as weights: got 1"
    yield dict(masks=m[:1]), ValueError, r"masks must have 2 layers"
    yield dict(context=None), ValueError, r"weights\[0\] must be \(out, 3\) after y: got \(4, 5\)"
    yield dict(context=torch.ones(4, 2).double()), ValueError, r"context must be \(C,\) or \(5, 'C'\)"
    yield dict(weights=[w[0].float(), w[1]]), TypeError, r"weights\[0\] must have the dtype of y"
    yield dict(weights=[w[0], w[1][:, :3]]), ValueError, r"weights\[1\] must be \(out, 4\) after weights\[0\]"
    yield dict(weights=[w[0], w[1][:5]]), ValueError, r"weights\[1\] must give 6 outputs"
    yield dict(biases=[b[0][:3], b[1]]), ValueError, r"biases\[0\] must be \(4,\) or \(5, 4\): got \(3,\)"
    yield dict(masks=[m[0].T, m[1]]), ValueError, r"masks\[0\] must have the shape of weights\[0\], \(4, 5\): got"
    yield dict(masks=[m[0] * 0.5, m[1]]), ValueError, r"masks\[0\] must hold 0 and 1 only"
    yield dict(masks=[None, m[1]]), TypeError, r"masks\[0\] must be a tensor"
    yield dict(masks=everything), ValueError, r"masks must be autoregressive in some order .* \[0, 1, 2\]"
    yield dict(activation="swish"), ValueError, "activation must be one of relu"
    yield dict(residual="no"), TypeError, "residual must be True or False: got str"
    yield dict(map="inverse"), ValueError, "map must be one of affine, standardize"
    yield dict(layout="halves"), ValueError, "layout must be one of"
    yield dict(scale="linear"), ValueError, "scale must be one of"
    yield dict(residual=True, weights=[*w, w[1]], biases=[*b, b[1]], masks=None), ValueError, "weights"


@pytest.mark.parametrize("change, kind, message", list(errors()))
def test_masked_inverse_errors(change, kind, message):
    arguments = {**Case(3, (4,), (5,), context=2).draw(), **change}
    with pytest.raises(kind, match=message):
        masked_mlp_inverse(**arguments)


def test_masked_inverse_against_zuko():
    zuko = pytest.importorskip("zuko")
    torch.manual_seed(0)
    transform = zuko.flows.MaskedAutoregressiveTransform(6, context=2, hidden_features=(16, 16)).double()
    layers = [module for module in transform.hyper if hasattr(module, "mask")]
    y, context = torch.randn(9, 6, dtype=torch.float64), torch.randn(9, 2, dtype=torch.float64)
    parts = ([layer.weight for layer in layers], [layer.bias for layer in layers], [layer.mask for layer in layers])
    x, log_det = masked_mlp_inverse(
        y, *parts, context=context, scale="softclip", bound=-math.log(1e-3), layout="interleaved_shift_scale"
    )
    expected, ladj = transform(context).inv.call_and_ladj(y)
    torch.testing.assert_close(x, expected)
    torch.testing.assert_close(log_det, ladj)


def test_masked_inverse_against_nflows():
    pytest.importorskip("nflows")
    from nflows.transforms import MaskedAffineAutoregressiveTransform
    from torch.nn import functional as F

    torch.manual_seed(0)
    transform = MaskedAffineAutoregressiveTransform(5, 12, context_features=3).double()
    net = transform.autoregressive_net
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    y, context = torch.randn(9, 5, dtype=torch.float64), torch.randn(9, 3, dtype=torch.float64)
    layers = [net.initial_layer, *[layer for block in net.blocks for layer in block.linear_layers], net.final_layer]
    biases = [layer.bias for layer in layers]
    biases[0] = biases[0] + F.relu(net.context_layer(context))
    for number, block in enumerate(net.blocks):
        biases[1 + 2 * number] = biases[1 + 2 * number] + block.context_layer(context)
    weights, masks = [layer.weight for layer in layers], [layer.mask for layer in layers]
    options = dict(residual=True, scale="softplus", offset=0.0, eps=1e-3, layout="interleaved_scale_shift")
    ours = masked_mlp_inverse(y, weights, biases, masks, **options)
    for mine, theirs in zip(ours, transform.inverse(y, context), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_masked_inverse_triton_compiles_for_gpus(tmp_path):
    """To cubins for sm_80 and sm_90, GPU or not."""
    pytest.importorskip("triton")
    assert len(compiled_for_gpus("triton_compile_masked", tmp_path)) == 7
