"""The state of a training as tensors and JSON, and back."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .checkpoint import read_state, read_tensors
from .seeds import derived_seed
from .sharding import spread_as, whole

if TYPE_CHECKING:
    from .session import Session

WEIGHTS, AVERAGE, BEST, REST = (f"{name}.safetensors" for name in ("weights", "ema", "best", "training"))
_OPTIMIZER = ("optimizer", "weight_decay", "betas", "momentum")
_MUST_AGREE = ("seed", "batch_size", *_OPTIMIZER, "ema_decay", "precision")


def collect(session: Session, log_bytes: int) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The tensors, by file, and the JSON part. All processes take part, each gets the whole."""
    files = {WEIGHTS: whole_weights(session.model)}
    if session.average is not None:
        with session.average.in_place():
            files[AVERAGE] = whole_weights(session.model)
    if session.best is not None:
        files[BEST] = session.best
    tensors: dict[str, Tensor] = {}
    optimizer = _without_tensors(session.optimizer.optimizer.state_dict(), "optimizer", tensors)
    files[REST] = {**tensors, **_random_states(session)}
    state = {
        "step": session.step,
        "seconds": round(session.seconds, 3),
        "sums": session.monitor.sums(),
        "stopping": session.stopping.state(),
        "log_bytes": log_bytes,
        "optimizer": optimizer,
        "loss_scale": session.fabric.strategy.precision.state_dict(),
        "processes": session.fabric.world_size,
        "options": asdict(session.options),
        "data": session.fingerprint,
        "torch": torch.__version__,
    }
    return files, state


def restore(session: Session, checkpoint: Path) -> int:
    """Put the training where ``checkpoint`` was written; how many bytes the log had there.

    Raises:
        ValueError: if it belongs to another training, or is damaged.
    """
    state = read_state(checkpoint)
    _check_same(session, state, checkpoint)
    if session.average is not None:
        load_weights(session.model, read_tensors(checkpoint, AVERAGE))
        session.average.copy_from_parameters()
    load_weights(session.model, read_tensors(checkpoint, WEIGHTS))
    if session.options.patience is not None and (checkpoint / BEST).is_file():
        session.best = read_tensors(checkpoint, BEST)
    tensors = read_tensors(checkpoint, REST)
    _restore_optimizer(session, _with_tensors(state["optimizer"], tensors))
    session.fabric.strategy.precision.load_state_dict(state["loss_scale"])
    session.step, session.seconds = state["step"], state["seconds"]
    session.monitor.restart(state["sums"])
    session.stopping.load(state["stopping"])
    _restore_random_states(session, tensors, state["processes"])
    return state["log_bytes"]


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """The state dictionary, gathered from all processes and copied to the CPU."""
    state = model.state_dict()
    return {name: whole(t.detach()).to("cpu", copy=True).contiguous() for name, t in state.items()}


def load_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Undo ``whole_weights``."""
    own = model.state_dict()
    try:
        model.load_state_dict({name: spread_as(t, own.get(name, t)) for name, t in weights.items()})
    except RuntimeError as error:
        raise ValueError(f"the checkpoint does not fit the model: {error}") from error


def _restore_optimizer(session: Session, saved: dict[str, Any]) -> None:
    state = {
        int(index): {name: spread_as(t, session.parameters[int(index)]) for name, t in entry.items()}
        for index, entry in saved["state"].items()
    }
    session.optimizer.optimizer.load_state_dict({**saved, "state": state})


def final_weights(checkpoint: Path, patience: int | None) -> dict[str, Tensor]:
    """The weights that a training ending at ``checkpoint`` leaves: the best, else the averaged, else the last ones."""
    names = ([BEST] if patience is not None else []) + [AVERAGE, WEIGHTS]
    return read_tensors(checkpoint, next(name for name in names if (checkpoint / name).is_file()))


def _check_same(session: Session, state: dict[str, Any], checkpoint: Path) -> None:
    now, then = json.loads(json.dumps(asdict(session.options))), state["options"]
    for name in _MUST_AGREE:
        if now[name] != then[name]:
            raise ValueError(f"{checkpoint} was written with {name}={then[name]!r}: it cannot go on with {now[name]!r}")
    if state["data"] != session.fingerprint:
        raise ValueError(f"{checkpoint} was trained on other data: {state['data']}, now {session.fingerprint}")


def _without_tensors(value: Any, key: str, tensors: dict[str, Tensor]) -> Any:
    """``value`` with its tensors moved to ``tensors`` and named in their place."""
    if isinstance(value, Tensor):
        tensors[key] = whole(value.detach()).to("cpu", copy=True).contiguous()
        return {"tensor": key}
    if isinstance(value, dict):
        return {str(name): _without_tensors(item, f"{key}/{name}", tensors) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_tensors(item, f"{key}/{i}", tensors) for i, item in enumerate(value)]
    return value


def _with_tensors(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if set(value) == {"tensor"}:
            return tensors[value["tensor"]]
        return {name: _with_tensors(item, tensors) for name, item in value.items()}
    return [_with_tensors(item, tensors) for item in value] if isinstance(value, list) else value


def _random_states(session: Session) -> dict[str, Tensor]:
    """The states of torch's generators, one row a process."""
    device = session.fabric.device
    states = {"random/cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["random/cuda"] = torch.cuda.get_rng_state(device)
    return {name: _rows_of_all(state.to(device), session.fabric.world_size) for name, state in states.items()}


def _rows_of_all(row: Tensor, processes: int) -> Tensor:
    rows = [torch.empty_like(row) for _ in range(processes)]
    if processes > 1:
        torch.distributed.all_gather(rows, row)
    else:
        rows = [row]
    return torch.stack(rows).cpu()


def _restore_random_states(session: Session, tensors: dict[str, Tensor], processes: int) -> None:
    rank, device = session.fabric.global_rank, session.fabric.device
    same = processes == session.fabric.world_size and ("random/cuda" in tensors) == (device.type == "cuda")
    if not same:
        warnings.warn("resumed on other devices: the noise of the training continues differently", stacklevel=2)
        torch.manual_seed(derived_seed(session.options.seed, "noise", rank, session.step))
        return
    torch.set_rng_state(tensors["random/cpu"][rank].clone())  # it reads a row of a matrix from the first row on
    if device.type == "cuda":
        torch.cuda.set_rng_state(tensors["random/cuda"][rank].clone(), device)
