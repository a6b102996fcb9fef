"""Exact laws of unadjusted Langevin chains: x' = x − h∇E(x) + √(2h) z on Gaussian fields, and on a line or a circle."""

import math

import numpy as np


def gaussian_variance(precision, step_size):
    """The stationary variance of a coordinate with energy ½·precision·x²: 1/(p(1 − hp/2))."""
    return 1.0 / (precision * (1.0 - 0.5 * step_size * precision))


def gaussian_square_time(precision, step_size):
    """Σ over all lags of the correlation of x² of that chain, whose x has the correlation (1 − hp)^|lag|."""
    square = (1.0 - step_size * precision) ** 2
    return (1.0 + square) / (1.0 - square)


class GridChain:
    """A chain x' = x − drift(x) + noise·z on a fine grid of a line, or of a circle of circumference ``period``."""

    def __init__(self, grid, drift, noise, period=None):
        offset = grid[None, :] - (grid - drift)[:, None]
        density = np.zeros_like(offset)
        for turn in range(-3, 4) if period else [0]:
            density += np.exp(-0.5 * ((offset + turn * (period or 0.0)) / noise) ** 2)
        self.kernel = density / density.sum(1, keepdims=True)
        system = np.eye(len(grid)) - self.kernel.T + 1.0 / len(grid)
        law = np.linalg.solve(system, np.full(len(grid), 1.0 / len(grid)))
        self.law = law / law.sum()

    def mean(self, values):
        """The stationary mean of ``values`` (grid, K)."""
        return self.law @ values

    def covariance(self, values):
        centred = values - self.mean(values)
        return centred.T @ (self.law[:, None] * centred)

    def long_run_covariance(self, values):
        """T times the covariance of means over T steps, as T grows: Σ over all lags of the covariances."""
        centred = values - self.mean(values)
        resolvent = np.linalg.solve(np.eye(len(self.law)) - self.kernel + self.law, centred)
        half = centred.T @ (self.law[:, None] * resolvent)
        return half + half.T - self.covariance(values)


def multiplier_errors(covariance, long_run, n_steps):
    """Standard errors of averaged multipliers after ``n_steps`` steps of all chains, from C⁻¹ V C⁻¹ / n_steps."""
    inverse = np.linalg.inv(covariance)
    return np.sqrt(np.diag(inverse @ long_run @ inverse) / n_steps)


def circular_spectrum_of_ar1(n, coefficient):
    """The spectrum 1/|1 − a e^{−iω}|² on the n frequencies of a circle, and θ_0, θ_1 of its law exp(−Σ θ_τ F_τ)."""
    omega = 2 * math.pi * np.arange(n) / n
    spectrum = 1.0 / (1.0 + coefficient**2 - 2.0 * coefficient * np.cos(omega))
    return omega, spectrum, np.array([0.5 * (1.0 + coefficient**2), -coefficient])
