"""Batch: what a training step sees of the data; tensors only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Rows encoded by a Schema.

    Attributes
    ----------
    values : Tensor [n, C], float32
        What the likelihood scores: standardised reals for numeric columns, codes for discrete ones; 0
        where an entry is missing.
    observed : Tensor [n, C], bool, or None
        Which entries the row has; None when it has all.
    seen : Tensor [n, C], bool, or None
        Which of them this step uses (a subset of `observed`); None when it uses all that is observed.
    target : Tensor [n, ...] or None
        Standardised or encoded y, NaN where it is missing.
    weight : Tensor [n] or None
        Row weights with mean 1; None for equal weights.
    index : Tensor [n], int64, or None
        Position of each row in the training data.
    told : Tensor [n, F] or None
        What the encoder alone is told of each row beside its entries.
    """

    values: Tensor
    observed: Tensor | None = None
    seen: Tensor | None = None
    target: Tensor | None = None
    weight: Tensor | None = None
    index: Tensor | None = None
    told: Tensor | None = None

    def __len__(self) -> int:
        return self.values.shape[0]

    @property
    def mask(self) -> Tensor | None:
        """Entries that encoder and likelihood may use, [n, C]; None for all of them."""
        return self.observed if self.seen is None else self.seen

    def rows(self, index: Tensor) -> Batch:
        """The rows at `index` [m], which the new batch remembers as its `index`."""
        taken = {
            field.name: value.index_select(0, index)
            for field in fields(self)
            if field.name != "index" and (value := getattr(self, field.name)) is not None
        }
        return Batch(**taken, index=index)

    def to(self, device: torch.device | str) -> Batch:
        moved = {
            field.name: value.to(device) for field in fields(self) if (value := getattr(self, field.name)) is not None
        }
        return Batch(**moved)

    def hide(self, hidden: Tensor) -> Batch:
        """The same rows without the entries where `hidden` [n, C] is true."""
        seen = ~hidden if self.observed is None else self.observed & ~hidden
        return replace(self, seen=seen)

    @classmethod
    def joined(cls, batches: Sequence[Batch]) -> Batch:
        """The rows of all, one after another; each has what the others have."""
        first = batches[0]
        names = [field.name for field in fields(cls) if getattr(first, field.name) is not None]
        return cls(**{name: torch.cat([getattr(batch, name) for batch in batches]) for name in names})

    def repeat(self, times: int) -> Batch:
        """All rows, one after another, so many times."""
        return Batch.joined([self] * times)

    def chunks(self, n_rows: int) -> list[Batch]:
        """Consecutive pieces of at most `n_rows` rows."""
        return [
            self.rows(torch.arange(start, min(start + n_rows, len(self)), device=self.values.device))
            for start in range(0, len(self), n_rows)
        ]
