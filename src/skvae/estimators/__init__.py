"""The face of the package: one estimator per job."""

from typing import Any

from skvae.estimators.classifier import VAEClassifier
from skvae.estimators.clusterer import VAEClusterer
from skvae.estimators.oversampler import VAEOversampler
from skvae.estimators.regressor import VAERegressor
from skvae.estimators.vae import VAE

__all__ = ["VAE", "VAEClassifier", "VAEClusterer", "VAEOversampler", "VAERegressor", "by_name"]


def by_name(name: str) -> type[Any]:
    """The estimator class that a saved model names."""
    classes = {cls.__name__: cls for cls in (VAE, VAEClassifier, VAEClusterer, VAERegressor)}
    return classes[name]
