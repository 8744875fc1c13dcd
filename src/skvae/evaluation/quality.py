"""The quality report: are synthetic rows like the real ones, are they useful, do they keep secrets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from skvae.evaluation.constraints import constraint_rates
from skvae.evaluation.learners import MAX_CLASSES, TargetScore, target_scores, two_sample_auc
from skvae.evaluation.neighbours import Closeness, closeness, coordinates, density_coverage
from skvae.evaluation.report import ColumnQuality, PairQuality, QualityReport, RareLevel
from skvae.evaluation.shapes import shape_errors
from skvae.evaluation.tables import Rows, Tables, read_tables
from skvae.evaluation.trends import trend_errors
from skvae.exceptions import ColumnError

_RARE = 0.01
# A rate is compared where so many synthetic rows are expected to have the level.
_EXPECTED = 5.0


def quality_report(
    real: Any,
    synthetic: Any,
    holdout: Any = None,
    *,
    target: Any = None,
    column_kinds: Mapping[Any, str] | None = None,
    max_rows: int = 10_000,
    random_state: int = 0,
) -> QualityReport:
    """Compare synthetic rows with the real ones that a model was fitted to, and with real ones it has not seen.

    - *Column shapes*: Kolmogorov–Smirnov and total variation distances (`shape_error`).
    - *Pair trends*: differences of correlations and of joint levels, as SDMetrics defines them (`trend_error`).
    - *Two-sample test*: can boosted trees tell synthetic rows from real ones (`two_sample_auc`).
    - *Density and coverage*: do synthetic rows lie where real ones do, and everywhere there (Naeem et al. 2020).
    - *Usefulness*, with a holdout: scores on held-out rows of a learner trained on synthetic rows and of one trained
      on as many real ones (`synthetic_score`, `real_score`).
    - *Privacy*, with a holdout: are synthetic rows closer to the rows trained on than to others (`closest_share`),
      and do distances tell who was trained on (`membership_auc`).
    - Rates of rare levels, and rules that no real row violates.

    The modules `shapes`, `trends`, `learners` and `neighbours` have the definitions and their sources.

    Parameters
    ----------
    real : array or data frame [n, C], or path of a csv or parquet file
        The rows that the model was fitted to.
    synthetic : the same, [m, C]
        With the same columns, in any order. Some figures depend on the number of rows: to compare them with those
        of the holdout, pass as many synthetic rows.
    holdout : the same, [h, C], optional
        Real rows that the model has not seen.
    target : column name, position, or list of them, optional
        What is to be predicted from the other columns; the last column if not given. At most 100 levels.
    column_kinds : mapping of column name (or position) to kind, optional
        As in `VAE`, where another kind than the one inferred from the real table is wanted. Identifiers are left out
        of the report, those that are recognised (see `left_out`) and those of which it is said here.
    max_rows : int
        Of more rows, so many drawn at random are looked at where the work grows with the square of their number:
        density and coverage, and, of the synthetic ones, the distances to closest records, which see up to
        twice as many held-out and training rows. Trees see up to twice as many rows.
    random_state : int
        For subsamples, folds and trees; the same seed gives the same report.

    Returns
    -------
    QualityReport
        Prints readably; `to_dict()`, `plot()`, `save_html(path)`.

    Raises
    ------
    ColumnError
        Other columns in one of the tables, or a column that holds something else; a target that is not there.
    ValueError
        Fewer than 20 rows in a table; a target without a holdout.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae.evaluation import quality_report
    >>> X, _ = load_wine(return_X_y=True)
    >>> report = quality_report(X[::3], X[1::3], X[2::3], target=0)
    >>> report.trend_error < 0.1
    True
    """
    if isinstance(max_rows, bool) or not hasattr(max_rows, "__index__") or max_rows < 100:
        raise ValueError(f"max_rows={max_rows!r}: expected a whole number ≥ 100")
    if target is not None and holdout is None:
        raise ValueError(
            f"target={target!r} is predicted on held-out real rows; pass holdout=, rows the model was not fitted to"
        )
    tables = read_tables(real, synthetic, holdout, column_kinds)
    rows, made, held = tables.real, tables.synthetic, tables.holdout
    positions = _targets(tables, target)
    rng = np.random.default_rng(random_state)
    close, scores = _against_holdout(tables, positions, max_rows, rng, random_state)
    shape, trend = shape_errors(rows, made), trend_errors(rows, made)
    held_shape = None if held is None else shape_errors(rows, held)
    held_trend = None if held is None else trend_errors(rows, held)
    near = _points_together(rows, [part.part(max_rows, rng) for part in (rows, made)])
    density, coverage = density_coverage(near[0], near[1])
    rare = _rare_levels(rows, made)
    told = [level for level in rare if level.expected >= _EXPECTED]
    return QualityReport(
        n_real=len(rows),
        n_synthetic=len(made),
        n_holdout=None if held is None else len(held),
        shape_error=float(shape.mean()),
        trend_error=_mean(trend) or 0.0,
        holdout_shape_error=None if held_shape is None else float(held_shape.mean()),
        holdout_trend_error=None if held_trend is None else _mean(held_trend),
        two_sample_auc=two_sample_auc(rows.part(2 * max_rows, rng), made.part(2 * max_rows, rng), random_state),
        synthetic_score=float(np.mean([score.synthetic for score in scores])) if scores else None,
        real_score=float(np.mean([score.real for score in scores])) if scores else None,
        targets=scores,
        density=density,
        coverage=coverage,
        closest_share=None if close is None else close.closest_share,
        membership_auc=None if close is None else close.membership_auc,
        copied_share=None if close is None else close.copied_share,
        copied_share_holdout=None if close is None else close.copied_share_holdout,
        columns=_columns(tables, shape, trend, held_shape),
        pairs=_pairs(rows, trend, held_trend),
        rare_levels=rare,
        rare_within=float(np.mean([0.5 <= level.ratio <= 2.0 for level in told])) if told else None,
        constraints=constraint_rates(tables.constraints, made),
        left_out=tables.left_out,
    )


def _targets(tables: Tables, target: Any) -> list[int]:
    """Positions of the columns that are to be predicted; none without a holdout."""
    if tables.holdout is None:
        return []
    names = [column.name for column in tables.real.columns]
    if target is None:
        usable = [j for j, column in enumerate(tables.real.columns) if column.cardinality <= MAX_CLASSES]
        return usable[-1:] if len(names) > 1 else []
    positions = []
    for key in target if isinstance(target, list | tuple) else [target]:
        if str(key) in names:
            positions.append(names.index(str(key)))
        elif hasattr(key, "__index__") and -len(names) <= key < len(names):
            positions.append(int(key) % len(names))
        elif str(key) in tables.left_out:
            raise ColumnError(
                f"target={key!r} has a value of its own in every row, as identifiers and free text have, and cannot "
                "be predicted; name another target, or give its kind in column_kinds"
            )
        else:
            raise ColumnError(f"target={key!r} is no column of the real table; it has {names[:10]}")
    return positions


def _against_holdout(
    tables: Tables, targets: Sequence[int], max_rows: int, rng: np.random.Generator, seed: int
) -> tuple[Closeness | None, tuple[TargetScore, ...]]:
    if tables.holdout is None:
        return None, ()
    held = tables.holdout.part(2 * max_rows, rng)
    n = min(len(held), len(tables.real))
    records = [tables.real.part(n, rng), held.part(n, rng)]
    made = tables.synthetic.part(max_rows, rng)
    points = _points_together(tables.real, [*records, made])
    large = 2 * max_rows
    scores = target_scores(
        tables.real.part(large, rng), tables.synthetic.part(large, rng), tables.holdout, targets, seed
    )
    return closeness(*points), scores


def _points_together(real: Rows, parts: Sequence[Rows]) -> list[np.ndarray]:
    """Coordinates of several tables, which must agree in whether something is missing."""
    points = coordinates(real, Rows(real.columns, np.concatenate([part.values for part in parts])))
    return np.split(points, np.cumsum([len(part) for part in parts])[:-1])


def _mean(errors: np.ndarray) -> float | None:
    """Mean over pairs; None where there are none."""
    return None if np.isnan(errors).all() else float(np.nanmean(errors))


def _columns(
    tables: Tables, shape: np.ndarray, trend: np.ndarray, held: np.ndarray | None
) -> tuple[ColumnQuality, ...]:
    made = tables.synthetic
    missing = [np.isnan(part.values).mean(axis=0) for part in (tables.real, made)]
    lower = np.array(
        [column.lower if numeric else 0.0 for column, numeric in zip(made.columns, made.numeric, strict=True)]
    )
    upper = np.array(
        [
            column.upper if numeric else column.cardinality - 1.0
            for column, numeric in zip(made.columns, made.numeric, strict=True)
        ]
    )
    outside = ((made.values < lower) | (made.values > upper)).mean(axis=0)
    return tuple(
        ColumnQuality(
            name=column.name,
            kind=str(column.kind),
            error=float(shape[j]),
            trend_error=_mean(trend[j]),
            missing_real=float(missing[0][j]),
            missing_synthetic=float(missing[1][j]),
            outside=float(outside[j]),
            holdout_error=None if held is None else float(held[j]),
        )
        for j, column in enumerate(made.columns)
    )


def _pairs(rows: Rows, trend: np.ndarray, held: np.ndarray | None) -> tuple[PairQuality, ...]:
    names = [column.name for column in rows.columns]
    return tuple(
        PairQuality(names[i], names[j], float(trend[i, j]), None if held is None else float(held[i, j]))
        for i, j in np.argwhere(np.triu(~np.isnan(trend), 1))
    )


def _rare_levels(rows: Rows, made: Rows) -> tuple[RareLevel, ...]:
    """Levels that at most 1 % of the real rows have, the most frequent first."""
    found = []
    for column, real, synthetic in zip(rows.columns, rows.values.T, made.values.T, strict=True):
        if not column.is_discrete:
            continue
        assert column.levels is not None
        rates = [
            np.bincount(codes[~np.isnan(codes)].astype(np.int64), minlength=column.cardinality + 1) / len(codes)
            for codes in (real, synthetic)
        ]
        found += [
            RareLevel(
                column.name,
                str(column.levels[k]),
                float(rates[0][k]),
                float(rates[1][k]),
                float(rates[1][k] / rates[0][k]),
                float(rates[0][k] * len(made)),
            )
            for k in np.flatnonzero((rates[0] <= _RARE) & (rates[0] > 0))
            if k < column.cardinality
        ]
    return tuple(sorted(found, key=lambda level: -level.real_rate))
