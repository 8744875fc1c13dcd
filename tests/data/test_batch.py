"""Batch: rows, pieces and masks."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from skvae.data import Batch

VALUES = torch.arange(12.0).reshape(6, 2)
OBSERVED = VALUES % 3 != 0


def full() -> Batch:
    seen, told = OBSERVED & (VALUES > 4), torch.cat([VALUES, VALUES], dim=1)
    return Batch(VALUES, OBSERVED, seen, VALUES.sum(1), torch.ones(6), torch.arange(6) + 10, told)


@pytest.mark.parametrize("batch", [Batch(VALUES), Batch(VALUES, OBSERVED), full()])
def test_rows_takes_the_same_rows_of_everything(batch):
    index = torch.tensor([4, 0, 4])
    taken = batch.rows(index)
    assert len(taken) == 3
    assert torch.equal(taken.index, index)
    for field in fields(Batch):
        value = getattr(batch, field.name)
        if field.name != "index":
            assert (
                value is None
                if getattr(taken, field.name) is None
                else torch.equal(getattr(taken, field.name), value[index])
            )


@pytest.mark.parametrize("n_rows", [1, 4, 6, 100])
def test_chunks_are_consecutive_and_complete(n_rows):
    chunks = full().chunks(n_rows)
    assert max(len(chunk) for chunk in chunks) == min(n_rows, 6)
    assert torch.equal(torch.cat([chunk.values for chunk in chunks]), VALUES)
    assert torch.cat([chunk.index for chunk in chunks]).tolist() == list(range(6))


def test_the_mask_is_what_is_seen():
    assert Batch(VALUES).mask is None
    assert torch.equal(Batch(VALUES, OBSERVED).mask, OBSERVED)
    hidden = VALUES > 7
    assert torch.equal(Batch(VALUES).hide(hidden).mask, ~hidden)
    masked = Batch(VALUES, OBSERVED).hide(hidden)
    assert torch.equal(masked.mask, OBSERVED & ~hidden)
    assert torch.equal(masked.observed, OBSERVED)


def test_moves_all_tensors():
    moved = full().to("meta")
    assert {getattr(moved, field.name).device.type for field in fields(Batch)} == {"meta"}
    assert Batch(VALUES).to("cpu").observed is None
