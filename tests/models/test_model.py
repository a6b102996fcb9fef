"""What every model promises: its configuration, its form on disk, its errors."""

import contextlib
import json
import os
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import cgm_models
from cgm_models import registry
from cgm_models.inputs import class_labels, sample_size
from cgm_models.model import CONFIG, WEIGHTS, GenerativeModel
from cgm_models.training import write_atomic


class Shift(GenerativeModel):
    """A Gaussian with a learned mean."""

    def __init__(self, dim: int, scale: float = 1.0, names: tuple[str, ...] = ("a",)):
        super().__init__((dim,))
        self.scale = scale
        self.mean = nn.Parameter(torch.arange(dim).float())

    def sample(self, n, context=None, generator=None):
        return self.mean + self.scale * torch.randn(n, *self.event_shape, generator=generator)


class Narrow(Shift):
    """A subclass with a constructor of its own."""

    def __init__(self, dim: int):
        super().__init__(dim, scale=0.1)


def test_config_holds_every_argument_of_the_outermost_constructor():
    assert Shift(3, names=("x", "y")).config == {"dim": 3, "scale": 1.0, "names": ["x", "y"]}
    assert Narrow(2).config == {"dim": 2}


def test_config_refuses_what_json_cannot_hold():
    with pytest.raises(TypeError, match="Shift: argument scale must be what JSON can hold"):
        Shift(2, scale=torch.ones(2))
    with pytest.raises(TypeError, match="argument scale"):
        Shift(2, scale=float("nan"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_save_and_load_keep_every_bit(tmp_path, dtype):
    model = Shift(3, scale=0.5).to(dtype)
    model.mean.data.normal_()
    model.save(tmp_path / "m")
    again = cgm_models.load(tmp_path / "m")
    assert type(again) is Shift and again.config == model.config
    assert not again.training
    assert again.mean.dtype is dtype and torch.equal(again.mean, model.mean)
    draws = [m.sample(5, generator=torch.Generator().manual_seed(1)) for m in (model, again)]
    assert torch.equal(*draws)
    assert json.loads((tmp_path / "m" / CONFIG).read_text())["model"] == "Shift"


def test_abstract_parts_say_what_to_use_instead():
    model = Shift(2)
    with pytest.raises(NotImplementedError, match=r"no tractable log_prob.*cgm_models\.metrics"):
        model.log_prob(torch.zeros(1, 2))
    with pytest.raises(NotImplementedError, match="use fit"):
        model.loss(torch.zeros(1, 2))
    with pytest.raises(NotImplementedError, match="trained by gradient steps"):
        model.fit(torch.zeros(1, 2))


@pytest.mark.parametrize(("moment", "call"), [("fsync", 1), ("fsync", 2), ("fsync", 3), ("replace", 1), ("replace", 2)])
def test_interrupted_save_leaves_a_whole_model(tmp_path, monkeypatch, moment, call):
    old, new = Shift(2), Shift(2, scale=2.0)
    new.mean.data.fill_(9.0)
    old.save(tmp_path)
    real, calls = getattr(os, moment), []

    def dying(*args):
        calls.append(args)
        if len(calls) == call:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(os, moment, dying)
    with pytest.raises(KeyboardInterrupt):
        new.save(tmp_path)
    monkeypatch.undo()
    with pytest.warns(UserWarning, match="differs") if call > 1 else contextlib.nullcontext():
        found = cgm_models.load(tmp_path)
    wanted = new if call > 1 else old
    assert found.config == wanted.config and torch.equal(found.mean, wanted.mean)
    assert not [p for p in os.listdir(tmp_path) if p.endswith(".partial")]


def test_killed_save_leaves_the_old_model(tmp_path):
    """A process that dies without any clean-up, in the middle of writing."""
    import subprocess
    import sys

    old = Shift(2)
    old.save(tmp_path)
    before = (tmp_path / WEIGHTS).read_bytes()
    program = (
        "import os, sys; from cgm_models.training.files import write_atomic\n"
        "os.fsync = lambda handle: os._exit(9)\n"
        "write_atomic(sys.argv[1], b'half')\n"
    )
    paths = os.pathsep.join(p for p in sys.path if p)
    command = [sys.executable, "-c", program, str(tmp_path / WEIGHTS)]
    assert subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}).returncode == 9
    assert (tmp_path / WEIGHTS).read_bytes() == before
    assert torch.equal(cgm_models.load(tmp_path).mean, old.mean)


def test_write_atomic_obeys_the_umask(tmp_path):
    mask = os.umask(0o027)
    try:
        write_atomic(tmp_path / "a", "x")
    finally:
        os.umask(mask)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


class _Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_load_never_runs_a_pickle(tmp_path):
    Shift(2).save(tmp_path)
    fired = tmp_path / "fired"
    bomb = pickle.dumps(_Bomb(str(fired)))
    (tmp_path / WEIGHTS).write_bytes(bomb)
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        cgm_models.load(tmp_path)
    torch.save({"bomb": _Bomb(str(fired))}, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        cgm_models.load(tmp_path)
    assert not fired.exists()


def test_load_names_what_is_damaged(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no saved model"):
        cgm_models.load(tmp_path)
    Shift(2).save(tmp_path)
    whole = (tmp_path / WEIGHTS).read_bytes()
    for part in (b"", whole[:7], whole[: len(whole) // 2], whole[:-1]):
        (tmp_path / WEIGHTS).write_bytes(part)
        with pytest.raises(ValueError, match="not a whole safetensors file"):
            cgm_models.load(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(whole)
    (tmp_path / CONFIG).write_text("{")
    with pytest.raises(ValueError, match=r"config.json does not hold valid JSON.*delete it"):
        cgm_models.load(tmp_path)
    (tmp_path / CONFIG).unlink()
    assert isinstance(cgm_models.load(tmp_path), Shift)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "Shfit"}, r"unknown model 'Shfit'.*Did you mean 'Shift'.*Known: .*SlicedWassersteinFlow"),
        ({"format_version": 2}, "has format version 2; this cgm_models reads version 1"),
        ({"config": {"dim": 3}}, "(?s)does not fit the model Shift: .*size mismatch"),
        ({"config": {"dim": 2, "width": 1}}, "does not fit the model Shift: .*width"),
        ({"config": None}, "does not name its model and configuration"),
    ],
)
def test_load_refuses_what_does_not_fit(tmp_path, change, message):
    from safetensors.torch import save_file

    description = {"format_version": 1, "model": "Shift", "config": {"dim": 2}, **change}
    save_file({"mean": torch.zeros(2)}, tmp_path / WEIGHTS, metadata={"cgm_model": json.dumps(description)})
    with pytest.raises(ValueError, match=message):
        cgm_models.load(tmp_path)


def test_load_refuses_foreign_safetensors(tmp_path):
    from safetensors.torch import save_file

    save_file({"mean": torch.zeros(2)}, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match=r"not written by GenerativeModel\.save"):
        cgm_models.load(tmp_path)


def test_registry_knows_shipped_and_own_models():
    assert {"SlicedWassersteinFlow", "Shift"} <= set(registry.names())
    assert registry.find("Shift") is Shift
    assert registry.summaries()["Shift"] == "A Gaussian with a learned mean."


def test_class_labels_takes_integers_and_one_hot_rows():
    eye = torch.eye(4)
    labels = torch.tensor([2, 0, 3])
    assert class_labels(labels, 3, 4).tolist() == [2, 0, 3]
    assert class_labels(torch.tensor(1), 3, 4).tolist() == [1, 1, 1]
    assert class_labels(eye[labels], 3, 4).tolist() == [2, 0, 3]
    assert class_labels(eye[2], 3, 4).tolist() == [2, 2, 2]
    assert class_labels(eye[labels].long(), 3, 4).tolist() == [2, 0, 3]


@pytest.mark.parametrize(
    "bad", [torch.tensor([0, 4, 1]), torch.tensor([-1, 0, 0]), torch.zeros(3, 4), torch.zeros(2).long(), torch.ones(3),
     torch.eye(4)[:3].bool(), torch.eye(4)[:3].cfloat()]
)  # fmt: skip
def test_class_labels_refuses_the_rest(bad):
    with pytest.raises(ValueError, match="context"):
        class_labels(bad, 3, 4)


def test_sample_size_takes_whole_numbers_of_any_type():
    assert [sample_size(n) for n in (0, 3, np.int64(3), torch.tensor(3))] == [0, 3, 3, 3]
    for bad in (-1, 1.0, True, np.True_, "3", None, torch.tensor(True), torch.tensor([3]), torch.tensor(3.0)):
        with pytest.raises(ValueError, match="n must be a whole number, at least 0"):
            sample_size(bad)
