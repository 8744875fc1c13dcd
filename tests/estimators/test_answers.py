"""What a fitted VAE answers, on one mixed table with holes in four containers."""

import datetime as dt
import math

import numpy as np
import pandas as pd
import polars as pl
import pytest

from skvae import VAE, ConstantColumnWarning, Gaussian

N = 80
GRADES = ["none", "low", "mid", "high"]  # "none" is declared and never occurs


def content(n=N, seed=0):
    """Columns of a mixed table as lists, None where an entry is missing."""
    rng = np.random.default_rng(seed)

    def with_holes(entries):
        return [None if missing else entry for entry, missing in zip(entries, rng.random(n) < 0.15, strict=True)]

    z = rng.normal(size=n)
    days = rng.integers(0, 900, n)
    return {
        "age": rng.integers(18, 90, n).tolist(),
        "children": with_holes(rng.poisson(2, n).tolist()),
        "income": with_holes(np.round(np.exp(7 + z), 2).tolist()),
        "height": (170 + 8 * z + rng.normal(size=n)).tolist(),
        "smokes": (z > 0).tolist(),
        "retired": with_holes((z > 0.5).tolist()),
        "city": with_holes(rng.choice(["Bern", "Genf", "Basel"], n).tolist()),
        "grade": with_holes(rng.choice(GRADES[1:], n).tolist()),
        "joined": with_holes([dt.date(2020, 1, 1) + dt.timedelta(int(day)) for day in days]),
        "country": ["CH"] * n,
    }


def to_pandas(columns):
    frame = pd.DataFrame(
        {
            "age": np.array(columns["age"], dtype="int32"),
            "children": pd.array(columns["children"], dtype="Int64"),
            "income": np.array(columns["income"], dtype=float),
            "height": np.array(columns["height"], dtype="float32"),
            "smokes": columns["smokes"],
            "retired": pd.array(columns["retired"], dtype="boolean"),
            "city": pd.array(columns["city"], dtype="str"),
            "grade": pd.Categorical(columns["grade"], GRADES, ordered=True),
            "joined": pd.to_datetime(pd.Series(columns["joined"])).to_numpy("datetime64[ns]"),
            "country": pd.array(columns["country"], dtype="str"),
        }
    )
    return frame.set_axis([f"row{i}" for i in range(len(frame))])


def to_polars(columns):
    return pl.DataFrame(columns, schema_overrides={"grade": pl.Enum(GRADES), "age": pl.Int16})


def to_numpy(columns):
    return np.array(list(zip(*columns.values(), strict=True)), dtype=object)


TABLES = {
    "pandas": to_pandas,
    "polars": to_polars,
    "pyarrow": lambda columns: to_polars(columns).to_arrow(),
    "numpy": to_numpy,
}
NAMES = list(content(2))


def small(**params):
    defaults = {"latent_dim": 2, "hidden_sizes": (8,), "max_epochs": 3, "random_state": 0}
    return VAE(**defaults | params)


@pytest.fixture(scope="module", params=TABLES)
def case(request):
    X = TABLES[request.param](content())
    return X, small().fit(X)


@pytest.fixture(scope="module")
def frame():
    return to_pandas(content())


@pytest.fixture(scope="module")
def vae(frame):
    return small().fit(frame)


def entries(table, name):
    """A column as a list of plain values, None where missing."""
    if isinstance(table, np.ndarray):
        column = table[:, NAMES.index(name)].tolist()
    elif isinstance(table, pd.DataFrame):
        column = table[name].astype(object).tolist()
    elif isinstance(table, pl.DataFrame):
        column = table[name].to_list()
    else:
        column = table.column(name).to_pylist()
    dates = (dt.datetime, pd.Timestamp)
    return [
        None if pd.isna(entry) else pd.Timestamp(entry).date() if isinstance(entry, dates) else entry
        for entry in column
    ]


def assert_same_kind(table, X):
    """The same container, columns and dtypes."""
    assert type(table) is type(X)
    if isinstance(X, np.ndarray):
        assert (table.dtype, table.shape[1]) == (X.dtype, X.shape[1])
    elif isinstance(X, pd.DataFrame):
        assert table.dtypes.to_dict() == X.dtypes.to_dict()
        assert list(table) == list(X)
    else:
        assert table.schema == X.schema


TABLES_OUT = {
    "sample": lambda vae, X: vae.sample(N, random_state=0),
    "sample_mean": lambda vae, X: vae.sample(N, decode="mean", random_state=0),
    "inverse_transform": lambda vae, X: vae.inverse_transform(vae.transform(X)),
    "reconstruct": lambda vae, X: vae.reconstruct(X),
    "impute": lambda vae, X: vae.impute(X),
    "imputations": lambda vae, X: vae.impute(X, 2)[1],
}


@pytest.mark.parametrize("name", TABLES_OUT)
def test_tables_come_back_like_those_seen_at_fit(name, case):
    X, vae = case
    table = TABLES_OUT[name](vae, X)
    assert_same_kind(table, X)
    original = content()
    for column in NAMES:
        values, known = entries(table, column), [entry for entry in original[column] if entry is not None]
        assert len(values) == N
        assert None not in values
        if column in ("smokes", "retired", "city", "grade", "country"):
            assert set(values) <= set(known)
            continue
        if isinstance(X, pd.DataFrame) and column == "height":
            known = np.float32(known).tolist()
        assert min(known) <= min(values) <= max(values) <= max(known)
        if column == "income":
            np.testing.assert_allclose(np.array(values) * 100, np.rint(np.array(values) * 100), atol=1e-6)
        if column in ("age", "children"):
            assert all(isinstance(value, int) for value in values)


@pytest.mark.parametrize("name", ["impute", "imputations"])
def test_impute_leaves_present_entries_as_they_are(name, case):
    X, vae = case
    filled, original = TABLES_OUT[name](vae, X), content()
    for column in NAMES:
        if column == "height" and isinstance(X, pd.DataFrame):
            assert filled[column].equals(X[column])  # in float32
            continue
        pairs = zip(entries(filled, column), original[column], strict=True)
        assert all(after == before for after, before in pairs if before is not None)


def test_impute_gives_back_what_has_no_holes(frame, vae):
    whole = frame.dropna()
    pd.testing.assert_frame_equal(vae.impute(whole), whole)
    # Entries that were not seen at fit, beyond the bounds and off the grid, are present all the same.
    odd = whole.assign(age=np.int32(120), income=1e7 + 1 / 3, joined=pd.Timestamp("1999-12-31 23:59:59.123456"))
    odd["joined"] = odd["joined"].astype("datetime64[ns]")
    pd.testing.assert_frame_equal(vae.impute(odd), odd)


def test_impute_fills_by_what_the_row_has():
    rng = np.random.default_rng(0)
    z = rng.normal(size=400)
    X = np.c_[z, -z, 2 * z] + 0.05 * rng.normal(size=(400, 3))
    holes = X.copy()
    holes[::4, 1] = np.nan
    vae = VAE(latent_dim=1, max_epochs=60, random_state=0).fit(holes)
    error = np.sqrt(np.mean((vae.impute(holes)[::4, 1] - X[::4, 1]) ** 2))
    assert error < 0.3 * X[:, 1].std()
    draws = np.stack([table[::4, 1] for table in vae.impute(holes, 20)])
    assert (draws.std(0) > 0).all()
    assert np.corrcoef(draws.mean(0), X[::4, 1])[0, 1] > 0.9


def test_shapes_and_types_of_arrays(case):
    X, vae = case
    posterior = vae.posterior(X, 4)
    assert vae.transform(X).shape == (N, 2)
    assert posterior.shape == (4, N, 2)
    assert vae.score_samples(X).shape == vae.elbo(X).shape == (N,)
    for array in (vae.transform(X), posterior, vae.score_samples(X), vae.elbo(X)):
        assert array.dtype == np.float32
        assert np.isfinite(array).all()
    assert isinstance(vae.score(X), float)
    assert vae.score(X) == pytest.approx(vae.score_samples(X).mean(), rel=1e-5)
    assert vae.get_feature_names_out().tolist() == ["vae0", "vae1"]
    assert vae.n_features_in_ == len(NAMES)
    if isinstance(X, np.ndarray):
        assert not hasattr(vae, "feature_names_in_")
    else:
        assert vae.feature_names_in_.tolist() == NAMES


def test_the_container_changes_no_answer(vae, frame):
    # Arrow and polars hold the same numbers; object arrays lack the order of the grades.
    height = np.asarray(frame["height"], dtype=float).tolist()
    X = to_polars(content() | {"height": height})
    other = small().fit(X)
    np.testing.assert_allclose(other.transform(X), vae.transform(frame), atol=1e-5)


def test_index_is_kept_where_rows_answer_to_rows(vae, frame):
    part = frame.iloc[10:15]
    for table in (vae.reconstruct(part), vae.impute(part), *vae.impute(part, 2)):
        assert table.index.tolist() == part.index.tolist()
    assert vae.sample(3).index.tolist() == [0, 1, 2]


REPEATED = {
    "transform": lambda vae, X: vae.transform(X),
    "posterior": lambda vae, X: vae.posterior(X, 3),
    "reconstruct": lambda vae, X: vae.reconstruct(X),
    "score_samples": lambda vae, X: vae.score_samples(X, 10),
    "elbo": lambda vae, X: vae.elbo(X, 10),
    "impute": lambda vae, X: vae.impute(X, n_draws=10),
    "imputations": lambda vae, X: vae.impute(X, 2, n_draws=10)[1],
    "sample": lambda vae, X: vae.sample(4, random_state=3),
}


@pytest.mark.parametrize("name", REPEATED)
def test_the_same_question_has_the_same_answer(name, vae, frame):
    first = REPEATED[name](vae, frame)
    vae.sample(2)
    second = REPEATED[name](vae, frame)
    if isinstance(first, pd.DataFrame):
        pd.testing.assert_frame_equal(first, second)
    else:
        np.testing.assert_array_equal(first, second)


def test_samples_differ_unless_seeded(vae):
    assert not vae.sample(9).equals(vae.sample(9))
    assert not vae.sample(9, random_state=0).equals(vae.sample(9, random_state=1))
    rng = np.random.RandomState(0)
    assert not vae.sample(9, random_state=rng).equals(vae.sample(9, random_state=rng))


def test_posterior_draws_scatter_about_the_mean(vae, frame):
    draws = vae.posterior(frame, 2000)
    standard_error = draws.std(0) / math.sqrt(2000)
    assert (np.abs(draws.mean(0) - vae.transform(frame)) < 5 * standard_error).all()
    # Independent over rows.
    assert abs(np.corrcoef(draws[:, 0, 0], draws[:, 1, 0])[0, 1]) < 0.1


@pytest.mark.parametrize("method", ["score_samples", "elbo", "transform"])
def test_an_answer_does_not_depend_on_the_neighbours(method, vae, frame):
    together = getattr(vae, method)(frame)
    alone = np.concatenate([getattr(vae, method)(frame.iloc[i : i + 1]) for i in range(0, N, 9)])
    np.testing.assert_allclose(together[::9], alone, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(getattr(vae, method)(frame.iloc[::-1])[::-1], together, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("likelihood", ["auto", "gaussian", Gaussian("column")], ids=repr)
def test_a_unit_changes_a_score_by_its_jacobian(likelihood):
    X = np.random.default_rng(0).normal(size=(80, 3)) @ np.array([[1, 0.5, 0], [0, 1, 0.3], [0, 0, 1.0]])
    grams = X * [1, 1000, 1]
    scores = small(likelihood=likelihood).fit(X).score_samples(X)
    in_grams = small(likelihood=likelihood).fit(grams).score_samples(grams)
    np.testing.assert_allclose(in_grams, scores - math.log(1000), atol=1e-4)


def test_the_elbo_is_below_the_likelihood(vae, frame):
    assert (vae.score_samples(frame, 500) > vae.elbo(frame, 500) - 0.05).all()


def test_diagnose(vae, frame):
    diagnosis = vae.diagnose(frame)
    assert 0 <= diagnosis.active_units <= diagnosis.latent_dim == 2
    assert len(diagnosis.kl_per_unit) == 2
    assert diagnosis.elbo == pytest.approx(float(vae.elbo(frame).mean()), abs=0.5)
    assert diagnosis.log_p == pytest.approx(vae.score(frame), abs=0.5)
    assert diagnosis.overfitting_gap is not None
    assert "nats" in str(diagnosis)
    unsplit = small(early_stopping=False).fit(frame)
    assert unsplit.diagnose(frame).overfitting_gap is None


def test_decoded_latents(vae, frame):
    Z = vae.transform(frame)
    pd.testing.assert_frame_equal(
        vae.inverse_transform(Z).reset_index(drop=True), vae.reconstruct(frame).reset_index(drop=True)
    )
    assert len(vae.inverse_transform(np.array([[1e6, -1e6]]))) == 1


@pytest.mark.parametrize(
    ("Z", "message"),
    [
        (np.zeros((3, 3)), r"Z has shape \(3, 3\); expected \[n, 2\]"),
        (np.full((3, 2), np.nan), "finite latents"),
        (np.array([["a", "b"]]), "finite latents"),
        (np.zeros(2), "2D array"),
        (np.full((3, 2), np.inf), "infinity"),
    ],
)
def test_bad_latents(Z, message, vae):
    with pytest.raises(ValueError, match=message):
        vae.inverse_transform(Z)


@pytest.mark.parametrize("value", [0, -1, 1.5, "many", None, True])
@pytest.mark.parametrize(
    ("name", "ask"),
    [
        ("n_samples", lambda vae, X, n: vae.sample(n)),
        ("n_draws", lambda vae, X, n: vae.posterior(X, n)),
        ("n_draws", lambda vae, X, n: vae.score_samples(X, n)),
        ("n_draws", lambda vae, X, n: vae.elbo(X, n)),
        ("n_draws", lambda vae, X, n: vae.diagnose(X, n)),
        ("n_draws", lambda vae, X, n: vae.impute(X, n_draws=n)),
        ("n_imputations", lambda vae, X, n: vae.impute(X, n if n is not None else 0)),
    ],
)
def test_numbers_of_draws_are_checked(name, ask, value, vae, frame):
    with pytest.raises(ValueError, match=f"{name}=.*expected a whole number ≥ 1"):
        ask(vae, frame, value)


def test_decode_is_checked(vae):
    with pytest.raises(ValueError, match="decode='mode': expected 'draw' or 'mean'"):
        vae.sample(2, decode="mode")


def test_a_constant_that_changes_is_warned_of(vae, frame):
    abroad = frame.assign(country=pd.array(["FR"] * N, dtype="str"))
    with pytest.warns(ConstantColumnWarning, match="column 'country' was constant at fit"):
        Z = vae.transform(abroad)
    np.testing.assert_array_equal(Z, vae.transform(frame))
    with pytest.warns(ConstantColumnWarning):
        assert vae.impute(abroad)["country"].tolist() == ["FR"] * N


def test_levels_not_seen_at_fit(frame, vae):
    moved = frame.assign(city=pd.array(["Paris"] * N, dtype="str"))
    with pytest.raises(ValueError, match=r"column .city. holds .Paris. .row 0., a level not seen at fit"):
        vae.transform(moved)
    lenient = small(handle_unknown="missing").fit(frame)
    unknown = frame.assign(city=pd.array([None] * N, dtype="str"))
    np.testing.assert_array_equal(lenient.transform(moved), lenient.transform(unknown))
