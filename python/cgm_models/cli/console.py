"""Where tables go."""

from __future__ import annotations

import shutil
from typing import Any


def console() -> Any:
    """A rich console; at least 120 columns where the output is not a terminal."""
    from rich.console import Console

    own = Console()
    return own if own.is_terminal else Console(width=max(120, shutil.get_terminal_size().columns))
