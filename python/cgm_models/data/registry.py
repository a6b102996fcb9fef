"""Data sets by name or path."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from pathlib import Path

import torch

from ..options import check_whole
from .dataset import Dataset, observed_range, train_size, without
from .density import Density2D
from .files import SUFFIXES, load_file
from .images import load_digits, load_mnist, load_mnist5k, load_patches
from .pinwheel import Pinwheel
from .planar import NOISY, Checkerboard, EightGaussians

_IMAGES: dict[str, Callable[[int | None, int, float | None], Dataset]] = {
    "digits": load_digits,
    "mnist5k": load_mnist5k,
    "patches": load_patches,
}
_FIXED: dict[str, Callable[[], Density2D]] = {
    "8gaussians": EightGaussians,
    "checkerboard": Checkerboard,
    "pinwheel": Pinwheel,
}
_PLANAR_SIZE = 10_000


def names() -> list[str]:
    """The names that ``load`` knows."""
    return sorted([*_IMAGES, *_FIXED, *NOISY, "mnist"])


def density_names() -> list[str]:
    """The 2-D sets, which ``density`` knows."""
    return sorted([*_FIXED, *NOISY])


def density(name: str, *, noise: float | None = None) -> Density2D:
    """The exact law of a 2-D set; ``noise`` replaces the standard one of moons, circles, rings and swissroll."""
    if name in NOISY:
        return NOISY[name]() if noise is None else NOISY[name](noise)
    if name not in _FIXED:
        raise ValueError(_unknown(name, density_names(), "2-D set"))
    _refuse(name, noise=noise)
    return _FIXED[name]()


def load(
    name_or_path: str | os.PathLike[str],
    *,
    n: int | None = None,
    seed: int = 0,
    test_fraction: float | None = None,
    folder: str | os.PathLike[str] | None = None,
    noise: float | None = None,
    label_column: str | int | None = None,
    without_class: str | int | None = None,
) -> Dataset:
    """A data set by its name, the path of a ``.npy`` or text table, or the path of a folder with MNIST's IDX files.

    Args:
        name_or_path: one of ``names()``, or a path.
        n: how many points: drawn for the 2-D sets (10,000), a random subset of the others (all).
        seed: fixes the drawing, the order of the rows and thereby the split.
        test_fraction: share held out for testing, 0.2; for MNIST the official split unless given.
        folder: where the IDX files of ``mnist`` lie; nothing is downloaded.
        noise: noise level of moons, circles, rings and swissroll in place of the standard one.
        label_column: name or number of a file's column that holds the class label.
        without_class: a class to leave out, by its name; its points are ``left_out`` of the data set.

    The same arguments give the same rows in the same order. An option that has no meaning for the data set is refused.
    """
    n = None if n is None else check_whole("n", n, 1)
    data = _load(os.fspath(name_or_path), n, seed, test_fraction, folder, noise, label_column)
    return data if without_class is None else without(data, without_class)


def _load(
    name: str,
    n: int | None,
    seed: int,
    test_fraction: float | None,
    folder: str | os.PathLike[str] | None,
    noise: float | None,
    label_column: str | int | None,
) -> Dataset:
    if name in _FIXED or name in NOISY:
        _refuse(name, folder=folder, label_column=label_column)
        return _load_planar(name, _PLANAR_SIZE if n is None else n, seed, test_fraction, noise)
    if name == "mnist" and folder is None:
        raise ValueError("mnist needs folder=, the folder that holds train-images-idx3-ubyte[.gz] and its companions")
    if name in _IMAGES:
        _refuse(name, folder=folder, noise=noise, label_column=label_column)
        return _IMAGES[name](n, seed, test_fraction)
    path = Path(folder) if name == "mnist" and folder is not None else Path(name)
    if name == "mnist" or path.is_dir():
        _refuse(name, noise=noise, label_column=label_column)
        if not path.is_dir():
            raise FileNotFoundError(f"folder {path} does not exist")
        return load_mnist(path, n, seed, test_fraction)
    _refuse(name, folder=folder, noise=noise)
    if path.suffix not in SUFFIXES:
        raise ValueError(_unknown(name, names(), "data set"))
    return load_file(path, n, seed, test_fraction, label_column)


def _load_planar(name: str, n: int, seed: int, test_fraction: float | None, noise: float | None) -> Dataset:
    law = density(name, noise=noise)
    x, labels = law.sample_labelled(n, torch.Generator().manual_seed(seed))
    n_train = train_size(n, 0.2 if test_fraction is None else test_fraction)
    if law.n_classes == 1:
        return Dataset(name, x, n_train, observed_range(x), density=law)
    classes = tuple(str(k) for k in range(law.n_classes))
    return Dataset(name, x, n_train, observed_range(x), labels, classes, law)


def _refuse(name: str, **options: object) -> None:
    for option, value in options.items():
        if value is not None:
            raise ValueError(f"{option} has no meaning for {name!r}: got {value!r}")


def _unknown(name: str, known: list[str], what: str) -> str:
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    guess = f" Did you mean {near[0]!r}?" if near else ""
    kinds = "" if what == "2-D set" else f", or the path of a {', '.join(SUFFIXES)} file or of a folder with IDX files"
    return f"unknown {what} {name!r}.{guess} Known: {', '.join(known)}{kinds}."
