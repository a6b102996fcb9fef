"""Optimisers by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from .trainer import Trainer

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


def make_optimizer(options: Trainer, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser that ``options`` name, in its fused form.

    Under float16 the gradients are unscaled before they are clipped, which fused optimisers cannot leave to Fabric, and
    fused SGD does not know parameters that are spread over processes.
    """
    chosen: dict[str, Any] = {"lr": options.lr, "weight_decay": options.weight_decay}
    chosen |= {"momentum": options.momentum} if options.optimizer == "sgd" else {"betas": tuple(options.betas)}
    unfused = options.precision == "16-mixed" or (options.strategy, options.optimizer) == ("fsdp", "sgd")
    chosen |= {"foreach": True} if unfused else {"fused": True}
    return OPTIMIZERS[options.optimizer](list(parameters), **chosen)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
