"""Energies that combine.

An energy E stands for the law proportional to exp(−E). With a and b energies and c a number:

========================  ===============================  =============================================================
written                   its energy                       its law
========================  ===============================  =============================================================
``a + b``                 E_a + E_b                        the product of experts, p_a p_b: both must agree
``c * a``, ``a * c``      c E_a                            the power p_a^c: sharper for c above 1, tempered below
``-a``, ``a - b``         −E_a, E_a − E_b                  negation, p_a / p_b: where a is and b is not
``a | b``                 −log(e^{−E_a} + e^{−E_b})        the mixture of the two, each with the weight Z of its energy
``a + c``                 E_a + c                          the same; c shifts log Z by −c, and so the weight in ``|``
========================  ===============================  =============================================================

They are functions: sums and numbers associate and distribute as usual, and ``(a | b) + c == (a + c) | (b + c)``.
Energies that are −log of a density have Z = 1 and mix equally; ``mixture`` takes weights, and log Z where it is known.
A negated energy alone has no law: it needs an expert that confines it, ``a - 0.5 * b``. ``a * b`` of two energies is
refused, because a product of densities is their sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .chains import evaluate


def _is_number(value: Any) -> bool:
    """Infinity too: a wall is an energy."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class Composable:
    """The operators, for callables ``(n, *event) -> (n,)``."""

    def __add__(self, other: Any) -> Energy:
        if _is_number(other):
            return _Sum((self,), (1.0,), float(other))
        return _Sum((self, other), (1.0, 1.0)) if callable(other) else NotImplemented

    __radd__ = __add__

    def __mul__(self, factor: Any) -> Energy:
        if callable(factor):
            raise TypeError("energies are not multiplied with one another: the product of the densities is a + b")
        return _Sum((self,), (float(factor),)) if _is_number(factor) else NotImplemented

    __rmul__ = __mul__

    def __neg__(self) -> Energy:
        return _Sum((self,), (-1.0,))

    def __sub__(self, other: Any) -> Energy:
        if _is_number(other):
            return self + -other
        return _Sum((self, other), (1.0, -1.0)) if callable(other) else NotImplemented

    def __rsub__(self, other: Any) -> Energy:
        return -self + other

    def __or__(self, other: Any) -> Energy:
        return _Mixture((self, other), (0.0, 0.0)) if callable(other) else NotImplemented

    __ror__ = __or__


class Energy(Composable):
    """A function ``(n, *event) -> (n,)`` as an energy, with the operators of this module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        if not callable(function):
            raise TypeError(f"an energy is a function of points: got {type(function).__name__}")
        self._function = function

    def __call__(self, x: Tensor) -> Tensor:
        return self._function(x)

    def gradient(self, x: Tensor) -> Tensor:
        """∇E at ``x``, of its shape."""
        return evaluate(self, x).gradient


class _Sum(Energy):
    """Σ c_i E_i + constant."""

    def __init__(self, terms: Sequence[Any], factors: Sequence[float], constant: float = 0.0) -> None:
        super().__init__(self._value)
        self._terms, self._factors, self._constant = terms, factors, constant

    def _value(self, x: Tensor) -> Tensor:
        values = (c * term(x) for c, term in zip(self._factors, self._terms, strict=True))
        return sum(values, x.new_full((len(x),), self._constant))


class _Mixture(Energy):
    """−log Σ exp(l_i − E_i)."""

    def __init__(self, terms: Sequence[Any], log_weights: Sequence[float]) -> None:
        super().__init__(self._value)
        self._terms, self._log_weights = terms, log_weights

    def _value(self, x: Tensor) -> Tensor:
        parts = [weight - term(x) for weight, term in zip(self._log_weights, self._terms, strict=True)]
        return -torch.stack(parts).logsumexp(0)


def mixture(
    energies: Sequence[Callable[[Tensor], Tensor]],
    weights: Sequence[float] | None = None,
    log_z: Sequence[float] | None = None,
) -> Energy:
    """The energy of Σ w_i exp(−E_i) / Z_i, −log of a density where ``log_z`` are the true ones.

    ``weights`` are positive and normalised here, equal by default; ``log_z`` are zero by default, as of energies that
    are −log of a density.
    """
    n = len(energies)
    shares = [1.0] * n if weights is None else list(weights)
    constants = [0.0] * n if log_z is None else list(log_z)
    if not n or len(shares) != n or len(constants) != n:
        raise ValueError(f"weights and log_z must be as many as the energies, {n}: got {len(shares)}, {len(constants)}")
    if not all(share > 0.0 and math.isfinite(share) for share in shares):
        raise ValueError(f"weights must be positive and finite: got {shares}")
    total = math.log(sum(shares))
    return _Mixture(tuple(energies), [math.log(w) - total - z for w, z in zip(shares, constants, strict=True)])
