"""What once went wrong in the flows: bad first batches, empty ones, pruned conditioners, inference mode, vmap."""

import copy

import pytest
import torch
import torch.nn.utils.prune

from cgm_models.cnf import FFJORD, OTFlow
from cgm_models.flows import IAF, MAF, Composition, Flow, Glow, RealNVP, transform
from cgm_models.flows.coupling import AffineCoupling
from cgm_models.flows.planar import Planar
from cgm_models.nets import MLP
from cgm_models.training import Trainer


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_first_batch_does_not_set_an_actnorm(bad):
    torch.manual_seed(0)
    flow = RealNVP(dim=2, n_layers=2, actnorm=True)
    with pytest.raises((ValueError, FloatingPointError)):
        flow.loss(torch.full((8, 2), bad))
    assert flow.loss(torch.randn(64, 2)).isfinite()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda: RealNVP(dim=2, n_layers=2, actnorm=True),
        lambda: FFJORD(dim=2, hidden_features=(8,), n_steps=2),
        lambda: OTFlow(dim=2, width=4, n_steps=2),
    ],
    ids=["RealNVP", "FFJORD", "OTFlow"],
)
def test_the_loss_of_no_points_is_an_error(make, training):
    flow = make().train(training)
    with pytest.raises(ValueError, match=r"\.loss: x must have at least one row, for a mean: got \(0, 2\)"):
        flow.loss(torch.zeros(0, 2))
    assert flow.log_prob(torch.zeros(0, 2)).shape == (0,)
    assert flow.loss(torch.randn(16, 2)).isfinite()
    with pytest.raises(ValueError, match="n must be"):
        flow.reverse_kl(lambda x: x.sum(1), 0)


def test_an_actnorm_keeps_the_scale_of_what_does_not_vary():
    torch.manual_seed(0)
    flow = RealNVP(dim=2, n_layers=2, actnorm=True)
    flow.loss(torch.randn(1, 2))
    assert flow.loss(torch.randn(100, 2)).isfinite()


def test_pruned_conditioners_train():
    torch.manual_seed(0)
    flow = RealNVP(dim=4, n_layers=2)
    torch.nn.utils.prune.random_unstructured(flow.transform.layers[0].conditioner.layers[0], name="weight", amount=0.5)
    optimizer = torch.optim.SGD(flow.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        flow.loss(torch.randn(32, 4)).backward()
        optimizer.step()


def test_masked_flows_in_inference_mode():
    with torch.inference_mode():
        assert MAF(dim=3).sample(5).shape == (5, 3)


def test_hooks_of_a_conditioner_run():
    flow, seen = RealNVP(dim=4, n_layers=2), []
    flow.transform.layers[0].conditioner.register_full_backward_hook(lambda *_: seen.append(1))
    flow.loss(torch.randn(8, 4)).backward()
    assert seen == [1]


@pytest.mark.parametrize("n_levels", [None, 17])
def test_the_average_of_an_actnorm_is_not_that_of_its_first_values(n_levels):
    torch.manual_seed(0)
    flow = Glow((1, 4, 4), n_steps=1, hidden_channels=4, n_levels=n_levels)
    x = torch.rand(64, 1, 4, 4) if n_levels is None else torch.randint(17, (64, 1, 4, 4)) / 16
    options = {"max_steps": 3, "batch_size": 64, "lr": 1e-9, "ema_decay": 0.99, "tensorboard": False, "progress": False}
    Trainer(**options, accelerator="cpu").fit(flow, x)
    norms = [layer for layer in flow.modules() if type(layer).__name__ == "ActNorm"]
    assert all(layer.initialized for layer in norms)
    again = copy.deepcopy(flow).train()
    for layer in again.modules():
        if type(layer).__name__ == "ActNorm":
            layer.waits = True
    again.initialize(x)
    tolerance = 1e-5 if n_levels is None else 0.2  # other noise of the dequantisation
    for one, other in zip(norms, (m for m in again.modules() if type(m).__name__ == "ActNorm"), strict=True):
        torch.testing.assert_close(one.shift, other.shift, rtol=0, atol=tolerance)
        torch.testing.assert_close(one.log_scale, other.log_scale, rtol=0, atol=tolerance)


def test_a_flow_is_initialised_once_and_by_points_of_its_shape():
    torch.manual_seed(0)
    flow = RealNVP(dim=2, n_layers=2, actnorm=True)
    with pytest.raises(ValueError, match=r"x must have shape \(n, 2\): got \(8, 3\)"):
        flow.initialize(torch.randn(8, 3))
    flow.initialize(5.0 + torch.randn(64, 2))
    before = {name: value.clone() for name, value in flow.state_dict().items()}
    flow.initialize(torch.randn(64, 2))
    flow.loss(torch.randn(64, 2))
    assert all(torch.equal(value, before[name]) for name, value in flow.state_dict().items())


def test_a_coupling_of_its_own_kind_is_asked_for_its_own_map():
    class Doubled(AffineCoupling):
        def accumulate(self, x, context, log_det, *, inverse):
            y, total = super().accumulate(x, context, log_det, inverse=inverse)
            return 2 * y, total

    layers = [Doubled(MLP(3, 6, (8,)), 3 if k % 2 == 0 else slice(0, 3)) for k in range(2)]
    x = torch.randn(5, 6)
    y, _ = Composition(layers)(x)
    torch.testing.assert_close(y, 4 * x)  # new couplings are the identity


def test_large_conditionings_are_not_held_together(monkeypatch):
    torch.manual_seed(0)
    flow = RealNVP(dim=4, n_layers=4, context_dim=2, hidden_features=(8,))
    x, context = torch.randn(10, 4), torch.randn(10, 2)
    expected = flow.log_prob(x, context)
    made, run = [], transform.affine_coupling_stack
    monkeypatch.setattr(transform, "affine_coupling_stack", lambda x, *rest: made.append(len(rest[0])) or run(x, *rest))
    monkeypatch.setattr(transform, "MOST_HELD", 100)
    torch.testing.assert_close(flow.log_prob(x, context), expected)
    assert made == [2, 2]


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("family", [RealNVP, MAF, IAF])
def test_several_models_at_once_by_torch_func(family):
    flows = [family(dim=2, n_layers=2).eval() for _ in range(3)]
    x = torch.randn(5, 2)
    with torch.no_grad():
        for number, flow in enumerate(flows):
            for parameter in flow.parameters():
                parameter.add_(0.1 * number)
    found, _ = torch.func.vmap(lambda *state: torch.func.functional_call(flows[0], state, x))(
        *torch.func.stack_module_state(flows)
    )
    torch.testing.assert_close(found, torch.stack([flow(x)[0] for flow in flows]))


def test_transforms_that_no_configuration_can_hold_say_what_to_do():
    with pytest.raises(TypeError, match=r"transforms must be what JSON can hold.*derive a class"):
        Flow((2,), 0, [Planar(2)])
