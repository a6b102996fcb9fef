"""Triton's interpreter, quicker: at each call of a device function it patches the language again, most of its time."""

from __future__ import annotations

from typing import Any

from triton import language
from triton.runtime import interpreter

_NAMES = ("GridExecutor", "InterpretedFunction", "InterpreterError", "_patch_lang")  # none of them is public


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
