"""The exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from .sharding import own_part


class WeightAverage:
    """``a ← β_k a + (1 − β_k) w`` after every step, β_k = min(decay, k / (9 + k)), k = 0, 1, ….

    With β_0 = 0 the average begins at the weights after the first step, whatever they were before it (parameters that
    the first batch sets), and the rising β_k lets it forget the next ones soon. Parameters are averaged; buffers
    (counts, running statistics) are those of the model. Under FSDP every process averages the parts it holds.
    """

    def __init__(self, parameters: Iterable[Tensor], decay: float) -> None:
        self.decay = decay
        self.parameters = [own_part(parameter.detach()) for parameter in parameters]
        self.average = [parameter.clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """``step`` counts the updates before this one."""
        decay = min(self.decay, step / (9 + step))
        get_ema_multi_avg_fn(decay)(self.average, self.parameters, step)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within, the parameters hold their averages."""
        own = [parameter.clone() for parameter in self.parameters]
        self.copy_to_parameters()
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, own)

    @torch.no_grad()
    def copy_to_parameters(self) -> None:
        torch._foreach_copy_(self.parameters, self.average)

    @torch.no_grad()
    def copy_from_parameters(self) -> None:
        torch._foreach_copy_(self.average, self.parameters)
