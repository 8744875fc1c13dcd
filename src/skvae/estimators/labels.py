"""Labels as targets: what marks rows without one, the codes of the others, their weights, and stratified shares."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from sklearn.utils import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, column_or_1d

from skvae.data.batch import Batch
from skvae.data.columns import Column, Kind
from skvae.data.table import missing_entries
from skvae.estimators.sampling_strategy import target_array
from skvae.estimators.supervised import MIN_LABELLED_TO_SPLIT, SupervisedVAE


class TakesLabels(SupervisedVAE):
    """An estimator of which the targets are labels."""

    classes_: np.ndarray
    _mark: Any
    _expected: np.ndarray | None = None

    def _targets(self, y: Any, *, reset: bool) -> np.ndarray:
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None")
        if isinstance(y, str):
            raise ValueError(f"y={y!r} is text; pass the column itself, for example y=X.pop({y!r})")
        name = str(getattr(y, "name", None) or "y")
        y = column_or_1d(target_array(y), warn=True)
        if reset:
            self._mark = self._settled_mark(y)
        unlabelled = self._unmarked(y)
        known = plain_labels(y[~unlabelled])
        if len(known) == 0:
            raise ValueError("y holds no label: every row is unlabelled; use VAE or VAEClusterer, which need none")
        if known.dtype.kind == "f" and np.isinf(known).any():
            row = np.flatnonzero(~unlabelled)[np.isinf(known)][0]
            raise ValueError(f"y contains infinity (row {row}); mark the row unlabelled (NaN), or give it a label")
        if known.dtype.kind not in "biufUS":
            raise ValueError(
                f"y holds labels of type {type(known[0]).__name__} ({known[0]!s}); convert them to text or numbers"
            )
        check_classification_targets(known)
        if reset:
            classes, counts = np.unique(known, return_counts=True)
            if self._expected is not None:
                classes = self._expected
            elif len(classes) < 2:
                raise ValueError(f"y has only one class, {classes.tolist()[0]!r}; a classifier needs at least two")
            elif counts.min() < 2 and len(known) >= MIN_LABELLED_TO_SPLIT:
                rare = classes.tolist()[counts.argmin()]
                raise ValueError(
                    f"class {rare!r} has one row, so that none could be held out; add rows of it, merge it with "
                    "another class, or mark it unlabelled"
                )
            self.classes_ = classes
            self._columns = (
                Column(
                    name=name,
                    kind=Kind.CATEGORICAL,
                    dtype="int64",
                    levels=tuple(range(len(classes))),
                ),
            )
        codes = np.full((len(y), 1), np.nan)
        codes[~unlabelled, 0] = self._codes(known)
        return codes

    def _settled_mark(self, y: np.ndarray) -> Any:
        """The mark of rows without a label; None for missing entries alone."""
        mark = self.get_params(deep=False)["unlabelled"]
        expected = [] if self._expected is None else self._expected.tolist()
        if not (isinstance(mark, str) and mark == "auto"):
            if mark in expected:
                raise ValueError(f"unlabelled={mark!r} is one of classes={expected}; mark such rows otherwise")
            return mark
        if -1 in expected:
            return None
        if y.dtype.kind not in "iufO":
            return None
        y = y[~missing_entries(y)]
        marked = np.array([_is_minus_one(value) for value in y], dtype=bool) if y.dtype.kind == "O" else y == -1
        others = np.unique(y[~marked].astype(y.dtype if y.dtype.kind != "O" else str))
        if marked.any() and len(others) == 1:
            warnings.warn(
                f"y holds nothing but -1 and {others[0]!s}: -1 is taken for a class; pass unlabelled=-1 if it marks "
                "rows without a label, or unlabelled=None to say that it does not",
                stacklevel=4,
            )
            return None
        return -1

    def _unmarked(self, y: np.ndarray) -> np.ndarray:
        """Which rows have no label, [n]."""
        missing = missing_entries(y)
        if self._mark is None:
            return missing
        if y.dtype.kind == "O":
            return np.array([gone or value == self._mark for value, gone in zip(y, missing, strict=True)], dtype=bool)
        if isinstance(self._mark, str) != (y.dtype.kind in "US"):
            return missing
        return missing | (y == self._mark)

    def _codes(self, y: np.ndarray) -> np.ndarray:
        """Positions of labels in `classes_`."""
        y = plain_labels(target_array(y))
        is_text = [labels.dtype.kind in "US" for labels in (y, self.classes_)]
        known = np.isin(y, self.classes_) if is_text[0] == is_text[1] else np.zeros(len(y), dtype=bool)
        if not known.all():
            raise ValueError(
                f"y holds {y[~known].tolist()[0]!r}, a class not seen at fit; known are "
                f"{', '.join(map(repr, self.classes_.tolist()))}: refit with rows of it"
            )
        return np.searchsorted(self.classes_, y)

    def _row_weight(self, y: np.ndarray, sample_weight: Any) -> Any:
        class_weight = self.get_params(deep=False)["class_weight"]
        if class_weight is None:
            return sample_weight
        check_consistent_length(y, sample_weight)
        labelled = ~np.isnan(y[:, 0])
        labels = self.classes_[y[labelled, 0].astype(int)]
        # Of rows to go on with, some classes may be missing; the others are balanced.
        present = (
            np.isin(self.classes_, labels) if isinstance(class_weight, str) else np.full(len(self.classes_), True)
        )
        of_class = np.ones(len(self.classes_))
        of_class[present] = compute_class_weight(class_weight, classes=self.classes_[present], y=labels)
        weight = np.ones(len(y))
        weight[labelled] = of_class[y[labelled, 0].astype(int)]
        return weight if sample_weight is None else weight * np.asarray(sample_weight)

    def _order(self, rows: Batch, stream: torch.Generator) -> torch.Tensor:
        """Stratified: any first part has its share of every class."""
        order = super()._order(rows, stream)
        assert rows.target is not None
        code = rows.target[order, 0].long().cpu()
        counts = torch.bincount(code)
        by_class = code.argsort(stable=True)
        start = counts.cumsum(0) - counts
        rank = torch.empty_like(code)
        rank[by_class] = torch.arange(len(code)) - start[code[by_class]]
        return order[((rank + 0.5) / counts[code]).argsort(stable=True).to(order.device)]


def plain_labels(labels: np.ndarray) -> np.ndarray:
    """Labels held as objects, none missing, in an array of their own type."""
    if labels.dtype.kind != "O":
        return labels
    texts = [value for value in labels if isinstance(value, str)]
    if texts and len(texts) < len(labels):
        number = next(value for value in labels if not isinstance(value, str))
        raise ValueError(f"y mixes text ({texts[0]!r}) and numbers ({number!r}); make the labels of one kind")
    return np.array(labels.tolist())


def _is_minus_one(value: Any) -> bool:
    return not isinstance(value, (str, bytes)) and value == -1
