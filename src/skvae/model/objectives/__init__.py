"""From Terms to Losses."""

from skvae.model.objectives.base import Losses, Objective
from skvae.model.objectives.elbo import ELBO

__all__ = ["ELBO", "Losses", "Objective"]
