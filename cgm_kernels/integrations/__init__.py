"""Other people's libraries on our kernels: same calls, same numbers, reversible.

``patch("pot")`` routes functions of an installed library to ours wherever the result is the same, and leaves every
other call to the library; ``report()`` says how many went where, and why. A library is one module of this package that
holds a ``LIBRARY``, and one line in ``_MODULES``.
"""

from __future__ import annotations

import importlib
import importlib.metadata

from ._library import Library, Patch, applied
from ._report import Calls, Report, take

__all__ = ["Calls", "Patch", "Report", "patch", "report", "status", "unpatch"]

_MODULES = {"pot": ".pot"}
_ALIASES = {"ot": "pot"}


def _library(library: str) -> Library:
    name = _name(library)
    try:
        return importlib.import_module(_MODULES[name], __package__).LIBRARY
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.startswith("cgm_kernels"):
            raise
        raise ModuleNotFoundError(
            f"{missing.name} is not installed: integrations.patch({library!r}) needs it (pip install {name})",
            name=missing.name,
        ) from None


def _name(library: str) -> str:
    name = _ALIASES.get(str(library).lower(), str(library).lower())
    if name not in _MODULES:
        raise ValueError(f"library must be one of {', '.join(sorted([*_MODULES, *_ALIASES]))}: got {library!r}")
    return name


def patch(library: str) -> Patch:
    """Route ``library`` ("pot", also by its import name "ot") to our kernels, at once and in every thread.

    The result is a context manager: ``with patch("pot"): ...`` takes the patch back at the end of the block. Patches
    count: the first one replaces the functions, in every loaded module of the library that refers to them; the library
    is itself again after as many :func:`unpatch` (or ends of blocks) as there were patches. A name that your own
    module imported from the library before the patch keeps the library's function.

    Raises:
        ValueError: ``library`` is unknown. ModuleNotFoundError: it is not installed.
        RuntimeError: its version is not one whose behaviour the patch is known to keep.
    """
    return Patch(_library(library))


def unpatch(library: str) -> None:
    """Take back one :func:`patch` of ``library``; ``RuntimeError`` where there is none."""
    Patch.undo(_library(library))


def report(*, reset: bool = False) -> Report:
    """For each routed function, the calls that ran on our kernels and those passed on to the library, by reason.

    ``reset`` starts the counts anew after they are taken. Counts outlive :func:`unpatch`. Calls that torch.compile
    traces go to the library and are not counted. ``print(report())`` is a table.
    """
    return take(reset)


def status() -> dict[str, str]:
    """For each library: "patched", or the version installed, or that it is not installed."""
    return {name: _status(name) for name in _MODULES}


def _status(name: str) -> str:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
    return f"patched (version {version})" if applied(name) else f"not patched (version {version})"
