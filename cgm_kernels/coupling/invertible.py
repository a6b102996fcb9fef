"""A sequence of invertible layers whose backward recomputes what it needs: memory constant in depth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .layer_state import LayerState, autocast, autocast_options, recomputing, trained

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
            (x, log_det)``. Run twice from the same state they must give the same. Buffers that a forward changes, as
            running averages, are copied once for it: its backward finds them as they were, and leaves them as they are.
            A layer that its first batch initialises must not do so while :meth:`recomputing`; one that does is put
            back, and a ``RuntimeError`` names it.
        check_drift: a tolerance; a backward that recomputes an input x further than ``check_drift · (1 + max |x|)``
            from the true one raises ``RuntimeError``. The input is then kept, too.

    A backward raises ``RuntimeError`` if parameters or buffers were changed since its forward, or ``train()`` or
    ``eval()`` was called; other tensors are not watched. Derivatives are of first order; they reach the input, the
    context and the parameters, as inputs of one autograd function: ``torch.autograd.grad``, hooks and distributed
    training see them as usual.
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

    @staticmethod
    def recomputing() -> bool:
        """Whether a backward, or :meth:`drift`, recomputes in this thread: what is run then was run before."""
        return recomputing()

    @torch.no_grad()
    def drift(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The largest |f⁻¹(f(x)) − x|, under dropout with the same draws: what the backward of ``x`` computes with."""
        state = LayerState(self, x.device)
        y, _, random = _sweep(self, x, context, False, state)
        state.note_run()
        for number in reversed(range(len(self.layers))):
            y = _recomputed(self.layers[number], y, context, True, state, random[number])
        return (y - x).abs().max() if x.numel() else x.new_zeros(())

    def _run(self, x: Tensor, context: Tensor | None, inverse: bool) -> tuple[Tensor, Tensor]:
        parameters = trained(self)
        wanted = x.requires_grad or (context is not None and context.requires_grad) or bool(parameters)
        if not torch.is_grad_enabled() or not wanted:
            y, log_det, _ = _sweep(self, x, context, inverse, None)
            return y, log_det
        return _Recompute.apply(self, inverse, x, context, *parameters)


class _Recompute(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, sequence: InvertibleSequence, inverse: bool, x: Tensor, context: Tensor | None, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.autocast, ctx.state = autocast_options(x.device.type), LayerState(sequence, x.device)
        with autocast(ctx.autocast):
            y, log_det, ctx.random = _sweep(sequence, x, context, inverse, ctx.state)
        ctx.state.note_run()
        y = y.view_as(y) if y is x else y
        ctx.sequence, ctx.inverse, ctx.parameters = sequence, inverse, parameters
        ctx.save_for_backward(y, context, x if sequence.check_drift is not None else None)
        return y, log_det

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_log_det: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        y, context, x = ctx.saved_tensors
        sequence = ctx.sequence
        ctx.state.check()
        totals: dict[int, Tensor] = {}
        order = range(len(sequence.layers))
        for number in order if ctx.inverse else reversed(order):
            layer, given, random = sequence.layers[number], context, ctx.random[number]
            with autocast(ctx.autocast):
                source = _recomputed(layer, y, context, not ctx.inverse, ctx.state, random).requires_grad_()
                if context is not None:
                    given = context.detach().requires_grad_(ctx.needs_input_grad[3])
                with torch.enable_grad(), ctx.state.again(random, ctx.state.before):
                    outputs = _apply(layer, source, given, ctx.inverse)
            inputs = [source, *trained(layer)]
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
        return None, None, grad_y, by_context, *[totals.get(id(parameter)) for parameter in ctx.parameters]


def _sweep(
    sequence: InvertibleSequence, x: Tensor, context: Tensor | None, inverse: bool, state: LayerState | None
) -> tuple[Tensor, Tensor, dict[int, list[Tensor]]]:
    """The map without gradients, and with ``state`` for each layer the states of the generators before it."""
    before: dict[int, list[Tensor]] = {}
    log_det, random = None, [] if state is None else state.random_states()
    with torch.no_grad():
        for number in reversed(range(len(sequence.layers))) if inverse else range(len(sequence.layers)):
            before[number] = random
            x, change = _apply(sequence.layers[number], x, context, inverse)
            log_det = change if log_det is None else log_det + change
            after = [] if state is None else state.random_states()
            # Layers that draw nothing share one.
            if not all(torch.equal(a, b) for a, b in zip(after, random, strict=True)):
                random = after
    return x, x.new_zeros(x.shape[:1]) if log_det is None else log_det, before


def _apply(layer: nn.Module, x: Tensor, context: Tensor | None, inverse: bool) -> tuple[Tensor, Tensor]:
    function = layer.inverse if inverse else layer
    return function(x, context)  # type: ignore[operator]


@torch.no_grad()
def _recomputed(
    layer: nn.Module, y: Tensor, context: Tensor | None, inverse: bool, state: LayerState, random: list[Tensor]
) -> Tensor:
    """What ``layer`` was given for ``y``, under the state that its run left."""
    with state.unchanged(layer), state.again(random, state.after):
        return _apply(layer, y, context, inverse)[0]


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


def _check_drift(tolerance: float, recomputed: Tensor, x: Tensor) -> None:
    if not x.numel():
        return
    drift, size = float((recomputed - x).abs().max()), float(x.abs().max())
    if not drift <= tolerance * (1.0 + size):
        raise RuntimeError(
            f"the inverses of this InvertibleSequence drifted: an input of size {size:.3g} came back {drift:.3g} away, "
            f"more than check_drift = {tolerance:.3g} allows; its layers are too ill-conditioned for {x.dtype}"
        )
