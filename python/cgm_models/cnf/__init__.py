"""Continuous flows: vector fields integrated in time, and the checks that keep their likelihoods honest."""

from . import fokker_planck, probability_flow
from .continuous import ContinuousFlow, ContinuousTransform
from .ffjord import FFJORD
from .field import ModuleField, VectorField
from .field_perceptron import PerceptronField
from .field_potential import Potential, PotentialField
from .hamiltonian import AntisymmetricField, HamiltonianFlow, SeparableField
from .likelihood import Converged, NotConvergedError, check_mass, converge, converged_log_prob, mass_in_the_plane
from .otflow import Costs, OTFlow
from .regularization import Regularizers
from .solve import solve
from .solver import Solution, Solver

__all__ = [
    "FFJORD",
    "AntisymmetricField",
    "ContinuousFlow",
    "ContinuousTransform",
    "Converged",
    "Costs",
    "HamiltonianFlow",
    "ModuleField",
    "NotConvergedError",
    "OTFlow",
    "PerceptronField",
    "Potential",
    "PotentialField",
    "Regularizers",
    "SeparableField",
    "Solution",
    "Solver",
    "VectorField",
    "check_mass",
    "converge",
    "converged_log_prob",
    "fokker_planck",
    "mass_in_the_plane",
    "probability_flow",
    "solve",
]
