"""p(z): priors, and the Kullback–Leibler divergences known in closed form."""

from skvae.model.priors.autoregressive import AutoregressivePrior
from skvae.model.priors.base import Prior, kl_divergence, register_kl
from skvae.model.priors.flow import FlowPrior
from skvae.model.priors.flow_matching import FlowMatchingPrior
from skvae.model.priors.mixture import GaussianMixture, Mixture
from skvae.model.priors.normal import ConditionalNormal, DirectedNormal, StandardNormal
from skvae.model.priors.vamp import VampPrior

__all__ = [
    "AutoregressivePrior",
    "ConditionalNormal",
    "DirectedNormal",
    "FlowMatchingPrior",
    "FlowPrior",
    "GaussianMixture",
    "Mixture",
    "Prior",
    "StandardNormal",
    "VampPrior",
    "kl_divergence",
    "register_kl",
]
