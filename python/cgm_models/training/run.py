"""The run directory: all that one training leaves behind.

::

    runs/swf/
      config.yaml           what was asked for: `cgm fit --config config.yaml --out elsewhere` repeats it
      model/config.json     the model's class and constructor arguments, for people
      model/weights.safetensors   its tensors, and the same description
      log.jsonl             one JSON object a line: what was measured while fitting, appended as it happens
      run.json              when, how long, versions, data, whether the fit was interrupted
      metrics.json          what `cgm evaluate` measured
      checkpoints/          where `cgm fit --resume` goes on, for models trained by gradient steps
      nonfinite.json        which step and rows gave a loss or gradient that was not finite, if one did
      tensorboard/          the numbers of the log as curves, and the pictures
      samples/              pictures and arrays written for this run

Every file but the log is written whole or not at all. A directory that holds anything is never written to unless told.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from .files import sweep, write_atomic

_OWN = (
    *("config.yaml", "model", "log.jsonl", "run.json", "metrics.json", "samples"),
    *("checkpoints", "tensorboard", "nonfinite.json"),
)


class RunDirectory:
    """The paths in a run directory, and the way to start, write and read one."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._replaces: Path | None = None

    @classmethod
    def create(cls, path: str | os.PathLike[str], *, overwrite: bool = False) -> RunDirectory:
        """A fresh run directory; one that holds something is refused.

        With ``overwrite`` the new run is written into a directory beside the old one, which stays as it is until
        ``commit`` puts the new one in its place; ``discard`` gives the new one up.
        """
        run = cls(path)
        if run.path.exists() and not run.path.is_dir():
            raise FileExistsError(f"{run.path} is a file, not a directory")
        if run.path.is_dir() and any(run.path.iterdir()):
            foreign = sorted(p.name for p in run.path.iterdir() if p.name not in _OWN and not p.name.startswith("."))
            if not overwrite:
                raise FileExistsError(f"{run.path} is not empty: choose another directory, or pass --overwrite")
            if foreign:
                raise FileExistsError(f"{run.path} holds more than a run ({', '.join(foreign[:5])}): not overwritten")
            run._replaces = run.path
            run.path = _beside(run.path, "new")
        run.path.mkdir(parents=True, exist_ok=True)
        return run

    @classmethod
    def continued(cls, path: str | os.PathLike[str]) -> RunDirectory:
        """The run directory of an interrupted training, or a fresh one if nothing is there yet.

        What interrupted writes left in it, and in its ``model/``, is deleted.
        """
        run = cls(path)
        held = run.path.iterdir() if run.path.is_dir() else ()
        if not run.config_path.is_file() and not all(p.match(".config.yaml.????????.partial") for p in held):
            raise FileExistsError(f"{run.path} holds something, and no run: it has no config.yaml")
        run.path.mkdir(parents=True, exist_ok=True)
        for folder in (run.path, run.model_path):
            sweep(folder)
        return run

    @property
    def replaces_another(self) -> bool:
        """Whether this is a new run that has yet to take the place of an old one."""
        return self._replaces is not None

    def commit(self) -> None:
        """Put a run that overwrites into its place: the old one is moved away, and deleted last of all."""
        if self._replaces is None:
            return
        shown, new = self._replaces, self.path
        self._replaces = None  # from here on nothing may delete the new run
        place = shown.resolve()
        old = _beside(shown, "old")
        try:
            os.replace(place, old)
        except OSError as error:
            old.rmdir()
            raise OSError(f"{shown} could not be moved ({error}): the new run is in {new}") from error
        try:
            os.replace(new, place)
        except OSError as error:
            os.replace(old, place)
            raise OSError(f"{shown} could not be replaced ({error}): the new run is in {new}") from error
        self.path = shown
        for entry in old.iterdir():
            if entry.name not in _OWN:  # hidden files, or what came while the new run was written
                os.replace(entry, place / entry.name)
        shutil.rmtree(old)

    def leave(self) -> None:
        """Let a new run that was to overwrite another one stay where it was written, beside it."""
        self._replaces = None

    def discard(self) -> None:
        """Delete a new run that was to overwrite another one, which stays."""
        if self._replaces is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            self.path, self._replaces = self._replaces, None

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunDirectory:
        """An existing run directory."""
        run = cls(path)
        if not run.path.is_dir():
            raise FileNotFoundError(f"there is no run directory {run.path}")
        if not run.model_path.is_dir():
            raise FileNotFoundError(f"{run.path} is not a run directory: it has no model/ in it")
        return run

    @property
    def config_path(self) -> Path:
        return self.path / "config.yaml"

    @property
    def model_path(self) -> Path:
        return self.path / "model"

    @property
    def log_path(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def info_path(self) -> Path:
        return self.path / "run.json"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.json"

    @property
    def samples_path(self) -> Path:
        return self.path / "samples"

    @property
    def checkpoints_path(self) -> Path:
        return self.path / "checkpoints"

    @property
    def nonfinite_path(self) -> Path:
        return self.path / "nonfinite.json"

    @property
    def tensorboard_path(self) -> Path:
        return self.path / "tensorboard"

    def log(self, record: dict[str, Any]) -> None:
        """Append one line to the log."""
        with self.log_path.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def read_log(self) -> list[dict[str, Any]]:
        """The lines of the log; a last line cut short by a crash is left out."""
        text = self.log_path.read_text() if self.log_path.is_file() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def write_json(self, path: Path, content: dict[str, Any]) -> None:
        write_atomic(path, json.dumps(content, indent=2) + "\n")

    def read_json(self, path: Path) -> dict[str, Any]:
        """The JSON object in ``path``, empty if there is no such file."""
        if not path.is_file():
            return {}
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:  # of the decoding as of the JSON
            raise ValueError(f"{path} does not hold valid JSON: {error}") from error
        if not isinstance(content, dict):
            raise ValueError(f"{path} must hold a JSON object: got {json.dumps(content)[:40]}")
        return content


def _beside(path: Path, kind: str) -> Path:
    """A new empty directory next to ``path``, with its permissions."""
    place = path.resolve()
    made = Path(tempfile.mkdtemp(prefix=f".{place.name}.{kind}.", dir=place.parent))
    shutil.copymode(place, made)
    return made
