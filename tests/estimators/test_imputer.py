"""VAEImputer: scikit-learn's conventions for imputers, and answers of the kind that came in."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.exceptions import NotFittedError
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn_checks import CHECKS_OF_FRAMES, of_frames_and_arrays

import skvae
from skvae import ColumnError, VAEImputer


def small(**params):
    return VAEImputer(
        **{"latent_dim": 2, "hidden_sizes": (8,), "max_epochs": 3, "batch_size": 16, "random_state": 0} | params
    )


@parametrize_with_checks([VAEImputer(max_epochs=2, hidden_sizes=(8,), batch_size=16)])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@of_frames_and_arrays
@pytest.mark.parametrize("check", CHECKS_OF_FRAMES)
@pytest.mark.parametrize("add_indicator", [False, True])
def test_checks_that_check_estimator_leaves_out(check, add_indicator):
    getattr(estimator_checks, check)("VAEImputer", small(early_stopping=False, add_indicator=add_indicator))


@pytest.fixture(scope="module")
def X():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(90, 2))
    X = z @ rng.normal(size=(2, 4)) + 0.3 * rng.normal(size=(90, 4))
    X[rng.random(X.shape) < 0.2] = np.nan
    X[:, 3] = np.nan_to_num(X[:, 3])
    return X


def mixed():
    rng, n = np.random.default_rng(1), 60
    frame = pd.DataFrame(
        {
            "real": rng.normal(size=n),
            "count": pd.array(rng.poisson(3, n), dtype="Int64"),
            "yes": pd.array(rng.random(n) < 0.4, dtype="boolean"),
            "word": pd.array(rng.choice(["a", "b", "c"], n), dtype="str"),
            "level": pd.Categorical(rng.choice(["lo", "hi"], n), ["lo", "mid", "hi"], ordered=True),
            "day": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 99, n), "D"),
        },
        index=rng.permutation(n) + 5,
    )
    return frame.mask(rng.random(frame.shape) < 0.2)


FRAMES = {
    "pandas": lambda frame: frame,
    "polars": lambda frame: pl.from_pandas(frame),
    "pyarrow": lambda frame: pa.Table.from_pandas(frame, preserve_index=False),
}


def missing(frame):
    return pd.DataFrame(pl.from_arrow(frame).to_pandas() if isinstance(frame, pa.Table) else frame.to_pandas()).isna()


@pytest.mark.parametrize("container", FRAMES)
@pytest.mark.parametrize("add_indicator", [False, True])
def test_frames_come_back_as_they_came(container, add_indicator):
    frame = FRAMES[container](mixed())
    imputer = small(add_indicator=add_indicator).fit(frame)
    filled = imputer.transform(frame)
    assert type(filled) is type(frame)
    names = list(frame.column_names if container == "pyarrow" else frame.columns)
    marks = [f"missingindicator_{name}" for name in names] if add_indicator else []
    assert list(filled.column_names if container == "pyarrow" else filled.columns) == names + marks
    assert imputer.get_feature_names_out().tolist() == names + marks
    for name in names:
        if container == "pyarrow":
            assert filled.schema.field(name).type == frame.schema.field(name).type
            before, after = frame[name].to_pylist(), filled[name].to_pylist()
        else:
            assert filled[name].dtype == frame[name].dtype
            before, after = list(frame[name]), list(filled[name])
        assert not any(pd.isna(entry) for entry in after)
        assert all(pd.isna(one) or one == other for one, other in zip(before, after, strict=True))
        if add_indicator:
            column = filled[f"missingindicator_{name}"]
            marked = column.to_pylist() if container == "pyarrow" else list(column)
            assert marked == [bool(pd.isna(entry)) for entry in before]
    if container == "pandas":
        assert filled.index.equals(frame.index)


def test_indicators_of_arrays_are_those_of_scikit_learn(X):
    ours = small(add_indicator=True).fit(X)
    theirs = SimpleImputer(add_indicator=True).fit(X)
    np.testing.assert_array_equal(ours.transform(X)[:, 4:], theirs.transform(X)[:, 4:])
    names = list("abcd")
    assert ours.get_feature_names_out(names).tolist() == theirs.get_feature_names_out(names).tolist()
    assert ours.indicator_features_.tolist() == [0, 1, 2]


def test_the_answer_is_that_of_the_model(X):
    imputer = small().fit(X)
    np.testing.assert_array_equal(imputer.transform(X), imputer.vae_.impute(X))
    draws = imputer.impute(X, 3)
    for draw, expected in zip(draws, imputer.vae_.impute(X, 3), strict=True):
        np.testing.assert_array_equal(draw, expected)
    hole = np.isnan(X)
    assert not np.isclose(draws[0][hole], draws[1][hole]).any()
    one = small(sample_posterior=True).fit(X)
    np.testing.assert_array_equal(one.transform(X), one.transform(X))
    assert not np.isclose(one.transform(X)[hole], imputer.transform(X)[hole]).any()


def test_holes_are_filled_better_than_by_means():
    rng = np.random.default_rng(0)
    whole = rng.normal(size=(400, 1)) @ rng.normal(size=(1, 5)) + 0.2 * rng.normal(size=(400, 5))
    hole = rng.random(whole.shape) < 0.3
    X = np.where(hole, np.nan, whole)

    def rmse(imputer):
        return np.sqrt(np.mean((imputer.fit_transform(X) - whole)[hole] ** 2))

    assert rmse(VAEImputer(max_epochs=60, random_state=0)) < 0.6 * rmse(SimpleImputer())


@pytest.mark.parametrize("container", ["numpy", *FRAMES])
def test_empty_columns(container, X):
    rows = np.column_stack([X[:, 0], np.full(90, np.nan), X[:, 1:]])
    if container != "numpy":
        rows = FRAMES[container](pd.DataFrame(rows, columns=list("abcde")))
    dropping = small(column_kinds={2: "continuous", 1: "integer"}).fit(rows)
    kept = small(keep_empty_features=True, add_indicator=True).fit(rows)
    assert dropping.empty_features_.tolist() == [1]
    assert len(dropping.vae_.schema_.columns) == 4
    np.testing.assert_array_equal(as_array(dropping.transform(rows)), small().fit(X).transform(X))
    answer = as_array(kept.transform(rows))
    np.testing.assert_array_equal(answer[:, 1], 0.0)
    np.testing.assert_array_equal(answer[:, [0, 2, 3, 4]], as_array(dropping.transform(rows)))
    np.testing.assert_array_equal(answer[:, 5:], np.isnan(as_array(rows))[:, [0, 1, 2, 3]])
    if container != "numpy":
        expected = [*"abcde", *(f"missingindicator_{name}" for name in "abcd")]
        assert kept.get_feature_names_out().tolist() == expected
        assert dropping.get_feature_names_out().tolist() == list("acde")


def as_array(table):
    return np.asarray(table.to_pandas() if isinstance(table, pa.Table) else table, dtype=np.float64)


def test_a_table_without_entries():
    with pytest.raises(ColumnError, match=r"column 'x0'"):
        small().fit(np.full((9, 2), np.nan))


@pytest.mark.parametrize("marker", [-1, "?"])
@pytest.mark.parametrize("container", ["numpy", "pandas", "polars"])
def test_other_markers_of_holes(marker, container, X):
    if marker == -1:
        rows = np.arange(80).reshape(40, 2) % 13
    else:
        rows = np.array([["a", "x"], ["b", "y"]] * 20, dtype=object)
    rows[3:9, 0] = marker
    if container == "pandas":
        rows = pd.DataFrame(rows, columns=["p", "q"])
    elif container == "polars":
        rows = pl.DataFrame(rows.tolist(), schema=["p", "q"], orient="row")
    filled = np.asarray(small(missing_values=marker).fit_transform(rows))
    assert not (filled == marker).any()
    np.testing.assert_array_equal(filled[10:], np.asarray(rows)[10:])


@pytest.mark.parametrize("container", ["pandas", "polars"])
def test_set_output(container, X):
    imputer = small(add_indicator=True).set_output(transform=container).fit(X)
    answer = imputer.transform(X)
    assert type(answer).__module__.split(".")[0] == container
    assert list(answer.columns) == imputer.get_feature_names_out().tolist()
    frame = FRAMES["polars" if container == "pandas" else "pandas"](mixed())
    other = small().set_output(transform=container).fit(frame).transform(frame)
    assert type(other).__module__.split(".")[0] == container


@pytest.mark.parametrize(
    "model", [Ridge(), HistGradientBoostingRegressor(max_iter=5)], ids=lambda m: type(m).__name__
)
def test_pipelines_and_searches(model, X):
    y = np.nan_to_num(X[:, 0])
    search = GridSearchCV(make_pipeline(small(), model), {"vaeimputer__n_draws": [5, 10]}, cv=2).fit(X, y)
    assert np.isfinite(search.predict(X)).all()


def test_mixed_frames_before_gradient_boosting():
    frame = mixed().drop(columns=["day", "word"])
    y = np.arange(len(frame), dtype=float)
    model = make_pipeline(small(), HistGradientBoostingRegressor(max_iter=5)).fit(frame, y)
    assert np.isfinite(model.predict(frame)).all()


@pytest.mark.parametrize("params", [{}, {"add_indicator": True, "keep_empty_features": True, "missing_values": "?"}])
def test_saved_and_loaded(params, tmp_path):
    frame = mixed().assign(nothing=np.nan)
    imputer = small(**params).fit(frame)
    imputer.save(tmp_path / "model")
    loaded = skvae.load(tmp_path / "model")
    assert type(loaded) is VAEImputer
    pd.testing.assert_frame_equal(loaded.transform(frame), imputer.transform(frame))
    pd.testing.assert_frame_equal(loaded.impute(frame, 2)[1], imputer.impute(frame, 2)[1])
    assert loaded.get_feature_names_out().tolist() == imputer.get_feature_names_out().tolist()
    assert loaded.n_features_in_ == 7


def test_files(tmp_path):
    frame = mixed().drop(columns=["yes"]).assign(nothing=np.nan)
    frame.to_csv(tmp_path / "rows.csv", index=False)
    imputer = small(keep_empty_features=True).fit(tmp_path / "rows.csv")
    filled = imputer.transform(tmp_path / "rows.csv")
    assert filled.column_names == list(frame.columns)
    assert filled.drop_columns("nothing").to_pandas().notna().all(axis=None)


def test_warm_start_goes_on(X):
    imputer = small(warm_start=True).fit(X)
    model = imputer.model_
    assert imputer.fit(X).model_ is model
    assert len(imputer.history_) == 6
    assert clone(imputer).set_params(warm_start=False).fit(X).model_ is not model


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"add_indicator": "yes"}, "add_indicator='yes': expected True or False"),
        ({"keep_empty_features": 1}, "keep_empty_features=1: expected True or False"),
        ({"sample_posterior": None}, "sample_posterior=None: expected True or False"),
        ({"latent_dim": 0}, "latent_dim=0: expected"),
    ],
)
def test_bad_parameters(params, message, X):
    with pytest.raises(ValueError, match=message):
        small(**params).fit(X)


def test_bad_questions(X):
    with pytest.raises(NotFittedError):
        small().transform(X)
    imputer = small().fit(X)
    with pytest.raises(ValueError, match="X has 3 features"):
        imputer.transform(X[:, :3])
    with pytest.raises(ValueError, match="n_imputations=0: expected a whole number"):
        imputer.impute(X, 0)
    with pytest.raises(TypeError, match="VAEImputer has no parameter 'strategy'"):
        VAEImputer(strategy="mean")


def test_images_are_refused():
    with pytest.raises(ValueError, match=r"image_shape=\(2, 2\): VAEImputer is for tables; use VAE"):
        VAEImputer(image_shape=(2, 2)).fit(np.zeros((60, 2, 2)))
