"""Fused kernels for generative modelling: C++, CUDA and Triton, with a PyTorch reference for each."""

from .backends import available_backends, get_backend, set_backend, use_backend
from .coupling.invertible import InvertibleSequence
from .coupling.masked import masked_mlp_inverse
from .coupling.masked_affine import masked_mlp_affine
from .coupling.mlp import CouplingLayer, affine_coupling_mlp, affine_coupling_stack
from .coupling.op import affine_coupling, affine_coupling_event, affine_coupling_inverse
from .divergence.flow_op import FlowResult, mlp_flow
from .divergence.hutchinson import hutchinson_divergence, hutchinson_probes
from .divergence.op import mlp_divergence, mlp_value
from .divergence.potential import potential_divergence, potential_gradient, potential_value
from .divergence.potential_flow import PotentialFlow, potential_flow
from .divergence.runge_kutta import runge_kutta_error, runge_kutta_update
from .info import build_info
from .integrations import accelerate
from .langevin.chain import langevin_chain
from .langevin.op import langevin_step, mala_accept, normal
from .sliced_ot.op import (
    random_projections,
    sliced_displacement,
    sliced_wasserstein_cost,
    sliced_wasserstein_distance,
    wasserstein_1d,
)

__version__ = "0.1.0"

__all__ = [
    "CouplingLayer",
    "FlowResult",
    "InvertibleSequence",
    "PotentialFlow",
    "accelerate",
    "affine_coupling",
    "affine_coupling_event",
    "affine_coupling_inverse",
    "affine_coupling_mlp",
    "affine_coupling_stack",
    "available_backends",
    "build_info",
    "get_backend",
    "hutchinson_divergence",
    "hutchinson_probes",
    "langevin_chain",
    "langevin_step",
    "mala_accept",
    "masked_mlp_affine",
    "masked_mlp_inverse",
    "mlp_divergence",
    "mlp_flow",
    "mlp_value",
    "normal",
    "potential_divergence",
    "potential_flow",
    "potential_gradient",
    "potential_value",
    "random_projections",
    "runge_kutta_error",
    "runge_kutta_update",
    "set_backend",
    "sliced_displacement",
    "sliced_wasserstein_cost",
    "sliced_wasserstein_distance",
    "use_backend",
    "wasserstein_1d",
]
