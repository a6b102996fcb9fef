"""What the neural flow takes as arguments, and how it names those that it refuses."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from tests.support.neural_flow import gaussian, small


def moving(**changes):
    """A model whose network is not zero, as it begins."""
    model = small(**changes)
    model.initialize(gaussian(100), torch.arange(100) % model.context_dim if model.context_dim else None)
    torch.nn.init.normal_(model.network.mlp.layers[-1].weight)
    return model


# --- options


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context_dim": -1}, "context_dim must be a whole number, at least 0: got -1"),
        ({"n_clouds": 1}, "n_clouds must be a whole number, at least 2: got 1"),
        ({"n_flow_steps": 0}, "n_flow_steps must be a whole number, at least 1: got 0"),
        ({"n_particles": 2.5}, "n_particles must be a whole number"),
        ({"n_projections": 0}, "n_projections must be a whole number"),
        ({"n_steps": 0}, "n_steps must be a whole number"),
        ({"step_size": -1.0}, "step_size must be a positive finite number: got -1.0"),
        ({"context_scale": 0.0}, "context_scale must be a positive finite number: got 0.0"),
        ({"n_points": 0}, "n_points must be a whole number, at least 1: got 0"),
        ({"law_after": -1}, "law_after must be a whole number, at least 0: got -1"),
        ({"regression_weight": -0.1}, "regression_weight must be a finite number, not negative: got -0.1"),
        ({"even_samples": 1}, "even_samples must be True or False: got 1"),
        ({"end_fraction": 1.5}, r"end_fraction must lie in \[0, 1\]: got 1.5"),
        ({"patch_sizes": [2]}, "patch_sizes need images"),
        ({"event_shape": (1, 4, 4), "patch_sizes": [0]}, "patch_sizes must be whole numbers"),
        ({"hidden_features": (0,)}, "hidden_features must hold positive whole numbers"),
        ({"activation": "sin"}, "activation must be one of"),
    ],
)
def test_wrong_options_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)


@pytest.mark.parametrize(("sizes", "got"), [(2, "int"), ("21", "str"), (2.0, "float")])
def test_patch_sizes_that_are_no_list_are_named(sizes, got):
    with pytest.raises(TypeError, match=f"patch_sizes must be a list of whole numbers: got {got}"):
        small((1, 4, 4), patch_sizes=sizes)


def test_wrong_input_is_named():
    model, labelled = small(), small(context_dim=3)
    with pytest.raises(ValueError, match=r"x must have shape \(n, 2\): got \(5, 3\)"):
        model.loss(torch.zeros(5, 3))
    with pytest.raises(TypeError, match=r"x must be a floating-point Tensor: got torch\.int64"):
        model.loss(torch.zeros(5, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="this model has no context"):
        model.loss(torch.zeros(5, 2), torch.zeros(5))
    with pytest.raises(ValueError, match="n must be a whole number, at least 0: got -1"):
        model.sample(-1)
    with pytest.raises(ValueError, match=r"time must lie in \[0, 6\], the times of the flow: got 7"):
        model.sample(2, time=7)
    with pytest.raises(ValueError, match=r"points must have shape \(n, 2\)"):
        model.transport(torch.zeros(2, 1))
    with pytest.raises(ValueError, match=r"this model is conditional: .* got None"):
        labelled.sample(2)
    with pytest.raises(ValueError, match=r"context must have shape \(3,\) or \(5, 3\): got \(5, 2\)"):
        labelled.sample(5, torch.zeros(5, 2))
    with pytest.raises(ValueError, match="context must hold class labels from 0 to 2"):
        labelled.sample(2, torch.tensor([0, 3]))


# --- data


def spoilt(value, n=20, width=2):
    rows = torch.ones(n, width)
    rows[3, 1] = value
    return rows


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("how", ["initialize", "first", "later", "evaluation"])
@pytest.mark.parametrize(
    ("x", "context", "message"),
    [
        (torch.zeros(0, 2), torch.zeros(0, 3), r"x must have shape \(n, 2\) with n at least 1: got \(0, 2\)"),
        (spoilt(torch.nan), torch.zeros(20, 3), "x must be finite: it holds NaN or infinity"),
        (spoilt(-torch.inf), torch.zeros(20, 3), "x must be finite: it holds NaN or infinity"),
        (spoilt(1.0).double() * 1e300, torch.zeros(20, 3), r"x must be finite: .* in torch\.float32"),
        (torch.zeros(20, 2), spoilt(torch.nan, width=3), "context must be finite: it holds NaN or infinity"),
        (torch.zeros(20, 2), torch.tensor([0.0, torch.inf, 0.0]), "context must be finite"),
    ],
)
def test_empty_and_non_finite_data_are_named_and_leave_no_trace(how, x, context, message):
    model = small(context_dim=3)
    if how in ("later", "evaluation"):
        model.loss(torch.randn(30, 2), torch.randn(30, 3))
    before = state(model)
    with pytest.raises(ValueError, match=message):
        (model.initialize if how == "initialize" else model.train(how != "evaluation").loss)(x, context)
    after = state(model)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_samples_refuse_a_context_that_is_not_finite():
    with pytest.raises(ValueError, match="context must be finite"):
        small(context_dim=3).sample(20, spoilt(torch.nan, width=3))


# --- times and numbers of samples


def test_times_added_up_or_rounded_reach_the_end():
    for step_size in (0.07, 0.1, 0.3):
        model = moving(n_flow_steps=10, step_size=step_size)
        base = model.sample_base(20)
        for end in (sum([step_size] * 10), float(np.float32(10 * step_size)), model.end_time * (1 + 1e-15)):
            torch.testing.assert_close(model.transport(base, time=end), model.transport(base))
        torch.testing.assert_close(model.transport(base, time=-1e-16), base)
        for beyond in (1.001 * model.end_time, -0.001 * model.end_time):
            with pytest.raises(ValueError, match=r"time must lie in \[0, \S+\], the times of the flow: got"):
                model.transport(base, time=beyond)


@pytest.mark.parametrize(
    "time",
    [2, np.int64(2), np.float32(2.0), np.float64(2.0), Fraction(2), torch.tensor(2.0), torch.tensor(2)],
    ids=lambda time: type(time).__name__,
)
def test_times_of_any_real_type(time):
    model = moving()
    base = model.sample_base(5)
    assert torch.equal(model.transport(base, time=time), model.transport(base, time=2.0))


@pytest.mark.parametrize(
    ("time", "got"),
    [("1", "str"), (True, "bool"), (1j, "complex"), (torch.tensor(True), "bool"), (torch.ones(1), "Tensor")],
)
def test_times_of_another_type_are_named(time, got):
    with pytest.raises(TypeError, match=f"time must be a number: got {got}"):
        small().sample(2, time=time)


def test_times_that_are_not_finite_are_named():
    for time in (torch.nan, torch.inf, torch.tensor(torch.nan)):
        with pytest.raises(ValueError, match="time must be finite: got"):
            small().sample(2, time=time)


def test_a_number_of_samples_of_any_whole_type():
    model = small()
    assert all(len(model.sample(n)) == 4 for n in (4, np.int64(4), np.uint8(4), torch.tensor(4)))
    for n in (1.0, True, "4", None, np.int64(-1)):
        with pytest.raises(ValueError, match="n must be a whole number, at least 0: got"):
            model.sample(n)


def test_trajectories_take_any_times_and_none():
    model = moving(context_dim=2)
    base, labels = model.sample_base(4), torch.tensor([0, 1, 1, 0])
    path = model.trajectory(base, torch.linspace(0.0, model.end_time, 3), labels)
    assert torch.equal(path, model.trajectory(base, [0.0, 0.5 * model.end_time, model.end_time], labels))
    for given in (base, base.double()):
        none = model.trajectory(given, [], labels)
        assert none.shape == (0, 4, 2) and none.dtype == torch.float32
    with pytest.raises(ValueError, match=r"points must have shape \(n, 2\): got \(4, 3\)"):
        model.trajectory(torch.zeros(4, 3), [], labels)
    with pytest.raises(ValueError, match="this model is conditional"):
        model.trajectory(base, [])
