"""The schema as a whole: constants, scales, decoding, printing, JSON, and what it leaves alone."""

from __future__ import annotations

import datetime as dt
import json
import time
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

from skvae.data import Schema
from skvae.data.table import read_table

NAN = np.nan
RNG = np.random.default_rng(0)
FRAME = pd.DataFrame(
    {
        "age": [31, 40, 22, 57],
        "price": [1.25, NAN, 19.99, 5.0],
        "real": [1 / 3, 2 / 7, -0.5, 1e3],
        "city": pd.array(["Rome", "Oslo", None, "Bonn"], dtype="string"),
        "member": [True, False, True, True],
        "grade": pd.Categorical(["low", "high", "mid", None], ["low", "mid", "high", "top"], ordered=True),
        "born": pd.to_datetime(["1990-01-01", "1980-05-05", None, "2001-12-31"]).astype("datetime64[us]"),
        "day": [dt.date(2020, 1, 1), dt.date(2021, 1, 1), dt.date(2022, 1, 1), None],
        "unit": pd.array(["kg"] * 4, dtype="string"),
        "since": pd.to_datetime(["2000-01-01"] * 4).astype("datetime64[us]"),
        "two": [2.0, NAN, 2.0, 2.0],
        "open": [False] * 4,
    }
)


def infer(X: Any, **options: Any) -> Schema:
    return Schema.infer(read_table(X), **options)


def test_prints_as_a_table():
    assert str(infer(FRAME)).splitlines() == [
        "Schema of 12 columns, from 4 rows (pandas)",
        "column  kind         dtype           missing  levels or range",
        "age     integer      int64                    22 to 57",
        "price   continuous   float64         25.0%    1.25 to 19.99 in steps of 0.01",
        "real    continuous   float64                  -0.5 to 1000",
        'city    categorical  string          25.0%    "Bonn", "Oslo", "Rome"',
        "member  binary       bool                     False, True",
        'grade   ordinal      category        25.0%    "low", "mid", "high"',
        "born    date         datetime64[us]  25.0%    1980-05-05 to 2001-12-31",
        "day     date         object          25.0%    2020-01-01 to 2022-01-01",
        'unit    constant     string                   "kg"',
        "since   constant     datetime64[us]           2000-01-01",
        "two     constant     float64         25.0%    2",
        "open    constant     bool                     False",
    ]


def test_prints_wide_and_many_levelled_tables_briefly():
    names = [f"a column with quite a long name {i}" for i in range(100)]
    frame = pd.DataFrame(RNG.random((5, 100)), columns=names).assign(last=list("abcde"))
    lines = str(infer(frame[["last", *names]])).splitlines()
    assert len(lines) == 2 + 40 + 1
    assert max(map(len, lines)) < 120
    assert lines[2].endswith('"a", "b", "c", "d", … 5 levels')
    assert lines[-1] == "… and 61 more columns"


def test_goes_to_json_and_back():
    schema = infer(FRAME, column_kinds={"age": "ordinal", "city": "ordinal"})
    text = schema.to_json()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    copy = Schema.from_json(text)
    assert copy == schema
    assert Schema.from_dict(schema.to_dict()) == schema
    assert repr(copy) == repr(schema)
    assert copy != infer(FRAME)
    table = read_table(FRAME)
    rows, again = schema.encode(table), copy.encode(table)
    assert torch.equal(rows.values, again.values)
    pd.testing.assert_frame_equal(copy.decode(rows.values, keep=table), schema.decode(rows.values, keep=table))


def test_a_mixed_frame_comes_back():
    table = read_table(FRAME)
    schema = infer(FRAME)
    assert [column.name for column in schema.modelled] == list(FRAME.columns[:8])
    filled = schema.decode(schema.encode(table).values, keep=table)
    assert filled.dtypes.equals(FRAME.dtypes)
    for name in FRAME:
        pd.testing.assert_series_equal(filled[name][FRAME[name].notna()], FRAME[name].dropna())
    assert filled.notna().all(axis=None)
    assert (filled["two"] == 2.0).all()


@pytest.mark.parametrize("later", ["numpy", "polars", "pyarrow"])
def test_rows_may_come_in_another_container(later):
    frame = pd.DataFrame({"a": [1.5, 2.5, NAN], "b": [3.25, 1.0, 2.0]}, index=["x", "y", "z"])
    X = {"numpy": frame.to_numpy(), "polars": pl.from_pandas(frame), "pyarrow": pa.table(dict(frame))}[later]
    schema, table = infer(frame), read_table(X)
    rows = schema.encode(table)
    assert torch.equal(rows.values, schema.encode(read_table(frame)).values)
    filled = schema.decode(rows.values, keep=table, index=frame.index)
    pd.testing.assert_frame_equal(filled, frame.fillna(filled))


@pytest.mark.parametrize("labels", [[0, 1, 2], [10, 20, 5], [2, "two", 3], ["column_names", "columns", "shape"]])
def test_column_labels_come_back(labels):
    frame = pd.DataFrame([[1.5, 2.0, "a"], [0.5, 7.0, "b"], [0.0, 3.0, "c"]], columns=labels)
    schema = Schema.from_json(infer(frame).to_json())
    assert [column.name for column in schema.columns] == [str(label) for label in labels]
    decoded = schema.decode(schema.encode(read_table(frame)).values)
    pd.testing.assert_frame_equal(decoded, frame)


@pytest.mark.parametrize(
    "index",
    [
        pd.RangeIndex(5, 8),
        pd.Index(["x", "x", "y"], name="twice"),
        pd.MultiIndex.from_tuples([(1, "a"), (1, "b"), (2, "a")], names=["i", "j"]),
        pd.date_range("2020", periods=3, tz="UTC"),
    ],
)
def test_the_row_index_is_kept(index):
    frame = pd.DataFrame({"a": [1.5, NAN, 2.25], "b": ["u", None, "v"]}, index=index)
    schema, table = infer(frame), read_table(frame)
    assert schema.decode(schema.encode(table).values, keep=table).index.identical(index)
    assert schema.decode(np.zeros((3, 2)), index=index).index.identical(index)
    assert schema.decode(np.zeros((2, 2))).index.identical(pd.RangeIndex(2))


CHANGED = {
    "nothing": ({}, []),
    "missing": ({"unit": None, "since": pd.NaT, "two": NAN, "open": None}, []),
    "rounding": ({"two": 2.0 + 1e-12}, []),
    "text": ({"unit": ["kg", "kg", None, "g"]}, ["unit"]),
    "number": ({"two": [2, 2, 2, 3]}, ["two"]),
    "zero": ({"two": [0.0, 2, 2, 2]}, ["two"]),
    "date": ({"since": pd.to_datetime(["2000-01-01 00:00:00.000001"] * 4)}, ["since"]),
    "truth": ({"open": [False, False, True, False]}, ["open"]),
    "all": ({"unit": "g", "since": pd.Timestamp("2020"), "two": 5, "open": True}, ["unit", "since", "two", "open"]),
}


@pytest.mark.parametrize("case", CHANGED)
def test_constants_that_change(case):
    changes, names = CHANGED[case]
    X = FRAME.assign(**changes)
    schema, table = infer(FRAME), read_table(X)
    assert [schema.columns[i].name for i in schema.changed_entries(table)] == names
    assert torch.equal(schema.encode(table).values, schema.encode(read_table(FRAME)).values)
    filled = schema.decode(schema.encode(table).values, keep=table)
    for name in ("unit", "since", "two", "open"):
        expected = X[name].where(X[name].notna(), FRAME[name].iloc[0]).astype(FRAME[name].dtype)
        pd.testing.assert_series_equal(filled[name], expected)


def test_unseen_levels_as_missing():
    frame = pd.DataFrame(
        {"c": ["a", "b", "c", "a"], "n": pd.Categorical([1, 2, 3, 1]), "t": [True, False, True, True]}
    )
    later = pd.DataFrame({"c": ["a", "z", None, "b"], "n": [7, 1, 2, 3], "t": [1, 0, 5, 1]})
    schema, table = infer(frame), read_table(later)
    rows = schema.encode(table, handle_unknown="missing")
    observed = [[True, False, True], [False, True, True], [False, True, False], [True, True, True]]
    assert rows.observed.tolist() == observed
    filled = schema.decode(rows.values, keep=table)
    assert filled.astype(object).to_numpy().tolist() == [
        ["a", 1, True],
        ["a", 1, False],
        ["a", 2, False],
        ["b", 3, True],
    ]


def test_declared_but_unseen_categories():
    dtype = pd.CategoricalDtype(["never", "a", "b", "c"])
    frame = pd.DataFrame({"c": pd.Series(["a", "b", "c"], dtype=dtype)})
    schema = infer(frame)
    assert schema.columns[0].levels == ("a", "b", "c")
    assert schema.decode(np.zeros((2, 1)))["c"].dtype == dtype
    with pytest.raises(ValueError, match="never"):
        schema.encode(read_table(pd.DataFrame({"c": pd.Series(["never"], dtype=dtype)})))


@pytest.mark.parametrize("container", ["numpy", "pandas"])
def test_decoded_draws_stay_within_rounding_and_bounds(container):
    X: Any = np.column_stack([RNG.integers(0, 100, 50), RNG.integers(0, 9999, 50) / 100, RNG.normal(size=50)])
    if container == "pandas":
        X = pd.DataFrame(X, columns=["i", "d", "r"]).assign(c=list("abcde") * 10, t=pd.date_range("2020", periods=50))
    schema = infer(X)
    decoded = schema.decode(torch.tensor(RNG.normal(0, 3, (1000, len(schema.columns))), dtype=torch.float32))
    numbers = np.asarray(decoded)[:, :3].astype(float)
    np.testing.assert_array_equal(numbers[:, 0], np.rint(numbers[:, 0]))
    np.testing.assert_array_equal(numbers[:, 1], np.round(numbers[:, 1], 2))
    original = np.asarray(X)[:, :3].astype(float)
    np.testing.assert_array_equal(numbers.min(axis=0), original.min(axis=0))
    np.testing.assert_array_equal(numbers.max(axis=0), original.max(axis=0))
    if container == "pandas":
        assert set(decoded["c"]) == set("abcde")
        assert decoded["t"].between("2020-01-01", "2020-02-19").all()
        assert (decoded["t"] == decoded["t"].dt.normalize()).all()


SCALES = {
    "1e30 beside 1e-30": np.array([[1e30, 1e-30], [2e30, 5e-30], [-3e30, 7e-30]]),
    "the ends of float64": np.array([[1.7e308, 1e-300], [-1.7e308, 3e-300], [1.0, 2e-300]]),
    "a small spread far from zero": np.array([[1e9 + 1 / 3, 0.0], [1e9 + 2 / 3, 1.0], [1e9 + 1, 3.5]]),
}


@pytest.mark.parametrize("case", SCALES)
def test_any_scale_encodes_to_finite_float32(case):
    X = SCALES[case]
    schema = infer(X, column_kinds={0: "continuous", 1: "continuous"})
    rows = schema.encode(read_table(X))
    assert rows.values.dtype == torch.float32
    np.testing.assert_allclose(rows.values.mean(0), 0.0, atol=1e-6)
    np.testing.assert_allclose(rows.values.std(0, correction=0), 1.0, rtol=1e-6)
    largest = np.abs(X).max(axis=0)
    np.testing.assert_allclose(schema.decode(rows.values) / largest, X / largest, atol=1e-6)
    far = schema.encode(read_table(np.array([[1.7e308, -1.7e308], [-1e300, 1e300]])))
    assert far.values.isfinite().all()
    assert np.isfinite(schema.decode(far.values)).all()


@pytest.mark.parametrize(
    "numbers",
    [
        [-(2**63), 0, 2**63 - 1],
        [2**60 + 1, 2**60 + 3, 5],
    ],
)
@pytest.mark.parametrize("holes", [False, True])
def test_the_largest_whole_numbers(numbers, holes):
    frame = pd.DataFrame({"id": pd.array(numbers + [None] * holes, dtype="Int64" if holes else "int64")})
    schema, table = infer(frame), read_table(frame)
    rows = schema.encode(table)
    filled = schema.decode(rows.values, keep=table)
    assert filled["id"].tolist()[:3] == numbers
    assert schema.decode(rows.values)["id"].tolist()[:3] == pytest.approx(numbers, abs=1e-6 * max(numbers))


def test_nanoseconds_are_kept():
    times = pd.to_datetime(["2020-01-01 00:00:00.123456789", None, "2021-05-05 01:02:03.000000001"])
    frame = pd.DataFrame({"t": times.astype("datetime64[ns]")})
    table = read_table(frame)
    schema = infer(frame)
    filled = schema.decode(schema.encode(table).values, keep=table)["t"]
    assert filled[[0, 2]].tolist() == times[[0, 2]].tolist()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("n_columns", [1, 20])
def test_the_data_are_left_alone(order, n_columns):
    X = np.array(np.where(RNG.random((30, n_columns)) < 0.2, NAN, RNG.normal(size=(30, n_columns))), order=order)
    before = X.copy()
    table = read_table(X)
    schema = Schema.infer(table)
    rows = schema.encode(table, handle_unknown="missing")
    schema.changed_columns(table)
    schema.decode(rows.values, keep=table)
    np.testing.assert_array_equal(X, before)


def test_lists_of_rows():
    schema = infer([[1, 2.5], [3, 4.0]])
    assert [str(column.kind) for column in schema.columns] == ["integer", "continuous"]
    mixed = [[1, "a", None], [3, "b", 2.5], [4, "c", 3.5]]
    schema = infer(mixed)
    assert [str(column.kind) for column in schema.columns] == ["integer", "categorical", "continuous"]
    table = read_table(mixed)
    assert schema.decode(schema.encode(table).values, keep=table)[1:].tolist() == mixed[1:]


@pytest.mark.parametrize("make", [pd.Series, pd.Categorical, pl.Series], ids=["pandas str", "category", "polars"])
def test_ten_thousand_levels_are_fast(make):
    levels = [f"level {i}" for i in range(10_000)]
    entries = make([levels[i] for i in RNG.permutation(np.arange(100_000) % 10_000)])
    frame = pl.DataFrame({"c": entries}) if isinstance(entries, pl.Series) else pd.DataFrame({"c": entries})
    start = time.process_time()
    table = read_table(frame)
    schema = Schema.infer(table)
    rows = schema.encode(table)
    seconds = time.process_time() - start
    assert schema.columns[0].cardinality == 10_000
    assert seconds < 1.0  # a loop over rows or pairs of levels takes far longer
    assert schema.decode(rows.values)["c"].to_list() == frame["c"].to_list()


def test_a_wide_table_is_fast():
    X = RNG.random((2_000, 784))
    start = time.process_time()
    table = read_table(X)
    Schema.infer(table).encode(table)
    assert time.process_time() - start < 1.0


def test_chunked_columns():
    words = [pa.array(["a", "b"]).dictionary_encode(), pa.array(["c", None, "a"]).dictionary_encode()]
    numbers = [pa.array([1.5, None]), pa.array([2.5, 3.25, 4.0])]
    table = pa.table({"w": pa.chunked_array(words), "n": pa.chunked_array(numbers)})
    raw = read_table(table)
    schema = Schema.infer(raw)
    filled = schema.decode(schema.encode(raw).values, keep=raw)
    assert filled.schema == table.schema
    assert filled["w"].to_pylist() == ["a", "b", "c", "a", "a"]
    assert filled["n"].to_pylist()[2:] == [2.5, 3.25, 4.0]


def test_polars_missing_as_null_and_as_nan():
    frame = pl.DataFrame({"a": [1.5, None, NAN, 2.25]}, strict=False)
    table = read_table(frame)
    schema = Schema.infer(table)
    rows = schema.encode(table)
    assert rows.observed[:, 0].tolist() == [True, False, False, True]
    filled = schema.decode(rows.values, keep=table)
    assert filled["a"].is_finite().all()


def test_masked_entries_are_missing():
    X = np.ma.masked_equal(np.array([[1, 5], [2, -1], [3, 7]]), -1)
    assert np.isnan(read_table(X).numbers).tolist() == [[False, False], [False, True], [False, False]]


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="needs NumPy 2")
def test_variable_width_text_of_numpy():
    X = np.array([["a", "b"], ["c", "b"], ["b", "a"]], dtype=np.dtypes.StringDType())
    table = read_table(X)
    assert infer(X).decode(infer(X).encode(table).values).tolist() == X.tolist()
