"""Tables in files come back as they were; files that are not what they seem are refused in one line."""

from __future__ import annotations

import datetime as dt
import gzip
import io
import stat
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet
import pytest

from skvae import VAE, ColumnError, SourceError, SourceWarning
from skvae.data.source import MISSING, as_arrow, check_target, read, write

DAYS = [dt.date(2020, 1, 2), None, dt.date(2021, 3, 4)]
MIXED = pa.table(
    {
        "height": [1.5, None, 0.1 + 0.2],
        "children": pa.array([2, None, 0], pa.int64()),
        "smokes": [True, False, None],
        "city, country": ["Rome", None, 'the "Hague",\nNL'],
        "born": pa.array(DAYS, pa.date32()),
        "seen": pa.array([dt.datetime(2020, 1, 2, 3, 4, 5), None, dt.datetime(2020, 1, 2)], pa.timestamp("s")),
    }
)


@pytest.mark.parametrize("name", ["t.csv", "t.CSV", "t.csv.gz", "t.parquet", "t.pq"])
def test_round_trip(name, tmp_path):
    write([MIXED], tmp_path / name)
    back = read(tmp_path / name)
    assert back.to_pydict() == MIXED.to_pydict()
    if name != "t.csv":
        assert back.schema.types[:4] == MIXED.schema.types[:4]
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_streams(format):
    file = io.BytesIO()
    write([MIXED, MIXED], file, format)
    back = read(io.BytesIO(file.getvalue()))
    assert back.to_pydict() == pa.concat_tables([MIXED, MIXED]).to_pydict()


def test_a_compressed_stream_and_a_file_without_a_suffix(tmp_path):
    write([MIXED], tmp_path / "t.csv.gz")
    content = (tmp_path / "t.csv.gz").read_bytes()
    (tmp_path / "plain").write_bytes(content)
    for source in (io.BytesIO(content), tmp_path / "plain"):
        assert read(source).to_pydict() == MIXED.to_pydict()
    assert gzip.decompress(content) == gzip.decompress((tmp_path / "plain").read_bytes())


def test_csv_is_as_plain_as_can_be(tmp_path):
    midnights = [dt.datetime(2020, 1, 2), dt.datetime(2021, 1, 2)]
    table = pa.table(
        {
            "a": pa.array([0.1, np.nan], pa.float32(), from_pandas=True),
            "b": pa.array(["x", "y"]).dictionary_encode(),
            "c": pa.array(midnights, pa.timestamp("ns")),
            "d": pa.array([time + dt.timedelta(hours=1) for time in midnights], pa.timestamp("ns")),
            "e": [True, None],
        }
    )
    write([table], tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text().splitlines() == [
        "a,b,c,d,e",
        "0.1,x,2020-01-02,2020-01-02 01:00:00,true",
        ",y,2021-01-02,2021-01-02 01:00:00,",
    ]


def csv_of(tmp_path, text, name="t.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_every_spelling_of_missing(tmp_path):
    lines = [f"{word},{word},{word},{word}" for word in MISSING] + [f'"{word}","{word}","",""' for word in MISSING]
    path = csv_of(tmp_path, "\n".join(["a,b,c,d", "1,x,2020-01-01,true", *lines]) + "\n")
    table = read(path, text=["b"])
    assert [str(kind) for kind in table.schema.types] == ["int64", "string", "date32[day]", "bool"]
    assert [column.null_count for column in table.columns] == [2 * len(MISSING)] * 4


def test_types_come_from_the_whole_file(tmp_path):
    """The megabyte that pyarrow would look at first says less than the last line."""
    path = csv_of(tmp_path, "a,b,c\n" + "1,2,3\n" * 300_000 + "x,2.5,\n")
    with pytest.warns(SourceWarning, match=r"column 'a' is read as text, for it holds \"x\" besides 300000 numbers"):
        table = read(path)
    assert [str(kind) for kind in table.schema.types] == ["string", "double", "int64"]
    assert table.slice(300_000).to_pylist() == [{"a": "x", "b": 2.5, "c": None}]


def test_columns_that_are_text_whatever_they_look_like(tmp_path):
    path = csv_of(tmp_path, "zip,n\n01234,1\n00099,2\n,3\n")
    assert read(path)["zip"].to_pylist() == [1234, 99, None]
    assert read(path, text=["zip", "other"])["zip"].to_pylist() == ["01234", "00099", None]


def test_identifiers_are_numbers_where_these_are_written_as_they_stand_there(tmp_path):
    path = csv_of(tmp_path, "a,b,c,d\n1,007,-4,12345678901234567890\n20,8,,5\n")
    table = read(path, identifiers=["a", "b", "c", "d", "other"])
    assert table.to_pydict() == {
        "a": [1, 20],
        "b": ["007", "8"],
        "c": [-4, None],
        "d": ["12345678901234567890", "5"],
    }


def test_byte_order_mark_and_windows_lines(tmp_path):
    path = csv_of(tmp_path, b"\xef\xbb\xbfa,b\r\n1,x\r\n2,y\r\n")
    assert read(path).to_pydict() == {"a": [1, 2], "b": ["x", "y"]}


def test_row_names_are_passed_over(tmp_path):
    frame = pd.DataFrame({"a": [1.5, 2.5]}, index=[7, 9])
    frame.to_csv(tmp_path / "t.csv")
    with pytest.warns(SourceWarning, match=r"t\.csv: the first column has no name and is passed over"):
        assert read(tmp_path / "t.csv").to_pydict() == {"a": [1.5, 2.5]}
    frame.to_parquet(tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet").to_pydict() == {"a": [1.5, 2.5]}


def test_text_that_would_read_as_missing(tmp_path):
    table = pa.table({"country": ["NA", "CH"]})
    with pytest.warns(SourceWarning, match=r"column 'country' holds \"NA\".*parquet keeps it apart"):
        write([table], tmp_path / "t.csv")
    write([table], tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet") == table


PARQUET = io.BytesIO()
pyarrow.parquet.write_table(MIXED, PARQUET)

BAD_FILES = {
    "too few": ("a,b\n1,2\n\n3\n4,5\n", r"t\.csv, line 4: expected 2 entries as in the header, found 1: \"3\"$"),
    "too many": ("a,b\n1,2\n3,4,5\n", r"line 3: expected 2 entries as in the header, found 3: \"3,4,5\"$"),
    "after a long entry": ('a,b\n1,"2\n\n2"\n3\n', "line 5: expected 2"),
    "a long line": ("a,b\n" + "1," * 100 + "\n", r"found 101: \"1,1,.*…\"$"),
    "an open quote": ('a,b\n1,2\n3,"4\n5,6\n7,8\n', "line 3: a quotation mark is opened and not closed"),
    "a quote in the middle": ('a,b\n1,"x"y\n2,"\n', "line 2: a quotation mark"),
    "empty": ("", r"t\.csv is empty; expected a header and rows"),
    "blank": ("\n\n", r"t\.csv: "),
    "a header only": ("a,b\n", "has columns, but no rows"),
    "not UTF-8": ("a,b\n1,Zürich\n".encode("latin1"), "column 'b' is not UTF-8; save the file in that encoding"),
    "a header not UTF-8": ("a,Größe\n1,2\n".encode("latin1"), "names of its columns are not UTF-8"),
    "UTF-16": ("a,b\n1,2\n".encode("utf-16"), r"is no UTF-8 text: it begins with b'\\xff\\xfea"),
    "binary": (bytes(range(256)), "is no UTF-8 text"),
    "semicolons": ("a;b\n1;2\n", "the columns seem separated by ';'; expected commas"),
    "tabs": ("a\tb\n1\t2\n", r"separated by '\\t'"),
    "parquet": (PARQUET.getvalue(), r"t\.csv is a parquet file, whatever its name says"),
    "gzip": (gzip.compress(b"a\n1\n"), r"t\.csv is compressed, whatever its name says; rename it to \.csv\.gz"),
    "csv, as gz": ("a\n1\n", r"is not compressed, whatever its name says; rename it to \.csv$", "t.csv.gz"),
    "cut gz": (gzip.compress(b"a\n1\n" * 99)[:-9], "is damaged: it cannot be unpacked", "t.csv.gz"),
    "csv, as parquet": (
        "a,b\n1,2\n",
        r"is no parquet file, whatever its name says: it begins with b'a,b",
        "t.parquet",
    ),
    "cut parquet": (PARQUET.getvalue()[:300], r"t\.parquet is damaged: ", "t.parquet"),
    "another format": ("{}", r"t\.json: expected \.csv, \.csv\.gz or \.parquet", "t.json"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files(case, tmp_path):
    text, message, *name = BAD_FILES[case]
    path = csv_of(tmp_path, text, *name)
    with pytest.raises(SourceError, match=message) as error:
        read(path)
    assert "\n" not in str(error.value)


def test_odd_quotes_that_are_no_mistake(tmp_path):
    path = csv_of(tmp_path, 'size,n\n5" pipe,1\n6 pipe,2\n')
    assert read(path)["size"].to_pylist() == ['5" pipe', "6 pipe"]


def test_where_nothing_is_to_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*t\.csv"):
        read(tmp_path / "t.csv")
    with pytest.raises(IsADirectoryError, match="is a folder; expected a file"):
        read(tmp_path)
    with pytest.raises(SourceError, match="standard input is empty"):
        read(io.BytesIO())


def test_where_nothing_can_be_written(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the folder .*no does not exist; create it first"):
        check_target(tmp_path / "no" / "t.csv")
    with pytest.raises(IsADirectoryError, match="is a folder; expected the name of a file"):
        check_target(tmp_path)
    with pytest.raises(SourceError, match=r"t\.txt: expected .csv, .csv.gz or .parquet"):
        check_target(tmp_path / "t.txt")
    with pytest.raises(SourceError, match="named as csv, but format='parquet' was asked for"):
        check_target(tmp_path / "t.csv", "parquet")
    with pytest.raises(SourceError, match="format='json': expected one of"):
        check_target(tmp_path / "t.txt", "json")
    assert check_target(tmp_path / "t.txt", "parquet") == "parquet"
    assert check_target(io.BytesIO()) == "csv"


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.parquet"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_file_is_complete_or_not_there(name, error, tmp_path):
    def pieces():
        yield MIXED
        raise error

    for before in (set(), {name}):
        if before:
            write([MIXED], tmp_path / name)
        with pytest.raises(error):
            write(pieces(), tmp_path / name)
        assert {path.name for path in tmp_path.iterdir()} == before
        if before:
            assert read(tmp_path / name).to_pydict() == MIXED.to_pydict()


def test_what_is_replaced_by_a_file(tmp_path):
    write([MIXED], tmp_path / "old.csv")
    (tmp_path / "link.csv").symlink_to(tmp_path / "old.csv")
    write([MIXED.slice(0, 2)], tmp_path / "link.csv")
    assert (tmp_path / "link.csv").is_symlink()
    assert len(read(tmp_path / "old.csv")) == 2
    assert len(read(tmp_path / "link.csv")) == 2
    # What is no file is written to, and stays what it is.
    write([MIXED], "/dev/null", "csv")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_pieces_get_the_types_of_the_first(tmp_path):
    first, second = pa.table({"a": [1.5], "b": [None]}), pa.table({"a": [2], "b": [None]})
    write([first, second], tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet")["a"].to_pylist() == [1.5, 2.0]


@pytest.mark.parametrize(
    "rows",
    [
        np.array([[1.0, 2.0], [np.nan, 3.0]]),
        pd.DataFrame({"a": [1.0, None], "b": [2.0, 3.0]}, index=[5, 3]),
        pl.DataFrame({"a": [1.0, None], "b": [2.0, 3.0]}),
        pa.table({"a": [1.0, None], "b": [2.0, 3.0]}),
    ],
    ids=["numpy", "pandas", "polars", "pyarrow"],
)
def test_answers_as_tables(rows):
    assert as_arrow(rows, ["a", "b"]).to_pydict() == {"a": [1.0, None], "b": [2.0, 3.0]}


def test_arrays_of_objects_and_of_one_column():
    table = as_arrow(np.array([["x", 1], [None, 2]], dtype=object), ["a", "b"])
    assert table.to_pydict() == {"a": ["x", None], "b": [1, 2]}
    assert as_arrow(np.array([0.5, 1.5], np.float32), ["a"]).to_pydict() == {"a": [0.5, 1.5]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A table in two formats, with an id besides."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    x = rng.normal(size=60).round(3)
    codes = rng.choice(["007", "011", "100"], 60)
    table = pa.table({"id": np.arange(60), "x": x, "y": (x + rng.normal(size=60)).round(3), "code": codes})
    for name in ("all.csv", "all.parquet"):
        write([table], folder / name)
    for name in ("part.csv", "part.parquet"):
        write([table.drop_columns(["id"])], folder / name)
    write([table.drop_columns(["y"])], folder / "less.csv")
    return folder


def small():
    return VAE(latent_dim=2, hidden_sizes=(8,), max_epochs=2, random_state=0)


def test_an_estimator_takes_paths(folder):
    vae = small().fit(folder / "part.parquet")
    same = small().set_params(column_kinds={"code": "categorical"}).fit(str(folder / "part.csv"))
    assert vae.schema_.columns[2].levels == same.schema_.columns[2].levels == ("007", "011", "100")
    assert vae.feature_names_in_.tolist() == ["x", "y", "code"]
    table = read(folder / "part.parquet")
    expected = vae.transform(table)
    # A column that was text stays text, and one that is not asked for is passed over.
    for name in ("part.parquet", "part.csv", "all.csv", "all.parquet"):
        np.testing.assert_array_equal(vae.transform(folder / name), expected)
        np.testing.assert_array_equal(same.transform(folder / name), expected)
    assert vae.reconstruct(folder / "all.csv").column_names == ["x", "y", "code"]
    assert vae.score(folder / "all.csv") == vae.score(table)
    assert len(vae.partial_fit(folder / "all.csv").history_) == 3
    with pytest.raises(ColumnError, match="column 'y' is missing; the file has 'id', 'x', 'code'"):
        vae.transform(folder / "less.csv")


def test_latents_and_validation_rows_from_files(folder, tmp_path):
    vae = small().fit(folder / "part.parquet", validation_data=folder / "all.csv")
    assert vae.history_.info["n_validation"] == 60
    write([as_arrow(vae.transform(folder / "all.csv"), ["a", "b"])], tmp_path / "z.csv")
    assert vae.inverse_transform(tmp_path / "z.csv") == vae.reconstruct(folder / "all.csv")
