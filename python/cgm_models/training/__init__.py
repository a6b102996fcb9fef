"""What every training shares: run directories, files written whole, progress."""

from .files import write_atomic
from .progress import progress_bar
from .run import RunDirectory

__all__ = ["RunDirectory", "progress_bar", "write_atomic"]
