"""Energy-based models: p(x) ∝ exp(−f(x)), the energy f a network, trained and sampled by Langevin chains."""

from .annealing import LogPartition, log_partition
from .composition import Energy, mixture
from .likelihood import Likelihood
from .model import EnergyModel

__all__ = ["Energy", "EnergyModel", "Likelihood", "LogPartition", "log_partition", "mixture"]
