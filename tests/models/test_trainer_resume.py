"""A training killed at any moment goes on as if nothing had happened."""

import json
import os
import random
import shutil
import signal
import time

import pytest
import torch
from safetensors.torch import load_file

from cgm_models.training import RunDirectory, Trainer
from cgm_models.training.checkpoint import CheckpointFolder
from tests.support.training import KILLED, ToyGaussian, forkserver, train_toy

STEPS = sorted({*range(5, 121, 5), *range(10, 121, 10), 120})


@pytest.fixture(scope="module")
def forks():
    return forkserver()


def _run(forks, folder, *, kill_after=None, kill_at_event=0, resume=True):
    """The exit status of a training that goes on in ``folder``."""
    process = forks.Process(target=train_toy, args=(str(folder), resume, kill_at_event))
    process.start()
    if kill_after is not None:
        time.sleep(kill_after)
        process.kill()
    process.join()
    return process.exitcode


@pytest.fixture(scope="module")
def undisturbed(forks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert _run(forks, folder, resume=False) == 0
    return folder


def _state(folder):
    """Everything a training leaves that must not depend on interruptions."""
    log = RunDirectory(folder).read_log()
    timings = ("seconds", "steps_per_second")
    log = [{k: v for k, v in record.items() if k not in timings} for record in log]
    (checkpoint,) = sorted((folder / "checkpoints").glob("step-*"))
    tensors = {path.name: load_file(path) for path in [*checkpoint.glob("*.safetensors")]}
    tensors["model"] = load_file(folder / "model/weights.safetensors")
    state = json.loads((checkpoint / "state.json").read_text())
    return log, tensors, {k: v for k, v in state.items() if k not in ("seconds", "log_bytes")}


def _assert_same(folder, other):
    (log, tensors, state), (log_2, tensors_2, state_2) = _state(folder), _state(other)
    assert log == log_2 and state == state_2 and tensors.keys() == tensors_2.keys()
    for name, content in tensors.items():
        assert content.keys() == tensors_2[name].keys()
        assert all(torch.equal(content[key], tensors_2[name][key]) for key in content), name


def test_the_log_has_every_step_once(undisturbed):
    assert [record["step"] for record in RunDirectory(undisturbed).read_log()] == STEPS


def test_killed_at_random_moments(forks, undisturbed, tmp_path):
    began = time.perf_counter()
    assert _run(forks, tmp_path / "timed", resume=False) == 0
    whole, folder, moments = time.perf_counter() - began, tmp_path / "run", random.Random(0)
    killed = 0
    for _ in range(60):
        status = _run(forks, folder, kill_after=moments.uniform(0.0, 0.5) * whole)
        assert status in (0, -signal.SIGKILL)
        killed += 1
        if status == 0:  # faster than the one that was timed: again, and sooner
            killed, whole = 0, 0.7 * whole
            shutil.rmtree(folder)
        if killed == 4:
            break
    assert killed == 4
    assert _run(forks, folder) == 0
    _assert_same(folder, undisturbed)


def test_killed_between_any_two_operations_on_files(forks, undisturbed, tmp_path):
    folder, events = tmp_path / "run", random.Random(1)
    # One checkpoint and the saving of the model make about 30 events.
    statuses = [_run(forks, folder, kill_at_event=k) for k in [1, 2, 3, *(events.randint(4, 60) for _ in range(16))]]
    assert set(statuses) <= {0, -signal.SIGKILL} and statuses.count(-signal.SIGKILL) > 10
    assert _run(forks, folder) == 0
    _assert_same(folder, undisturbed)


def test_a_finished_training_is_not_repeated(undisturbed, tmp_path):
    before = _state(undisturbed)
    train_toy(str(undisturbed), True)
    log, tensors, state = _state(undisturbed)
    assert log == before[0] and state == before[2] and tensors.keys() == before[1].keys()


def _options(**more):
    return {**KILLED, "max_steps": 20, **more}


def _fit(folder, resume, model=None, x=None, **options):
    x = torch.linspace(-1, 1, 200).reshape(100, 2) if x is None else x
    torch.manual_seed(0)
    model = ToyGaussian((2,)) if model is None else model
    return model, Trainer(**_options(patience=None, **options)).fit(model, x, run=folder, resume=resume)


def test_more_steps_may_be_asked_for_later(tmp_path):
    whole, _ = _fit(tmp_path / "whole", False, max_steps=40, schedule="constant")
    _fit(tmp_path / "parts", False, max_steps=17, schedule="constant")
    parts, result = _fit(tmp_path / "parts", True, max_steps=40, schedule="constant")
    assert result.step == 40
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, parts.state_dict()[name]), name


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    _fit(tmp_path / "run", False)
    for options in ({"seed": 1}, {"batch_size": 8}, {"optimizer": "sgd"}, {"ema_decay": None}):
        (name,) = options
        with pytest.raises(ValueError, match=rf"was written with {name}="):
            _fit(tmp_path / "run", True, **options)
    with pytest.raises(ValueError, match="was trained on other data"):
        _fit(tmp_path / "run", True, x=torch.ones(100, 2))
    with pytest.raises(ValueError, match="the checkpoint does not fit the model"):
        _fit(tmp_path / "run", True, model=ToyGaussian((2,), hidden=3))
    with pytest.raises(FileExistsError, match="holds the checkpoints of another training"):
        _fit(RunDirectory(tmp_path / "run"), False)


def test_a_damaged_checkpoint_is_named(tmp_path):
    _fit(tmp_path / "run", False)
    checkpoint = CheckpointFolder(tmp_path / "run/checkpoints").latest()
    for name in ("training.safetensors", "weights.safetensors", "ema.safetensors", "state.json"):
        content = (checkpoint / name).read_bytes()
        (checkpoint / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match=name):
            _fit(tmp_path / "run", True)
        (checkpoint / name).write_bytes(content)
    assert _fit(tmp_path / "run", True)[1].step == 20


def test_leftovers_of_interrupted_writes_are_swept(tmp_path):
    folder = CheckpointFolder(tmp_path)
    (tmp_path / ".step-00000001.abc.partial").mkdir()
    (tmp_path / ".step-00000001.old").mkdir()
    assert folder.latest() is None
    for step in (1, 2):
        folder.write(step, {"a.safetensors": {"x": torch.ones(step)}}, {"step": step}, "{}")
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000002"]
    mask = os.umask(0)
    os.umask(mask)
    assert folder.latest().stat().st_mode & 0o777 == 0o777 & ~mask
