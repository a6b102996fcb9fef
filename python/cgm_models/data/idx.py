"""Reader of IDX files, MNIST's format: two zero bytes, a type code, the rank, big-endian sizes, then the values."""

from __future__ import annotations

import gzip
import io
import math
import os
import struct
import zlib
from pathlib import Path

import numpy as np

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_READ_BYTES = 1 << 24


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """The array in an IDX file, gzip-compressed or not (told by its first bytes, not its name), in native byte order.

    A truncated, overlong, corrupt or foreign file raises ``ValueError`` naming the file and what is wrong.
    """
    path = Path(path)
    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
    try:
        with path.open("rb") as raw:
            return _parse(gzip.GzipFile(fileobj=raw) if zipped else raw, path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is a damaged gzip file: {error}") from error


def _parse(file: io.BufferedIOBase, path: Path) -> np.ndarray:
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _TYPES or head[3] == 0:
        raise ValueError(f"{path} is not an IDX file: it starts with {head.hex(' ') or 'nothing'}")
    rank = head[3]
    sizes_bytes = file.read(4 * rank)
    if len(sizes_bytes) < 4 * rank:
        raise ValueError(f"{path} ends inside its header of {rank} sizes")
    shape = struct.unpack(f">{rank}I", sizes_bytes)
    dtype = np.dtype(_TYPES[head[2]])
    expected = math.prod(shape) * dtype.itemsize
    data = _read_up_to(file, expected + 1)
    if len(data) != expected:
        found = f"only {len(data)}" if len(data) < expected else "more"
        raise ValueError(f"{path} declares shape {shape}, which is {expected} bytes, but holds {found}")
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _read_up_to(file: io.BufferedIOBase, limit: int) -> bytes:
    # Piecewise, so that a header that lies about the size allocates no more than the file holds.
    pieces, total = [], 0
    while total < limit and (piece := file.read(min(_READ_BYTES, limit - total))):
        pieces.append(piece)
        total += len(piece)
    return b"".join(pieces)


def find_idx(folder: Path, stem: str) -> Path | None:
    """For "train-images": train-images-idx3-ubyte or train-images.idx3-ubyte in ``folder``, with or without .gz."""
    rank = 3 if stem.endswith("images") else 1
    for separator in "-.":
        for suffix in ("", ".gz"):
            path = folder / f"{stem}{separator}idx{rank}-ubyte{suffix}"
            if path.is_file():
                return path
    return None


def read_pair(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Images ``(n, h, w)`` and labels ``(n,)`` of ``part`` ("train" or "t10k"), or None if its images are not there."""
    images_path, labels_path = find_idx(folder, f"{part}-images"), find_idx(folder, f"{part}-labels")
    if images_path is None:
        return None
    if labels_path is None:
        raise FileNotFoundError(f"{folder} holds {images_path.name} but not its labels, {part}-labels-idx1-ubyte[.gz]")
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim != 3 or images.dtype != np.uint8 or 0 in images.shape:
        got = f"{images.dtype} of shape {images.shape}"
        raise ValueError(f"{images_path} must hold uint8 images (n, height, width): got {got}")
    if labels.shape != images.shape[:1] or labels.dtype != np.uint8:
        got = f"{labels.dtype} of shape {labels.shape}"
        raise ValueError(f"{labels_path} must hold {len(images)} uint8 labels: got {got}")
    return images, labels
