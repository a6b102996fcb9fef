"""What stops a training: values that are not finite, data and options that do not fit."""

import json
import sys

import pytest
import torch
from torch import nn

import cgm_models
from cgm_models.model import GenerativeModel
from cgm_models.training import NonFiniteError, Trainer, trainer
from cgm_models.training.checkpoint import CheckpointFolder
from tests.support.training import ToyGaussian

QUIET = {"tensorboard": False, "progress": False, "accelerator": "cpu"}


def _data():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(400, 2, generator=generator) * torch.tensor([2.0, 0.5]) + torch.tensor([1.0, -3.0])


class Breaks(ToyGaussian):
    """Something is not finite at the 13th step."""

    def __init__(self, event_shape, context_dim=0, how="loss"):
        super().__init__(event_shape, context_dim)
        self.how = how

    def loss(self, x, context=None):
        loss = super().loss(x, context)
        if self.training and self.calls == 13:
            if self.how == "error":
                raise FloatingPointError("layer 3 gave NaN")
            # √0 has an infinite derivative: a finite loss with a gradient that is not.
            zero = (self.location - self.location.detach()).square().sum().sqrt()
            loss = loss * torch.nan if self.how == "loss" else loss + zero
        return loss


@pytest.mark.parametrize(
    ("how", "what"),
    [("loss", "the loss is nan"), ("gradient", "the norm of the gradient is nan"), ("error", "layer 3")],
)
def test_what_is_not_finite_stops_the_training(how, what, tmp_path):
    options = {"max_steps": 30, "batch_size": 100, "checkpoint_every": 5, "log_every": 5}
    with pytest.raises(NonFiniteError, match=f"stopped at step 13 .batch 1 of epoch 4.*{what}.*step-00000010"):
        Trainer(**QUIET, **options).fit(Breaks((2,), how=how), _data(), run=tmp_path / "run")
    model = Breaks((2,), how=how)
    with pytest.raises(NonFiniteError, match="holds the weights of step 12"):
        Trainer(**QUIET, **options).fit(model, _data())
    twin, good = Breaks((2,), how="nothing"), CheckpointFolder(tmp_path / "run/checkpoints").latest()
    Trainer(**QUIET, **{**options, "max_steps": 12}).fit(twin, _data())
    assert torch.equal(twin.location, model.location) and good.name == "step-00000010"
    report = json.loads((tmp_path / "run/nonfinite.json").read_text())
    assert report["step"] == 13 and len(report["rows"]) == 100


def test_the_model_goes_back_to_the_last_good_checkpoint(tmp_path):
    options = {"max_steps": 30, "batch_size": 100, "checkpoint_every": 5}
    model = Breaks((2,))
    with pytest.raises(NonFiniteError):
        Trainer(**QUIET, **options).fit(model, _data(), run=tmp_path / "run")
    saved = cgm_models.load(tmp_path / "run/model")
    assert torch.equal(saved.location, model.location) and int(model.calls) == 10


def test_float16_that_never_recovers_stops_the_training(monkeypatch, tmp_path):
    class Scaler:
        scale = 1.0

        def get_scale(self):
            self.scale /= 16
            return self.scale

    def with_scaler(*arguments):
        fabric = make_fabric(*arguments)
        fabric.strategy.precision.scaler = Scaler()
        return fabric

    make_fabric = trainer.make_fabric
    monkeypatch.setattr(trainer, "make_fabric", with_scaler)
    with pytest.raises(NonFiniteError, match=r"stopped at step 30 .*not finite at any scale of the loss"):
        Trainer(**QUIET, max_steps=40, log_every=10).fit(ToyGaussian((2,)), _data())


class NoLoss(GenerativeModel):
    def __init__(self, event_shape):
        super().__init__(event_shape)
        self.weight = nn.Parameter(torch.zeros(1))


class VectorLoss(ToyGaussian):
    def loss(self, x, context=None):
        return -self.log_prob(x)


@pytest.mark.parametrize(
    ("model", "x", "more", "error", "message"),
    [
        (NoLoss((2,)), torch.zeros(4, 2), {}, TypeError, "with a loss: got NoLoss"),
        (VectorLoss((2,)), torch.zeros(4, 2), {}, ValueError, r"VectorLoss.loss must return a Tensor of shape \(\)"),
        (ToyGaussian((2,)), torch.zeros(4, 3), {}, ValueError, r"train_x must have shape .*: got \(4, 3\)"),
        (ToyGaussian((2,)), torch.zeros(4, 2).long(), {}, TypeError, "train_x must be a floating-point Tensor"),
        (ToyGaussian((2,)), torch.full((4, 2), torch.nan), {}, ValueError, "train_x must be finite: row 0"),
        (ToyGaussian((2,)), torch.zeros(0, 2), {}, ValueError, "n at least 1"),
        (ToyGaussian((2,)), torch.zeros(4, 2), {"train_context": torch.zeros(3)}, ValueError, "must have 4 rows"),
        (
            ToyGaussian((2,)),
            torch.zeros(4, 2),
            {"validation_x": torch.zeros(3, 1)},
            ValueError,
            "validation_x must hold",
        ),
        (ToyGaussian((2,)), torch.zeros(4, 2), {"resume": True}, ValueError, "it needs run"),
    ],
)
def test_what_does_not_fit_is_named(model, x, more, error, message):
    with pytest.raises(error, match=message):
        Trainer(**QUIET, max_steps=1).fit(model, x, **more)


@pytest.mark.parametrize("name", ["lightning", "tensorboard"])
def test_a_missing_library_is_named(name, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "lightning.fabric", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda asked: None if asked == name else object())
    with pytest.raises(ModuleNotFoundError, match=f"{name}.*pip install"):
        Trainer(accelerator="cpu", progress=False).fit(ToyGaussian((2,)), _data(), run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_options_that_need_something_else_are_named():
    with pytest.raises(ValueError, match="patience counts looks at the held-out loss"):
        Trainer(**QUIET, patience=1).fit(ToyGaussian((2,)), _data())
    with pytest.raises(ValueError, match=r"samples of shape \(3,\) have no picture"):
        Trainer(**QUIET, sample_every=1).fit(ToyGaussian((3,)), torch.zeros(4, 3))
