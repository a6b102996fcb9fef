"""Cases of the Langevin step, for every backend; the oracle is the formula in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

import cgm_kernels
from cgm_kernels.philox import normal_reference

KEY = -0x1234_5678_9ABC_DEF0
STEP = 2**32 + 3


def state(device: str, key: int = KEY, step: int = STEP) -> Tensor:
    return torch.tensor((key, step), dtype=torch.int64, device=device)


@dataclass(frozen=True)
class Case:
    """One step; ``layout`` says how x, grad and out lie in memory, ``per_chain`` that h and T are tensors."""

    shape: tuple[int, ...]
    layout: str = "dense"  # "transposed", "sliced", "expanded", "scattered"
    per_chain: str = ""  # "h", "T", "hT" or "0" for tensors ()
    temperature: float = 0.7
    clamp: tuple[float, float] | None = None
    max_grad_norm: float | None = None
    scale: float = 1.0  # of grad

    def __str__(self) -> str:
        parts = ["x".join(map(str, self.shape)) or "scalar", self.layout]
        parts += [self.per_chain] if self.per_chain else []
        parts += [f"T{self.temperature:g}"] if self.temperature != 0.7 else []
        parts += ["clamp"] if self.clamp else []
        parts += [f"norm{self.max_grad_norm:g}"] if self.max_grad_norm else []
        parts += [f"scale{self.scale:g}"] if self.scale != 1.0 else []
        return "-".join(parts)

    def laid_out(self, values: Tensor) -> Tensor:
        """``values`` of this shape in memory as ``layout`` says."""
        if self.layout == "transposed":
            return values.permute(*reversed(range(values.dim()))).contiguous().permute(*reversed(range(values.dim())))
        if self.layout == "sliced":
            wide = torch.full((*self.shape[:-1], 2 * self.shape[-1] + 3), math.nan, dtype=values.dtype).to(
                values.device
            )
            wide[..., 1 : 1 + 2 * self.shape[-1] : 2] = values
            return wide[..., 1 : 1 + 2 * self.shape[-1] : 2]
        if self.layout == "scattered":  # no two neighbouring dimensions merge
            wide = torch.full([2 * size for size in self.shape], math.nan, dtype=values.dtype).to(values.device)
            inside = tuple(slice(0, 2 * size, 2) for size in self.shape)
            wide[inside] = values
            return wide[inside]
        return values

    def draw(
        self, dtype: torch.dtype, device: str, seed: int = 0
    ) -> tuple[Tensor, Tensor, Tensor | float, Tensor | float]:
        """x, grad, step size and temperature."""
        generator = torch.Generator().manual_seed(seed)
        chains = self.shape[0] if self.shape else 1

        def values(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        x, grad = values(*self.shape), self.scale * values(*self.shape)
        if self.layout == "expanded":
            x, grad = x[..., :1].expand(self.shape), grad[:1].expand(self.shape)
        working = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
        sizes, temperatures = (torch.rand(chains, generator=generator, dtype=torch.float64) + 0.1 for _ in range(2))
        h: Tensor | float = sizes.to(device, working) if "h" in self.per_chain else 0.05
        t: Tensor | float = temperatures.to(device, working) if "T" in self.per_chain else self.temperature
        if self.per_chain == "0":
            h, t = (torch.tensor(v, dtype=working, device=device) for v in (0.05, self.temperature))
        x, grad = (one if self.layout == "expanded" else self.laid_out(one) for one in (x.to(dtype), grad.to(dtype)))
        return x.to(device), grad.to(device), h, t

    def call(self, drawn: tuple, **options) -> Tensor:
        x, grad, h, t = drawn
        return cgm_kernels.langevin_step(
            x, grad, h, temperature=t, clamp=self.clamp, max_grad_norm=self.max_grad_norm, **options
        )

    def formula(self, drawn: tuple, dtype: torch.dtype, key: int = KEY, step: int = STEP) -> Tensor:
        """The definition, in PyTorch arithmetic of ``dtype`` on the CPU."""
        x, grad, h, t = (v.cpu().to(dtype) if isinstance(v, Tensor) else v for v in drawn)
        z = normal_reference(x.shape, key, step, dtype=dtype)
        h, t = (v.reshape(-1, *[1] * (x.dim() - 1)) if isinstance(v, Tensor) and v.dim() else v for v in (h, t))
        if self.max_grad_norm is not None:
            flat = grad.double().reshape(x.shape[0] if x.dim() else 1, -1)
            norm = flat.norm(dim=1).reshape(-1, *[1] * (x.dim() - 1)) if x.dim() else flat.norm()
            grad = grad * (self.max_grad_norm / norm).clamp(max=1.0).to(dtype)
        variance = 2 * h * t
        moved = x - h * grad + (variance.sqrt() if isinstance(variance, Tensor) else math.sqrt(variance)) * z
        return moved if self.clamp is None else moved.clamp(*self.clamp)


CASES = [
    Case(()),
    Case((1,)),
    Case((7,)),
    Case((5, 3)),
    Case((4, 3, 2, 2)),
    Case((1, 33)),
    Case((33, 1), per_chain="hT"),
    Case((5, 70), per_chain="h"),
    Case((6, 3), per_chain="T"),
    Case((6, 2, 3), per_chain="0"),
    Case((9,), per_chain="hT", max_grad_norm=0.5),
    Case((), per_chain="0", max_grad_norm=0.5),
    Case((5, 6), temperature=0.0),
    Case((5, 6), clamp=(-0.5, 0.25)),
    Case((5, 6), clamp=(-math.inf, 0.1), per_chain="h"),
    Case((5, 6), max_grad_norm=1.0),
    Case((5, 70), max_grad_norm=9.0, per_chain="hT", clamp=(-1.0, 1.0)),
    Case((3, 4, 5), max_grad_norm=1e-3),
    Case((3, 40), max_grad_norm=1.0, scale=1e18),
    Case((3, 40), max_grad_norm=1.0, scale=1e-15),
    Case((7, 5), layout="transposed", per_chain="hT"),
    Case((2, 3, 4), layout="transposed", max_grad_norm=1.0),
    Case((4, 9), layout="sliced", per_chain="h", clamp=(-1.0, 1.0)),
    Case((5, 6), layout="expanded"),
    Case((3, 2, 2, 3), layout="scattered", max_grad_norm=1.0),
    Case((2, 2, 2, 2, 2, 2, 2, 2), layout="scattered", per_chain="hT"),
]
# Beyond what an interpreter can walk through in a test: many tiles, threads, and chains over several of them.
LARGE_CASES = [
    Case((50_001,)),
    Case((3, 30_001), per_chain="hT", max_grad_norm=100.0),
    Case((20_000, 3), per_chain="hT"),
    Case((20_000, 3), max_grad_norm=1.0, clamp=(-1.0, 1.0)),
    Case((301, 200), layout="transposed", per_chain="T"),
    Case((60, 3, 20, 21), layout="scattered", max_grad_norm=1.0),
]
