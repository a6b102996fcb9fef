"""The trainer as its users call it."""

import math
import os
import signal

import pytest
import torch

import cgm_models
from cgm_models.training import RunDirectory, Trainer
from cgm_models.training.checkpoint import CheckpointFolder
from tests.support.training import ToyGaussian

QUIET = {"tensorboard": False, "progress": False, "accelerator": "cpu"}


def _data(n=400):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 2, generator=generator) * torch.tensor([2.0, 0.5]) + torch.tensor([1.0, -3.0])


def _entropy_fit(x):
    """The lowest loss of a diagonal Gaussian on ``x``."""
    return float((x.var(0, unbiased=False).log() / 2 + 0.5 * math.log(2 * math.pi) + 0.5).sum())


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_it_reaches_the_closed_form(optimizer):
    x, model = _data(), ToyGaussian((2,))
    options = {"optimizer": optimizer, "lr": 0.1, "batch_size": 400, "max_steps": 400, "schedule": "one-cycle"}
    result = Trainer(**QUIET, **options).fit(model, x)
    assert result.ending == "finished" and result.step == 400 and not model.training
    torch.testing.assert_close(model.location.detach(), x.mean(0), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(model.log_scale.exp().detach(), x.std(0, unbiased=False), rtol=1e-3, atol=1e-3)
    assert result.loss == pytest.approx(_entropy_fit(x), abs=0.05)


def test_the_steps_are_those_of_plain_pytorch():
    x, options = _data(), {"lr": 0.01, "batch_size": 32, "max_steps": 60, "clip_norm": 1.5, "weight_decay": 0.01}
    model, twin = ToyGaussian((2,)), ToyGaussian((2,))
    Trainer(**QUIET, optimizer="adamw", **options).fit(model, x)
    from cgm_models.training.batches import Batches, TrainingData

    batches = Batches(TrainingData(x), 32, 0, torch.device("cpu"))
    optimizer = torch.optim.AdamW(twin.parameters(), lr=0.01, weight_decay=0.01)
    for k in range(60):
        optimizer.zero_grad()
        twin.loss(x[batches.rows(k)]).backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.5)
        optimizer.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, twin.get_parameter(name), rtol=1e-5, atol=1e-6)


def test_context_conditions_the_model():
    context = torch.randn(300, 3, generator=torch.Generator().manual_seed(1))
    matrix = torch.tensor([[1.0, 0.0], [0.5, -1.0], [0.0, 2.0]])
    model = ToyGaussian((2,), context_dim=3)
    options = {"lr": 0.1, "batch_size": 300, "max_steps": 300, "schedule": "one-cycle", "clip_norm": 5.0}
    x = context @ matrix + 0.1 * torch.randn(300, 2, generator=torch.Generator().manual_seed(2))
    Trainer(**QUIET, **options).fit(model, x, context)
    torch.testing.assert_close(model.matrix.detach(), matrix, rtol=0.05, atol=0.05)


def test_the_run_directory_holds_everything(tmp_path):
    x, model = _data(), ToyGaussian((2,))
    options = {"max_steps": 23, "batch_size": 50, "log_every": 5, "validate_every": 10, "checkpoint_every": 10}
    trainer = Trainer(accelerator="cpu", progress=False, sample_every=10, ema_decay=0.9, **options)
    result = trainer.fit(model, x[:300], validation_x=x[300:], run=tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run")
    log = run.read_log()
    assert [r["step"] for r in log] == [5, 10, 15, 20, 23]
    assert [r["step"] for r in log if "validation_loss" in r] == [10, 20, 23]
    assert all({"loss", "lr", "grad_norm", "steps_per_second", "seconds"} <= r.keys() for r in log)
    pictures = sorted(p.name for p in run.samples_path.iterdir())
    assert pictures == [f"step-000000{k}.png" for k in (10, 20, 23)]
    assert [p.name for p in run.checkpoints_path.iterdir()] == ["step-00000023"]
    assert result.validation_loss == min(r["validation_loss"] for r in log if "validation_loss" in r)
    assert result.status() == "23 steps, averaged weights"
    loaded = cgm_models.load(run.model_path)
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])
    assert type(cgm_models.load(CheckpointFolder(run.checkpoints_path).latest())) is ToyGaussian
    scalars = _tensorboard(run.tensorboard_path)
    assert [event.step for event in scalars.Scalars("loss")] == [5, 10, 15, 20, 23]
    assert [event.value for event in scalars.Scalars("loss")] == pytest.approx([r["loss"] for r in log], rel=1e-6)
    assert [event.step for event in scalars.Images("samples")] == [10, 20, 23]


def _tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    return events


def test_a_run_that_holds_something_is_not_written_to(tmp_path):
    Trainer(**QUIET, max_steps=2).fit(ToyGaussian((2,)), _data(), run=tmp_path / "run")
    with pytest.raises(FileExistsError, match="is not empty"):
        Trainer(**QUIET, max_steps=2).fit(ToyGaussian((2,)), _data(), run=tmp_path / "run")


def test_the_average_is_what_is_validated_and_kept():
    x = _data()
    options = {"max_steps": 50, "batch_size": 50, "lr": 0.1, "validate_every": 50}
    plain, averaged = ToyGaussian((2,)), ToyGaussian((2,))
    Trainer(**QUIET, **options).fit(plain, x)
    result = Trainer(**QUIET, **options, ema_decay=0.99).fit(averaged, x, validation_x=x[:100])
    assert result.kept == "average" and not torch.allclose(plain.location, averaged.location)
    with torch.no_grad():
        assert result.validation_loss == pytest.approx(float(averaged.loss(x[:100])), rel=1e-6)


def test_early_stopping_keeps_the_best_weights(tmp_path):
    x = _data()
    held_out = x[:50] + 1.0  # so that fitting the rest too well does harm
    options = {"max_steps": 2000, "batch_size": 400, "lr": 0.05, "validate_every": 5, "patience": 4}
    model = ToyGaussian((2,))
    result = Trainer(**QUIET, **options).fit(model, x, validation_x=held_out, run=tmp_path / "run")
    assert result.ending == "stopped early" and result.step == result.best_step + 20 < 2000
    assert result.status().startswith(f"{result.step} of 2000 steps: stopped early, the best weights, of step")
    with torch.no_grad():
        assert float(model.loss(held_out)) == pytest.approx(result.validation_loss, rel=1e-6)
    again = ToyGaussian((2,))
    resumed = Trainer(**QUIET, **options).fit(again, x, validation_x=held_out, run=tmp_path / "run", resume=True)
    assert resumed.step == result.step and torch.equal(again.location, model.location)


def test_bf16_autocast_keeps_the_data_in_32_bits():
    seen = {}

    class Peeks(ToyGaussian):
        def loss(self, x, context=None):
            seen["data"] = x.dtype
            seen["linear"] = self.network(x).dtype
            return super().loss(x, context)

    model = Peeks((2,), hidden=4)
    Trainer(**QUIET, precision="bf16-mixed", max_steps=2).fit(model, _data())
    assert seen == {"data": torch.float32, "linear": torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in model.parameters())


class Initialized(ToyGaussian):
    """As the flows with actnorm: the first batch sets its location."""

    def __init__(self, event_shape, context_dim=0):
        super().__init__(event_shape, context_dim)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def initialize(self, x, context):
        assert not torch.is_grad_enabled() and int(self.calls) == 0
        self.location.copy_(x.mean(0))
        self.count += 1


def test_initialize_is_called_once_and_not_on_resuming(tmp_path):
    options = {**QUIET, "batch_size": 64, "lr": 1e-9}
    model = Initialized((2,))
    Trainer(max_steps=3, **options).fit(model, _data(), run=tmp_path / "run")
    first = model.location.detach().clone()
    assert int(model.count) == 1 and first.abs().sum() > 1
    model = Initialized((2,))
    Trainer(max_steps=5, **options).fit(model, _data(), run=tmp_path / "run", resume=True)
    assert int(model.count) == 1
    torch.testing.assert_close(model.location.detach(), first)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_what_was_trained(number, tmp_path):
    class Signals(ToyGaussian):
        def loss(self, x, context=None):
            if self.training and self.calls == 6:
                os.kill(os.getpid(), number)
            return super().loss(x, context)

    before = signal.getsignal(number)
    signal.signal(number, signal.default_int_handler)  # a background job starts with SIGINT ignored
    try:
        result = Trainer(**QUIET, max_steps=40).fit(Signals((2,)), _data(), run=tmp_path / "run")
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)
    assert result.status() == "7 of 40 steps: interrupted"
    assert int(cgm_models.load(tmp_path / "run/model").calls) == 7
    model, twin = ToyGaussian((2,)), ToyGaussian((2,))
    Trainer(**QUIET, max_steps=40).fit(model, _data(), run=tmp_path / "run", resume=True)
    Trainer(**QUIET, max_steps=40).fit(twin, _data())
    assert torch.equal(model.location, twin.location)


def test_the_callers_random_numbers_are_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    Trainer(**QUIET, max_steps=3).fit(ToyGaussian((2,), noise=1.0), _data())
    assert torch.equal(torch.rand(3), expected)


def test_pictures_and_validation_do_not_change_the_training(tmp_path):
    models = [ToyGaussian((2,), noise=0.5) for _ in range(2)]
    options = {"max_steps": 12, "batch_size": 20}
    Trainer(**QUIET, **options).fit(models[0], _data())
    watched = Trainer(**QUIET, **options, sample_every=3, validate_every=2)
    watched.fit(models[1], _data(), validation_x=_data(50), run=tmp_path / "run")
    assert torch.equal(models[0].location, models[1].location)
