"""The trainer of every model that has a loss."""

from __future__ import annotations

import copy
import importlib.util
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..model import GenerativeModel
from .batches import TrainingData
from .density import DensityData
from .devices import launched_rank, make_fabric, spawns
from .interrupts import stop_on_signal
from .loop import train
from .monitor import NonFiniteError
from .options import check_options
from .outcome import TrainingResult
from .reporter import drawable
from .run import RunDirectory

if TYPE_CHECKING:
    from lightning.fabric import Fabric

    from ..flows import Flow

_WEIGHTS = "trained.safetensors"


@dataclass(frozen=True)
class Trainer:
    """Trains a model by gradient steps on ``model.loss(x, context)``, on Lightning Fabric.

    ::

        trainer = Trainer(max_steps=6000, batch_size=512, lr=1e-3, schedule="one-cycle")
        trainer.fit(model, train_x, validation_x=test_x, run="runs/moons")
        trainer.fit_density(flow, lambda x: -energy(x), run="runs/boltzmann")

    The first minimises KL(data ‖ model) where the loss of the model is −log p; the second needs no data, and minimises
    KL(flow ‖ density).

    Two things a model may define are honoured: ``initialize(x, context)`` is called once, on the first batch before
    the first step, and never again on resuming; and where reading a value in every step would cost time, on a GPU and
    in several processes, ``check_finite`` is set to False: the trainer then looks at the losses every ``log_every``.

    Args:
        max_steps: updates of the weights.
        batch_size: points in one step, over all devices together.
        lr: the learning rate, the highest of the schedule.
        optimizer: "adam", "adamw" or "sgd".
        weight_decay: of the optimiser; decoupled in "adamw".
        betas: of "adam" and "adamw".
        momentum: of "sgd".
        schedule: "constant", "cosine" or "one-cycle".
        warmup_steps: steps of the linear rise at the start, of the rise of "one-cycle".
        clip_norm: the largest norm of the gradient, longer ones are shortened to it; by default none is.
        ema_decay: of the moving average of the weights, which then is what is validated, sampled from and saved.
        precision: "32", or "16-mixed" or "bf16-mixed" for autocast; the data stay in 32 bits.
        accelerator: "cpu", "cuda", or "auto" for CUDA where it is.
        devices: how many on this machine; under torchrun its processes count instead.
        strategy: "single", "ddp", "fsdp" (under torchrun), or "auto": single on one device, else ddp.
        seed: fixes the order of the data and the noise of the training.
        validate_every: steps between two looks at the held-out loss.
        patience: stop after so many looks in a row without progress, and keep the weights of the lowest held-out loss.
        min_delta: by how much the held-out loss must fall to count as progress.
        log_every: steps between two lines of the log.
        checkpoint_every: steps between two checkpoints.
        sample_every: steps between two pictures of samples.
        n_samples: samples in a picture.
        tensorboard: write the log for TensorBoard as well.
        progress: show a progress bar where the standard error is a terminal.
    """

    max_steps: int = 5000
    batch_size: int = 256
    lr: float = 1e-3
    optimizer: str = "adam"
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.9
    schedule: str = "constant"
    warmup_steps: int = 0
    clip_norm: float | None = None
    ema_decay: float | None = None
    precision: str = "32"
    accelerator: str = "auto"
    devices: int = 1
    strategy: str = "auto"
    seed: int = 0
    validate_every: int = 500
    patience: int | None = None
    min_delta: float = 0.0
    log_every: int = 50
    checkpoint_every: int = 500
    sample_every: int | None = None
    n_samples: int = 64
    tensorboard: bool = True
    progress: bool = True

    def __post_init__(self) -> None:
        check_options(self)

    def fit(
        self,
        model: GenerativeModel,
        train_x: Tensor,
        train_context: Tensor | None = None,
        validation_x: Tensor | None = None,
        validation_context: Tensor | None = None,
        *,
        run: RunDirectory | str | os.PathLike[str] | None = None,
        resume: bool = False,
    ) -> TrainingResult:
        """Train ``model`` on ``train_x`` (n, *event), row i under ``train_context`` row i; it ends in evaluation mode.

        Into ``run`` go the log, the checkpoints, the pictures and, in the end, the model. With ``resume`` the training
        goes on from the last checkpoint there, or begins if there is none; with the same arguments it ends on the CPU
        bit for bit where an undisturbed one does. Ctrl-C and SIGTERM end it after the running step and keep the model.

        Raises:
            NonFiniteError: if a loss or a gradient was not finite; the message names step and batch. The model is then
                the one of the last good checkpoint.
        """
        data = TrainingData(train_x, train_context, validation_x, validation_context)
        if not isinstance(model, GenerativeModel) or type(model).loss is GenerativeModel.loss:
            raise TypeError(f"model must be a GenerativeModel with a loss: got {type(model).__name__}")
        if tuple(data.x.shape[1:]) != model.event_shape:
            raise ValueError(f"train_x must have shape (n, *{model.event_shape}): got {tuple(data.x.shape)}")
        return self._train(model, data, run, resume)

    def fit_density(
        self,
        model: Flow,
        log_density: Callable[..., Tensor],
        context: Tensor | None = None,
        *,
        n_validation: int = 4096,
        run: RunDirectory | str | os.PathLike[str] | None = None,
        resume: bool = False,
    ) -> TrainingResult:
        """Train a flow on ``model.reverse_kl(log_density, batch_size)``: no data, but a density p̃ to evaluate.

        ``log_density(x)`` maps points (n, *event) to log p̃ (n,), normalised or not, with its gradient. Given
        ``context``, k rows or labels, the samples go round them, and it is ``log_density(x, context)`` with a row for
        each point. For spawned processes it must be picklable.

        Every step draws fresh samples of the flow. The held-out loss is that of ``n_validation`` samples, on the same
        noise every time: like the other it estimates KL(model ‖ p) − log ∫ p̃, which is −log ∫ p̃ at best. A mode of p̃
        that the flow has lost does not show in either, for no sample falls there. All else is as in ``fit``; that a
        training goes on with the density it began with is for the caller to see to.
        """
        if not callable(getattr(model, "reverse_kl", None)):
            raise TypeError(f"model must be a flow, with a reverse_kl: got {type(model).__name__}")
        data = DensityData.of(log_density, context, self.batch_size, n_validation)
        return self._train(model, data, run, resume)

    def _train(
        self,
        model: GenerativeModel,
        data: TrainingData,
        run: RunDirectory | str | os.PathLike[str] | None,
        resume: bool,
    ) -> TrainingResult:
        self._check(model, data, resume and run is None)
        fabric = make_fabric(self.accelerator, self.devices, self.strategy, self.precision)
        directory = _directory(run, resume)
        if spawns(fabric):
            result = _train_spawned(fabric, self, model, data, directory, resume)
        else:
            result = fabric.launch(partial(train, options=self, model=model, data=data, run=directory, resume=resume))
        if result.ending == "not finite":
            raise NonFiniteError(result.message)
        return result

    def _check(self, model: GenerativeModel, data: TrainingData, resumes_nothing: bool) -> None:
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ValueError(f"{type(model).__name__} has no parameters to train")
        if self.patience is not None and data.validation_x is None:
            raise ValueError("patience counts looks at the held-out loss: it needs validation_x")
        if self.sample_every is not None and not drawable(model.event_shape):
            raise ValueError(f"samples of shape {model.event_shape} have no picture: leave sample_every out")
        if self.tensorboard and importlib.util.find_spec("tensorboard") is None:
            raise ModuleNotFoundError("tensorboard is not installed: pip install tensorboard, or say tensorboard=False")
        if resumes_nothing:
            raise ValueError("resume goes on from the checkpoints of a run: it needs run")


def _directory(run: RunDirectory | str | os.PathLike[str] | None, resume: bool) -> RunDirectory | None:
    """The run directory, made by the first process where it is fresh."""
    if run is None:
        return None
    directory = run if isinstance(run, RunDirectory) else RunDirectory(run)
    if launched_rank():
        return directory
    if not isinstance(run, RunDirectory) and not resume:
        return RunDirectory.create(run)
    directory.path.mkdir(parents=True, exist_ok=True)
    if not resume and directory.checkpoints_path.is_dir():
        raise FileExistsError(f"{directory.path} holds the checkpoints of another training: resume it, or go elsewhere")
    return directory


def _train_spawned(
    fabric: Fabric, options: Trainer, model: GenerativeModel, data: TrainingData, run: RunDirectory | None, resume: bool
) -> TrainingResult:
    """Train in processes that Fabric spawns; the weights come back in a file."""
    # Ctrl-C on a terminal reaches the children as well, and they end the training.
    with tempfile.TemporaryDirectory() as folder, stop_on_signal(terminate=False):
        arguments: dict[str, Any] = {"options": options, "model": model, "data": data, "run": run, "resume": resume}
        result = TrainingResult(**fabric.launch(partial(_train_in_child, folder=folder, **arguments)))
        model.load_state_dict(load_file(Path(folder) / _WEIGHTS))
    model.eval()
    return result


def _train_in_child(fabric: Fabric, model: GenerativeModel, folder: str, **arguments: Any) -> dict[str, Any]:
    model = copy.deepcopy(model)  # the one that came shares its memory with the other processes
    result = train(fabric, model=model, **arguments)
    if fabric.global_rank == 0:
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        save_file(weights, Path(folder) / _WEIGHTS)
    fabric.barrier()
    torch.distributed.destroy_process_group()  # its threads must not outlive the interpreter
    return asdict(result)  # Fabric's launcher refuses frozen dataclasses
