"""Repeated values and quantiles of numeric columns."""

import json

import numpy as np
import pandas as pd
import pytest

from skvae.data.columns import Column, Kind
from skvae.data.schema import Schema
from skvae.data.table import read_table


def infer(values) -> Column:
    return Schema.infer(read_table(pd.DataFrame({"x": values, "other": np.arange(len(values))}))).columns[0]


def noise(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=n)


def shuffled(*pieces) -> np.ndarray:
    return np.random.default_rng(1).permutation(np.concatenate(pieces))


def test_spikes_by_frequency_then_size():
    x = shuffled(noise(1000), np.full(30, 7.5), np.full(200, -2.0), np.full(30, 0.25), np.full(19, 9.0))
    assert infer(x).spikes == (-2.0, 0.25, 7.5)


@pytest.mark.parametrize(("n", "needed"), [(1000, 20), (30_000, 60)])
def test_a_spike_is_both_twenty_entries_and_their_share(n, needed):
    for count, spikes in [(needed - 1, ()), (needed, (5.0,))]:
        assert infer(shuffled(noise(n - count), np.full(count, 5.0))).spikes == spikes


def test_missing_entries_are_neither_spikes_nor_counted():
    x = shuffled(noise(5000), np.full(20, 5.0), np.full(25_000, np.nan))  # 20 of 5,020, not of 30,020
    column = infer(x)
    assert column.spikes == (5.0,)
    np.testing.assert_allclose(column.quantiles, np.nanquantile(x, np.linspace(0, 1, 33)), rtol=1e-12)


def test_at_most_128_spikes():
    x = np.repeat(np.arange(200), 20 + np.arange(200))
    assert infer(x).spikes == tuple(float(k) for k in range(199, 71, -1))


@pytest.mark.parametrize(
    "values",
    [noise(1000), np.exp(3 * noise(77)), np.repeat([1.0, 2.0, 3.5], [500, 30, 20]), np.array([0.1, 0.4, 7.0])],
    ids=["normal", "skewed", "tied", "three rows"],
)
def test_quantiles(values):
    column = infer(values)
    np.testing.assert_allclose(column.quantiles, np.quantile(values, np.linspace(0, 1, 33)), rtol=1e-12)
    assert (column.quantiles[0], column.quantiles[-1]) == (column.lower, column.upper)
    assert (np.diff(column.quantiles) >= 0).all()


def test_quantiles_of_numbers_whose_difference_overflows():
    assert np.isfinite(infer(np.array([-1.5e308, 0.5, 1.5e308, 2.0])).quantiles).all()


def test_dates_have_both():
    days = pd.Series(pd.date_range("2020-01-01", periods=100).repeat([30] + [1] * 99))
    column = infer(days)
    assert column.kind == Kind.DATE
    assert column.spikes == (1577836800e6,)
    assert len(column.quantiles) == 33


@pytest.mark.parametrize("values", [np.repeat([0, 1], 50), np.repeat(["a", "b", "c"], 50), np.ones(50)])
def test_other_kinds_have_neither(values):
    column = infer(values)
    assert (column.spikes, column.quantiles) == ((), ())
    assert not {"spikes", "quantiles"} & set(column.to_dict())


def test_saved_and_loaded():
    column = infer(shuffled(noise(100), np.full(30, -0.0)))
    assert str(column.spikes) == "(0.0,)"
    assert Column.from_dict(json.loads(json.dumps(column.to_dict()))) == column


def test_a_schema_saved_without_them_still_loads():
    state = infer(shuffled(noise(100), np.full(30, 3.0))).to_dict()
    del state["spikes"], state["quantiles"]
    column = Column.from_dict(json.loads(json.dumps(state)))
    assert (column.spikes, column.quantiles) == ((), ())
