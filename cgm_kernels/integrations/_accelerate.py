"""Swapping the layers of one model for accelerated ones, by their class, and putting them back."""

from __future__ import annotations

import copy
import copyreg
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from torch import nn

from ._library import Library, PassOn, methods, owner_of


@dataclass(frozen=True)
class Swap:
    """A layer that was swapped: its name in the model, and the class it has for its library."""

    name: str
    layer: str


class Accelerated(list[Swap]):
    """The layers that were swapped. ``undo()``, or leaving a ``with`` block, puts them back."""

    def __init__(self, swaps: Sequence[tuple[Swap, nn.Module, type]]) -> None:
        super().__init__(swap for swap, _, _ in swaps)
        self._swapped = [(swap.name, module, ours) for swap, module, ours in swaps]

    def undo(self) -> None:
        """Give each layer its own class again; a second time does nothing."""
        for name, module, ours in self._swapped:
            if type(module) is not ours:
                raise RuntimeError(
                    f"{name or 'the module'} has become a {type(module).__name__} since: undo that first"
                )
        for _, module, ours in self._swapped:
            module.__class__ = ours.__mro__[1]
        self._swapped.clear()

    def __enter__(self) -> Accelerated:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()


def swap(module: nn.Module, libraries: Sequence[Library]) -> Accelerated:
    """Give every layer of ``module`` that one of the libraries recognises its accelerated class."""
    classes: dict[type, tuple[Library, type]] = {}
    for library in libraries:
        library.check(importlib.import_module(library.package))
        owners = {method.owner for method in methods(library)} | {owner_of(path)[0] for path in library.instances}
        classes |= {owner: (library, accelerated(library, owner)) for owner in owners if issubclass(owner, nn.Module)}
    found = []
    for name, child in module.named_modules():
        owner = type(child)
        if owner not in classes:
            continue
        library, ours = classes[owner]
        try:
            library.fits(child)
        except PassOn:
            continue
        child.__class__ = ours
        layer = f"{owner.__module__.partition('.')[0]}.{owner.__name__}"
        found.append((Swap(name, layer), child, ours))
    return Accelerated(found)


_classes: dict[type, type] = {}


def accelerated(library: Library, owner: type) -> type:
    """The subclass of ``owner`` whose methods are the routed ones."""
    if owner not in _classes:
        body: dict[str, Any] = {m.name: m.wrapper for m in methods(library) if m.owner is owner}
        for path, function in library.instances.items():
            cls, name = owner_of(path)
            if cls is owner:
                body[name] = function
        body |= {"__module__": owner.__module__, "__qualname__": owner.__qualname__, "__doc__": owner.__doc__}
        body |= {"_accelerates": owner, "__reduce_ex__": _reduce}
        if issubclass(owner, nn.Module):
            body["__deepcopy__"] = _deep_copy
        _classes[owner] = type(owner.__name__, (owner,), body)
    return _classes[owner]


def _reduce(self: Any, protocol: Any) -> Any:
    """As an object of the library's own class, which is what pickle finds by its name."""
    state = object.__reduce_ex__(self, 2)[2]
    return copyreg._reconstructor, (type(self)._accelerates, object, None), state  # type: ignore[attr-defined]


def _deep_copy(self: nn.Module, memo: dict[int, Any]) -> nn.Module:
    new = type(self).__new__(type(self))
    memo[id(self)] = new
    new.__dict__.update(copy.deepcopy(self.__dict__, memo))
    return new
