"""VAEOversampler: imbalanced-learn's interface, and rows that its columns could hold."""

import warnings

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from imblearn.pipeline import make_pipeline
from imblearn.utils import check_sampling_strategy
from imblearn.utils import estimator_checks as sampler_checks
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from skvae import ELBO, Gaussian, VAEOversampler
from skvae.estimators import oversampler

N = {"many": 90, "some": 30, "few": 6}


def small(**params):
    return VAEOversampler(**{"hidden_sizes": (8,), "max_epochs": 2, "random_state": 0} | params)


@pytest.fixture(scope="module")
def y():
    return np.random.default_rng(0).permutation(np.repeat(list(N), list(N.values())))


@pytest.fixture(scope="module")
def X(y):
    """One column of every kind, with holes that are commonest in the rarest class."""
    rng, n = np.random.default_rng(1), len(y)
    frame = pd.DataFrame(
        {
            "real": rng.normal(size=n) + 3 * (y == "few"),
            "cents": rng.gamma(2, 10, n).round(2),
            "count": rng.poisson(3, n),
            "yes": rng.random(n) < 0.3,
            "word": rng.choice(["a", "b", "c"], n),
            "level": pd.Categorical(rng.choice(["lo", "hi"], n), ["lo", "mid", "hi"], ordered=True),
            "day": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 99, n), "D"),
            "small": rng.integers(0, 40, n).astype("int8"),
            "same": 7,
        },
        index=rng.permutation(n) + 5,
    )
    hole = rng.random(n) < np.where(y == "few", 0.5, 0.1)
    frame.loc[hole, ["real", "day"]] = np.nan
    frame.loc[rng.random(n) < 0.2, "level"] = np.nan
    frame["word"] = frame["word"].mask(rng.random(n) < 0.1, None)
    return frame


CHECKS = [
    "check_samplers_one_label",
    "check_samplers_fit",
    "check_samplers_fit_resample",
    "check_samplers_sampling_strategy_fit_resample",
    "check_samplers_pandas",
    "check_samplers_string",
    "check_samplers_nan",
    "check_samplers_list",
    "check_samplers_multiclass_ova",
    "check_samplers_preserve_dtype",
    "check_samplers_2d_target",
    "check_dataframe_column_names_consistency",
    "check_sampler_get_feature_names_out",
    "check_sampler_get_feature_names_out_pandas",
]


@pytest.mark.parametrize("check", CHECKS)
def test_imbalanced_learn_checks(check):
    getattr(sampler_checks, check)("VAEOversampler", small(max_epochs=1, likelihood={"continuous": "gaussian"}))


def test_imbalanced_learn_check_of_targets():
    sampler_checks.check_target_type("VAEOversampler", small(task="classification"))


@parametrize_with_checks([VAEOversampler(max_epochs=1, hidden_sizes=(8,))])
def test_scikit_learn_checks(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(estimator)


TWO = np.repeat([0, 1], [40, 10])
THREE = np.repeat(["a", "b", "c"], [20, 35, 5])
STRATEGIES = {
    "auto": ("auto", THREE),
    "not majority": ("not majority", THREE),
    "minority": ("minority", THREE),
    "not minority": ("not minority", THREE),
    "all": ("all", THREE),
    "two classes": ("auto", TWO),
    "a ratio": (0.5, TWO),
    "a ratio of one": (1.0, TWO),
    "an odd ratio": (0.33, TWO),
    "numbers": ({"c": 9, "a": 20}, THREE),
    "numbers of numpy's": ({np.int64(1): np.int64(12)}, TWO),
    "a function": (lambda y: {"c": int((y == "a").sum())}, THREE),
    "equal classes": ("auto", np.repeat([0, 1], 10)),
    "truth values": ("auto", TWO == 1),
}


@pytest.mark.parametrize("case", STRATEGIES)
def test_strategies_are_imbalanced_learns(case):
    strategy, y = STRATEGIES[case]
    sampler = small(sampling_strategy=strategy).fit(np.random.default_rng(0).normal(size=(len(y), 2)), y)
    assert sampler.sampling_strategy_ == check_sampling_strategy(strategy, y, "over-sampling")


def test_the_classes_get_the_rows_wanted(X, y):
    X_more, y_more = small(sampling_strategy={"few": 8, "some": 40}).fit_resample(X, y)
    assert dict(zip(*np.unique(y_more, return_counts=True), strict=True)) == {"few": 8, "many": 90, "some": 40}
    assert len(X_more) == 138
    assert sorted(y_more[126:]) == ["few"] * 2 + ["some"] * 10


FRAMES = {
    "pandas": (lambda X: X, lambda y: pd.Series(y, name="kind")),
    "pandas, a categorical target": (lambda X: X, lambda y: pd.Series(y, name="kind", dtype="category")),
    "pandas of pyarrow": (
        lambda X: X.convert_dtypes(dtype_backend="pyarrow"),
        lambda y: pd.Series(y, dtype="string"),
    ),
    "polars": (lambda X: pl.from_pandas(X), lambda y: pl.Series("kind", y)),
    "pyarrow": (lambda X: pl.from_pandas(X).to_arrow(), lambda y: pa.chunked_array([y.tolist()])),
    "objects": (lambda X: X.drop(columns="day").to_numpy(dtype=object), lambda y: y.astype(object)),
    "float32": (lambda X: X[["real", "cents"]].to_numpy(np.float32), lambda y: y == "few"),
    "int16": (lambda X: X[["count", "small"]].to_numpy(np.int16), lambda y: pd.factorize(y)[0].astype(np.int8)),
    "truth values": (lambda X: X[["yes", "yes"]].to_numpy(), lambda y: y),
    "text": (lambda X: X[["word", "word"]].fillna("a").to_numpy(str), lambda y: y),
    "lists": (lambda X: X[["cents", "count"]].to_numpy().tolist(), lambda y: y.tolist()),
    "a frame of targets": (lambda X: X[["real"]], lambda y: pd.DataFrame({"kind": y})),
    "one-hot": (lambda X: X[["real"]], lambda y: pd.get_dummies(y).astype(float)),
}


@pytest.mark.parametrize("case", FRAMES)
def test_rows_and_targets_stay_what_they_are(case, X, y):
    """The given rows come first and unchanged, in a frame or array of the same types."""
    make_X, make_y = FRAMES[case]
    given_X, given_y = make_X(X), make_y(y)
    X_more, y_more = small().fit_resample(given_X, given_y)
    n_new = len(X_more) - len(y)
    assert n_new == (114 if case == "float32" else 60 + 84)
    assert len(y_more) == len(X_more)
    for more, given in ((X_more, given_X), (y_more, given_y)):
        assert type(more) is type(given)
        if isinstance(given, pd.DataFrame):
            pd.testing.assert_frame_equal(more[: len(y)], given.reset_index(drop=True))
        elif isinstance(given, pd.Series):
            pd.testing.assert_series_equal(more[: len(y)], given.reset_index(drop=True))
        elif isinstance(given, np.ndarray):
            assert more.dtype == given.dtype
            pd.testing.assert_frame_equal(pd.DataFrame(more[: len(y)]), pd.DataFrame(given))
        elif isinstance(given, pa.Table):
            assert more.schema == given.schema
            assert more.slice(0, len(y)).equals(given)
        elif isinstance(given, pl.DataFrame | pl.Series):
            assert more[: len(y)].equals(given)
            assert more[:0].equals(given[:0])
        else:
            assert more[: len(y)] == given if isinstance(given, list) else more.slice(0, len(y)).equals(given)


@pytest.fixture(scope="module")
def resampled(X, y):
    return small().fit_resample(X, pd.Series(y))


def test_new_rows_hold_what_the_columns_can(resampled, X):
    new = resampled[0][len(X) :]
    for name in ("real", "cents", "count", "day", "small"):
        assert new[name].min() >= X[name].min()
        assert new[name].max() <= X[name].max()
    np.testing.assert_array_equal(new["cents"], new["cents"].round(2))
    assert set(new["word"].dropna()) <= {"a", "b", "c"}
    assert set(new["level"].dropna()) <= {"lo", "hi"}
    assert (new["day"].dropna() == new["day"].dropna().dt.normalize()).all()
    assert (new["same"] == 7).all()
    assert not new.drop(columns="same").merge(X.drop(columns="same")).shape[0]


def test_new_rows_have_the_holes_of_their_class(resampled, X, y):
    X_more, y_more = resampled
    new, labels = X_more[len(X) :], y_more[len(X) :]
    for label in ("few", "some"):
        expected, found = X[y == label].isna().mean(), new[labels == label].isna().mean()
        np.testing.assert_allclose(found, expected, atol=1 / N[label])
    assert (new["real"].isna() == new["day"].isna()).all()  # entries that go missing together still do


def test_new_rows_are_of_their_class():
    """What all classes have in common, here a correlation, is learned from all of them."""
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [200, 30, 8])
    z, side = rng.normal(size=238), np.array([0, 5, -5])[y]
    X = np.c_[z, 2 * z + 0.1 * rng.normal(size=238), side + rng.normal(size=238)]
    X_more, y_more = VAEOversampler(max_epochs=150, random_state=0).fit_resample(X, y)
    new_X, new_y = X_more[238:], y_more[238:]
    for label in (1, 2):
        new = new_X[new_y == label]
        np.testing.assert_allclose(new.mean(0), X[y == label].mean(0), atol=1.0)
        assert np.corrcoef(new[:, 0], new[:, 1])[0, 1] > 0.7
        assert len(np.unique(new[:, 0])) == len(new)
    assert (np.sign(new_X[:, 2]) == np.where(new_y == 1, 1, -1)).mean() > 0.95


@pytest.mark.parametrize("n", [2, 3, 5, 6])
def test_tiny_classes(n):
    X = np.random.default_rng(0).normal(size=(60 + n, 3))
    y = np.repeat([0, 1], [60, n])
    X_more, y_more = small().fit_resample(X, y)
    assert (y_more == 1).sum() == 60
    assert np.isfinite(X_more).all()


def test_each_real_row_has_as_many_variations(X, y, monkeypatch):
    """Those that the model takes for another class among them: they say the most of where the classes meet."""
    varied = []
    made = VAEOversampler._new_rows

    def recorded(self, *args):
        varied.append(made(self, *args))
        return varied[-1]

    monkeypatch.setattr(VAEOversampler, "_new_rows", recorded)
    small().fit_resample(X, y)
    sources = varied[0][2]
    assert len(sources) == sum(max(N.values()) - n for n in N.values())
    for name, n in N.items():
        counts = np.bincount(sources, minlength=len(y))[y == name]
        assert counts.sum() == max(N.values()) - n
        assert counts.max() - counts.min() <= 1


def test_latents_that_speak_for_the_class_are_chosen(monkeypatch):
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], [360, 40])
    X = np.column_stack([rng.normal(2.0 * y, 1.0), rng.normal(size=400)])

    def drawn():
        X_more, y_more = VAEOversampler(max_epochs=60, hidden_sizes=(32,), random_state=0).fit_resample(X, y)
        assert (y_more[400:] == 1).all()
        return X_more[400:].mean(0)

    chosen = drawn()
    monkeypatch.setattr(oversampler, "_POWER", 0.0)  # whatever the class
    blind = drawn()
    assert chosen[0] > blind[0] + 0.2  # away from the other class
    np.testing.assert_allclose(chosen[1], blind[1], atol=0.2)  # what says nothing of it stays


def test_the_same_seed_gives_the_same_rows(X, y):
    def drawn(**params):
        return small(sampling_strategy={"few": 20}, **params).fit_resample(X, y)[0]

    state = np.random.get_state()[1].copy()  # noqa: NPY002
    pd.testing.assert_frame_equal(drawn(), drawn())
    assert not drawn().equals(drawn(random_state=1))
    assert not drawn(random_state=None).equals(drawn(random_state=None))
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_nothing_to_do(X, y):
    frame, labels = X.iloc[:60], pd.Series(np.repeat(["a", "b"], 30), index=X.index[:60])
    sampler = small()
    X_more, y_more = sampler.fit_resample(frame, labels)
    pd.testing.assert_frame_equal(X_more, frame.reset_index(drop=True))
    pd.testing.assert_series_equal(y_more, labels.reset_index(drop=True))
    assert not hasattr(sampler, "vae_")
    X_more, y_more = sampler.fit_resample(np.eye(4), [0, 1, 0, 1])
    np.testing.assert_array_equal(X_more, np.eye(4))
    assert y_more == [0, 1, 0, 1]


def test_names_of_columns(X, y):
    frame = X[["real", "cents"]].rename(columns={"real": "target", "cents": "target_"})
    sampler = small(column_kinds={"target_": "continuous"})
    more, _ = sampler.fit_resample(frame, y)
    assert more.columns.tolist() == sampler.feature_names_in_.tolist() == ["target", "target_"]
    assert sampler.n_features_in_ == 2
    numbered = X[["real", "count", "cents"]].set_axis([0, 1, 2], axis=1)
    for kinds in ({1: "continuous"}, {-2: "continuous"}):
        sampler = small(column_kinds=kinds)
        more, _ = sampler.fit_resample(numbered, y)
        assert more.columns.tolist() == [0, 1, 2]
        assert [column.kind for column in sampler.vae_.schema_.columns][1] == "continuous"


def test_a_likelihood_is_that_of_the_rows(X, y):
    frame = X[["real", "count", "yes"]].assign(yes=X["yes"].astype(int))
    sampler = small(likelihood="gaussian")
    sampler.fit_resample(frame, y)
    assert "Gaussian(): 'real', 'count', 'yes'" in repr(sampler.vae_.likelihood_).replace("scale='shared'", "")
    assert "Categorical(): 'target'" in repr(sampler.vae_.likelihood_)
    small(likelihood={"real": Gaussian("row")}).fit_resample(frame, y)
    with pytest.raises(ValueError, match="cannot score column 'word'"):
        small(likelihood="gaussian").fit_resample(X, y)


def test_a_file(X, y, tmp_path):
    X[["real", "word"]].to_csv(tmp_path / "t.csv", index=False)
    more, labels = small().fit_resample(tmp_path / "t.csv", y)
    assert isinstance(more, pa.Table)
    assert more.column_names == ["real", "word"]
    assert len(labels) == more.num_rows


def test_in_a_pipeline(X, y):
    rows = X[["real", "cents", "count"]].fillna(0.0)
    pipeline = make_pipeline(small(objective=ELBO()), LogisticRegression(max_iter=1000))
    assert np.isfinite(cross_val_score(pipeline, rows, y, cv=3, scoring="balanced_accuracy")).all()
    assert clone(pipeline).fit(rows, y).predict(rows).shape == y.shape
    grid = {"vaeoversampler__objective__beta": [0.5, 1.0], "vaeoversampler__sampling_strategy": ["minority"]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(rows, y)
    assert search.best_estimator_[0].sampling_strategy_ == {"few": 84}


def test_parameters():
    sampler = small(objective=ELBO(beta=2.0))
    assert sampler.get_params()["objective__beta"] == 2.0
    copy = clone(sampler.set_params(objective__beta=3.0, n_bins=4))
    assert (copy.objective.beta, copy.n_bins) == (3.0, 4)
    with pytest.raises(
        ValueError, match="'objective__beta' asks for a parameter of objective='elbo', which is a string"
    ):
        small().set_params(objective__beta=1.0)
    with pytest.raises(TypeError, match="VAEOversampler has no parameter 'structure'"):
        VAEOversampler(structure="m2")


def skewed(n=200):
    rng = np.random.default_rng(0)
    y = rng.gamma(2.0, 2.0, n)
    return pd.DataFrame({"a": y + 0.3 * rng.normal(size=n), "b": rng.poisson(3, n)}), y


def test_rare_ranges_of_a_number():
    X, y = skewed()
    sampler = VAEOversampler(max_epochs=60, random_state=0, n_bins=8)
    X_more, y_more = sampler.fit_resample(X, pd.Series(y, name="price"))
    np.testing.assert_allclose(sampler.bin_edges_, np.linspace(y.min(), y.max(), 9))
    before, after = (np.histogram(values, sampler.bin_edges_)[0] for values in (y, y_more))
    median = np.sort(before[before > 0])[(np.count_nonzero(before) - 1) // 2]
    np.testing.assert_array_equal(after, np.where(before >= 2, np.maximum(before, median), before))
    assert sampler.sampling_strategy_ == {k: int(n) for k, n in enumerate(after - before) if n}
    assert (y_more.name, y_more.dtype) == ("price", np.float64)
    new_X, new_y = X_more[len(y) :], y_more[len(y) :]
    assert not set(new_y) & set(y)
    assert abs(new_X["a"] - new_y).mean() < 1.0
    assert np.corrcoef(new_X["a"], new_y)[0, 1] > 0.7
    assert X_more.dtypes.equals(X.dtypes)


NUMBERS = {
    "float32": lambda y: y.astype(np.float32),
    "whole": lambda y: np.rint(10 * y).astype(int),
    "rounded": lambda y: y.round(1),
    "pandas": lambda y: pd.Series(y, name="q", dtype="Float64"),
    "pandas, float32": lambda y: pd.Series(y, name="q", dtype="float32"),
    "polars": lambda y: pl.Series("q", np.rint(10 * y).astype(np.int16)),
    "pyarrow": lambda y: pa.chunked_array([y.tolist()]),
    "a list": lambda y: y.tolist(),
    "a frame": lambda y: pd.DataFrame({"q": y}),
    "a column": lambda y: y[:, None],
}


@pytest.mark.parametrize("case", NUMBERS)
def test_targets_that_are_numbers_keep_their_type(case):
    X, y = skewed()
    given = NUMBERS[case](y)
    sampler = small(task="regression", sampling_strategy="all", n_bins=3)
    X_more, more = sampler.fit_resample(X, given)
    assert type(more) is type(given)
    assert len(X_more) == len(more) == 3 * max(np.histogram(np.asarray(given).ravel(), 3)[0])
    before, after = np.asarray(given), np.asarray(more)
    assert after.dtype == before.dtype
    np.testing.assert_array_equal(after[:200], before)
    assert after.min() >= before.min()
    assert after.max() <= before.max()
    if case == "rounded":
        np.testing.assert_array_equal(after, after.round(1))


def test_bins_are_classes_to_other_strategies():
    X, y = skewed()
    counts = np.histogram(y, 4)[0]
    for strategy, expected in {
        "not majority": dict(enumerate(max(counts) - counts)),
        "minority": {3: max(counts) - counts[3]},
    }.items():
        found = small(sampling_strategy=strategy, n_bins=4).fit(X, y).sampling_strategy_
        assert {k: n for k, n in found.items() if n} == {k: n for k, n in expected.items() if n}
    assert small(sampling_strategy={2: 50}, n_bins=4).fit(X, y).sampling_strategy_ == {2: 50 - counts[2]}


def with_hole(y, mark):
    y = y.astype(object)
    y[3] = mark
    return y


COUNTS = np.repeat([0, 1, 2], [30, 8, 1])
BAD = {
    "no target": ({}, lambda: None, "requires y to be passed, but the target y is None"),
    "a name": ({}, lambda: "kind", "y='kind' is text; pass the column itself"),
    "too short": ({}, lambda: COUNTS[:-1], r"inconsistent numbers of samples: \[39, 38\]"),
    "None": ({}, lambda: with_hole(COUNTS, None), "y is missing in row 3.*drop such rows"),
    "NaN": ({}, lambda: with_hole(COUNTS, np.nan).astype(float), "y is missing in row 3"),
    "NA": ({}, lambda: pd.Series(with_hole(COUNTS, pd.NA)), "y is missing in row 3"),
    "mixed": ({}, lambda: with_hole(COUNTS, "a"), "y mixes int and str"),
    "NaN among names": ({}, lambda: [*COUNTS[1:].astype(str), np.nan], "y is missing in row 38"),
    "images": ({"image_shape": (1, 2)}, lambda: COUNTS % 2, r"image_shape=\(1, 2\).*pass the pixels"),
    "one class": ({}, lambda: COUNTS * 0, "y has only one class, 0"),
    "one row": ({}, lambda: COUNTS, r"class 2 has 1 row.*task='regression'.*leave it out of sampling_strategy"),
    "several targets": ({}, lambda: np.c_[COUNTS, COUNTS], r"y has shape \(39, 2\); expected \[n\], or one-hot"),
    "decimals": ({"task": "classification"}, lambda: COUNTS + 0.5, r"y holds 0\.5, of which no class is made"),
    "text as numbers": ({"task": "regression"}, lambda: COUNTS.astype(str), "y holds '0' .*one number per row"),
    "infinite": ({}, lambda: np.where(COUNTS == 2, np.inf, COUNTS + 0.5), r"y holds inf \(row 38\)"),
    "constant": ({"task": "regression"}, lambda: COUNTS * 0 + 3, r"y is constant \(3\)"),
    "one row in a bin": (
        {"sampling_strategy": {2: 5}, "n_bins": 3},
        lambda: COUNTS + 0.5,
        "bin 2 has 1 row, which does not show how its rows vary: add",
    ),
    "empty bin": (
        {"sampling_strategy": {1: 5}},
        lambda: COUNTS + 0.5,
        "the class 1, of which y has no row; it has 0, 5, 9",
    ),
    "a ratio of three": (
        {"sampling_strategy": 0.5},
        lambda: COUNTS,
        r"=0.5 is the ratio of two classes, and y has 3",
    ),
    "a ratio above one": ({"sampling_strategy": 1.5}, lambda: COUNTS % 2, r"=1.5: expected a ratio in \(0, 1\]"),
    "no ratio": ({"sampling_strategy": -0.5}, lambda: COUNTS % 2, r"=-0.5: expected a ratio in \(0, 1\]"),
    "a ratio below": (
        {"sampling_strategy": 0.1},
        lambda: COUNTS % 2,
        r"fewer rows of class 1 than the 8 there are; their ratio is 0\.258 already",
    ),
    "fewer rows": ({"sampling_strategy": {1: 5}}, lambda: COUNTS, "5 rows of class 1, of which there are 8"),
    "half a row": ({"sampling_strategy": {1: 9.5}}, lambda: COUNTS, "9.5 rows of class 1.*a whole number"),
    "no such class": (
        {"sampling_strategy": {7: 5}},
        lambda: COUNTS,
        "the class 7, of which y has no row; it has 0, 1, 2",
    ),
    "the majority": ({"sampling_strategy": "majority"}, lambda: COUNTS, "'majority': expected one of"),
    "a list": ({"sampling_strategy": [1]}, lambda: COUNTS, r"sampling_strategy=\[1\]: expected one of"),
    "a function of nothing": ({"sampling_strategy": lambda y: 3}, lambda: COUNTS, "or a function that makes one"),
    "task": ({"task": "clustering"}, lambda: COUNTS, "task='clustering': expected one of"),
    "bins": ({"n_bins": 1}, lambda: COUNTS, "n_bins=1: expected a whole number ≥ 2"),
    "warm start": ({"warm_start": True}, lambda: COUNTS, "warm_start=True.*leave it False"),
    "a parameter of VAE's": (
        {"latent_dim": 0},
        lambda: COUNTS % 2,
        "latent_dim=0: expected 'auto' or a whole number",
    ),
    "no such column": ({"column_kinds": {"z": "date"}}, lambda: COUNTS % 2, "column_kinds names column 'z'"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_refused(case):
    params, make_y, message = BAD[case]
    X = np.random.default_rng(0).normal(size=(39, 2))
    with pytest.raises(ValueError, match=message):
        small(**params).fit_resample(X, make_y())


def test_fit_leaves_small_classes_to_fit_resample():
    X = np.random.default_rng(0).normal(size=(39, 2))
    assert small().fit(X, COUNTS).sampling_strategy_ == {1: 22, 2: 29}
