"""Tables that cannot be read, learned from or encoded: each is refused in words that help."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse

from skvae.data import Schema
from skvae.data.table import read_table
from skvae.exceptions import ColumnError, ColumnTypeError

NAN = np.nan
DAY, TIME = dt.date(2020, 1, 2), dt.datetime(2020, 1, 2, 3)


def objects(*entries: Any) -> pd.DataFrame:
    return pd.DataFrame({"age": pd.Series(entries, dtype=object)})


def object_array(*entries: Any) -> np.ndarray:
    array = np.empty((len(entries), 1), dtype=object)
    for row, entry in enumerate(entries):
        array[row, 0] = entry
    return array


UNREADABLE = {
    "no rows, array": (np.empty((0, 3)), ValueError, "0 sample"),
    "no rows, pandas": (pd.DataFrame({"a": []}), ValueError, r"0 sample\(s\) \(shape=\(0, 1\)\)"),
    "no rows, polars": (pl.DataFrame({"a": []}), ValueError, "0 sample"),
    "no rows, arrow": (pa.table({"a": pa.array([], pa.string())}), ValueError, "0 sample"),
    "no columns, array": (np.empty((3, 0)), ValueError, "0 feature"),
    "no columns, pandas": (pd.DataFrame(index=[0, 1]), ValueError, r"0 feature\(s\) \(shape=\(2, 0\)\)"),
    "no columns, polars": (pl.DataFrame(), ValueError, "0 feature"),
    "no columns, arrow": (pa.table({}), ValueError, "0 feature"),
    "1-D array": (np.ones(3), ValueError, "Expected 2D array, got 1D array"),
    "1-D list": ([1.0, 2.0], ValueError, "Expected 2D array, got 1D array"),
    "pandas series": (pd.Series([1.0, 2.0]), ValueError, "Expected a 2-dimensional|Expected 2D"),
    "polars series": (pl.Series([1.0, 2.0]), ValueError, "Expected a 2-dimensional|Expected 2D"),
    "3-D array": (np.ones((2, 2, 2)), ValueError, "Found array with dim 3"),
    "a file that is not there": ("data.csv", FileNotFoundError, "there is no file data.csv"),
    "sparse": (scipy.sparse.csr_matrix(np.eye(3)), TypeError, "Sparse data was passed"),
    "complex": (np.ones((2, 2)) * 1j, ValueError, "Complex data not supported"),
    "lazy polars": (pl.LazyFrame({"a": [1, 2]}), TypeError, r"lazy frame; pass X.collect\(\)"),
    "infinity, array": (np.array([[1.0, 2.0], [3.0, np.inf]]), ColumnError, r"'x1' holds inf \(row 1\).*missing"),
    "infinity, pandas": (pd.DataFrame({"a": [1.0, -np.inf]}), ColumnError, r"'a' holds -inf \(row 1\).*replace"),
    "infinity, polars": (pl.DataFrame({"a": [np.inf, 1.0]}), ColumnError, r"'a' holds inf \(row 0\)"),
    "infinity, objects": (objects(1, np.inf), ColumnError, r"'age' holds inf \(row 1\)"),
    "repeated name, pandas": (
        pd.DataFrame(np.ones((2, 3)), columns=["a", "b", "a"]),
        ColumnError,
        "'a' occurs 2 times; give every column its own name",
    ),
    "repeated name, arrow": (
        pa.Table.from_arrays([pa.array([1])] * 2, names=["a", "a"]),
        ColumnError,
        "'a' occurs 2 times",
    ),
    "repeated as text": (pd.DataFrame(np.ones((2, 2)), columns=[1, "1"]), ColumnError, "'1' occurs 2 times"),
    "text among numbers": (
        objects(31, 40, NAN, "n/a", 22),
        ColumnError,
        r"'age' mixes text and numbers \(\"n/a\", row 3\); mark stray entries missing",
    ),
    "numbers among text": (objects("x", "y", None, 3), ColumnError, r"'age' mixes text and numbers \(3, row 3\)"),
    "text among numbers, array": (
        object_array(31, 40, "n/a"),
        ColumnError,
        r"'x0' mixes text and numbers \(\"n/a\", row 2\)",
    ),
    "truths among numbers": (
        objects(True, 2, 3),
        ColumnError,
        r"'age' mixes truth values and numbers \(True, row 0\)",
    ),
    "text among dates": (objects(DAY, "soon", DAY), ColumnError, r"'age' mixes text and dates \(\"soon\", row 1\)"),
    "numbers among dates": (objects(DAY, DAY, 5), ColumnError, r"'age' mixes numbers and dates \(5, row 2\)"),
    "dates and times": (objects(TIME, DAY), ColumnError, r"'age' .*no common type.*convert"),
    "dicts": (objects({"a": 1}, {"a": 2}), ColumnTypeError, r"'age' holds \{'a': 1\} \(.*row 0\).*convert or drop"),
    "a dict": (objects(1, {"a": 2}), ColumnTypeError, r"'age' holds \{'a': 2\} \(row 1\).*convert or drop"),
    "a dict, array": (object_array(1, {"a": 2}), ColumnTypeError, r"'x0' holds \{'a': 2\} \(row 1\)"),
    "lists": (objects(None, [1], [2, 3]), ColumnTypeError, r"'age' holds \[1\] \(.*row 1\).*convert or drop"),
    "lists, polars": (pl.DataFrame({"a": [[1], [2]]}), ColumnTypeError, r"'a' holds \[1\]"),
    "a set": (objects("x", {1}), ColumnTypeError, r"'age' holds \{1\} \(row 1\)"),
    "an object": (objects("x", Fraction(1, 3)), ColumnTypeError, r"'age' holds Fraction\(1, 3\) \(row 1\)"),
    "a huge number": (objects(1, 2**70), ColumnTypeError, r"'age' holds \d+.*\(row 1\)"),
    "bytes": (objects(b"x", b"y"), ColumnTypeError, r"'age' holds b'x' \(binary, row 0\)"),
    "durations": (
        pd.DataFrame({"a": pd.to_timedelta([1, 2])}),
        ColumnTypeError,
        r"'a' holds .*duration\[ns\], row 0",
    ),
    "times of day": (objects(dt.time(1), dt.time(2)), ColumnTypeError, r"'age' holds .*time64"),
    "periods": (pd.DataFrame({"a": pd.period_range("2020", periods=2, freq="M")}), ColumnTypeError, "'a' holds"),
    "intervals": (pd.DataFrame({"a": pd.cut([1.0, 2.0], 2)}), ColumnTypeError, "'a' holds .*interval.*convert"),
    "dates as categories": (
        pd.DataFrame({"a": pd.Categorical(pd.to_datetime(["2020", "2021"]))}),
        ColumnTypeError,
        "'a' holds .*dictionary.*convert",
    ),
    "decimals as categories": (
        pd.DataFrame({"a": pd.Categorical([Decimal("0.5"), Decimal("1.5")])}),
        ColumnTypeError,
        "'a' holds .*dictionary.*convert",
    ),
    "complex, pandas": (pd.DataFrame({"a": [1j, 2j]}), ColumnTypeError, r"'a' holds 1j \(row 0\)"),
    "sparse pandas": (pd.DataFrame({"a": pd.arrays.SparseArray([0, 1])}), ColumnTypeError, "'a' .*convert"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_unreadable(case):
    X, error, message = UNREADABLE[case]
    with pytest.raises(error, match=message):
        read_table(X)


@pytest.mark.parametrize(
    "X", [np.ones((1, 2)), pd.DataFrame({"a": [1]}), pl.DataFrame({"a": [1]}), pa.table({"a": [1]})]
)
def test_too_few_rows(X):
    read_table(X)
    with pytest.raises(ValueError, match=r"1 sample\(s\).*minimum of 2 is required"):
        read_table(X, min_rows=2)


NOTHING_TO_LEARN = {
    "all missing, array": (
        np.array([[1.0, NAN], [2.0, NAN]]),
        r"'x1' has no observed value \(all 2 are missing\); drop",
    ),
    "all missing, pandas": (pd.DataFrame({"a": [1, 2], "b": [None, None]}), "'b' has no observed value"),
    "all missing text": (pd.DataFrame({"b": pd.Series([None, None], dtype="str")}), "'b' has no observed value"),
    "all missing category": (pd.DataFrame({"b": pd.Categorical([None, None])}), "'b' has no observed value"),
    "all missing dates": (pd.DataFrame({"b": pd.to_datetime([None, None])}), "'b' has no observed value"),
    "all missing, polars": (pl.DataFrame({"b": [None, None]}), "'b' has no observed value"),
    "all constant": (
        pd.DataFrame({"a": ["x", "x"], "b": [1, 1]}),
        r"'a' is constant \(\"x\"\) and so is every other column: there is nothing to learn; add columns",
    ),
    "one row": (pd.DataFrame({"a": [pd.Timestamp("2020-05-01")]}), r"'a' is constant \(2020-05-01\)"),
}


@pytest.mark.parametrize("case", NOTHING_TO_LEARN)
def test_nothing_to_learn(case):
    X, message = NOTHING_TO_LEARN[case]
    with pytest.raises(ColumnError, match=message):
        Schema.infer(read_table(X))


FIT = pd.DataFrame(
    {
        "age": [31.0, 40.5, 22.0],
        "city": ["Rome", "Oslo", "Bonn"],
        "born": pd.to_datetime(["1990-01-01", "1980-05-05", None]),
        "member": [True, False, True],
        "size": pd.Categorical([1, 2, 3]),
        "unit": ["kg", "kg", "kg"],
        "count": [2, 2, 2],
    }
)
LATER_ROWS = {
    "text for numbers": (
        {"age": ["31", "n/a", "40"]},
        r"'age' holds text \(\"n/a\", row 1\) but was numeric at fit; mark",
    ),
    "numbers as text": ({"age": [None, "31", "40"]}, r"'age' holds text \(\"31\", row 1\) but was numeric at fit"),
    "dates for numbers": (
        {"age": pd.to_datetime(["2020"] * 3)},
        r"'age' holds dates \(2020-01-01 00:00:00, row 0\) but was num",
    ),
    "numbers for text": ({"city": [NAN, 5, 6]}, r"'city' holds numbers \(5.0, row 1\) but was text at fit.*refit"),
    "truths for text": ({"city": [True, False, True]}, r"'city' holds truth values \(True, row 0\) but was text"),
    "numbers for dates": (
        {"born": [1990, 1980, 1970]},
        r"'born' holds numbers \(1990, row 0\) but was a date at fit",
    ),
    "text for dates": ({"born": ["1990-01-01"] * 3}, r"'born' holds text .* but was a date at fit"),
    "text for truths": (
        {"member": ["yes", "no", "yes"]},
        r"'member' holds text \(\"yes\", row 0\) but was true or false",
    ),
    "text for numbers that are levels": (
        {"size": pd.Categorical(["S", "M", "L"])},
        r"'size' holds text \(\"S\", row 0\) but was one of 1, 2, 3 at fit; mark it missing",
    ),
    "text for a constant": (
        {"count": ["two", "two", "two"]},
        r"'count' holds text \(\"two\", row 0\) but was numeric",
    ),
    "numbers for a constant text": ({"unit": [1, 2, 3]}, r"'unit' holds numbers \(1, row 0\) but was text at fit"),
    "an unseen text": (
        {"city": ["Rome", "Paris", "Oslo"]},
        r"'city' holds \"Paris\" \(row 1\), a level not seen at fit \(\"Bonn\", \"Oslo\", \"Rome\"\); mark it "
        r"missing \(NaN\), set handle_unknown='missing', or refit",
    ),
    "an unseen number": ({"size": [1, 2, 7]}, r"'size' holds 7 \(row 2\), a level not seen at fit \(1, 2, 3\)"),
    "an unseen truth": (
        {"member": [0, 1, 2]},
        r"'member' holds 2 \(row 2\), a level not seen at fit \(False, True\)",
    ),
}


@pytest.mark.parametrize("case", LATER_ROWS)
def test_later_rows_that_do_not_fit(case):
    changes, message = LATER_ROWS[case]
    schema = Schema.infer(read_table(FIT))
    table = read_table(FIT.assign(**changes))
    with pytest.raises(ColumnError, match=message):
        schema.encode(table)
    if "level" not in message:
        for method in (schema.changed_columns, lambda table: schema.decode(np.zeros((3, 5)), keep=table)):
            with pytest.raises(ColumnError, match=message):
                method(table)


@pytest.mark.parametrize("entries", [[None] * 3, [NAN] * 3, [pd.NaT] * 3, pd.Series([None] * 3, dtype="str")])
@pytest.mark.parametrize("name", FIT.columns)
def test_a_column_may_be_all_missing_later(name, entries):
    schema = Schema.infer(read_table(FIT))
    table = read_table(FIT.assign(**{name: entries}))
    assert schema.changed_columns(table) == []
    rows = schema.encode(table)
    filled = schema.decode(rows.values, keep=table)
    assert filled.dtypes.equals(FIT.dtypes)
    assert filled[name].notna().all()


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (FIT.drop(columns="age"), "X has 6 columns, but had 7 at fit"),
        (FIT.rename(columns={"age": "years"}), "'years' stands where 'age' was at fit"),
        (FIT[["city", "age", *FIT.columns[2:]]], "'city' stands where 'age' was at fit; .* same order"),
        (np.ones((2, 3)), "X has 3 columns, but had 7 at fit"),
    ],
)
def test_other_columns(X, message):
    schema = Schema.infer(read_table(FIT))
    for method in (schema.encode, schema.changed_columns):
        with pytest.raises(ColumnError, match=message):
            method(read_table(X))


@pytest.mark.parametrize(
    ("fitted", "later", "message"),
    [
        (
            [1, 2, 3],
            [1.0, 2.5, NAN],
            r"'c' holds 2.5 \(row 1\), which its type at fit \(int64\) cannot hold; convert",
        ),
        (np.array([1, 2, 3], dtype="uint8"), [1.0, 300.0, NAN], r"'c' holds 300.0 \(row 1\).*\(uint8\) cannot hold"),
        ([DAY, dt.date(2021, 1, 1)], [TIME, None], r"'c' holds 2020-01-02 03:00:00 \(row 0\)"),
        ([Decimal("0.5"), Decimal("1.5")], [0.25, NAN], r"'c' holds 0.25 \(row 0\)"),
    ],
)
def test_present_entries_are_never_altered_silently(fitted, later, message):
    schema = Schema.infer(read_table(pd.DataFrame({"c": fitted})))
    table = read_table(pd.DataFrame({"c": later}))
    with pytest.raises(ColumnError, match=message):
        schema.decode(schema.encode(table).values, keep=table)


@pytest.mark.parametrize("make", [pd.Categorical, pl.Series], ids=["category", "Enum"])
def test_a_constant_of_fixed_categories_cannot_keep_another(make):
    def frame(*entries: str) -> Any:
        if make is pl.Series:
            return pl.DataFrame({"c": pl.Series(entries, dtype=pl.Enum(sorted(set(entries)))), "x": [1.5, 2.5]})
        return pd.DataFrame({"c": pd.Categorical(entries), "x": [1.5, 2.5]})

    schema, table = Schema.infer(read_table(frame("a", "a"))), read_table(frame("a", "b"))
    with pytest.raises(ColumnError, match=r"'c' holds \"b\" \(row 1\), which its type at fit .* cannot hold"):
        schema.decode(schema.encode(table).values, keep=table)


def test_a_whole_number_array_cannot_keep_fractions():
    schema = Schema.infer(read_table(np.array([[1, 2], [3, 5], [4, 9]])))
    table = read_table(np.array([[1.0, NAN], [NAN, 2.5]]))
    with pytest.raises(ColumnError, match=r"'x1' holds 2.5 \(row 1\), which its type at fit \(int64\) cannot hold"):
        schema.decode(schema.encode(table).values, keep=table)


def test_wrong_arguments():
    table = read_table(FIT)
    schema = Schema.infer(table)
    with pytest.raises(ValueError, match="handle_unknown='ignore' is not understood; expected 'error' or 'missing'"):
        schema.encode(table, handle_unknown="ignore")
    with pytest.raises(ValueError, match=r"values has shape \(3, 7\); expected \(3, 5\)"):
        schema.decode(np.zeros((3, 7)))
    with pytest.raises(ValueError, match=r"values has shape \(2, 5\); expected \(3, 5\)"):
        schema.decode(np.zeros((2, 5)), keep=table)
