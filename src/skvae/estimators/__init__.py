"""The face of the package: one estimator per job."""

from skvae.estimators.base import BaseVAE
from skvae.estimators.vae import VAE

__all__ = ["VAE", "by_name"]


def by_name(name: str) -> type[BaseVAE]:
    """The estimator class that a saved model names."""
    classes = {cls.__name__: cls for cls in (VAE,)}
    return classes[name]
