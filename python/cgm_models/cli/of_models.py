"""Options of a command that only some models take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def spellings(name: str) -> Sequence[str]:
    """Those that the option of an argument may be given in."""
    return list(dict.fromkeys((flag(name), f"--{name}")))


def check_taken(model: Any, given: Iterable[str], taken: Sequence[str], whose: str) -> None:
    """Refuse what is ``given`` and not ``taken``, with the options that are; ``whose`` is as 'whose samples take'."""
    for name in given:
        if name not in taken:
            options = ", ".join(map(flag, taken)) or "none of its own"
            raise ValueError(f"{flag(name)} is not for {type(model).__name__}, {whose} {options}")
