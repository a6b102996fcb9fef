"""Normalizing flows: exact densities, sampled in one pass."""

from .autoregressive import IAF, MAF
from .base import Base
from .bases import base_names, register_base
from .divergence import compare_kl, forward_kl, reverse_kl
from .flow import Flow
from .glow import Glow
from .made import MADE
from .nice import NICE
from .pixelcnn import PixelCNN, PixelRNN
from .planar import PlanarFlow
from .preprocess import bits_per_dim, dequantize, quantize
from .radial import RadialFlow
from .realnvp import RealNVP
from .spline import rational_quadratic_spline
from .spline_flow import NeuralSplineFlow
from .transform import Composition, Inverse, Transform

__all__ = [
    "IAF",
    "MADE",
    "MAF",
    "NICE",
    "Base",
    "Composition",
    "Flow",
    "Glow",
    "Inverse",
    "NeuralSplineFlow",
    "PixelCNN",
    "PixelRNN",
    "PlanarFlow",
    "RadialFlow",
    "RealNVP",
    "Transform",
    "base_names",
    "bits_per_dim",
    "compare_kl",
    "dequantize",
    "forward_kl",
    "quantize",
    "rational_quadratic_spline",
    "register_base",
    "reverse_kl",
]
