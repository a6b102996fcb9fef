"""A sequence of invertible layers whose backward recomputes what it needs: memory constant in depth."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["InvertibleSequence"]


class InvertibleSequence(nn.Module):
    """y = f_n(… f_1(x)) and the sum of the log-determinants, storing no activations.

    Autograd keeps the last output alone. The backward goes through the layers from the last: the layer's inverse gives
    its input back, and the layer run again from there gives its gradients, under the state of the random generators
    and of autocast that it was first run in. A gradient costs one inverse and one forward of each layer more. It is
    exact to the rounding of the inverses, which adds up with depth: :meth:`drift` measures it, ``check_drift`` watches
    it. Source: Gomez et al. 2017, "The reversible residual network".

    Args:
        layers: modules with ``forward(x, context=None) -> (y, log_det)`` and its ``inverse(y, context=None) ->
            (x, log_det)``. Run twice from the same state they must give the same: a layer that keeps running averages
            updates them more than once.
        check_drift: a tolerance; a backward that recomputes an input x further than ``check_drift · (1 + max |x|)``
            from the true one raises ``RuntimeError``. The input is then kept, too.

    Derivatives are of first order; they reach the input, the context and the parameters, as inputs of one autograd
    function: ``torch.autograd.grad``, hooks and distributed training see them as usual.
    """

    def __init__(self, layers: Iterable[nn.Module], *, check_drift: float | None = None) -> None:
        super().__init__()
        self.layers: Sequence[nn.Module]
        self.layers = nn.ModuleList(layers)  # type: ignore[assignment]
        for number, layer in enumerate(self.layers):
            if not callable(getattr(layer, "inverse", None)):
                raise TypeError(f"layers[{number}] must have a method inverse(y, context): got {type(layer).__name__}")
        if check_drift is not None and not check_drift > 0:
            raise ValueError(f"check_drift must be positive, or None: got {check_drift}")
        self.check_drift = check_drift

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``(y, log|det ∂y/∂x|)``, the log-determinant of shape (batch,)."""
        return self._run(x, context, inverse=False)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``(x, log|det ∂x/∂y|)``, as frugal as the forward."""
        return self._run(y, context, inverse=True)

    @torch.no_grad()
    def drift(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The largest |f⁻¹(f(x)) − x|, under dropout with the same draws: what the backward of ``x`` computes with."""
        y, _, states = _sweep(self, x, context, False)
        for number in reversed(range(len(self.layers))):
            with _generators(states[number], y.device):
                y, _ = _apply(self.layers[number], y, context, True)
        return (y - x).abs().max() if x.numel() else x.new_zeros(())

    def _run(self, x: Tensor, context: Tensor | None, inverse: bool) -> tuple[Tensor, Tensor]:
        parameters = _trained(self)
        wanted = x.requires_grad or (context is not None and context.requires_grad) or bool(parameters)
        if not torch.is_grad_enabled() or not wanted:
            y, log_det, _ = _sweep(self, x, context, inverse)
            return y, log_det
        return _Recompute.apply(self, inverse, x, context, *parameters)


class _Recompute(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, sequence: InvertibleSequence, inverse: bool, x: Tensor, context: Tensor | None, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.autocast = _autocast_options(x.device.type)
        with _autocast(ctx.autocast):
            y, log_det, ctx.states = _sweep(sequence, x, context, inverse)
        y = y.view_as(y) if y is x else y
        ctx.sequence, ctx.inverse = sequence, inverse
        ctx.parameters = [(parameter, parameter._version) for parameter in parameters]
        ctx.save_for_backward(y, context, x if sequence.check_drift is not None else None)
        return y, log_det

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_log_det: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        y, context, x = ctx.saved_tensors
        sequence = ctx.sequence
        _check_parameters(sequence, ctx.parameters)
        totals: dict[int, Tensor] = {}
        order = range(len(sequence.layers))
        for number in order if ctx.inverse else reversed(order):
            layer, given = sequence.layers[number], context
            with _autocast(ctx.autocast):
                with torch.no_grad(), _generators(ctx.states[number], y.device):
                    source, _ = _apply(layer, y, context, not ctx.inverse)
                source.requires_grad_()
                if context is not None:
                    given = context.detach().requires_grad_(ctx.needs_input_grad[3])
                with torch.enable_grad(), _generators(ctx.states[number], y.device):
                    outputs = _apply(layer, source, given, ctx.inverse)
            inputs = [source, *_trained(layer)]
            if given is not None and given.requires_grad:
                inputs.append(given)
            grad_y, *others = _gradients(outputs, inputs, (grad_y, grad_log_det))
            for tensor, grad in zip(inputs[1:], others, strict=True):
                key = id(context) if tensor is given else id(tensor)
                totals[key] = totals[key] + grad if key in totals else grad
            y = source.detach()
        if x is not None:
            _check_drift(sequence.check_drift, y, x)
        by_context = totals.get(id(context)) if ctx.needs_input_grad[3] else None
        return None, None, grad_y, by_context, *[totals.get(id(parameter)) for parameter, _ in ctx.parameters]


def _sweep(
    sequence: InvertibleSequence, x: Tensor, context: Tensor | None, inverse: bool
) -> tuple[Tensor, Tensor, dict[int, list[Tensor]]]:
    """The map without gradients, and for each layer the state of the generators before it."""
    states: dict[int, list[Tensor]] = {}
    log_det, state = None, _generator_states(x)
    with torch.no_grad():
        for number in reversed(range(len(sequence.layers))) if inverse else range(len(sequence.layers)):
            states[number] = state
            x, change = _apply(sequence.layers[number], x, context, inverse)
            log_det = change if log_det is None else log_det + change
            after = _generator_states(x)
            # Layers that draw nothing share one state.
            if not all(torch.equal(a, b) for a, b in zip(after, state, strict=True)):
                state = after
    return x, x.new_zeros(x.shape[:1]) if log_det is None else log_det, states


def _apply(layer: nn.Module, x: Tensor, context: Tensor | None, inverse: bool) -> tuple[Tensor, Tensor]:
    function = layer.inverse if inverse else layer
    return function(x, context)  # type: ignore[operator]


def _trained(module: nn.Module) -> list[Tensor]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _gradients(outputs: Sequence[Tensor], inputs: Sequence[Tensor], grads: Sequence[Tensor]) -> list[Tensor]:
    """As ``torch.autograd.grad``, with zeros where an input was not used."""
    reached = [(output, grad) for output, grad in zip(outputs, grads, strict=True) if output.requires_grad]
    found = torch.autograd.grad(
        [output for output, _ in reached],
        inputs,
        [grad.to(output.dtype) for output, grad in reached],
        allow_unused=True,
    )
    return [torch.zeros_like(tensor) if grad is None else grad for tensor, grad in zip(inputs, found, strict=True)]


def _check_parameters(sequence: nn.Module, before: list[tuple[Tensor, int]]) -> None:
    now = _trained(sequence)
    same = [p is q and p._version == version for p, (q, version) in zip(now, before, strict=False)]
    if len(now) != len(before) or not all(same):
        raise RuntimeError(
            "the parameters of an InvertibleSequence must be the same in backward as in forward: they were changed in "
            "place, replaced (torch.func.functional_call does that), or had their requires_grad changed in between"
        )


def _check_drift(tolerance: float, recomputed: Tensor, x: Tensor) -> None:
    if not x.numel():
        return
    drift, size = float((recomputed - x).abs().max()), float(x.abs().max())
    if not drift <= tolerance * (1.0 + size):
        raise RuntimeError(
            f"the inverses of this InvertibleSequence drifted: an input of size {size:.3g} came back {drift:.3g} away, "
            f"more than check_drift = {tolerance:.3g} allows; its layers are too ill-conditioned for {x.dtype}"
        )


def _generator_states(x: Tensor) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(x.device)] if x.is_cuda else states


@contextlib.contextmanager
def _generators(states: list[Tensor], device: torch.device) -> Iterator[None]:
    """The generators in these states inside, and as they were after it."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.set_rng_state(states[0])
        if device.type == "cuda":
            torch.cuda.set_rng_state(states[1], device)
        yield


def _autocast_options(device: str) -> list[dict[str, Any]]:
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
def _autocast(options: list[dict[str, Any]]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for arguments in options:
            stack.enter_context(torch.autocast(**arguments))
        yield
