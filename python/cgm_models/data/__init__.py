"""Data: real images, planar sets with their exact densities, and any table of numbers.

``load("digits")`` gives a ``Dataset``; ``density("moons")`` the exact law of a planar set.
"""

from .dataset import Dataset
from .density import Density2D
from .idx import read_idx
from .pinwheel import Pinwheel
from .planar import Checkerboard, Circles, EightGaussians, Moons, Rings, SwissRoll
from .registry import density, density_names, load, names

__all__ = [
    "Checkerboard",
    "Circles",
    "Dataset",
    "Density2D",
    "EightGaussians",
    "Moons",
    "Pinwheel",
    "Rings",
    "SwissRoll",
    "density",
    "density_names",
    "load",
    "names",
    "read_idx",
]
