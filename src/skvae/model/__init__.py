"""The mathematics: networks, likelihoods, posteriors, priors, objectives."""

from skvae.model.component import Component
from skvae.model.likelihoods import Bernoulli, Categorical, Gaussian, Likelihood, Table
from skvae.model.networks import MLP, Network, ResidualMLP
from skvae.model.objectives import ELBO, Losses, Objective
from skvae.model.posteriors import DiagonalNormal, Posterior
from skvae.model.priors import Prior, StandardNormal
from skvae.model.vae import LatentVariableModel, Terms

__all__ = [
    "ELBO",
    "MLP",
    "Bernoulli",
    "Categorical",
    "Component",
    "DiagonalNormal",
    "Gaussian",
    "LatentVariableModel",
    "Likelihood",
    "Losses",
    "Network",
    "Objective",
    "Posterior",
    "Prior",
    "ResidualMLP",
    "StandardNormal",
    "Table",
    "Terms",
]
