"""The command line with targets: what `fit --target`, `predict` and `sample` say is what the estimators say."""

from __future__ import annotations

import io
import json
import re
from decimal import Decimal
from functools import partial

import numpy as np
import pyarrow as pa
import pytest

import skvae
from commands import answer as answer_of
from commands import done, run
from skvae import VAEClassifier, VAERegressor, cli_targets
from skvae.data.source import read, write

SMALL = "--seed 0 --set latent_dim=2 --set hidden_sizes=(8,) --set max_epochs=2 --set structure=joint"
QUICK = "--seed 0 --set hidden_sizes=(4,) --set max_epochs=1 --set structure=joint"
answer = partial(answer_of, text=["room", "grade", "grade_predicted"])
PARAMS = {"latent_dim": 2, "hidden_sizes": (8,), "max_epochs": 2, "structure": "joint", "random_state": 0}


def table(n=240):
    """Two columns to predict from, and targets of every sort; some rows have no target."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=n)
    columns = {
        "x": x.round(3),
        "room": rng.choice(["a", "b, c"], n),
        "price": (50 + 10 * x + rng.normal(size=n)).round(2),
        "grade": np.where(x > 0.3, "good", np.where(x > -0.5, "so, so", "7")),
        "stars": np.clip(np.rint(2 * x), -1, 2).astype(int),
        "sold": x + rng.normal(size=n) > 0,
        "visits": rng.poisson(np.exp(3 + 0.3 * x)),
    }
    hole = {"price": rng.random(n) < 0.1, "grade": rng.random(n) < 0.1, "stars": rng.random(n) < 0.1}
    return pa.table({name: pa.array(values, mask=hole.get(name)) for name, values in columns.items()})


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """Where all commands run: a table, a model of a number and one of classes."""
    folder = tmp_path_factory.mktemp("targets")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write([table()], "t.csv")
        write([table()], "t.parquet")
        done("fit t.csv --target price -o price.vae --drop grade --drop sold --drop stars --drop visits", SMALL)
        done("fit t.csv --target grade -o grade.vae --drop price --drop sold --drop stars --drop visits", SMALL)
        yield folder


@pytest.fixture(scope="module")
def regressor(folder):
    return skvae.load("price.vae")


@pytest.fixture(scope="module")
def classifier(folder):
    return skvae.load("grade.vae")


def features():
    return table().select(["x", "room"])


def csv_of(rows):
    file = io.BytesIO()
    write([rows], file, "csv")
    return file.getvalue()


def test_fit_is_the_estimators_fit(regressor, classifier):
    price = table()["price"].to_numpy()
    assert repr(regressor) == repr(VAERegressor(**PARAMS))
    np.testing.assert_allclose(
        regressor.predict(features()), VAERegressor(**PARAMS).fit(features(), price).predict(features()), rtol=1e-5
    )
    grade = np.array(table()["grade"].to_pylist(), dtype=object)
    same = VAEClassifier(unlabelled=None, **PARAMS)
    assert repr(classifier) == repr(same)
    assert classifier.classes_.tolist() == ["7", "good", "so, so"]
    np.testing.assert_allclose(
        classifier.predict_proba(features()), same.fit(features(), grade).predict_proba(features()), rtol=1e-4
    )


@pytest.mark.parametrize("source", ["t.csv", "t.parquet", "-", "rows alone"])
def test_predictions_are_the_estimators(source, regressor, classifier):
    """Of every form of the rows; the target may be there, and is left as it is."""
    data = {"-": csv_of(table()), "rows alone": csv_of(features())}.get(source)
    file = source if data is None else "-"
    found = answer(f"predict price.vae {file} --std --interval 0.8 --quantile 0.1 --quantile 0.95", data=data)
    given = (features() if source == "rows alone" else table()).column_names
    added = ["price_predicted", "price_std", "price_low", "price_high", "price_q0.1", "price_q0.95"]
    assert found.column_names == [*given, *added]
    assert found.select(given).to_pydict() == table().select(given).to_pydict()
    mean, std = regressor.predict(features(), return_std=True)
    expected = [mean, std, *regressor.predict_interval(features(), 0.8).T]
    expected += list(regressor.predict_quantiles(features(), [0.1, 0.95]).T)
    for name, values in zip(added, expected, strict=True):
        np.testing.assert_allclose(found[name], values, rtol=1e-5)
    labels = answer(f"predict grade.vae {file} --proba", data=data)
    assert labels.column_names == [*given, "grade_predicted", "p_7", "p_good", "p_so, so"]
    assert labels["grade_predicted"].to_pylist() == classifier.predict(features()).tolist()
    np.testing.assert_allclose(
        np.transpose(labels.columns[-3:]), classifier.predict_proba(features()), rtol=1e-5, atol=1e-7
    )


def test_predictions_in_a_file(regressor, tmp_path):
    done(f"predict price.vae t.csv -o {tmp_path}/p.parquet")
    assert read(tmp_path / "p.parquet").column_names == [*table().column_names, "price_predicted"]
    content = done("predict price.vae t.csv --format parquet").stdout_bytes
    again = run("predict price.vae -", data=content)
    assert again.stderr == "skvae: error: the table has a column 'price_predicted' already; rename it\n"


TASKS = {
    "decimals": ("price", "", VAERegressor, None),
    "many whole numbers": ("visits", "", VAERegressor, None),
    "few whole numbers": ("stars", "", VAEClassifier, [-1, 0, 1, 2]),
    "truth values": ("sold", "", VAEClassifier, [False, True]),
    "text": ("grade", "", VAEClassifier, ["7", "good", "so, so"]),
    "few whole numbers, as a quantity": ("stars", "--task regression", VAERegressor, None),
    "truth values, as a quantity": ("sold", "--task regression", VAERegressor, None),
    "whole numbers, as text": ("stars", "--column-kind stars=categorical", VAEClassifier, ["-1", "0", "1", "2"]),
}


@pytest.mark.parametrize("case", TASKS)
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_what_a_target_is_taken_for(case, suffix, tmp_path):
    target, words, cls, classes = TASKS[case]
    if suffix == "parquet" and "column-kind" in words:
        pytest.skip("the type of a parquet column is in the file")
    done(f"fit t.{suffix} --target {target} -o {tmp_path}/m {words}", QUICK)
    model = skvae.load(tmp_path / "m")
    assert type(model) is cls
    assert [column.name for column in model._columns] == [target]
    assert target not in [column.name for column in model.vae_.schema_.columns]
    if classes is not None:
        assert model.classes_.tolist() == classes
        found = answer(f"predict {tmp_path}/m t.{suffix}", text=[f"{target}_predicted"])
        assert set(found[f"{target}_predicted"].to_pylist()) <= set(map(str, classes)) | {"true", "false"}


LABELS = {
    "decimals": (pa.array([Decimal(k % 3) for k in range(240)], pa.decimal128(5, 0)), "2", 2.0),
    "views of text": (pa.array(["a=1", "b=x=y"] * 120, pa.string_view()), "b=x=y", "b=x=y"),
    "truth values": (pa.array([True, False] * 120), "true", True),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels_are_asked_for_as_they_are_written(case, tmp_path):
    labels, text, label = LABELS[case]
    write([features().append_column("y", labels)], tmp_path / "t.parquet")
    done(f"fit {tmp_path}/t.parquet --target y -o {tmp_path}/m --task classification", QUICK)
    assert set(answer(f"sample {tmp_path}/m -n 3 --target y={text}")["y"].to_pylist()) == {label}


def test_several_targets(tmp_path):
    model = f"{tmp_path}/m"
    done(f"fit t.csv --target price --target visits -o {model}", QUICK)
    fitted = skvae.load(model)
    rows = table().drop_columns(["price", "visits"])
    found = answer(f"predict {model} t.csv --std --quantile 0.5")
    names = [f"{target}_{what}" for target in ("price", "visits") for what in ("predicted", "std", "q0.5")]
    assert found.column_names == [*table().column_names, *names]
    mean, std = fitted.predict(rows, return_std=True)
    np.testing.assert_allclose(np.transpose([found["price_predicted"], found["visits_predicted"]]), mean, rtol=1e-5)
    np.testing.assert_allclose(np.transpose([found["price_std"], found["visits_std"]]), std, rtol=1e-5)
    drawn = answer(f"sample {model} -n 4 --target visits=20 --target price=55.5")
    assert drawn.column_names == [*rows.column_names, "price", "visits"]
    assert drawn["price"].to_pylist() == [55.5] * 4
    assert drawn["visits"].to_pylist() == [20] * 4
    message = "the model has a target 'visits' too; give its value"
    assert message in " ".join(run(f"sample {model} --target price=50").stderr.split())


def test_samples_have_the_target(regressor, classifier):
    X, y = regressor.sample(6, random_state=3)
    found = answer("sample price.vae -n 6 --seed 3")
    assert found.column_names == ["x", "room", "price"]
    assert found.select(["x", "room"]).to_pydict() == X.to_pydict()
    np.testing.assert_allclose(found["price"], y)
    X, y = classifier.sample(5, y="so, so", random_state=3)
    found = answer("sample grade.vae -n 5 --seed 3 --target", "'grade=so, so'")
    assert found.select(["x", "room"]).to_pydict() == X.to_pydict()
    assert found["grade"].to_pylist() == ["so, so"] * 5
    means = answer("sample price.vae -n 5 --seed 3 --decode mean")
    X = regressor.vae_.sample(5, decode="mean", random_state=3)
    assert means.select(["x", "room"]).to_pydict() == X.to_pydict()
    np.testing.assert_allclose(means["price"], regressor.predict(X), rtol=1e-5)


def test_commands_about_rows_ask_the_model_of_rows(regressor):
    vae = regressor.vae_
    found = answer("transform price.vae t.csv")
    np.testing.assert_allclose(np.transpose(found.columns), vae.transform(features()), rtol=1e-4, atol=1e-6)
    found = answer("score price.vae t.csv --n-draws 10")
    np.testing.assert_allclose(found["log_p"], vae.score_samples(features(), 10), rtol=1e-4)
    assert answer("impute price.vae t.csv").to_pydict() == table().to_pydict()
    assert answer("reconstruct price.vae t.csv").column_names == ["x", "room"]
    assert json.loads(done("diagnose price.vae t.csv --json --n-draws 5").stdout)["latent_dim"] == 2


def test_info_tells_the_target(regressor):
    text = done("info price.vae").stdout
    for piece in (repr(regressor), repr(regressor.vae_.schema_), "names          ['price']", "structure      joint"):
        assert piece in text
    facts = json.loads(done("info grade.vae --json").stdout)
    assert facts["estimator"] == "VAEClassifier"
    assert facts["target"]["names"] == ["grade"]
    assert facts["target"]["classes"] == ["7", "good", "so, so"]
    assert [column["name"] for column in facts["schema"]["columns"]] == ["x", "room"]


def test_a_line_says_what_was_fitted(tmp_path):
    result = done(f"fit t.csv --target price --target visits -o {tmp_path}/m --verbose", QUICK)
    assert re.search(r"m: 240 rows, regression of price, visits \(structure='joint'\), History of 1 ", result.stderr)
    assert result.stdout == ""


def test_a_model_of_an_array(tmp_path):
    X = np.random.default_rng(0).normal(size=(60, 2))
    model = VAERegressor(max_epochs=1, hidden_sizes=(4,), structure="joint", random_state=0).fit(X, X[:, 0])
    model.save(tmp_path / "m")
    for names in (["a", "b"], ["a", "b", "y"]):
        rows = pa.table(list(np.c_[X, X[:, 0]].T[: len(names)]), names=names)
        found = answer(f"predict {tmp_path}/m -", data=csv_of(rows))
        np.testing.assert_allclose(found["y_predicted"], model.predict(X), rtol=1e-5)
    assert answer(f"sample {tmp_path}/m -n 2").column_names == ["x0", "x1", "y"]


WRONG = {
    "no such target": ("fit t.csv -o x --target z", 2, "--target: there is no column 'z'"),
    "no such task": ("fit t.csv -o x --target price --task clustering", 2, "--task: 'clustering': expected one of"),
    "a task of nothing": ("fit t.csv -o x --task regression", 2, "name a column with --target"),
    "target left out": ("fit t.csv -o x --target price --drop price", 2, "--target: there is no column 'price'"),
    "classes of two columns": (
        "fit t.csv -o x --target sold --target grade --task classification",
        2,
        "'sold', 'grade': there can be one class per row",
    ),
    "text and numbers": ("fit t.csv -o x --target grade --target price", 1, "column 'grade' holds.*needs numbers"),
    "text as a number": ("fit t.csv -o x --target grade --task regression", 1, "column 'grade' holds 'so, so'"),
    "numbers as classes": ("fit t.csv -o x --target price --task classification", 1, "continuous"),
    "nothing else": ("fit one.csv -o x --target x", 1, "no columns beside 'x'"),
    "no entry": ("fit empty.csv -o x --target y", 1, "column 'y' has no entry at all"),
    "a bad setting": ("fit t.csv -o x --target price --set depth=3", 2, "Invalid parameter 'depth'"),
    "a setting of the other": ("fit t.csv -o x --target price --set class_weight=balanced", 2, "'class_weight'"),
    "a bad structure": ("fit t.csv -o x --target price --set structure=m2", 1, "structure='m2': expected one of"),
    "nothing to predict": (
        "predict rows.vae t.csv",
        1,
        "rows.vae has no target to predict; fit a model with --target",
    ),
    "classes have no spread": ("predict grade.vae t.csv --std", 2, "--std: the model predicts classes"),
    "nor intervals": ("predict grade.vae t.csv --interval 0.5", 2, "--interval: the model predicts classes"),
    "nor quantiles": ("predict grade.vae t.csv --quantile 0.5", 2, "--quantile: the model predicts classes"),
    "numbers have no probabilities": ("predict price.vae t.csv --proba", 2, "--proba: the model predicts numbers"),
    "coverage": ("predict price.vae t.csv --interval 1.5", 1, r"coverage=1\.5: expected a share in \(0, 1\)"),
    "quantile": ("predict price.vae t.csv --quantile 0", 1, r"quantile 0: expected in \(0, 1\)"),
    "missing column": ("predict price.vae empty.csv", 1, "column 'room' is missing; the file has 'x', 'y'"),
    "another target": ("sample price.vae --target cost=3", 2, "the model's target is 'price', not 'cost'"),
    "no number": ("sample price.vae --target price=high", 2, "could not convert string to float: 'high'"),
    "no class": ("sample grade.vae --target grade=bad", 2, "'bad' is no class of 'grade'; known are 7, good, so, so"),
    "no value": ("sample price.vae --target price", 2, "'price': expected name=value"),
    "no target to sample": ("sample rows.vae --target price=3", 2, "the model has no target"),
    "means of a target": ("sample price.vae --target price=3 --decode mean", 2, "leave --decode on draw"),
    "how to decode": ("sample price.vae --decode mode", 1, "decode='mode': expected 'draw' or 'mean'"),
}


@pytest.fixture(scope="module")
def more_files(folder):
    write([pa.table({"x": range(9)})], "one.csv")
    write([pa.table({"x": range(9), "y": pa.nulls(9)})], "empty.csv")
    done("fit t.csv -o rows.vae --set max_epochs=1 --set hidden_sizes=(4,)")


@pytest.mark.usefixtures("more_files")
@pytest.mark.parametrize("case", WRONG)
def test_what_goes_wrong(case, folder):
    command, code, message = WRONG[case]
    before = sorted(path.name for path in folder.iterdir())
    result = run(command)
    flat = " ".join(result.stderr.split())
    assert re.search(message, flat), flat
    assert (result.exit_code, result.stdout) == (code, "")
    if code == 1:
        assert re.fullmatch("skvae: error: .*\n", result.stderr)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_targets_are_arrays_with_names():
    one, two = cli_targets.Targets(np.ones(3), ["a"]), cli_targets.Targets(np.ones((3, 2)), ["a", "b"])
    assert (one.name, len(one), np.asarray(one).shape) == ("a", 3, (3,))
    assert (two.columns, len(two), np.asarray(two, dtype=np.float32).dtype) == (["a", "b"], 3, np.float32)
