"""Langevin dynamics: steps, acceptances and the noise that drives them."""

from .state import noise_state

__all__ = ["noise_state"]
