"""The demo, on a tiny fit."""

import pytest

pytest.importorskip("jsonargparse", reason="jsonargparse is not installed (pip install jsonargparse)")

from cgm_models import demo


def test_demo_prints_both_tables_and_draws(tmp_path, capsys):
    assert demo.main(["--quick", "--out", str(tmp_path / "demo")]) == 0
    text = capsys.readouterr().out
    for row in ("isotropic noise", "fitted Gaussian", "sliced-Wasserstein flow", "training split", "displacement"):
        assert row in text
    for picture in ("samples", "digits", "classes", "trajectories", "distance"):
        assert (tmp_path / "demo" / f"{picture}.png").stat().st_size > 5000
    assert (tmp_path / "demo/flow/metrics.json").is_file()
