"""Langevin dynamics: steps, chains of them, acceptances, the noise that drives them, and energies in closed form."""

from .chain import langevin_chain
from .energies import Energy, GaussianEnergy, GaussianMixtureEnergy, ProductEnergy
from .mlp_energy import MLPEnergy
from .op import langevin_step, mala_accept, normal
from .state import noise_state

__all__ = [
    "Energy",
    "GaussianEnergy",
    "GaussianMixtureEnergy",
    "MLPEnergy",
    "ProductEnergy",
    "langevin_chain",
    "langevin_step",
    "mala_accept",
    "noise_state",
    "normal",
]
