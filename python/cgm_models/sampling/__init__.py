"""Markov chain Monte Carlo: samplers of any energy, and of any model that has a density."""

from .adaptation import DualAveraging
from .annealed import AnnealedLangevin
from .hmc import HMC
from .mala import MALA
from .sampler import Sampler
from .samples import Samples
from .sgld import SGLD, MinibatchEnergy, polynomial_decay
from .state import State
from .target import EnergyGradient, Target
from .tempered import TemperedLangevin, geometric_ladder
from .ula import ULA
from .underdamped import UnderdampedLangevin

__all__ = [
    "HMC",
    "MALA",
    "SGLD",
    "ULA",
    "AnnealedLangevin",
    "DualAveraging",
    "EnergyGradient",
    "MinibatchEnergy",
    "Sampler",
    "Samples",
    "State",
    "Target",
    "TemperedLangevin",
    "UnderdampedLangevin",
    "geometric_ladder",
    "polynomial_decay",
]
