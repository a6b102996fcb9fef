"""What layers read beside their arguments, so that a layer run again in a backward does what it first did."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Generator, Tensor, nn

_Place = tuple[nn.Module, str]
_Mark = tuple[int, bool]
_recomputation = threading.local()  # the backward of CUDA tensors runs in a thread of its own


class LayerState:
    """The parameters, buffers and modes of ``module`` around one run of it, and the generators that it may draw from.

    Make one before the run and call :meth:`note_run` after it. The buffers that the run changes (running averages) are
    kept as they were before and after it: :meth:`again` gives either back, and takes away what is done to them inside.
    All else must stay as it is, which :meth:`check` asserts by the tensors' version counters.
    """

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self.module, self.device = module, device
        self.modules = list(module.modules())
        self.modes = [one.training for one in self.modules]
        self.own = [value for one in self.modules for value in vars(one).values() if type(value) is Generator]
        self.parameters = _marked(module)
        self.buffers = _buffers(self.modules)
        self.before = {place: buffer.clone() for place, (buffer, _) in self.buffers.items()}
        self.after: dict[_Place, Tensor] = {}

    def note_run(self) -> None:
        now, parameters = _buffers(self.modules), _marked(self.module)
        moved = [p for p, found in now.items() if _uncounted(p[0]) or not _same(found, self.buffers.get(p))]
        self.after = {place: now[place][0].clone() for place in moved}
        # A run that set parameters, as the first of an actnorm, would set them anew: it goes on from where it ended.
        first = len(parameters) != len(self.parameters) or not all(map(_same, parameters, self.parameters))
        self.before = {p: self.after[p] if first else self.before.get(p, self.after[p]) for p in moved}
        self.buffers = {place: found for place, found in now.items() if place not in self.after}
        self.parameters = parameters

    def check(self) -> None:
        """``RuntimeError`` where something is not as the run left it."""
        now = _marked(self.module)
        if len(now) != len(self.parameters) or not all(map(_same, now, self.parameters)):
            raise RuntimeError(
                "the parameters of an InvertibleSequence must be the same in backward as in forward: they were changed "
                "in place, replaced (torch.func.functional_call does that), or had their requires_grad changed in "
                "between"
            )
        buffers = _buffers(self.modules)
        for place, found in self.buffers.items():
            if not _same(found, buffers.get(place)):
                raise RuntimeError(
                    f"the buffer {self._name(place)} of an InvertibleSequence must be the same in backward as in "
                    "forward: it was changed in place or replaced in between"
                )
        if self.modes != [one.training for one in self.modules]:
            raise RuntimeError(
                "an InvertibleSequence must be in the same mode in backward as in forward: train() or eval() was "
                "called in between"
            )

    def random_states(self) -> list[Tensor]:
        states = [torch.get_rng_state(), *(generator.get_state() for generator in self.own)]
        return [*states, torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else states

    @contextlib.contextmanager
    def again(self, random_states: list[Tensor], buffers: dict[_Place, Tensor]) -> Iterator[None]:
        """Inside, the generators in these states and ``buffers``, :attr:`before` or :attr:`after`; as now after it."""
        outside, within = [generator.get_state() for generator in self.own], recomputing()
        current = {(one, name): getattr(one, name) for one, name in buffers}
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.set_rng_state(random_states[0])
            if self.device.type == "cuda":
                torch.cuda.set_rng_state(random_states[-1], self.device)
            _set_states(self.own, random_states[1:])
            for (one, name), value in buffers.items():
                setattr(one, name, value.clone())
            _recomputation.runs = True
            try:
                yield
            finally:
                _recomputation.runs = within
                for (one, name), buffer in current.items():
                    setattr(one, name, buffer)
                _set_states(self.own, outside)

    @contextlib.contextmanager
    def unchanged(self, layer: nn.Module) -> Iterator[None]:
        """Inside, ``layer`` is run to recompute: what it does to its parameters and buffers is taken back.

        ``RuntimeError`` where it set numbers anew that it computes with, as an actnorm at its first batch: what the run
        gave is then wrong. The layer's plain attributes are taken back, too.
        """
        attributes = [(one, dict(vars(one))) for one in layer.modules()]
        held = [
            (one, name, place, tensor, _mark(tensor), tensor.detach().clone())
            for one, _ in attributes
            for place in (one._parameters, one._buffers)
            for name, tensor in place.items()
            if tensor is not None and (one, name) not in self.after  # of those :meth:`again` takes care
        ]
        yield
        set_anew = []
        for one, name, place, tensor, mark, value in held:
            now = place.get(name)
            if now is tensor and _mark(tensor) == mark:
                continue
            if now is None or not torch.equal(now, value):
                set_anew += [self._name((one, name))] if value.is_floating_point() else []
                with torch.no_grad():
                    tensor.copy_(value)
            setattr(one, name, tensor)
            if (one, name) in self.buffers:
                self.buffers[one, name] = (tensor, _mark(tensor))
        if set_anew:
            for one, before in attributes:
                vars(one).update(before)
            raise RuntimeError(
                f"{type(layer).__name__} of an InvertibleSequence set {', '.join(set_anew)} anew where its input was "
                "recomputed, as a layer does that its first batch initialises: initialise it first, by a batch through "
                "the direction (forward or inverse) that does it, or use eval()"
            )

    def _name(self, place: _Place) -> str:
        names = {one: name for name, one in self.module.named_modules()}
        return f"{names[place[0]]}.{place[1]}".lstrip(".")


def recomputing() -> bool:
    return getattr(_recomputation, "runs", False)


def trained(module: nn.Module) -> list[Tensor]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def autocast_options(device: str) -> list[dict[str, Any]]:
    """The state of autocast, for :func:`autocast`."""
    kinds = {"cpu", device} if torch.amp.is_autocast_available(device) else {"cpu"}
    return [
        {
            "device_type": kind,
            "enabled": torch.is_autocast_enabled(kind),
            "dtype": torch.get_autocast_dtype(kind),
            "cache_enabled": False,  # a weight cast without gradient must not serve the pass with one
        }
        for kind in sorted(kinds)
    ]


@contextlib.contextmanager
def autocast(options: list[dict[str, Any]]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for arguments in options:
            stack.enter_context(torch.autocast(**arguments))
        yield


def _buffers(modules: list[nn.Module]) -> dict[_Place, tuple[Tensor, _Mark]]:
    found = ((one, name, buffer) for one in modules for name, buffer in one._buffers.items())
    return {(one, name): (buffer, _mark(buffer)) for one, name, buffer in found if buffer is not None}


def _marked(module: nn.Module) -> list[tuple[Tensor, _Mark]]:
    return [(parameter, _mark(parameter)) for parameter in module.parameters()]


def _mark(tensor: Tensor) -> _Mark:
    """What tells that a tensor was changed; inference tensors do not count their changes."""
    return -1 if tensor.is_inference() else tensor._version, tensor.requires_grad


def _uncounted(module: nn.Module) -> bool:
    """Whether it may change its buffers past their version counters, as the running averages of a norm."""
    return module.training and isinstance(module, nn.modules.batchnorm._NormBase)


def _same(one: tuple[Tensor, _Mark], other: tuple[Tensor, _Mark] | None) -> bool:
    return other is not None and one[0] is other[0] and one[1] == other[1]


def _set_states(generators: list[Generator], states: list[Tensor]) -> None:
    for generator, state in zip(generators, states, strict=False):
        generator.set_state(state)
