"""VAEImputer: holes filled with what the rest of the row says of them."""

from __future__ import annotations

import math
import os
from numbers import Integral, Number
from typing import Any, Self

import narwhals as nw
import numpy as np
from sklearn.base import TransformerMixin
from sklearn.utils._set_output import _get_output_config
from sklearn.utils.validation import (
    _check_feature_names,
    _check_feature_names_in,
    _check_n_features,
    check_is_fitted,
)

from skvae.data import source
from skvae.data.table import Table as RawTable
from skvae.data.table import read_table
from skvae.estimators.parameters import takes_parameters_of
from skvae.estimators.single import SingleVAE
from skvae.estimators.vae import VAE


class VAEImputer(TransformerMixin, SingleVAE):
    """Imputation by a variational autoencoder, with the interface of scikit-learn's imputers.

    One VAE is fitted to the rows as they are, holes included. `transform` fills each hole with the mean (numbers,
    dates) or mode (levels) of its distribution given the entries that the row has, by importance sampling over the
    latents (Mattei & Frellsen 2019), within the type, the rounding and the bounds of its column; entries that are
    there stay as they are. The answer is a frame of the kind seen at fit, with the same columns, dtypes and
    categories.

    Parameters
    ----------
    missing_values : number, str or None
        What marks a hole beside NaN, None and null, which always do. Whole numbers among which it marks some become
        float64.
    add_indicator : bool
        Whether a truth value (a 0 or 1 in arrays of numbers) for each column that had holes at fit is added on
        the right: where they are.
    keep_empty_features : bool
        Whether columns without any entry at fit stay, numeric ones with 0 in their holes, others with their holes.
        Else they are left out.
    sample_posterior : bool
        Whether `transform` fills holes with a draw instead, the same at every call. `impute` gives several, for
        multiple imputation.
    n_draws : int
        Latents per row for importance weighting.
    **parameters
        Those of `VAE`.

    Attributes
    ----------
    vae_ : VAE
        The model of the rows, of the columns that had entries at fit.
    empty_features_ : ndarray of int
        Positions of the columns without any entry at fit.
    indicator_features_ : ndarray of int
        Positions of the columns with holes at fit.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only if X had column names.

    References
    ----------
    P.-A. Mattei & J. Frellsen (2019), MIWAE: deep generative modelling and imputation of incomplete data sets.
    D. B. Rubin (1987), Multiple imputation for nonresponse in surveys.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_wine
    >>> from skvae import VAEImputer
    >>> X, _ = load_wine(return_X_y=True)
    >>> X[::3, 1] = np.nan
    >>> bool(np.isnan(VAEImputer(max_epochs=20, random_state=0).fit_transform(X)).any())
    False
    """

    empty_features_: np.ndarray
    indicator_features_: np.ndarray
    n_features_in_: int

    @takes_parameters_of(VAE)
    def __init__(
        self,
        *,
        missing_values: Any = np.nan,
        add_indicator: bool = False,
        keep_empty_features: bool = False,
        sample_posterior: bool = False,
        n_draws: int = 100,
    ) -> None: ...

    def fit(self, X: Any, y: Any = None, *, sample_weight: Any = None, validation_data: Any = None) -> Self:
        """Fit the model.

        Parameters
        ----------
        X : array or data frame [n, n_features]
            Or, here as in every method, the path of a csv or parquet file.
        y : ignored
            Only its length is checked.
        sample_weight : array [n], optional
            Relative weight of each row in the objective.
        validation_data : array or data frame, optional
            Rows for early stopping, in place of a split of X.

        Returns
        -------
        self

        Raises
        ------
        ColumnError
            A column that cannot be used as it is; all of them without any entry.
        ValueError
            A parameter out of range.
        TrainingError
            If the loss becomes and stays non-finite.
        """
        self._refuse_images("impute")
        for name in ("add_indicator", "keep_empty_features", "sample_posterior"):
            value = self.get_params(deep=False)[name]
            if not isinstance(value, (bool, np.bool_)):
                raise ValueError(f"{name}={value!r}: expected True or False")
        goes_on = self.warm_start and self.__sklearn_is_fitted__()
        if goes_on:
            X, _ = self._read(X)
        else:
            X = _with_holes(source.opened(X, **source.reading(self.column_kinds)), self.missing_values)
            table = read_table(X, min_rows=2, estimator=self)
            _check_feature_names(self, X, reset=True)
            _check_n_features(self, X, reset=True)
            n_missing = np.array([table.missing(j).sum() for j in range(len(table.names))])
            empty = np.flatnonzero(n_missing == table.n_rows)
            # Of a table without any entry, the model says what is wrong.
            self.empty_features_ = empty if len(empty) < len(n_missing) else empty[:0]
            self.indicator_features_ = np.flatnonzero(n_missing)
        if validation_data is not None:
            validation_data = self._known(self._read(validation_data)[0])
        self._fit_vae(self._known(X), y, sample_weight, validation_data)
        return self

    def transform(self, X: Any) -> Any:
        """Fill the holes.

        Parameters
        ----------
        X : array or data frame [n, n_features]

        Returns
        -------
        array or data frame like X at fit
        """
        if self.sample_posterior:
            return self._answer(X, 1)[0]
        return self._answer(X, None)[0]

    def impute(self, X: Any, n_imputations: int = 5) -> list[Any]:
        """Several completed tables, their holes filled with independent draws given the rest of the row.

        For multiple imputation: what is estimated from each is averaged, and its variance is the average of the
        variances within plus 1 + 1/m times the one between (Rubin 1987).

        Parameters
        ----------
        X : array or data frame [n, n_features]
        n_imputations : int

        Returns
        -------
        list of arrays or data frames like X at fit, as `transform` gives them
        """
        return self._answer(X, n_imputations)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the columns of the answer: those of X that stay, and `missingindicator_` and theirs.

        Parameters
        ----------
        input_features : sequence of str, optional
            Names for the columns of X, if it had none at fit.

        Returns
        -------
        ndarray of str
        """
        check_is_fitted(self)
        names = _check_feature_names_in(self, input_features)
        marks = [f"missingindicator_{names[j]}" for j in self._indicated]
        return np.array([*names[self._stay], *marks], dtype=object)

    @property
    def _n_features_out(self) -> int:
        return len(self._stay) + len(self._indicated)

    @property
    def _stay(self) -> np.ndarray:
        """Positions of the columns that are in the answer."""
        every = np.arange(self.n_features_in_)
        return every if self.keep_empty_features else np.setdiff1d(every, self.empty_features_)

    @property
    def _indicated(self) -> np.ndarray:
        return self.indicator_features_ if self.add_indicator else self.indicator_features_[:0]

    def _read(self, X: Any) -> tuple[Any, RawTable]:
        """X, opened and with its holes marked, checked against the columns at fit; and read."""
        check_is_fitted(self)
        if isinstance(X, str | os.PathLike):
            X = source.read(X, source.text_columns(self.schema_))
            if "feature_names_in_" in vars(self):
                X = X.select([name for name in self.feature_names_in_ if name in X.column_names])
        X = _with_holes(X, self.missing_values)
        _check_feature_names(self, X, reset=False)
        table = read_table(X, estimator=self)
        _check_n_features(self, X, reset=False)
        return X, table

    def _known(self, X: Any) -> Any:
        """The columns that the model knows."""
        if len(self.empty_features_) == 0:
            return X
        known = np.setdiff1d(np.arange(self.n_features_in_), self.empty_features_)
        frame = nw.from_native(X, eager_only=True, pass_through=True)
        return frame[:, known.tolist()].to_native() if isinstance(frame, nw.DataFrame) else _array(X)[:, known]

    def _answer(self, X: Any, n_imputations: int | None) -> list[Any]:
        X, table = self._read(X)
        filled = self.vae_.impute(self._known(X), n_imputations, self.n_draws)
        return [self._finished(one, X, table) for one in ([filled] if n_imputations is None else filled)]

    def _finished(self, filled: Any, X: Any, table: RawTable) -> Any:
        """The columns that the model has filled, with those it does not know and the indicators."""
        restored = self.empty_features_ if self.keep_empty_features else self.empty_features_[:0]
        marks = [table.missing(j) for j in self._indicated]
        frame = nw.from_native(filled, eager_only=True, pass_through=True)
        if not isinstance(frame, nw.DataFrame):
            for j in restored:  # in ascending order, so that each finds its place
                filled = np.insert(filled, j, _entries(table, j), axis=1)
            return np.column_stack([filled, np.array(marks).T.astype(filled.dtype)]) if marks else filled
        backend = frame.implementation
        names = self.get_feature_names_out()
        columns = list(frame.iter_columns())
        labels = [column.name for column in columns]
        index = getattr(filled, "index", None)
        for j in restored:
            columns.insert(j, nw.new_series(names[j], _entries(table, j), backend=backend))
            labels.insert(j, table.labels[j])
        for name, mark in zip(names[len(columns) :], marks, strict=True):
            columns.append(nw.new_series(name, mark, backend=backend))
            labels.append(name)
        if len(restored) or marks:
            if backend.is_pandas():
                columns = [nw.from_native(c.to_native().set_axis(index), series_only=True) for c in columns]
            frame = nw.concat([column.alias(f"{k}").to_frame() for k, column in enumerate(columns)], how="horizontal")
            filled = frame.to_native()
            if backend.is_pandas():
                filled = filled.set_axis(labels, axis=1)
            else:
                filled = frame.rename({f"{k}": label for k, label in enumerate(labels)}).to_native()
        wanted = _get_output_config("transform", self)["dense"]
        if wanted in ("pandas", "polars") and str(backend.value) != wanted:
            frame = nw.from_native(filled, eager_only=True)
            filled = frame.to_pandas() if wanted == "pandas" else frame.to_polars()
        return filled

    def _vae_params(self) -> dict[str, Any]:
        params = super()._vae_params()
        empty = vars(self).get("empty_features_", ())
        if len(empty) and params["column_kinds"]:
            # The model counts the columns that it knows.
            names = vars(self).get("feature_names_in_", ())
            gone = {
                *empty.tolist(),
                *(empty - self.n_features_in_).tolist(),
                *(names[j] for j in empty if len(names)),
            }
            known = np.setdiff1d(np.arange(self.n_features_in_), empty).tolist()
            params["column_kinds"] = {
                known.index(key % self.n_features_in_) if isinstance(key, Integral) else key: kind
                for key, kind in params["column_kinds"].items()
                if key not in gone
            }
        return params

    def _saved_state(self) -> dict[str, Any]:
        return super()._saved_state() | {
            "n_features_in": self.n_features_in_,
            "feature_names_in": self.feature_names_in_.tolist() if "feature_names_in_" in vars(self) else None,
            "empty_features": self.empty_features_.tolist(),
            "indicator_features": self.indicator_features_.tolist(),
        }

    def _restore_state(self, state: dict[str, Any]) -> None:
        self.n_features_in_ = state["n_features_in"]
        if state["feature_names_in"] is not None:
            self.feature_names_in_ = np.array(state["feature_names_in"], dtype=object)
        self.empty_features_ = np.array(state["empty_features"], dtype=np.int64)
        self.indicator_features_ = np.array(state["indicator_features"], dtype=np.int64)
        super()._restore_state(state)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _array(X: Any) -> np.ndarray:
    """X as an array; rows of text and numbers as objects, lest all of it becomes text."""
    array = np.asarray(X)
    return np.array(X, dtype=object) if array.dtype.kind in "US" and not isinstance(X, np.ndarray) else array


def _entries(table: RawTable, j: int) -> np.ndarray:
    """The entries of a column that was empty at fit; 0 in its holes if it can hold that."""
    if table.roles[j] == "number":
        return np.nan_to_num(table.numbers[:, j], nan=0.0)
    return np.array(table.array(j).to_pylist(), dtype=object)


def _with_holes(X: Any, marker: Any) -> Any:
    """X with its entries equal to `marker` missing."""
    if marker is None or not isinstance(marker, str | Number) or (isinstance(marker, float) and math.isnan(marker)):
        return X
    frame = nw.from_native(X, eager_only=True, pass_through=True)
    if isinstance(frame, nw.DataFrame):
        is_text = isinstance(marker, str)
        text = (nw.String, nw.Categorical, nw.Enum, nw.Object)
        marked = [
            name
            for name, dtype in frame.schema.items()
            if (isinstance(dtype, text) if is_text else dtype.is_numeric()) and (frame[name] == marker).any()
        ]
        holes = [nw.when(nw.col(name) != marker).then(nw.col(name)).alias(name) for name in marked]
        return frame.with_columns(*holes).to_native() if marked else X
    array = _array(X)
    found = np.asarray(array == marker)
    if array.shape != found.shape or not found.any():
        return X
    array = array.astype(
        np.float64 if array.dtype.kind in "iub" else array.dtype if array.dtype.kind == "f" else object
    )
    array[found] = np.nan if array.dtype.kind == "f" else None
    return array
