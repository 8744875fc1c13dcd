"""Columns that say the same as another in other words."""

import numpy as np
import pandas as pd
import pytest
import torch

import skvae
from skvae import ColumnError, ConstantColumnWarning
from skvae.data.columns import Kind
from skvae.data.schema import Schema
from skvae.data.table import read_table

NAMES, YEARS = ["school", "bachelor", "master", "doctor"], [9, 13, 14, 16]


def frame(n=600, seed=0):
    rng = np.random.default_rng(seed)
    code = rng.choice(4, size=n, p=[0.4, 0.3, 0.2, 0.1])
    return pd.DataFrame(
        {
            "years": np.array(YEARS)[code],
            "degree": np.array(NAMES)[code],
            "letter": np.array(["S", "B", "M", "D"])[code],
            "age": 20 + 3 * code + rng.normal(size=n),
        }
    )


def kinds(X, as_they_are=(), **column_kinds):
    schema = Schema.infer(read_table(X), column_kinds, as_they_are=as_they_are)
    return {column.name: str(column.kind) for column in schema.columns}


def test_the_first_column_of_levels_is_the_source():
    schema = Schema.infer(read_table(frame()), as_they_are=())
    assert [column.name for column in schema.modelled] == ["degree", "age"]
    years, degree, letter, _ = schema.columns
    assert years.source == letter.source == "degree"
    assert dict(zip(degree.levels, years.levels, strict=True)) == dict(zip(NAMES, YEARS, strict=True))
    assert dict(zip(degree.levels, letter.levels, strict=True))["doctor"] == "D"
    assert "follow degree: " in repr(schema)
    assert Schema.from_json(schema.to_json()) == schema


def odd_row(X):
    row = X.index[X["degree"] == "doctor"][-1]
    return X.assign(years=X["years"].where(X.index != row, 9))


def two_names(X):
    return X.assign(degree=X["degree"] + np.where(np.arange(len(X)) % 2, "", "'s"))


NOT_DERIVED = {
    "a row that breaks the rule": odd_row(frame()),
    "two names of one value": two_names(frame()),
    "a level of few rows": frame(60),
}


@pytest.mark.parametrize("case", NOT_DERIVED)
def test_what_is_not_derived(case):
    X = NOT_DERIVED[case].drop(columns="letter")
    assert kinds(X) == {"years": "integer", "degree": "categorical", "age": "continuous"}


def test_columns_asked_about_stay_what_they_are():
    assert kinds(frame(), as_they_are=["years"]) == {
        "years": "integer",
        "degree": "categorical",
        "letter": "derived",
        "age": "continuous",
    }
    assert kinds(frame(), years="integer", letter="categorical")["letter"] == "categorical"
    assert kinds(frame(), as_they_are=None)["years"] == "integer"
    asked = skvae.VAE(likelihood={"years": "poisson"}, max_epochs=1, random_state=0).fit(frame(200))
    assert [column.name for column in asked.schema_.modelled] == ["years", "degree", "age"]
    holes = frame(200).assign(age=lambda X: X["age"].where(X.index % 5 > 0))
    with_masks = skvae.VAE(missing="self-masking", max_epochs=1, random_state=0).fit(holes)
    assert len(with_masks.schema_.modelled) == 4
    with pytest.raises(ColumnError, match="'years' the kind 'derived'; expected one of"):
        skvae.VAE(column_kinds={"years": "derived"}).fit(frame())


def test_either_says_what_is_missing_in_the_other():
    X = frame()
    schema = Schema.infer(read_table(X), as_they_are=())
    holes = X.copy()
    holes.loc[::3, "degree"] = None
    holes.loc[1::3, ["years", "letter"]] = None
    rows = schema.encode(read_table(holes))
    assert rows.observed is None
    assert torch.equal(rows.values, schema.encode(read_table(X)).values)
    filled = schema.decode(rows.values, keep=read_table(holes.astype({"years": "float64"})))
    pd.testing.assert_frame_equal(filled[["years", "degree", "letter"]], X[["years", "degree", "letter"]])
    holes.loc[0, ["degree", "years", "letter"]] = None
    rows = schema.encode(read_table(holes))
    assert rows.observed[0].tolist() == [False, True]
    assert rows.observed[1:].all()


@pytest.fixture(scope="module")
def vae():
    X = frame()
    X.loc[::7, "degree"] = None
    return skvae.VAE(max_epochs=20, random_state=0).fit(X)


def test_generated_rows_keep_to_it(vae, tmp_path):
    pairs = dict(zip(NAMES, YEARS, strict=True))
    for rows in (
        vae.sample(300, random_state=0),
        vae.reconstruct(frame(seed=1)),
        vae.sample(50, conditions={"degree": "master"}, random_state=0),
        vae.sample(50, conditions={"years": (10, 14)}, random_state=0),
        vae.sample(50, conditions={"letter": {"S", "M"}, "years": (10, None)}, random_state=0),
        vae.sample(2, conditions=frame(seed=2)[["letter"]], random_state=0),
    ):
        assert (rows["degree"].map(pairs) == rows["years"]).all()
        assert rows["years"].dtype == np.int64
    assert set(vae.sample(50, conditions={"years": (10, 14)}, random_state=0)["degree"]) == {"bachelor", "master"}
    given = vae.sample(50, conditions={"letter": {"S", "M"}, "years": (10, None)}, random_state=0)
    assert set(given["degree"]) == {"master"}
    X = frame(seed=3).assign(degree=None)
    assert (vae.impute(X)["degree"].map(pairs) == X["years"]).all()
    vae.save(tmp_path / "model")
    again = skvae.load(tmp_path / "model")
    np.testing.assert_array_equal(again.transform(X), vae.transform(X))
    pd.testing.assert_frame_equal(again.sample(5, random_state=0), vae.sample(5, random_state=0))


def test_conditions_that_exclude_each_other(vae):
    with pytest.raises(
        ColumnError, match=r"no row of the data meets all of them, as columns \['degree', 'letter'\] say"
    ):
        vae.sample(5, conditions={"degree": "master", "letter": "S"})
    with pytest.raises(ColumnError, match="column 'years' is to be 10, but no entry was at fit"):
        vae.sample(5, conditions={"years": 10})
    with pytest.raises(ColumnError, match=r"column 'years' is to be in .*, but no level lies there"):
        vae.sample(5, conditions={"years": (10, 12)})


def test_rows_that_break_it_are_told_of(vae):
    X = frame(seed=4)
    X.loc[5, "years"] = 9 if X.loc[5, "years"] != 9 else 13
    with pytest.warns(ConstantColumnWarning, match="column 'years' followed 'degree' at fit and holds another value"):
        latents = vae.transform(X)
    np.testing.assert_array_equal(latents, vae.transform(frame(seed=4)))
    assert vae.schema_.columns[0].kind == Kind.DERIVED
    assert {i: np.flatnonzero(rows).tolist() for i, rows in vae.schema_.changed_entries(read_table(X)).items()} == {
        0: [5]
    }
    never_seen = X.assign(years=17)
    assert vae.schema_.changed_entries(read_table(never_seen))[0].all()
