"""A model with a known optimum, and a training that can be killed."""

import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn

from cgm_models.model import GenerativeModel
from cgm_models.training import Trainer


class ToyGaussian(GenerativeModel):
    """A diagonal Gaussian about A·context; its loss adds noise to the data, from torch's global generator."""

    def __init__(self, event_shape, context_dim=0, noise=0.0, hidden=0):
        super().__init__(tuple(event_shape), context_dim)
        self.location = nn.Parameter(torch.zeros(self.event_shape))
        self.log_scale = nn.Parameter(torch.zeros(self.event_shape))
        self.matrix = nn.Parameter(torch.zeros(context_dim, *self.event_shape)) if context_dim else None
        self.network = nn.Sequential(nn.Linear(2, hidden), nn.Tanh(), nn.Linear(hidden, 2)) if hidden else None
        self.noise = noise
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def _mean(self, context):
        return self.location if context is None else self.location + context @ self.matrix

    def log_prob(self, x, context=None):
        residual = x - self._mean(context)
        if self.network is not None:
            residual = residual + self.network(x).to(x.dtype)
        normal = torch.distributions.Normal(torch.zeros(()), self.log_scale.exp())
        return normal.log_prob(residual).flatten(1).sum(1)

    def loss(self, x, context=None):
        if self.training:
            self.calls += 1
        x = x + self.noise * torch.randn_like(x) if self.noise else x
        return -self.log_prob(x, context).mean()

    @torch.no_grad()
    def sample(self, n, context=None, generator=None):
        noise = torch.randn((n, *self.event_shape), generator=generator)
        return self._mean(context) + self.log_scale.exp() * noise


KILLED = {
    "max_steps": 120,
    "batch_size": 32,
    "lr": 0.01,
    "schedule": "cosine",
    "ema_decay": 0.95,
    "clip_norm": 2.0,
    "log_every": 5,
    "validate_every": 10,
    "patience": 50,
    "checkpoint_every": 7,
    "tensorboard": False,
    "progress": False,
}


def train_toy(folder: str, resume: bool, kill_at_event: int = 0, **options: object) -> None:
    """A training as in ``KILLED``; it kills itself at the k-th event in its folder of the interpreter's audit."""
    torch.set_num_threads(1)
    torch.manual_seed(3)
    x = torch.randn(200, 2) @ torch.tensor([[1.0, 0.5], [0.0, 0.3]]) + 1.0
    model = ToyGaussian((2,), noise=0.1, hidden=8)
    if kill_at_event:
        _kill_at(kill_at_event, folder)
    Trainer(**{**KILLED, **options}).fit(model, x[:150], validation_x=x[150:], run=folder, resume=resume)


def _kill_at(event: int, folder: str) -> None:
    seen = 0

    def hook(name, arguments):
        nonlocal seen
        if name in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "os.truncate") and any(
            isinstance(argument, (str, Path)) and str(argument).startswith(folder) for argument in arguments
        ):
            seen += 1
            if seen == event:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
