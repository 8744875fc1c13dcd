"""Variational autoencoders for tables and images, with the interface of scikit-learn."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skvae.data import Schema
    from skvae.estimators import (
        VAE,
        VAEClassifier,
        VAEClusterer,
        VAEImputer,
        VAEOutlierDetector,
        VAEOversampler,
        VAERegressor,
    )
    from skvae.exceptions import (
        ColumnError,
        ConstantColumnWarning,
        IdentifierWarning,
        ImageError,
        LoadError,
        SamplingWarning,
        SourceError,
        SourceWarning,
        TrainingError,
    )
    from skvae.model import (
        DIPVAE,
        ELBO,
        GECO,
        IWAE,
        MLP,
        MMD,
        RAE,
        AutoregressivePrior,
        Bernoulli,
        Beta,
        BetaTCVAE,
        Categorical,
        ConditionalNormal,
        ContinuousBernoulli,
        ConvNet,
        Deterministic,
        DiagonalNormal,
        DiscretisedLogistic,
        FactorVAE,
        FlowMatchingPrior,
        FlowPosterior,
        FlowPrior,
        FullNormal,
        Gaussian,
        GaussianMixture,
        Ignorable,
        LabelSpreading,
        LinearMasking,
        LogNormal,
        MixtureOfGaussians,
        NegativeBinomial,
        Neighbours,
        Ordinal,
        OrientedGradients,
        Poisson,
        QuantileNormal,
        ResidualConvNet,
        ResidualMLP,
        SelfMasking,
        Spikes,
        StandardNormal,
        StudentT,
        Table,
        VampPrior,
    )
    from skvae.persistence import load

__version__ = "0.1.0"

__all__ = [
    "DIPVAE",
    "ELBO",
    "GECO",
    "IWAE",
    "MLP",
    "MMD",
    "RAE",
    "VAE",
    "AutoregressivePrior",
    "Bernoulli",
    "Beta",
    "BetaTCVAE",
    "Categorical",
    "ColumnError",
    "ConditionalNormal",
    "ConstantColumnWarning",
    "ContinuousBernoulli",
    "ConvNet",
    "Deterministic",
    "DiagonalNormal",
    "DiscretisedLogistic",
    "FactorVAE",
    "FlowMatchingPrior",
    "FlowPosterior",
    "FlowPrior",
    "FullNormal",
    "Gaussian",
    "GaussianMixture",
    "IdentifierWarning",
    "Ignorable",
    "ImageError",
    "LabelSpreading",
    "LinearMasking",
    "LoadError",
    "LogNormal",
    "MixtureOfGaussians",
    "NegativeBinomial",
    "Neighbours",
    "Ordinal",
    "OrientedGradients",
    "Poisson",
    "QuantileNormal",
    "ResidualConvNet",
    "ResidualMLP",
    "SamplingWarning",
    "Schema",
    "SelfMasking",
    "SourceError",
    "SourceWarning",
    "Spikes",
    "StandardNormal",
    "StudentT",
    "Table",
    "TrainingError",
    "VAEClassifier",
    "VAEClusterer",
    "VAEImputer",
    "VAEOutlierDetector",
    "VAEOversampler",
    "VAERegressor",
    "VampPrior",
    "load",
]

_ROOMS = ("data", "estimators", "exceptions", "model", "persistence")


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import a public name, or a module, when it is first asked for: `skvae --help` need not wait for torch."""
        if name in __all__:
            for room in _ROOMS:
                module = import_module(f"skvae.{room}")
                if name in getattr(module, "__all__", vars(module)):
                    value = globals()[name] = getattr(module, name)
                    return value
        if not name.startswith("_"):
            try:
                return import_module(f"skvae.{name}")
            except ModuleNotFoundError as error:
                if error.name != f"skvae.{name}":
                    raise
        raise AttributeError(f"module 'skvae' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
