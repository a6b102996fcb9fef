"""Energy-based models: p(x) ∝ exp(−f(x)), the energy f a network, trained and sampled by Langevin chains."""

from .annealing import LogPartition, log_partition
from .composition import Energy, mixture
from .joint import JointEnergyModel
from .likelihood import Likelihood
from .maximum_entropy import MaximumEntropyModel
from .model import EnergyModel

__all__ = [
    "Energy",
    "EnergyModel",
    "JointEnergyModel",
    "Likelihood",
    "LogPartition",
    "MaximumEntropyModel",
    "log_partition",
    "mixture",
]
