"""What a schema reads off a column: kind, levels, scale and rounding; and what a user may override."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from skvae.data import Column, Kind, Schema
from skvae.data.columns import NUMERIC
from skvae.data.table import read_table
from skvae.exceptions import ColumnError

NAN = np.nan
RNG = np.random.default_rng(0)


def infer(X: Any, *args: Any) -> Schema:
    return Schema.infer(read_table(X), *args)


def column_of(entries: Any, *args: Any) -> Column:
    """The inferred description of one column of a pandas frame."""
    return infer(pd.DataFrame({"c": entries}), *args).columns[0]


KINDS = {
    "halves": ([0.5, 1.0, 2.5, 3.0], "continuous"),
    "whole": ([1.0, 7.0, 3.0], "integer"),
    "whole with holes": ([NAN, 1.0, NAN, 7.0, 3.0, NAN], "integer"),
    "beyond the whole numbers of float64": ([2.0**53, 2.0**54, 1.0], "continuous"),
    "zeros and ones, few": ([0, 1, 1], "binary"),
    "zeros and ones": ([0, 1] * 10, "binary"),
    "two of few": ([1, 2, 1], "integer"),
    "two of many": ([1.5, 2.5] * 10, "binary"),
    "two of many with holes": ([1.5, NAN, 2.5] * 10, "binary"),
    "a rare second": ([0] * 500 + [1], "integer"),
    "truths": ([True, False], "binary"),
    "a rare truth": ([False] * 500 + [True], "binary"),
    "constant": ([3.5, NAN, 3.5], "constant"),
    "constant but for rounding": ([0.1 + 0.2, 0.3], "constant"),
    "text": (["b", "a", None, "c"], "categorical"),
    "two texts": (["b", "a", None], "binary"),
    "one text": (["b", None, "b"], "constant"),
    "one date": ([pd.Timestamp("2020-01-01"), pd.NaT], "constant"),
    "dates": ([pd.Timestamp("2020-01-01"), pd.NaT, pd.Timestamp("2021-01-01")], "date"),
}


@pytest.mark.parametrize("case", KINDS)
def test_inferred_kind(case):
    entries, kind = KINDS[case]
    frame = pd.DataFrame({"c": entries, "varies": np.arange(len(entries)) / 3})
    assert str(infer(frame).columns[0].kind) == kind


@pytest.mark.parametrize(
    ("entries", "allowed", "kind"),
    [
        ([0.0, 1.0, 1.0], NUMERIC, "integer"),
        ([0, 1, 5], {Kind.CONTINUOUS}, "continuous"),
        ([True, False], {Kind.CONTINUOUS, Kind.INTEGER}, "continuous"),
        ([1.5, 2.5, 1.5], {Kind.BINARY}, "binary"),
        ([0] * 500 + [1], {Kind.BINARY}, "binary"),
    ],
)
def test_the_most_specific_kind_that_the_likelihood_allows(entries, allowed, kind):
    assert column_of(entries, None, frozenset(allowed)).kind == kind


@pytest.mark.parametrize("wide", [np.arange(40), np.arange(784)])
def test_missing_anywhere_does_not_disturb_statistics(wide):
    X = RNG.gamma(2.0, 100.0, (50, len(wide))) + 1e6
    X[RNG.random(X.shape) < 0.3] = NAN
    X[:20, 3], X[-20:, 4] = NAN, NAN
    columns = infer(X).columns
    for name, oracle in {
        "offset": np.nanmean(X, axis=0),
        "scale": np.nanstd(X, axis=0),
        "lower": np.nanmin(X, axis=0),
        "upper": np.nanmax(X, axis=0),
        "missing": np.isnan(X).mean(axis=0),
    }.items():
        np.testing.assert_allclose([getattr(column, name) for column in columns], oracle, rtol=1e-9)


@pytest.mark.parametrize(
    ("entries", "dtype", "resolution"),
    [
        ([0.25, 1.5, 3.0], "float64", 0.01),
        ([0.1, 0.2, 0.30000000000000004], "float64", 0.1),
        ([1e10 + 0.01, 1e10 + 0.25], "float64", 0.01),
        ([0.123456, 0.5], "float64", 1e-6),
        ([0.1234567, 0.5], "float64", 0.0),
        ([1e300, 1e-3], "float64", 0.0),
        ([1 / 3, 0.5, 7.0], "float64", 0.0),
        ([0.5] * 60 + [1 / 3], "float64", 0.0),
        ([NAN] * 60 + [0.5, 1.25], "float64", 0.01),
        ([0.1, 999.99, 3.07], "float32", 0.01),
        ([0.1, 1 / 3, 3.07], "float32", 0.0),
        ([0.1, 2.5, 3.5], "float16", 0.1),
        ([1, 5, 7], "int64", 1.0),
        (["2020-01-01", "2020-02-03"], "datetime64[ns]", 86_400e6),
        (["2020-01-01 05:00", "2020-02-03"], "datetime64[us]", 3_600e6),
        (["2020-01-01 05:00:00.001", "2020-02-03"], "datetime64[us]", 1e3),
    ],
)
def test_resolution(entries, dtype, resolution):
    column = column_of(pd.Series(entries, dtype=dtype))
    assert column.resolution == pytest.approx(resolution, rel=1e-12)


def test_codes_have_a_mean_and_a_deviation():
    grade = pd.Series(
        ["low", "high", None, "mid", "high"], dtype=pd.CategoricalDtype(["low", "mid", "high", "top"], True)
    )
    column = column_of(grade)
    assert (column.levels, column.categories) == (("low", "mid", "high"), ("low", "mid", "high", "top"))
    assert (column.offset, column.scale) == pytest.approx((np.mean([0, 2, 1, 2]), np.std([0, 2, 1, 2])))


SIZES = pd.CategoricalDtype(["s", "m", "l", "xl"])
DAY, LATER = dt.date(2020, 1, 1), dt.date(2020, 1, 2)


@pytest.mark.parametrize(
    ("entries", "kind", "levels"),
    [
        (["b", "a", "c"], "ordinal", ("a", "b", "c")),
        (pd.Series(["xl", "s", "m"], dtype=SIZES), "ordinal", ("s", "m", "xl")),
        (
            pd.Series(["xl", "s", "m"], dtype=pd.CategoricalDtype(["s", "m", "xl"], True)),
            "categorical",
            ("s", "m", "xl"),
        ),
        (["b", "a", "b"], "ordinal", ("a", "b")),
        (["b", "a", "b"], "categorical", ("a", "b")),
        ([3, 1, 2], "ordinal", (1, 2, 3)),
        ([3, 1, 2], "categorical", (1, 2, 3)),
        ([3.5, 1.5], "binary", (1.5, 3.5)),
        ([True, False], "categorical", (False, True)),
        ([True, False], "integer", None),
        ([True, False], "continuous", None),
        ([3, 1, 2], "continuous", None),
        ([3.0, 1.0], "integer", None),
        ([DAY, LATER], "date", None),
    ],
)
def test_override(entries, kind, levels):
    X = pd.DataFrame({"grade": entries, "x": np.arange(len(entries)) / 3})
    table = read_table(X)
    for key in ("grade", 0, -2, np.int64(0)):
        schema = Schema.infer(table, {key: kind})
        assert (str(schema.columns[0].kind), schema.columns[0].levels) == (kind, levels)
    rows = schema.encode(table)
    pd.testing.assert_frame_equal(schema.decode(rows.values)[["grade"]], X[["grade"]])


def test_override_by_position_in_arrays_and_by_numeric_label():
    X = np.array([[0.0, 5.0], [1.0, 7.0], [2.0, 9.0]])
    assert [column.kind for column in infer(X, {1: "ordinal"}).columns] == ["integer", "ordinal"]
    assert [column.kind for column in infer(X, {"x1": "ordinal"}).columns] == ["integer", "ordinal"]
    labelled = pd.DataFrame(X, columns=[1, 0])
    assert [column.kind for column in infer(labelled, {1: "ordinal"}).columns] == ["ordinal", "integer"]


def test_a_constant_column_stays_constant():
    X = pd.DataFrame({"c": [4, 4], "x": [0, 1]})
    assert infer(X, {"c": "categorical"}).columns[0].kind == "constant"


@pytest.mark.parametrize(
    ("entries", "key", "kind", "message"),
    [
        ([1, 2], "d", "integer", r"column_kinds names column 'd', which X lacks; it has \['c'\]"),
        ([1, 2], 3, "integer", r"column_kinds names column 3, but X has 1 column"),
        ([1, 2], "c", "nominal", r"gives column 'c' the kind 'nominal'; expected one of \['continuous'"),
        ([1, 2], "c", "constant", r"gives column 'c' the kind 'constant'; expected one of"),
        ([1.0, 2.5], "c", "integer", r"'c' holds numbers that are not whole \(2.5, row 1\) and cannot be 'integer'"),
        ([NAN, 1, 2, 3], "c", "binary", r"'c' holds more than two values \(2.0, row 2\) and cannot be 'binary'"),
        (["a", "b", "c"], "c", "binary", r"'c' has 3 levels and cannot be 'binary'; correct column_kinds"),
        ([None, "a", "b"], "c", "continuous", r"'c' holds text \(\"a\", row 1\) and cannot be 'continuous'; convert"),
        (["a", "b"], "c", "date", r"'c' holds text .* cannot be 'date'; convert"),
        ([1, 2], "c", "date", r"'c' holds numbers \(1, row 0\) and cannot be 'date'"),
        ([DAY, LATER], "c", "integer", r"'c' holds dates .*2020.* and cannot be 'integer'"),
        ([DAY, LATER], "c", "categorical", r"'c' holds dates .* and cannot be 'categorical'"),
        (pd.Categorical([1, 2]), "c", "integer", r"'c' holds numbers as categories .* cannot be 'integer'; convert"),
    ],
)
def test_impossible_override(entries, key, kind, message):
    with pytest.raises(ColumnError, match=message):
        column_of(entries, {key: kind})


def test_the_kind_follows_the_dtype_not_the_entries():
    text = pl.DataFrame({"c": ["1", "2", "3"]})
    assert infer(text).columns[0].kind == "categorical"
    assert infer(text.cast(pl.Enum(["3", "2", "1"]))).columns[0].levels == ("3", "2", "1")
    assert infer(text.cast(pl.Int8)).columns[0].kind == "integer"
