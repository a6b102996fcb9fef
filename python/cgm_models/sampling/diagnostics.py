"""Samples in the hands of ArviZ, which knows whether they can be trusted."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from arviz import InferenceData

    from .samples import Samples


def to_arviz(samples: Samples, name: str = "x") -> InferenceData:
    """An ``InferenceData`` with the groups posterior and sample_stats.

    sample_stats holds ``lp`` = −E and, where the sampler knows them, ``acceptance_rate`` and ``diverging``.
    """
    if name in ("chain", "draw"):
        raise ValueError(f"name must not be that of a dimension, chain or draw: got {name!r}")
    stats = {"lp": _by_chain(-samples.energies)}
    if "acceptance" in samples.statistics:
        stats["acceptance_rate"] = _by_chain(samples.statistics["acceptance"])
    if "diverging" in samples.statistics:
        stats["diverging"] = _by_chain(samples.statistics["diverging"]) > 0
    arviz = _arviz()
    with warnings.catch_warnings():
        # Its guess that chains and draws were exchanged; here there may well be a thousand chains of few draws.
        warnings.filterwarnings("ignore", "More chains .* than draws", UserWarning)
        return arviz.from_dict(posterior={name: _by_chain(samples.positions)}, sample_stats=stats)


def rhat(samples: Samples) -> Tensor:
    """R̂ of each number of the event, ``(*event)``, float64."""
    if samples.positions.shape[1] < 2 or len(samples.positions) < 4:
        raise ValueError(f"rhat needs at least 2 chains and 4 draws: got {_size(samples)}")
    found = _arviz().rhat(to_arviz(samples, "x"), var_names=["x"])
    return torch.from_numpy(np.asarray(found["x"].values))


def ess(samples: Samples, method: str) -> Tensor:
    """The effective sample size of each number of the event, ``(*event)``, float64."""
    if len(samples.positions) < 4:
        raise ValueError(f"ess needs at least 4 draws: got {_size(samples)}")
    found = _arviz().ess(to_arviz(samples, "x"), var_names=["x"], method=method)
    return torch.from_numpy(np.asarray(found["x"].values))


def _size(samples: Samples) -> str:
    return f"{len(samples.positions)} draws of {samples.positions.shape[1]} chains"


def _by_chain(values: Tensor) -> np.ndarray:
    """(draws, chains, ...) as (chain, draw, ...)."""
    return values.detach().transpose(0, 1).cpu().numpy()


def _arviz() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # ArviZ 0.x announces version 1 to whoever imports it
            import arviz
    except ModuleNotFoundError as error:
        message = f"the diagnostics come from ArviZ: pip install 'arviz<1', or 'cgm-kernels[models]' ({error})"
        raise ModuleNotFoundError(message, name=error.name) from error
    if not hasattr(arviz, "InferenceData"):
        raise ImportError(f"the diagnostics need ArviZ 0.x: pip install 'arviz<1' (got {arviz.__version__})")
    return arviz
