"""Networks that several families of models share."""

from .convolutional import ConvResNet
from .masked import MaskedLinear, MaskedMLP
from .mlp import ACTIVATIONS, MLP, ResidualMLP

__all__ = ["ACTIVATIONS", "MLP", "ConvResNet", "MaskedLinear", "MaskedMLP", "ResidualMLP"]
