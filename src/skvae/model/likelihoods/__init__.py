"""p(x | z): from decoder outputs to distributions of columns."""

from skvae.model.likelihoods.base import Distribution, Likelihood
from skvae.model.likelihoods.bounded import Beta
from skvae.model.likelihoods.categorical import Bernoulli, Categorical
from skvae.model.likelihoods.continuous import Gaussian
from skvae.model.likelihoods.continuous_bernoulli import ContinuousBernoulli
from skvae.model.likelihoods.counts import NegativeBinomial, Poisson
from skvae.model.likelihoods.heavy import StudentT
from skvae.model.likelihoods.logistic import DiscretisedLogistic
from skvae.model.likelihoods.mixture import MixtureOfGaussians
from skvae.model.likelihoods.ordinal import Ordinal
from skvae.model.likelihoods.positive import LogNormal
from skvae.model.likelihoods.quantile import QuantileNormal
from skvae.model.likelihoods.spikes import Spikes
from skvae.model.likelihoods.table import Table

__all__ = [
    "Bernoulli",
    "Beta",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretisedLogistic",
    "Distribution",
    "Gaussian",
    "Likelihood",
    "LogNormal",
    "MixtureOfGaussians",
    "NegativeBinomial",
    "Ordinal",
    "Poisson",
    "QuantileNormal",
    "Spikes",
    "StudentT",
    "Table",
]
