"""Checkpoints: directories that appear whole, in one rename.

::

    checkpoints/step-00000500/
      weights.safetensors    the weights that the optimiser moves, with the model's configuration
      ema.safetensors        their moving average, if there is one
      best.safetensors       the weights of the lowest held-out loss, if there are
      training.safetensors   the optimiser's tensors and the states of the random generators
      state.json             step, optimiser settings, counters, the options and the data of the training

The newest is the one with the highest step; older ones are deleted once it is in its place. Nothing in it is a pickle.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from .files import sweep, sync_folder, umask

STATE = "state.json"
_NAME = re.compile(r"step-(\d{8,})")


class CheckpointFolder:
    """The checkpoints of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def latest(self) -> Path | None:
        """The newest whole checkpoint."""
        found = self._all()
        return found[-1] if found else None

    def write(self, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any], model: str) -> Path:
        """Write ``tensors`` (file name → tensors) and ``state``, then switch to them.

        Killed at any moment, the folder holds the old checkpoint or the new one, whole. ``model`` describes the model
        in the metadata, as in the file of ``GenerativeModel.save``.
        """
        final = self.path / f"step-{step:08d}"
        if final.exists():
            return final  # of the same training: another one is never written here
        self.path.mkdir(parents=True, exist_ok=True)
        sweep(self.path, ".step-*")
        partial = Path(tempfile.mkdtemp(prefix=f".{final.name}.", suffix=".partial", dir=self.path))
        try:
            os.chmod(partial, 0o777 & ~umask())  # mkdtemp makes private folders
            for name, content in tensors.items():
                _write(partial / name, save(content, metadata={"cgm_model": model}))
            _write(partial / STATE, (json.dumps(state, indent=1) + "\n").encode())
            sync_folder(partial)
            os.rename(partial, final)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        sync_folder(self.path)
        for old in self._all():
            if old != final:
                _remove(old)
        return final

    def _all(self) -> list[Path]:
        if not self.path.is_dir():
            return []
        found = [p for p in self.path.iterdir() if _NAME.fullmatch(p.name) and p.is_dir()]
        return sorted(found, key=lambda p: int(p.name.removeprefix("step-")))


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The JSON part of a checkpoint."""
    path = checkpoint / STATE
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a whole checkpoint: {error}") from error
    if not isinstance(state, dict) or not isinstance(state.get("step"), int):
        raise ValueError(f"{path} does not hold the state of a training")
    return state


def read_tensors(checkpoint: Path, name: str) -> dict[str, Tensor]:
    """The tensors of one file of a checkpoint, on the CPU."""
    path = checkpoint / name
    try:
        return load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _remove(checkpoint: Path) -> None:
    """Hide it by one rename, then delete it: half a checkpoint is never seen under its name."""
    hidden = checkpoint.with_name(f".{checkpoint.name}.old")
    shutil.rmtree(hidden, ignore_errors=True)
    os.rename(checkpoint, hidden)
    shutil.rmtree(hidden, ignore_errors=True)
