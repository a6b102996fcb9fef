"""How a context enters a network."""

from __future__ import annotations

from torch import Tensor, nn


def given(context: Tensor | None) -> Tensor:
    """The context that a network with a ``context_dim`` must have."""
    if context is None:
        raise ValueError("this network was built with a context_dim: it needs a context")
    return context


def biased(h: Tensor, linear: nn.Linear | None, context: Tensor | None) -> Tensor:
    """``h`` (batch, channels, height, width), with a bias of each channel that is ``linear`` in the context."""
    return h if linear is None else h + linear(given(context))[:, :, None, None]
