"""Every dtype of every container: its kind, and encoded and decoded again."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from skvae.data import Schema
from skvae.data.table import read_table

N = 12
HOLES = [0, 5, 6]

REALS = [0.1 * i**1.5 + 1 / 3 for i in range(N)]
SINGLES = [float(np.float32(real)) for real in REALS]
CENTS = [1.25, 3.07, 0.99, 12.5, 8.0, 100.01, 7.77, 3.33, 2.5, 4.1, 19.99, 0.01]
WHOLE = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8]
SIGNED = [value - 5 for value in WHOLE]
TRUTHS = [True, False, False, True, True, False, True, True, False, True, False, True]
WORDS = ["low", "mid", "high", "low", "mid", "mid", "high", "low", "low", "mid", "high", "low"]
ORDER = ["low", "mid", "high", "never"]
DAYS = [dt.date(2020 + i % 3, 1 + i, 3 + i) for i in range(N)]
TIMES = [dt.datetime(1969 + i, 2, 3, i, 30) for i in range(N)]
MICROS = [dt.datetime(2024, 3, 31, 0, 0, 0, 111_111 * (i % 7)) for i in range(N)]
DECIMALS = [Decimal(f"{cents:.2f}") for cents in CENTS]

GRADE = pd.CategoricalDtype(ORDER, ordered=True)
ENUM = pl.Enum(ORDER)


class Case(NamedTuple):
    """One column: how a container of it is made, its entries, and the kind expected."""

    make: Callable[[list[Any]], Any]
    values: list[Any]
    kind: str
    exact: bool = True  # else to float32 precision
    holes: bool = True  # whether the dtype can hold missing entries


def pandas(dtype: Any) -> Callable[[list[Any]], pd.DataFrame]:
    index = pd.Index([f"row {i}" for i in range(N)], name="key")
    return lambda values: pd.DataFrame({"c": pd.Series(values, dtype=dtype)}).set_axis(index)


def zoned(unit: str) -> Callable[[list[Any]], pd.DataFrame]:
    frame = pandas(f"datetime64[{unit}]")
    return lambda values: frame(values).apply(lambda column: column.dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo"))


def polars(dtype: Any) -> Callable[[list[Any]], pl.DataFrame]:
    return lambda values: pl.DataFrame({"c": pl.Series(values, dtype=dtype)})


def arrow(kind: Any) -> Callable[[list[Any]], pa.Table]:
    def make(values: list[Any]) -> pa.Table:
        if pa.types.is_dictionary(kind):
            return pa.table({"c": pa.array(values, kind.value_type).dictionary_encode().cast(kind)})
        return pa.table({"c": pa.array(values, kind)})

    return make


def numpy(dtype: str) -> Callable[[list[Any]], np.ndarray]:
    return lambda values: np.array([[value] for value in values], dtype=dtype)


CASES = {
    "pandas float64": Case(pandas("float64"), REALS, "continuous", exact=False),
    "pandas float64 cents": Case(pandas("float64"), CENTS, "continuous"),
    "pandas float32": Case(pandas("float32"), SINGLES, "continuous", exact=False),
    "pandas float32 cents": Case(pandas("float32"), CENTS, "continuous"),
    "pandas Float64": Case(pandas("Float64"), CENTS, "continuous"),
    "pandas float64 whole": Case(pandas("float64"), WHOLE, "integer"),
    "pandas int64": Case(pandas("int64"), WHOLE, "integer", holes=False),
    "pandas int8": Case(pandas("int8"), SIGNED, "integer", holes=False),
    "pandas uint16": Case(pandas("uint16"), WHOLE, "integer", holes=False),
    "pandas Int64": Case(pandas("Int64"), SIGNED, "integer"),
    "pandas UInt8": Case(pandas("UInt8"), WHOLE, "integer"),
    "pandas bool": Case(pandas("bool"), TRUTHS, "binary", holes=False),
    "pandas boolean": Case(pandas("boolean"), TRUTHS, "binary"),
    "pandas object text": Case(pandas("object"), WORDS, "categorical"),
    "pandas object numbers": Case(pandas("object"), CENTS, "continuous"),
    "pandas object whole": Case(pandas("object"), WHOLE, "integer"),
    "pandas object truths": Case(pandas("object"), TRUTHS, "binary"),
    "pandas object dates": Case(pandas("object"), DAYS, "date"),
    "pandas object times": Case(pandas("object"), [pd.Timestamp(time) for time in TIMES], "date"),
    "pandas object decimals": Case(pandas("object"), DECIMALS, "continuous"),
    "pandas str": Case(pandas("str"), WORDS, "categorical"),
    "pandas string": Case(pandas("string"), WORDS, "categorical"),
    "pandas category": Case(pandas("category"), WORDS, "categorical"),
    "pandas category declared": Case(pandas(pd.CategoricalDtype(ORDER)), WORDS, "categorical"),
    "pandas category ordered": Case(pandas(GRADE), WORDS, "ordinal"),
    "pandas category of ints": Case(pandas("category"), WHOLE, "categorical"),
    "pandas category of ordered ints": Case(
        pandas(pd.CategoricalDtype([9, 8, 7, 6, 5, 4, 3, 2, 1], ordered=True)), WHOLE, "ordinal"
    ),
    "pandas category of floats": Case(pandas("category"), CENTS, "categorical"),
    "pandas category of truths": Case(pandas("category"), TRUTHS, "binary"),
    "pandas datetime64[ns]": Case(pandas("datetime64[ns]"), TIMES, "date"),
    "pandas datetime64[us]": Case(pandas("datetime64[us]"), MICROS, "date"),
    "pandas datetime64[s]": Case(pandas("datetime64[s]"), TIMES, "date"),
    "pandas datetime64[us, zone]": Case(zoned("us"), TIMES, "date"),
    "pandas datetime64[ns, zone]": Case(zoned("ns"), TIMES, "date"),
    "pandas arrow int64": Case(pandas("int64[pyarrow]"), WHOLE, "integer"),
    "pandas arrow double": Case(pandas("double[pyarrow]"), CENTS, "continuous"),
    "pandas arrow string": Case(pandas(pd.ArrowDtype(pa.string())), WORDS, "categorical"),
    "pandas arrow bool": Case(pandas("bool[pyarrow]"), TRUTHS, "binary"),
    "pandas arrow time": Case(pandas(pd.ArrowDtype(pa.timestamp("us", "UTC"))), TIMES, "date"),
    "polars Float64": Case(polars(pl.Float64), REALS, "continuous", exact=False),
    "polars Float32": Case(polars(pl.Float32), CENTS, "continuous"),
    "polars Int8": Case(polars(pl.Int8), SIGNED, "integer"),
    "polars Int16": Case(polars(pl.Int16), SIGNED, "integer"),
    "polars Int32": Case(polars(pl.Int32), SIGNED, "integer"),
    "polars Int64": Case(polars(pl.Int64), SIGNED, "integer"),
    "polars UInt64": Case(polars(pl.UInt64), WHOLE, "integer"),
    "polars Boolean": Case(polars(pl.Boolean), TRUTHS, "binary"),
    "polars String": Case(polars(pl.String), WORDS, "categorical"),
    "polars Categorical": Case(polars(pl.Categorical), WORDS, "categorical"),
    "polars Enum": Case(polars(ENUM), WORDS, "ordinal"),
    "polars Date": Case(polars(pl.Date), DAYS, "date"),
    "polars Datetime": Case(polars(pl.Datetime("us")), MICROS, "date"),
    "polars Datetime ms zone": Case(polars(pl.Datetime("ms", "America/New_York")), TIMES, "date"),
    "polars Decimal": Case(polars(pl.Decimal(10, 2)), DECIMALS, "continuous"),
    "arrow double": Case(arrow(pa.float64()), REALS, "continuous", exact=False),
    "arrow float": Case(arrow(pa.float32()), CENTS, "continuous"),
    "arrow int8": Case(arrow(pa.int8()), SIGNED, "integer"),
    "arrow int64": Case(arrow(pa.int64()), SIGNED, "integer"),
    "arrow uint32": Case(arrow(pa.uint32()), WHOLE, "integer"),
    "arrow bool": Case(arrow(pa.bool_()), TRUTHS, "binary"),
    "arrow string": Case(arrow(pa.string()), WORDS, "categorical"),
    "arrow large_string": Case(arrow(pa.large_string()), WORDS, "categorical"),
    "arrow dictionary": Case(arrow(pa.dictionary(pa.int16(), pa.string())), WORDS, "categorical"),
    "arrow dictionary of ints": Case(arrow(pa.dictionary(pa.int8(), pa.int64())), WHOLE, "categorical"),
    "arrow timestamp": Case(arrow(pa.timestamp("ms")), TIMES, "date"),
    "arrow timestamp zone": Case(arrow(pa.timestamp("us", "Europe/Berlin")), TIMES, "date"),
    "arrow date32": Case(arrow(pa.date32()), DAYS, "date"),
    "arrow date64": Case(arrow(pa.date64()), DAYS, "date"),
    "arrow decimal": Case(arrow(pa.decimal128(7, 2)), DECIMALS, "continuous"),
    "numpy float64": Case(numpy("float64"), REALS, "continuous", exact=False),
    "numpy float64 cents": Case(numpy("float64"), CENTS, "continuous"),
    "numpy float32": Case(numpy("float32"), SINGLES, "continuous", exact=False),
    "numpy float32 cents": Case(numpy("float32"), CENTS, "continuous"),
    "numpy int64": Case(numpy("int64"), SIGNED, "integer", holes=False),
    "numpy uint8": Case(numpy("uint8"), WHOLE, "integer", holes=False),
    "numpy bool": Case(numpy("bool"), TRUTHS, "binary", holes=False),
    "numpy object text": Case(numpy("object"), WORDS, "categorical"),
    "numpy object whole": Case(numpy("object"), WHOLE, "integer"),
    "numpy object dates": Case(numpy("object"), DAYS, "date"),
    "numpy object times": Case(numpy("object"), TIMES, "date"),
    "numpy str": Case(numpy("str"), WORDS, "categorical", holes=False),
    "numpy float16": Case(numpy("float16"), WHOLE, "integer"),
    "numpy longdouble": Case(numpy("longdouble"), CENTS, "continuous"),
    "numpy datetime64[D]": Case(numpy("datetime64[D]"), DAYS, "date"),
    "numpy datetime64[h]": Case(numpy("datetime64[h]"), DAYS, "date"),
    "numpy datetime64[us]": Case(numpy("datetime64[us]"), MICROS, "date"),
    "numpy datetime64[ns]": Case(numpy("datetime64[ns]"), TIMES, "date"),
}

if hasattr(pa, "string_view"):  # pyarrow 16
    CASES["arrow string_view"] = Case(arrow(pa.string_view()), WORDS, "categorical")


def entries(X: Any) -> list[Any]:
    """The only column, as Python objects."""
    if isinstance(X, np.ndarray):
        return X[:, 0].tolist()
    return X["c"].to_pylist() if isinstance(X, pa.Table) else X["c"].to_list()


def dtypes(X: Any) -> list[Any]:
    if isinstance(X, np.ndarray):
        return [X.dtype]
    return list(X.schema if isinstance(X, pa.Table) else X.dtypes)


def assert_same(decoded: Any, expected: Any, exact: bool = True) -> None:
    """Same container, columns, dtypes, index and entries, and these of the same types."""
    assert type(decoded) is type(expected)
    assert [type(entry) for entry in entries(decoded)] == [type(entry) for entry in entries(expected)]
    assert dtypes(decoded) == dtypes(expected)
    assert entries(decoded) == (entries(expected) if exact else pytest.approx(entries(expected), rel=1e-6, abs=1e-6))
    if isinstance(expected, pd.DataFrame):
        assert decoded.index.identical(expected.index)
        assert list(decoded.columns) == ["c"]


def reread(schema: Schema) -> Schema:
    copy = Schema.from_json(schema.to_json())
    assert copy == schema
    return copy


@pytest.mark.parametrize("name", CASES)
def test_complete_tables_come_back(name):
    case = CASES[name]
    X = case.make(case.values)
    table = read_table(X)
    schema = Schema.infer(table)
    assert [str(column.kind) for column in schema.columns] == [case.kind]
    rows = schema.encode(table)
    assert rows.observed is None
    index = X.index if isinstance(X, pd.DataFrame) else None
    assert_same(schema.decode(rows.values, index=index), X, case.exact)
    assert_same(reread(schema).decode(rows.values, index=index), X, case.exact)
    assert_same(schema.decode(rows.values, keep=table), X)
    assert case.kind in repr(schema)


def with_holes(case: Case) -> Any:
    """The same column with missing entries, in the nearest dtype that can hold them."""
    values = [None if i in HOLES else value for i, value in enumerate(case.values)]
    if case.holes:
        return case.make(values)
    if isinstance(case.make(case.values), pd.DataFrame):
        return pandas("object" if case.kind == "binary" else "float64")(values)
    return numpy("float64" if case.kind == "integer" else "object")(values)


@pytest.mark.parametrize(
    ("name", "holes_at_fit"),
    [(name, False) for name in CASES] + [(name, True) for name, case in CASES.items() if case.holes],
)
def test_only_holes_are_filled(name, holes_at_fit):
    case = CASES[name]
    X, complete = with_holes(case), case.make(case.values)
    table = read_table(X)
    schema = Schema.infer(table if holes_at_fit else read_table(complete))
    assert schema.columns[0].kind == case.kind
    assert schema.columns[0].missing == pytest.approx(len(HOLES) / N if holes_at_fit else 0.0)
    rows = schema.encode(table)
    assert np.flatnonzero(~rows.observed.numpy()).tolist() == HOLES
    assert (rows.values[HOLES] == 0).all()
    filled = reread(schema).decode(rows.values, keep=table)
    drawn = schema.decode(rows.values)
    assert dtypes(filled) == dtypes(drawn) == dtypes(X if holes_at_fit else complete)
    expected = entries(complete)
    for hole in HOLES:
        expected[hole] = entries(drawn)[hole]
    assert entries(filled) == expected
    assert not pd.isna(entries(filled)).any()
    if isinstance(X, pd.DataFrame):
        assert filled.index.identical(X.index)
