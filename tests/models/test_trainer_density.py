"""Flows trained without data, by an unnormalised density: KL(flow ‖ density), held-out looks, resuming, failures."""

import json
import math

import pytest
import torch

from cgm_models.ebm import EnergyModel
from cgm_models.flows import Glow, RealNVP
from cgm_models.training import NonFiniteError, Trainer
from tests.support.training import in_processes

QUIET = {"tensorboard": False, "progress": False}
MEAN, PRECISION = torch.tensor([1.0, -0.5]), torch.tensor([[2.0, 0.6], [0.6, 1.0]])
LOG_NORMALISER = math.log(2.0 * math.pi) - 0.5 * math.log(2.0 * 1.0 - 0.36)


def log_gaussian(x, context=None):
    """Not normalised; a context moves its mean."""
    offset = x - MEAN - (0.0 if context is None else context)
    return -0.5 * ((offset @ PRECISION) * offset).sum(1)


def new_flow(**options):
    torch.manual_seed(0)
    return RealNVP(dim=2, n_layers=2, hidden_features=(16,), **options)


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_the_held_out_loss_comes_down_to_the_normaliser(tmp_path):
    flow = new_flow()
    trainer = Trainer(max_steps=300, batch_size=128, lr=1e-2, schedule="one-cycle", validate_every=50, **QUIET)
    result = trainer.fit_density(flow, log_gaussian, run=tmp_path / "run")
    assert result.ending == "finished"
    assert -LOG_NORMALISER - 1e-3 < result.validation_loss < -LOG_NORMALISER + 0.02
    x = flow.sample(20_000, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(x.mean(0), MEAN, rtol=0, atol=0.05)
    torch.testing.assert_close(x.T.cov(), PRECISION.inverse(), rtol=0.1, atol=0.05)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "validation_loss" in line] == list(range(50, 301, 50))


def test_a_conditional_density_is_given_the_context_of_every_sample():
    flow = new_flow(context_dim=2)
    contexts = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, -3.0]])
    trainer = Trainer(max_steps=400, batch_size=128, lr=1e-2, schedule="one-cycle", **QUIET)
    result = trainer.fit_density(flow, log_gaussian, contexts, n_validation=500)
    assert result.validation_loss < -LOG_NORMALISER + 0.1
    for context in contexts:
        x = flow.sample(5000, context, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(x.mean(0), MEAN + context, rtol=0, atol=0.25)


def test_a_resumed_training_is_bit_for_bit_the_undisturbed_one(tmp_path):
    options = {"batch_size": 32, "validate_every": 10, "checkpoint_every": 10, "ema_decay": 0.9, **QUIET}
    whole, halved = new_flow(), new_flow()
    Trainer(max_steps=40, **options).fit_density(whole, log_gaussian, run=tmp_path / "whole")
    Trainer(max_steps=20, **options).fit_density(halved, log_gaussian, run=tmp_path / "halved")
    torch.manual_seed(5)
    again = new_flow()
    result = Trainer(max_steps=40, **options).fit_density(again, log_gaussian, run=tmp_path / "halved", resume=True)
    assert result.step == 40 and torch.equal(weights(again), weights(whole))


def test_patience_keeps_the_weights_of_the_lowest_held_out_loss():
    flow = new_flow()
    trainer = Trainer(max_steps=400, batch_size=16, lr=0.1, validate_every=5, patience=3, **QUIET)
    result = trainer.fit_density(flow, log_gaussian, n_validation=256)
    assert (result.ending, result.kept) == ("stopped early", "best") and result.best_step < result.step


def test_layers_that_wait_for_a_batch_are_set_by_the_flow_s_own_samples():
    torch.manual_seed(0)
    flow = Glow((1, 4, 4), n_steps=1, hidden_channels=4)
    trainer = Trainer(max_steps=3, batch_size=16, **QUIET)
    trainer.fit_density(flow, lambda x: -0.5 * x.flatten(1).square().sum(1), n_validation=8)
    trained = weights(flow)
    flow.train().log_prob(torch.randn(8, 1, 4, 4))  # no later batch sets them anew
    assert torch.equal(weights(flow), trained)


def test_a_density_that_is_not_finite_is_said_and_the_last_good_weights_are_kept(tmp_path):
    def walled(x):
        return log_gaussian(x) + torch.where(x[:, 0] > 0.2, math.nan, 0.0)

    flow = new_flow()
    before = weights(flow)
    with pytest.raises(NonFiniteError, match=r"step 1 .* 64 samples of the model\): .*log_density is not finite"):
        Trainer(max_steps=5, batch_size=64, **QUIET).fit_density(flow, walled, run=tmp_path / "run")
    assert torch.equal(weights(flow), before)


def train_as_rank(folder):
    flow = new_flow()
    trainer = Trainer(max_steps=30, batch_size=33, lr=1e-2, accelerator="cpu", validate_every=10, **QUIET)
    result = trainer.fit_density(flow, log_gaussian, n_validation=101, run=folder)
    return weights(flow), result.validation_loss


def test_two_processes_share_the_samples(tmp_path):
    (first, loss), (second, other) = in_processes(train_as_rank, str(tmp_path / "run"))
    assert torch.equal(first, second) and loss == other


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"log_density": 3}, TypeError, "log_density must be a callable: got int"),
        ({"model": EnergyModel(dim=2)}, TypeError, "model must be a flow, with a reverse_kl: got EnergyModel"),
        ({"n_validation": 0}, ValueError, "n_validation must be a whole number, at least 1: got 0"),
        ({"context": torch.zeros(0, 2)}, ValueError, r"context must be a Tensor of at least one row: got \(0, 2\)"),
        ({"log_density": lambda x: x}, ValueError, r"log_density must map \(8, 2\) to \(8,\): got \(8, 2\)"),
        ({"resume": True}, ValueError, "it needs run"),
    ],
)
def test_wrong_arguments_are_named(change, error, message):
    with pytest.raises(error, match=message):
        Trainer(max_steps=2, batch_size=8, **QUIET).fit_density(
            **{"model": new_flow(), "log_density": log_gaussian, **change}
        )
