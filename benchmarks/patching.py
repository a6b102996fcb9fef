"""A library with our patch in some rounds and without it in others."""

from __future__ import annotations

from cgm_kernels import integrations

_held: dict[str, integrations.Patch] = {}


def patched(library: str, on: bool) -> None:
    """``library`` with our patch, or without, from now on."""
    if on and library not in _held:
        _held[library] = integrations.patch(library)
    elif not on and library in _held:
        _held.pop(library).__exit__(None, None, None)
