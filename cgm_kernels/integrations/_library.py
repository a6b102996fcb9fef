"""Replacing functions of a library, everywhere the library refers to them, and putting them back."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import Any

import torch

from . import _report


class PassOn(Exception):
    """Raised by a route whose call the library is to answer; ``changed`` replaces arguments (a sample it drew)."""

    def __init__(self, reason: str, **changed: Any) -> None:
        super().__init__(reason)
        self.reason, self.changed = reason, changed


@dataclass(frozen=True)
class Library:
    """A library and the functions of it that we answer.

    Attributes:
        name: as users and package indexes call it.  package: the name it is imported by.
        routes: for each dotted path of a function, ``route(original, **arguments)``: the result, or it raises
            :class:`PassOn`. It takes every argument of the original by name.
        check: raises RuntimeError for a version whose behaviour the routes are not known to keep.
    """

    name: str
    package: str
    routes: Mapping[str, Callable[..., Any]]
    check: Callable[[ModuleType], None]


_lock = threading.RLock()
_counts: dict[str, int] = {}
_replaced: dict[str, list[tuple[Callable[..., Any], Callable[..., Any]]]] = {}


def applied(name: str) -> bool:
    return _counts.get(name, 0) > 0


class Patch:
    """A patch that is in force; leaving its ``with`` block takes it back."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._held = False
        self._hold()

    def _hold(self) -> None:
        with _lock:
            if not self._held:
                _apply(self._library)
                self._held = True

    def __enter__(self) -> Patch:
        self._hold()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _lock:
            if self._held and applied(self._library.name):
                self.undo(self._library)
            self._held = False

    def __repr__(self) -> str:
        return f"<patch of {self._library.name}: {_counts.get(self._library.name, 0)} in force>"

    @staticmethod
    def undo(library: Library) -> None:
        with _lock:
            if not applied(library.name):
                raise RuntimeError(f"{library.name} is not patched")
            _counts[library.name] -= 1
            if _counts[library.name] == 0:
                _replace(library.package, [(ours, original) for original, ours in _replaced.pop(library.name)])


def _apply(library: Library) -> None:
    if not applied(library.name):
        package = importlib.import_module(library.package)
        library.check(package)
        pairs = []
        for path, route in library.routes.items():
            module, _, name = path.rpartition(".")
            original = getattr(importlib.import_module(module), name)
            pairs.append((original, _wrap(f"{library.package}.{name}", original, route)))
        _replace(library.package, pairs)
        _replaced[library.name] = pairs
    _counts[library.name] = _counts.get(library.name, 0) + 1


def _replace(package: str, pairs: Sequence[tuple[Callable[..., Any], Callable[..., Any]]]) -> None:
    """Rebind every name of every loaded module of ``package``: aliases, and what the modules import from each other."""
    new_of = {id(old): new for old, new in pairs}
    for module_name, module in list(sys.modules.items()):
        if module is not None and (module_name == package or module_name.startswith(package + ".")):
            for name, value in list(vars(module).items()):
                if id(value) in new_of:
                    setattr(module, name, new_of[id(value)])


def _wrap(name: str, original: Callable[..., Any], route: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(original)
    _report.enroll(name)

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return original(*args, **kwargs)
        try:
            arguments = signature.bind(*args, **kwargs)
        except TypeError:
            arguments = None
        if arguments is None:
            _report.count(name, "arguments of no such call")
            return original(*args, **kwargs)
        arguments.apply_defaults()
        try:
            result = route(original, **arguments.arguments)
        except PassOn as passed:
            reason, changed = passed.reason, passed.changed
        else:
            _report.count(name, None)
            return result
        # Outside of the except clause, so that the library's own errors come without ours as their context.
        _report.count(name, reason)
        return original(**{**arguments.arguments, **changed}) if changed else original(*args, **kwargs)

    return wrapper
