"""Patching and taking it back: aliases, nesting, threads, versions, the report and the status."""

import functools
import sys
import threading

import numpy as np
import pytest

ot = pytest.importorskip("ot", reason="POT is not installed (pip install POT)")

import cgm_kernels  # noqa: E402
from cgm_kernels import integrations  # noqa: E402
from cgm_kernels.integrations import _report  # noqa: E402
from cgm_kernels.integrations._library import _binder  # noqa: E402

NAMES = ("sliced_wasserstein_distance", "max_sliced_wasserstein_distance", "wasserstein_1d", "emd2_1d")


def references():
    """Every name in POT's modules that is bound to one of the functions, or to what stands for it."""
    return {
        (module_name, name): value
        for module_name, module in list(sys.modules.items())
        if module_name == "ot" or module_name.startswith("ot.")
        for name, value in vars(module).items()
        if name in NAMES and callable(value)
    }


def test_every_alias_is_replaced_and_put_back():
    before = references()
    assert {("ot", "emd2_1d"), ("ot.lp", "wasserstein_1d"), ("ot.sliced", NAMES[0])} <= before.keys()
    with integrations.patch("pot"):
        during = references()
        assert during.keys() == before.keys()
        for key, original in before.items():
            assert during[key] is getattr(ot, key[1])
            assert during[key].__wrapped__ is original
            assert (during[key].__name__, during[key].__doc__) == (original.__name__, original.__doc__)
    assert references() == before


def test_patches_count():
    original = ot.emd2_1d
    integrations.patch("ot")
    once = ot.emd2_1d
    with integrations.patch("POT") as handle:
        assert ot.emd2_1d is once
        with handle:
            assert ot.emd2_1d is once
    assert ot.emd2_1d is once
    integrations.unpatch("pot")
    assert ot.emd2_1d is original
    with pytest.raises(RuntimeError, match="not patched"):
        integrations.unpatch("pot")


def test_the_block_takes_it_back_after_an_error():
    original = ot.emd2_1d
    with pytest.raises(KeyError), integrations.patch("pot"):
        raise KeyError
    assert ot.emd2_1d is original


def test_threads():
    original, x = ot.wasserstein_1d, np.arange(12.0)
    expected, failures = original(x, x[::-1] + 1.0), []

    def work():
        for _ in range(10):
            with integrations.patch("pot"):
                if ot.wasserstein_1d is original or abs(ot.wasserstein_1d(x, x[::-1] + 1.0) - expected) > 1e-12:
                    failures.append(threading.get_ident())

    integrations.report(reset=True)
    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert ot.wasserstein_1d is original
    assert {row.function: row.ours for row in integrations.report()}["ot.wasserstein_1d"] == 60


def test_no_call_is_lost_between_threads():
    name, number = "ot.wasserstein_1d", 5000
    integrations.report(reset=True)
    threads = [
        threading.Thread(target=lambda reason=reason: [_report.count(name, reason) for _ in range(number)])
        for reason in (None, "here", "there", None)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (row,) = [row for row in integrations.report(reset=True) if row.ours]
    assert row == integrations.Calls(name, 2 * number, 2 * number, {"here": number, "there": number})


@pytest.mark.parametrize(
    "args, kwargs",
    [
        ((1, 2), {}),
        ((1, 2, 3, 4), {}),
        ((1,), {"b": 2}),
        ((), {"d": 4, "b": 2, "a": 1}),
        ((1, 2), {"d": 4}),
        ((1,), {}),
        ((1,), {"c": 3}),
        ((1, 2), {"b": 3}),
        ((1, 2), {"e": 5}),
        ((1, 2, 3, 4, 5), {}),
    ],
)
def test_arguments_are_bound_as_python_does(args, kwargs):
    def call(a, b, c=3, d=None):
        return {"a": a, "b": b, "c": c, "d": d}

    try:
        expected = call(*args, **kwargs)
    except TypeError:
        expected = None
    assert _binder(call)(args, kwargs) == expected


def test_solvers_of_pot_run_on_the_kernels():
    x, y = np.random.default_rng(0).normal(size=(2, 30, 1))
    if "1d" not in (ot.solve_sample.__doc__ or ""):
        pytest.skip("this POT has no solve_sample(method='1d')")
    expected = ot.solve_sample(x, y, method="1d").value
    integrations.report(reset=True)
    with integrations.patch("pot"):
        found = ot.solve_sample(x, y, method="1d").value
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert {row.function: row.ours for row in integrations.report()}["ot.wasserstein_1d"] == 1


def test_report():
    x = np.arange(5.0)
    integrations.report(reset=True)
    with integrations.patch("pot"):
        ot.emd2_1d(x, x)
        ot.emd2_1d(x, x, log=True)
    row = {row.function: row for row in integrations.report(reset=True)}["ot.emd2_1d"]
    assert row == integrations.Calls("ot.emd2_1d", 1, 1, {"log=True asks for the plan": 1})
    assert all(row.ours == row.passed_on == 0 for row in integrations.report())
    assert "passed on" in str(integrations.report())


def test_status_is_in_build_info():
    assert cgm_kernels.build_info()["integrations"]["pot"].startswith("not patched")
    with integrations.patch("pot"):
        assert cgm_kernels.build_info()["integrations"]["pot"].startswith("patched")


def test_unknown_libraries_and_versions_are_refused(monkeypatch):
    with pytest.raises(
        ValueError, match="library must be one of nflows, normflows, ot, pot, torchdiffeq, torchebm, zuko: got 'pott'"
    ):
        integrations.patch("pott")
    for version in ("0.9.3", "0.9.8", "1.0"):
        monkeypatch.setattr(ot, "__version__", version)
        with pytest.raises(RuntimeError, match=f"0.9.4 to 0.9.7: found {version}"):
            integrations.patch("pot")
    monkeypatch.undo()

    @functools.wraps(ot.emd2_1d)
    def changed(x_a, x_b, entropy=None):
        return None

    del changed.__wrapped__
    monkeypatch.setattr(ot, "emd2_1d", changed)
    with pytest.raises(RuntimeError, match=r"ot.emd2_1d has arguments that the patch does not know: entropy"):
        integrations.patch("pot")
