"""Other people's libraries on our kernels: same calls, same numbers (torchebm: of the same law), reversible.

``patch("pot")`` routes functions and methods of an installed library to ours wherever the result is the same, and
leaves every other call to the library; ``accelerate(model)`` does so for one model of normflows, nflows or zuko alone.
``report()`` says how many calls went where, and why. A library is one module of this package that holds a ``LIBRARY``,
and one line in ``_MODULES``.
"""

from __future__ import annotations

import importlib
import importlib.metadata

from torch import nn

from ._accelerate import Accelerated, Swap, swap
from ._library import Library, Patch, applied
from ._report import Calls, Report, take

__all__ = ["Accelerated", "Calls", "Patch", "Report", "Swap", "accelerate", "patch", "report", "status", "unpatch"]

_MODULES = {
    "pot": ".pot",
    "normflows": ".normflows",
    "nflows": ".nflows",
    "zuko": ".zuko",
    "torchdiffeq": ".torchdiffeq",
    "torchebm": ".torchebm",
}
_FLOWS = ("normflows", "nflows", "zuko")
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
    """Route ``library`` ("pot", also "ot"; "normflows", "nflows", "zuko", "torchdiffeq", "torchebm") to our kernels in
    every thread.

    The result is a context manager: ``with patch("pot"): ...`` takes the patch back at the end of the block. Patches
    count: the first one replaces the functions, in every loaded module of the library that refers to them; the library
    is itself again after as many :func:`unpatch` (or ends of blocks) as there were patches. A name that your own
    module imported from the library before the patch keeps the library's function.

    Masks and indices of a flow's layers may change between calls. One thing is not seen: a change that autograd does
    not count, through ``.data`` or NumPy, of a mask on a GPU or of an autoregressive network's masks.

    Second derivatives, as of score matching, are right, in PyTorch's operators. torch.func gets the library's own.

    A coupling's inverse keeps its result for the backward: ``x.mul_(2)`` on a reparametrised sample makes that raise,
    which it does not in the libraries; write ``x = x * 2``, or into a clone.

    Raises:
        ValueError: ``library`` is unknown. ModuleNotFoundError: it is not installed.
        RuntimeError: its version is not one whose behaviour the patch is known to keep.
    """
    return Patch(_library(library))


def unpatch(library: str) -> None:
    """Take back one :func:`patch` of ``library``; ``RuntimeError`` where there is none."""
    Patch.undo(_library(library))


def accelerate(module: nn.Module) -> Accelerated:
    """Run the layers of one model of normflows, nflows or zuko on our kernels, found by walking its modules.

    Parameters, state dict, hooks and numbers (to rounding) stay; what is not recognised stays as it is, and so do the
    libraries themselves. The result lists the layers that were swapped and takes them back by ``undo()`` or at the end
    of a ``with`` block; it is empty where there are none. A pickled model is one of the plain library again, a deep
    copy stays accelerated. Masks may change between calls as under :func:`patch`.

    Raises:
        TypeError: ``module`` is no ``nn.Module``. RuntimeError: the version of its library is not a known one.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module: got {type(module).__name__}")
    packages = {type(child).__module__.partition(".")[0] for child in module.modules()}
    return swap(module, [_library(name) for name in _FLOWS if name in packages])


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
