"""Parameters and tables that VAE refuses, and extreme ones that it does not."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

from skvae import ELBO, MLP, VAE, Bernoulli, ColumnError, Gaussian, StandardNormal


def small(**params):
    defaults = {"latent_dim": 2, "hidden_sizes": (8,), "max_epochs": 2, "random_state": 0}
    return VAE(**defaults | params)


@pytest.fixture(scope="module")
def X():
    return np.random.default_rng(0).normal(size=(60, 3))


@pytest.fixture(scope="module")
def frame(X):
    return pd.DataFrame(X, columns=list("abc"))


@pytest.fixture(scope="module")
def vae(frame):
    return small().fit(frame)


WHOLE = "expected 'auto' or a whole number ≥ 1"

BAD_PARAMETERS = {
    "latent_dim": (WHOLE, [0, -1, 1.5, 2.0, "big", None, True]),
    "hidden_sizes": ("'auto' or a tuple of whole numbers ≥ 1", [(0,), (-1,), (1.5,), "big", 8, None, ("a",)]),
    "max_epochs": (WHOLE, [0, -1, 1.5, "many", None]),
    "batch_size": (WHOLE, [0, -1, 1.5, "many", None]),
    "learning_rate": ("expected 'auto' or a number > 0", [0, -1.0, np.inf, np.nan, "fast", None]),
    "validation_fraction": (r"expected a share of rows in \(0, 1\)", [0, 1, -0.1, 1.5, np.nan, "half"]),
    "patience": ("expected 'auto' or a whole number ≥ 1", [0, -1, 1.5, "long", None]),
    "quality": ("expected one of .*'high'", ["best", None, 1]),
    "masking": (r"expected 'auto' or a share of rows in \[0, 1\]", [-0.1, 1.1, np.nan, "half", None]),
    "handle_unknown": ("expected 'error' or 'missing'", ["ignore", None]),
    "compile": ("expected True, False or 'auto'", ["yes", None, 3]),
    "column_kinds": ("column_kinds", [{"a": "continuous"}, {0: "colour"}, {7: "continuous"}]),
    "random_state": ("[Ss]eed", [-1, 1.5, "x"]),
    "likelihood": ("not understood", ["poison", None, 3, Gaussian, Gaussian("diagonal"), StandardNormal()]),
    "prior": ("not understood", ["better", None, 3, StandardNormal, ELBO()]),
    "posterior": ("not understood", ["better", None, 3, StandardNormal()]),
    "objective": ("not understood", ["better", None, 3, ELBO, StandardNormal()]),
    "encoder": ("not understood", ["deep", 3, torch.nn.Identity, MLP((4,), activation="step")]),
    "decoder": ("not understood", ["deep", 3, torch.nn.Identity, MLP((4,), activation="step")]),
}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [(name, value, message) for name, (message, values) in BAD_PARAMETERS.items() for value in values],
)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_bad_parameters(method, name, value, message, X):
    with pytest.raises(ValueError, match=message) as caught:
        getattr(small(**{name: value}), method)(X)
    if "expected" in message:
        assert f"{name}={value!r}" in str(caught.value)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (ELBO(beta=-1), r"ELBO\(beta=-1\): expected a finite number ≥ 0"),
        (ELBO(beta=np.nan), "expected a finite number ≥ 0"),
        (ELBO(free_bits=-1), "number of nats ≥ 0"),
        (ELBO(warm_up=1), r"share in \[0, 1\)"),
        (ELBO(warm_up=-0.1), r"share in \[0, 1\)"),
        (ELBO(kl="exact"), "expected 'auto', 'closed' or 'monte-carlo'"),
        (ELBO(n_draws=0), "whole number ≥ 1"),
        (ELBO(n_draws=1.5), "whole number ≥ 1"),
        (ELBO(free_bits=0.1, kl="monte-carlo"), "free_bits needs the KL per dimension"),
    ],
)
def test_bad_parameters_of_a_component(objective, message, X):
    with pytest.raises(ValueError, match=message):
        small(objective=objective).fit(X)


def test_hidden_sizes_contradict_two_given_networks(X):
    networks = {"encoder": MLP((4,)), "decoder": MLP((4,))}
    with pytest.raises(ValueError, match=r"hidden_sizes=\(8,\) contradicts encoder and decoder"):
        small(**networks).fit(X)
    small(**networks, hidden_sizes="auto").fit(X)
    small(encoder=MLP((4,))).fit(X)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"encoder": torch.nn.Linear(5, 4)}, r"Linear does not accept an input of shape \[n, 6\]"),
        ({"decoder": torch.nn.Linear(5, 4)}, r"Linear does not accept an input of shape \[n, 2\]"),
        ({"encoder": torch.nn.Flatten(0)}, r"expected \[2, hidden\]"),
    ],
)
def test_networks_that_do_not_fit(params, message, X):
    with pytest.raises(ValueError, match=message):
        small(**params).fit(X)


@pytest.mark.parametrize(
    ("likelihood", "change", "message"),
    [
        ("bernoulli", {}, r"Bernoulli\(\) cannot score column 'a', 'b', 'c' \(continuous\)"),
        (Bernoulli(), {}, "cannot score column 'a'"),
        ("gaussian", {"b": ["x", "y"] * 30}, r"Gaussian\(\) cannot score column 'b' \(binary\)"),
        ("gaussian", {"b": list("xyz") * 20}, r"Gaussian\(\) cannot score column 'b' \(categorical\)"),
        ("categorical", {}, r"Categorical\(\) cannot score column 'a'"),
        ({"b": "bernoulli"}, {}, r"cannot score column 'b' \(continuous\)"),
        ({"d": "gaussian"}, {}, "likelihood names 'd'"),
    ],
)
def test_likelihoods_that_cannot_score_a_column(likelihood, change, message, frame):
    with pytest.raises(ValueError, match=message):
        small(likelihood=likelihood).fit(frame.assign(**change))


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_y_must_have_as_many_rows(method, X):
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[60, 59\]"):
        getattr(small(), method)(X, np.zeros(59))


def with_text(frame):
    return frame.assign(b=frame["b"].astype(object).where(frame["b"] < 1, "n/a"))


BAD_AT_FIT = {
    "no rows": (lambda f: f.iloc[:0], "0 sample"),
    "no columns": (lambda f: f[[]], "0 feature"),
    "one row": (lambda f: f.iloc[:1], "1 sample"),
    "one row of an array": (lambda f: f.to_numpy()[:1], "1 sample"),
    "one dimension": (lambda f: f["a"].to_numpy(), "2D array"),
    "three dimensions": (lambda f: f.to_numpy()[None], "dim 3"),
    "a series": (lambda f: f["a"], "2-dimensional"),
    "nothing": (lambda f: None, "2D array"),
    "a column without entries": (lambda f: f.assign(b=np.nan), "column 'b' has no observed value"),
    "a column of None": (lambda f: f.assign(b=None), "column 'b' has no observed value"),
    "constant columns only": (lambda f: f * 0 + 1, "column 'a' is constant"),
    "infinity": (lambda f: f.where(f < 2, np.inf), r"column 'b' holds inf \(row 26\)"),
    "text among numbers": (with_text, "column 'b' mixes text and numbers"),
    "lists": (lambda f: f.assign(b=[[1]] * 60), r"column 'b' holds \[1\]"),
    "repeated names": (lambda f: f.set_axis(["a", "a", "b"], axis=1), "column 'a' occurs 2 times"),
    "complex numbers": (lambda f: f.to_numpy() + 1j, "[Cc]omplex"),
}


@pytest.mark.parametrize("case", BAD_AT_FIT)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_tables_refused_at_fit(method, case, frame):
    spoil, message = BAD_AT_FIT[case]
    with pytest.raises(ValueError, match=message):
        getattr(small(), method)(spoil(frame))


BAD_AFTERWARDS = {
    "no rows": (lambda f: f.iloc[:0], "0 sample"),
    "infinity": (lambda f: f.where(f < 2, np.inf), r"column 'b' holds inf \(row 26\)"),
    "text": (lambda f: f.assign(b="n/a"), r"column 'b' holds text .*n/a.* but was numeric at fit"),
    "text among numbers": (with_text, "column 'b' mixes text and numbers"),
    "dates": (lambda f: f.assign(b=pd.Timestamp("2020-01-01")), "column 'b' holds dates .* but was numeric at fit"),
    "missing column": (lambda f: f[["a", "c"]], "Feature names seen at fit time, yet now missing:\n- b"),
    "extra column": (lambda f: f.assign(d=[[1]] * 60), "Feature names unseen at fit time:\n- d"),
    "other order": (lambda f: f[["c", "b", "a"]], "Feature names must be in the same order as they were in fit"),
    "other names": (lambda f: f.set_axis(list("xyz"), axis=1), "Feature names unseen at fit time:\n- x\n- y\n- z"),
    "polars, other order": (lambda f: pl.DataFrame(f[["c", "b", "a"]].to_dict("list")), "must be in the same order"),
}


@pytest.mark.parametrize("case", BAD_AFTERWARDS)
@pytest.mark.parametrize(
    "method", ["transform", "posterior", "reconstruct", "score_samples", "score", "elbo", "impute", "diagnose"]
)
def test_tables_refused_after_fit(method, case, frame, vae):
    spoil, message = BAD_AFTERWARDS[case]
    with pytest.raises(ValueError, match=message):
        getattr(vae, method)(spoil(frame))


@pytest.mark.parametrize("case", BAD_AFTERWARDS)
def test_later_chunks_are_checked_like_questions(case, frame):
    spoil, message = BAD_AFTERWARDS[case]
    continued = small(warm_start=True).partial_fit(frame)
    for method in (continued.partial_fit, continued.fit):
        with pytest.raises(ValueError, match=message):
            method(spoil(frame))
    with pytest.raises(ValueError, match=message):
        small().fit(frame, validation_data=spoil(frame))


@pytest.mark.parametrize(
    "as_other",
    [
        lambda f: f.astype(object),
        lambda f: f.astype("Float64"),
        lambda f: pl.DataFrame(f.to_dict("list")),
        lambda f: pl.DataFrame(f.to_dict("list")).to_arrow(),
    ],
    ids=["objects", "nullable", "polars", "pyarrow"],
)
def test_the_same_numbers_held_otherwise(as_other, frame, vae):
    np.testing.assert_array_equal(vae.transform(as_other(frame)), vae.transform(frame))
    np.testing.assert_array_equal(small().fit(as_other(frame)).transform(frame), vae.transform(frame))


def test_rows_and_columns_without_entries_are_answered_for(frame, vae):
    for empty in (frame * np.nan, frame.assign(b=np.nan), frame.assign(b=None)):
        assert np.isfinite(vae.transform(empty)).all()
        assert np.isfinite(vae.score_samples(empty)).all()
        assert vae.impute(empty).notna().all(axis=None)


def test_a_failed_refit_keeps_the_model(frame):
    vae = small().fit(frame)
    before = vae.transform(frame)
    for spoiled in (frame.assign(b=np.nan), frame.assign(b=[[1]] * 60)):
        with pytest.raises(ColumnError):
            vae.fit(spoiled)
    np.testing.assert_array_equal(vae.transform(frame), before)


def test_few_rows(frame):
    for n_rows in (2, 3, 49, 50, 51):
        vae = small().fit(frame.iloc[:n_rows])
        assert vae.history_.info["n_validation"] == (5 if n_rows >= 50 else 0)
        assert np.isfinite(vae.transform(frame)).all()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_constant_columns_and_scales_far_apart(seed):
    rng = np.random.default_rng(seed)
    n = 120
    z = rng.normal(size=n)
    X = pd.DataFrame(
        {
            "constant": 3.0,
            "nearly": 1e9 + rng.integers(0, 2, n) * 1e-6,
            "million": 1e6 * (z + 0.1 * rng.normal(size=n)),
            "huge": 1e30 * rng.lognormal(0, 3, n),
            "tiny": 1e-30 * (rng.standard_cauchy(n) if seed % 2 else z),
            "shifted": 1e6 + 1e-3 * rng.normal(size=n),
            "rare": np.r_[1.0, np.zeros(n - 1)],
            "level": rng.choice(["a", "b"], n),
            "same": "always",
        }
    )
    X = X.mask(rng.random(X.shape) < 0.1 * (seed % 3))
    vae = VAE(max_epochs=30, hidden_sizes=(16,), random_state=seed).fit(X)
    for answer in (vae.transform(X), vae.posterior(X, 3), vae.score_samples(X, 20), vae.elbo(X, 20)):
        assert np.isfinite(answer).all()
    for table in (vae.sample(500, random_state=seed), vae.reconstruct(X), vae.impute(X, n_draws=20)):
        numbers = table.select_dtypes("number").to_numpy()
        assert np.isfinite(numbers).all()
        assert table.notna().all(axis=None)
    assert np.isfinite(vae.history_["train_bound"]).all()
    assert np.isfinite(vae.diagnose(X, 20).log_p)
