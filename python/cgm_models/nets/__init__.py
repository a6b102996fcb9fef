"""Networks that several families of models share."""

from .convolutional import ConvResNet
from .mlp import ACTIVATIONS, MLP, ResidualMLP

__all__ = ["ACTIVATIONS", "MLP", "ConvResNet", "ResidualMLP"]
