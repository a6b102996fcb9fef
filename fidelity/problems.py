"""What the models are held to: data whose exact law is known, and images whose code length can be compared."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.distributions import MultivariateNormal
from torch.nn.functional import one_hot

from cgm_models import data
from cgm_models.flows import Flow
from cgm_models.model import GenerativeModel

from . import annealed, continuous

N_TEST, N_VALIDATION = 20_000, 5_000
N_NOISE = 8  # draws of the dequantisation that bits per dimension are averaged over
IMAGE_TEST, IMAGE_VALIDATION = 360, 137
_CHUNK = 2_000
_DIGITS = (
    f"Held-out bits per dimension of 8 × 8 images of 17 levels: {IMAGE_TEST} for testing, "
    f"{1797 - IMAGE_TEST - IMAGE_VALIDATION} trained on, and {IMAGE_VALIDATION} that choose the step of the training "
    f"and its options. Densities are of images with uniform noise, an upper bound averaged over {N_NOISE} draws of it; "
    "the pixel models give probabilities of the images themselves. A full Gaussian reaches 2.95, the best mixture of "
    "Gaussians 2.64."
)
_GIVEN_CLASS = "The same images and bits per dimension, of models that are told which digit it is."


@dataclass(frozen=True)
class Points:
    """``x`` (n, *event) under ``context`` (n, c), where there is one."""

    x: Tensor
    context: Tensor | None = None


@dataclass(frozen=True)
class Problem:
    """``train`` is a function of the number of points, as planar sets have as many as one likes.

    ``score`` gives one number for each test point, the less the better; ``best_target`` is what the mean score of the
    best model must not exceed, and below ``−3`` standard errors a score relative to the truth is an error.
    """

    name: str
    title: str
    unit: str
    train: Callable[[int], Points]
    validation: Points
    test: Points
    score: Callable[[GenerativeModel], Tensor]
    best_target: float | None
    relative_to_truth: bool
    n_samples: int
    note: str = ""

    @property
    def event_shape(self) -> tuple[int, ...]:
        return tuple(self.test.x.shape[1:])

    @property
    def context_dim(self) -> int:
        return 0 if self.test.context is None else self.test.context.shape[1]

    def measure(self, model: GenerativeModel) -> tuple[float, float]:
        """The mean score on the test points and its standard error, that of an estimated log Z included."""
        score = self.score(model).double()
        return float(score.mean()), math.hypot(float(score.std()) / math.sqrt(len(score)), annealed.error(model))


_BEST = {"8gaussians": 0.05, "checkerboard": 0.05}
NAMES = ("moons", "8gaussians", "checkerboard", "swissroll", "pinwheel", "gaussian", "digits", "digits-by-class")


@functools.cache
def find(name: str) -> Problem:
    """The problem called ``name``."""
    if name not in NAMES:
        raise ValueError(f"unknown problem {name!r}. Known: {', '.join(NAMES)}.")
    if name.startswith("digits"):
        return _digits(by_class=name == "digits-by-class")
    return _conditional_gaussian() if name == "gaussian" else _planar(name)


def _planar(name: str) -> Problem:
    law = data.density(name)
    validation, test = (Points(law.sample(n, _seeded(seed))) for n, seed in ((N_VALIDATION, 2), (N_TEST, 3)))
    truth = functools.cache(lambda: law.log_prob(test.x))
    return Problem(
        name,
        title=name,
        unit="nats",
        train=lambda n: Points(law.sample(n, _seeded(1))),
        validation=validation,
        test=test,
        score=lambda model: truth() - log_prob(model, test, law.extent),
        best_target=_BEST.get(name),
        relative_to_truth=True,
        n_samples=10_000,
        note=f"The mean of log p_true − log p_model over {N_TEST:,} fresh points; the entropy of the truth is "
        f"{law.entropy():.3f} nats, so that the NLL of a model is this number more.",
    )


def _conditional_gaussian() -> Problem:
    """(c, x) jointly normal in two and two dimensions: p(x | c) is normal about an affine function of c."""
    root = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.6, 0.8, 0.0, 0.0], [0.5, -0.7, 0.6, 0.0], [-0.4, 0.3, 0.8, 0.5]])
    mean = torch.tensor([0.0, 0.0, 1.0, -1.0])
    covariance = root @ root.T
    gain = covariance[2:, :2] @ torch.linalg.inv(covariance[:2, :2])
    rest = covariance[2:, 2:] - gain @ covariance[:2, 2:]

    def draw(n: int, seed: int) -> Points:
        joint = mean + torch.randn(n, 4, generator=_seeded(seed)) @ root.T
        return Points(joint[:, 2:].contiguous(), joint[:, :2].contiguous())

    def truth(points: Points) -> Tensor:
        assert points.context is not None
        centre = mean[2:] + (points.context - mean[:2]) @ gain.T
        return MultivariateNormal(centre, rest).log_prob(points.x)

    test = draw(N_TEST, 3)
    return Problem(
        "gaussian",
        title="a Gaussian given another",
        unit="nats",
        train=lambda n: draw(n, 1),
        validation=draw(N_VALIDATION, 2),
        test=test,
        score=lambda model: truth(test) - log_prob(model, test),
        best_target=0.01,
        relative_to_truth=True,
        n_samples=10_000,
        note="KL(p(x | c) ‖ q(x | c)), averaged over c, of four jointly normal numbers, two of them given: the mean of "
        f"log p_true − log p_model over {N_TEST:,} fresh points.",
    )


def _digits(by_class: bool) -> Problem:
    """The training images come in an order fixed by the split; its last ones are for validation."""
    images = data.load("digits", test_fraction=IMAGE_TEST / 1797)
    n = images.n_train - IMAGE_VALIDATION

    def points(x: Tensor, labels: Tensor | None) -> Points:
        return Points(x, one_hot(labels, images.n_classes).float() if by_class and labels is not None else None)

    learnt = points(images.train_x, images.train_context)
    test = points(images.test_x, images.test_context)
    return Problem(
        "digits-by-class" if by_class else "digits",
        title="digits given their class" if by_class else "digits",
        unit="bits per dimension",
        train=lambda _: _rows(learnt, slice(0, n)),
        validation=_rows(learnt, slice(n, None)),
        test=test,
        score=lambda model: bits(model, test),
        best_target=None if by_class else 2.05,
        relative_to_truth=False,
        n_samples=1_000,
        note=_GIVEN_CLASS if by_class else _DIGITS,
    )


@torch.no_grad()
def log_prob(model: GenerativeModel, points: Points, extent: continuous.Extent | None = None) -> Tensor:
    """``(n,)``; ``extent`` is a box of the plane that holds the mass, where there is one."""
    parts = [slice(start, start + _CHUNK) for start in range(0, len(points.x), _CHUNK)]

    def evaluate() -> Tensor:
        if points.context is None:
            density = annealed.density(model)
            return torch.cat([density(points.x[p]) for p in parts])
        return torch.cat([model.log_prob(points.x[p], points.context[p]) for p in parts])

    return continuous.published(model, evaluate, extent)


def bits(model: GenerativeModel, points: Points) -> Tensor:
    """``(n,)`` bits per dimension of images, over the same noise for every model."""
    if isinstance(model, Flow):

        def evaluate() -> Tensor:
            generator = _seeded(4)
            draws = [model.bits_per_dim(points.x, points.context, generator=generator) for _ in range(N_NOISE)]
            return torch.stack(draws).mean(0)

        return continuous.published(model, evaluate)
    return model.bits_per_dim(points.x)  # type: ignore[operator]


def _rows(points: Points, rows: slice) -> Points:
    return Points(points.x[rows], None if points.context is None else points.context[rows])


def _seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)
