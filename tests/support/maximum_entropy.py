"""Examples and models that the tests of maximum-entropy models share."""

import numpy as np
import torch

from cgm_models.ebm import MaximumEntropyModel


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def field_of_spectrum(spectrum, seed=0):
    """A signal whose squared Fourier modulus is n times ``spectrum`` exactly, with random phases."""
    n = len(spectrum)
    phases = np.random.default_rng(seed).uniform(0, 2 * np.pi, n // 2 + 1)
    phases[[0, -1]] = 0.0
    transform = np.sqrt(n * spectrum[: n // 2 + 1]) * np.exp(1j * phases)
    return torch.from_numpy(np.fft.irfft(transform, n))


def gaussian_model(n=16, whiten=False, **changes):
    options = {"regularization": 0.0, "standardize": False, "whiten": whiten, "step_size": 0.15, "n_chains": 64}
    options |= {"n_iterations": 500, "steps_per_iteration": 3, "learning_rate": 0.2, "sample_steps": 60}
    return MaximumEntropyModel((n,), features=[{"name": "autocovariance", "max_lag": 2}], **options | changes)
