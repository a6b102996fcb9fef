"""Command-line options read off constructors, with the help in their docstrings."""

from __future__ import annotations

import inspect
import re
from typing import Any

from jsonargparse import ArgumentParser

# What the data decides, not the user.
FROM_DATA = ("event_shape", "context_dim", "dim")  # dim: short for a one-dimensional event_shape
# What --seed and --quiet say already.
_TRAINER_FROM_FIT = {"seed", "progress"}


def with_underscores(arguments: list[str]) -> list[str]:
    """``--n-steps`` for ``--n_steps``: both spellings are accepted."""
    spelled = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        spelled.append(name[:2] + name[2:].replace("-", "_") + equals + value if name.startswith("--") else argument)
    return spelled


def add_constructor(parser: ArgumentParser, model: type) -> list[str]:
    """Add an option for every constructor argument of ``model`` that the data does not decide; their names."""
    names = [name for name in inspect.signature(model).parameters if name not in FROM_DATA]
    skip = {name for name in FROM_DATA if name in inspect.signature(model).parameters}
    parser.add_class_arguments(model, skip=skip, fail_untyped=False)
    parser._action_groups[-1].title = f"{model.__name__}"
    _describe(parser, {name: text for name, text in argument_texts(model.__doc__ or "").items() if name in names})
    return names


def add_trainer(parser: ArgumentParser, trainer: type) -> None:
    """Add ``--trainer.max_steps`` and the other options of the trainer."""
    parser.add_class_arguments(trainer, "trainer", skip=_TRAINER_FROM_FIT)
    parser._action_groups[-1].title = "trainer"
    _describe(parser, {f"trainer.{name}": text for name, text in argument_texts(trainer.__doc__ or "").items()})


def _describe(parser: ArgumentParser, texts: dict[str, str]) -> None:
    for action in parser._actions:
        if texts.get(action.dest):
            action.help = texts[action.dest].replace("%", "%%") + " (default: %(default)s)"


def argument_texts(docstring: str) -> dict[str, str]:
    """The text of every argument in the ``Args:`` part of a docstring."""
    lines = inspect.cleandoc(docstring).splitlines()
    if "Args:" not in lines:
        return {}
    texts: dict[str, str] = {}
    current = ""
    for line in lines[lines.index("Args:") + 1 :]:
        if line and not line.startswith(" "):
            break
        start = re.match(r" {4}(\w+): (.*)", line)
        if start:
            current = start[1]
            texts[current] = start[2]
        elif current and line.strip():
            texts[current] += " " + line.strip()
    return texts


def plain(value: Any) -> Any:
    """``value`` with tuples as lists, as YAML writes them."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value
