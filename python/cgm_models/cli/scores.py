"""How samples compare with held-out data, and what to compare the comparison with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from .. import metrics
from ..data import Dataset
from ..model import GenerativeModel

COLUMNS = {
    "sliced_wasserstein": "sliced W₂ ↓",
    "energy_distance": "energy ↓",
    "energy_p_value": "p",
    "precision": "precision ↑",
    "recall": "recall ↑",
    "coverage": "coverage ↑",
    "nearest_ratio": "nearest ratio",
    "exact_copies": "copies",
}
LIKELIHOOD = {
    "nll": "NLL ↓",
    "above_truth": "above truth",
    "above_truth_error": "±",
    "log_z_error": "± log Z",
    "bits_per_dim": "bits/dim ↓",
    "step_change": "step halved",
    "probe_error": "± probes",
    "n_evaluations": "NFE",
}
NOTE = (
    "against held-out data; energy: unbiased, may be negative, p from its permutation test; nearest ratio: median "
    "distance to the training set over that of held-out data, 1 for fresh data, near 0 for copies"
)
AUROC = "auroc "
"""What the keys of areas under a ROC curve begin with; the name of the outliers follows."""
ANNEALED = "log Z of a model's density is estimated by annealed importance sampling; its error is part of the others"
_CHUNK = 1000  # of held-out points at a time


def score(samples: Tensor, data: Dataset, *, n_permutations: int = 199) -> dict[str, float]:
    """The metrics of ``samples`` against the held-out part of ``data``, on fixed directions and permutations."""
    held_out = data.test_x
    directions, permutations = (torch.Generator().manual_seed(seed) for seed in (1, 2))
    test = metrics.energy_test(samples, held_out, n_permutations=n_permutations, generator=permutations)
    recall = metrics.precision_recall(samples[: len(held_out)], held_out)
    copying = metrics.copying_check(samples, data.train_x, held_out)
    return {
        "sliced_wasserstein": float(metrics.sliced_wasserstein(samples, held_out, generator=directions)),
        "energy_distance": float(metrics.energy_distance(samples, held_out, estimator="u")),
        "energy_p_value": test.p_value,
        "precision": recall.precision,
        "recall": recall.recall,
        "coverage": metrics.density_coverage(samples[: len(held_out)], held_out).coverage,
        "nearest_ratio": copying.ratio,
        "exact_copies": copying.exact_copies,
    }


@torch.no_grad()
def likelihood(model: GenerativeModel, data: Dataset, **trace: Any) -> dict[str, float]:
    """The mean of −log p over the held-out part, in nats, where the model has a density.

    Beside it, of sets whose law p* is known, the mean of log p* − log p over the same points. Of a model of images
    with levels, their bits per dimension instead, its noise drawn from a fixed seed. Of a model whose log Z is
    estimated, the error of that, which is part of the other errors too. Of a continuous flow, the steps are halved
    until that moves the mean by less than 1e-3, and else there is no likelihood; how much it moved stands beside it,
    and how often the field was evaluated for the last points. The same holds for the standard error that probes leave
    on the mean where they estimate the trace; ``trace`` are arguments of ``converge``, by which it is taken.
    """
    given: tuple[Tensor, ...] = (data.test_x,)
    if model.context_dim and data.test_context is not None:
        given = (data.test_x, data.test_context)
    chunks = list(zip(*(tensor.split(_CHUNK) for tensor in given), strict=True))
    if getattr(model, "n_levels", None) is not None:
        measure: Any = model.bits_per_dim

        def bits() -> Tensor:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                return torch.cat([measure(*chunk) for chunk in chunks])

        values, settled = _settled(model, bits, trace)
        return settled if values is None else _mean("bits_per_dim", values) | settled
    common = 0.0
    annealing: Any = getattr(model, "log_likelihood", None)
    if annealing is not None:
        estimate = annealing(*given, generator=Generator().manual_seed(0))
        nll, common = -estimate.log_prob.double(), _error_of_log_z(estimate.log_z, estimate.log_z_error)
        beside = {"log_z_error": common}
    else:
        try:
            values, settled = _settled(model, lambda: torch.cat([model.log_prob(*chunk) for chunk in chunks]), trace)
        except NotImplementedError:
            return {}
        if values is None:
            return settled
        nll, beside = -values.double(), settled
    excess = {} if data.density is None else _mean("above_truth", nll + data.density.log_prob(*given), common)
    return _mean("nll", nll, common) | excess | beside


def _settled(
    model: GenerativeModel, evaluate: Callable[[], Tensor], trace: dict[str, Any]
) -> tuple[Tensor | None, dict[str, float]]:
    """What ``evaluate`` gives; of a continuous flow where its steps no longer matter, None where they always do."""
    from ..cnf import ContinuousFlow, NotConvergedError, converge

    if not isinstance(model, ContinuousFlow):
        return evaluate(), {}
    try:
        found = converge(model, evaluate, **trace)
    except NotConvergedError as error:
        return None, {"step_change": error.change} | _of_probes(error.probe_error)
    settled = {"step_change": found.change} | _of_probes(found.probe_error)
    return found.values, settled | {"n_evaluations": model.n_evaluations}


def _of_probes(error: float) -> dict[str, float]:
    return {"probe_error": error} if error else {}


def _error_of_log_z(log_z: Tensor, error: Tensor) -> float:
    """The standard error of the mean of log Z over the points, of which those with one context share an estimate."""
    estimates, index, counts = log_z.unique(return_inverse=True, return_counts=True)
    errors = error.new_zeros(len(estimates)).scatter(0, index, error)
    return float((errors * counts / len(log_z)).square().sum().sqrt())


def _mean(name: str, values: Tensor, common_error: float = 0.0) -> dict[str, float]:
    """The mean, and its standard error, an error that all values have in common included."""
    own = float(values.double().std()) / len(values) ** 0.5
    return {name: float(values.double().mean()), f"{name}_error": math.hypot(own, common_error)}


def references(data: Dataset, n: int, generator: Generator) -> dict[str, Tensor]:
    """What to beat and what to reach: isotropic noise, a fitted Gaussian, and the training split itself."""
    flat = data.train_x.flatten(1).double()
    mean = flat.mean(0)
    centred = flat - mean
    noise = mean + centred.square().mean().sqrt() * torch.randn(n, len(mean), generator=generator, dtype=flat.dtype)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(flat))
    root = vectors * values.clamp_min(0.0).sqrt()
    gaussian = mean + torch.randn(n, len(mean), generator=generator, dtype=flat.dtype) @ root.T
    rows = {"isotropic noise": noise, "fitted Gaussian": gaussian, "training split": flat[:n]}
    return {name: x.float().reshape(len(x), *data.event_shape) for name, x in rows.items()}


def _shown(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def table(rows: dict[str, dict[str, float]], title: str) -> Any:
    """A rich table, one row of metrics a name."""
    from rich.table import Table

    extra = {key: text for key, text in LIKELIHOOD.items() if any(key in row for row in rows.values())}
    caption = f"{NOTE}; {ANNEALED}" if "log_z_error" in extra else NOTE
    shown = Table(title=title, caption=caption, caption_justify="left", title_justify="left")
    shown.add_column("", no_wrap=True)
    areas = sorted({key for row in rows.values() for key in row if key.startswith(AUROC)})
    extra |= {key: f"AUROC {key.removeprefix(AUROC)} ↑" for key in areas}
    for heading in (COLUMNS | extra).values():
        shown.add_column(heading, justify="right")
    precise = [*list(COLUMNS)[:2], *extra]
    for name, row in rows.items():
        cells = [f"{row[key]:.4f}" if key in precise else f"{row[key]:.3f}" for key in COLUMNS]
        shown.add_row(name, *cells, *(_shown(row[key]) if key in row else "" for key in extra))
    return shown
