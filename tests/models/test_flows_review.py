"""What once went wrong in the flows: bad first batches of an actnorm, pruned conditioners, inference mode."""

import pytest
import torch
import torch.nn.utils.prune

from cgm_models.flows import MAF, RealNVP


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_first_batch_does_not_set_an_actnorm(bad):
    torch.manual_seed(0)
    flow = RealNVP(dim=2, n_layers=2, actnorm=True)
    with pytest.raises((ValueError, FloatingPointError)):
        flow.loss(torch.full((8, 2), bad))
    assert flow.loss(torch.randn(64, 2)).isfinite()


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
