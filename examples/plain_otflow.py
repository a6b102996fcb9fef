"""OT-Flow in plain PyTorch, from the formulas of the paper: what `otflow_two_moons.py` is timed against.

Onken, Wu Fung, Li and Ruthotto 2021, "OT-Flow: fast and accurate continuous normalizing flows via optimal transport":
the potential (9), its gradient (11), the trace of its Hessian (14), the dynamics (2), (5) and (7), four-stage
Runge–Kutta steps of the coupled equations, and the loss α_L C_L + α_C C_C + α_R C_R.

Run as a script it is the experiment of the course code EmoryMLIP/DeepGenerativeModelingIntro (`trainOTFlow.py`) on two
moons: noise 0.05, width 32, two layers, four steps, α = (1, 10, 5), batches of 256, Adam at 1e-2, 20,000 steps, begun
as PyTorch begins linear layers. `python examples/plain_otflow.py` takes about ten minutes on one core.
"""

from __future__ import annotations

import argparse
import math
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PlainOTFlow(nn.Module):
    """Φ(s) = w·N(s) + ½ |A s|² + b·s with N a residual network of two layers (nTh = 2), s = (x, t)."""

    def __init__(self, dim: int = 2, width: int = 32, rank: int = 10) -> None:
        super().__init__()
        self.dim = dim
        self.opening, self.layer = nn.Linear(dim + 1, width), nn.Linear(width, width)
        self.w = nn.Parameter(torch.ones(width))
        self.a = nn.Parameter(nn.init.xavier_uniform_(torch.empty(min(rank, dim + 1), dim + 1)))
        self.b = nn.Parameter(torch.zeros(dim + 1))

    def gradient_and_trace(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """∇_sΦ (batch, dim + 1) and tr ∇²_xΦ (batch,) at s (batch, dim + 1)."""
        z0 = self.opening(s)
        u0 = z0.abs() + torch.log1p(torch.exp(-2.0 * z0.abs()))
        z1 = self.layer(u0)
        slope0, slope1 = torch.tanh(z0), torch.tanh(z1)
        back = self.w + (slope1 * self.w) @ self.layer.weight
        symmetric = self.a.t() @ self.a
        gradient = (slope0 * back) @ self.opening.weight + s @ symmetric + self.b

        columns = self.opening.weight[:, : self.dim].t()
        trace = ((1.0 - slope0**2) * back) @ columns.square().sum(0)
        tangents = (slope0[:, None] * columns) @ self.layer.weight.t()
        trace = trace + ((1.0 - slope1**2) * self.w * tangents.square().sum(1)).sum(1)
        return gradient, trace + symmetric.diagonal()[: self.dim].sum()

    def rates(self, state: Tensor, t: float, alpha: tuple[float, float, float]) -> Tensor:
        """The derivatives of (x, l, v, r): position, log-determinant, transport cost and violation of HJB."""
        x = state[:, : self.dim]
        gradient, trace = self.gradient_and_trace(F.pad(x, (0, 1), value=t))
        dx = -gradient[:, : self.dim] / alpha[0]
        dv = 0.5 * dx.square().sum(1)
        dr = (-gradient[:, self.dim] + alpha[0] * dv).abs()
        return torch.cat((dx, torch.stack((-trace / alpha[0], dv, dr), 1)), 1)

    def costs(self, x: Tensor, n_steps: int, alpha: tuple[float, float, float]) -> tuple[Tensor, Tensor, Tensor]:
        """(C_L, C_C, C_R), means over x (batch, dim)."""
        state, h = F.pad(x, (0, 3)), 1.0 / n_steps
        for index in range(n_steps):
            t = index * h
            k1 = self.rates(state, t, alpha)
            k2 = self.rates(state + 0.5 * h * k1, t + 0.5 * h, alpha)
            k3 = self.rates(state + 0.5 * h * k2, t + 0.5 * h, alpha)
            k4 = self.rates(state + h * k3, t + h, alpha)
            state = state + (h / 6.0) * (k1 + 2.0 * k2 + 2.0 * k3 + k4)
        z, log_det, transport, violation = state.split((self.dim, 1, 1, 1), 1)
        log_prob = -0.5 * z.square().sum(1) - 0.5 * self.dim * math.log(2.0 * math.pi) + log_det[:, 0]
        return transport.mean(), -log_prob.mean(), violation.mean()

    def loss(self, x: Tensor, n_steps: int = 4, alpha: tuple[float, float, float] = (1.0, 10.0, 5.0)) -> Tensor:
        return sum((weight * cost for weight, cost in zip(alpha, self.costs(x, n_steps, alpha), strict=True)))  # type: ignore[return-value]


def main() -> None:
    from cgm_models import data

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=20_000)
    options = parser.parse_args()
    torch.manual_seed(0)
    moons, draws, flow = data.density("moons"), torch.Generator().manual_seed(1), PlainOTFlow()
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
    held_out, alpha = moons.sample(20_000, torch.Generator().manual_seed(3)), (1.0, 10.0, 5.0)
    truth = float(-moons.log_prob(held_out).mean())
    sums, seconds = torch.zeros(3), 0.0
    for step in range(1, options.steps + 1):
        x = moons.sample(256, draws)
        start = time.perf_counter()
        optimizer.zero_grad()
        costs = flow.costs(x, 4, alpha)
        sum((weight * cost for weight, cost in zip(alpha, costs, strict=True)), torch.zeros(())).backward()
        optimizer.step()
        seconds += time.perf_counter() - start
        sums += torch.stack(costs).detach()
        if step % 1000 == 0 or step == options.steps:
            with torch.no_grad():
                nll = float(flow.costs(held_out, 32, alpha)[1])
            transport, likelihood, penalty = (sums / ((step - 1) % 1000 + 1)).tolist()
            print(
                f"{step:6d}  J_L {transport:.4f}  J_ML {likelihood:.4f}  J_HJB {penalty:.4f}  "
                f"held-out {nll:.4f}, {nll - truth:.4f} above the truth, {seconds:.1f} s",
                flush=True,
            )
            sums.zero_()


if __name__ == "__main__":
    main()
