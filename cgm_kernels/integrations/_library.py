"""Replacing functions of a library, everywhere the library refers to them, and putting them back."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType, TracebackType
from typing import Any

import torch

from . import _report


class PassOn(Exception):
    """Raised by a route whose call the library is to answer; ``changed`` replaces arguments (a sample it drew).

    Without a reason the call is not counted: what it calls answers, and counts, for itself.
    """

    def __init__(self, reason: str | None, **changed: Any) -> None:
        super().__init__(reason)
        self.reason, self.changed = reason, changed


@dataclass(frozen=True)
class Library:
    """A library and the functions and methods of it that we answer.

    Attributes:
        name: as users and package indexes call it.  package: the name it is imported by.
        routes: for each dotted path of a function, ``route(original, **arguments)``: the result, or it raises
            :class:`PassOn`. It takes every argument of the original by name.
        check: raises RuntimeError for a version whose behaviour the routes are not known to keep.
        glances: for some paths, of functions or methods, what sees from the positional arguments alone why a call is to
            be passed on, or gives None: a microsecond where a route takes ten, which counts where the original takes a
            hundred.
        methods: the same for methods, whose paths are ``"module:Class.method"``.
        instances: for each such path, what replaces the method or property in one accelerated model where that is not
            the route itself: it builds what has the routed methods.
        fits: raises :class:`PassOn` for a layer of which every call would be passed on.
    """

    name: str
    package: str
    routes: Mapping[str, Callable[..., Any]]
    check: Callable[[ModuleType], None]
    glances: Mapping[str, Callable[[tuple[Any, ...]], str | None]] = field(default_factory=dict)
    methods: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    instances: Mapping[str, Any] = field(default_factory=dict)
    fits: Callable[[Any], object] = lambda layer: None


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
                for method in methods(library):
                    method.take_back()


def _apply(library: Library) -> None:
    if not applied(library.name):
        package = importlib.import_module(library.package)
        library.check(package)
        pairs = []
        for path, route in library.routes.items():
            module, _, name = path.rpartition(".")
            original = getattr(importlib.import_module(module), name)
            wrapper = _wrap(f"{library.package}.{name}", original, route, library.glances.get(path))
            pairs.append((original, wrapper))
        _replace(library.package, pairs)
        _replaced[library.name] = pairs
        for method in methods(library):
            method.put()
    _counts[library.name] = _counts.get(library.name, 0) + 1


@dataclass(frozen=True)
class Method:
    """A method of a class and what stands for it under a patch."""

    owner: type
    name: str
    original: Callable[..., Any]
    wrapper: Callable[..., Any]
    inherited: bool

    def put(self) -> None:
        setattr(self.owner, self.name, self.wrapper)

    def take_back(self) -> None:
        if self.inherited:
            delattr(self.owner, self.name)
        else:
            setattr(self.owner, self.name, self.original)


def methods(library: Library) -> list[Method]:
    """The routed methods; found once, before the library is first patched."""
    with _lock:
        if library.name not in _methods:
            _methods[library.name] = [_method(library, path, route) for path, route in library.methods.items()]
        return _methods[library.name]


_methods: dict[str, list[Method]] = {}


def owner_of(path: str) -> tuple[type, str]:
    """The class of ``"module:Class.method"``, and the method's name."""
    module, _, qualified = path.partition(":")
    class_name, _, name = qualified.partition(".")
    return getattr(importlib.import_module(module), class_name), name


def _method(library: Library, path: str, route: Callable[..., Any]) -> Method:
    owner, name = owner_of(path)
    overridden = frozenset(n for n in dir(owner) if not n.startswith("__") and callable(getattr(owner, n)))

    def checked(original: Callable[..., Any], self: Any, *args: Any, **arguments: Any) -> Any:
        if getattr(type(self), "_accelerates", type(self)) is not owner:
            raise PassOn("a subclass")
        if not overridden.isdisjoint(vars(self)):
            raise PassOn("a method replaced in one object")
        return route(original, self, *args, **arguments)

    original = getattr(owner, name)
    wrapper = _wrap(f"{library.package}.{owner.__name__}.{name}", original, checked, library.glances.get(path))
    return Method(owner, name, original, wrapper, name not in vars(owner))


def _replace(package: str, pairs: Sequence[tuple[Callable[..., Any], Callable[..., Any]]]) -> None:
    """Rebind every name of every loaded module of ``package``: aliases, and what the modules import from each other."""
    new_of = {id(old): new for old, new in pairs}
    for module_name, module in list(sys.modules.items()):
        if module is not None and (module_name == package or module_name.startswith(package + ".")):
            for name, value in list(vars(module).items()):
                if id(value) in new_of:
                    setattr(module, name, new_of[id(value)])


def _wrap(
    name: str,
    original: Callable[..., Any],
    route: Callable[..., Any],
    glance: Callable[[tuple[Any, ...]], str | None] | None = None,
) -> Callable[..., Any]:
    bind = _binder(original)
    _report.enroll(name)

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return original(*args, **kwargs)
        if glance is not None and (seen := glance(args)) is not None:
            _report.count(name, seen)
            return original(*args, **kwargs)
        arguments = bind(args, kwargs)
        if arguments is None:
            _report.count(name, "arguments of no such call")
            return original(*args, **kwargs)
        try:
            result = route(original, **arguments)
        except PassOn as passed:
            reason, changed = passed.reason, passed.changed
        else:
            _report.count(name, None)
            return result
        # Outside of the except clause, so that the library's own errors come without ours as their context.
        if reason is not None:
            _report.count(name, reason)
        return original(**{**arguments, **changed}) if changed else original(*args, **kwargs)

    return wrapper


def _binder(original: Callable[..., Any]) -> Callable[[tuple[Any, ...], dict[str, Any]], dict[str, Any] | None]:
    """Arguments of a call of ``original`` by name, defaults included; None where they are not those of such a call."""
    signature = inspect.signature(original)
    parameters = list(signature.parameters.values())
    names, defaults = [one.name for one in parameters], [one.default for one in parameters]
    required = defaults.count(inspect.Parameter.empty)
    plain = all(one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for one in parameters)

    def bind(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
        if plain and len(args) <= len(names):  # the common call, at a tenth of the time
            rest = names[len(args) :]
            if all(name in kwargs for name in names[len(args) : required]) and all(name in rest for name in kwargs):
                found = dict(zip(names, (*args, *defaults[len(args) :]), strict=True))
                found.update(kwargs)
                return found
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return None
        bound.apply_defaults()
        return bound.arguments

    return bind
