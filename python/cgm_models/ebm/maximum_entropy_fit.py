"""Fitting a maximum-entropy model: chains, multipliers, interruption and resumption."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor

from cgm_kernels import langevin_step
from cgm_kernels.langevin import noise_state

from ..inputs import class_data
from ..options import check_flag, check_not_negative, check_positive, check_share, check_whole
from ..training.interrupts import stop_on_signal
from ..training.monitor import NonFiniteError
from ..training.progress import progress_bar

if TYPE_CHECKING:
    from .maximum_entropy import MaximumEntropyModel

_LOGGED = 50
_DRAWS = 64
_SHRINKAGE = 0.3
_LEAST_VARIANCE = 1e-10

Log = Callable[[dict[str, Any]], None]


def run_chains(
    model: MaximumEntropyModel,
    u: Tensor,
    labels: Tensor,
    theta: Tensor,
    n_steps: int,
    state: Tensor,
    step_size: float | None = None,
) -> tuple[Tensor, Tensor]:
    """The chains ``u`` (rows, *event) after ``n_steps``, and the mean of F over the points they left, (rows, K)."""
    step = schedule(model, model.n_fitted, model.step_size, model.step_decay) if step_size is None else step_size
    total = torch.zeros(len(u), theta.shape[1], dtype=u.dtype, device=u.device)
    for _ in range(n_steps):
        with torch.enable_grad():
            point = u.detach().requires_grad_()
            energy, found = model._energy_and_features(point, labels, theta)
            (gradient,) = torch.autograd.grad(energy.sum(), point)
        total += found.detach()
        u = langevin_step(u, gradient, step, state=state)
    return u, total / n_steps


def schedule(model: MaximumEntropyModel, iteration: int, start: float, decay: float) -> float:
    return start * (1.0 + 10.0 * iteration / model.n_iterations) ** -decay


def fit_model(
    model: MaximumEntropyModel,
    x: Tensor,
    context: Tensor | None,
    *,
    generator: Generator | None,
    resume: bool,
    progress: bool,
    log: Log | None,
) -> None:
    """See :meth:`MaximumEntropyModel.fit`."""
    x, labels = _check_data(model, x, context)
    if not (resume and model.n_fitted):
        _begin(model, x, labels, generator)
    elif x.dtype != model.theta.dtype:
        raise TypeError(f"x must be {model.theta.dtype}, as in the fit to resume: got {x.dtype}")
    began, every = time.perf_counter(), max(1, model.n_iterations // _LOGGED)
    seen, count = torch.zeros_like(model.target), 0
    with (
        stop_on_signal() as request,
        progress_bar("fit", model.n_iterations, done=model.n_fitted, show=progress) as advance,
    ):
        while model.n_fitted < model.n_iterations and not request.asked:
            seen, count = seen + _iterate(model), count + 1
            shown = {}
            if (progress or log) and (model.n_fitted % every == 0 or model.n_fitted == model.n_iterations):
                shown["mismatch"] = _mismatch(model, seen / count)
                seen, count = torch.zeros_like(seen), 0
                if log:
                    log({"iteration": model.n_fitted, **shown, "seconds": round(time.perf_counter() - began, 3)})
            advance(**shown)


@torch.no_grad()
def _iterate(model: MaximumEntropyModel) -> Tensor:
    """One step of θ; the mean statistics of the chains, (classes, K)."""
    n = model.n_fitted
    step = schedule(model, n, model.step_size, model.step_decay)
    u, labels = model._chain_rows()
    u, found = run_chains(model, u, labels, model.theta, model.steps_per_iteration, model.noise, step)
    by_class = found.unflatten(0, (model.n_classes, model.n_chains))
    means = by_class.mean(1)
    if not bool(means.isfinite().all() & u.isfinite().all()):
        model.iteration.zero_()
        raise NonFiniteError(
            f"iteration {n} of the maximum-entropy fit: the chains left the finite numbers; lower step_size (now "
            f"{step:g}) or learning_rate ({model.learning_rate:g}), or give regularization or a bound of theta"
        )
    model.chains.copy_(u.unflatten(0, (model.n_classes, model.n_chains)))
    rate = schedule(model, n, model.learning_rate, model.learning_rate_decay)
    gap = torch.where(model.class_counts[:, None] > 0, means - model.target, 0.0)
    centred = by_class - means[:, None]
    model.covariance.lerp_(centred.mT @ centred / (model.n_chains - 1), 1.0 / _window(model))
    model.theta += rate * _newton(model, gap)
    if model.bound is not None:
        model.theta.clamp_(-model.bound, model.bound)
    if n >= model.average_from * model.n_iterations:
        model.weight += rate
        model.average.lerp_(model.theta, float(rate / model.weight))
    model.iteration += 1
    return means


@torch.no_grad()
def _begin(model: MaximumEntropyModel, x: Tensor, labels: Tensor, generator: Generator | None) -> None:
    """Everything as it is before the first iteration."""
    model.to(x.dtype)
    examples = [x[labels == label] for label in range(model.n_classes)]
    model.class_counts.copy_(torch.tensor([len(rows) for rows in examples]))
    for tensor in (model.theta, model.average, model.weight, model.iteration):
        tensor.zero_()
    for label, rows in enumerate(examples):
        if len(rows):
            model.coordinates.set_from(rows, label, model.standardize)
    coordinates = model.coordinates
    model.features.prepare(coordinates.field(coordinates.from_data(x, labels), labels))
    for label, rows in enumerate(examples):
        if len(rows):
            of = torch.full((len(rows),), label, device=x.device)
            found = model.features(coordinates.field(coordinates.from_data(rows, of), of))
            model.target[label] = found.mean(0)
            model.covariance[label] = _initial_covariance(model, label, generator)
    initial = coordinates.initial(model.n_classes * model.n_chains, generator)
    model.chains.copy_(initial.unflatten(0, (model.n_classes, model.n_chains)))
    model.noise.copy_(noise_state(generator, x.device))


def _initial_covariance(model: MaximumEntropyModel, label: int, generator: Generator | None) -> Tensor:
    """The covariance of F under the law without features, from draws of it."""
    found = []
    for _ in range(-(-_DRAWS // model.n_chains)):
        u = model.coordinates.initial(model.n_chains, generator)
        of = torch.full((len(u),), label, device=u.device)
        found.append(model.features(model.coordinates.field(u, of)))
    return torch.cov(torch.cat(found).T).reshape(model.covariance[label].shape)


def _window(model: MaximumEntropyModel) -> float:
    """The iterations that the running covariance looks back on: more as the law settles."""
    return 10.0 + 0.25 * model.n_fitted


def _newton(model: MaximumEntropyModel, gap: Tensor) -> Tensor:
    """C⁻¹ gap, C the running covariance of F shrunk to its diagonal, within the bounds of θ; (classes, K) to the same.

    Shrinkage is for the error of C, and less where K statistics are estimated from many more draws.

    A multiplier at its bound that would go further stays, and the others move as if it were a constant: projecting a
    step of all of them would not descend (Bertsekas 1982, "Projected Newton methods").
    """
    found, K = torch.zeros_like(gap), gap.shape[1]
    shrinkage = _SHRINKAGE * K / (K + model.n_chains * _window(model))
    for label in (model.class_counts > 0).nonzero().flatten().tolist():
        own, wanted = model.covariance[label].double(), gap[label].double()
        deviation = deviations(own)
        free = torch.ones_like(wanted, dtype=torch.bool)
        if model.bound is not None:
            free = (model.theta[label].abs() < model.bound) | (model.theta[label] * wanted < 0)
        correlation = own / deviation / deviation[:, None] * (1.0 - shrinkage)
        correlation = correlation * free * free[:, None]
        correlation.diagonal().add_(shrinkage).masked_fill_(~free, 1.0)
        found[label] = (torch.linalg.solve(correlation, wanted / deviation * free) / deviation).to(gap.dtype)
    return found


def _mismatch(model: MaximumEntropyModel, means: Tensor) -> float:
    present = model.class_counts > 0
    gap = (means - model.target)[present].double() / deviations(model.covariance[present])
    return float(gap.square().mean().sqrt())


def deviations(covariance: Tensor) -> Tensor:
    """The standard deviations (..., K) of statistics, in float64; those that hardly vary are not taken for exact."""
    spread = covariance.double().diagonal(dim1=-2, dim2=-1)
    largest = spread.amax(-1, keepdim=True)
    return torch.where(largest > 0, spread.clamp_min(_LEAST_VARIANCE * largest), 1.0).sqrt()


def _check_data(model: MaximumEntropyModel, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
    """The examples (n, *event) on the model's device and their labels; errors that name what is wrong."""
    if isinstance(x, Tensor) and tuple(x.shape) == model.event_shape:
        x = x[None]
    labels = class_data(model, x, context)
    x = x.detach().to(model.theta.device)
    return x, x.new_zeros(len(x), dtype=torch.int64) if labels is None else labels.to(x.device)


def check_fit_options(model: MaximumEntropyModel) -> None:
    """The numbers of the constructor."""
    for name in ("n_iterations", "n_chains", "steps_per_iteration", "sample_steps"):
        check_whole(name, getattr(model, name), 2 if name == "n_chains" else 1)
    for name in ("step_size", "learning_rate"):
        check_positive(name, getattr(model, name))
    for name in ("step_decay", "learning_rate_decay"):
        check_not_negative(name, getattr(model, name))
    if model.bound is not None:
        check_positive("bound", model.bound)
    check_share("average_from", model.average_from)
    check_flag("standardize", model.standardize)
