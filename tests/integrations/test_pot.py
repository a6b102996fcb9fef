"""POT with and without the patch: the same values, types, random streams, gradients, warnings and errors."""

import warnings

import numpy as np
import pytest
import torch

ot = pytest.importorskip("ot", reason="POT is not installed (pip install POT)")

from cgm_kernels import integrations  # noqa: E402

SLICED = ("sliced_wasserstein_distance", "max_sliced_wasserstein_distance")
KINDS = ("numpy", "torch")
# What torch itself says, once in a process, of the code inside POT.
ONCE = ("`x.T`", "Sparse invariant checks")
WEIGHTS = ("none", "first", "second", "both", "uniform", "zeros")


def observe(call):
    """What a call does: its result or error, and its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = call()
        except Exception as error:
            result = error
    messages = [(w.category, str(w.message)) for w in caught]
    return result, [m for m in messages if not any(text in m[1] for text in ONCE)]


def assert_same(ours, theirs, rtol=1e-9):
    assert type(ours) is type(theirs)
    if isinstance(theirs, Exception):
        assert str(ours) == str(theirs)
    elif isinstance(theirs, (tuple, list)):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other, rtol)
    elif isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        assert_same(list(ours.values()), list(theirs.values()), rtol)
    elif theirs is not None:
        assert getattr(ours, "dtype", None) == getattr(theirs, "dtype", None)
        assert np.shape(ours) == np.shape(theirs)
        ours, theirs = (np.asarray(v.detach() if torch.is_tensor(v) else v, dtype=float) for v in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=1e-3 * rtol)


def compare(name, call, *, ours=True, rtol=1e-9):
    """``call()`` without and with the patch; ``ours``: whether ot.``name`` is to run on our kernels every time."""
    theirs = observe(call)
    integrations.report(reset=True)
    with integrations.patch("pot"):
        found = observe(call)
    rows = {row.function: row for row in integrations.report()}
    row = rows[f"ot.{name}"]
    assert (row.ours > 0, row.passed_on > 0) == (ours, not ours), row
    assert_same(found[0], theirs[0], rtol)
    assert found[1] == theirs[1]
    return found[0]


def arrays(kind, *given, dtype=np.float64):
    converted = [None if array is None else array.astype(dtype) for array in given]
    return [torch.from_numpy(a) if kind == "torch" and a is not None else a for a in converted]


def masses(weights, n, m, rng):
    first, second = rng.random(n), rng.random(m)
    if weights == "zeros":
        first[rng.permutation(n)[: n // 2]] = 0.0
    if weights == "uniform":
        first, second = np.ones(n), np.ones(m)
    first, second = first / first.sum(), second / second.sum()
    return (first if weights not in ("none", "second") else None), (
        second if weights not in ("none", "first") else None
    )


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("p", [1, 2, 3.5])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SLICED)
def test_sliced_values(name, kind, p, weights):
    rng = np.random.default_rng(0)
    for n, m, d in ((20, 20, 3), (33, 14, 2), (1, 5, 1)):
        x, y, directions = rng.normal(size=(n, d)), rng.normal(size=(m, d)) + 1.0, rng.normal(size=(d, 6))
        a, b = masses(weights, n, m, rng)
        x, y, a, b, directions = arrays(kind, x, y, a, b, directions)
        function = lambda **more: getattr(ot, name)(x, y, a, b, p=p, **more)  # noqa: B023, E731
        for log in (False, True):
            given = {"projections": directions} if n != m else {"n_projections": 8, "seed": 3}
            compare(name, lambda: function(log=log, **given))  # noqa: B023


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("p", [1, 2, 1.5])
@pytest.mark.parametrize("kind", KINDS)
def test_wasserstein_1d_values(kind, p, weights):
    rng = np.random.default_rng(1)
    for n, m, batch in ((20, 20, ()), (12, 31, ()), (20, 11, (4,)), (1, 3, (2,))):
        u, v = np.sort(rng.normal(size=(n, *batch)), 0), np.sort(rng.normal(size=(m, *batch)) * 2.0, 0)
        a, b = masses(weights, n, m, rng)
        sorted_u, sorted_v, a, b = arrays(kind, u, v, a, b)
        u, v = arrays(kind, rng.permutation(u), rng.permutation(v))
        compare("wasserstein_1d", lambda: ot.lp.wasserstein_1d(u, v, a, v_weights=b, p=p))  # noqa: B023
        compare("wasserstein_1d", lambda: ot.wasserstein_1d(sorted_u, sorted_v, a, b, p, require_sort=False))  # noqa: B023
        if n > 1:
            unsorted = lambda: ot.wasserstein_1d(u, v, a, b, p, require_sort=False)  # noqa: B023, E731
            compare("wasserstein_1d", unsorted, ours=False)


@pytest.mark.parametrize("kind", KINDS)
def test_wasserstein_1d_batched_weights(kind):
    rng = np.random.default_rng(2)
    u, v, a, b = rng.normal(size=(9, 4)), rng.normal(size=(6, 4)), rng.random((9, 4)), rng.random((6, 4))
    u, v, a, b = arrays(kind, u, v, a / a.sum(0), b / b.sum(0))
    compare("wasserstein_1d", lambda: ot.wasserstein_1d(u, v, a, b))
    compare("wasserstein_1d", lambda: ot.wasserstein_1d(u, v, 3.0 * a, 3.0 * b, p=2))
    compare("wasserstein_1d", lambda: ot.wasserstein_1d(u, v, a, 2.0 * b), ours=False)


@pytest.mark.parametrize("metric, p", [("sqeuclidean", 1), ("euclidean", 3), ("cityblock", 1), ("minkowski", 2.5)])
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("kind", KINDS)
def test_emd2_1d_values(kind, weights, metric, p):
    rng = np.random.default_rng(3)
    for n, m, shape in ((20, 20, ()), (15, 26, ()), (8, 5, (1,)), (1, 1, ())):
        a, b = masses(weights, n, m, rng)
        x, y, a, b = arrays(kind, rng.normal(size=(n, *shape)), rng.normal(size=(m, *shape)), a, b)
        call = lambda **more: ot.emd2_1d(x, y, a, b, metric=metric, p=p, **more)  # noqa: B023, E731
        compare("emd2_1d", call)
    compare("emd2_1d", lambda: call(dense=False))
    compare("emd2_1d", lambda: call(log=True)[0], ours=False)


@pytest.mark.parametrize("kind", KINDS)
def test_masses_that_are_not_one(kind):
    rng = np.random.default_rng(4)
    a, b = masses("both", 12, 15, rng)
    x, y, a, b = arrays(kind, rng.normal(size=(12, 2)), rng.normal(size=(15, 2)), 5.0 * a, 5.0 * b)
    for name in SLICED:
        compare(name, lambda: getattr(ot, name)(x, y, a, b, seed=0))  # noqa: B023
        compare(name, lambda: getattr(ot, name)(x, y, 2.0 * a, b, seed=0), ours=False)  # noqa: B023
        compare(name, lambda: getattr(ot, name)(x, y, a, seed=0), ours=False)  # noqa: B023
    compare("emd2_1d", lambda: ot.emd2_1d(x[:, 0], y[:, 0], a, b))
    compare("emd2_1d", lambda: ot.emd2_1d(x[:, 0], y[:, 0], a, 2.0 * b), ours=False)  # an AssertionError
    compare("emd2_1d", lambda: ot.emd2_1d(x[:, 0], y[:, 0], a[:0], b[:0]))  # empty weights are equal ones
    compare("wasserstein_1d", lambda: ot.wasserstein_1d(x, y, a - 1.0, b), ours=False)


def test_single_precision_is_as_accurate():
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(300, 3)), rng.normal(size=(200, 3))
    for kind in KINDS:
        points = arrays(kind, x, y, dtype=np.float32)
        for name in SLICED:
            exact = getattr(ot, name)(*arrays(kind, x, y), projections=arrays(kind, np.eye(3))[0])
            directions = arrays(kind, np.eye(3), dtype=np.float32)[0]
            call = lambda: getattr(ot, name)(*points, projections=directions)  # noqa: B023, E731
            ours, theirs = compare(name, call, rtol=1e-4), call()
            assert abs(float(ours) - float(exact)) <= 2.0 * abs(float(theirs) - float(exact)) + 1e-6
        compare("wasserstein_1d", lambda: ot.wasserstein_1d(*points), rtol=1e-4)  # noqa: B023
        compare("emd2_1d", lambda: ot.emd2_1d(points[0][:, 0], points[1][:, 0]), rtol=1e-6)  # noqa: B023


def test_seeds_give_the_same_directions_and_stream():
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(8, 3)), rng.normal(size=(9, 3))
    state = np.random.RandomState
    compare(SLICED[0], lambda: ot.sliced_wasserstein_distance(x, y, seed=state(3), log=True))
    stream = state(3)
    compare(
        SLICED[1],
        lambda: [ot.max_sliced_wasserstein_distance(x, y, seed=stream), stream.set_state(state(3).get_state())],
    )
    small = x.astype(np.float32), y.astype(np.float32)  # RandomState draws float64 directions all the same
    compare(SLICED[0], lambda: ot.sliced_wasserstein_distance(*small, seed=state(3)), ours=False)
    points = torch.from_numpy(x), torch.from_numpy(y)
    for given, seed in (((x, y), np.int64), (points, int)):
        nx = ot.backend.get_backend(given[0])

        def call(given=given, nx=nx, seed=seed):
            nx.seed(int(seed(11)))
            return [ot.sliced_wasserstein_distance(*given, n_projections=4, log=True) for _ in range(3)]

        compare(SLICED[0], call)
    compare(SLICED[0], lambda: ot.sliced_wasserstein_distance(*points, seed=torch.Generator().manual_seed(5)))
    with integrations.patch("pot"), pytest.raises(ValueError, match="Non compatible seed"):
        ot.sliced_wasserstein_distance(*points, seed="seven")


def test_array_layouts():
    rng = np.random.default_rng(7)
    base = rng.normal(size=(40, 6))
    read_only = base[:20, :3].copy()
    read_only.flags.writeable = False
    packed = np.zeros(20, dtype=[("flag", "u1"), ("point", "f8", (3,))])
    packed["point"] = base[20:, 3:]
    views = [base[::2, ::2], base[::-2, 2::-1], base.T[:3, 5:25].T, np.asfortranarray(base[:9, :3])]
    for x in (read_only, packed["point"], *views, np.broadcast_to(base[0, :3], (5, 3))):
        compare(SLICED[0], lambda: ot.sliced_wasserstein_distance(x, base[:20, 3:], seed=0))  # noqa: B023
        compare("wasserstein_1d", lambda: ot.wasserstein_1d(x, base[:20, 3:]))  # noqa: B023
        compare("emd2_1d", lambda: ot.emd2_1d(x[:, 0], base[:20, 3]))  # noqa: B023
    before = base.copy()
    with integrations.patch("pot"):
        ot.sliced_wasserstein_distance(base, base[::2])
    assert (base == before).all()


def test_results_that_are_not_finite_are_pots():
    rng = np.random.default_rng(8)
    for bad in (np.nan, np.inf, 1e200):
        x, y = rng.normal(size=(6, 2)), rng.normal(size=(6, 2))
        x[3, 1] = bad
        for kind in KINDS:
            u, v = arrays(kind, x, y)
            for name in SLICED:
                call = lambda: getattr(ot, name)(u, v, seed=1, log=True)  # noqa: B023, E731
                compare(name, call, ours=False)
            compare("wasserstein_1d", lambda: ot.wasserstein_1d(u, v, p=2), ours=False)  # noqa: B023
            compare("emd2_1d", lambda: ot.emd2_1d(u[:, 1], v[:, 1]), ours=False)  # noqa: B023
