"""Neural sliced-Wasserstein flows of a small size, and a Gaussian that they learn."""

import torch

from cgm_models.transport import NeuralSlicedWassersteinFlow

QUIET = {"tensorboard": False, "progress": False, "accelerator": "cpu"}
MEAN = torch.tensor([2.0, -1.0])
ROOT = torch.tensor([[1.5, 0.6], [0.6, 0.5]])  # symmetric and positive: the optimal map from N(0, I)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(n, seed=0):
    return MEAN + torch.randn(n, 2, generator=seeded(seed)) @ ROOT


def small(event_shape=(2,), **changes):
    options = {
        "hidden_features": (16,),
        "n_flow_steps": 12,
        "n_particles": 64,
        "n_clouds": 3,
        "n_knots": 4,
        "steps_per_loss": 1,
        "n_points": 50,
    }
    torch.manual_seed(0)
    return NeuralSlicedWassersteinFlow(event_shape, **{**options, **changes})
