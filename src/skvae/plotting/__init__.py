"""Plots of a fitted model, in scikit-learn's style: `from_estimator` computes and draws, `plot` draws again.

Every display keeps what it shows as attributes, draws into the axes that it is given (or a figure of its own), and
changes no setting of matplotlib's.
"""

from skvae.plotting.latents import LatentMapDisplay, TraversalDisplay
from skvae.plotting.rows import ReconstructionDisplay, SampleGridDisplay
from skvae.plotting.training import TrainingCurveDisplay

__all__ = [
    "LatentMapDisplay",
    "ReconstructionDisplay",
    "SampleGridDisplay",
    "TrainingCurveDisplay",
    "TraversalDisplay",
]
