"""Wrong arguments of the flows are named."""

import pytest
import torch

from cgm_models.transport import SlicedWassersteinFlow, particle_flow


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("event_shape", (2.0,)),
        ("event_shape", (-2,)),
        ("event_shape", (True,)),
        ("n_steps", True),
        ("step_size", "large"),
        ("step_size", True),
        ("orthogonal", "yes"),
        ("orthogonal", 1),
        ("global_fraction", "half"),
    ],
)
def test_constructor_names_the_argument(name, value):
    with pytest.raises(ValueError, match=f"^{name} must"):
        SlicedWassersteinFlow(**{"event_shape": (2,), name: value})


def test_event_shape_must_be_a_sequence():
    with pytest.raises(TypeError, match=r"^event_shape must be a tuple"):
        SlicedWassersteinFlow(event_shape=2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_fit_refuses_half_precision(dtype):
    with pytest.raises(TypeError, match="x must be float32 or float64"):
        SlicedWassersteinFlow((2,), n_steps=2).fit(torch.randn(10, 2).to(dtype))


def test_conditional_flow_samples_nothing():
    flow = SlicedWassersteinFlow((2,), 2, n_steps=2, n_particles=20, n_quantiles=5)
    assert flow.fit(torch.randn(10, 2), torch.arange(10) % 2).sample(0).shape == (0, 2)


def test_many_steps_cost_no_schedule():
    assert SlicedWassersteinFlow((1, 8, 8), n_steps=10**15).n_steps == 10**15


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x", torch.zeros(5)),
        ("target", torch.zeros(5, 3)),
        ("step_size", float("nan")),
        ("batch_size", 0),
        ("n_steps", 1.5),
    ],
)
def test_particle_flow_names_the_argument(name, value):
    options = {"x": torch.zeros(5, 2), "target": torch.zeros(5, 2), "n_steps": 1, "step_size": 1.0, name: value}
    with pytest.raises(ValueError, match=f"^{name} must"):
        particle_flow(**options)
