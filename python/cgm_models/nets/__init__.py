"""Networks that several families of models share."""

from .convolutional import ConvResNet
from .encoder import ConvEncoder
from .masked import MaskedLinear, MaskedMLP
from .masked_convolution import GatedPixelLayer, MaskedConv2d, RowLSTM
from .mlp import ACTIVATIONS, MLP, ResidualMLP

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "ConvEncoder",
    "ConvResNet",
    "GatedPixelLayer",
    "MaskedConv2d",
    "MaskedLinear",
    "MaskedMLP",
    "ResidualMLP",
    "RowLSTM",
]
