"""Reading rows, of tables or images, and checking them against those at fit."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.utils.validation import _check_feature_names, _check_n_features, check_is_fitted

from skvae.data.batch import Batch
from skvae.data.identifiers import identifiers
from skvae.data.image import Images, is_folder, is_table, read_images
from skvae.data.image_schema import ImageSchema
from skvae.data.source import opened
from skvae.data.table import Table, read_table
from skvae.exceptions import ConstantColumnWarning, IdentifierWarning
from skvae.model.vae import LatentVariableModel


class TakesTables(BaseEstimator):
    """An estimator of mixed tables with holes."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.string = True
        tags.input_tags.categorical = True
        return tags


class ReadsRows(TakesTables):
    """An estimator with a schema, as which rows are read, and a model, for which they are encoded."""

    schema_: Any
    model_: LatentVariableModel
    n_features_in_: int
    handle_unknown: str

    def _read(self, X: Any, *, reset: bool = False, min_rows: int = 1) -> Table | Images:
        """Read X and check the names and number of its columns as scikit-learn does."""
        if self._takes_images(X, reset):
            return self._read_images(X, reset, min_rows)
        X = opened(X, None if reset else self.schema_)
        if not reset:
            _check_feature_names(self, X, reset=False)  # before what is in a column that should not be there
        table = read_table(X, min_rows=min_rows, estimator=self)
        if reset:
            _check_feature_names(self, X, reset=True)
        _check_n_features(self, X, reset=reset)
        return table

    def _takes_images(self, X: Any, anew: bool) -> bool:
        """Whether X holds images, as a parameter or the rows at fit say; a folder has nothing else."""
        if not anew:
            return isinstance(self.schema_, ImageSchema)
        return self.get_params(deep=False)["image_shape"] is not None or is_folder(X) or isinstance(X, Images)

    def _read_images(self, X: Any, reset: bool, min_rows: int) -> Images:
        shape = self.get_params(deep=False)["image_shape"] if reset else self.schema_.layout.shape
        if is_table(X):
            X = opened(X, None if reset else self.schema_)
        if not isinstance(X, Images):
            _check_feature_names(self, X, reset=reset)
        images = read_images(X, shape, min_rows=min_rows)
        if reset:
            self.n_features_in_ = images.layout.n_pixels
        return images

    def _table(self, X: Any) -> Table | Images:
        """Read X for a question to the fitted model."""
        check_is_fitted(self)
        return self._read(X)

    def _encode(self, table: Any) -> Batch:
        """Rows on the model's device."""
        changed = self.schema_.changed_columns(table)
        if changed:
            warnings.warn(
                f"{changed[0]} at fit and holds another value now; it is not modelled and so passed over: refit with "
                "rows in which it varies",
                ConstantColumnWarning,
                stacklevel=4,
            )
        return self.schema_.encode(table, self.handle_unknown).to(self._device)

    def _rows(self, X: Any) -> Batch:
        return self._encode(self._table(X))

    @property
    def _device(self) -> Any:
        return next(self.model_.parameters()).device


def copy_features(fitted: Any, other: Any) -> None:
    """Let another estimator expect the number and names of columns that a fitted one has seen."""
    for name in ("n_features_in_", "feature_names_in_"):
        if name in vars(fitted):
            setattr(other, name, getattr(fitted, name))


def warn_of_identifiers(table: Table, kinds: Mapping[Any, str]) -> None:
    for found in identifiers(table, kinds):
        usual = "integer" if found.what == "identifier" and not found.example.startswith('"') else "categorical"
        warnings.warn(
            f"{found}; there is nothing to learn of it: drop it, or pass it through (rows keep theirs, new rows get "
            f"new ones) with column_kinds={{{found.name!r}: 'identifier'}}; if it is to be modelled, say so with "
            f"column_kinds={{{found.name!r}: {usual!r}}}",
            IdentifierWarning,
            stacklevel=4,
        )
