"""Triton's interpreter, mended and quicker: at each call of a device function it patches the language again."""

from __future__ import annotations

from typing import Any

import triton
from triton import language
from triton.runtime import interpreter

_NAMES = ("GridExecutor", "InterpretedFunction", "InterpreterError", "_patch_lang")  # none of them is public


def index_by_one_element() -> None:
    """Triton 3.6 (torch 2.11) makes an index of an array of one element, which NumPy 2.4 refuses."""
    if not triton.__version__.startswith("3.6."):
        return
    patch = interpreter._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.squeeze()))

    interpreter._patch_lang_tensor = patched


def patch_once_a_launch() -> None:
    """Patch for a device function only the modules that the launch has not patched for another one."""
    if not all(hasattr(interpreter, name) for name in _NAMES):
        return
    patched: set[frozenset[int]] = set()
    launch = interpreter.GridExecutor.__call__

    def launched(self: Any, *arguments: Any, **keywords: Any) -> Any:
        patched.clear()
        return launch(self, *arguments, **keywords)

    def called(self: Any, *arguments: Any, **keywords: Any) -> Any:
        modules = vars(self).get("modules")
        if modules is None:
            known = self.fn.__globals__.values()
            modules = frozenset(id(one) for one in known if one is language or one is language.core)
            self.modules = modules
        if modules not in patched:
            interpreter._patch_lang(self.fn)
            patched.add(modules)
        try:
            return self.rewrite()(*arguments, **keywords)
        except Exception as error:
            raise interpreter.InterpreterError(repr(error)) from error

    interpreter.GridExecutor.__call__ = launched
    interpreter.InterpretedFunction.__call__ = called
