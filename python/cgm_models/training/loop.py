"""The training loop, as every process runs it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..model import GenerativeModel
from .batches import TrainingData
from .devices import reads_every_step
from .interrupts import StopRequest, stop_on_signal
from .monitor import NonFinite
from .optimizers import set_learning_rate
from .outcome import TrainingResult
from .run import RunDirectory
from .schedule import learning_rate_factor
from .seeds import derived_seed
from .session import Session
from .snapshot import final_weights, load_weights, whole_weights
from .validation import rng_devices

if TYPE_CHECKING:
    from lightning.fabric import Fabric

    from .trainer import Trainer


def train(
    fabric: Fabric, options: Trainer, model: GenerativeModel, data: TrainingData, run: RunDirectory | None, resume: bool
) -> TrainingResult:
    """Train ``model`` and leave it on the device it was given on; every process calls this."""
    home = next(model.parameters()).device
    if run is not None:  # a new run that is to replace another is known to the first process alone
        run = RunDirectory(fabric.broadcast(str(run.path)))
    with torch.random.fork_rng(rng_devices(fabric.device)), _checks_deferred(fabric, model):
        session = Session(fabric, options, model, data, run, resume)
        result = Loop(session).run()
        if session.sharded:
            model.load_state_dict(whole_weights(session.model))
    model.to(home).eval()
    if run is not None and session.first and result.step:
        model.save(run.model_path)
    return result


@contextmanager
def _checks_deferred(fabric: Fabric, model: GenerativeModel) -> Iterator[None]:
    """Within, a model does not look at its own values where that waits for a device or stops one process alone."""
    looks = getattr(model, "check_finite", False) and not reads_every_step(fabric)
    if looks:
        model.check_finite = False  # type: ignore[assignment]
    try:
        yield
    finally:
        if looks:
            model.check_finite = True  # type: ignore[assignment]


class Loop:
    """Steps until an ending, and what happens between them."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.options = session.options
        self._loss: float | None = None
        self._last_log = (session.step, time.perf_counter())

    def run(self) -> TrainingResult:
        session, started = self.session, time.perf_counter() - self.session.seconds
        ending = self._ending(None)
        try:
            with (
                stop_on_signal(terminate=not session.spawned) as request,
                session.reporter.progress(self.options.max_steps, session.step) as advance,
            ):
                while ending is None:
                    self._update()
                    session.seconds = time.perf_counter() - started
                    ending = self._after_step(request)
                    advance()
        except NonFinite as bad:
            return self._give_up(bad)
        finally:
            session.reporter.close()
        return self._result(ending, session.finish())

    def _update(self) -> None:
        """One step of the optimiser."""
        session, options, step = self.session, self.options, self.session.step
        batch = session.batches.batch(step)
        set_learning_rate(session.optimizer, options.lr * self._factor(step))
        try:
            loss = session.module(batch)
        except Exception as error:
            session.monitor.check_here()  # weights that are not finite bring about errors of any kind
            if isinstance(error, FloatingPointError):
                raise NonFinite(step, str(error)) from error
            raise
        _check_scalar(loss, session.model)
        if session.batches.weight != 1.0:
            loss = loss * session.batches.weight
        session.fabric.backward(loss)
        norm = session.clip()
        session.monitor.observe(step, loss.detach(), norm)
        session.skip_if_not_finite(norm)
        session.optimizer.step()
        session.optimizer.zero_grad()
        if session.average is not None:
            session.average.update(step)
        session.step += 1

    def _after_step(self, request: StopRequest) -> str | None:
        """Log, validate, draw, save where it is time to; how the training ended, if it did."""
        session, options, step = self.session, self.options, self.session.step
        last = step == options.max_steps
        record: dict[str, float] = {}
        if step % options.log_every == 0 or last:
            record |= self._measured()
        if session.held_out is not None and (step % options.validate_every == 0 or last):
            record["validation_loss"] = session.validate()
        if record:
            session.reporter.log({"step": step, **record, "seconds": round(session.seconds, 3)})
        if options.sample_every and (step % options.sample_every == 0 or last):
            self._draw()
        ending = self._ending(request)
        if ending or step % options.checkpoint_every == 0:
            session.check()
            session.save()
        return ending

    def _measured(self) -> dict[str, float]:
        """The means since the last log, and the rate."""
        session, (step, at), now = self.session, self._last_log, time.perf_counter()
        session.check()
        means = session.monitor.means()
        session.monitor.restart()
        rate = (session.step - step) / (now - at)
        self._last_log = (session.step, now)
        self._loss = means["loss"]
        session.reporter.show(loss=means["loss"], **{"steps/s": rate})
        lr = self.options.lr * self._factor(session.step - 1)
        return {**means, "lr": lr, "steps_per_second": round(rate, 2)}

    def _draw(self) -> None:
        session, n = self.session, self.options.n_samples
        device = session.fabric.device
        with session.evaluation(), torch.random.fork_rng(rng_devices(device)):
            if session.first:
                seed = derived_seed(self.options.seed, "samples")
                torch.manual_seed(seed)
                rows = torch.arange(n) % len(session.data.x)
                context = None if session.data.context is None else session.data.context[rows].to(device)
                samples = session.model.sample(n, context, generator=torch.Generator().manual_seed(seed))
                session.reporter.picture(samples, session.step, session.data.value_range)

    def _ending(self, request: StopRequest | None) -> str | None:
        session = self.session
        if session.step >= self.options.max_steps:
            return "finished"
        if session.stopping.exhausted:
            return "stopped early"
        return "interrupted" if request is not None and self._asked_to_stop(request) else None

    def _asked_to_stop(self, request: StopRequest) -> bool:
        """Whether any process was; several agree at the steps that log."""
        fabric = self.session.fabric
        if fabric.world_size == 1:
            return request.asked
        if self.session.step % self.options.log_every:
            return False
        asked: Any = fabric.all_reduce(torch.tensor(float(request.asked), device=fabric.device), reduce_op="sum")
        return bool(asked)

    def _factor(self, step: int) -> float:
        options = self.options
        return learning_rate_factor(options.schedule, step, options.max_steps, options.warmup_steps)

    def _give_up(self, bad: NonFinite) -> TrainingResult:
        """Go back to the last good checkpoint, and say what happened."""
        session = self.session
        epoch, batch = session.batches.place(bad.step)
        rows = session.batches.rows(bad.step).tolist()
        where = f"step {bad.step + 1} (batch {batch + 1} of epoch {epoch + 1}, {session.data.described(rows)})"
        checkpoint = session.checkpoints.latest() if session.checkpoints else None
        if checkpoint is not None:
            load_weights(session.model, final_weights(checkpoint, self.options.patience))
            kept = f"the model holds the last good checkpoint, {checkpoint}"
        elif session.reads_every_step or session.skips:
            session.finish()
            kept = f"the model holds the weights of step {session.step}, without this one"
        else:
            kept = "there is no checkpoint to go back to: the model is not usable"
        if session.run is not None and session.first:
            content = {"step": bad.step + 1, "epoch": epoch + 1, "batch": batch + 1, "what": bad.what, "rows": rows}
            session.run.write_json(session.run.nonfinite_path, content)
        message = f"training stopped at {where}: {bad.what}; {kept}"
        return self._result("not finite", "last", message)

    def _result(self, ending: str | None, kept: str, message: str = "") -> TrainingResult:
        session, stopping = self.session, self.session.stopping
        lowest = None if stopping.best_step is None else stopping.best
        return TrainingResult(
            step=session.step,
            max_steps=self.options.max_steps,
            ending=ending or "finished",
            kept=kept,
            seconds=session.seconds,
            loss=self._loss,
            validation_loss=lowest,
            best_step=stopping.best_step,
            message=message,
        )


def _check_scalar(loss: Tensor, model: GenerativeModel) -> None:
    if not isinstance(loss, Tensor) or loss.shape != ():
        got = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"{type(model).__name__}.loss must return a Tensor of shape (): got {got}")
