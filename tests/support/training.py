"""A model with a known optimum, a training that can be killed, and processes to train in."""

import multiprocessing
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
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


def forkserver() -> multiprocessing.context.ForkServerContext:
    """Processes that start in a few milliseconds, with everything imported and no thread started."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.training", "lightning.fabric", "torch.distributed.fsdp"])
    return context


def in_processes(function: Callable[..., object], *arguments: object, world: int = 2) -> list[object]:
    """What ``function(*arguments)`` returns in each of ``world`` processes, in the environment that torchrun makes."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        places = [Path(folder) / f"{rank}.pt" for rank in range(world)]
        processes = [
            forkserver().Process(target=_as_rank, args=(rank, world, port, str(places[rank]), function, arguments))
            for rank in range(world)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(120)
            if process.is_alive():
                process.kill()
        assert [process.exitcode for process in processes] == [0] * world
        return [torch.load(place, weights_only=True) for place in places]


def _as_rank(rank: int, world: int, port: int, place: str, function: Callable[..., object], arguments: tuple) -> None:
    names = ("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT")
    os.environ.update(zip(names, map(str, (rank, rank, 0, world, world, port)), strict=True))
    os.environ.update(MASTER_ADDR="127.0.0.1", TORCHELASTIC_RUN_ID="test")
    torch.set_num_threads(1)
    torch.save(function(*arguments), place)


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
