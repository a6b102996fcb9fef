"""Everything that moves while a model is trained, in one process of the training."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from ..model import GenerativeModel
from .batches import Batch, Batches, TrainingData
from .checkpoint import CheckpointFolder
from .devices import reads_every_step, spawns
from .ema import WeightAverage
from .monitor import DeferredMonitor, ImmediateMonitor, Monitor, NonFinite
from .optimizers import make_optimizer
from .reporter import Reporter
from .run import RunDirectory
from .seeds import derived_seed
from .sharding import whole
from .snapshot import AVERAGE, WEIGHTS, collect, load_weights, restore, whole_weights
from .validation import EarlyStopping, HeldOutLoss

if TYPE_CHECKING:
    from lightning.fabric import Fabric

    from .trainer import Trainer


_SMALLEST_LOSS_SCALE = 2.0**-10


class Loss(nn.Module):
    """The loss of a batch as a forward pass, which is what DDP and FSDP wrap."""

    def __init__(self, model: GenerativeModel, data: TrainingData) -> None:
        super().__init__()
        self.model, self.data = model, data

    def forward(self, batch: Batch) -> Tensor:
        return self.data.loss(self.model, batch.x, batch.context)


class Session:
    """The model with its optimiser, average, data, counters and reports, new or as its checkpoint left them.

    ``step`` counts the updates made, ``best`` holds the weights of the lowest held-out loss where those are asked for.
    """

    def __init__(
        self,
        fabric: Fabric,
        options: Trainer,
        model: GenerativeModel,
        data: TrainingData,
        run: RunDirectory | None,
        resume: bool,
    ) -> None:
        device, rank, world = fabric.device, fabric.global_rank, fabric.world_size
        self.fabric, self.options, self.data, self.run, self.given = fabric, options, data, run, model
        self.sharded = options.strategy == "fsdp"
        # FSDP cuts the module that it gets to pieces for good.
        self.model = copy.deepcopy(model) if self.sharded else model
        self.step, self.seconds = 0, 0.0
        self.best: dict[str, Tensor] | None = None
        self.fingerprint = data.fingerprint()
        self.batches = Batches(data, options.batch_size, options.seed, device, rank, world)
        self.stopping = EarlyStopping(options.patience, options.min_delta)
        self.held_out: HeldOutLoss | None = None
        if data.validation_x is not None:
            self.held_out = HeldOutLoss(data, options.batch_size, options.seed, device, rank, world)
        self.first = rank == 0
        self.spawned = spawns(fabric)
        self.reads_every_step = reads_every_step(fabric)
        overflows = options.precision == "16-mixed"
        self.monitor: Monitor = (
            ImmediateMonitor(overflows) if self.reads_every_step else DeferredMonitor(device, overflows)
        )
        self.checkpoints = None if run is None else CheckpointFolder(run.checkpoints_path)
        self.reporter = Reporter(run if self.first else None, options.tensorboard, options.progress and self.first)
        self._set_up(resume)

    def _set_up(self, resume: bool) -> None:
        options, fabric = self.options, self.fabric
        checkpoint = self.checkpoints.latest() if self.checkpoints and resume else None
        torch.manual_seed(derived_seed(options.seed, "noise", fabric.global_rank))
        self.model.to(fabric.device).train()
        initialize = getattr(self.model, "initialize", None)
        if checkpoint is None and callable(initialize):
            first = self.batches.whole_batch(0)
            with torch.no_grad():
                initialize(self.data.first_points(self.model, first.x, first.context), first.context)
        module: Any = fabric.setup_module(Loss(self.model, self.data))
        self.module: nn.Module = module
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        optimizer = make_optimizer(options, self.parameters)
        self.optimizer: Any = fabric.setup_optimizers(optimizer)
        self.skips = bool(optimizer.defaults.get("fused")) and not self.reads_every_step and not self.sharded
        self.average = None if options.ema_decay is None else WeightAverage(self.parameters, options.ema_decay)
        if resume:
            log_bytes = 0 if checkpoint is None else restore(self, checkpoint)
            self.reporter.go_on_from(self.step, log_bytes)

    def clip(self) -> Tensor:
        """Clip the gradients, unscaled before under float16; their norm before that."""
        limit = self.options.clip_norm
        if not self.reads_every_step:
            highest = math.inf if limit is None else limit
            clipped: Any = self.fabric.clip_gradients(
                self.module, self.optimizer, max_norm=highest, error_if_nonfinite=False
            )
            return whole(clipped)
        norm = get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if limit is not None and norm > limit:
            clip_grads_with_norm_(self.parameters, limit, norm)
        return norm

    def skip_if_not_finite(self, norm: Tensor) -> None:
        """Have the optimiser leave this step out, on the device and unseen, if ``norm`` is not finite.

        Fused optimisers do that for gradient scalers, which tell them in this way. The others go back to a checkpoint.
        """
        if self.skips:
            self.optimizer.optimizer.found_inf = norm.isfinite().logical_not().float()

    def check(self) -> None:
        """Raise ``NonFinite`` if something was not finite since the last look."""
        self.monitor.check()
        scaler = getattr(self.fabric.strategy.precision, "scaler", None)
        if scaler is not None and scaler.get_scale() < _SMALLEST_LOSS_SCALE:
            # Float16 skips steps whose gradient overflows and scales the loss down: here that went on and on.
            raise NonFinite(self.step - 1, "the gradient is not finite at any scale of the loss")

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Within, the model is whole, in evaluation mode, and holds the averaged weights where there are some."""
        with nullcontext() if self.average is None else self.average.in_place(), torch.no_grad():
            self._gather(True)
            self.model.eval()
            try:
                yield
            finally:
                self.model.train()
                self._gather(False)

    def _gather(self, gathered: bool) -> None:
        """Under FSDP, give every process all parameters, or take them away again."""
        if self.sharded:
            module: Any = self.module
            loss = module._forward_module
            loss.unshard() if gathered else loss.reshard()

    def validate(self) -> float:
        """The held-out loss; the weights are kept as the best if it is the lowest and they may be asked for."""
        assert self.held_out is not None
        with self.evaluation():
            totals: Any = self.fabric.all_reduce(self.held_out(self.model), reduce_op="sum")
            loss = float(totals[0] / totals[1])
            lowest = self.stopping.observe(self.step, loss)
        if lowest and self.stopping.patience is not None:
            if self.average is None:
                self.best = whole_weights(self.model)
            else:
                with self.average.in_place():
                    self.best = whole_weights(self.model)
        return loss

    def save(self) -> None:
        """Write a checkpoint, and the model as it would be now if the training ended."""
        if self.run is None or self.checkpoints is None:
            return
        files, state = collect(self, self.reporter.log_bytes())
        if self.first:
            description = json.dumps(self.model._description())
            self.checkpoints.write(self.step, files, state, description)
            if self.sharded:
                self.given.load_state_dict(files.get(AVERAGE, files[WEIGHTS]))
                self.given.save(self.run.model_path)
            else:
                with nullcontext() if self.average is None else self.average.in_place():
                    self.given.save(self.run.model_path)

    def finish(self) -> str:
        """Leave the model with the weights to use; which ones they are."""
        if self.best is not None:
            load_weights(self.model, self.best)
            return "best"
        if self.average is not None:
            self.average.copy_to_parameters()
            return "average"
        return "last"
