"""What a function asks of PyTorch, and leaves with it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Called(TorchDispatchMode):
    """Within, the names of what is called of PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


def made_by(tensor: Tensor) -> str:
    """The name of the operation whose gradient the tensor carries."""
    node = tensor.grad_fn
    assert node is not None
    return type(node).__name__ if isinstance(node, torch.autograd.function.BackwardCFunction) else node.name()
