"""VAEOutlierDetector: rows that the model finds unlikely, and which of their entries make them so."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import OutlierMixin
from sklearn.utils.validation import check_is_fitted

from skvae.data.batch import Batch
from skvae.data.build import build_table
from skvae.data.columns import Column, Kind
from skvae.data.source import opened, reading
from skvae.data.table import Table as RawTable
from skvae.data.table import read_table, show
from skvae.estimators.base import to_numpy
from skvae.estimators.parameters import takes_parameters_of
from skvae.estimators.reading import copy_features
from skvae.estimators.single import SingleVAE
from skvae.estimators.vae import VAE
from skvae.inference.leave_one_out import LeftOut, left_out
from skvae.inference.log_likelihood import log_likelihood
from skvae.model.checks import is_number
from skvae.training import Noise

# Entries and rows by which it is learned what is typical, at most; of them, the share that may be errors.
_MAX_ENTRIES, _MAX_ROWS, _CUT = 20_000, 1_000, 0.01
# Spreads below the median, in units of a normal variable's standard deviation, from which on a score is odd
# (Iglewicz & Hoaglin 1993); and the part of a standard deviation between the median and the lower quartile.
_SPREADS, _QUARTILE = 3.5, 0.6745
_DECIMALS = 4  # of scores
_UNKNOWN = ("unlikely", "missing", "error")


class VAEOutlierDetector(OutlierMixin, SingleVAE):
    """Outlier and novelty detection by the probability that a variational autoencoder gives a row.

    Fitted to rows that may contain outliers; asked about these or about new ones. The score is log p(x) in nats, by
    importance sampling, and `explain` says how much each entry contributes to it, given all others of its row.

    Parameters
    ----------
    contamination : float or "auto"
        Share of outliers among the rows of `fit`, in (0, 0.5], which settles `offset_`. "auto" takes rows for
        outliers whose score is 3.5 spreads or more below the median, the spread being the distance from the median
        to the lower quartile, divided by that of a standard normal variable (after Iglewicz & Hoaglin 1993, who take
        both sides; scores have a longer tail below than above).
    n_draws : int
        Latents per row for importance weighting.
    handle_unknown : {"unlikely", "missing", "error"}
        What an entry is that its column never held at fit, where that has levels or was constant: as likely as what
        did not occur in n rows, with log p = −log(n + 1); missing; or an error (where it has levels).
    **parameters
        The others of `VAE`.

    Attributes
    ----------
    offset_ : float
        Rows with a score below are outliers.
    typical_ : ndarray [n_features]
        Of each column, the mean of log p(x_c | the other entries) over rows of `fit`, in nats, without the lowest
        1 %; 0 for constant columns.
    vae_ : VAE
        The model of the rows.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only if X had column names.

    References
    ----------
    B. Iglewicz & D. C. Hoaglin (1993), How to detect and handle outliers.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_wine
    >>> from skvae import VAEOutlierDetector
    >>> X, _ = load_wine(return_X_y=True)
    >>> detector = VAEOutlierDetector(max_epochs=30, random_state=0).fit(X)
    >>> odd = X[:1].copy()
    >>> odd[0, 0] = 40.0  # per cent of alcohol
    >>> detector.predict(odd)
    array([-1])
    >>> int(detector.explain(odd).argmin())
    0
    """

    offset_: float
    _typical: np.ndarray
    n_features_in_: int

    @takes_parameters_of(VAE)
    def __init__(
        self, *, contamination: float | str = "auto", n_draws: int = 100, handle_unknown: str = "unlikely"
    ) -> None: ...

    def fit(self, X: Any, y: Any = None, *, sample_weight: Any = None) -> Self:
        """Fit the model, and settle what is typical.

        Parameters
        ----------
        X : array or data frame [n, n_features]
            Or, here as in every method, the path of a csv or parquet file.
        y : ignored
            Only its length is checked.
        sample_weight : array [n], optional
            Relative weight of each row in the objective.

        Returns
        -------
        self

        Raises
        ------
        ColumnError
            A column that cannot be used as it is.
        ValueError
            A parameter out of range.
        TrainingError
            If the loss becomes and stays non-finite.
        """
        self._refuse_images("score_samples")
        share = self.contamination
        if not (isinstance(share, str) and share == "auto") and not (is_number(share) and 0 < share <= 0.5):
            raise ValueError(f"contamination={share!r}: expected 'auto' or a share of rows in (0, 0.5]")
        if self.handle_unknown not in _UNKNOWN:
            raise ValueError(f"handle_unknown={self.handle_unknown!r}: expected one of {_UNKNOWN}")
        X = opened(X, **reading(self.column_kinds))
        self._fit_vae(X, y, sample_weight)
        copy_features(self.vae_, self)
        rows = self.vae_._rows(X)
        self._typical = self._what_is_typical(rows)
        scores = self._scores(rows, np.zeros((len(rows), self.n_features_in_), dtype=bool))
        if isinstance(share, str):
            lower, median = np.percentile(scores, [25, 50])
            self.offset_ = float(median - _SPREADS * (median - lower) / _QUARTILE)
        else:
            self.offset_ = float(np.percentile(scores, 100 * share))
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """log p(x) of each row in nats: the higher, the more normal.

        A missing entry counts as much as is typical of its column (`typical_`), so that rows are neither
        suspicious nor excused for being incomplete; `vae_.score_samples` leaves it out.

        Parameters
        ----------
        X : array or data frame [n, n_features]

        Returns
        -------
        ndarray [n], float64
        """
        check_is_fitted(self)
        return self._scores(*self._asked(X)[1:])

    def decision_function(self, X: Any) -> np.ndarray:
        """`score_samples(X) - offset_`, negative for outliers, [n]."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """−1 for outliers, 1 for other rows, [n]."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def explain(self, X: Any) -> Any:
        """How normal each entry is, given all others of its row.

        log p(x_c | the others) minus what is typical of the column (`typical_`), in nats: around 0 or above for an
        ordinary entry, far below for a surprising one. `report` puts it in words.

        Parameters
        ----------
        X : array or data frame [n, n_features]

        Returns
        -------
        ndarray or data frame of numbers, [n, n_features]
            Of the kind seen at fit, with its column names; NaN for missing entries, 0 for those of columns
            that are as constant as at fit.
        """
        check_is_fitted(self)
        schema = self.vae_.schema_
        table, rows, unknown = self._asked(X)
        values = self._contributions(self._left_out(rows), table, unknown)
        columns = [
            Column(column.name, Kind.CONTINUOUS, "float64", label=column.label, lower=-np.inf, upper=np.inf)
            for column in schema.columns
        ]
        return build_table(schema.container, columns, list(values.T), index=table.index)

    def report(self, X: Any, n_rows: int = 10, n_columns: int = 3) -> OutlierReport:
        """The least normal rows and their most surprising entries: what is there, and what was expected.

        Parameters
        ----------
        X : array or data frame [n, n_features]
        n_rows, n_columns : int
            How many of each to name, at most.

        Returns
        -------
        OutlierReport
            Prints readably; with `to_dict()`, ready for JSON.
        """
        check_is_fitted(self)
        self.vae_._check_count(n_rows, "n_rows")
        self.vae_._check_count(n_columns, "n_columns")
        schema = self.vae_.schema_
        table, every, unknown = self._asked(X)
        scores = self._scores(every, unknown)
        lowest = np.argsort(scores, kind="stable")[:n_rows]
        answer = self._left_out(every.rows(torch.from_numpy(lowest).to(every.values.device)))
        contributions = self._contributions(answer, table, unknown, lowest)
        expected = read_table(schema.decode(to_numpy(answer.centre)))
        found = []
        for k, row in enumerate(lowest):
            odd = [j for j in np.argsort(contributions[k])[:n_columns] if contributions[k, j] < 0]
            entries = [
                Surprise(
                    schema.columns[j].name,
                    _entry(table, j, int(row)),
                    _entry(expected, j, k),
                    float(contributions[k, j]),
                )
                for j in odd
            ]
            score = float(scores[row])
            found.append(OddRow(int(row), score, score < self.offset_, tuple(entries)))
        return OutlierReport(len(scores), int((scores < self.offset_).sum()), self.offset_, tuple(found))

    @property
    def typical_(self) -> np.ndarray:
        """Of each column, the usual log p(x_c | the other entries), nats; see the class."""
        typical = np.zeros(self.n_features_in_)
        typical[self.vae_.schema_._positions] = self._typical
        return typical

    def _asked(self, X: Any) -> tuple[Any, Batch, np.ndarray]:
        """The rows, read and encoded, and the entries that their columns never held at fit, bool [n, n_features]."""
        vae = self.vae_
        table: Any = vae._table(X)
        unknown = np.zeros((table.n_rows, self.n_features_in_), dtype=bool)
        if self.handle_unknown != "unlikely":
            return table, vae._encode(table), unknown
        rows = vae.schema_.encode(table, "missing")
        for i, changed in vae.schema_.changed_entries(table).items():
            unknown[:, i] = changed
        if rows.observed is not None:
            observed = rows.observed.numpy()
            for j, i in enumerate(vae.schema_._positions):
                unknown[:, i] = ~observed[:, j] & ~table.missing(i)
        return table, rows.to(vae._device), unknown

    @property
    def _log_p_unknown(self) -> float:
        return -float(np.log(self.vae_.schema_.n_rows + 1))

    def _vae_params(self) -> dict[str, Any]:
        params = super()._vae_params()
        asked = params["handle_unknown"]
        return params | ({"handle_unknown": "missing"} if isinstance(asked, str) and asked == "unlikely" else {})

    def _what_is_typical(self, rows: Batch) -> np.ndarray:
        """`typical_` of the modelled columns, by some of the rows, [C]."""
        n, n_columns = rows.values.shape
        n_asked = min(n, _MAX_ROWS, max(20, _MAX_ENTRIES // n_columns))
        order = torch.randperm(n, generator=Noise(self.vae_._noise_seed).stream("typical"))
        log_p = np.sort(to_numpy(self._left_out(rows.rows(order[:n_asked].to(rows.values.device))).log_p), axis=0)
        present = (~np.isnan(log_p)).sum(0)  # sorted last are those that are not
        rank = np.arange(len(log_p))[:, None]
        kept = (rank >= np.floor(_CUT * present)) & (rank < present)
        sums = np.where(kept, log_p, 0.0).sum(0, dtype=np.float64)
        return sums / np.maximum(kept.sum(0), 1)

    def _scores(self, rows: Batch, unknown: np.ndarray) -> np.ndarray:
        vae = self.vae_
        eps = vae._shared_noise(self.n_draws)
        with vae._answering(len(rows) * self.n_draws):
            scores = to_numpy(log_likelihood(vae.model_, vae.prior_, rows, eps).log_p).astype(np.float64)
        if rows.observed is not None:
            known = ~unknown[:, vae.schema_._positions]
            scores += (to_numpy(~rows.observed) & known) @ self._typical
        scores += unknown.sum(1) * self._log_p_unknown
        # What float32 makes of the same row among others is beyond these decimals, and they are beyond the error of
        # importance sampling.
        return scores.round(_DECIMALS)

    def _left_out(self, rows: Batch) -> LeftOut:
        vae = self.vae_
        eps = vae._shared_noise(self.n_draws)
        with vae._answering(rows.values.numel() * self.n_draws):
            return left_out(vae.model_, vae.prior_, rows, eps)

    def _contributions(
        self, answer: LeftOut, table: RawTable, unknown: np.ndarray, which: np.ndarray | None = None
    ) -> np.ndarray:
        """`explain` for the rows at `which` [m], of which the answer is, as numbers [m, n_features]."""
        which = np.arange(table.n_rows) if which is None else which
        positions = self.vae_.schema_._positions
        values = np.zeros((len(which), self.n_features_in_))
        values[:, positions] = to_numpy(answer.log_p)
        for j in np.setdiff1d(np.arange(self.n_features_in_), positions):
            values[table.missing(j)[which], j] = np.nan
        return np.where(unknown[which], self._log_p_unknown, values) - self.typical_

    def _saved_state(self) -> dict[str, Any]:
        return super()._saved_state() | {"offset": self.offset_, "typical": self._typical.tolist()}

    def _restore_state(self, state: dict[str, Any]) -> None:
        super()._restore_state(state)
        copy_features(self.vae_, self)
        self.offset_, self._typical = state["offset"], np.array(state["typical"], dtype=np.float64)


def _entry(table: RawTable, column: int, row: int) -> str:
    value = table.array(column)[row].as_py()
    return f"{value:.6g}" if isinstance(value, float) else show(value)


@dataclass(frozen=True)
class Surprise:
    """An entry that is less likely than is typical of its column.

    Attributes
    ----------
    column, value : str
    expected : str
        The mean (numbers, dates) or mode (levels) given the other entries of the row.
    nats : float
        log p(value | the other entries) minus what is typical of the column.
    """

    column: str
    value: str
    expected: str
    nats: float


@dataclass(frozen=True)
class OddRow:
    """A row and its most surprising entries.

    Attributes
    ----------
    row : int
        Its position.
    score : float
        log p(x), nats.
    outlier : bool
    entries : tuple of Surprise
        The most surprising first.
    """

    row: int
    score: float
    outlier: bool
    entries: tuple[Surprise, ...]


@dataclass(frozen=True)
class OutlierReport:
    """What `VAEOutlierDetector.report` answers.

    Attributes
    ----------
    n_rows, n_outliers : int
        Of the rows asked about.
    offset : float
        Rows with a score below are outliers.
    rows : tuple of OddRow
        The least normal first.
    """

    n_rows: int
    n_outliers: int
    offset: float
    rows: tuple[OddRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{self.n_outliers} of {self.n_rows} rows are outliers: log p(x) below {self.offset:.1f} nats"]
        for row in self.rows:
            what = "outlier" if row.outlier else "no outlier"
            lines.append(f"row {row.row}: {row.score:.1f} nats, {what}")
            lines += [
                f"    {entry.column} is {entry.value}, expected {entry.expected} ({entry.nats:.1f} nats)"
                for entry in row.entries
            ]
        return "\n".join(lines)
