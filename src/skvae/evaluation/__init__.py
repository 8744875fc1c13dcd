"""Metrics: of synthetic rows (the quality report), and of latents, clusters and images."""

from skvae.evaluation.constraints import Constraint, ConstraintRate, find_constraints
from skvae.evaluation.learners import TargetScore
from skvae.evaluation.neighbours import density_coverage
from skvae.evaluation.quality import quality_report
from skvae.evaluation.report import ColumnQuality, PairQuality, QualityReport, RareLevel

__all__ = [
    "ColumnQuality",
    "Constraint",
    "ConstraintRate",
    "PairQuality",
    "QualityReport",
    "RareLevel",
    "TargetScore",
    "density_coverage",
    "find_constraints",
    "quality_report",
]
