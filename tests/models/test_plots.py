"""Pictures: what is drawn, that files appear whole, and the errors."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection, PathCollection
from PIL import Image

from cgm_models import data, plots
from cgm_models.plots.curves import running_median
from cgm_models.plots.figure import event_limits
from cgm_models.plots.grid import as_rgb, mosaic


def _points(n=50, seed=0):
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))


def _drawn(figure):
    """The canvas that a grid shows."""
    return np.asarray(figure.axes[0].images[0].get_array())


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_files_are_written_whole_with_nothing_left_beside_them(tmp_path, suffix):
    path = tmp_path / "new" / "folder" / f"loss.{suffix}"
    plots.loss_curve([3.0, 2.0, 1.0], path)
    assert [p.name for p in path.parent.iterdir()] == [path.name] and path.stat().st_size > 500
    before = path.stat().st_ino
    plots.loss_curve([1.0, 2.0], path)
    assert path.stat().st_ino != before, "replaced by rename, never written in place"


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "loss.png"
    plots.loss_curve([3.0, 2.0], path)
    content = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        plots.loss_curve([1.0, 2.0], path)
    assert path.read_bytes() == content and len(list(tmp_path.iterdir())) == 1


def test_unknown_format(tmp_path):
    with pytest.raises(ValueError, match=r"path must end in one of .*\.png.*: got .*loss\.xyz"):
        plots.loss_curve([1.0], tmp_path / "loss.xyz")


def test_pyplot_is_never_imported():
    code = (
        "import sys; from cgm_models import plots; plots.loss_curve([1.0]); print('matplotlib.pyplot' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# ------------------------------------------------------------------------------------------------ grids


@pytest.mark.parametrize("shape", [(7, 8, 8), (7, 1, 8, 8), (7, 3, 8, 8)])
def test_sample_grid_places_every_image(tmp_path, shape):
    images = torch.rand(*shape, generator=torch.Generator().manual_seed(0))
    figure = plots.sample_grid(images, tmp_path / "grid.png", columns=3)
    canvas = _drawn(figure)
    scale, gap = 6, 3
    pitch = 8 * scale + gap
    assert canvas.shape == (3 * pitch - gap, 3 * pitch - gap, 3)
    rgb = as_rgb(images)
    for i in range(7):
        top, left = i // 3 * pitch, i % 3 * pitch
        np.testing.assert_array_equal(canvas[top : top + 48 : scale, left : left + 48 : scale], rgb[i])
    assert (canvas[2 * pitch :, pitch:] == 1.0).all(), "places without an image are white"
    assert Image.open(tmp_path / "grid.png").size[0] > 200


def test_sample_grid_clips_and_marks_nan():
    images = torch.tensor([[[-5.0, 0.0], [0.5, math.nan]]])
    rgb = as_rgb(images, (-1.0, 1.0))[0]
    np.testing.assert_allclose(rgb[:, :, 1], [[0.0, 0.5], [0.75, 0.2]])
    assert rgb[1, 1, 0] > 0.8, "NaN is red"


def test_mosaic_of_large_tiles_is_not_enlarged():
    assert mosaic(np.zeros((1, 2, 64, 64, 3))).shape == (64, 132, 3)


def test_sample_grid_row_labels():
    figure = plots.sample_grid(torch.rand(6, 8, 8), columns=3, row_labels=["samples", "nearest"], title="title")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["samples", "nearest"]
    with pytest.raises(ValueError, match="row_labels must name 2 rows: got 1"):
        plots.sample_grid(torch.rand(6, 8, 8), columns=3, row_labels=["samples"])


def test_sample_grid_errors():
    with pytest.raises(ValueError, match=r"images must have shape .* got \(8, 8\)"):
        plots.sample_grid(torch.rand(8, 8))
    with pytest.raises(ValueError, match="images must be one batch"):
        plots.sample_grid(torch.rand(2, 3, 1, 8, 8))
    with pytest.raises(ValueError, match="value_range must be two increasing"):
        plots.sample_grid(torch.rand(2, 8, 8), value_range=(1.0, 1.0))
    with pytest.raises(ValueError, match="columns must be at least 1"):
        plots.sample_grid(torch.rand(2, 8, 8), columns=0)
    with pytest.raises(TypeError, match="images must hold real numbers"):
        plots.sample_grid(np.zeros((2, 8, 8), dtype=complex))


# ------------------------------------------------------------------------------------------------ the plane


def test_scatter_draws_every_layer(tmp_path):
    law = data.density("8gaussians")
    paths = torch.stack([_points(30), _points(30, 1), _points(30, 2)])
    figure = plots.scatter_2d(
        _points(), tmp_path / "plane.png", reference=_points(40, 3), trajectories=paths, density=law, title="all"
    )
    axes = figure.axes[0]
    assert len(axes.images) == 1 and axes.get_title() == "all"
    assert sorted(len(c.get_offsets()) for c in axes.collections if isinstance(c, PathCollection)) == [30, 40, 50]
    (lines,) = (c for c in axes.collections if isinstance(c, LineCollection))
    assert len(lines.get_segments()) == 60
    assert axes.get_xlim()[1] - axes.get_xlim()[0] == pytest.approx(axes.get_ylim()[1] - axes.get_ylim()[0])


def test_scatter_colours_classes_and_names_them():
    figure = plots.scatter_2d(_points(), labels=torch.arange(50) % 3)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["0", "1", "2"]


def test_scatter_says_what_it_does_not_show():
    points = torch.cat([_points(), torch.tensor([[math.nan, 0.0], [50.0, 0.0]])])
    figure = plots.scatter_2d(points, limits=((-5, 5), (-5, 5)))
    assert figure.axes[0].get_xlabel() == "of 52 points: 1 outside the frame, 1 not finite"


def test_scatter_of_nothing_finite_and_of_one_point(tmp_path):
    plots.scatter_2d(torch.full((3, 2), math.nan), tmp_path / "nan.png")
    plots.scatter_2d(torch.zeros(1, 2), tmp_path / "one.png")
    plots.scatter_2d(torch.zeros(0, 2), tmp_path / "none.png")


def test_the_density_is_not_drawn_upside_down():
    """The upper moon starts at (-1, 0): there is mass at the left below its top and none at the right above."""
    figure = plots.scatter_2d(_points(5), density=data.density("moons"), limits=((-1.5, 2.5), (-1.0, 1.5)))
    values = np.asarray(figure.axes[0].images[0].get_array())
    row, column = (round(160 * share) for share in ((1.0 + 1.0) / 2.5, (0.0 + 1.5) / 4.0))
    assert values[row, column] > 0.5 * values.max() and values[160 - row, column] < 0.05 * values.max()


def test_limits_ignore_a_few_wild_points():
    cloud = np.concatenate([np.random.default_rng(0).normal(size=(5000, 2)), [[1e9, 0.0]]])
    (left, right), _ = event_limits([cloud])
    assert -6 < left < -2 and 2 < right < 6


def test_scatter_errors():
    with pytest.raises(ValueError, match=r"points must have shape \(n, 2\): got \(5, 3\)"):
        plots.scatter_2d(torch.zeros(5, 3))
    with pytest.raises(ValueError, match=r"reference must have shape \(n, 2\)"):
        plots.scatter_2d(_points(), reference=torch.zeros(5))
    with pytest.raises(ValueError, match=r"labels must have shape \(50,\): got \(4,\)"):
        plots.scatter_2d(_points(), labels=torch.zeros(4))
    with pytest.raises(ValueError, match=r"trajectories must have shape \(T, k, 2\) with T >= 2: got \(1, 5, 2\)"):
        plots.scatter_2d(_points(), trajectories=torch.zeros(1, 5, 2))
    with pytest.raises(ValueError, match=r"limits must be .* increasing"):
        plots.scatter_2d(_points(), limits=((1, 0), (0, 1)))


def test_trajectory_strip_of_points(tmp_path):
    frames = torch.stack([_points(20, seed) for seed in range(9)])
    law = data.density("rings")
    figure = plots.trajectory_strip(frames, tmp_path / "strip.png", columns=5, density=law, title="strip")
    assert [axes.get_title() for axes in figure.axes] == ["0", "2", "4", "6", "8"]
    shown = figure.axes[-1].collections[0].get_offsets()
    np.testing.assert_allclose(np.asarray(shown), frames[-1].numpy(), rtol=1e-6)


def test_trajectory_strip_of_images(tmp_path):
    frames = torch.rand(4, 9, 1, 8, 8)
    figure = plots.trajectory_strip(frames, tmp_path / "strip.png", times=[0.0, 0.25, 0.5, 1.0], rows=3)
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0", "0.25", "0.5", "1"]
    canvas = _drawn(figure)
    assert canvas.shape == (3 * 51 - 3, 4 * 51 - 3, 3)
    expected = frames[3, 1, 0].numpy()
    np.testing.assert_allclose(canvas[51:99:6, 153:201:6, 0], expected, rtol=1e-6, err_msg="rows are particles")


def test_trajectory_strip_errors():
    with pytest.raises(ValueError, match=r"frames must have shape"):
        plots.trajectory_strip(torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"frames of points must have shape \(T, n, 2\): got \(4, 5, 3\)"):
        plots.trajectory_strip(torch.zeros(4, 5, 3))
    with pytest.raises(ValueError, match="times must have 4 entries, one a frame: got 3"):
        plots.trajectory_strip(torch.zeros(4, 5, 2), times=[0, 1, 2])
    with pytest.raises(ValueError, match="density has no meaning"):
        plots.trajectory_strip(torch.zeros(4, 5, 8, 8), density=data.density("moons"))
    with pytest.raises(ValueError, match="columns and rows must be at least 1"):
        plots.trajectory_strip(torch.zeros(4, 5, 2), columns=0)


# ------------------------------------------------------------------------------------------------ curves


def test_loss_curve_of_several_curves(tmp_path):
    train, held_out = np.linspace(3, 1, 500), [3.0, 2.0, 1.5]
    figure = plots.loss_curve(
        {"train": train, "held out": held_out},
        tmp_path / "loss.png",
        steps={"train": np.arange(500), "held out": [0, 250, 499]},
        floor=0.9,
        ylabel="nats",
    )
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["train", "held out", "floor 0.9"]
    assert axes.get_ylabel() == "nats"
    np.testing.assert_array_equal(axes.lines[2].get_xdata(), [0, 250, 499])


def test_loss_curve_leaves_out_what_cannot_be_drawn(tmp_path):
    figure = plots.loss_curve(torch.tensor([1.0, math.nan, math.inf, 2.0]), tmp_path / "a.png")
    assert np.isfinite(figure.axes[0].lines[0].get_ydata()).tolist() == [True, False, False, True]
    figure = plots.loss_curve([1.0, -2.0, 0.0, 2.0], tmp_path / "b.png", log_scale=True)
    assert np.isfinite(figure.axes[0].lines[0].get_ydata()).tolist() == [True, False, False, True]
    plots.loss_curve([math.nan] * 300, tmp_path / "c.png")
    plots.loss_curve([1.0], tmp_path / "d.png")


def test_one_huge_loss_does_not_flatten_the_curve():
    losses = np.linspace(3, 1, 500)
    losses[0] = 1e6
    assert plots.loss_curve(losses).axes[0].get_ylim()[1] < 5


def test_running_median_against_a_loop():
    values = np.random.default_rng(0).normal(size=57)
    values[[3, 4, 5, 40]] = np.nan
    for window in (1, 2, 3, 8):
        index, median = running_median(values, window)
        assert index.tolist() == list(range(57))
        for i in range(57):
            near = values[max(0, i - window // 2) : i - window // 2 + window]
            known = near[np.isfinite(near)]
            expected = np.median(known) if len(known) else np.nan
            np.testing.assert_allclose(median[i], expected)
    assert len(running_median(np.zeros(50_000), 100)[0]) == 1000


def test_loss_curve_errors():
    with pytest.raises(ValueError, match="losses must hold at least one curve"):
        plots.loss_curve({})
    with pytest.raises(ValueError, match=r"losses\['a'\] must be a sequence of at least one number"):
        plots.loss_curve({"a": []})
    with pytest.raises(ValueError, match="steps must have one entry for each of losses, 2"):
        plots.loss_curve([1.0, 2.0], steps=[1, 2, 3])
    with pytest.raises(ValueError, match="smooth must be at least 1"):
        plots.loss_curve([1.0, 2.0], smooth=0)


def test_density_panels_share_one_scale_and_the_grid_is_upright(tmp_path):
    """A density that grows along y is dark at the top, and a panel of half the density half as dark."""

    def slope(x):
        return x[:, 1]

    figure = plots.density_panels(
        {"all": slope, "half": lambda x: slope(x) - math.log(2.0)}, ((0.0, 1.0), (0.0, 2.0)), tmp_path / "d.png"
    )
    whole, half = (axes.images[0] for axes in figure.axes)
    assert whole.get_clim() == half.get_clim()
    np.testing.assert_allclose(half.get_array(), whole.get_array() / 2, rtol=1e-6)
    assert (np.diff(whole.get_array(), axis=0) > 0).all()
    assert (tmp_path / "d.png").stat().st_size > 0
    with pytest.raises(ValueError, match="at least one"):
        plots.density_panels({}, ((0.0, 1.0), (0.0, 1.0)))
    with pytest.raises(ValueError, match="increasing"):
        plots.density_panels({"a": slope}, ((1.0, 0.0), (0.0, 1.0)))
    with pytest.raises(ValueError, match="columns"):
        plots.density_panels({"a": slope}, ((0.0, 1.0), (0.0, 1.0)), columns=0)
