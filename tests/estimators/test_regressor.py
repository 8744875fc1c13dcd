"""VAERegressor: what it predicts, generates, learns from and refuses."""

import pickle
from fractions import Fraction

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy import stats
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import r2_score
from small_targets import SMALL, N

from skvae import ColumnError, Gaussian, VAERegressor, load
from skvae.inference.predictive import Predictive
from skvae.training.engine import Steps

STRUCTURES = ["prior", "joint"]
every_structure = pytest.mark.parametrize("structure", STRUCTURES)


def small(**params):
    return VAERegressor(**SMALL | {"structure": "prior", "target_likelihood": "gaussian"} | params)


def data(n=N, seed=0):
    """Rows of four columns that two latents make, of which y is one."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 2))
    loadings = np.array([[1.0, -0.8, 0.2, 0.5], [0.1, 0.5, 1.0, -0.7]])
    return z @ loadings + 0.2 * rng.normal(size=(n, 4)), 100 + 20 * z[:, 0]


X, Y = data()
HOLES = np.where(np.arange(N) % 3 == 0, Y, np.nan)
TWO = np.column_stack([Y, -0.01 * Y + X[:, 2]])


@pytest.fixture(scope="module", params=STRUCTURES)
def model(request):
    return small(structure=request.param, max_epochs=90, target_weight=10.0, learning_rate=2e-2).fit(X, Y)


@pytest.fixture(scope="module")
def prior_model():
    return small(max_epochs=8, recall=False).fit(X, Y)


@pytest.fixture(scope="module")
def two():
    return small(max_epochs=2).fit(X, TWO)


# Predictions


@every_structure
def test_shapes(structure):
    for y, shape in ((Y, ()), (Y.reshape(-1, 1), (1,)), (TWO, (2,))):
        model = small(structure=structure, max_epochs=2).fit(X, y)
        mean, std = model.predict(X[:5], return_std=True)
        assert mean.shape == std.shape == (5, *shape)
        assert (std > 0).all()
        assert model.predict_interval(X[:5]).shape == (5, *shape, 2)
        assert model.predict_quantiles(X[:5], [0.2, 0.5, 0.9]).shape == (5, *shape, 3)
        rows, targets = model.sample(7, random_state=0)
        assert (rows.shape, targets.shape) == ((7, 4), (7, *shape))
        assert model.latent_direction_.shape == (*shape, 2)
        assert [rows.shape for rows in model.traverse(X[:5], np.ones((3, *shape)))] == [(5, 4)] * 3


def test_what_is_learned(model):
    """An easy target is predicted, about as well as its uncertainty says."""
    new, truth = data(500, seed=1)
    mean, std = model.predict(new, return_std=True)
    assert r2_score(truth, mean) > 0.9
    assert 0.5 < np.mean(np.square((truth - mean) / std)) < 2
    assert model.score(new, truth) == pytest.approx(r2_score(truth, mean))


def test_all_answers_are_of_one_distribution(model):
    found = model.predict_distribution(X)
    mean, std = model.predict(X, return_std=True)
    np.testing.assert_array_equal(mean, found.mean())
    np.testing.assert_array_equal(std, found.std())
    levels = np.linspace(0.02, 0.98, 9)
    quantiles = model.predict_quantiles(X, levels)
    assert (np.diff(quantiles, axis=1) > 0).all()
    for k, level in enumerate(levels):
        np.testing.assert_allclose(found.cdf(quantiles[:, k]), level, atol=1e-3)
    with pytest.raises(ValueError, match=r"quantile 1: expected in \(0, 1\)"):
        model.predict_quantiles(X, [0.5, 1.0])


@every_structure
def test_the_unit_of_y_changes_nothing(structure):
    """Predictions are in the other unit, and densities smaller by it."""
    params = {"structure": structure, "max_epochs": 3}
    grams, kilograms = small(**params).fit(X, 1000 * Y + 5), small(**params).fit(X, Y)
    np.testing.assert_allclose(grams.predict(X), 1000 * kilograms.predict(X) + 5, rtol=1e-3)
    densities = [m.predict_distribution(X).log_prob(y) for m, y in ((grams, 1000 * Y + 5), (kilograms, Y))]
    np.testing.assert_allclose(densities[0], densities[1] - np.log(1000), atol=0.01)


def test_targets_of_several_kinds():
    counts = np.random.default_rng(0).poisson(np.exp(0.5 * X[:, 0]))
    frame = pd.DataFrame({"price": np.exp(Y / 40), "visits": counts})
    model = small(target_likelihood={"price": "log-normal", "visits": "poisson"}, max_epochs=3).fit(X, frame)
    assert "LogNormal(): 'price'" in repr(model.target_likelihood_)
    assert "Poisson(): 'visits'" in repr(model.target_likelihood_)
    rows, y = model.sample(50, random_state=0)
    assert rows.shape == (50, 4)
    assert (y[:, 0] > 0).all()
    assert (y[:, 1] == np.rint(y[:, 1])).all()


@pytest.mark.parametrize(
    ("likelihood", "y"),
    [
        ("student-t", Y),
        ("log-normal", np.exp(Y / 40)),
        ("poisson", np.random.default_rng(0).poisson(np.exp(0.5 * X[:, 0]))),
        ("mixture-of-gaussians", Y),
        (Gaussian(scale="row"), Y),
        ("auto", Y),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@every_structure
def test_likelihoods_of_y(likelihood, y, structure):
    model = small(structure=structure, target_likelihood=likelihood, max_epochs=2).fit(X[:120], y[:120])
    expected = {"student-t": "StudentT()", "poisson": "Poisson()"}.get(likelihood, "")
    assert expected in repr(model.target_likelihood_)
    found = model.predict_distribution(X[:20])
    assert np.isfinite(found.log_prob(y[:20])).all()
    low, high = model.predict_quantiles(X[:20], [0.1, 0.9]).T
    assert (low <= found.mean()).all()
    assert (found.mean() <= high + 1e-6).all()
    _, drawn = model.sample(30, random_state=0)
    assert y[:120].min() <= drawn.min()
    assert drawn.max() <= y[:120].max()
    if likelihood == "poisson":
        assert (drawn == np.rint(drawn)).all()
        assert found.log_prob(y[:20]).max() <= 0


# Rows without a target


@every_structure
def test_rows_without_a_target_are_learned_from(structure):
    model = small(structure=structure).fit(X, HOLES)
    assert model.estimators_[0]._task.partly_labelled
    assert model.history_.info["n_train"] == N
    assert not small(structure=structure, max_epochs=1).fit(X, Y).estimators_[0]._task.partly_labelled
    labelled = ~np.isnan(HOLES)
    assert model.score(X, HOLES) == pytest.approx(r2_score(Y[labelled], model.predict(X[labelled])))
    assert r2_score(Y[~labelled], model.predict(X[~labelled])) > 0.7
    others = small(structure=structure).fit(np.where(labelled[:, None], X, X[::-1] + 1), HOLES)
    assert not np.allclose(model.predict(X), others.predict(X), atol=0.1)


def test_a_target_may_be_missing_where_another_is_known():
    y = TWO.copy()
    y[::2, 0], y[1::4, 1] = np.nan, np.nan
    model = small().fit(X, y)
    assert np.isfinite(model.predict(X)).all()
    whole = ~np.isnan(y).any(1)
    assert model.score(X, y) == pytest.approx(r2_score(y[whole], model.predict(X[whole])))


@pytest.mark.parametrize("fraction", [0.0, 0.3])
def test_held_out_rows_serve_one_purpose_each(fraction):
    y = np.where(np.arange(N) % 4 == 0, np.nan, Y)
    model = small(max_epochs=1, calibration_fraction=fraction).fit(X, y)
    rows = model.vae_._encode(model.vae_._table(X))
    target = torch.from_numpy((y.astype(np.float32) - 100) / 20).unsqueeze(1)
    pieces = model._held_out(type(rows)(rows.values, target=target), seed=0)
    index = [set() if piece is None else set(piece.index.tolist()) for piece in pieces]
    assert sum(map(len, index)) == len(set.union(*index)) == N
    assert set(np.flatnonzero(np.isnan(y))) <= index[0]
    assert [len(piece) for piece in index[1:]] == [18, round(fraction * 180)]
    assert len(model._residuals) == round(fraction * 180)


CONTAINERS = {
    "list of None": [None if np.isnan(v) else v for v in HOLES],
    "pandas": pd.Series(HOLES, name="price"),
    "pandas, nullable": pd.Series(HOLES).astype("Float64"),
    "polars": pl.Series("price", HOLES, nan_to_null=True),
    "pandas frame": pd.DataFrame({"price": HOLES}),
}


@every_structure
@pytest.mark.parametrize("n_complete", [0, 1])
def test_targets_of_which_each_row_has_one(structure, n_complete):
    """What a row lacks is what the model expects, so that all rows say how latents go with each target."""
    apart = TWO.copy()
    apart[: N // 2, 0] = np.nan
    apart[N // 2 + n_complete :, 1] = np.nan
    model = small(structure=structure, max_epochs=60, target_weight=10.0, learning_rate=2e-2).fit(X, apart)
    low, high = (model.predict(rows)[:, 0].mean() for rows in model.traverse(X[:20], [[80.0, -0.8], [120.0, -1.2]]))
    assert high - low > 10
    assert (np.linalg.norm(model.latent_direction_, axis=1) > 0.99).all()
    with pytest.raises(ValueError, match="sample_weight is 0 for every row that has a target"):
        small(structure=structure).fit(X, apart, sample_weight=np.arange(N) < N // 2 - 1)


def test_missing_targets_of_nullable_types():
    nullable = pd.DataFrame({"a": pd.array(np.round(Y), dtype="Int64"), "b": pd.array(X[:, 2], dtype="Float64")})
    nullable.loc[3, "a"] = pd.NA
    plain = np.column_stack([np.round(Y), X[:, 2]])
    plain[3, 0] = np.nan
    one, other = (small(max_epochs=2).fit(X, y) for y in (nullable, plain))
    np.testing.assert_array_equal(one.predict(X), other.predict(X))


def test_quantiles_of_counts_beside_another_target_are_counts():
    rng = np.random.default_rng(0)
    y = np.column_stack([rng.poisson(np.exp(1 + X[:, 0] / 2)), X[:, 1]])
    model = small(structure="joint", target_likelihood="auto", max_epochs=3).fit(X, y)
    found = model.predict_quantiles(X, [0.05, 0.5, 0.95])
    assert (found[:, 0] == np.rint(found[:, 0])).all()
    assert found[:, 0].min() >= 0
    assert not np.signbit(found[:, 0]).any()
    assert (found[:, 1] != np.rint(found[:, 1])).any()


def test_a_fit_that_fails_leaves_no_model_in_other_units():
    model = small(max_epochs=1).fit(X, Y)
    with pytest.raises(ValueError, match="inconsistent"):
        model.fit(X[:-1], 1000 * Y)
    with pytest.raises(NotFittedError):
        model.predict(X)


def test_the_same_targets_held_otherwise():
    model = small(max_epochs=2).fit(X, HOLES)
    for name, y in CONTAINERS.items():
        same = small(max_epochs=2).fit(X, y)
        np.testing.assert_array_equal(same.predict(X).ravel(), model.predict(X), err_msg=name)
        assert same.score(X, y) == model.score(X, HOLES)


# Generation


def test_generated_rows_have_the_target_asked_for(model):
    wanted = np.linspace(70, 130, 150)
    rows, y = model.sample(150, y=wanted, random_state=0)
    np.testing.assert_array_equal(y, wanted)
    assert stats.pearsonr(model.predict(rows), wanted).statistic > 0.5
    # The column that grows with y in the data does so here.
    assert stats.linregress(wanted, rows[:, 0]).slope == pytest.approx(1 / 20, rel=0.4)
    rows, y = model.sample(60, y=120.0, random_state=0)
    assert (y == 120).all()
    assert model.predict(rows).mean() == pytest.approx(118, abs=8)


def test_generated_pairs_are_like_the_data(model):
    rows, y = model.sample(1_000, random_state=0)
    assert stats.pearsonr(rows[:, 0], y).statistic == pytest.approx(stats.pearsonr(X[:, 0], Y).statistic, abs=0.15)
    assert y.mean() == pytest.approx(Y.mean(), abs=4)
    assert y.std() == pytest.approx(Y.std(), rel=0.25)
    for given in (None, 100.0):
        again = [model.sample(20, y=given, random_state=1) for _ in range(2)]
        np.testing.assert_array_equal(again[0][0], again[1][0])
        np.testing.assert_array_equal(again[0][1], again[1][1])
        assert not np.array_equal(model.sample(20, y=given)[0], model.sample(20, y=given)[0])


def test_rows_at_other_targets(model):
    """Traversal moves the prediction; to the target that a row is predicted to have, it changes nothing."""
    answers = [model.predict(rows) for rows in model.traverse(X, [70.0, 100.0, 130.0])]
    assert (answers[0] < answers[1]).mean() > 0.95
    assert (answers[1] < answers[2]).mean() > 0.95
    (same,) = model.traverse(X[:1], model.predict(X[:1]))
    np.testing.assert_allclose(same, X[:1], atol=1e-3)


def test_latents_grow_along_the_direction(model):
    direction = model.latent_direction_
    assert np.linalg.norm(direction) == pytest.approx(1)
    assert stats.pearsonr(model.transform(X) @ direction, Y).statistic > 0.8
    np.testing.assert_array_equal(model.transform(X), model.vae_.transform(X))


# Choices


def test_auto_takes_what_predicts_held_out_targets_best():
    model = small(structure="auto", target_weight="auto", max_epochs=8).fit(X, Y)
    assert {trial["structure"] for trial in model.trials_} == set(STRUCTURES)
    assert len({trial["target_weight"] for trial in model.trials_}) > 1
    of_chosen = [
        trial
        for trial in model.trials_
        if (trial["structure"], trial["target_weight"]) == (model.structure_, model.target_weight_)
        and trial["dropout"] == model._task.dropout
    ]
    chosen, final = of_chosen
    assert (chosen["max_epochs"], final["max_epochs"]) == (2, 8)
    assert chosen["log_p_y"] >= model.trials_[0]["log_p_y"]  # the default gives way only to what is better
    info = model.history_.info
    assert (info["structure"], info["target_weight"]) == (model.structure_, model.target_weight_)
    few = small(structure="auto", target_weight="auto", max_epochs=2).fit(X[:60], Y[:60])
    assert few.trials_ == []


def test_the_longer_plan_is_kept_only_if_it_predicts_better():
    model = small(structure="joint", max_epochs="auto", patience=3).fit(X, Y)
    short, *longer = model.trials_
    overfits = model.history_.info["stopped"] == "early" if not longer else False
    assert longer or overfits or model.history_.info["best_epoch"] <= 0.75 * short["max_epochs"]
    best = max(model.trials_, key=lambda trial: trial["log_p_y"])
    assert model.vae_.settings_["max_epochs"] == best["max_epochs"]


def test_the_best_epoch_is_that_of_held_out_targets(prior_model):
    history = prior_model.history_
    held_out = history["validation_log_p_y"]
    assert held_out.index(max(held_out)) == history.info["best_epoch"] - 1
    y, rows = Y, prior_model.predict_distribution(X)
    assert rows.log_prob(y).mean() == pytest.approx(max(held_out), abs=1)


# Recall


@pytest.fixture(scope="module")
def recalling():
    """Rows in pairs, whose target no network learns."""
    return small(max_epochs=3, calibration_fraction=0.2).fit(PAIRS, NOISE)


PAIRS, NOISE = np.repeat(X, 2, axis=0), np.repeat(np.random.default_rng(7).normal(size=N), 2)


def test_what_comes_again_is_recalled(recalling):
    assert recalling.recall_ is not None
    assert recalling.score(PAIRS, NOISE) > 0.5
    never = small(max_epochs=3, recall=False).fit(PAIRS, NOISE)
    assert never.recall_ is None
    assert never.score(PAIRS, NOISE) < 0.2


def test_rows_that_calibrate_are_not_recalled(recalling):
    assert len(recalling.recall_.points) == 2 * N - len(recalling._residuals)
    assert len(recalling._residuals) == round(0.2 * 2 * N)


def test_what_comes_again_in_no_way_is_not_recalled():
    rng = np.random.default_rng(0)
    assert small(max_epochs=3).fit(rng.normal(size=(N, 4)), rng.normal(size=N)).recall_ is None


def test_trials_of_another_fit_do_not_recall_the_rows_of_the_one_before(recalling):
    anew, again = clone(recalling), clone(recalling)
    anew.fit(X, Y)
    again.fit(PAIRS, NOISE).fit(X, Y)
    assert again.trials_ == anew.trials_
    np.testing.assert_array_equal(again.predict(X), anew.predict(X))


def test_recall_is_saved(recalling, tmp_path):
    recalling.save(tmp_path / "model")
    loaded = load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict(PAIRS), recalling.predict(PAIRS))
    np.testing.assert_array_equal(loaded.predict_interval(PAIRS), recalling.predict_interval(PAIRS))


@pytest.mark.parametrize("prior", ["vamp", "mixture"])
def test_a_prior_of_one_s_own(prior):
    with pytest.raises(ValueError, match=r"structure='prior' brings its own prior.*contradicts prior=.*'joint'"):
        small(prior=prior).fit(X, Y)
    model = small(prior=prior, structure="auto", max_epochs=2).fit(X, Y)
    assert model.structure_ == "joint"
    assert type(model.vae_.prior_).alias == prior


@every_structure
def test_an_ensemble_is_the_mixture_of_its_members(structure):
    model = small(structure=structure, n_estimators=3, max_epochs=4).fit(X, Y)
    rows = model.vae_._rows(X)
    alone = [model._predictive_of([member], rows) for member in model.estimators_]
    together = model._predictive_of(model.estimators_, rows)
    np.testing.assert_allclose(model.predict(X), np.mean([one.mean() for one in alone], axis=0), rtol=1e-5)
    mixed = np.log(np.mean([np.exp(one.log_prob(Y)) for one in alone], axis=0))
    np.testing.assert_allclose(together.log_prob(Y), mixed, atol=1e-4)
    np.testing.assert_allclose(together.cdf(Y), np.mean([one.cdf(Y) for one in alone], axis=0), atol=1e-5)
    assert len({tuple(one.mean()) for one in alone}) == 3


# Intervals


@pytest.mark.parametrize(("n", "coverage"), [(99, 0.55), (99, 0.9), (20, 0.5), (19, 0.95), (40, 0.123), (9, 0.9)])
def test_the_exact_residual(n, coverage, prior_model):
    """The ⌈(n + 1) coverage⌉-th smallest, in exact arithmetic."""
    model = pickle.loads(pickle.dumps(prior_model))
    model._residuals = np.random.default_rng(0).permutation(np.arange(1.0, n + 1)).reshape(-1, 1)
    rank = -((-(n + 1) * Fraction(str(coverage))) // 1)
    mean, std = model.predict(X[:3], return_std=True)
    expected = np.stack([mean - rank * std, mean + rank * std], axis=1).astype(float)
    np.testing.assert_allclose(model.predict_interval(X[:3], coverage), expected)


def test_intervals_cover_as_promised():
    """Of rows like those that calibrate, whatever the model is worth: within the error of both."""
    for params in ({"max_epochs": 1}, {"structure": "joint", "max_epochs": 6}):
        X, y = data(700, seed=2)
        model = small(calibration_fraction=0.5, **params).fit(X, y)
        new, truth = data(2_000, seed=3)
        for coverage in (0.5, 0.9):
            low, high = model.predict_interval(new, coverage).T
            error = np.sqrt(coverage * (1 - coverage) * (1 / 350 + 1 / 2_000))
            assert np.mean((low <= truth) & (truth <= high)) == pytest.approx(coverage, abs=4 * error)


def test_intervals_of_several_targets():
    model = small(max_epochs=4, calibration_fraction=0.3).fit(X, TWO)
    mean, std = model.predict(X, return_std=True)
    low, high = np.moveaxis(model.predict_interval(X, 0.8), -1, 0)
    reach = np.sort(model._residuals, axis=0)[int(np.ceil(73 * 0.8)) - 1]
    np.testing.assert_allclose(high - mean, std * reach)
    np.testing.assert_allclose(mean - low, std * reach)


def test_too_few_rows_to_calibrate(prior_model):
    with pytest.raises(ValueError, match=r"coverage=0.99 needs at least 99 rows to calibrate on, and 24 were set"):
        prior_model.predict_interval(X, 0.99)
    none = small(calibration_fraction=0, max_epochs=1).fit(X, Y)
    few = small(max_epochs=1).fit(X[:60], Y[:60])
    for model in (none, few):
        with pytest.raises(ValueError, match=r"coverage=0.9 needs at least 9 rows .*, and 0 were.*more labelled"):
            model.predict_interval(X)


def test_a_prediction_without_spread_has_an_interval(monkeypatch):
    """Where the model is certain, as of a target at its cap, there is no spread to divide an error by."""

    def std(self):
        found = self.mean() * 0 + 1
        found[::2] = 0
        return found

    monkeypatch.setattr(Predictive, "std", std)
    model = small(max_epochs=1).fit(X, Y)
    assert np.isfinite(model._residuals).all()
    assert np.isfinite(model.predict_interval(X[:4])).all()


@pytest.mark.parametrize("coverage", [0, 1, -0.1, 1.5, 90, np.nan, None, "most"])
def test_coverage_is_a_share(coverage, prior_model):
    with pytest.raises(ValueError, match=rf"coverage={coverage!r}: expected a share in \(0, 1\)"):
        prior_model.predict_interval(X, coverage)


# Tables


def mixed(n=130):
    rng = np.random.default_rng(0)
    z = rng.normal(size=n)
    frame = pd.DataFrame(
        {
            "size": 50 + 10 * z,
            "rooms": pd.array(rng.poisson(3, n), dtype="Int64"),
            "town": pd.array(np.where(z > 0, "Bern", "Genf"), dtype="str"),
            "grade": pd.Categorical(rng.choice(["low", "high"], n), ["low", "high"], ordered=True),
        }
    )
    return frame.mask(rng.random(frame.shape) < 0.2), 3 * z + 0.3 * rng.normal(size=n)


@pytest.mark.parametrize("to", [lambda f: f, lambda f: pl.from_pandas(f)], ids=["pandas", "polars"])
def test_mixed_tables_with_holes(to):
    frame, y = mixed()
    table = to(frame)
    model = small(likelihood="auto", max_epochs=12).fit(table, y)
    assert model.score(table, y) > 0.5
    assert model.feature_names_in_.tolist() == list(frame)
    for like in (model.sample(10, y=4.0)[0], model.sample(10)[0], *model.traverse(table, [0.0])):
        assert type(like) is type(table)
        assert list(like.columns) == list(table.columns)
        assert list(like.dtypes) == list(table.dtypes)
    empty = frame.iloc[:2].astype(object)
    empty[:] = None
    assert np.isfinite(model.predict(to(empty.astype(frame.dtypes)))).all()


def test_rows_may_come_from_a_file(tmp_path):
    path = tmp_path / "rows.csv"
    pl.DataFrame(X, schema=list("abcd")).write_csv(path)
    model = small(max_epochs=1).fit(path, Y)
    np.testing.assert_allclose(model.predict(str(path)), small(max_epochs=1).fit(X, Y).predict(X), rtol=1e-5)


# What is refused


def at(row, value):
    y = Y.astype(object)
    y[row] = value
    return y


BAD_TARGETS = {
    "infinity": (lambda: at(7, np.inf), r"y contains infinity \(row 7\); mark it missing \(NaN\)"),
    "minus infinity": (lambda: np.where(np.arange(N) == 3, -np.inf, Y), r"infinity \(row 3\)"),
    "text": (lambda: at(7, "n/a"), r"y holds text \('n/a'\); a regression needs numbers.*VAEClassifier"),
    "numbers and text in a list": (lambda: [1.0, "n/a"] * (N // 2), r"y holds text \('n/a'\)"),
    "names": (lambda: np.array(["a", "b"] * (N // 2)), r"y holds text \('a'\)"),
    "a name": (lambda: "price", r"y='price' is text; pass the column itself.*X.pop\('price'\)"),
    "no label": (lambda: Y * np.nan, "y holds no number at all.*every row is unlabelled; use VAE"),
    "no label of one": (lambda: np.column_stack([Y, Y * np.nan]), "y holds no number at all for a target"),
    "nothing": (lambda: None, "requires y to be passed, but the target y is None"),
    "three dimensions": (lambda: Y.reshape(-1, 1, 1), r"y has shape \(240, 1, 1\); expected \[n\] or"),
    "fewer rows": (lambda: Y[:-1], r"inconsistent numbers of samples: \[240, 239\]"),
    "complex": (lambda: Y + 1j, "Complex data not supported"),
    "dates": (lambda: np.arange(N).astype("M8[D]"), "dates or durations; a regression needs numbers"),
    "durations": (lambda: pd.Series(pd.to_timedelta(np.arange(N), unit="D")), "dates or durations"),
    "things": (lambda: [{}] * N, "y cannot be read as numbers"),
}


@pytest.mark.parametrize("case", BAD_TARGETS)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_targets_refused(method, case):
    make, message = BAD_TARGETS[case]
    with pytest.raises(ValueError, match=message):
        getattr(small(), method)(X, make())


def test_targets_refused_later():
    model = small(warm_start=True).partial_fit(X, Y)
    before = model.predict(X)
    for case, (make, message) in BAD_TARGETS.items():
        for method in (model.partial_fit, model.fit):
            if not case.startswith("no label"):
                with pytest.raises(ValueError, match=message):
                    method(X, make())
    np.testing.assert_array_equal(model.predict(X), before)


def test_other_number_of_targets(prior_model):
    for ask in (prior_model.score, pickle.loads(pickle.dumps(prior_model)).partial_fit):
        with pytest.raises(ValueError, match="y has 2 targets, but had 1 at fit"):
            ask(X, TWO)
    with pytest.raises(ValueError, match="nothing to score; pass rows that have a target"):
        prior_model.score(X, Y * np.nan)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.nan, "y=nan: expected finite numbers, 1 for each row"),
        (np.inf, "expected finite numbers"),
        ([100.0, 90.0], r"y has shape \(2,\); expected a finite number, or one for each of the 5 samples"),
        (["much"], r"y holds text \('much'\)"),
    ],
    ids=str,
)
def test_targets_that_cannot_be_asked_for(y, message, prior_model):
    with pytest.raises(ValueError, match=message):
        prior_model.sample(5, y=y)
    if "shape" not in message:
        with pytest.raises(ValueError, match=message):
            prior_model.traverse(X[:5], y)


def test_shapes_of_several_targets_asked_for(two):
    for y in ([[1, 2, 3], [10, 20, 30]], [1, 2, 3, 4], [[1], [2]]):
        with pytest.raises(ValueError, match="expected finite numbers, 2 for each row"):
            two.sample(3, y=y)
        with pytest.raises(ValueError, match="expected finite numbers, 2 for each row"):
            two.traverse(X[:2], y)
    assert two.sample(3, y=[90.0, 0.5])[1].tolist() == [[90.0, 0.5]] * 3
    assert len(two.traverse(X[:2], [90.0, 0.5])) == 1


def test_scores_of_another_number_of_rows(prior_model):
    with pytest.raises(ValueError, match="inconsistent"):
        prior_model.score(X, Y[:-1])
    assert prior_model.score(X, Y[:, None]) == prior_model.score(X, Y)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"structure": "m2"}, r"structure='m2': expected one of \('auto', 'prior', 'joint'\)"),
        ({"structure": None}, "structure=None: expected one of"),
        ({"target_weight": 0}, "target_weight=0: expected 'auto' or a number > 0"),
        ({"target_weight": np.inf}, "target_weight=inf"),
        ({"target_weight": "large"}, "target_weight='large'"),
        ({"n_estimators": 0}, "n_estimators=0: expected 'auto' or a whole number ≥ 1"),
        ({"n_estimators": 1.5}, "n_estimators=1.5"),
        ({"calibration_fraction": -0.1}, r"calibration_fraction=-0.1: expected a share in \[0, 1\)"),
        ({"calibration_fraction": 1}, "calibration_fraction=1: expected"),
        ({"calibration_fraction": "some"}, "calibration_fraction='some': expected"),
        ({"validation_fraction": 0.95}, "validation_fraction=0.95 and calibration_fraction=0.1 leave none of 240"),
        ({"target_likelihood": "poisson"}, r"Poisson\(\) cannot score column 'y' \(continuous\)"),
        ({"target_likelihood": "normal"}, "likelihood='normal' is not understood; expected one of"),
        ({"target_likelihood": {"z": "gaussian"}}, "likelihood names 'z'"),
        ({"latent_dim": 0}, "latent_dim=0: expected"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_parameters_refused(params, message):
    with pytest.raises(ValueError, match=message):
        small(**params).fit(X, Y)


def test_unknown_parameters():
    with pytest.raises(TypeError, match="VAERegressor has no parameter 'colour'"):
        VAERegressor(colour="red")
    with pytest.raises(TypeError):
        VAERegressor("prior")


def test_counts_are_not_negative():
    with pytest.raises(ValueError, match=r"Poisson\(\) scores counts, and column 'y' goes down to -2; shift it"):
        small(target_likelihood="poisson").fit(X, np.arange(N) % 5 - 2)


def test_tables_refused(prior_model):
    with pytest.raises(ColumnError, match="holds inf"):
        prior_model.predict(np.where(X > 2, np.inf, X))
    with pytest.raises(ValueError, match="X has 3 features"):
        prior_model.predict(X[:, :3])


@pytest.mark.parametrize(
    "ask",
    [
        lambda m: m.predict(X),
        lambda m: m.predict_interval(X),
        lambda m: m.predict_quantiles(X),
        lambda m: m.predict_distribution(X),
        lambda m: m.score(X, Y),
        lambda m: m.sample(2),
        lambda m: m.sample(2, y=1.0),
        lambda m: m.traverse(X, [1.0]),
        lambda m: m.transform(X),
        lambda m: m.latent_direction_,
        lambda m: m.target_likelihood_,
    ],
)
def test_questions_need_a_fit(ask):
    with pytest.raises(NotFittedError):
        ask(small())


# Training further, and randomness


def test_partial_fit_improves():
    model = small(target_weight=10.0)
    scores = []
    for call in range(10):
        some = slice(0, 160) if call % 2 else slice(80, N)
        scores.append(model.partial_fit(X[some], Y[some]).score(X, Y))
    assert scores[-1] > max(0.8, scores[0] + 0.1)
    assert model.history_["epoch"] == list(range(1, 11))


def test_later_rows_without_a_target():
    partly = small().partial_fit(X, HOLES)
    assert np.isfinite(partly.partial_fit(X, HOLES).predict(X)).all()
    with pytest.raises(ValueError, match="y has rows without a target, and all had one when"):
        small().partial_fit(X, Y).partial_fit(X, HOLES)
    small(structure="joint").partial_fit(X, Y).partial_fit(X, HOLES)


def test_warm_start_holds_the_same_rows_out(monkeypatch):
    """Rows that calibrate have served no member, at any fit."""
    trained, kept = [], []
    inner = VAERegressor._held_out

    def spy(self, rows, seed, member=0):
        pieces = inner(self, rows, seed, member)
        trained.append(set(pieces[0].index.tolist()) | set(pieces[1].index.tolist()))
        kept.append(set(pieces[2].index.tolist()))
        return pieces

    monkeypatch.setattr(VAERegressor, "_held_out", spy)
    model = small(warm_start=True, n_estimators=2, max_epochs=2).fit(X, Y)
    members = model.estimators_
    model.fit(X, Y)
    assert model.estimators_ == members
    assert len(model.history_) == 4
    assert len(kept) == 4
    assert not set.union(*trained) & set.union(*kept)


@pytest.mark.parametrize(
    "changed",
    [
        {"structure": "joint"},
        {"target_weight": 3.0},
        {"n_estimators": 2},
        {"target_likelihood": "student-t"},
        {"target_likelihood": "auto"},
    ],
    ids=str,
)
def test_a_continued_fit_refuses_another_model(changed):
    model = small(warm_start=True, max_epochs=1).fit(X, Y).set_params(**changed)
    name, value = next(iter(changed.items()))
    for method in (model.fit, model.partial_fit):
        with pytest.raises(ValueError, match=rf"{name}={value!r}, but .*made with.*warm_start=False"):
            method(X, Y)


def test_the_same_seed_gives_the_same_predictions():
    params = {"max_epochs": 2, "n_estimators": 2, "structure": "auto", "target_weight": "auto"}
    first, again, other = (small(**params, random_state=seed).fit(X, HOLES).predict(X) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_a_row_s_prediction_does_not_depend_on_its_neighbours(model):
    np.testing.assert_allclose(model.predict(X[:1]), model.predict(X)[:1], rtol=1e-5)
    np.testing.assert_array_equal(model.predict(X), model.predict(X))


@pytest.mark.parametrize("random_state", [None, 0])
def test_the_caller_s_random_streams_are_left_alone(random_state):
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    y = np.where(np.arange(N) % 2, Y, np.nan)
    model = small(structure="auto", max_epochs=1, random_state=random_state).fit(X, y)
    model.predict_interval(X, 0.5)
    model.sample(3)
    model.sample(3, y=100.0)
    model.traverse(X[:3], [1.0])
    model.partial_fit(X, y)
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert pickle.dumps(np.random.get_state()) == pickle.dumps(numpy_before)  # noqa: NPY002


def test_rows_of_weight_zero_are_not_learned_from():
    spoilt = np.r_[Y, Y[::-1]]
    weight = np.r_[np.ones(N), np.zeros(N)]
    model = small().fit(np.vstack([X, X]), spoilt, sample_weight=weight)
    assert model.score(X, Y) > 0.8


def test_a_constant_target():
    model = small(max_epochs=8).fit(X, np.full(N, 7.0))
    np.testing.assert_allclose(model.predict(X), 7, atol=0.5)


@every_structure
def test_recorded_steps_do_what_plain_ones_do(structure, monkeypatch):
    fast = small(structure=structure, max_epochs=2).fit(X, HOLES)
    monkeypatch.setattr(Steps, "_record", lambda self, inputs: None)
    plain = small(structure=structure, max_epochs=2).fit(X, HOLES)
    np.testing.assert_allclose(fast.predict(X), plain.predict(X), rtol=1e-5)
