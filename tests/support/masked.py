"""Masked autoregressive networks for every backend of masked_mlp_inverse."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import cgm_kernels


@dataclass(frozen=True)
class Case:
    """The shape and the options of one problem; ``draw`` makes its tensors."""

    dim: int
    hidden: tuple[int, ...] = (11, 9)
    rows: tuple[int, ...] = (37,)
    context: int = 0
    order: str = "random"  # natural, reversed, random, or halves: two steps, as in a coupling
    degrees: str = "cycle"  # of the hidden units: cycle or random
    row_bias: int | None = None  # the layer whose bias differs from row to row
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        options = "-".join(str(value) for value in self.options.values())
        return f"{self.dim}-{'x'.join(map(str, self.hidden))}-{self.order}-{self.degrees}-c{self.context}-{options}"

    def draw(self, dtype: torch.dtype = torch.float64, device: str = "cpu", seed: int = 0) -> dict[str, Any]:
        """The arguments of ``masked_mlp_inverse`` by name."""
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int, scale: float = 1.0) -> Tensor:
            return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(device, dtype)

        masks = [mask.to(device) for mask in self.masks(generator)]
        biases: list[Tensor | None] = [normal(len(mask), scale=0.3) for mask in masks]
        biases[-1] = None if self.degrees == "random" else biases[-1]
        if self.row_bias is not None:
            biases[self.row_bias] = normal(*self.rows, len(masks[self.row_bias]))
        return {
            "y": normal(*self.rows, self.dim),
            "weights": [normal(*mask.shape, scale=1.0 / max(mask.shape[1], 1) ** 0.5) for mask in masks],
            "biases": biases,
            "masks": masks,
            "context": normal(*self.rows, self.context) if self.context else None,
            **self.options,
        }

    def masks(self, generator: torch.Generator) -> list[Tensor]:
        order = torch.arange(self.dim)
        if self.order == "reversed":
            order = order.flip(0)
        elif self.order == "random":
            order = torch.randperm(self.dim, generator=generator)
        elif self.order == "halves":
            order = (order >= self.dim // 2).long()
        before = [order + 1, torch.zeros(self.context, dtype=torch.long)]
        degrees, masks = torch.cat(before), []
        for units in self.hidden:
            if self.degrees == "cycle":
                own = torch.arange(units) % max(int(order.max()), 1) + 1
            else:
                own = torch.randint(0, int(order.max()) + 2, (units,), generator=generator)
            masks.append(own.unsqueeze(1) >= degrees)
            degrees = own
        layout = self.options.get("layout", "scale_shift")
        outputs = (order + 1).repeat_interleave(2) if layout.startswith("interleaved") else (order + 1).repeat(2)
        return [*masks, outputs.unsqueeze(1) > degrees]


ACTIVATIONS = ("relu", "tanh", "sigmoid", "silu", "gelu", "elu", "softplus")
SCALES = (
    {"scale": "exp"},
    {"scale": "tanh", "bound": 1.5},
    {"scale": "softclip"},
    {"scale": "sigmoid"},
    {"scale": "sigmoid", "eps": 0.1},
    {"scale": "softplus", "offset": 0.5, "eps": 0.01},
    {"scale": "gate"},
)
LAYOUTS = ("scale_shift", "shift_scale", "interleaved_scale_shift", "interleaved_shift_scale")

CASES = [
    Case(1, (3,)),
    Case(2, ()),
    Case(7, (12,), rows=(), order="natural"),
    Case(9, (20, 8), rows=(2, 3, 5), order="reversed", context=2),
    Case(8, (16, 5, 7), order="halves", row_bias=1),
    Case(21, (40, 33), rows=(65,), degrees="random", context=3),
    Case(6, (8, 8, 8), options={"residual": True, "activation": "tanh", "scale": "tanh"}),
    Case(
        7, (12, 9, 12, 15, 12), context=1, row_bias=2, order="natural", options={"residual": True, "scale": "softclip"}
    ),
    *[Case(4, (6,), options={"activation": name}) for name in ACTIVATIONS],
    *[Case(4, (6,), options=dict(options)) for options in SCALES],
    *[Case(4, (6,), options={"map": "standardize", **options}) for options in SCALES],
    *[Case(5, (7,), options={"layout": name}) for name in LAYOUTS],
]


def inputs_of(arguments: dict[str, Any]) -> list[Tensor]:
    """What the results are differentiated by."""
    tensors = [arguments["y"], *arguments["weights"], *arguments["biases"], arguments["context"]]
    return [tensor for tensor in tensors if tensor is not None]


def moved(arguments: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """``arguments`` with leaves of ``dtype`` for their tensors, the masks aside."""

    def one(value: Any) -> Any:
        if isinstance(value, list):
            return [one(item) for item in value]
        floats = isinstance(value, torch.Tensor) and value.is_floating_point()
        return value.detach().to(dtype, copy=True).requires_grad_() if floats else value

    return {name: one(value) for name, value in arguments.items()}


def results(backend: str, arguments: dict[str, Any]) -> list[Tensor]:
    """x, log_det, and the gradients of a sum that tells every element apart."""
    with cgm_kernels.use_backend(backend):
        x, log_det = cgm_kernels.masked_mlp_inverse(**arguments)
    weight = torch.linspace(0.5, 1.5, x.numel(), dtype=x.dtype).reshape(x.shape)
    gradients = torch.autograd.grad((x * weight).sum() + 0.7 * log_det.square().sum(), inputs_of(arguments))
    return [x, log_det, *gradients]
