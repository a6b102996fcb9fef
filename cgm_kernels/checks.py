"""What every operation asks of its arguments; an error names the argument, what was expected and what came."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Any

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor: got {type(value).__name__}")
    if value.dtype not in FLOATS:
        raise TypeError(f"{name} must be float32, float64, float16 or bfloat16: got {value.dtype}")
    if value.layout is not torch.strided or value.is_nested:
        raise TypeError(
            f"{name} must be a dense tensor: got layout {value.layout}{' (nested)' if value.is_nested else ''}"
        )


def like(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """``value`` is a float tensor with the dtype and device of ``other``."""
    tensor(name, value)
    if value.dtype is not other.dtype:
        raise TypeError(f"{name} must have the dtype of {other_name}, {other.dtype}: got {value.dtype}")
    if value.device != other.device:
        raise ValueError(f"{name} must be on the device of {other_name}, {other.device}: got {value.device}")


def integer(name: str, value: Any, expected: str = "an int") -> int:
    """``value``, an integer of any type, as an int; a bool is none, and a tensor one if it is a single number."""
    if not isinstance(value, bool) and not (isinstance(value, Tensor) and (value.ndim or value.dtype is torch.bool)):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise TypeError(f"{name} must be {expected}: got {type(value).__name__}")


def count(name: str, value: int) -> int:
    number = integer(name, value)
    if number < 1:
        raise ValueError(f"{name} must be at least 1: got {value}")
    return number


def flag(name: str, value: Any) -> bool:
    """A bool, NumPy's too: a word such as "no" would count as true."""
    if isinstance(value, bool):
        return value
    if type(value).__name__ in ("bool", "bool_") and type(value).__module__ == "numpy":
        return bool(value)
    raise TypeError(f"{name} must be True or False: got {type(value).__name__}")


def choice(name: str, value: Any, known: Iterable[str]) -> None:
    """``value`` is one of these names."""
    names = tuple(known)
    if not isinstance(value, str) or value not in names:
        raise ValueError(f"{name} must be one of {', '.join(names)}: got {value!r}")


def listed(name: str, value: Any, expected: str = "a list of tensors, one for each layer") -> list[Any]:
    """The list of what a sequence holds, a ``torch.nn.ParameterList`` among them."""
    if isinstance(value, list):
        return value
    named = isinstance(value, (Tensor, Mapping, str))
    if named or not (isinstance(value, Sequence) or (isinstance(value, Sized) and hasattr(value, "__getitem__"))):
        raise TypeError(f"{name} must be {expected}: got {type(value).__name__}")
    return list(value)  # type: ignore[call-overload]


def number(name: str, value: float) -> float:
    """A finite number, as a float."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number: got {type(value).__name__}")
    if not -math.inf < value < math.inf:  # math.isfinite would break a compiled graph
        raise ValueError(f"{name} must be finite: got {value}")
    return float(value)
