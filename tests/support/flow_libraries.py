"""Models of the flow libraries with and without our kernels: the same values, gradients and state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import cgm_kernels
from cgm_kernels import integrations

Call = Callable[[Any], Any]

# The methods of a normflows NormalizingFlow, at points x.
NORMALIZING_FLOW_CALLS: dict[str, Callable[[Any, Tensor], Any]] = {
    "log_prob": lambda m, x: m.log_prob(x),
    "inverse": lambda m, x: m.inverse(x),
    "inverse_and_log_det": lambda m, x: list(m.inverse_and_log_det(x)),
    "forward": lambda m, x: m.forward(x),
    "forward_and_log_det": lambda m, x: list(m.forward_and_log_det(x)),
    "forward_kld": lambda m, x: m.forward_kld(x),
    "sample": lambda m, x: list(m.sample(len(x))),
}


def points(rows: int, features: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(rows, features, generator=generator, dtype=torch.float64).requires_grad_()


def randomized(model: nn.Module, dtype: torch.dtype = torch.float64, seed: int = 0, size: float = 0.1) -> nn.Module:
    """The model with noise on its parameters: layers that begin at zero test nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return model.to(dtype)


def outcome(model: nn.Module, call: Call, *inputs: Tensor) -> list[Tensor]:
    """Values of ``call(model)``, then the gradients of a sum of them by every parameter and by ``inputs``."""
    wanted = [*(p for p in model.parameters() if p.requires_grad), *(x for x in inputs if x.requires_grad)]
    torch.manual_seed(0)
    found = call(model)
    values = [value for value in (found if isinstance(found, (list, tuple)) else [found]) if isinstance(value, Tensor)]
    total = sum((value * torch.arange(1.0, value.numel() + 1.0).reshape(value.shape).sin()).sum() for value in values)
    grads = torch.autograd.grad(total, wanted, allow_unused=True) if total.requires_grad else ()
    return [*(value.detach() for value in values), *(torch.zeros(()) if grad is None else grad for grad in grads)]


def counts() -> dict[str, integrations.Calls]:
    """The rows of the report in which something was counted, taken and reset."""
    return {row.function: row for row in integrations.report(reset=True) if row.ours or row.passed_on}


def assert_same(library: str, model: nn.Module, call: Call, *inputs: Tensor, rtol: float = 1e-9) -> dict[str, Any]:
    """``call`` gives the same with the library patched, with the model accelerated, and after either; what ran."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    plain = outcome(model, call, *inputs)
    counts()
    with integrations.patch(library):
        patched = outcome(model, call, *inputs)
    rows = counts()
    with cgm_kernels.accelerate(model) as swapped:
        accelerated = outcome(model, call, *inputs)
        assert model.state_dict().keys() == state.keys()
    ran = counts()
    for found in (patched, accelerated, outcome(model, call, *inputs)):
        torch.testing.assert_close(found, plain, rtol=rtol, atol=rtol)
    assert not counts()
    torch.testing.assert_close(dict(model.state_dict()), state, rtol=0, atol=0)
    ours = {name: row.ours for name, row in rows.items() if row.ours}
    assert ours == {name: row.ours for name, row in ran.items() if row.ours}
    assert bool(swapped) == bool(ours) or not ours
    return rows


def assert_ours(rows: dict[str, Any], **names: int) -> None:
    """Exactly these methods (Class_method) ran on our kernels, so many times, and none was passed on."""
    found = {name.partition(".")[2].replace(".", "_"): (row.ours, row.passed_on) for name, row in rows.items()}
    assert found == {name: (count, 0) for name, count in names.items()}


def assert_passed_on(rows: dict[str, Any], reason: str) -> None:
    """No call ran on our kernels, and each was passed on for this reason."""
    assert rows
    assert all(row.ours == 0 and [*row.reasons] == [reason] for row in rows.values()), rows


def errors(found: list[Tensor], exact: list[Tensor]) -> float:
    """The largest error, relative to the largest exact number of each tensor."""
    return max(
        float((one.double() - other).abs().max() / other.abs().max().clamp_min(1e-3))
        for one, other in zip(found, exact, strict=True)
    )
