"""Couplings of vectors: what their networks may be, and what is refused."""

import pytest
import torch
from torch import nn

from cgm_models.flows import NICE
from cgm_models.flows.coupling import AdditiveCoupling, AffineCoupling
from cgm_models.nets import MLP


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("outputs, split", [(3, 3), (1, 3), (4, 3)])
def test_additive_couplings_refuse_shifts_of_another_shape(outputs, split, activation):
    coupling = AdditiveCoupling(MLP(3, outputs, (8,), activation=activation), split)
    x = torch.zeros(6, 4 if outputs == 3 else 5)
    with pytest.raises(ValueError, match=r"shift"):
        coupling(x)


def test_layers_that_were_replaced_are_called():
    """A Linear of another kind is not taken for its weights, whether put in its place or parametrised."""

    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    torch.manual_seed(0)
    coupling = AffineCoupling(MLP(2, 6, (8, 8), zero_last=False), 2)
    x = torch.randn(4, 5)
    plain = coupling.conditioner.layers[0]
    doubled = Doubled(8, 8)
    doubled.load_state_dict(plain.state_dict())
    coupling.conditioner.layers[0] = doubled
    changed = coupling(x)[0]
    twin = nn.Linear(8, 8)
    twin.load_state_dict({name: 2 * value for name, value in plain.state_dict().items()})
    coupling.conditioner.layers[0] = twin
    torch.testing.assert_close(changed, coupling(x)[0])
    coupling.conditioner.layers[0] = torch.nn.utils.parametrizations.weight_norm(twin)
    torch.testing.assert_close(changed, coupling(x)[0])


def test_additive_layers_have_every_derivative_where_pytorch_composes_them():
    torch.manual_seed(0)
    flow = NICE(dim=4, n_layers=2, hidden_features=(8,), activation="gelu").double()
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: flow.transform.inverse(x)[0], x)
    tangent = torch.randn(3, 4, dtype=torch.float64)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda x: flow.transform.inverse(x[None])[0][0]))(x)
    _, along = torch.func.jvp(lambda x: flow.transform.inverse(x)[0], (x,), (tangent,))
    torch.testing.assert_close(along, (jacobian @ tangent[:, :, None])[:, :, 0])


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("split", [slice(0, None, 2), slice(1, None, 2), slice(2, None), slice(0, 2)], ids=str)
def test_additive_couplings_take_what_affine_ones_take(split, activation):
    torch.manual_seed(0)
    coupling = AdditiveCoupling(MLP(2, 2, (8,), activation=activation, zero_last=False), split)
    x = torch.randn(5, 4)
    y, log_det = coupling(x)
    passed = [channel for channel in range(4) if channel not in range(4)[split]]
    torch.testing.assert_close(y[:, passed], x[:, passed])
    torch.testing.assert_close(y[:, split], x[:, split] + coupling.conditioner(x[:, passed]))
    torch.testing.assert_close(coupling.inverse(y)[0], x)
    assert log_det.shape == (5,) and not log_det.any()


def test_half_precision_gives_float32_log_determinants():
    coupling = AdditiveCoupling(MLP(2, 2, (8,), activation="gelu"), 2).bfloat16()
    y, log_det = coupling(torch.randn(5, 4, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16 and log_det.dtype == torch.float32
