"""What a call asks of the continuous transforms of a model, beyond the arguments that pass through a flow.

It is kept by thread and by transform, never in the transforms: two threads that use one model ask different things of
it at the same time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Generator, nn


class Seen:
    """What the transforms did while they were asked."""

    def __init__(self) -> None:
        self.solved = False
        """Whether one was integrated."""
        self.estimated = False
        """Whether one drew probes."""


class Asked(NamedTuple):
    """Of one transform."""

    measures: bool = True
    """Its log-determinant; else it gives zeros."""
    exact: bool = False
    """The exact trace in any dimension."""
    n_probes: int | None = None
    """In place of its own number."""
    generator: Generator | None = None
    """A CPU generator that the probes are drawn from; torch's own by default."""
    halvings: int = 0
    """How often its steps are halved."""
    seen: Seen | None = None


class Count(threading.local):
    """A number of each thread, 0 at first; a copy or a pickle has that of the thread that makes it."""

    def __init__(self) -> None:  # no attribute of the class, as below
        self._held = {"number": 0}  # Dynamo loses what a graph sets as an attribute of a threading.local

    def set(self, number: int) -> None:
        self._held["number"] = number

    def get(self) -> int:
        return self._held["number"]

    def __reduce__(self) -> tuple[type[Count], tuple[()], dict[str, dict[str, int]]]:
        return Count, (), {"_held": dict(self._held)}


class _Thread(threading.local):
    def __init__(self) -> None:  # no attribute of the class: torch 2.11 traces that one and not the thread's
        self.asked: dict[nn.Module, Asked] = {}


_thread = _Thread()


def asked_of(transform: nn.Module) -> Asked:
    """What this thread asks of ``transform``."""
    return _thread.asked.get(transform, Asked())


@contextmanager
def asking(transforms: Iterable[nn.Module], *, halvings: int = 0, **changes: Any) -> Iterator[None]:
    """Within, this thread asks ``changes``, fields of ``Asked``, of ``transforms``; None leaves a field as it is.

    ``halvings`` are added to those that were asked before.
    """
    changes = {name: value for name, value in changes.items() if value is not None}
    previous, asked = _thread.asked, dict(_thread.asked)
    for each in transforms:
        before = asked_of(each)
        asked[each] = before._replace(halvings=before.halvings + halvings, **changes)
    _thread.asked = asked
    try:
        yield
    finally:
        _thread.asked = previous
