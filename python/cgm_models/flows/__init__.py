"""Normalizing flows: exact densities, sampled in one pass."""

from .base import Base, base_names, register_base
from .flow import Flow
from .realnvp import RealNVP
from .transform import Composition, Inverse, Transform

__all__ = ["Base", "Composition", "Flow", "Inverse", "RealNVP", "Transform", "base_names", "register_base"]
