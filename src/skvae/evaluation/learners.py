"""What boosted trees make of synthetic rows: train on them, or tell them apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.metrics import accuracy_score, r2_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold

from skvae.data.columns import Column
from skvae.evaluation.tables import Rows
from skvae.exceptions import ColumnError

# What scikit-learn's trees take for categories; of more levels the codes are ordered numbers.
_MAX_LEVELS = 254
# A target of more classes would take as many trees at every step.
MAX_CLASSES = 100
_FOLDS = 5


@dataclass(frozen=True)
class TargetScore:
    """How well a target of held-out rows is predicted from the other columns.

    Attributes
    ----------
    name : str
    measure : {"AUC", "macro AUC", "R²"}
        AUC of two levels; the mean of one-against-rest AUCs of more; R² of numbers and dates.
    synthetic : float
        After training on synthetic rows.
    real : float
        After training on as many real ones.
    synthetic_accuracy, real_accuracy : float or None
        Share of levels that are predicted rightly; None for numbers.
    """

    name: str
    measure: str
    synthetic: float
    real: float
    synthetic_accuracy: float | None = None
    real_accuracy: float | None = None


def target_scores(
    real: Rows, synthetic: Rows, holdout: Rows, targets: Sequence[int], seed: int
) -> tuple[TargetScore, ...]:
    """Train on synthetic rows and on as many real ones, test on held-out rows.

    The learner is scikit-learn's HistGradientBoosting with its default parameters. Rows without the target are
    passed over.

    Parameters
    ----------
    targets : sequence of int
        Positions of columns.

    References
    ----------
    C. Esteban, S. L. Hyland & G. Rätsch (2017), Real-valued (medical) time series generation with recurrent
    conditional GANs (train on synthetic, test on real).
    """
    n = min(len(real), len(synthetic))
    rng = np.random.default_rng(seed)
    trained = [part.part(n, rng) for part in (synthetic, real)]
    return tuple(_score(trained, holdout, target, seed) for target in targets)


def _score(trained: Sequence[Rows], test: Rows, target: int, seed: int) -> TargetScore:
    column = test.columns[target]
    others = [j for j in range(len(test.columns)) if j != target]
    if not others:
        raise ColumnError(f"column '{column.name}' is the only one; a prediction of it needs others")
    truth = test.values[:, target]
    known = ~np.isnan(truth)
    if test.numeric[target]:
        found = [_fit(rows, target, others, seed)[0].predict(test.values[known][:, others]) for rows in trained]
        return TargetScore(column.name, "R²", *(float(r2_score(truth[known], answer)) for answer in found))
    if column.cardinality > MAX_CLASSES:
        raise ColumnError(
            f"column '{column.name}' has {column.cardinality} levels and cannot be the target; name one with at most "
            f"{MAX_CLASSES}"
        )
    known &= truth < column.cardinality  # a level the real table lacks cannot be learned of it
    levels = np.unique(truth[known])
    if len(levels) < 2:
        raise ColumnError(
            f"column '{column.name}' has fewer than two levels in the holdout table and cannot be the target; name "
            "another target"
        )
    scores, accuracies = [], []
    for rows in trained:
        probabilities = np.zeros((int(known.sum()), column.cardinality + 1))
        model, classes = _fit(rows, target, others, seed)
        probabilities[:, classes] = 1.0 if model is None else model.predict_proba(test.values[known][:, others])
        scores.append(_auc(truth[known], probabilities, levels))
        accuracies.append(float(accuracy_score(truth[known], probabilities.argmax(1))))
    measure = "AUC" if column.cardinality == 2 else "macro AUC"
    return TargetScore(column.name, measure, scores[0], scores[1], accuracies[0], accuracies[1])


def _auc(truth: np.ndarray, probabilities: np.ndarray, levels: np.ndarray) -> float:
    """Mean over levels of the AUC of each against the rest."""
    return float(np.mean([roc_auc_score(truth == level, probabilities[:, int(level)]) for level in levels]))


def _fit(rows: Rows, target: int, others: Sequence[int], seed: int) -> tuple[Any, np.ndarray]:
    """A model of the target given other columns, and its classes; no model where there is one class alone."""
    y = rows.values[:, target]
    known = ~np.isnan(y)
    classes = np.unique(y[known])
    if not len(classes):
        raise ColumnError(
            f"column '{rows.columns[target].name}' has no entry in a table to be trained on and cannot be the "
            "target; name another target"
        )
    numeric = rows.numeric[target]
    if not numeric and len(classes) == 1:
        return None, classes.astype(np.int64)
    cls = HistGradientBoostingRegressor if numeric else HistGradientBoostingClassifier
    # Stratified early stopping needs every class more than once.
    counts = np.unique(y[known], return_counts=True)[1]
    early = "auto" if numeric or counts.min() > 10 else False
    model = cls(
        categorical_features=_by_level([rows.columns[j] for j in others]), early_stopping=early, random_state=seed
    )
    model.fit(rows.values[known][:, others], y[known])
    return model, np.array([]) if numeric else model.classes_.astype(np.int64)


def _by_level(columns: Sequence[Column]) -> list[bool]:
    return [column.is_discrete and column.cardinality < _MAX_LEVELS for column in columns]


def two_sample_auc(real: Rows, synthetic: Rows, seed: int) -> float:
    """How well boosted trees tell synthetic rows from real ones: ½ not at all, 1 without fail.

    The mean over five stratified folds of the AUC of HistGradientBoostingClassifier on rows it was not fitted to,
    with as many real rows as synthetic ones.

    References
    ----------
    D. Lopez-Paz & M. Oquab (2017), Revisiting classifier two-sample tests.
    """
    n = min(len(real), len(synthetic))
    rng = np.random.default_rng(seed)
    X = np.concatenate([real.part(n, rng).values, synthetic.part(n, rng).values])
    y = np.repeat([0, 1], n)
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    aucs = []
    for train, test in folds.split(X, y):
        model = HistGradientBoostingClassifier(categorical_features=_by_level(real.columns), random_state=seed)
        model.fit(X[train], y[train])
        aucs.append(roc_auc_score(y[test], model.predict_proba(X[test])[:, 1]))
    return float(np.mean(aucs))
