"""Columns that are passed through: files go in and come out with them, and new rows get new ones."""

import numpy as np
import pyarrow as pa
import pytest

from commands import answer, done, run
from skvae import cli_ask
from skvae.data.source import read, write

QUICK = "--seed 0 --set hidden_sizes=(4,) --set latent_dim=2 --set max_epochs=1"
KINDS = "--column-kind key=identifier --column-kind note=identifier"
N = 60


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    rng = np.random.default_rng(0)
    x = rng.normal(size=N)
    rows = {"key": np.arange(500, 500 + N), "x": x.round(3), "note": [f"0{k}" for k in range(N)], "y": x + 1}
    folder = tmp_path_factory.mktemp("identifiers")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write([pa.table(rows | {"kind": rng.choice(["a", "b"], N)})], "t.csv")
        done("fit t.csv -o rows.vae", KINDS, QUICK)
        done("fit t.csv -o y.vae --target y --set structure=joint", KINDS, QUICK)
        yield folder


def test_rows_keep_theirs():
    rows = read("t.csv", text=["note"])
    for command in ("reconstruct rows.vae", "impute rows.vae", "predict y.vae"):
        found = answer(command, "t.csv", text=["note"])
        assert found["key"].equals(rows["key"])
        assert found["note"].equals(rows["note"])
    latents = answer("transform rows.vae t.csv", text=["note"])
    assert latents.column_names == ["key", "note", "vae0", "vae1"]
    assert latents.select(["key", "note"]).equals(rows.select(["key", "note"]))
    assert answer("score rows.vae t.csv").column_names == ["log_p"]


@pytest.mark.parametrize("model", ["rows.vae", "y.vae", "y.vae --target y=1.5", "y.vae --decode mean"])
def test_new_ones_run_on_from_piece_to_piece(model, monkeypatch):
    monkeypatch.setattr(cli_ask, "_PIECE", 20)
    new = answer(f"sample -n 50 {model}", text=["note"])
    assert new["key"].to_pylist() == list(range(560, 610))
    assert new["note"].to_pylist() == [f"note-{k}" for k in range(1, 51)]


def test_conditions_and_the_report():
    failed = run("sample rows.vae -n 5 --where key=501")
    assert failed.exit_code == 1
    assert "column 'key' is to be 501.0, but it is an identifier" in failed.stderr
    done("sample rows.vae -n 60 -o new.csv --seed 0")
    shown = done("evaluate t.csv new.csv", KINDS).stdout
    assert "not compared, as identifiers or free text: key, note" in shown
