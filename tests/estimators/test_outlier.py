"""VAEOutlierDetector: scikit-learn's conventions for detectors, and explanations that point at what is wrong."""

import json

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from scipy import stats
from sklearn.base import clone, is_outlier_detector
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks
from sklearn_checks import every_check

import skvae
from skvae import ColumnError, ConstantColumnWarning, VAEOutlierDetector


def small(**params):
    defaults = {"latent_dim": 2, "hidden_sizes": (8,), "max_epochs": 3, "n_draws": 20, "random_state": 0}
    return VAEOutlierDetector(**defaults | params)


CHECKED = VAEOutlierDetector(max_epochs=3, hidden_sizes=(8,), batch_size=16, n_draws=10)


@every_check(CHECKED, clone(CHECKED).set_params(contamination=0.1))
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def test_check_of_column_names():
    estimator_checks.check_dataframe_column_names_consistency("VAEOutlierDetector", small(early_stopping=False))


@pytest.fixture(scope="module")
def frame():
    """Weight follows from height, and the rest is there to be there; row 3 is heavy for its height."""
    rng, n = np.random.default_rng(0), 240
    height = rng.normal(170, 8, n)
    frame = pd.DataFrame(
        {
            "height": height,
            "weight": (0.9 * (height - 170) + 70 + rng.normal(size=n)).round(1),
            "fair": rng.choice(["yes", "no"], n),
            "visits": rng.poisson(3, n).astype(float),
            "same": 1.0,
            "when": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 99, n), "D"),
        },
        index=rng.permutation(n) + 5,
    )
    frame.iloc[3, :2] = 155.0, 85.0
    frame.iloc[10:40, 3] = np.nan
    frame.iloc[11, 5] = pd.NaT
    return frame


@pytest.fixture(scope="module")
def detector(frame):
    return VAEOutlierDetector(max_epochs=150, hidden_sizes=(32,), random_state=0).fit(frame)


def test_the_score_is_the_log_probability_of_whole_rows(detector, frame):
    scores = detector.score_samples(frame)
    expected = detector.vae_.score_samples(frame)
    whole = frame.notna().all(axis=1).to_numpy()
    np.testing.assert_allclose(scores[whole], expected[whole], atol=1e-4)
    missing = frame.isna().to_numpy()
    np.testing.assert_allclose(scores, expected + missing @ detector.typical_, atol=1e-4)
    np.testing.assert_allclose(detector.decision_function(frame), scores - detector.offset_)
    np.testing.assert_array_equal(detector.predict(frame) == -1, scores < detector.offset_)


def test_rows_with_holes_are_no_more_and_no_less_normal(detector, frame):
    rng = np.random.default_rng(1)
    rows = frame.iloc[40:]
    holes = rows.mask(rng.random(rows.shape) < 0.4)

    def change(score):
        return np.mean(score(holes)) - np.mean(score(rows))

    assert abs(change(detector.score_samples)) < 1.0
    assert change(detector.vae_.score_samples) > 10.0


def test_what_is_wrong_is_found_and_named(detector, frame):
    assert np.argmin(detector.score_samples(frame)) == 3
    assert detector.predict(frame)[3] == -1
    assert detector.predict(frame.iloc[:3]).tolist() == [1, 1, 1]
    contributions = detector.explain(frame)
    assert set(contributions.iloc[3].nsmallest(2).index) == {"height", "weight"}
    assert contributions.iloc[3]["weight"] < -5
    # What is typical is so on average, of all but the rows that are not.
    assert contributions[["height", "weight", "fair", "visits"]].drop(frame.index[3]).mean().abs().max() < 0.2

    report = detector.report(frame, n_rows=2, n_columns=2)
    first = report.rows[0]
    assert (first.row, first.outlier, report.n_rows) == (3, True, 240)
    entry = next(entry for entry in first.entries if entry.column == "weight")
    assert entry.value == "85"
    assert abs(float(entry.expected) - 56.5) < 5
    assert entry.nats == pytest.approx(contributions.iloc[3]["weight"], abs=1e-4)
    assert f"weight is 85, expected {entry.expected} ({entry.nats:.1f} nats)" in str(report)
    assert json.loads(json.dumps(report.to_dict()))["rows"][0]["row"] == 3


def test_explanations_have_the_shape_of_the_rows(detector, frame):
    contributions = detector.explain(frame)
    assert list(contributions.columns) == list(frame.columns)
    assert contributions.index.equals(frame.index)
    pd.testing.assert_frame_equal(contributions.isna(), frame.isna())
    assert (contributions["same"] == 0).all()
    some = detector.explain(frame.iloc[10:12])
    pd.testing.assert_frame_equal(some, contributions.iloc[10:12], rtol=1e-4)


@pytest.mark.parametrize("container", ["numpy", "polars", "pyarrow"])
def test_other_containers(container, frame):
    columns = ["height", "weight", "visits"]
    rows = {
        "numpy": frame[columns].to_numpy(),
        "polars": pl.from_pandas(frame[columns]),
        "pyarrow": pa.Table.from_pandas(frame[columns], preserve_index=False),
    }[container]
    detector = small().fit(rows)
    contributions = detector.explain(rows)
    assert type(contributions) is type(rows)
    assert contributions.shape == (240, 3)
    assert detector.predict(rows).shape == (240,)
    assert detector.report(rows).n_rows == 240


@pytest.mark.parametrize("contamination", [0.1, 0.5])
def test_contamination(contamination, frame):
    labels = small(contamination=contamination).fit_predict(frame)
    assert (labels == -1).sum() == 240 * contamination


def test_new_rows():
    rng = np.random.default_rng(0)
    weight = np.array([[1.0, 1, 1, 0], [0, 1, -1, 1]])
    normal = rng.normal(size=(390, 2)) @ weight + 0.1 * rng.normal(size=(390, 4))
    odd = normal[:100, rng.permutation(4)[::-1]]
    detector = VAEOutlierDetector(max_epochs=150, random_state=0).fit(normal[100:])
    truth, rows = np.r_[np.ones(100), np.zeros(100)], np.vstack([normal[:100], odd])
    best = stats.multivariate_normal(cov=weight.T @ weight + 0.01 * np.eye(4)).logpdf(rows)
    assert roc_auc_score(truth, detector.score_samples(rows)) > roc_auc_score(truth, best) - 0.02
    assert (detector.predict(normal[:100]) == -1).mean() < 0.1


def test_what_was_never_there_is_unlikely(detector, frame):
    rows = frame.iloc[[50, 50, 50]].copy()
    rows.iloc[1, 2], rows.iloc[2, 4] = "perhaps", 2.0
    scores, contributions = detector.score_samples(rows), detector.explain(rows)
    unseen = -np.log(240 + 1)
    marginal = detector.vae_.score_samples(rows.assign(fair=None, same=1.0))
    assert scores[1] == pytest.approx(marginal[1] + unseen, abs=1e-3)
    assert scores[2] == pytest.approx(scores[0] + unseen, abs=1e-3)
    assert contributions.iloc[1]["fair"] == pytest.approx(unseen - detector.typical_[2])
    assert contributions.iloc[2]["same"] == pytest.approx(unseen)
    assert 'fair is "perhaps", expected "' in str(detector.report(rows))
    assert "same is 2, expected 1 (-5.5 nats)" in str(detector.report(rows))


def test_other_ways_with_what_was_never_there(frame):
    columns = ["height", "fair", "same"]
    odd = frame[columns].iloc[:2].assign(fair="perhaps")
    as_missing = small(handle_unknown="missing").fit(frame[columns])
    np.testing.assert_array_equal(as_missing.score_samples(odd), as_missing.score_samples(odd.assign(fair=None)))
    with pytest.warns(ConstantColumnWarning, match="'same'"):
        as_missing.predict(frame[columns].assign(same=2.0))
    with pytest.raises(ColumnError, match="'fair' holds \"perhaps\""):
        small(handle_unknown="error").fit(frame[columns]).predict(odd)
    with pytest.raises(ValueError, match="handle_unknown='so': expected one of"):
        small(handle_unknown="so").fit(frame)


def test_saved_and_loaded(detector, frame, tmp_path):
    detector.save(tmp_path / "model")
    loaded = skvae.load(tmp_path / "model")
    assert type(loaded) is VAEOutlierDetector
    assert loaded.offset_ == detector.offset_
    np.testing.assert_array_equal(loaded.score_samples(frame), detector.score_samples(frame))
    pd.testing.assert_frame_equal(loaded.explain(frame.iloc[:5]), detector.explain(frame.iloc[:5]))
    assert str(loaded.report(frame, 3)) == str(detector.report(frame, 3))


def test_files_and_pipelines(frame, tmp_path):
    frame.to_csv(tmp_path / "rows.csv", index=False)
    detector = small().fit(tmp_path / "rows.csv")
    assert detector.predict(tmp_path / "rows.csv").shape == (240,)
    rows = frame[["height", "weight"]].to_numpy()
    pipeline = make_pipeline(StandardScaler(), small()).fit(rows)
    assert is_outlier_detector(pipeline)
    assert set(pipeline.predict(rows)) <= {-1, 1}


@pytest.mark.parametrize("contamination", [0, 0.51, -0.1, "some", None, True])
def test_bad_contamination(contamination, frame):
    with pytest.raises(ValueError, match=r"contamination=.*expected 'auto' or a share of rows in \(0, 0.5\]"):
        small(contamination=contamination).fit(frame)


def test_bad_questions(detector, frame):
    with pytest.raises(NotFittedError):
        small().predict(frame)
    with pytest.raises(NotFittedError):
        small().explain(frame)
    with pytest.raises(ValueError, match="n_rows=0: expected a whole number"):
        detector.report(frame, n_rows=0)
    with pytest.raises(ValueError, match="n_columns=-1: expected a whole number"):
        detector.report(frame, n_columns=-1)
    with pytest.raises(ValueError, match="feature names"):
        detector.predict(frame.drop(columns="fair"))


def test_images_are_refused():
    with pytest.raises(ValueError, match=r"image_shape=\(2, 2\): VAEOutlierDetector is for tables; use VAE"):
        VAEOutlierDetector(image_shape=(2, 2)).fit(np.zeros((60, 2, 2)))
