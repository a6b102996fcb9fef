"""Flows of normflows one after another as one: what it takes to be a row, and the flows with their rows found."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor


class Row:
    """Flows one after another, as a flow: in one call where that can be, else in turn."""

    def __init__(self) -> None:
        self.flows: list[Any] = []
        self.n_couplings = 0

    def take(self, flow: Any) -> bool:
        """Make it the last flow of the row, where it goes with those that are there."""
        raise NotImplementedError

    def at_once(self, z: Tensor, inverse: bool) -> tuple[Tensor, Tensor] | None:
        """All of them in one call; None where z is not for it."""
        raise NotImplementedError

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.at_once(z, inverse=False) or _in_turn(self.flows, z)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.at_once(z, inverse=True) or _in_turn([flow.inverse for flow in reversed(self.flows)], z)


def joined(flows: Iterable[Any], kinds: Iterable[type[Row]]) -> list[Any]:
    """The flows, with every row of one of the kinds as one."""
    result: list[Any] = []
    row: Row | None = None
    for flow in flows:
        if row is None or not row.take(flow):
            result += _closed(row)
            row = next((new for new in (kind() for kind in kinds) if new.take(flow)), None)
            result += [flow] if row is None else []
    return result + _closed(row)


def _closed(row: Row | None) -> list[Any]:
    if row is None:
        return []
    return [row] if row.n_couplings > 1 else row.flows


def _in_turn(maps: Iterable[Callable[[Tensor], tuple[Tensor, Tensor]]], z: Tensor) -> tuple[Tensor, Tensor]:
    total: Any = 0
    for one in maps:
        z, log_det = one(z)
        total = total + log_det
    return z, total
