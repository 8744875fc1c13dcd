"""Look-ups in a table that has one row for each column of the data."""

from __future__ import annotations

import torch
from torch import Tensor


def search(table: Tensor, values: Tensor, right: bool = False) -> Tensor:
    """How many entries of a column's row of `table` [C, K], sorted, lie below its `values` [..., C].

    With `right`, below or at them.
    """
    by_column = values.movedim(-1, 0)  # [C, ...]
    found = torch.searchsorted(table, by_column.reshape(len(table), -1).contiguous(), right=right)
    return found.reshape(by_column.shape).movedim(0, -1)


def look_up(table: Tensor, position: Tensor) -> Tensor:
    """The entries of `table` [C, K] at `position` [..., C], each from its column's row."""
    n_columns, n_entries = table.shape
    return table.take(position + n_entries * torch.arange(n_columns, device=position.device))
