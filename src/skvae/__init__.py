"""Variational autoencoders for tables and images, with the interface of scikit-learn."""

from skvae.data import Schema
from skvae.estimators import VAE
from skvae.exceptions import ColumnError, ConstantColumnWarning, LoadError, TrainingError
from skvae.model import (
    ELBO,
    MLP,
    Bernoulli,
    Categorical,
    DiagonalNormal,
    Gaussian,
    ResidualMLP,
    StandardNormal,
    Table,
)
from skvae.persistence import load

__version__ = "0.1.0"

__all__ = [
    "ELBO",
    "MLP",
    "VAE",
    "Bernoulli",
    "Categorical",
    "ColumnError",
    "ConstantColumnWarning",
    "DiagonalNormal",
    "Gaussian",
    "LoadError",
    "ResidualMLP",
    "Schema",
    "StandardNormal",
    "Table",
    "TrainingError",
    "load",
]
