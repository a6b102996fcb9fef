"""Models that move particles by optimal transport."""

from .flow import SlicedWassersteinFlow
from .neural import NeuralSlicedWassersteinFlow
from .particles import particle_flow

__all__ = ["NeuralSlicedWassersteinFlow", "SlicedWassersteinFlow", "particle_flow"]
