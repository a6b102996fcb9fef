"""Where the chains of a sampler stand: all that it needs to go on exactly."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from .adaptation import DualAveraging


@dataclass
class State:
    """The chains after ``step`` steps.

    Chains are rows. A sampler with replicas keeps R rows a chain, replica by replica: row r·chains + i is replica r of
    chain i.
    """

    sampler: str
    """The name of the class that takes the steps."""
    position: Tensor
    """(rows, *event)"""
    energy: Tensor
    """(rows,): E at the position."""
    gradient: Tensor
    """(rows, *event): ∇E at the position, so that no step computes it twice."""
    noise: Tensor
    """int64 (2,): the key and the step of the noise, of which every draw uses up one; see ``noise_state``."""
    step: int = 0
    """Steps taken, those of the warm-up included."""
    momentum: Tensor | None = None
    """(rows, *event), where the sampler has one."""
    step_size: float | Tensor | None = None
    """What a warm-up found, a number or (rows,); None where there was none."""
    temperature: Tensor | None = None
    """(rows,), where the replicas differ in it."""
    adaptation: DualAveraging | None = None
    """Where the search for the step size stands."""
    statistics: dict[str, Tensor] = field(default_factory=dict)
    """What the last steps tell of themselves."""

    def copy(self) -> State:
        """A state of its own memory."""
        tensors = {item.name: value for item in fields(self) if isinstance(value := getattr(self, item.name), Tensor)}
        copied: dict[str, Any] = {name: tensor.clone() for name, tensor in tensors.items()}
        return replace(self, **copied, statistics=dict(self.statistics))

    def tensors(self) -> dict[str, Tensor]:
        """The state as named tensors, as files hold them; ``from_tensors`` is the way back."""
        found = {name: getattr(self, name) for name in ("position", "energy", "gradient", "noise")}
        found["step"] = torch.tensor(self.step)
        if self.momentum is not None:
            found["momentum"] = self.momentum
        if self.step_size is not None:
            found["step_size"] = torch.as_tensor(self.step_size, dtype=torch.float64)
        if self.adaptation is not None:
            found.update({f"adaptation.{name}": value for name, value in self.adaptation.tensors().items()})
        return found

    @classmethod
    def from_tensors(cls, sampler: str, tensors: dict[str, Tensor]) -> State:
        """The state of the sampler called ``sampler`` that ``tensors`` describe."""
        found: dict[str, Any] = {name: tensors[name] for name in ("position", "energy", "gradient", "noise")}
        found.update(step=int(tensors["step"]), momentum=tensors.get("momentum"))
        if (step_size := tensors.get("step_size")) is not None:
            found["step_size"] = step_size.to(tensors["position"].dtype) if step_size.ndim else float(step_size)
        searched = {
            name.removeprefix("adaptation."): t for name, t in tensors.items() if name.startswith("adaptation.")
        }
        if searched:
            found["adaptation"] = DualAveraging.from_tensors(searched)
        return cls(sampler, **found)
