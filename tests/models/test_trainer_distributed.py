"""Several processes train as one does: gradients, sharding, resumption, failures, interruptions."""

import os
import signal

import pytest
import torch

from cgm_models.flows import RealNVP
from cgm_models.training import NonFiniteError, RunDirectory, Trainer
from cgm_models.training.batches import Batches, TrainingData
from tests.support.training import ToyGaussian, in_processes

QUIET = {"tensorboard": False, "progress": False, "accelerator": "cpu"}
N = 101


def _data():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(N, 2, generator=generator) * 2 + 1, torch.randn(N, 3, generator=generator)


def _model():
    torch.manual_seed(1)
    return ToyGaussian((2,), context_dim=3, hidden=8)


def _trained(strategy, options, folder=None, resume=False):
    """The weights after a training, and what happened."""
    x, context = _data()
    model = _model()
    held_out = (x[:31], context[:31])
    result = Trainer(strategy=strategy, **QUIET, **options).fit(model, x, context, *held_out, run=folder, resume=resume)
    return {
        "weights": dict(model.state_dict()),
        "step": result.step,
        "ending": result.ending,
        "validation_loss": result.validation_loss,
    }


def _assert_close(weights, expected, tolerance=2e-6):
    assert weights.keys() == expected.keys()
    for name, value in weights.items():
        torch.testing.assert_close(value, expected[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("batch_size", [64, 37])
def test_the_step_is_that_of_the_whole_batch(strategy, batch_size):
    """One step of SGD at rate 1 moves the weights by the gradient of the loss over the whole batch, to rounding."""
    options = {"max_steps": 1, "batch_size": batch_size, "optimizer": "sgd", "momentum": 0.0, "lr": 1.0}
    first, second = in_processes(_trained, strategy, options)
    model, (x, context) = _model(), _data()
    rows = Batches(TrainingData(x, context), batch_size, 0, torch.device("cpu")).rows(0)
    model = model.double()
    model.loss(x[rows].double(), context[rows].double()).backward()
    for name, parameter in model.named_parameters():
        expected = (parameter - parameter.grad).detach().float()
        torch.testing.assert_close(first["weights"][name], expected, rtol=1e-5, atol=1e-6)
        assert torch.equal(first["weights"][name], second["weights"][name])


def _trained_flow(strategy):
    """A flow whose actnorms the data set, trained by steps that the first process's average follows."""
    torch.manual_seed(0)
    flow, (x, _) = RealNVP(dim=2, n_layers=2, hidden_features=(8,), actnorm=True), _data()
    options = {"max_steps": 4, "batch_size": 50, "optimizer": "sgd", "momentum": 0.0, "lr": 0.01, "ema_decay": 0.9}
    Trainer(strategy=strategy, **QUIET, **options).fit(flow, 3.0 * x + 5.0)
    return dict(flow.state_dict())


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_actnorms_are_set_before_they_are_sharded(strategy):
    alone = _trained_flow("single")
    for weights in in_processes(_trained_flow, strategy):
        _assert_close(weights, alone, 1e-5)
    assert alone["transform.layers.3.shift"].abs().max() > 1.0


FULL = {
    "max_steps": 24,
    "batch_size": 50,
    "lr": 0.01,
    "warmup_steps": 5,
    "ema_decay": 0.9,
    "clip_norm": 0.5,
    "log_every": 4,
    "validate_every": 12,
    "checkpoint_every": 10,
}


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_training_resumed_is_that_of_one_process(strategy, tmp_path):
    alone = _trained("single", FULL, tmp_path / "alone")
    folder = tmp_path / "several"
    half = in_processes(_trained, strategy, {**FULL, "max_steps": 12}, folder)
    assert [part["step"] for part in half] == [12, 12]
    first, second = in_processes(_trained, strategy, FULL, folder, True)
    _assert_close(first["weights"], alone["weights"], 1e-5)
    _assert_close(second["weights"], first["weights"], 0.0)
    assert first["validation_loss"] == pytest.approx(alone["validation_loss"], rel=1e-5)
    logs = [RunDirectory(path).read_log() for path in (folder, tmp_path / "alone")]
    assert [r["step"] for r in logs[0]] == [r["step"] for r in logs[1]] == [4, 8, 12, 16, 20, 24]
    for record, expected in zip(*logs, strict=True):
        assert record.keys() == expected.keys()
        for name in {"loss", "grad_norm", "lr", "validation_loss"} & record.keys():
            assert record[name] == pytest.approx(expected[name], rel=1e-5)


class BreaksInOneProcess(ToyGaussian):
    """Its loss is NaN from the 15th step on, in the second process alone; the flows say that by an error."""

    check_finite = True

    def loss(self, x, context=None):
        loss = super().loss(x, context)
        if self.training and self.calls == 15 and os.environ["RANK"] == "1":
            if self.check_finite:
                raise FloatingPointError("layer 3 gave NaN")
            loss = loss * torch.nan
        return loss


def _broken(folder, optimizer="adam"):
    x, context = _data()
    torch.manual_seed(1)
    model = BreaksInOneProcess((2,), context_dim=3)
    try:
        Trainer(strategy="ddp", **QUIET, **FULL, optimizer=optimizer).fit(model, x, context, run=folder)
    except NonFiniteError as error:
        assert model.check_finite  # put back
        return {"message": str(error), "weights": dict(model.state_dict())}
    return None


def test_one_process_with_a_loss_that_is_not_finite_stops_all(tmp_path):
    first, second = in_processes(_broken, tmp_path / "run")
    for message in (first["message"], second["message"]):
        assert "stopped at step 15 (batch" in message and "step-00000010" in message
    assert all(value.isfinite().all() for value in first["weights"].values())
    _assert_close(first["weights"], second["weights"], 0.0)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_a_step_that_is_not_finite_is_left_out(optimizer):
    """Seen only one step later, it has not reached the weights."""
    first, second = in_processes(_broken, None, optimizer)
    for message in (first["message"], second["message"]):
        assert "stopped at step 15 (batch" in message and "of step 16, without this one" in message
    assert all(value.isfinite().all() for value in first["weights"].values())
    _assert_close(first["weights"], second["weights"], 0.0)


def _interrupted(folder):
    x, context = _data()
    model = _model()
    loss = type(model).loss

    def interrupting(self, *arguments):
        if self.training and self.calls == 5 and os.environ["RANK"] == "0":
            signal.raise_signal(signal.SIGTERM)
        return loss(self, *arguments)

    type(model).loss = interrupting
    result = Trainer(strategy="ddp", **QUIET, **FULL).fit(model, x, context, run=folder)
    return {"step": result.step, "ending": result.ending}


def test_an_interruption_of_one_process_stops_all_at_the_same_step(tmp_path):
    assert in_processes(_interrupted, tmp_path / "run") == [{"step": 8, "ending": "interrupted"}] * 2


def _fit_from_the_command_line(*arguments):
    from cgm_models.cli.main import main

    return main(["fit", "RealNVP", "--data=moons", "--data_n=200", "--n_layers=2", "--hidden_features=[4]", *arguments])


def test_the_command_line_under_torchrun(tmp_path):
    trainer = [
        "--trainer.max_steps=8",
        "--trainer.log_every=2",
        "--trainer.accelerator=cpu",
        "--trainer.sample_every=4",
    ]
    one, two = (f"--out={tmp_path / name}" for name in ("one", "two"))
    assert in_processes(_fit_from_the_command_line, two, *trainer) == [0, 0]
    assert in_processes(_fit_from_the_command_line, two, *trainer[1:], "--trainer.max_steps=12", "--resume") == [0, 0]
    assert _fit_from_the_command_line(one, *trainer[1:], "--trainer.max_steps=12", "--quiet") == 0
    runs = [RunDirectory.open(tmp_path / name) for name in ("one", "two")]
    for first, second in zip(*(run.read_log() for run in runs), strict=True):
        assert first["step"] == second["step"]
        assert first["loss"] == pytest.approx(second["loss"], rel=1e-4)
    assert sorted(p.name for p in runs[0].samples_path.iterdir()) == sorted(
        p.name for p in runs[1].samples_path.iterdir()
    )


def test_processes_spawned_by_fabric(tmp_path):
    alone = _trained("single", FULL)
    several = _trained("auto", {**FULL, "devices": 2}, tmp_path / "run")
    _assert_close(several["weights"], alone["weights"], 1e-5)
    assert (tmp_path / "run/model/weights.safetensors").is_file() and several["step"] == 24
