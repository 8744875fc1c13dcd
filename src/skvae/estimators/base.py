"""What the estimators share: reading and checking tables, and the interface of scikit-learn."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from skvae import persistence
from skvae.data.batch import Batch
from skvae.data.schema import Schema
from skvae.data.table import Table, read_table
from skvae.exceptions import ConstantColumnWarning
from skvae.model.vae import LatentVariableModel
from skvae.training.engine import choose_device
from skvae.training.history import History


class BaseVAE(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Shared by all estimators: tables in, checked against the schema; save."""

    schema_: Schema
    model_: LatentVariableModel
    history_: History
    handle_unknown: str

    def _read(self, X: Any, *, reset: bool = False, min_rows: int = 1) -> Table:
        """Read X and check the names and number of its columns as scikit-learn does."""
        if not reset:
            check_is_fitted(self)
        table = read_table(X, min_rows=min_rows, estimator=self)
        validate_data(self, X, reset=reset, skip_check_array=True)
        return table

    def _encode(self, table: Table) -> Batch:
        """Rows on the model's device."""
        changed = self.schema_.changed_constants(table)
        if changed:
            warnings.warn(
                f"column '{changed[0]}' was constant at fit and holds another value now; it is not modelled "
                "and so passed over: refit with rows in which it varies",
                ConstantColumnWarning,
                stacklevel=4,
            )
        return self.schema_.encode(table, self.handle_unknown).to(self._device)

    def _rows(self, X: Any) -> Batch:
        return self._encode(self._read(X))

    @property
    def _device(self) -> Any:
        return next(self.model_.parameters()).device

    @property
    def _n_features_out(self) -> int:
        return self.model_.latent_dim

    @property
    def encoder_(self) -> Any:
        """The trained encoder network."""
        return self.model_.encoder

    @property
    def decoder_(self) -> Any:
        """The trained decoder network."""
        return self.model_.decoder

    def _move_to_device(self) -> None:
        self.model_.to(choose_device(self.device))  # type: ignore[attr-defined]

    def set_params(self, **params: Any) -> Self:
        """Set parameters, those of components as `name__parameter`.

        Raises
        ------
        ValueError
            For an unknown parameter, or a nested one of a component given as a string.
        """
        for key in params:
            name, _, rest = key.partition("__")
            if rest and isinstance(value := params.get(name, getattr(self, name, None)), str):
                raise ValueError(
                    f"'{key}' asks for a parameter of {name}={value!r}, which is a string; give {name} as an "
                    f"object, for example {name}=skvae.model.SomePart(), and then set '{key}'"
                )
        return super().set_params(**params)

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Save the fitted estimator as a folder of JSON and safetensors; `skvae.load` reads it.

        The folder appears complete or not at all. No training row is stored in it.

        Parameters
        ----------
        path : str or Path
        overwrite : bool
            Whether an existing model at `path` may be replaced.

        Raises
        ------
        FileExistsError
            If `path` exists and `overwrite` is false, or is not a saved model.
        """
        check_is_fitted(self)
        persistence.save(self, Path(path), overwrite=overwrite)

    def __sklearn_is_fitted__(self) -> bool:
        return "model_" in vars(self)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.string = True
        tags.input_tags.categorical = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        tags.non_deterministic = False
        return tags


def to_numpy(tensor: Any) -> np.ndarray:
    return tensor.detach().cpu().numpy()
