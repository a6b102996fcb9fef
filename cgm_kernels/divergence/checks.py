"""What the arguments of the divergences must be; an error names the argument, what was expected and what came."""

from __future__ import annotations

import itertools
import numbers
from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from ..checks import FLOATS, like, listed, number, tensor
from .packing import Film


def points(x: Tensor) -> None:
    tensor("x", x)
    if x.dim() != 2 or x.shape[1] == 0:
        raise ValueError(f"x must be (B, d) with d at least 1: got shape {tuple(x.shape)}")


def layers(x: Tensor, weights: list[Any], biases: list[Any], n_others: int, others: str = "") -> None:
    """Layers that follow one another from d numbers, and ``n_others`` that are ``others``, to d."""
    d = x.shape[1]
    if not weights:
        raise ValueError("weights must have at least one layer: got none")
    if len(biases) != len(weights):
        raise ValueError(f"biases must have {len(weights)} layers, as weights: got {len(biases)}")
    inputs, source = d + n_others, f"x{others}"
    for k, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        name = f"weights[{k}]"
        like(name, weight, "x", x)
        if weight.dim() != 2 or weight.shape[0] == 0 or weight.shape[1] != inputs:
            raise ValueError(f"{name} must be (out, {inputs}) after {source}: got {tuple(weight.shape)}")
        inputs, source = weight.shape[0], name
        if bias is not None:
            like(f"biases[{k}]", bias, "x", x)
            if bias.shape != (inputs,):
                raise ValueError(f"biases[{k}] must be ({inputs},): got {tuple(bias.shape)}")
    if inputs != d:
        raise ValueError(f"weights[{len(weights) - 1}] must give {d} outputs, as many as x has: got {inputs}")


def time(t: Any, x: Tensor) -> None:
    """A finite number, or a float tensor () or (B,)."""
    if t is None:
        return
    if not isinstance(t, Tensor):
        if isinstance(t, bool) or not isinstance(t, numbers.Real):
            raise TypeError(f"t must be a number or a tensor: got {type(t).__name__}")
        number("t", float(t))
        return
    if t.dim() == 0:
        if t.dtype not in FLOATS:
            raise TypeError(f"t must be float32, float64, float16 or bfloat16: got {t.dtype}")
        if t.device != x.device and t.device.type != "cpu":
            raise ValueError(f"t must be on the device of x, {x.device}, or on the CPU: got {t.device}")
        return
    like("t", t, "x", x)
    if t.shape != x.shape[:1]:
        raise ValueError(f"t must be () or ({len(x)},), one for each row of x: got {tuple(t.shape)}")


def context(value: Tensor | None, x: Tensor) -> None:
    if value is None:
        return
    like("context", value, "x", x)
    if value.dim() not in (1, 2) or (value.dim() == 2 and len(value) != len(x)):
        raise ValueError(f"context must be (c,) or ({len(x)}, c): got {tuple(value.shape)}")


def estimate(probes: Tensor | None, exact: bool, x: Tensor, *, required: bool = True) -> None:
    """Either probes or the exact trace; neither where nothing is ``required``."""
    if probes is not None and exact:
        raise ValueError("probes must be None with exact=True, which takes the trace itself")
    if probes is None:
        if required and not exact:
            raise ValueError("probes must be given, (P, B, d), or exact=True: got neither")
        return
    probe_tensor(probes, x)


def probe_tensor(probes: Tensor, x: Tensor) -> None:
    like("probes", probes, "x", x)
    if probes.dim() != x.dim() + 1 or probes.shape[1:] != x.shape or len(probes) == 0:
        wanted = ", ".join(["P", *map(str, x.shape)])
        raise ValueError(f"probes must be ({wanted}) with P at least 1: got {tuple(probes.shape)}")
    if probes.requires_grad:
        raise ValueError("probes must not require grad, they are constants of the estimate: use probes.detach()")


def film(value: Any, weights: Sequence[Tensor], x: Tensor, n_rows: int, row: str) -> Film | None:
    """A list of None or (scale, shift) for each layer, each (H_k,) or (n_rows, H_k), one for each ``row``."""
    if value is None:
        return None
    entries = listed("film", value, "a list of None or (scale, shift), one for each layer")
    if len(entries) != len(weights):
        raise ValueError(f"film must have an entry for each of the {len(weights)} layers: got {len(entries)}")
    for k, (entry, weight) in enumerate(zip(entries, weights, strict=True)):
        if entry is None:
            continue
        if not isinstance(entry, (tuple, list)) or len(entry) != 2:
            raise TypeError(f"film[{k}] must be None or (scale, shift): got {_described(entry)}")
        for index, part in enumerate(entry):
            name = f"film[{k}][{index}]"
            like(name, part, "x", x)
            width = len(weight)
            if tuple(part.shape) not in ((width,), (n_rows, width)):
                rows = f" or ({n_rows}, {width}), one for each {row}"
                raise ValueError(f"{name} must be ({width},){rows}: got {tuple(part.shape)}")
    return entries


def _described(entry: Any) -> str:
    return f"{len(entry)} elements" if isinstance(entry, (tuple, list)) else type(entry).__name__


def step_times(times: Any) -> list[float]:
    """At least one finite number, in one direction; the ends of the steps."""
    if isinstance(times, Tensor):
        if times.dim() != 1 or times.requires_grad:
            got = "one that requires grad" if times.requires_grad else f"shape {tuple(times.shape)}"
            raise ValueError(f"times must be a tensor (N + 1,) of constants, or a sequence of numbers: got {got}")
        found = times.tolist()
    elif isinstance(times, (str, bytes)) or not isinstance(times, Sequence):
        raise TypeError(f"times must be a 1-D tensor or a sequence of numbers: got {type(times).__name__}")
    else:
        found = list(times)
    ends = [number(f"times[{n}]", value) for n, value in enumerate(found)]
    if not ends:
        raise ValueError("times must have at least one number: got none")
    differences = [b - a for a, b in itertools.pairwise(ends)]
    if not (all(h > 0 for h in differences) or all(h < 0 for h in differences)):
        raise ValueError("times must be strictly increasing or strictly decreasing")
    return ends


def generator(value: Generator | None, probes: Tensor | None) -> None:
    if value is not None and probes is not None:
        raise ValueError("generator and probes exclude each other: given probes are not drawn")
    if value is not None and torch.compiler.is_compiling():
        raise ValueError("generator must be None in a compiled function: give it probes that were drawn outside")
