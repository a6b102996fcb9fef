"""Models that move particles by optimal transport."""

from .flow import SlicedWassersteinFlow
from .particles import particle_flow

__all__ = ["SlicedWassersteinFlow", "particle_flow"]
