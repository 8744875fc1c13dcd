"""The quality report: each figure against a brute-force oracle, whole reports against what must come out."""

from __future__ import annotations

import itertools
import json
import sys

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from scipy.stats import ks_2samp
from sklearn.metrics import roc_auc_score

from skvae import ColumnError
from skvae.data.columns import Kind
from skvae.evaluation import density_coverage, quality_report
from skvae.evaluation.neighbours import closeness, coordinates
from skvae.evaluation.shapes import kolmogorov_smirnov, shape_errors, total_variation
from skvae.evaluation.tables import read_tables
from skvae.evaluation.trends import correlations, trend_errors


def table(n=300, seed=0, holes=0.1):
    """Numbers, levels (rare ones too), dates, truth values, whole numbers; entries missing."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    frame = pd.DataFrame(
        {
            "x": x,
            "y": (x + rng.normal(size=n)).round(2),
            "level": np.where(x > 1, "hi", rng.choice(["a", "b", "c"], n, p=[0.6, 0.39, 0.01])),
            "day": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 99, n), unit="D"),
            "count": rng.poisson(3, n).astype(float),
            "yes": x + rng.normal(size=n) > 0,
        }
    )
    for name in ("x", "level", "day", "count"):
        frame.loc[rng.random(n) < holes, name] = None
    return frame


@pytest.fixture(scope="module")
def report():
    return quality_report(table(400, 0), table(300, 1), table(300, 2), target=["yes", "y", "level"])


def test_shape_errors_are_scipys_and_counted_by_hand():
    real, other = table(200, 0), table(150, 1)
    tables = read_tables(real, other)
    errors = dict(zip(real.columns, shape_errors(tables.real, tables.synthetic), strict=True))
    assert errors["y"] == pytest.approx(ks_2samp(real["y"], other["y"]).statistic, abs=1e-12)
    for name in ("x", "count"):
        below, above = (
            ks_2samp(real[name].fillna(place), other[name].fillna(place)).statistic for place in (-1e9, 1e9)
        )
        assert errors[name] == pytest.approx(max(below, above), abs=1e-12)
        assert errors[name] >= abs(real[name].isna().mean() - other[name].isna().mean()) - 1e-12
    days = (
        ks_2samp(real["day"].fillna(place), other["day"].fillna(place)) for place in pd.to_datetime(["1990", "2060"])
    )
    assert errors["day"] == pytest.approx(max(found.statistic for found in days), abs=1e-12)
    for name in ("level", "yes"):
        shares = [
            frame[name].astype(object).where(frame[name].notna(), "?").value_counts(normalize=True)
            for frame in (real, other)
        ]
        by_hand = 0.5 * shares[0].subtract(shares[1], fill_value=0).abs().sum()
        assert errors[name] == pytest.approx(by_hand, abs=1e-12)


def test_missing_entries_count():
    real = pd.DataFrame({"x": 1.5 * np.arange(100), "k": ["a", "b"] * 50})
    other = real.copy()
    other.loc[:24, "x"] = None
    other.loc[:9, "k"] = None
    tables = read_tables(real, other)
    assert shape_errors(tables.real, tables.synthetic)[1] == pytest.approx(0.1)
    assert shape_errors(tables.real, tables.synthetic)[0] >= 0.25


def test_levels_that_the_real_table_lacks_count():
    real, other = pd.DataFrame({"k": ["a", "b"] * 50}), pd.DataFrame({"k": ["a", "z"] * 50})
    tables = read_tables(real, other)
    assert shape_errors(tables.real, tables.synthetic).tolist() == [0.5]
    assert quality_report(real.assign(x=1.0 * np.arange(100)), other.assign(x=-1.0)).columns[0].outside == 0.5


def test_distances_of_two_samples():
    assert kolmogorov_smirnov(np.zeros(3), np.ones(2)) == 1.0
    assert kolmogorov_smirnov(np.arange(4.0), np.arange(4.0)) == 0.0
    assert total_variation(np.array([0, 0, 1, np.nan]), np.array([0, 1, 1, 1])) == pytest.approx(0.5)


def test_trend_errors_are_those_of_loops_over_pairs():
    real, other = table(200, 0), table(150, 1)
    tables = read_tables(real, other)
    found = trend_errors(tables.real, tables.synthetic)
    numeric = {"x", "y", "day", "count"}

    def binned(name):
        a, b = real[name], other[name]
        if name in numeric:
            a, b = (pd.to_numeric(part).where(part.notna()) for part in (a, b))
            edges = np.histogram_bin_edges(a.dropna().astype(float), bins=10)
            return [np.where(part.isna(), -1, np.digitize(part.astype(float), edges)) for part in (a, b)]
        return [part.astype(object).where(part.notna(), "?").to_numpy() for part in (a, b)]

    for i, j in itertools.combinations(range(len(real.columns)), 2):
        first, second = real.columns[i], real.columns[j]
        if {first, second} <= numeric:
            rho = []
            for frame in (real, other):
                both = frame[[first, second]].dropna()
                rho.append(np.corrcoef(pd.to_numeric(both[first]), pd.to_numeric(both[second]))[0, 1])
            expected = abs(rho[0] - rho[1]) / 2
        else:
            (a, b), (c, d) = binned(first), binned(second)
            shares = [
                pd.Series(list(zip(p, q, strict=True))).value_counts(normalize=True) for p, q in ((a, c), (b, d))
            ]
            expected = 0.5 * shares[0].subtract(shares[1], fill_value=0).abs().sum()
        assert (found[i, j], found[j, i]) == pytest.approx((expected, expected), abs=1e-9), (first, second)


def test_correlations_keep_their_digits():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 4)) @ rng.normal(size=(4, 4)) * [1, 1e6, 1e-6, 1] + [1e8, 0, 0, 5]
    np.testing.assert_allclose(correlations(X), np.corrcoef(X.T), atol=1e-7)
    X[:, 3] = 2.0
    assert (correlations(X)[3] == 0).all()


def brute_force_density_coverage(real, samples, k):
    own = np.linalg.norm(real[:, None] - real, axis=2)
    radius = np.sort(own, axis=1)[:, k]
    inside = np.linalg.norm(real[:, None] - samples, axis=2) <= radius[:, None] + 1e-9
    return inside.sum() / (k * len(samples)), inside.any(axis=1).mean()


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("whole", [False, True])
def test_density_and_coverage_are_those_of_all_distances(k, whole):
    rng = np.random.default_rng(0)
    real, samples = rng.normal(size=(80, 3)), rng.normal(size=(60, 3)) + 0.3
    if whole:  # with ties and repeated rows
        real, samples = np.rint(real), np.rint(samples)
    assert density_coverage(real, samples, k) == pytest.approx(brute_force_density_coverage(real, samples, k))


def test_density_and_coverage_of_the_same_distribution():
    rng = np.random.default_rng(0)
    density, coverage = density_coverage(*rng.normal(size=(2, 2000, 2)))
    assert density == pytest.approx(1, abs=0.05)
    assert coverage == pytest.approx(1 - 2**-5, abs=0.02)
    with pytest.raises(ValueError, match="k=5: expected 1 ≤ k < 4"):
        density_coverage(np.eye(4), np.eye(4))
    with pytest.raises(ValueError, match="real has 4 features, samples 3"):
        density_coverage(np.eye(4), np.eye(3), 1)


def test_closeness_is_that_of_all_distances():
    rng = np.random.default_rng(0)
    train, holdout, samples = (np.rint(2 * rng.normal(size=(n, 2))) for n in (50, 50, 40))
    to_train, to_holdout = (np.linalg.norm(samples[:, None] - part, axis=2) for part in (train, holdout))
    a, b = to_train.min(1), to_holdout.min(1)
    found = closeness(train, holdout, samples)
    assert (a == b).any()
    assert found.closest_share == pytest.approx((a < b).mean() + (a == b).mean() / 2)
    scores = -np.concatenate([to_train.min(0), to_holdout.min(0)])
    assert found.membership_auc == pytest.approx(roc_auc_score([1] * 50 + [0] * 50, scores))
    assert found.copied_share == (a == 0).mean()
    assert found.copied_share_holdout == (b == 0).mean()
    with pytest.raises(ValueError, match="train has 50 rows, holdout 49"):
        closeness(train, holdout[1:], samples)


def test_coordinates_make_columns_count_alike():
    frame = table(200)
    tables = read_tables(frame, frame)
    points = coordinates(tables.real, tables.real)
    a, b = frame["level"].eq("a").to_numpy().argmax(), frame["level"].eq("b").to_numpy().argmax()
    n_before = sum(2 if frame[name].isna().any() else 1 for name in ("x", "y"))
    part = points[:, n_before : n_before + tables.real.columns[2].cardinality + 2]
    assert np.linalg.norm(part[a] - part[b]) == pytest.approx(1)
    assert points[:, n_before - 1].std() == pytest.approx(1)  # y, without holes


def test_rare_ones_of_many_levels_are_one():
    frame = pd.DataFrame({"k": [*(f"n{i:03}" for i in range(300) for _ in range(2 if i < 200 else 1)), None]})
    tables = read_tables(frame, pd.DataFrame({"k": ["n000", "n001", "n298", "n299", "new"] * 4}))
    points = coordinates(tables.real, tables.synthetic)[:5]
    apart = np.linalg.norm(points[:, None] - points, axis=2) > 0.5
    assert points.shape[1] == 202
    assert (
        apart.astype(int).tolist()
        == (1 - np.array([[1, 0, 0, 0, 0], [0, 1, 0, 0, 0]] + [[0, 0, 1, 1, 1]] * 3)).tolist()
    )


def test_fresh_rows_pass(report):
    assert report.two_sample_auc == pytest.approx(0.5, abs=0.06)
    assert report.closest_share == pytest.approx(0.5, abs=0.08)
    assert report.membership_auc == pytest.approx(0.5, abs=0.08)
    assert report.shape_error == pytest.approx(report.holdout_shape_error, abs=0.02)
    assert report.synthetic_score == pytest.approx(np.mean([score.synthetic for score in report.targets]))
    assert report.synthetic_score == pytest.approx(report.real_score, abs=0.06)
    assert [score.measure for score in report.targets] == ["AUC", "R²", "macro AUC"]
    assert report.density == pytest.approx(1, abs=0.15)


def test_copies_of_the_rows_trained_on_are_found_out():
    train, holdout = table(300, 0), table(300, 2)
    report = quality_report(train, train, holdout)
    assert report.closest_share == 1.0
    assert report.membership_auc == 1.0
    assert report.copied_share == 1.0
    assert (report.shape_error, report.trend_error) == (0.0, pytest.approx(0.0, abs=1e-12))
    assert report.coverage == 1.0


def test_rows_of_independent_columns_are_told_apart():
    real = table(600, 0, holes=0.0)
    shuffled = pd.DataFrame(
        {name: real[name].sample(frac=1, random_state=i).to_numpy() for i, name in enumerate(real)}
    )
    report = quality_report(real, shuffled, table(300, 2, holes=0.0), target="yes")
    assert report.shape_error == pytest.approx(0.0, abs=1e-12)
    assert report.trend_error > 0.03
    assert report.two_sample_auc > 0.7
    assert report.synthetic_score == pytest.approx(0.5, abs=0.12)
    assert report.real_score > 0.7


def test_rates_of_rare_levels():
    real = pd.DataFrame({"k": ["a"] * 985 + ["b"] * 10 + ["c"] * 5, "x": np.arange(1000.0) % 7})
    other = pd.DataFrame({"k": ["a"] * 977 + ["b"] * 18 + ["c"] * 1 + ["d"] * 4, "x": np.arange(1000.0) % 7})
    report = quality_report(real, other)
    assert [(level.level, level.ratio) for level in report.rare_levels] == [
        ("b", pytest.approx(1.8)),
        ("c", pytest.approx(0.2)),
    ]
    assert report.rare_within == 0.5


def test_rules_that_real_rows_keep():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 100, size=(2, 300))
    real = pd.DataFrame({"a": a, "b": b, "total": a + b})
    other = real.copy()
    other.loc[:29, "total"] += 1
    rates = {rule.constraint: rule.violated for rule in quality_report(real, other).constraints}
    assert rates["total = a + b"] == pytest.approx(0.1)


CONTAINERS = {
    "pandas": lambda frame, folder: frame,
    "polars": lambda frame, folder: pl.from_pandas(frame),
    "arrow": lambda frame, folder: pa.Table.from_pandas(frame, preserve_index=False),
    "csv": lambda frame, folder: _file(frame, folder, "csv"),
    "parquet": lambda frame, folder: _file(frame, folder, "parquet"),
}


def _file(frame, folder, suffix):
    path = folder / f"{len(list(folder.iterdir()))}.{suffix}"
    frame.to_csv(path, index=False) if suffix == "csv" else frame.to_parquet(path, index=False)
    return path


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_says_the_same(container, tmp_path):
    convert = CONTAINERS[container]
    frames = [table(n, seed) for n, seed in ((400, 0), (300, 1), (200, 2))]
    expected, found = read_tables(*frames), read_tables(*(convert(frame, tmp_path) for frame in frames))
    for name in ("real", "synthetic", "holdout"):
        np.testing.assert_allclose(getattr(found, name).values, getattr(expected, name).values, rtol=1e-12)
    mixed = read_tables(frames[0], convert(frames[1], tmp_path))
    np.testing.assert_allclose(mixed.synthetic.values, expected.synthetic.values, rtol=1e-12)


def test_columns_are_found_by_name_and_of_arrays_by_position(report):
    again = quality_report(table(400, 0), table(300, 1)[["yes", "day", "x", "count", "level", "y"]])
    assert again.shape_error == pytest.approx(report.shape_error)
    X = np.random.default_rng(0).normal(size=(3, 100, 3))
    found = quality_report(*X, target=-2)
    assert found.targets[0].name == "x1"
    named = quality_report(pd.DataFrame(X[0]), X[1], pd.DataFrame(X[2]), target=1)
    assert named.to_dict()["two_sample_auc"] == found.to_dict()["two_sample_auc"]


def test_without_a_holdout_what_needs_one_is_none():
    report = quality_report(table(100, 0), table(100, 1))
    for name in ("synthetic_score", "real_score", "closest_share", "membership_auc", "n_holdout", "copied_share"):
        assert getattr(report, name) is None
    assert report.targets == ()
    assert "no holdout" in str(report)


def test_identifiers_are_left_out_and_named():
    real, other = (table(100, seed).assign(id=[f"u{seed}-{i}" for i in range(100)]) for seed in (0, 1))
    report = quality_report(real, other)
    assert report.left_out == ("id",)
    assert "id" not in [column.name for column in report.columns]
    assert "identifiers or free text: id" in str(report)
    tables = read_tables(real, other, column_kinds={"id": "categorical"})
    assert "id" in [column.name for column in tables.real.columns]
    assert tables.left_out == ()


def test_same_seed_same_report():
    tables = table(100, 0), table(80, 1), table(90, 2)
    first, again, other = (quality_report(*tables, target="y", random_state=seed) for seed in (3, 3, 4))
    assert first == again
    assert other.shape_error == first.shape_error
    assert other.two_sample_auc != first.two_sample_auc


def test_a_report_is_json_prints_and_is_a_page(report, tmp_path):
    state = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert state["columns"][0]["name"] == "x"
    assert len(state["pairs"]) == 15
    for piece in ("shape error", "R² of 'y'", "closest share", f"{100 * report.trend_error:.2f} %"):
        assert piece in str(report)
    path = tmp_path / "report.html"
    report.save_html(path)
    page = path.read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert page.rstrip().endswith("</html>")
    assert page.count("<rect") == 6 + 30
    assert "http" not in page  # nothing is fetched
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert report._repr_html_() in page
    with pytest.raises(FileNotFoundError, match="does not exist; create it first"):
        report.save_html(tmp_path / "none" / "r.html")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        report.save_html(tmp_path)


def test_names_are_escaped_in_the_page(tmp_path):
    frame = table(100, 0).rename(columns={"x": "<script>"})
    path = tmp_path / "r.html"
    quality_report(frame, frame).save_html(path)
    assert "<script>" not in path.read_text(encoding="utf-8")


def test_a_report_is_drawn(report, monkeypatch):
    figure = report.plot()
    assert len(figure.axes[0].patches) == 6
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install scikit-vae\[plot\]"):
        report.plot()


def test_constant_columns_and_columns_without_pairs():
    report = quality_report(table(100, 0).assign(one=1.0), table(100, 1).assign(one=[1.0] * 90 + [2.0] * 10))
    one = report.columns[-1]
    assert (one.kind, one.error, one.trend_error) == (str(Kind.CONSTANT), pytest.approx(0.1), None)
    assert quality_report(*np.random.default_rng(0).normal(size=(2, 50, 1))).pairs == ()


WRONG = {
    "a column more": (lambda t: (t, t.assign(z=1)), {}, ColumnError, "column 'z' of the synthetic table is not in"),
    "a column less": (
        lambda t: (t, t.drop(columns="x")),
        {},
        ColumnError,
        "column 'x' of the real table is not in the synth",
    ),
    "holdout lacks one": (
        lambda t: (t, t, t.drop(columns="x")),
        {},
        ColumnError,
        "column 'x' of the real table is not in the holdout table",
    ),
    "text for numbers": (
        lambda t: (t, t.assign(y="tall")),
        {},
        ColumnError,
        r"column 'y' holds text in the synthetic table \(\"tall\", row 0\) and numbers in the real one",
    ),
    "numbers for dates": (lambda t: (t, t.assign(day=3)), {}, ColumnError, "column 'day' holds numbers in the synth"),
    "too few rows": (lambda t: (t, t[:19]), {}, ValueError, "the synthetic table has 19 rows; expected 20 or more"),
    "too few real rows": (lambda t: (t[:5], t), {}, ValueError, "the real table has 5 rows"),
    "too few held out": (lambda t: (t, t, t[:3]), {}, ValueError, "the holdout table has 3 rows"),
    "a target without holdout": (lambda t: (t, t), {"target": "y"}, ValueError, "pass holdout=, rows the model"),
    "no such target": (
        lambda t: (t, t, t),
        {"target": "z"},
        ColumnError,
        "target='z' is no column of the real table",
    ),
    "no such position": (lambda t: (t, t, t), {"target": 6}, ColumnError, "target=6 is no column"),
    "target of one level": (
        lambda t: (t, t, t.assign(level="a")),
        {"target": "level"},
        ColumnError,
        "column 'level' has fewer than two levels in the holdout",
    ),
    "a target of many levels": (
        lambda t: (many := t.assign(u=[f"n{i // 2}" for i in range(len(t))]), many, many),
        {"target": "u"},
        ColumnError,
        "column 'u' has 102 levels and cannot be the target; name one with at most 100",
    ),
    "an identifier as target": (
        lambda t: (t.assign(u=_names(t)), t.assign(u=_names(t)), t.assign(u=_names(t))),
        {"target": "u"},
        ColumnError,
        "target='u' has a value of its own in every row",
    ),
    "arrays of other widths": (
        lambda t: (np.ones((30, 2)) * np.arange(30)[:, None], np.ones((30, 3))),
        {},
        ColumnError,
        "the synthetic table has 3 columns, the real one 2",
    ),
    "rows looked at": (lambda t: (t, t), {"max_rows": 5}, ValueError, "max_rows=5: expected a whole number ≥ 100"),
    "nothing but identifiers": (
        lambda t: (pd.DataFrame({"u": _names(t)}), pd.DataFrame({"u": _names(t)})),
        {},
        ColumnError,
        "there is nothing to compare",
    ),
}


def _names(frame):
    return [f"n{i}" for i in range(len(frame))]


@pytest.mark.parametrize("case", WRONG)
def test_what_goes_wrong(case):
    tables, options, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        quality_report(*tables(table(204 if "many" in case else 100)), **options)
