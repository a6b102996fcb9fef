"""What fit, sample and save of maximum-entropy models promise."""

import math
import signal
import warnings

import numpy as np
import pytest
import torch

import cgm_models
from cgm_models.ebm import MaximumEntropyModel
from tests.support.maximum_entropy import field_of_spectrum, gaussian_model, seeded
from tests.support.ula import circular_spectrum_of_ar1


def image_model(**changes):
    options = {"features": ["histogram", {"name": "wavelets", "n_scales": 2, "n_orientations": 2}], "n_chains": 2}
    options |= {"n_iterations": 12, "steps_per_iteration": 2, "sample_steps": 3}
    return MaximumEntropyModel((1, 16, 16), **options | changes)


def image(seed=0, dtype=torch.float32):
    return torch.randn(1, 16, 16, generator=seeded(seed), dtype=dtype).cumsum(1) * 3 + 100


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_save_and_load(tmp_path, dtype):
    model = image_model().fit(image(dtype=dtype), generator=seeded(1))
    model.save(tmp_path)
    again = cgm_models.load(tmp_path)
    assert isinstance(again, MaximumEntropyModel)
    assert again.status() == "12 of 12 iterations"
    x = model.sample(3, generator=seeded(2))
    assert x.dtype == dtype
    assert torch.equal(x, again.sample(3, generator=seeded(2)))
    assert torch.equal(model.energy(x), again.energy(x))


def test_sample_leaves_the_model_and_the_global_generator_alone():
    model = image_model().fit(image(), generator=seeded(1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    first, second = (model.sample(5, generator=seeded(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not torch.equal(first[0], first[2])  # the same chain, one round later
    assert model.sample(0).shape == (0, 1, 16, 16)


def test_interrupted_and_resumed_ends_where_an_undisturbed_fit_does(tmp_path):
    whole = image_model().fit(image(), generator=seeded(1))
    part = image_model()

    def interrupt(record):
        if record["iteration"] == 5:
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with SIGINT ignored
    try:
        part.fit(image(), generator=seeded(1), log=interrupt)
    finally:
        signal.signal(signal.SIGINT, before)
    assert part.status() == "5 of 12 iterations: interrupted"
    part.sample(1, generator=seeded(2))
    part.save(tmp_path)
    resumed = cgm_models.load(tmp_path).fit(image(), resume=True)
    assert resumed.status() == whole.status()
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_log_tells_the_mismatch():
    lines = []
    model = gaussian_model(n_iterations=100, average_from=0.8)
    model.fit(field_of_spectrum(circular_spectrum_of_ar1(16, 0.4)[1]), generator=seeded(1), log=lines.append)
    assert [line["iteration"] for line in lines] == list(range(2, 101, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of numbers taken from a graph
        model.mismatch(torch.randn(3, 16, generator=seeded()).requires_grad_())
    assert lines[0]["mismatch"] > 0.2 > 0.1 > np.mean([line["mismatch"] for line in lines[-10:]])


def test_divergence_is_told():
    model = gaussian_model(step_size=80.0)
    with pytest.raises(cgm_models.training.NonFiniteError, match="lower step_size"):
        model.fit(100 * torch.randn(16, generator=seeded(), dtype=torch.float64), generator=seeded())
    assert model.status() == "not fitted"
    with pytest.raises(RuntimeError, match="not fitted"):
        model.sample(1)


def test_several_examples_give_the_mean_of_their_statistics():
    x = torch.randn(4, 16, generator=seeded(), dtype=torch.float64)
    model = gaussian_model(n_iterations=1).fit(x)
    torch.testing.assert_close(model.target[0], model.statistics(x).mean(0))


def test_standardised_model_is_that_of_the_standardised_example():
    x = field_of_spectrum(circular_spectrum_of_ar1(16, 0.4)[1])
    options = {"standardize": True, "n_iterations": 20, "regularization": 0.5}
    first = gaussian_model(**options).fit(x, generator=seeded(1))
    second = gaussian_model(**options).fit(5 - 3 * x, generator=seeded(1))
    torch.testing.assert_close(first.theta, second.theta)
    mean, deviation = x.mean(), x.std(correction=0)
    standard = (first.sample(4, generator=seeded(2)) - mean) / deviation
    torch.testing.assert_close(second.sample(4, generator=seeded(2)), 5 - 3 * mean + 3 * deviation * standard)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"event_shape": (2, 2, 2, 2)}, "event_shape must be"),
        ({"features": ["colour"]}, "features must be named"),
        ({"features": []}, "features must be a list"),
        ({"features": ["autocovariance", "pair_counts"]}, "pair_counts"),
        ({"n_chains": 1}, "n_chains must be a whole number, at least 2: got 1"),
        ({"step_size": 0.0}, "step_size must be"),
        ({"learning_rate_decay": -1.0}, "learning_rate_decay must be"),
        ({"average_from": 1.5}, "average_from must lie"),
        ({"bound": -1.0}, "bound must be"),
        ({"regularization": -0.5}, "regularization must be"),
        ({"event_shape": (4, 2), "whiten": True}, "whiten is for"),
        ({"event_shape": (4, 2), "regularization": 0.5}, "regularization must be 0 for points"),
        ({"standardize": 1}, "standardize must be"),
    ],
)
def test_wrong_options_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        MaximumEntropyModel(**{"event_shape": (16,), **changes})


def test_wrong_options_of_a_feature_are_named():
    with pytest.raises(TypeError, match=r"feature 'histogram'.*'bins'"):
        MaximumEntropyModel((16,), features=[{"name": "histogram", "bins": 3}])


def test_wrong_data_are_named():
    model = gaussian_model()
    with pytest.raises(TypeError, match=r"x must be a floating-point Tensor: got torch\.int64"):
        model.fit(torch.ones(16, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"x must have shape \(n, 16\): got \(3, 15\)"):
        model.fit(torch.ones(3, 15))
    with pytest.raises(ValueError, match="finite"):
        model.fit(torch.full((16,), math.nan))
    with pytest.raises(ValueError, match="context must be None"):
        model.fit(torch.ones(1, 16), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(NotImplementedError, match="energy"):
        model.log_prob(torch.ones(1, 16))


def test_constant_examples_and_points_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="x must vary"):
        image_model().fit(torch.full_like(image(), 0.3))
    model = image_model().fit(image(), generator=seeded(1))
    for function in (model.energy, model.statistics):
        with pytest.raises(ValueError, match=r"x must have shape \(n, 1, 16, 16\): got \(2, 16\)"):
            function(torch.zeros(2, 16))
