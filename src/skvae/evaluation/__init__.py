"""Metrics: of synthetic rows (the quality report), and of latents, clusters and images."""

from skvae.data.constraints import Constraint
from skvae.evaluation.clusters import clustering_accuracy, continuity, knn_accuracy
from skvae.evaluation.constraints import ConstraintRate, find_constraints
from skvae.evaluation.frechet import FeatureNetwork, frechet_distance
from skvae.evaluation.learners import TargetScore
from skvae.evaluation.neighbours import density_coverage
from skvae.evaluation.quality import quality_report
from skvae.evaluation.report import ColumnQuality, PairQuality, QualityReport, RareLevel

__all__ = [
    "ColumnQuality",
    "Constraint",
    "ConstraintRate",
    "FeatureNetwork",
    "PairQuality",
    "QualityReport",
    "RareLevel",
    "TargetScore",
    "clustering_accuracy",
    "continuity",
    "density_coverage",
    "find_constraints",
    "frechet_distance",
    "knn_accuracy",
    "quality_report",
]
