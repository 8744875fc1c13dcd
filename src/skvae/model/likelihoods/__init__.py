"""p(x | z): from decoder outputs to distributions of columns."""

from skvae.model.likelihoods.base import Distribution, Likelihood
from skvae.model.likelihoods.categorical import Bernoulli, Categorical
from skvae.model.likelihoods.continuous import Gaussian
from skvae.model.likelihoods.table import Table

__all__ = ["Bernoulli", "Categorical", "Distribution", "Gaussian", "Likelihood", "Table"]
