"""The gradient of a potential as a vector field, its divergence in closed form (OT-Flow)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cgm_kernels import potential_divergence, potential_value

from ..flows.options import check_positive, check_whole
from .field import Time, VectorField


class Potential(nn.Module):
    """``Φ(x, τ | c) = w·N(x, τ, c) + ½ |A s|² + b·s`` with s = (x, τ): the potential of OT-Flow (Onken et al. 2021).

    N is a residual network of ``n_layers`` layers of one width, its activation log(2 cosh), the antiderivative of tanh;
    ``cgm_kernels.potential_divergence`` holds the formulas.

    Args:
        dim: of x.
        width: m, units in a layer.
        n_layers: M, the opening layer included.
        rank: of A (rank, dim + 1); 10, or the dimension where that is less, by default, and 0 for no such term.
        context_dim: of c.
        frequency: the opening layer begins so many times as large as ``nn.Linear`` makes it. Data that are fine beside
            their distance from the origin are learned many times faster with 4 to 8.
    """

    def __init__(
        self,
        dim: int,
        width: int = 32,
        n_layers: int = 2,
        rank: int | None = None,
        context_dim: int = 0,
        frequency: float = 1.0,
    ) -> None:
        super().__init__()
        check_whole("width", width, 1)
        check_whole("n_layers", n_layers, 1)
        rank = min(10, dim) if rank is None else rank
        check_whole("rank", rank, 0)
        check_positive("frequency", frequency)
        self.dim = dim
        inputs = [dim + 1 + context_dim, *[width] * (n_layers - 1)]
        self.layers = nn.ModuleList(nn.Linear(n, width) for n in inputs)
        with torch.no_grad():
            for parameter in self.layers[0].parameters():
                parameter.mul_(frequency)
        self.output = nn.Parameter(torch.full((width,), 3.0 / width))
        self.quadratic = nn.Parameter(nn.init.xavier_uniform_(torch.empty(rank, dim + 1))) if rank else None
        self.linear = nn.Parameter(torch.zeros(dim + 1))

    def forward(self, x: Tensor, time: Time, context: Tensor | None = None) -> Tensor:
        """Φ, (batch,)."""
        weights, biases = self._network()
        rest = {"quadratic": self.quadratic, "linear": self.linear, "context": context}
        return potential_value(x, time, weights, biases, self.output, **rest)

    def derivatives(self, x: Tensor, time: Time, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``(∇Φ, ΔΦ)``: the gradient by x and τ, (batch, dim + 1), and the Laplacian in x, (batch,)."""
        weights, biases = self._network()
        rest = {"quadratic": self.quadratic, "linear": self.linear, "context": context}
        return potential_divergence(x, time, weights, biases, self.output, **rest)

    def _network(self) -> tuple[list[Tensor], list[Tensor]]:
        return [layer.weight for layer in self.layers], [layer.bias for layer in self.layers]  # type: ignore[misc]


class PotentialField(VectorField):
    """``v(t, x) = ∇_xΦ(x, 1 − t) / mass``, ``div v = Δ_xΦ / mass``.

    τ = 1 − t is the time of the potential, which runs from the data to the latent as in the paper: there dx/dτ is
    −∇_xΦ / mass.
    """

    def __init__(self, potential: Potential, mass: float = 1.0) -> None:
        super().__init__()
        check_positive("mass", mass)
        self.potential, self.mass = potential, mass

    def forward(self, t: Time, x: Tensor, context: Tensor | None = None) -> Tensor:
        gradient, _ = self.potential.derivatives(x, 1.0 - t, context)
        return self._by_mass(gradient[:, :-1])

    def divergence(
        self,
        t: Time,
        x: Tensor,
        context: Tensor | None = None,
        *,
        probes: Tensor | None = None,
        exact: bool = False,
        frobenius: bool = False,
    ) -> tuple[Tensor, ...]:
        if probes is not None or frobenius:
            return super().divergence(t, x, context, probes=probes, exact=exact, frobenius=frobenius)
        gradient, laplacian = self.potential.derivatives(x, 1.0 - t, context)
        return self._by_mass(gradient[:, :-1]), self._by_mass(laplacian)

    def costs(self, t: Time, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``(v, div v, ½ |v|², |∂_τΦ − ½ |∇_xΦ|² / mass|)``.

        The last is by how much the Hamilton–Jacobi–Bellman equation of optimal transport fails to hold.
        """
        gradient, laplacian = self.potential.derivatives(x, 1.0 - t, context)
        by_space, by_time = gradient.split((x.shape[1], 1), 1)
        v = self._by_mass(by_space)
        energy = 0.5 * torch.linalg.vecdot(v, v)
        return v, self._by_mass(laplacian), energy, torch.sub(by_time[:, 0], energy, alpha=self.mass).abs()

    def _by_mass(self, value: Tensor) -> Tensor:
        return value if self.mass == 1.0 else value / self.mass
