"""Columns that tell rows apart are named at fit, with what to do."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import skvae
from skvae import VAE, ColumnError, IdentifierWarning, Schema
from skvae.evaluation import quality_report

QUICK = {"max_epochs": 1, "hidden_sizes": (4,), "likelihood": {"integer": "gaussian"}, "random_state": 0}
X = pd.DataFrame({"x": np.random.default_rng(0).normal(size=60), "id": [f"u{i}" for i in range(60)]})


def test_identifiers_are_named_at_fit():
    with pytest.warns(
        IdentifierWarning, match=r"column 'id' looks like an identifier.*\"u0\".*drop it.*'categorical'"
    ):
        VAE(**QUICK).fit(X)
    numbers = X.assign(id=np.arange(60))
    with pytest.warns(IdentifierWarning, match=r"column 'id'.*column_kinds=\{'id': 'integer'\}"):
        VAE(**QUICK).fit(numbers)
    text = X.assign(id=[f"a customer wrote {i} things" for i in range(60)])
    with pytest.warns(IdentifierWarning, match="column 'id' looks like free text.*column_kinds={'id': 'identifier'}"):
        VAE(**QUICK).fit(text)


def test_what_was_asked_for_is_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        VAE(**QUICK).fit(X[["x"]])
        VAE(**QUICK, column_kinds={"id": "categorical"}).fit(X)
        VAE(**QUICK, column_kinds={"id": "identifier"}).fit(X)


N = 60
KINDS = {"number": "identifier", "text": "identifier"}


def table():
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"number": np.arange(7000, 7000 + 3 * N, 3), "x": rng.normal(size=N)})
    frame["text"] = [f"wrote {k:x} letters to u{k * k}" for k in range(N)]
    return frame.assign(level=rng.choice(["p", "q"], N))


CONTAINERS = {
    "pandas": lambda frame: frame,
    "pandas nullable": lambda frame: frame.convert_dtypes(),
    "pandas arrow": lambda frame: frame.convert_dtypes(dtype_backend="pyarrow"),
    "pandas category": lambda frame: frame.astype({"number": "category", "text": "category"}),
    "polars": lambda frame: pl.from_pandas(frame),
    "polars categorical": lambda frame: pl.from_pandas(frame).with_columns(pl.col("text").cast(pl.Categorical)),
    "arrow": lambda frame: pl.from_pandas(frame).to_arrow(),
    "arrow dictionary": lambda frame: pa.table(frame).set_column(2, "text", pa.array(frame.text).dictionary_encode()),
    "objects": lambda frame: frame.to_numpy(dtype=object),
    "text array": lambda frame: frame[["text", "level"]].to_numpy(dtype="U"),
}


def column(rows, name):
    """Plain entries of a column of any container; of arrays by the order of `table`."""
    if isinstance(rows, np.ndarray):
        order = {2: ["text", "level"], 4: ["number", "x", "text", "level"]}[rows.shape[1]]
        return rows[:, order.index(name)].tolist()
    return rows[name].to_pylist() if isinstance(rows, pa.Table) else rows[name].to_list()


def has_number(rows):
    return not isinstance(rows, np.ndarray) or rows.shape[1] == 4


@pytest.mark.parametrize("container", CONTAINERS)
def test_identifiers_are_passed_through_or_made_afresh(container, tmp_path):
    rows = CONTAINERS[container](table())
    position = {0: "identifier", 2: "identifier"} if has_number(rows) else {0: "identifier"}
    kinds = position if isinstance(rows, np.ndarray) else KINDS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vae = VAE(**QUICK, column_kinds=kinds).fit(rows)
    vae.save(tmp_path / "m.vae")
    loaded = skvae.load(tmp_path / "m.vae")
    assert loaded.schema_ == vae.schema_ == Schema.from_json(vae.schema_.to_json())
    for answer in (vae.reconstruct(rows), vae.impute(rows), vae.impute(rows, n_imputations=2)[1]):
        assert type(answer) is type(rows)
        assert column(answer, "text") == column(rows, "text")
        if has_number(rows):
            assert column(answer, "number") == column(rows, "number")
    new = loaded.sample(200, random_state=0)
    made_of_nothing = vae.inverse_transform(np.zeros((200, vae.model_.latent_dim)))
    name = "x0" if not has_number(rows) else "x2" if isinstance(rows, np.ndarray) else "text"
    for answer in (new, made_of_nothing):
        assert type(answer) is type(rows)
        assert column(answer, "text") == [f"{name}-{k}" for k in range(1, 201)]
        if has_number(rows):
            assert column(answer, "number") == list(range(7000 + 3 * N - 2, 7000 + 3 * N + 198))
    if isinstance(rows, pd.DataFrame):
        assert (new.dtypes == rows.dtypes).drop(["number", "text"]).all()
        assert [str(dtype) for dtype in new.dtypes] == [str(dtype) for dtype in rows.dtypes]
    if isinstance(rows, pl.DataFrame):
        assert new.schema == rows.schema


def test_identifiers_change_nothing_else():
    rows = table()
    with_them = VAE(**QUICK, column_kinds=KINDS).fit(rows)
    without = VAE(**QUICK).fit(rows.drop(columns=["number", "text"]))
    others = rows.assign(number=-1, text="the same")
    for question in ("transform", "score_samples", "elbo"):
        expected = getattr(without, question)(rows[["x", "level"]])
        np.testing.assert_array_equal(getattr(with_them, question)(rows), expected)
        np.testing.assert_array_equal(getattr(with_them, question)(others), expected)
    pd.testing.assert_frame_equal(
        with_them.sample(20, random_state=0)[["x", "level"]], without.sample(20, random_state=0)
    )


def test_nothing_of_an_identifier_is_saved(tmp_path):
    rows = table().assign(number=[30_517_733_179 + 791_911 * k for k in range(N)])
    VAE(**QUICK, column_kinds=KINDS).fit(rows).save(tmp_path / "m.vae")
    written = b"".join(path.read_bytes() for path in (tmp_path / "m.vae").rglob("*") if path.is_file())
    for entry in [*rows.text, *rows.number]:
        assert str(entry).encode() not in written


def test_new_identifiers_are_none_of_the_old():
    rows = table().assign(text=[f"text-{k}" if k % 2 else f"new-text-{k}" for k in range(N)])
    vae = VAE(**QUICK, column_kinds=KINDS).fit(rows)
    assert vae.sample(2).text.tolist() == ["new2-text-1", "new2-text-2"]
    batches = list(vae.sample_batches(50, batch_size=20, random_state=3))
    assert [len(batch) for batch in batches] == [20, 20, 10]
    together = pd.concat(batches)
    assert together.text.is_unique
    assert together.number.tolist() == list(range(7178, 7228))
    pd.testing.assert_frame_equal(batches[0], vae.sample(20, random_state=3))
    assert together.x.nunique() > 45
    given = list(vae.sample_batches(30, batch_size=20, conditions={"level": "p"}, random_state=3))
    assert (pd.concat(given).level == "p").all()
    assert pd.concat(given).number.is_unique


def test_holes_stay_holes_where_the_type_has_them():
    rows = pl.from_pandas(table())
    vae = VAE(**QUICK, column_kinds=KINDS).fit(rows)
    holes = rows.with_columns(pl.when(pl.col("number") > 7010).then(pl.col("number")).alias("number"), x=None)
    filled = vae.impute(holes)
    assert filled["number"].to_list() == [None] * 4 + rows["number"].to_list()[4:]
    assert filled["x"].null_count() == 0
    assert vae.reconstruct(holes)["number"].to_list() == filled["number"].to_list()
    whole = VAE(**QUICK, column_kinds=KINDS).fit(table())
    with pytest.raises(ColumnError, match=r"column 'number' lacks an identifier \(row 2\).*\(int64\) cannot.*Int64"):
        whole.impute(table().assign(number=lambda frame: frame.number.where(frame.number != 7006)))


def test_partial_rows_keep_theirs_and_get_new_ones_where_they_have_none():
    vae = VAE(**QUICK, column_kinds=KINDS).fit(table())
    done = vae.sample(2, conditions=pd.DataFrame({"level": ["p", "q"], "text": ["a", "b"]}), random_state=0)
    assert done.text.tolist() == ["a", "b", "a", "b"]
    assert done.number.tolist() == [7178, 7179, 7180, 7181]


@pytest.mark.parametrize("what", ["u5", None, {"a", "b"}, ("a", "b")])
def test_conditions_on_identifiers_are_refused(what):
    vae = VAE(**QUICK, column_kinds=KINDS).fit(table())
    with pytest.raises(ColumnError, match=r"column 'text' is to be .* it is an identifier, which is not modelled"):
        vae.sample(3, conditions={"text": what})


REFUSED = {
    "numbers with decimals": ({"number": np.arange(N) + 0.5}, "holds 0.5 .*text or a whole number"),
    "truth values": ({"number": [True, False] * 30}, "holds True .*text or a whole number"),
    "dates": ({"number": pd.Timestamp("2024-01-01")}, "holds 2024-01-01.*text or a whole number"),
    "numbers too large for a float": ({"number": np.arange(N) * 1e15}, "below 2.53"),
    "ordered categories": (
        {"number": pd.Categorical([f"{k}" for k in range(N)], ordered=True)},
        "ordered or fixed levels.*convert it to text",
    ),
    "nothing": ({"number": np.nan}, "no observed value"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_columns_that_are_no_identifiers(case):
    change, message = REFUSED[case]
    with pytest.raises(ColumnError, match=f"column 'number' .*{message}"):
        VAE(**QUICK, column_kinds=KINDS).fit(table().assign(**change))


def test_a_type_too_narrow_for_new_identifiers():
    rows = table().assign(number=np.arange(60, dtype=np.int8))
    vae = VAE(**QUICK, column_kinds=KINDS).fit(rows)
    assert vae.sample(68).number.tolist() == list(range(60, 128))
    with pytest.raises(ColumnError, match=r"column 'number' \(int8\) has no room for 69 new identifiers from 60 on"):
        vae.sample(69)


def test_large_identifiers_stay_exact():
    rows = table().assign(number=np.arange(N, dtype=np.uint64) + 2**63)
    vae = VAE(**QUICK, column_kinds=KINDS).fit(rows)
    assert vae.reconstruct(rows).number.tolist() == rows.number.tolist()
    assert vae.sample(2).number.tolist() == [2**63 + 60, 2**63 + 61]


def test_nothing_but_identifiers():
    with pytest.raises(ColumnError, match=r"'number' is an identifier \(new ones 7178, …\) and so is every other"):
        VAE(**QUICK, column_kinds=KINDS).fit(table()[["number", "text"]])
    with pytest.raises(ColumnError, match=r"'number' is an identifier .* every other column is constant or an"):
        VAE(**QUICK, column_kinds=KINDS).fit(table()[["number", "text"]].assign(one=1))


def test_the_schema_shows_what_new_ones_look_like():
    shown = repr(VAE(**QUICK, column_kinds=KINDS).fit(table()).schema_)
    assert re.search(r"number +identifier +int64 +new ones 7178, …", shown)
    assert re.search(r"text +identifier +str +new ones text-1, …", shown)


def test_in_every_estimator():
    rows, y = table(), np.arange(N) % 2
    params = QUICK | {"column_kinds": KINDS}
    for model in (
        skvae.VAERegressor(**params).fit(rows, y + 0.1 * rows.x),
        skvae.VAEClassifier(**params, structure="joint").fit(rows, y),
        skvae.VAEClassifier(**params, structure="m1+m2").fit(rows, y),
    ):
        assert model.sample(3, y=1)[0].number.tolist() == [7178, 7179, 7180]
        moved = model.traverse(rows.iloc[5:8], [0, 1])[1]
        pd.testing.assert_frame_equal(moved[["number", "text"]], rows[["number", "text"]].iloc[5:8])
    more, labels = skvae.VAEOversampler(**params).fit_resample(rows, y * (np.arange(N) < 20))
    assert len(more) == 2 * (labels == 0).sum()
    assert more.number.is_unique
    assert more.text.is_unique
    filled = skvae.VAEImputer(**params).fit_transform(rows.assign(x=rows.x.where(rows.x > 0)))
    pd.testing.assert_frame_equal(filled[["number", "text"]], rows[["number", "text"]])
    detector = skvae.VAEOutlierDetector(**params).fit(rows)
    assert (detector.explain(rows)[["number", "text"]] == 0).all(axis=None)
    clusters = skvae.VAEClusterer(**params, n_clusters=2).fit(rows)
    assert clusters.sample(2, cluster=1).number.tolist() == [7178, 7179]


def test_files(tmp_path):
    """Numbers that would not be written again as they stand there are text, for what is kept must be the same."""
    for digits, expected in ((1, [60, 61]), (4, ["number-1", "number-2"])):
        rows = table().assign(number=[f"{k:0{digits}d}" for k in range(N)])
        rows.to_csv(tmp_path / "t.csv", index=False)
        vae = VAE(**QUICK, column_kinds=KINDS).fit(tmp_path / "t.csv")
        assert vae.sample(2)["number"].to_pylist() == expected
        same = [str(entry) for entry in vae.reconstruct(tmp_path / "t.csv")["number"].to_pylist()]
        assert same == rows.number.tolist()


def test_the_quality_report_leaves_them_out():
    rows = table().assign(number=np.arange(N) // 2)  # which repeat, so that they are not recognised
    vae = VAE(**QUICK, column_kinds=KINDS).fit(rows)
    report = quality_report(rows, vae.sample(N, random_state=0), column_kinds=KINDS)
    assert report.left_out == ("number", "text")
    assert [column.name for column in report.columns] == ["x", "level"]
