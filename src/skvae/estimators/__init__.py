"""The face of the package: one estimator per job."""

from typing import Any

from skvae.estimators.classifier import VAEClassifier
from skvae.estimators.clusterer import VAEClusterer
from skvae.estimators.imputer import VAEImputer
from skvae.estimators.outlier import VAEOutlierDetector
from skvae.estimators.oversampler import VAEOversampler
from skvae.estimators.regressor import VAERegressor
from skvae.estimators.vae import VAE

__all__ = [
    "VAE",
    "VAEClassifier",
    "VAEClusterer",
    "VAEImputer",
    "VAEOutlierDetector",
    "VAEOversampler",
    "VAERegressor",
    "by_name",
]


def by_name(name: str) -> type[Any]:
    """The estimator class that a saved model names."""
    saved = (VAE, VAEClassifier, VAEClusterer, VAEImputer, VAEOutlierDetector, VAERegressor)
    classes = {cls.__name__: cls for cls in saved}
    return classes[name]
