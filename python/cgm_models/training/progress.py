"""A progress bar on a terminal, silence elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Advance(Protocol):
    """Called after every step, or every few, with what to show beside the bar."""

    def __call__(self, steps: int = 1, /, **shown: float) -> None: ...


@contextmanager
def progress_bar(description: str, total: int, *, done: int = 0, show: bool = True) -> Iterator[Advance]:
    """``with progress_bar("fit", 100) as advance: advance(loss=0.1)``, written to the standard error."""
    if not show:
        yield lambda steps=1, /, **shown: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[shown]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(description, total=total, completed=done, shown="")

        def advance(steps: int = 1, /, **shown: float) -> None:
            text = "  ".join(f"{name} {value:.4g}" for name, value in shown.items())
            bar.advance(task, steps)
            if text:
                bar.update(task, shown=text)

        yield advance
