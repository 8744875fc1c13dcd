"""Conditions written as text, and `skvae sample --where`."""

import io

import numpy as np
import pyarrow as pa
import pytest
import typer
from pyarrow import csv
from typer.testing import CliRunner

from skvae import VAE, Gaussian, cli, cli_ask
from skvae.cli_conditions import parsed


def table(n=300):
    rng = np.random.default_rng(0)
    return pa.table(
        {
            "sex": rng.choice(["F", "M"], n),
            "age": rng.integers(18, 70, n),
            "a=b": rng.choice(["x", "y, z", "w"], n),
            "day": np.datetime64("2020-01-01") + rng.integers(0, 99, n),
            "ratio": pa.array(rng.normal(size=n), mask=rng.random(n) < 0.1),
            "smokes": rng.random(n) < 0.4,
        }
    )


@pytest.fixture(scope="module")
def vae():
    likelihood = {"integer": Gaussian("row", rounded=True), "continuous": "gaussian", "date": "gaussian"}
    return VAE(latent_dim=2, hidden_sizes=(8,), max_epochs=3, likelihood=likelihood, random_state=0).fit(table())


@pytest.fixture(scope="module")
def model(vae, tmp_path_factory):
    path = tmp_path_factory.mktemp("conditions") / "m.vae"
    vae.save(path)
    return str(path)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["sex=F"], {"sex": "F"}),
        ([" sex = F "], {"sex": "F"}),
        (["age=30"], {"age": 30.0}),
        (["30<=age<40"], {"age": (30.0, 39.0)}),
        (["40>age>=30"], {"age": (30.0, 39.0)}),
        (["30 < age"], {"age": (31.0, None)}),
        (["age>30", "age<=40"], {"age": (31.0, 40.0)}),
        (["ratio<0.5"], {"ratio": (None, np.nextafter(0.5, 0))}),
        (["ratio="], {"ratio": None}),
        (["sex={F,M}"], {"sex": {"F", "M"}}),
        (['a=b={"y, z", w}'], {"a=b": {"y, z", "w"}}),
        (["a=b=x"], {"a=b": "x"}),
        (["smokes=true"], {"smokes": True}),
        (["smokes=no"], {"smokes": False}),
        (["day>=2020-02-01"], {"day": ("2020-02-01", None)}),
        (["day<2020-02-01"], {"day": (None, np.datetime64("2020-01-31", "us"))}),
        (None, {}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, dict) else str(value),  # of sets, in any order
)
def test_texts_are_read(vae, texts, expected):
    assert parsed(texts, vae.schema_) == expected


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["height=3"], "expected a condition on a column.*sex"),
        (["sex"], "expected a condition"),
        (["age=old"], "'age' holds numbers"),
        (["30<=age>=40"], "same way"),
        (["sex=F", "sex=M"], "another condition on 'sex'"),
        (["age>30", "age>40"], "such a bound already"),
        (["age>30", "age=40"], "another condition on 'age'"),
    ],
    ids=str,
)
def test_what_is_no_condition(vae, texts, words):
    with pytest.raises(typer.BadParameter, match=words):
        parsed(texts, vae.schema_)


def test_rows_meet_the_conditions(vae, model):
    run = CliRunner().invoke(
        cli.app, ["sample", model, "-n", "50", "--seed", "0", "--where", "sex=F", "--where", "30<=age<40"]
    )
    assert run.exit_code == 0, run.stderr
    rows = csv.read_csv(io.BytesIO(run.stdout_bytes)).to_pandas()
    assert len(rows) == 50
    assert (rows.sex == "F").all()
    assert rows.age.between(30, 39).all()
    same = vae.sample(50, conditions={"sex": "F", "age": (30, 39)}, random_state=0).to_pandas()
    np.testing.assert_array_equal(rows.age, same.age)


def test_large_numbers_go_piece_by_piece(model, monkeypatch, tmp_path):
    monkeypatch.setattr(cli_ask, "_PIECE", 20)
    to = tmp_path / "new.csv"
    run = CliRunner().invoke(cli.app, ["sample", model, "-n", "70", "--where", "smokes=true", "-o", str(to)])
    assert run.exit_code == 0, run.stderr
    rows = csv.read_csv(to).to_pandas()
    assert len(rows) == 70
    assert rows.smokes.all()


@pytest.mark.parametrize(
    ("where", "code", "words"),
    [
        ("height=3", 2, "expected a condition"),
        ("sex=X", 1, "column 'sex' is to be \"X\""),
        ("age>100", 1, "column 'age'"),
        ("sex<M", 1, "no order"),
        ("day=soon", 1, "holds dates"),
    ],
)
def test_errors_are_one_line(model, where, code, words):
    run = CliRunner().invoke(cli.app, ["sample", model, "-n", "5", "--where", where])
    assert run.exit_code == code
    assert words in " ".join(run.stderr.split())
    if code == 1:
        assert run.stderr.count("\n") == 1
