"""Where tables go."""

from __future__ import annotations

from typing import Any

_WIDE = 400


def console() -> Any:
    """A rich console; where the output is not a terminal, so wide that no table is cut."""
    from rich.console import Console

    own = Console()
    return own if own.is_terminal else Console(width=_WIDE)
