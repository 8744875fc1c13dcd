"""`likelihood="auto"` from fit to load."""

import numpy as np
import pandas as pd
import pytest

import skvae
from skvae import VAE, DiscretisedLogistic, Gaussian, NegativeBinomial, Poisson, Spikes
from skvae.estimators import making
from skvae.training import selection


@pytest.fixture(scope="module", autouse=True)
def _short_probe():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "_N_STEPS", 60)
        yield


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(0)
    x = rng.normal(size=400)
    return pd.DataFrame(
        {
            "x": x,
            "spent": np.where(rng.random(400) < 0.6, 0.0, np.exp(3 + x)),
            "visits": rng.poisson(np.exp(1 + x)),
            "balance": rng.integers(-40, 40, 400),
            "city": rng.choice(["Bern", "Genf", "Basel"], 400),
        }
    )


def small(**params):
    return VAE(**{"latent_dim": 2, "hidden_sizes": (16,), "max_epochs": 2, "random_state": 0} | params)


@pytest.fixture(scope="module")
def vae(frame):
    return small(likelihood={"visits": "negative-binomial"}).fit(frame)


def test_one_is_set_and_the_others_are_chosen(vae):
    chosen = vae.likelihood_.chosen
    assert set(chosen) == {"x", "spent", "balance"}
    assert isinstance(chosen["spent"], Spikes)
    assert {type(part) for part in vae.likelihood_.parts} > {NegativeBinomial, Spikes}


def test_it_says_what_it_chose(vae):
    text = repr(vae.likelihood_)
    assert text.startswith("Table of 5 columns\n")
    assert "\n  NegativeBinomial(): 'visits'" in text
    assert "\n  Categorical(): 'city'" in text
    info = vae.history_.info["likelihood"]
    assert set(info) == {"x", "spent", "balance"}
    assert info["spent"]["likelihood"] == repr(vae.likelihood_.chosen["spent"])
    assert info["spent"]["gain"] > 1.0


def test_a_saved_model_knows_it_without_data(vae, frame, tmp_path, monkeypatch):
    monkeypatch.setattr(making, "choose", None)
    vae.save(tmp_path / "model")
    loaded = skvae.load(tmp_path / "model")
    assert repr(loaded.likelihood_) == repr(vae.likelihood_)
    assert loaded.history_.info["likelihood"] == vae.history_.info["likelihood"]
    np.testing.assert_array_equal(loaded.score_samples(frame), vae.score_samples(frame))
    pd.testing.assert_frame_equal(loaded.sample(5, random_state=0), vae.sample(5, random_state=0))


def test_what_continues_keeps_it(frame, monkeypatch):
    vae = small(warm_start=True).fit(frame)
    before, info = repr(vae.likelihood_), vae.history_.info["likelihood"]
    monkeypatch.setattr(making, "choose", None)
    vae.fit(frame).partial_fit(frame[:50])
    assert repr(vae.likelihood_) == before
    assert vae.history_.info["likelihood"] == info


def test_validation_rows_have_no_say(frame, monkeypatch):
    seen = []
    monkeypatch.setattr(making, "choose", lambda columns, undecided, rows, seed: seen.append(rows) or {})
    small().fit(frame[:350], validation_data=frame[350:])
    assert [len(rows) for rows in seen] == [350]


def test_few_rows_have_the_defaults(frame):
    vae = small().fit(frame[:200])
    assert not vae.likelihood_.chosen
    assert "likelihood" not in vae.history_.info
    assert "Gaussian(scale='row', outliers=0.001): 'x', 'spent'" in repr(vae.likelihood_)


@pytest.mark.parametrize(
    ("likelihood", "message"),
    [
        ({"balance": "poisson"}, "scores counts, and column 'balance' goes down to -40; shift it .* or use"),
        ({"x": DiscretisedLogistic()}, r"cannot score column 'x' \(continuous\); it scores integer columns: use"),
        ({"city": "ordinal"}, r"cannot score column 'city' \(categorical\); it scores ordinal columns: use"),
        ({"balance": NegativeBinomial(), "visits": Poisson()}, "column 'balance' goes down to -40"),
    ],
)
def test_refused_before_any_work(frame, likelihood, message, monkeypatch):
    monkeypatch.setattr(making, "choose", None)
    with pytest.raises(ValueError, match=message):
        small(likelihood=likelihood).fit(frame)


def test_a_count_likelihood_draws_counts(vae):
    visits = vae.sample(200, random_state=0)["visits"]
    assert visits.dtype == np.int64
    assert visits.min() >= 0


def test_nothing_is_chosen_where_all_is_said(frame, monkeypatch):
    calls = []
    monkeypatch.setattr(making, "choose", lambda columns, undecided, rows, seed: calls.append(undecided) or {})
    small(likelihood=Gaussian("row")).fit(frame[["x", "spent"]])
    assert calls == [[]]
