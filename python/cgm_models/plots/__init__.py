"""Pictures: grids of samples, clouds and trajectories in the plane, loss curves. Every function gives the Figure and,
with a path, writes it."""

from .curves import loss_curve
from .densities import density_panels
from .figure import save
from .grid import sample_grid
from .scatter import scatter_2d
from .strip import trajectory_strip

__all__ = ["density_panels", "loss_curve", "sample_grid", "save", "scatter_2d", "trajectory_strip"]
