"""Points from any .npy or delimited text file, with errors that name the file, the line and the column."""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path

import numpy as np
import torch

from .dataset import Dataset, observed_range, shuffled, train_size

SUFFIXES = (".npy", ".csv", ".tsv", ".txt")


def load_file(
    path: Path, n: int | None, seed: int, test_fraction: float | None, label_column: str | int | None
) -> Dataset:
    """A ``.npy`` array ``(n, *event)`` or a table with one point a row; ``label_column`` becomes the class label."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no data file {path}")
    if path.suffix == ".npy":
        values, labels = _read_npy(path, label_column)
    else:
        values, labels = _read_table(path, label_column)
    with np.errstate(over="ignore"):
        x = torch.from_numpy(values.astype(np.float32))
    if not bool(x.isfinite().all()):
        raise ValueError(f"{path} holds values beyond the float32 range")
    context, class_names = (None, None) if labels is None else _encode(labels)
    x, context = shuffled(x, context, n, seed)
    n_train = train_size(len(x), 0.2 if test_fraction is None else test_fraction)
    return Dataset(path.stem, x, n_train, observed_range(x), context, class_names)


def _encode(labels: np.ndarray) -> tuple[torch.Tensor, tuple[str, ...]]:
    names, codes = np.unique(labels, return_inverse=True)
    shown = (f"{name:g}" if isinstance(name, np.floating) else str(name) for name in names)
    return torch.from_numpy(codes.astype(np.int64)), tuple(shown)


def _read_npy(path: Path, label_column: str | int | None) -> tuple[np.ndarray, np.ndarray | None]:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a readable .npy file of plain numbers: {error}") from error
    if not isinstance(array, np.ndarray):  # an archive under the name of an array
        array.close()
        raise ValueError(f"{path} is not a .npy file: it is a .npz archive")
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{path} must hold real numbers: got dtype {array.dtype}")
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim < 2 or 0 in array.shape:
        raise ValueError(f"{path} must hold at least one row of an array (n, *event): got shape {array.shape}")
    bad = ~np.isfinite(array)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(f"{path} holds {int(bad.sum())} non-finite values, the first at index {where}")
    if label_column is None:
        return array, None
    if array.ndim != 2:
        raise ValueError(f"label_column needs a table: {path} has shape {array.shape}")
    column = _column_index(path, label_column, [str(i) for i in range(array.shape[1])])
    return _without(path, array, column), array[:, column]


def _read_table(path: Path, label_column: str | int | None) -> tuple[np.ndarray, np.ndarray | None]:
    rows = _split_rows(path)
    header = _has_header(rows)
    first_cells = rows[0][1]
    names = (
        [cell or str(i) for i, cell in enumerate(first_cells)] if header else [str(i) for i in range(len(first_cells))]
    )
    if header:
        rows = rows[1:]
    if not rows:
        raise ValueError(f"{path} has a header but no rows")
    for line, cells in rows:
        if len(cells) != len(names):
            raise ValueError(f"{path}, line {line}: {len(cells)} columns where there should be {len(names)}")
    skip = None if label_column is None else _column_index(path, label_column, names)
    kept = [i for i in range(len(names)) if i != skip]
    if not kept:
        raise ValueError(f"{path} has no column left beside the label column {names[skip or 0]!r}")
    values = _to_numbers(path, rows, kept, names)
    labels = None if skip is None else _labels(path, rows, skip, names[skip])
    return values, labels


def _split_rows(path: Path) -> list[tuple[int, list[str]]]:
    """(line number, stripped cells) of every line that is neither blank nor a # comment."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file: {error}") from error
    lines = [
        (i, line) for i, line in enumerate(io.StringIO(text), 1) if line.strip() and not line.lstrip().startswith("#")
    ]
    if not lines:
        raise ValueError(f"{path} holds no rows")
    sample = lines[0][1]
    delimiter = max(",;\t", key=sample.count)
    if delimiter not in sample:
        return [(i, line.split()) for i, line in lines]
    return [(i, _cells(path, i, line, delimiter)) for i, line in lines]


def _cells(path: Path, number: int, line: str, delimiter: str) -> list[str]:
    # A field that is still open at the end of its line takes the line break in.
    try:
        cells = next(csv.reader([line.rstrip("\r\n") + "\n"], delimiter=delimiter, skipinitialspace=True))
    except csv.Error as error:
        raise ValueError(f"{path}, line {number}: {error}") from error
    if cells and cells[-1].endswith("\n"):
        raise ValueError(f"{path}, line {number}: a quote is not closed on its line")
    return [cell.strip() for cell in cells]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _has_header(rows: list[tuple[int, list[str]]]) -> bool:
    """A first line with text above a number is a header; text above text may be a label column without one."""
    first = rows[0][1]
    if len(rows) == 1:
        return not any(map(_is_number, first))
    return any(not _is_number(a) and _is_number(b) for a, b in zip(first, rows[1][1], strict=False))


def _to_numbers(path: Path, rows: list[tuple[int, list[str]]], kept: list[int], names: list[str]) -> np.ndarray:
    try:
        values = np.array([[cells[i] for i in kept] for _, cells in rows], dtype=np.float64)
    except ValueError:
        line, column, cell = next((k, i, c[i]) for k, c in rows for i in kept if not _is_number(c[i]))
        said = f"holds {cell!r}, which is not a number" if cell else "is empty"
        hint = f"; to use that column as class label pass label_column={names[column]!r}" if cell else ""
        raise ValueError(f"{path}, line {line}: column {names[column]!r} {said}{hint}") from None
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, column = bad[0]
        count = len({int(r) for r, _ in bad})
        where = f"line {rows[row][0]}, column {names[kept[column]]!r}"
        raise ValueError(f"{path} has {count} rows with non-finite values, the first at {where}")
    return values


def _labels(path: Path, rows: list[tuple[int, list[str]]], column: int, name: str) -> np.ndarray:
    cells = [c[column] for _, c in rows]
    if "" in cells:
        raise ValueError(f"{path}, line {rows[cells.index('')][0]}: the label column {name!r} is empty")
    if all(map(_is_number, cells)):
        numbers = np.array(cells, dtype=np.float64)
        if np.isfinite(numbers).all():
            return numbers
    return np.array(cells)


def _column_index(path: Path, column: str | int, names: list[str]) -> int:
    if isinstance(column, str) and column in names:
        return names.index(column)
    try:
        index = int(column)
    except ValueError:
        index = len(names)
    if not -len(names) <= index < len(names):
        raise ValueError(f"label_column {column!r} is not a column of {path}, which has {names}")
    return index % len(names)


def _without(path: Path, array: np.ndarray, column: int) -> np.ndarray:
    if array.shape[1] < 2:
        raise ValueError(f"{path} has no column left beside the label column {column}")
    return np.delete(array, column, axis=1)
