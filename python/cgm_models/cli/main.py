"""Which command was asked for. Commands are imported when they run, so that help and lists need no torch."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "fit": "fit a model to data and write a run directory",
    "sample": "draw samples from a run, as a picture or as numbers",
    "evaluate": "compare a run's samples with held-out data",
    "list": "the models and data sets there are",
    "info": "what a run directory holds",
}
_USAGE = "usage: cgm COMMAND ...   (cgm COMMAND --help tells its options)"
_EXPECTED = (ValueError, TypeError, OSError, RuntimeError, NotImplementedError, ModuleNotFoundError, FloatingPointError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print("\n".join([_USAGE, "", *(f"  {name:<10}{text}" for name, text in COMMANDS.items())]))
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in COMMANDS:
        return _fail(f"unknown command {name!r}. Known: {', '.join(COMMANDS)}.")
    module = importlib.import_module(f"{__package__}.{name}_command")
    try:
        return module.run(rest)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except SystemExit as stop:  # argparse: help is 0, a wrong option 2
        return stop.code if isinstance(stop.code, int) else 2
    except _EXPECTED as error:
        return _fail(str(error))


def _fail(message: str, status: int = 2) -> int:
    print(f"cgm: error: {message}", file=sys.stderr)
    return status
