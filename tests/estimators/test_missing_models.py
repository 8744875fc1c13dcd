"""VAE(missing=…): what is missing because of what it is, is found out."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.polynomial import hermite_e
from scipy import optimize, special, stats

import skvae
from skvae import SelfMasking, VAEClassifier, VAEImputer, VAERegressor
from skvae.model import IWAE

N = 2_000
LINEAR = {"latent_dim": 1, "hidden_sizes": (), "likelihood": "gaussian", "random_state": 0}
LINEAR |= {"max_epochs": 60, "batch_size": 256, "learning_rate": 0.03}


@pytest.fixture(scope="module")
def truth():
    """Two columns of one cause; large entries of the second are missing."""
    rng = np.random.default_rng(0)
    cause = rng.normal(size=N)
    X = np.column_stack([cause + 0.5 * rng.normal(size=N), 2 + 3 * (0.8 * cause + 0.6 * rng.normal(size=N))])
    hole = rng.random(N) < special.expit(3 * ((X[:, 1] - 2) / 3 - 0.5))
    return X, hole


@pytest.fixture(scope="module")
def X(truth):
    whole, hole = truth
    return np.column_stack([whole[:, 0], np.where(hole, np.nan, whole[:, 1])])


@pytest.fixture(scope="module")
def ignoring(X):
    return skvae.VAE(**LINEAR).fit(X)


@pytest.fixture(scope="module")
def masking(X):
    return skvae.VAE(**LINEAR, missing="self-masking").fit(X)


def log_likelihood(params, x, seen):
    """Of a normal column by itself whose entries are missing by a logistic rule, by Gauss–Hermite quadrature."""
    mean, log_scale, slope, intercept = params
    nodes, weights = hermite_e.hermegauss(40)
    p_hole = weights @ special.expit(intercept + slope * (mean + np.exp(log_scale) * nodes)) / weights.sum()
    shown = stats.norm.logpdf(x, mean, np.exp(log_scale)) + special.log_expit(-(intercept + slope * x))
    return shown[seen].sum() + (~seen).sum() * np.log(p_hole)


def test_one_normal_column_by_maximum_likelihood():
    """The estimate is that of maximum likelihood, and nearer to the truth than that of the entries seen."""
    rng = np.random.default_rng(1)
    whole = rng.normal(size=6_000)
    seen = rng.random(6_000) > special.expit(4 * (whole - 0.8))
    x = np.where(seen, whole, 0.0)
    best = optimize.minimize(lambda p: -log_likelihood(p, x, seen), [0.0, 0.0, 1.0, -1.0], method="Nelder-Mead")
    column = np.where(seen, whole, np.nan)[:, None]
    vae = skvae.VAE(
        **LINEAR | {"max_epochs": 60, "batch_size": 512, "learning_rate": 0.1}, missing="self-masking"
    ).fit(column)
    part, offset, scale = vae.model_.missing, np.nanmean(column), np.nanstd(column)
    mean = vae.sample(100_000, decode="mean", random_state=0).mean()
    observed = np.nanmean(column)
    assert abs(mean - best.x[0]) < 0.1
    assert abs(mean) < 0.35 * abs(observed)
    assert part.slope.item() / scale == pytest.approx(best.x[2], rel=0.25)
    at_offset = part.intercept.item() - part.slope.item() * offset / scale
    assert at_offset == pytest.approx(best.x[3], abs=0.6)


def test_the_mean_is_recovered(truth, X, ignoring, masking):
    drawn = {
        name: vae.sample(20_000, decode="mean", random_state=0)[:, 1]
        for name, vae in [("ignore", ignoring), ("self-masking", masking)]
    }
    error = {name: abs(np.mean(values) - truth[0][:, 1].mean()) for name, values in drawn.items()}
    assert error["self-masking"] < 0.4 * error["ignore"]


def test_holes_are_filled_with_what_is_missing(truth, X, ignoring, masking):
    whole, hole = truth

    def bias(filled):
        return abs(np.mean(filled[hole, 1]) - np.mean(whole[hole, 1]))

    assert bias(masking.impute(X)) < 0.4 * bias(ignoring.impute(X))
    draws = masking.impute(X, 1)[0]
    assert bias(draws) < 0.4 * bias(ignoring.impute(X, 1)[0])
    spread = np.std(draws[hole, 1]) / np.std(whole[hole, 1])
    assert 0.8 < spread < 1.2


def test_draws_have_holes_like_the_rows(truth, X, ignoring, masking):
    assert not np.isnan(ignoring.sample(500, random_state=0)).any()
    assert not np.isnan(masking.sample(500, decode="mean", random_state=0)).any()
    drawn = masking.sample(20_000, random_state=0)
    np.testing.assert_allclose(np.isnan(drawn).mean(0), np.isnan(X).mean(0), atol=0.03)
    # Rows without a hole are so for the same reason.
    assert np.nanmean(drawn[:, 1]) == pytest.approx(np.nanmean(X[:, 1]), abs=0.15)


def test_the_score_counts_the_mask(X, masking):
    """Over whether the entry is there, and what it is, the probabilities add up."""
    row = np.array([[0.3, np.nan]])
    grid = np.linspace(-20, 25, 401)
    rows = np.column_stack([np.full(len(grid), 0.3), grid])
    there = np.trapezoid(np.exp(masking.score_samples(rows, 100).astype(float)), grid)
    gone = np.exp(float(masking.score_samples(row, 100)[0]))
    alone = np.exp(stats.norm.logpdf(0.3, X[:, 0].mean(), X[:, 0].std()))
    assert there + gone == pytest.approx(alone, rel=0.05)


@pytest.mark.parametrize("missing", ["self-masking", "linear"])
def test_steps_are_recorded(missing, X):
    vae = skvae.VAE(latent_dim=2, hidden_sizes=(8,), max_epochs=2, missing=missing, random_state=0).fit(X[:200])
    assert vae.history_.info["steps"] == "recorded"


def test_a_mask_that_follows_from_another_column():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 1_500))
    X = np.column_stack([first, np.where(rng.random(1_500) < special.expit(3 * first - 1), np.nan, second)])
    vae = skvae.VAE(**LINEAR, missing="linear").fit(X)
    drawn = vae.sample(20_000, random_state=0)
    hole, drawn_hole = np.isnan(X[:, 1]), np.isnan(drawn[:, 1])
    assert drawn_hole.mean() == pytest.approx(hole.mean(), abs=0.03)
    assert drawn[drawn_hole, 0].mean() == pytest.approx(X[hole, 0].mean(), abs=0.15)
    assert not np.isnan(drawn[:, 0]).any()


def mixed(n=100):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "real": rng.normal(size=n),
            "count": pd.array(rng.poisson(3, n), dtype="Int64"),
            "yes": pd.array(rng.random(n) < 0.4, dtype="boolean"),
            "word": pd.array(rng.choice(["a", "b", "c"], n), dtype="str"),
            "level": pd.Categorical(rng.choice(["lo", "hi"], n), ["lo", "mid", "hi"], ordered=True),
            "day": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 99, n), "D"),
        }
    )
    return frame.mask(rng.random(frame.shape) < 0.3).assign(whole=rng.normal(size=n))


# Their quantiles have a closed form, which makes steps short.
QUICK = {"likelihood": dict.fromkeys(("continuous", "integer", "date"), "gaussian")}


def small(**params):
    return skvae.VAE(**{"latent_dim": 2, "hidden_sizes": (8,), "max_epochs": 2, "random_state": 0} | QUICK | params)


@pytest.mark.parametrize(
    ("missing", "objective"),
    [(SelfMasking(), IWAE(n_draws=2)), ("linear", "elbo")],
    ids=str,
)
def test_mixed_frames(missing, objective, tmp_path):
    frame = mixed()
    vae = small(missing=missing, objective=objective).fit(frame)
    drawn = vae.sample(400, random_state=0)
    pd.testing.assert_series_equal(drawn.dtypes, frame.dtypes)
    rates = drawn.isna().mean()
    np.testing.assert_allclose(rates, frame.isna().mean(), atol=0.15)
    assert rates["whole"] == 0
    assert not vae.impute(frame).isna().any(axis=None)
    assert np.isfinite(vae.score_samples(frame, 10)).all()
    assert np.isfinite(vae.elbo(frame, 10)).all()
    assert vae.diagnose(frame, 10).to_dict()
    vae.save(tmp_path / "model")
    loaded = skvae.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.score_samples(frame, 10), vae.score_samples(frame, 10))
    pd.testing.assert_frame_equal(loaded.sample(50, random_state=1), vae.sample(50, random_state=1))
    pd.testing.assert_frame_equal(loaded.impute(frame, 2, 10)[1], vae.impute(frame, 2, 10)[1])


@pytest.mark.parametrize("container", ["polars", "pyarrow", "numpy"])
def test_holes_in_other_containers(container):
    frame = mixed()
    rows = {
        "polars": lambda: pl.from_pandas(frame),
        "pyarrow": lambda: pl.from_pandas(frame).to_arrow(),
        "numpy": lambda: frame[["real", "whole"]].to_numpy(),
    }[container]()
    drawn = small(missing="self-masking").fit(rows).sample(200, random_state=0)
    if container == "numpy":
        assert np.isnan(drawn[:, 0]).any()
        assert not np.isnan(drawn[:, 1]).any()
        return
    assert drawn.schema == rows.schema
    drawn = drawn if container == "polars" else pl.from_arrow(drawn)
    assert all(drawn[name].null_count() > 0 for name in frame.columns[:-1])
    assert drawn["whole"].null_count() == 0


def test_where_nothing_is_missing_nothing_changes():
    whole = mixed()[["whole"]].assign(other=np.arange(100.0) % 7)
    one, other = (small(missing=missing, likelihood="auto").fit(whole) for missing in ("ignore", "linear"))
    np.testing.assert_array_equal(one.score_samples(whole), other.score_samples(whole))
    assert not other.sample(50, random_state=0).isna().any(axis=None)


def test_estimators_made_of_it_take_it_too():
    frame = mixed()
    y = np.arange(len(frame)) % 2
    params = {"hidden_sizes": (8,), "max_epochs": 2, "random_state": 0, "missing": "self-masking"} | QUICK
    for estimator in (VAERegressor(**params), *(VAEClassifier(structure=s, **params) for s in ("joint", "m2"))):
        assert len(estimator.fit(frame, y).predict(frame)) == len(frame)
        assert (
            "mask"
            in estimator.vae_.model_(estimator.vae_._rows(frame), estimator.vae_._shared_noise(2).unsqueeze(1)).log_p
        )
    assert not VAEImputer(**params).fit_transform(frame).isna().any(axis=None)


@pytest.mark.parametrize("missing", ["mnar", None, True, 3])
def test_unknown_names_are_refused(missing):
    with pytest.raises(
        ValueError, match=r"missing=.* is not understood; expected one of \['ignore', 'linear', 'self"
    ):
        small(missing=missing).fit(mixed())


def test_a_continued_fit_keeps_it():
    vae = small(warm_start=True).fit(mixed()).set_params(missing="linear")
    with pytest.raises(ValueError, match="missing='linear', but the model to be continued was made with 'ignore'"):
        vae.fit(mixed())
