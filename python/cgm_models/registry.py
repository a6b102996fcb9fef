"""The models by name, known without importing torch, so that the command line starts fast."""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .model import GenerativeModel


class Entry(NamedTuple):
    """Where a model lives and what it is, in one line."""

    module: str
    summary: str


_SHIPPED = {
    "EnergyModel": Entry("cgm_models.ebm", "a network as the energy of the data, its samples Langevin chains"),
    "FFJORD": Entry("cgm_models.cnf", "a vector field, a perceptron of time and point, integrated from noise to data"),
    "Glow": Entry("cgm_models.flows", "actnorm, 1×1 convolutions and couplings of images at several scales"),
    "HamiltonianFlow": Entry("cgm_models.cnf", "dynamics of zero divergence, which keep volumes, from noise to data"),
    "IAF": Entry("cgm_models.flows", "autoregressive gates of the noise: samples in one pass"),
    "JointEnergyModel": Entry("cgm_models.ebm", "the logits of a classifier as energies of points and classes"),
    "MADE": Entry("cgm_models.flows", "a Gaussian, or a mixture of them, for each dimension given those before it"),
    "MAF": Entry("cgm_models.flows", "autoregressive affine layers: densities in one pass"),
    "MaximumEntropyModel": Entry(
        "cgm_models.ebm", "the law closest to noise with the statistics of one example, as of a texture"
    ),
    "NICE": Entry("cgm_models.flows", "additive couplings, which keep volumes, under one diagonal scaling"),
    "NeuralSlicedWassersteinFlow": Entry(
        "cgm_models.transport", "a network that learns where the sliced-Wasserstein flow carries points, at any time"
    ),
    "NeuralSplineFlow": Entry("cgm_models.flows", "couplings by monotone rational-quadratic splines"),
    "OTFlow": Entry("cgm_models.cnf", "the gradient of a potential, integrated along nearly straight paths"),
    "PixelCNN": Entry("cgm_models.flows", "images pixel by pixel, by gated masked convolutions"),
    "PixelRNN": Entry("cgm_models.flows", "images pixel by pixel, by LSTMs down the rows"),
    "PlanarFlow": Entry("cgm_models.flows", "planar layers, inverted by solving a scalar equation"),
    "RadialFlow": Entry("cgm_models.flows", "radial layers, which pull points to centres or push them away"),
    "RealNVP": Entry("cgm_models.flows", "affine couplings of the halves of a vector or, at several scales, an image"),
    "SlicedWassersteinFlow": Entry(
        "cgm_models.transport", "particles carried to the data along random directions, by learned quantiles"
    ),
}
_registered: dict[str, type[GenerativeModel]] = {}


def register(model: type[GenerativeModel]) -> None:
    """Make ``model`` known under its class name; a later class of that name takes its place."""
    _registered[model.__name__] = model


def summaries() -> dict[str, str]:
    """One line about every known model, by name."""
    own = {name: (model.__doc__ or "").strip().partition("\n")[0] for name, model in _registered.items()}
    return dict(sorted({**own, **{name: entry.summary for name, entry in _SHIPPED.items()}}.items()))


def names() -> list[str]:
    """The names that ``find`` knows."""
    return sorted({*_SHIPPED, *_registered})


def find(name: str) -> type[GenerativeModel]:
    """The model class called ``name``.

    Raises:
        ValueError: if there is none, with the names there are.
    """
    if name in _registered:
        return _registered[name]
    if name in _SHIPPED:
        return getattr(importlib.import_module(_SHIPPED[name].module), name)
    near = difflib.get_close_matches(name.lower(), [known.lower() for known in names()], n=1, cutoff=0.5)
    guess = next((f" Did you mean {known!r}?" for known in names() if near and known.lower() == near[0]), "")
    raise ValueError(f"unknown model {name!r}.{guess} Known: {', '.join(names())}.")
