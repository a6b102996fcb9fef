"""The registered operators of the divergence of perceptrons: schemas, fakes, and what autograd keeps.

``widths`` is [d, H_1, …, H_(K−1), d]; ``parameters``, ``added`` and ``film`` are as in packing.py; ``activation``
counts in ``activations.ACTIVATIONS``. ``probes`` is (P, B, d), constants; None asks for the trace of J, and P = 0,
which the flow alone takes, for no divergence. All tensors have the dtype of x, but divergences, squared norms and
integrals of half precision are float32. What was not asked for is an empty tensor (0,).

``mlp_divergence`` gives the value (B, d), mean_p e_pᵀ J e_p (B,), mean_p |J e_p|² (B,) with ``frobenius``, and with
``keep`` the flat stacks of the hidden layers and q = ε W_K, in a form that is the backend's own affair.

``mlp_flow`` takes the signed ``steps`` of the explicit Runge–Kutta ``method`` (which counts in ``tableaus.METHODS``).
Row n·S + s of ``time_bias`` (N·S, H_1) is b_1 and what the time adds to it in stage s of step n, and so with ``film``
(N·S, 2ΣH_k); ``added`` (B, H_1) is what a context adds. It gives x at the end, (3, B) integrals of the divergence and,
with ``regularize``, of |v|² and of mean_p |J e_p|² (else zeros), and with ``keep_states`` x at the beginning of each
step (N, B, d): without them the backward computes them again, a few rows at a time.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import backends
from .._derivatives import pulled_back
from .._register import define, operator, register
from ..activations import ACTIVATIONS
from ..precision import HALVES
from . import packing, reference
from .tableaus import METHODS

_NETWORK = "int[] widths, int activation, bool residual"
_INPUTS = "Tensor x, Tensor? probes, Tensor parameters"


MOST_LAYERS = 32  # as most_layers in kernels.h


def backend_of(name: str, device_type: str, n_layers: int = 2) -> str:
    """The backend that runs ``name`` on such tensors: the one chosen, or the reference where that one has no kernel.

    None has one for a single layer, which is a matrix, and for very many.
    """
    backend = backends.select(device_type)
    if not 2 <= n_layers <= MOST_LAYERS:
        return "reference"
    return backend if _has_kernel(backend, name, device_type) else "reference"


@torch.compiler.assume_constant_result
def _has_kernel(backend: str, name: str, device_type: str) -> bool:
    if backend == "native":
        return torch._C._dispatch_has_kernel_for_dispatch_key(f"cgm_native::{name}", device_type.upper())
    kernels = "cgm_kernels.divergence.triton"
    if backend != "triton" or importlib.util.find_spec(kernels) is None:
        return False
    return hasattr(importlib.import_module(kernels), name)


def _triton(name: str) -> Callable[..., Any]:
    def run(*arguments: Any) -> Any:
        return getattr(importlib.import_module("cgm_kernels.divergence.triton"), name)(*arguments)

    return run


def _sums(x: Tensor, *shape: int) -> Tensor:
    """A divergence, a squared norm or an integral."""
    return x.new_empty(shape, dtype=torch.float32 if x.dtype in HALVES else x.dtype)


def _grads(x: Tensor, *others: Tensor | None) -> tuple[Tensor, ...]:
    return tuple(x.new_empty((0,) if other is None else other.shape) for other in (x, *others))


# ---- the divergence


def _divergence_fake(
    x: Tensor, probes: Tensor | None, parameters: Tensor, added: Tensor, film: Tensor | None, widths: list[int],
    activation: int, residual: bool, frobenius: bool, keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    batch = x.shape[0]
    n_kept = packing.kept_numbers(batch, 0 if probes is None else probes.shape[0], widths) if keep else 0
    norms = _sums(x, batch) if frobenius else _sums(x, 0)
    return x.new_empty(x.shape), _sums(x, batch), norms, x.new_empty((n_kept,))


def _divergence_setup(ctx: Any, inputs: Any, output: Any) -> tuple[Tensor | None, ...]:
    *tensors, widths, activation, residual, frobenius, _ = inputs
    ctx.options = (widths, activation, residual, frobenius)
    return *tensors, output[3]


def _divergence_backward(
    ctx: Any, grad_value: Tensor | None, grad_divergence: Tensor | None, grad_frobenius: Tensor | None,
    *saved: Tensor,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    grads = (grad_value, grad_divergence, grad_frobenius if ctx.options[3] else None)
    if all(grad is None for grad in grads):
        return (None,) * 10
    x, parameters, added, film = operator(ctx.backend, "mlp_divergence_backward")(*grads, *saved, *ctx.options)
    return x, None, parameters, added, None if saved[4] is None else film, *([None] * 5)


def _divergence_backward_fake(
    grad_value: Tensor | None, grad_divergence: Tensor | None, grad_frobenius: Tensor | None, x: Tensor,
    probes: Tensor | None, parameters: Tensor, added: Tensor, film: Tensor | None, *_: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    return _grads(x, parameters, added, film)


def _network(parameters: Tensor, film: Tensor | None, widths: list[int], activation: int, residual: bool) -> Any:
    weights, biases = packing.unpack(parameters, widths)
    return reference.Network(
        weights, biases, packing.unpack_film(film, widths), list(ACTIVATIONS)[activation], residual
    )


def _divergence_backward_composed(
    grad_value: Tensor | None, grad_divergence: Tensor | None, grad_frobenius: Tensor | None, x: Tensor,
    probes: Tensor | None, parameters: Tensor, added: Tensor, film: Tensor | None, kept: Tensor, *rest: Any,
) -> list[Tensor]:  # fmt: skip
    def forward(x: Tensor, parameters: Tensor, added: Tensor, film: Tensor | None) -> tuple[Tensor, ...]:
        return reference.mlp_divergence(x, probes, _network(parameters, film, *rest[:3]), added)

    return pulled_back(forward, (x, parameters, added, film), (grad_value, grad_divergence, grad_frobenius))


register(
    "mlp_divergence",
    f"({_INPUTS}, Tensor added, Tensor? film, {_NETWORK}, bool frobenius, bool keep) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    fake=_divergence_fake,
    setup_context=_divergence_setup,
    backward=_divergence_backward,
    triton=_triton("mlp_divergence"),
    values=3,
)
define(
    "mlp_divergence_backward",
    f"(Tensor? grad_value, Tensor? grad_divergence, Tensor? grad_frobenius, {_INPUTS}, Tensor added, Tensor? film, "
    f"Tensor kept, {_NETWORK}, bool frobenius) -> (Tensor, Tensor, Tensor, Tensor)",
    fake=_divergence_backward_fake,
    triton=_triton("mlp_divergence_backward"),
    composed=_divergence_backward_composed,
)


# ---- the flow


def _flow_fake(
    x: Tensor, probes: Tensor | None, parameters: Tensor, time_bias: Tensor, added: Tensor | None, film: Tensor | None,
    steps: list[float], method: int, widths: list[int], activation: int, residual: bool, regularize: bool,
    keep_states: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    states = x.new_empty((len(steps), *x.shape) if keep_states else (0,))
    return x.new_empty(x.shape), _sums(x, 3, x.shape[0]), states


def _flow_setup(ctx: Any, inputs: Any, output: Any) -> tuple[Tensor | None, ...]:
    *tensors, steps, method, widths, activation, residual, regularize, _ = inputs
    ctx.options = (steps, method, widths, activation, residual, regularize)
    return *tensors, output[2]


def _flow_backward(
    ctx: Any, grad_x1: Tensor | None, grad_integrals: Tensor | None, *saved: Tensor
) -> tuple[Tensor | None, ...]:
    if grad_x1 is None and grad_integrals is None:
        return (None,) * 13
    x, parameters, time_bias, added, film = operator(ctx.backend, "mlp_flow_backward")(
        grad_x1, grad_integrals, *saved, *ctx.options
    )
    optional = (None if given is None else grad for given, grad in ((saved[4], added), (saved[5], film)))
    return x, None, parameters, time_bias, *optional, *([None] * 7)


def _flow_backward_fake(
    grad_x1: Tensor | None, grad_integrals: Tensor | None, x: Tensor, probes: Tensor | None, parameters: Tensor,
    time_bias: Tensor, added: Tensor | None, film: Tensor | None, *_: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    return _grads(x, parameters, time_bias, added, film)


def _flow_backward_composed(
    grad_x1: Tensor | None, grad_integrals: Tensor | None, x: Tensor, probes: Tensor | None, parameters: Tensor,
    time_bias: Tensor, added: Tensor | None, film: Tensor | None, states: Tensor, *rest: Any,
) -> list[Tensor]:  # fmt: skip
    steps, method, widths, activation, residual, regularize = rest

    def forward(
        x: Tensor, parameters: Tensor, time_bias: Tensor, added: Tensor | None, film: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        films = [packing.unpack_film(None if film is None else film[n : n + 1], widths) for n in range(len(time_bias))]
        network = _network(parameters, None, widths, activation, residual)
        return reference.mlp_flow(x, probes, network, time_bias, added, films, steps, METHODS[method], regularize)

    return pulled_back(forward, (x, parameters, time_bias, added, film), (grad_x1, grad_integrals))


_FLOW = f"{_INPUTS}, Tensor time_bias, Tensor? added, Tensor? film"

register(
    "mlp_flow",
    f"({_FLOW}, float[] steps, int method, {_NETWORK}, bool regularize, bool keep_states) -> (Tensor, Tensor, Tensor)",
    fake=_flow_fake,
    setup_context=_flow_setup,
    backward=_flow_backward,
    triton=_triton("mlp_flow"),
    values=2,
)
define(
    "mlp_flow_backward",
    f"(Tensor? grad_x1, Tensor? grad_integrals, {_FLOW}, Tensor states, float[] steps, int method, {_NETWORK}, "
    "bool regularize) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    fake=_flow_backward_fake,
    triton=_triton("mlp_flow_backward"),
    composed=_flow_backward_composed,
)
