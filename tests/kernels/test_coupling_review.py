"""What once went wrong in the couplings: stale plans, options that are not finite, lists under autocast."""

import pytest
import torch

import cgm_kernels

STRICT = [torch.tensor([[0.0, 0.0, 0.0], [1, 0, 0], [1, 1, 0]])]


def test_masks_in_the_zeros_of_weights_are_read_anew():
    generator = torch.Generator().manual_seed(0)
    mask = torch.cat([STRICT[0], STRICT[0]])
    weights, biases = [torch.zeros(6, 3)], [torch.zeros(6)]
    y = torch.randn(4, 3, generator=generator)
    cgm_kernels.masked_mlp_inverse(y, weights, biases)
    weights[0].data = torch.randn(6, 3, generator=generator) * mask
    found = cgm_kernels.masked_mlp_inverse(y, weights, biases)
    expected = cgm_kernels.masked_mlp_inverse(y, [weights[0].clone()], biases, [mask])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "option", [{"scale": "sigmoid", "offset": float("nan")}, {"scale": "tanh", "bound": float("inf")}]
)
def test_options_must_be_finite_on_every_path(option):
    x = torch.randn(4, 4)
    weights, biases = [torch.randn(4, 2)], [torch.randn(4)]
    for call in (
        lambda: cgm_kernels.affine_coupling(x, x, x, **option),
        lambda: cgm_kernels.affine_coupling_event(x, x, 2, **option),
        lambda: cgm_kernels.affine_coupling_mlp(x, weights, biases, 2, **option),
    ):
        with pytest.raises(ValueError, match="must be finite"):
            call()


def test_lists_are_widened_under_autocast():
    mask = torch.cat([STRICT[0], STRICT[0]])
    y, weight = torch.randn(4, 3), torch.randn(6, 3).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x, log_det = cgm_kernels.masked_mlp_inverse(y, [weight], [torch.zeros(6).bfloat16()], [mask])
    assert x.dtype is log_det.dtype is torch.float32


def test_compiled_graphs_take_changing_options():
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x, bound: cgm_kernels.affine_coupling(x, x, x, scale="tanh", bound=bound),
        fullgraph=True,
        backend="eager",
    )
    x = torch.randn(3, 4)
    for bound in (1.0, 2.0, 3.0):
        torch.testing.assert_close(compiled(x, bound), cgm_kernels.affine_coupling(x, x, x, scale="tanh", bound=bound))
    torch._dynamo.reset()
