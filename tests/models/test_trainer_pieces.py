"""The pieces of the trainer against torch's own and closed forms."""

import math

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, OneCycleLR

from cgm_models.training import Trainer
from cgm_models.training.batches import Batches, TrainingData
from cgm_models.training.devices import make_fabric
from cgm_models.training.ema import WeightAverage
from cgm_models.training.monitor import DeferredMonitor, ImmediateMonitor, NonFinite
from cgm_models.training.schedule import learning_rate_factor
from cgm_models.training.validation import EarlyStopping

CPU = torch.device("cpu")


def _rates(scheduler_of, n, lr=1.0):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler, rates = scheduler_of(optimizer), []
    for _ in range(n):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("n", [10, 100, 1237])
def test_schedules_are_those_of_torch(n):
    ours = {name: [learning_rate_factor(name, k, n) for k in range(n)] for name in ("constant", "cosine", "one-cycle")}
    assert ours["constant"] == [1.0] * n
    assert ours["cosine"] == pytest.approx(_rates(lambda o: CosineAnnealingLR(o, n), n), abs=1e-12)
    one_cycle = _rates(lambda o: OneCycleLR(o, 1.0, total_steps=n, cycle_momentum=False), n)
    assert ours["one-cycle"] == pytest.approx(one_cycle, abs=1e-12)


def test_warm_up_is_that_of_torch():
    ours = [learning_rate_factor("constant", k, 50, 8) for k in range(50)]
    theirs = _rates(lambda o: LinearLR(o, start_factor=1 / 8, total_iters=7), 50)
    assert ours == pytest.approx(theirs, abs=1e-12)
    cosine = [learning_rate_factor("cosine", k, 50, 8) for k in range(50)]
    assert cosine[:8] == ours[:8]
    assert cosine[8:] == pytest.approx([learning_rate_factor("cosine", k, 42) for k in range(42)])
    cycle = [learning_rate_factor("one-cycle", k, 50, 8) for k in range(50)]
    theirs = _rates(lambda o: OneCycleLR(o, 1.0, total_steps=50, pct_start=8 / 50, cycle_momentum=False), 50)
    assert cycle == pytest.approx(theirs, abs=1e-12)


def test_the_shortest_schedules_are_finite():
    for name in ("constant", "cosine", "one-cycle"):
        for n, warmup in ((1, 0), (1, 1), (2, 0), (2, 2), (3, 1)):
            factors = [learning_rate_factor(name, k, n, warmup) for k in range(n)]
            assert all(0.0 <= factor <= 1.0 for factor in factors), (name, n, warmup)


@pytest.mark.parametrize(("n", "batch_size"), [(10, 3), (10, 10), (10, 50), (97, 32)])
def test_every_epoch_visits_every_row_once(n, batch_size):
    data = TrainingData(torch.arange(n, dtype=torch.float32)[:, None])
    batches = Batches(data, batch_size, 5, CPU)
    size = min(n, batch_size)
    steps = n * 3 // math.gcd(n, size)
    drawn = torch.cat([batches.rows(k) for k in range(steps)])
    assert all(len(batches.rows(k)) == size for k in range(steps))
    epochs = drawn[: len(drawn) // n * n].reshape(-1, n)
    assert torch.equal(epochs.sort(1).values, torch.arange(n).expand(len(epochs), n))
    assert not torch.equal(epochs[0], epochs[1])
    # A batch is a function of seed and step alone, whatever was drawn before it.
    assert torch.equal(Batches(data, batch_size, 5, CPU).rows(steps // 2), batches.rows(steps // 2))
    assert not torch.equal(Batches(data, batch_size, 6, CPU).rows(0), batches.rows(0))


def test_the_parts_of_the_processes_make_up_the_batch():
    data = TrainingData(torch.arange(40.0)[:, None], torch.arange(40))
    whole = Batches(data, 17, 0, CPU)
    parts = [Batches(data, 17, 0, CPU, rank, 3) for rank in range(3)]
    for step in range(6):
        together = [part.batch(step) for part in parts]
        assert torch.equal(torch.cat([b.x for b in together]), whole.batch(step).x)
        assert torch.equal(torch.cat([b.context for b in together]), whole.whole_batch(step).context)
        means = torch.stack([b.x.mean() * part.weight for b, part in zip(together, parts, strict=True)])
        torch.testing.assert_close(means.mean(), whole.batch(step).x.mean())
    with pytest.raises(ValueError, match="at least the number of processes, 3: got 2"):
        Batches(data, 2, 0, CPU, 0, 3)


def test_ema_is_the_recursion():
    parameters = [torch.zeros(3, dtype=torch.float64, requires_grad=True), torch.ones(2, 2, dtype=torch.float64)]
    average, expected = WeightAverage(parameters, 0.9), [0.0, 1.0]
    for k in range(60):
        with torch.no_grad():
            for parameter in parameters:
                parameter += k % 7 - 2.5
        average.update(k)
        beta = min(0.9, k / (9 + k))
        expected = [
            beta * e + (1 - beta) * float(p.detach().flatten()[0]) for e, p in zip(expected, parameters, strict=True)
        ]
    last = [p.detach().clone() for p in parameters]
    with average.in_place():
        assert [float(p.detach().flatten()[0]) for p in parameters] == pytest.approx(expected, rel=1e-12)
    assert all(torch.equal(a, b) for a, b in zip(parameters, last, strict=True))


@pytest.mark.parametrize("monitor_of", [ImmediateMonitor, lambda overflow: DeferredMonitor(CPU, overflow)])
def test_monitors_find_the_first_step_that_is_not_finite(monitor_of):
    def run(losses, norms, overflow=False):
        monitor = monitor_of(overflow)
        for k, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
            monitor.observe(k, torch.tensor(loss), torch.tensor(norm))
        monitor.check()
        return monitor

    monitor = run([1.0, 2.0, 6.0], [1.0, 1.0, 4.0])
    assert monitor.means() == {"loss": 3.0, "grad_norm": 2.0}
    other = monitor_of(False)
    other.restart(monitor.sums())
    assert other.means() == monitor.means()
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(NonFinite, match="the loss is") as caught:
            run([1.0, bad, bad], [1.0, bad, 1.0])
        assert caught.value.step == 1
        with pytest.raises(NonFinite, match="norm of the gradient is") as caught:
            run([1.0, 1.0, 1.0], [1.0, 1.0, bad])
        assert caught.value.step == 2
        assert run([1.0], [bad], overflow=True).means()["loss"] == 1.0


def test_early_stopping_counts_looks_without_progress():
    stopping = EarlyStopping(2, min_delta=0.1)
    assert stopping.observe(1, 1.0) and stopping.observe(2, 0.95) and not stopping.exhausted
    other = EarlyStopping(2, min_delta=0.1)
    other.load(stopping.state())
    for each in (stopping, other):
        assert not each.observe(3, math.nan) and each.exhausted
        assert (each.best, each.best_step) == (0.95, 2)
    assert not EarlyStopping(None).exhausted
    fresh = EarlyStopping(2)
    fresh.load(EarlyStopping(2).state())
    assert fresh.observe(1, 5.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "lion"}, "optimizer must be one of adam, adamw, sgd: got 'lion'"),
        ({"schedule": "step"}, "schedule must be one of constant, cosine, one-cycle: got 'step'"),
        ({"precision": "8"}, "precision must be one of 32, 16-mixed, bf16-mixed: got '8'"),
        ({"max_steps": 0}, "max_steps must be a whole number, at least 1: got 0"),
        ({"batch_size": 1.5}, "batch_size must be a whole number, at least 1: got 1.5"),
        ({"lr": 0.0}, "lr must be a number above 0: got 0.0"),
        ({"lr": math.nan}, "lr must be a number above 0: got nan"),
        ({"weight_decay": -1}, "weight_decay must be a number at least 0: got -1"),
        ({"ema_decay": 1.0}, "ema_decay must be a number above 0 and below 1: got 1.0"),
        ({"clip_norm": 0}, "clip_norm must be a number above 0: got 0"),
        ({"betas": (0.9, 1.0)}, "betas must be two numbers from 0 to 1"),
        ({"warmup_steps": 10, "max_steps": 5}, "warmup_steps must be at most max_steps, 5: got 10"),
        ({"patience": 0}, "patience must be a whole number, at least 1: got 0"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        Trainer(**options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cpu", 1, "auto", "16-mixed"), "needs a CUDA device"),
        (("cpu", 2, "single", "32"), "strategy 'single' runs on one device: got 2"),
        (("cpu", 2, "fsdp", "32"), "torchrun --nproc-per-node=2"),
        (("cpu", 1, "fsdp", "16-mixed"), "needs a CUDA device"),
    ],
)
def test_choices_that_exclude_each_other(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_fabric(*arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_gpu_is_named():
    with pytest.raises(ValueError, match="CUDA devices there are, 0: got 1"):
        make_fabric("cuda", 1, "auto", "32")
