"""Conditions as a caller gives them: met exactly, in every kind of frame, and refused with a reason."""

import datetime as dt
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import skvae
from skvae.exceptions import ColumnError, SamplingWarning

N = 40


def frame(n=400, seed=0):
    rng = np.random.default_rng(seed)
    grade = rng.integers(3, size=n)
    day = np.datetime64("2024-01-01", "us") + rng.integers(0, 90, n) * np.timedelta64(86_400_000_000, "us")
    income = rng.normal(30 + 10 * grade, 3)
    return pd.DataFrame(
        {
            "sex": rng.choice(["F", "M"], n),
            "age": rng.integers(18, 70, n),
            "city": rng.choice(["Bern", "Rome", "Oslo", "Lima"], n),
            "grade": pd.Categorical.from_codes(grade, ["low", "mid", "high"], ordered=True),
            "day": day,
            "income": np.where(rng.random(n) < 0.1, np.nan, income.round(2)),
            "ratio": rng.normal(size=n),
            "smokes": rng.random(n) < 0.3,
            "planet": "Earth",
        }
    )


@pytest.fixture(scope="module")
def vae():
    likelihood = {"integer": "gaussian", "continuous": "gaussian", "date": "gaussian"}
    likelihood["integer"] = skvae.Gaussian("row", rounded=True)
    return skvae.VAE(
        latent_dim=3, hidden_sizes=(32,), max_epochs=100, learning_rate=1e-2, likelihood=likelihood, random_state=0
    ).fit(frame())


def sample(vae, conditions, n=N, seed=0):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)  # a model so small may find anything rare
        return vae.sample(n, conditions=conditions, random_state=seed)


APRIL = dt.date(2024, 3, 1)
MET = {
    "level": ({"sex": "F"}, lambda X: X.sex == "F"),
    "number": ({"age": 33}, lambda X: X.age == 33),
    "number of another type": ({"age": np.float32(33)}, lambda X: X.age == 33),
    "decimal": ({"income": 41.37}, lambda X: X.income == 41.37),
    "float": ({"ratio": 0.1}, lambda X: X.ratio == 0.1),
    "truth": ({"smokes": True}, lambda X: X.smokes),
    "date": ({"day": APRIL}, lambda X: X.day == pd.Timestamp(APRIL)),
    "date as text": ({"day": "2024-02-29"}, lambda X: X.day == pd.Timestamp("2024-02-29")),
    "timestamp": ({"day": pd.Timestamp("2024-02-29")}, lambda X: X.day == pd.Timestamp("2024-02-29")),
    "set of levels": ({"city": {"Bern", "Oslo"}}, lambda X: X.city.isin(["Bern", "Oslo"])),
    "set of numbers": ({"age": {20, 30, 40}}, lambda X: X.age.isin([20, 30, 40])),
    "set of floats": ({"ratio": frozenset({0.1, -0.7})}, lambda X: X.ratio.isin([0.1, -0.7])),
    "range of whole numbers": ({"age": (30, 39)}, lambda X: X.age.between(30, 39)),
    "range between whole numbers": ({"age": (29.5, 31.9)}, lambda X: X.age.between(30, 31)),
    "one value as a range": ({"age": (30, 30)}, lambda X: X.age == 30),
    "range of decimals": ({"income": (40, 40.5)}, lambda X: X.income.between(40, 40.5)),
    "range of floats": ({"ratio": (0.123456789, 0.2)}, lambda X: X.ratio.between(0.123456789, 0.2)),
    "open range": ({"age": (60, None)}, lambda X: X.age >= 60),
    "range beyond the data": ({"age": (None, 25)}, lambda X: X.age <= 25),
    "infinite end": ({"ratio": (1.0, np.inf)}, lambda X: X.ratio >= 1),
    "range of dates": (
        {"day": ("2024-02-01", dt.datetime(2024, 2, 9))},
        lambda X: X.day.between("2024-02-01", "2024-02-09"),
    ),
    "range of ordered levels": ({"grade": ("mid", None)}, lambda X: X.grade >= "mid"),
    "range of truth values": ({"smokes": (1, 1)}, lambda X: X.smokes),
    "constant": ({"planet": "Earth"}, lambda X: X.planet == "Earth"),
    "missing": ({"income": None}, lambda X: X.income.isna()),
    "several": (
        {"sex": "M", "age": (30, 50), "grade": {"low", "high"}, "income": None},
        lambda X: (X.sex == "M") & X.age.between(30, 50) & (X.grade != "mid") & X.income.isna(),
    ),
    "none": ({}, lambda X: X.age > 0),
}


@pytest.mark.parametrize("name", MET)
def test_conditions_are_met(vae, name):
    conditions, holds = MET[name]
    X = sample(vae, conditions)
    assert len(X) == N
    assert holds(X).all()
    assert (X.dtypes == frame(5).dtypes.where(X.dtypes != "str", X.dtypes)).all()
    # Whatever is asked of some columns, the others vary.
    free = [column for column in ("age", "ratio", "day") if column not in conditions]
    assert (X[free].nunique() > 5).all()


REFUSED = {
    "column": ({"height": 3}, "column 'height', which the model does not have"),
    "level": ({"city": "Paris"}, "column 'city' is to be \"Paris\".*Bern"),
    "level of a set": ({"city": {"Bern", "Paris"}}, "column 'city' is to be \"Paris\""),
    "empty set": ({"city": set()}, "column 'city'.*empty set"),
    "list": ({"city": ["Bern"]}, "column 'city'.*text"),
    "level of another type": ({"city": 3}, "column 'city' is to be 3.*text"),
    "text for a number": ({"age": "old"}, "column 'age' is to be 'old'.*numbers"),
    "text for a date": ({"day": "soon"}, "column 'day' is to be 'soon'.*dates"),
    "number for a date": ({"day": 3}, "column 'day' is to be 3.*dates"),
    "NaN": ({"income": np.nan}, "column 'income'.*None is for a missing entry"),
    "infinity": ({"income": np.inf}, "column 'income' is to be inf"),
    "fraction": ({"age": 30.5}, "column 'age' is to be 30.5.*whole"),
    "value beyond": ({"age": 200}, "column 'age' is to be 200.*18 to 69"),
    "range beyond": ({"age": (100, 120)}, "column 'age'.*18 to 69"),
    "range upside down": ({"age": (40, 30)}, "column 'age' is to be in \\(40, 30\\)"),
    "range between neighbours": ({"age": (30.2, 30.8)}, "column 'age'.*steps of 1"),
    "range of three": ({"age": (30, 40, 50)}, "column 'age'.*\\(low, high\\)"),
    "range of levels without order": ({"city": ("Bern", "Oslo")}, "column 'city'.*no order"),
    "ordered levels upside down": ({"grade": ("high", "low")}, "column 'grade'.*no level"),
    "no missing entries": ({"age": None}, "column 'age' is to be missing"),
    "another constant": ({"planet": "Mars"}, "column 'planet' is to be \"Mars\""),
}


@pytest.mark.parametrize("name", REFUSED)
def test_impossible_conditions_are_refused(vae, name):
    conditions, words = REFUSED[name]
    with pytest.raises(ColumnError, match=words):
        vae.sample(5, conditions=conditions)


@pytest.mark.parametrize("to", [pl.from_pandas, pa.Table.from_pandas], ids=["polars", "arrow"])
def test_other_frames(vae, to):
    other = skvae.VAE(**vae.get_params()).set_params(max_epochs=1).fit(to(frame()))
    X = sample(other, {"sex": "F", "age": (30, 39), "income": None, "day": APRIL}, 10)
    assert type(X) is type(to(frame()))
    X = X.to_pandas()
    assert (X.sex == "F").all()
    assert X.age.between(30, 39).all()
    assert X.income.isna().all()
    assert (pd.to_datetime(X.day) == pd.Timestamp(APRIL)).all()


def test_columns_of_an_array_go_by_name_or_position():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3))
    X[::9, 1] = np.nan
    vae = skvae.VAE(latent_dim=1, hidden_sizes=(8,), max_epochs=2, likelihood="gaussian", random_state=0).fit(X)
    new = sample(vae, {0: 0.25, "x1": None, -1: (0, None)})
    assert (new[:, 0] == 0.25).all()
    assert np.isnan(new[:, 1]).all()
    assert (new[:, 2] >= 0).all()
    with pytest.raises(ColumnError, match="column 3"):
        vae.sample(conditions={3: 0.0})


def test_the_seed_and_the_report(vae):
    conditions = {"grade": "high"}
    one, report = vae.sample(N, conditions=conditions, random_state=0, return_report=True)
    pd.testing.assert_frame_equal(one, sample(vae, conditions))
    assert not one.equals(sample(vae, conditions, seed=1))
    assert report.n_samples == N
    assert report.log_probability == pytest.approx(np.log((frame().grade == "high").mean()), abs=0.3)
    unconditional, report = vae.sample(N, random_state=0, return_report=True)
    assert len(unconditional) == N
    assert report.log_probability == 0


def test_pieces_make_a_whole(vae, monkeypatch):
    monkeypatch.setattr("skvae.estimators.conditions._ROWS_AT_ONCE", 30)
    X, report = vae.sample(70, conditions={"sex": "F"}, return_report=True, random_state=0)
    assert len(X) == report.n_samples == 70
    assert (X.sex == "F").all()
    assert X.ratio.nunique() == 70


def test_means_are_of_free_columns_alone(vae):
    X = vae.sample(N, conditions={"age": (20, 60), "sex": "F"}, decode="mean", random_state=0)
    assert X.age.between(20, 60).all()
    assert (X.sex == "F").all()
    drawn = vae.sample(N, conditions={"age": (20, 60), "sex": "F"}, random_state=0)
    pd.testing.assert_series_equal(X.age, drawn.age)
    assert (X.ratio != drawn.ratio).mean() > 0.9  # the others are at the bounds of the column


def test_what_was_learned_is_used(vae):
    """Income grows with the grade."""
    assert sample(vae, {"grade": "high"}, 200).income.mean() > sample(vae, {"grade": "low"}, 200).income.mean() + 10
    assert (sample(vae, {"income": (55, None)}, 200).grade == "high").mean() > 0.8


def test_few_latents_are_warned_of(vae, monkeypatch):
    monkeypatch.setattr("skvae.estimators.conditions._MIN_EFFECTIVE", 10**9)
    with pytest.warns(SamplingWarning, match="sex='F'.*independent draws"):
        vae.sample(5, conditions={"sex": "F"}, random_state=0)


def test_conditions_that_exclude_each_other(vae, monkeypatch):
    from skvae.inference.conditional_sampling import Impossible

    def refuse(*args, **kwargs):
        raise Impossible

    monkeypatch.setattr("skvae.estimators.conditions.sample_given", refuse)
    with pytest.raises(ValueError, match=r"sex='F', age=20.*exclude each other"):
        vae.sample(5, conditions={"sex": "F", "age": 20})


@pytest.mark.parametrize("to", [lambda X: X, pl.from_pandas, pa.Table.from_pandas], ids=["pandas", "polars", "arrow"])
def test_partial_rows_are_completed(vae, to):
    partial = frame(6, 1)[["grade", "income", "sex"]]
    partial.loc[0, "grade"] = np.nan
    X = vae.sample(3, conditions=to(partial), random_state=0)
    assert list(X.columns) == list(frame(5).columns)
    assert len(X) == 18
    repeated = pd.concat([partial] * 3, ignore_index=True)
    for name in partial:
        present = repeated[name].notna().to_numpy()
        assert (X[name].to_numpy()[present] == repeated[name].to_numpy()[present]).all()
    assert X.notna().all().all()
    assert X.ratio.nunique() == 18
    pd.testing.assert_frame_equal(X, vae.sample(3, conditions=to(partial), random_state=0))


@pytest.mark.parametrize(
    ("partial", "words"),
    [
        (pd.DataFrame({"height": [1]}), "column 'height'"),
        (pd.DataFrame({"city": ["Paris"]}), "level not seen at fit"),
        (pd.DataFrame({"age": ["old"]}), "holds text"),
    ],
)
def test_partial_rows_are_checked(vae, partial, words):
    with pytest.raises(ColumnError, match=words):
        vae.sample(conditions=partial)


@pytest.mark.parametrize("conditions", [["age", 30], 30, [{"age": 30}], np.zeros(3)], ids=str)
def test_what_is_no_conditions(vae, conditions):
    with pytest.raises(ValueError, match=r"expected a dict, such as {'sex': …}, or a data frame of partial rows"):
        vae.sample(conditions=conditions)


def test_images_take_no_conditions():
    X = np.random.default_rng(0).integers(0, 255, size=(20, 4, 4), dtype=np.uint8)
    vae = skvae.VAE(image_shape=(4, 4), latent_dim=1, hidden_sizes=(4,), max_epochs=1, random_state=0).fit(X)
    for conditions in ({"x0": 3}, {0: 3}, X.reshape(20, 16)):
        with pytest.raises(ValueError, match=r"this is a model of images; complete images .* with `impute`"):
            vae.sample(conditions=conditions)


@pytest.mark.parametrize("n", [0, -1, 2.5, True, "3", None])
def test_numbers_of_rows_that_are_none(vae, n):
    for ask in (vae.sample, vae.sample_batches):
        with pytest.raises(ValueError, match=f"n_samples={n!r}: expected a whole number ≥ 1"):
            ask(n)
    with pytest.raises(ValueError, match=f"batch_size={n!r}: expected a whole number ≥ 1"):
        vae.sample_batches(5, batch_size=n)


def test_ten_million_rows_come_batch_by_batch(vae):
    """Each is made when it is asked for, and none holds more rows than it may."""
    batches = vae.sample_batches(10_000_000, random_state=0)
    first, second = next(batches), next(batches)
    assert len(first) == len(second) == 16_384
    assert not first.equals(second)
    pd.testing.assert_frame_equal(first, vae.sample(16_384, random_state=0))
    with pytest.raises(ValueError, match="conditions in batches are a dict"):
        vae.sample_batches(5, conditions=frame(3))
    with pytest.raises(ColumnError, match="column 'height'"):
        next(vae.sample_batches(5, conditions={"height": 3}))


def test_partial_rows_have_no_report(vae):
    with pytest.raises(ValueError, match="without a report"):
        vae.sample(conditions=frame(3), return_report=True)
