"""What `quality_report` answers, as numbers and in print."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from skvae.evaluation.constraints import ConstraintRate
from skvae.evaluation.learners import TargetScore

_SHOWN, _NAME_WIDTH = 12, 28


@dataclass(frozen=True)
class ColumnQuality:
    """How close one synthetic column is to the real one; shares of entries.

    Attributes
    ----------
    name : str
    kind : str
    error : float
        Kolmogorov–Smirnov (numbers, dates) or total variation distance (levels), missing entries included.
    trend_error : float or None
        Mean of its pairs' trend errors; None if it has none.
    missing_real, missing_synthetic : float
    outside : float
        Synthetic entries beyond the real bounds, or of a level that the real table lacks.
    holdout_error : float or None
        Distance of the holdout's column from the real one.
    """

    name: str
    kind: str
    error: float
    trend_error: float | None
    missing_real: float
    missing_synthetic: float
    outside: float
    holdout_error: float | None = None


@dataclass(frozen=True)
class PairQuality:
    """How close the dependence of two synthetic columns is to that of the real ones."""

    first: str
    second: str
    error: float
    holdout_error: float | None = None


@dataclass(frozen=True)
class RareLevel:
    """A level that at most 1 % of the real rows have.

    Attributes
    ----------
    column, level : str
    real_rate, synthetic_rate : float
    ratio : float
        Of the synthetic to the real rate.
    expected : float
        How many of so many synthetic rows have the level at the real rate; a ratio says little where that is small.
    """

    column: str
    level: str
    real_rate: float
    synthetic_rate: float
    ratio: float
    expected: float


@dataclass(frozen=True, repr=False)
class QualityReport:
    """How close synthetic rows are to real ones, how useful, and how private; made by `quality_report`.

    What is compared with held-out rows is None without them.

    Attributes
    ----------
    n_real, n_synthetic : int
    n_holdout : int or None
    shape_error : float
        Mean over columns of the distance of their distributions, a fraction.
    trend_error : float
        Mean over pairs of columns of the distance of their joint distributions or correlations, a fraction.
    holdout_shape_error, holdout_trend_error : float or None
        The same of the held-out rows: what sampling alone comes to, for as many rows.
    two_sample_auc : float
        How well boosted trees tell synthetic rows from real ones; .5 is best.
    synthetic_score, real_score : float or None
        Mean over targets of the score on held-out rows after training on synthetic and on as many real rows.
    targets : tuple of TargetScore
    density, coverage : float
        Of synthetic rows around real ones; about 1 and .97 for rows of the same distribution.
    closest_share : float or None
        Share of synthetic rows closer to a training row than to a held-out one; .5 is best, 1 are copies.
    membership_auc : float or None
        How well distances tell rows trained on from others; .5 is best.
    copied_share, copied_share_holdout : float or None
        Share of synthetic rows that equal a training row, a held-out row.
    columns : tuple of ColumnQuality
    pairs : tuple of PairQuality
    rare_levels : tuple of RareLevel
    rare_within : float or None
        Share of the rare levels expected at least five times whose rate is 0.5 to 2 times the real one.
    constraints : tuple of ConstraintRate
        Rules that no real row violates, and how often synthetic ones do.
    left_out : tuple of str
        Columns that were not compared: identifiers and free text.
    """

    n_real: int
    n_synthetic: int
    n_holdout: int | None
    shape_error: float
    trend_error: float
    holdout_shape_error: float | None
    holdout_trend_error: float | None
    two_sample_auc: float
    synthetic_score: float | None
    real_score: float | None
    targets: tuple[TargetScore, ...]
    density: float
    coverage: float
    closest_share: float | None
    membership_auc: float | None
    copied_share: float | None
    copied_share_holdout: float | None
    columns: tuple[ColumnQuality, ...]
    pairs: tuple[PairQuality, ...]
    rare_levels: tuple[RareLevel, ...]
    rare_within: float | None
    constraints: tuple[ConstraintRate, ...]
    left_out: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, ready for JSON."""
        return _plain(asdict(self))

    def pair_matrix(self) -> np.ndarray:
        """Trend errors of all pairs of columns, [C, C]; NaN where there is none."""
        position = {column.name: i for i, column in enumerate(self.columns)}
        matrix = np.full((len(position), len(position)), np.nan)
        for pair in self.pairs:
            i, j = position[pair.first], position[pair.second]
            matrix[i, j] = matrix[j, i] = pair.error
        return matrix

    def facts(self) -> list[tuple[str, str, str]]:
        """Names, values and what they are to be compared with, in words."""
        holdout = self.n_holdout is not None
        rows = [
            ("shape error", _percent(self.shape_error), _of_holdout(self.holdout_shape_error)),
            ("trend error", _percent(self.trend_error), _of_holdout(self.holdout_trend_error)),
            (
                "two-sample AUC",
                f"{self.two_sample_auc:.3f}",
                "best .5: boosted trees cannot tell synthetic from real",
            ),
            ("density", f"{self.density:.3f}", "1 for rows of the same distribution"),
            ("coverage", f"{self.coverage:.3f}", ".97 for as many rows of the same distribution"),
        ]
        rows += [
            (
                f"{target.measure} of '{_cut(target.name)}'",
                f"{target.synthetic:.3f}",
                f"{target.real:.3f} trained on real rows",
            )
            for target in self.targets
        ]
        if holdout:
            rows += [
                ("closest share", _percent(self.closest_share), "50 % if training rows are not copied"),
                ("membership AUC", f"{self.membership_auc:.3f}", "best .5: distances do not tell who was trained on"),
                ("copies", _percent(self.copied_share), f"{_percent(self.copied_share_holdout)} equal held-out rows"),
            ]
        if self.rare_within is not None:
            rows.append(("rare levels", _percent(self.rare_within), "at 0.5 to 2 times their real rate"))
        if self.constraints:
            broken = max(self.constraints, key=lambda rule: rule.violated)
            worst = f"; most often {broken.constraint}" if broken.violated else ""
            rows.append(
                (
                    "rules broken",
                    _percent(broken.violated),
                    f"of rows, the worst of {len(self.constraints)} rules{worst}",
                )
            )
        return rows

    def __str__(self) -> str:
        held = "no holdout" if self.n_holdout is None else f"{self.n_holdout:,} held out"
        text = [f"Quality of {self.n_synthetic:,} synthetic rows ({self.n_real:,} real, {held})", ""]
        facts = self.facts()
        widths = [max(len(row[k]) for row in facts) for k in range(2)]
        text += [f"{name.ljust(widths[0])}  {value.rjust(widths[1])}  {note}" for name, value, note in facts]
        worst = sorted(self.columns, key=lambda column: -column.error)[:_SHOWN]
        header = ("column", "shape", "trend", "missing", "real", "outside")
        cells = [header] + [
            (
                _cut(column.name),
                _percent(column.error),
                "" if column.trend_error is None else _percent(column.trend_error),
                _percent(column.missing_synthetic),
                _percent(column.missing_real),
                _percent(column.outside),
            )
            for column in worst
        ]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        text += ["", *("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in cells)]
        if len(self.columns) > _SHOWN:
            more = len(self.columns) - _SHOWN
            text.append(f"and {more} more column{'s' if more > 1 else ''} with less error")
        broken = sorted((rule for rule in self.constraints if rule.violated), key=lambda rule: -rule.violated)
        if broken:
            text += ["", "rules that no real row violates, and how many synthetic rows do:"]
            text += [f"  {rule.constraint}: {rule.n_violating:,} of {rule.n_rows:,}" for rule in broken[:_SHOWN]]
            if len(broken) > _SHOWN:
                text.append(f"  and {len(broken) - _SHOWN} more rules, by fewer")
        if self.left_out:
            text += ["", f"not compared, as identifiers or free text: {', '.join(self.left_out)}"]
        return "\n".join(text)

    def __repr__(self) -> str:
        return (
            f"QualityReport(shape_error={self.shape_error:.4f}, trend_error={self.trend_error:.4f}, "
            f"two_sample_auc={self.two_sample_auc:.3f}, coverage={self.coverage:.3f}, "
            f"closest_share={_number(self.closest_share)}, synthetic_score={_number(self.synthetic_score)})"
        )

    def _repr_html_(self) -> str:
        from skvae.evaluation import page

        return page.summary(self)

    def plot(self) -> Any:
        """Column shapes, pair trends and what each target's score is, as a matplotlib figure.

        Returns
        -------
        matplotlib Figure

        Raises
        ------
        ImportError
            Without matplotlib, which the extra `plot` installs.
        """
        from skvae.evaluation import figure

        return figure.draw(self)

    def save_html(self, path: str | os.PathLike[str]) -> None:
        """Write the report as one HTML file that needs nothing else; it appears complete or not at all.

        Raises
        ------
        FileNotFoundError, IsADirectoryError
            If the folder does not exist, or `path` is one.
        """
        from skvae.evaluation import page

        page.write(self, path)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value


def _cut(text: str) -> str:
    return text if len(text) <= _NAME_WIDTH else text[: _NAME_WIDTH - 1] + "…"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f} %"


def _number(value: float | None) -> str:
    return "None" if value is None else f"{value:.3f}"


def _of_holdout(error: float | None) -> str:
    return "0 for the same distribution" if error is None else f"{_percent(error)} for the held-out rows"
