"""``scale="none"`` checks as other scales do."""

import pytest
import torch

import cgm_kernels
from cgm_kernels import CouplingLayer, affine_coupling_mlp, affine_coupling_stack
from tests.support.backends import running

WEIGHTS = dict(weights=[torch.zeros(2, 2)], biases=[torch.zeros(2)], split=2)


@pytest.mark.parametrize("pair", running())
@pytest.mark.parametrize(
    "options, message",
    [
        (dict(layout="bogus"), "layout must be one of scale_shift"),
        (dict(bound=-1.0), "bound must be positive: got -1"),
        (dict(eps=-1.0), "eps must not be negative: got -1"),
        (dict(offset=float("nan")), "offset must be finite: got nan"),
        (dict(scale="additive"), "scale must be one of .*none: got 'additive'"),
        (dict(scale=None), "scale must be one of .*none: got None"),
    ],
    ids=str,
)
def test_errors_name_the_argument(options, message, pair):
    backend, device = pair
    x = torch.zeros(3, 4, device=device)
    given = {"scale": "none", **options}
    with cgm_kernels.use_backend(backend), pytest.raises(ValueError, match=message):
        affine_coupling_mlp(x, **WEIGHTS, **given)
    with cgm_kernels.use_backend(backend), pytest.raises(ValueError, match=message):
        affine_coupling_stack(x, [CouplingLayer(**WEIGHTS, **given)])
