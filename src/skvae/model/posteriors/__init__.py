"""q(z | x): approximate posteriors."""

from skvae.model.posteriors.base import Posterior, PosteriorDistribution
from skvae.model.posteriors.deterministic import Deterministic, PointPosterior
from skvae.model.posteriors.flow import FlowPosterior, TransformedPosterior
from skvae.model.posteriors.normal import (
    DiagonalNormal,
    FullNormal,
    FullNormalPosterior,
    NormalFamily,
    NormalPosterior,
)

__all__ = [
    "Deterministic",
    "DiagonalNormal",
    "FlowPosterior",
    "FullNormal",
    "FullNormalPosterior",
    "NormalFamily",
    "NormalPosterior",
    "PointPosterior",
    "Posterior",
    "PosteriorDistribution",
    "TransformedPosterior",
]
