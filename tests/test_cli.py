"""The command line gives what the estimators give, in files and pipes, and fails in one line."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
import torch

import skvae
from commands import answer as answer_of
from commands import done, run
from skvae import VAE, cli, cli_ask, shell
from skvae.data.source import read, write

SMALL = "--seed 0 --set latent_dim=2 --set hidden_sizes=(8,) --set max_epochs=2"
answer = partial(answer_of, text=["kind"])
COMMANDS = ("fit", "transform", "reconstruct", "sample", "predict", "score", "impute", "info", "diagnose", "evaluate")


def table(n=60):
    rng = np.random.default_rng(0)
    x = rng.normal(size=n)
    columns = {
        "x": x.round(3),
        "y": (x + rng.normal(size=n)).round(2),
        "kind": rng.choice(["a", "b, c", "7"], n),
        "day": np.datetime64("2020-01-01") + rng.integers(0, 99, n),
    }
    holes = rng.random((n, 4)) < 0.1
    arrays = [pa.array(values, mask=hole) for values, hole in zip(columns.values(), holes.T, strict=True)]
    return pa.table(arrays, names=list(columns))


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """Where all commands run: a table in two formats, and a model of it."""
    folder = tmp_path_factory.mktemp("shell")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write([table()], "t.csv")
        write([table()], "t.parquet")
        write([table().append_column("id", pa.array(range(60)))], "more.csv")
        n_threads = torch.get_num_threads()
        torch.set_num_threads(1)  # for equal sums in equal order
        done("fit t.csv -o m.vae", SMALL)
        yield folder
        torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def vae(folder):
    return skvae.load("m.vae")


def test_fit_is_the_estimators_fit(folder, vae):
    same = VAE(latent_dim=2, hidden_sizes=(8,), max_epochs=2, random_state=0).fit("t.csv")
    assert repr(vae) == repr(same)
    np.testing.assert_array_equal(vae.transform("t.csv"), same.transform("t.csv"))
    assert sorted(path.name for path in folder.iterdir()) == ["m.vae", "more.csv", "t.csv", "t.parquet"]


@pytest.mark.parametrize("source", ["t.csv", "t.parquet", "more.csv", "-", ""])
def test_answers_are_the_estimators(source, vae, tmp_path):
    """Of every form of the rows, in every form of the output."""
    expected = {
        "transform": pa.table(list(vae.transform(table()).T), names=["vae0", "vae1"]),
        "score": pa.table({"log_p": vae.score_samples(table())}),
        "reconstruct": vae.reconstruct(table()),
        "impute": vae.impute(table()),
    }
    data = None if source not in ("-", "") else _csv(table())
    for command, rows in expected.items():
        target = tmp_path / f"{command}.parquet"
        done(f"{command} m.vae {source} -o {target}", data=data)
        got = read(target)
        if source == "more.csv" and command == "impute":
            assert got["id"].to_pylist() == list(range(60))
            got = got.drop_columns(["id"])
        assert got.column_names == rows.column_names
        for mine, theirs in zip(got.columns, rows.columns, strict=True):
            assert mine.to_pylist() == theirs.to_pylist()
        assert done(f"{command} m.vae {source}", data=data).stdout_bytes == _csv(read(target))


def _csv(rows):
    file = io.BytesIO()
    write([rows], file, "csv")
    return file.getvalue()


def test_score_tells_the_mean(vae):
    result = done("score m.vae t.csv --n-draws 10")
    assert result.stderr == f"skvae: mean log p(x) of 60 rows: {vae.score_samples('t.csv', 10).mean():.4f} nats\n"


def test_sample_is_made_in_pieces(vae, monkeypatch, tmp_path):
    monkeypatch.setattr(cli_ask, "_PIECE", 20)
    whole = answer("sample m.vae -n 50 --seed 3")
    assert whole.slice(0, 20).to_pydict() == vae.sample(20, random_state=3).to_pydict()
    assert len(whole) == 50
    assert whole.slice(20, 20).to_pydict() != whole.slice(0, 20).to_pydict()
    assert len(set(whole["x"].to_pylist())) > 40
    done(f"sample m.vae -n 50 --seed 3 -o {tmp_path / 's.parquet'}")
    assert read(tmp_path / "s.parquet").to_pydict() == whole.to_pydict()
    assert answer("sample m.vae -n 50 --seed 4").to_pydict() != whole.to_pydict()
    assert answer("sample m.vae -n 2").to_pydict() != answer("sample m.vae -n 2").to_pydict()
    assert answer("sample m.vae -n 5 --seed 3 --decode mean").to_pydict() == (
        vae.sample(5, decode="mean", random_state=3).to_pydict()
    )


def test_no_piece_has_more_rows_than_it_may(vae, monkeypatch, tmp_path):
    sizes, sample = [], VAE._sample

    def spied(self, n_samples, *args):
        sizes.append(n_samples)
        return sample(self, n_samples, *args)

    monkeypatch.setattr(VAE, "_sample", spied)
    done(f"sample m.vae -n 40000 -o {tmp_path / 's.parquet'}")
    assert sizes == [16_384, 16_384, 40_000 - 2 * 16_384]
    assert len(read(tmp_path / "s.parquet")) == 40_000
    failed = run(f"sample m.vae -n 0 -o {tmp_path / 'none.csv'}")
    assert (failed.exit_code, failed.stderr) == (1, "skvae: error: n_samples=0: expected a whole number ≥ 1\n")
    assert not (tmp_path / "none.csv").exists()


def test_parquet_through_pipes(vae):
    content = done("sample m.vae -n 9 --seed 0 --format parquet").stdout_bytes
    assert content.startswith(b"PAR1")
    rows = vae.sample(9, random_state=0)
    np.testing.assert_allclose(answer("score m.vae -", data=content)["log_p"], vae.score_samples(rows), rtol=1e-5)
    # In a csv file the level "7" looks like a number; the model knows that it was text.
    np.testing.assert_allclose(answer("score m.vae", data=_csv(rows))["log_p"], vae.score_samples(rows), rtol=1e-5)


def test_several_imputations(vae):
    draws = answer("impute m.vae more.csv --n-imputations 3")
    assert draws.column_names == ["imputation", "x", "y", "kind", "day", "id"]
    assert draws["imputation"].to_pylist() == [1] * 60 + [2] * 60 + [3] * 60
    for k, expected in enumerate(vae.impute("t.csv", 3)):
        got = draws.slice(60 * k, 60)
        assert got.select(["x", "y", "kind", "day"]).to_pydict() == expected.to_pydict()
    assert "has a column 'imputation' already" in run("impute m.vae - --n-imputations 2", data=_csv(draws)).stderr


def test_info(vae):
    text = done("info m.vae").stdout
    for piece in (repr(vae), repr(vae.schema_), "StandardNormal()", "ELBO()", repr(vae.history_)):
        assert piece in text
    assert re.search(r"latent_dim +2\s", text)
    facts = json.loads(done("info m.vae --json").stdout)
    assert facts["settings"] == vae.settings_
    assert [column["name"] for column in facts["schema"]["columns"]] == ["x", "y", "kind", "day"]
    assert facts["training"]["n_train"] == 54
    assert facts["params"]["hidden_sizes"] == "(8,)"


def test_diagnose(vae):
    assert done("diagnose m.vae t.csv").stdout == f"{vae.diagnose('t.csv')}\n"
    assert json.loads(done("diagnose m.vae t.csv --json").stdout)["latent_dim"] == 2


def test_fit_from_a_pipe_and_over_an_old_model(tmp_path):
    content = _csv(table())
    for words in ("", "--overwrite"):
        done(f"fit - -o {tmp_path}/m --set max_epochs=1 --quality fast {words}", data=content)
    result = run(f"fit -o {tmp_path}/m --set max_epochs=1", data=content)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"skvae: error: {tmp_path}/m exists; choose another path or add --overwrite\n"
    assert skvae.load(tmp_path / "m").quality == "fast"


def test_columns_chosen_and_left_out(tmp_path):
    rows = {"zip": [f"00{k % 3}" for k in range(30)], "grade": [str(k % 4) for k in range(30)], "id": range(30)}
    write([pa.table(rows)], tmp_path / "t.csv")
    kinds = "--column-kind zip=categorical --column-kind grade=ordinal"
    done(f"fit {tmp_path}/t.csv -o {tmp_path}/m --drop id {kinds} --set max_epochs=1")
    columns = skvae.load(tmp_path / "m").schema_.columns
    assert [(column.name, column.kind, column.levels) for column in columns] == [
        ("zip", "categorical", ("000", "001", "002")),
        ("grade", "ordinal", (0, 1, 2, 3)),
    ]
    assert set(answer(f"sample {tmp_path}/m -n 20")["zip"].to_pylist()) <= {0, 1, 2}
    assert answer(f"score {tmp_path}/m {tmp_path}/t.csv").num_rows == 30


def test_progress_only_where_it_is_wanted(tmp_path):
    content = _csv(table())
    command = f"fit -o {tmp_path}/m --overwrite --set max_epochs=1"
    assert done(command, data=content).stderr == ""
    for words in (f"--verbose {command}", f"{command} --verbose"):
        result = done(words, data=content)
        assert "epoch 1/1" in result.stderr
        assert f"{tmp_path}/m: 60 rows, History of 1 epochs" in result.stderr
        assert result.stdout == ""
    assert skvae.load(tmp_path / "m").verbose == 0


VALUES = {
    "3": 3,
    "0.5": 0.5,
    "1e-3": 1e-3,
    "(64, 64)": (64, 64),
    "()": (),
    "[64]": [64],
    "true": True,
    "False": False,
    "null": None,
    "None": None,
    "auto": "auto",
    '"auto"': "auto",
    '{"age": "poisson"}': {"age": "poisson"},
    "{'age': 'poisson'}": {"age": "poisson"},
    "": "",
    "1.2.3": "1.2.3",
}


@pytest.mark.parametrize("text", VALUES)
def test_values(text):
    value = shell.value_of(text)
    assert value == VALUES[text]
    assert type(value) is type(VALUES[text])


def test_nested_settings_make_an_object_of_an_alias():
    def params(**given):
        return repr(shell.with_params(VAE(), given))

    assert params(objective__beta=4) == "VAE(objective=ELBO(beta=4))"
    assert params(objective__n_draws=5, objective="elbo") == "VAE(objective=ELBO(n_draws=5))"
    assert params(encoder="residual", encoder__width=6) == "VAE(encoder=ResidualMLP(width=6))"
    assert params(latent_dim=3) == "VAE(latent_dim=3)"


WRONG = {
    "no command": ("", 2, "Usage: skvae"),
    "unknown command": ("learn", 2, "No such command 'learn'"),
    "unknown option": ("info m.vae --jsn", 2, "No such option"),
    "no output": ("fit t.csv", 2, "Missing option '-o'"),
    "no value": ("fit t.csv -o x --set latent_dim", 2, "'latent_dim': expected name=value"),
    "no kind": ("fit t.csv -o x --column-kind =ordinal", 2, "expected name=value"),
    "unknown parameter": ("fit t.csv -o x --set depth=3", 2, r"Invalid parameter 'depth'.*'latent_dim'"),
    "unknown part of a part": ("fit t.csv -o x --set objective__gamma=3", 2, "no parameter 'gamma'; it has.*'beta'"),
    "a part of none": ("fit t.csv -o x --set encoder__width=3", 2, r"--set encoder=…, one of \[.*'residual'"),
    "a part of a number": ("fit t.csv -o x --set latent_dim__a=3", 2, "'latent_dim__a' asks for a parameter"),
    "a column that is not there": ("fit t.csv -o x --drop z", 2, "there is no column 'z'"),
    "no such class": ("info m.vae --part os:Path", 2, "'os:Path'.*expected module:Class"),
    "no such module": ("info m.vae --part nowhere", 2, "'nowhere'.*expected module:Class"),
    "a bad value": ("fit t.csv -o x --set latent_dim=0", 1, "latent_dim=0: expected 'auto' or a whole number"),
    "a bad part": ("fit t.csv -o x --set prior=better", 1, r"prior='better' is not understood; expected one of"),
    "a bad kind": ("fit t.csv -o x --column-kind kind=date", 1, "column 'kind' holds text.*cannot be 'date'"),
    "a kind of none": ("fit t.csv -o x --column-kind z=date", 1, "'z', which X lacks"),
    "no file": ("fit z.csv -o x", 1, "there is no file z.csv"),
    "no folder": ("fit t.csv -o no/x", 1, "the folder .*no does not exist; create it first"),
    "a file in the way": ("fit t.csv -o t.parquet --overwrite", 1, "is not a saved model and is not overwritten"),
    "no model": ("score z.vae t.csv", 1, "there is no saved model at z.vae"),
    "not a model": ("info t.csv", 1, "there is no saved model at t.csv"),
    "not a class": ("info m.vae --part pathlib:Path", 1, "expected classes of your own"),
    "another format": ("score m.vae t.csv -o x.json", 1, r"x\.json: expected \.csv"),
    "another format asked for": ("score m.vae t.csv --format json", 1, "format='json': expected one of"),
    "no folder to write to": ("sample m.vae -o no/x.csv", 1, "the folder .*no does not exist"),
    "no rows": ("sample m.vae -n 0", 1, "n_samples=0: expected a whole number ≥ 1"),
    "no imputations": ("impute m.vae t.csv --n-imputations 0", 1, "n_imputations=0: expected"),
    "no draws": ("score m.vae t.csv --n-draws 0", 1, "n_draws=0: expected"),
    "a bad seed": ("sample m.vae --seed -1", 1, "[Ss]eed"),
    "a bad way to decode": ("sample m.vae --decode mode", 1, "decode='mode': expected 'draw' or 'mean'"),
    "nothing": ("score m.vae -", 1, "standard input is empty"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_goes_wrong(case, folder):
    command, code, message = WRONG[case]
    before = sorted(path.name for path in folder.iterdir())
    result = run(command, data=b"")
    assert result.exit_code == code
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    flat = " ".join(result.stderr.split())
    assert re.search(message, flat), flat
    if code == 1:
        assert result.stderr.startswith("skvae: error: ")
        assert result.stderr.count("\n") == 1
    assert sorted(path.name for path in folder.iterdir()) == before


def test_rows_that_go_wrong():
    content = _csv(table())
    lines = content.splitlines()
    for data, message in {
        b"\n".join([*lines[:7], b"1,2", *lines[7:]]): r"standard input, line 8: expected 4 entries",
        content.replace(b'"b, c"', b"z"): r"column 'kind' holds \"z\" \(row \d+\), a level not seen at fit",
        content.replace(b',"a",', b',"a",,'): "expected 4 entries as in the header, found 5",
        content.replace(b"x,y", b"x,z", 1): "column 'y' is missing; the file has 'x', 'z', 'kind', 'day'",
        b"x,y,kind,day\n1,high,a,2020-01-01\n": r"column 'y' holds text \(\"high\", row 0\) but was numeric",
    }.items():
        result = run("score m.vae -", data=data)
        assert (result.exit_code, result.stdout) == (1, "")
        assert re.fullmatch(f"skvae: error: .*{message}.*\n", result.stderr), result.stderr


def test_a_traceback_on_demand():
    for command in ("--debug info z.vae", "info z.vae --debug"):
        result = run(command)
        assert result.exit_code == 1
        assert "Traceback" in result.stderr
        assert result.stderr.endswith("skvae: error: there is no saved model at z.vae\n")


def test_a_defect_is_called_one(monkeypatch):
    monkeypatch.setattr(VAE, "transform", lambda self, X: {}["x"])
    result = run("transform m.vae t.csv")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "skvae: error: KeyError: 'x' (a defect of skvae: please report it, with --debug)\n"


def test_errors_of_the_system(monkeypatch, tmp_path):
    def full(*args):
        raise OSError(28, "No space left on device", "t.vae")

    monkeypatch.setattr(VAE, "fit", lambda *_: full())
    assert run(f"fit t.csv -o {tmp_path}/m").stderr == "skvae: error: t.vae: No space left on device\n"


def test_an_interruption_leaves_nothing(monkeypatch, tmp_path):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(VAE, "fit", interrupted)
    result = run(f"fit t.csv -o {tmp_path}/m")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "")
    monkeypatch.setattr(cli_ask, "_PIECE", 5)
    calls = iter([table()])
    monkeypatch.setattr(VAE, "_sample", lambda *args, **kwargs: next(calls, None) or interrupted())
    assert run(f"sample m.vae -n 20 -o {tmp_path}/x.csv").exit_code == 130
    assert not list(tmp_path.iterdir())


def test_warnings_take_a_line():
    result = done("score m.vae -", data=b",x,y,kind,day\n0,1,2,a,2020-01-01\n")
    assert result.stderr.startswith(
        "skvae: warning: standard input: the first column has no name and is passed over as row names\nskvae: mean"
    )


def test_a_model_of_an_array(tmp_path):
    X = np.random.default_rng(0).normal(size=(60, 2))
    vae = VAE(latent_dim=2, hidden_sizes=(8,), max_epochs=1, random_state=0).fit(X)
    vae.save(tmp_path / "m")
    rows = pa.table(list(X.T), names=["a", "b"])
    result = done(f"reconstruct {tmp_path}/m -", data=_csv(rows))
    assert result.stderr == ""
    assert result.stdout.startswith("a,b\n")
    np.testing.assert_allclose(answer(f"transform {tmp_path}/m", data=_csv(rows))["vae1"], vae.transform(X)[:, 1])
    assert answer(f"sample {tmp_path}/m -n 3").column_names == ["x0", "x1"]


MINE = """
from skvae import StandardNormal

class MyPrior(StandardNormal):
    alias = "my-own"
"""


def test_parts_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "my_parts.py").write_text(MINE)
    write([table()], tmp_path / "t.csv")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    done("fit t.csv -o m --part my_parts:MyPrior --set prior=my-own --set max_epochs=1")
    sys.modules["my_parts"].MyPrior.alias = ""  # unknown to other tests
    assert answer("sample m -n 3 --part my_parts:MyPrior").num_rows == 3
    result = run("sample m -n 3")
    assert result.exit_code == 1
    assert "uses MyPrior, a class of your own (my_parts:MyPrior), whose code is not stored" in result.stderr


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_has_examples(command):
    text = done(f"{command} --help").stdout
    assert "Examples:\n" in text
    assert f"skvae {command}" in text
    assert done(f"{command} -h").stdout == text
    assert all(len(line) <= 100 for line in text.splitlines())


def test_version():
    assert done("--version").stdout == f"skvae {skvae.__version__}\n"


def test_help_does_not_wait_for_torch():
    code = "import sys, skvae.cli; print([m for m in ('torch', 'sklearn', 'numpy', 'pyarrow') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_every_public_name_is_there():
    assert {name for name in skvae.__all__ if not hasattr(skvae, name)} == set()
    assert set(skvae.__all__) <= set(dir(skvae))
    with pytest.raises(AttributeError, match="module 'skvae' has no attribute 'VEA'"):
        skvae.VEA  # noqa: B018


def test_a_broken_pipe_ends_quietly(monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        with pytest.raises(SystemExit) as stop:
            cli.app(["score", "m.vae", "t.csv"], prog_name="skvae")
        assert stop.value.code == 141
        stdout.flush()  # as the interpreter does when it ends
    assert capsys.readouterr().err == ""


def test_a_pipe_between_commands():
    skvae = f"{shlex.quote(sys.executable)} -m skvae"
    script = f"{skvae} sample m.vae -n 50 | {skvae} score m.vae -; echo ${{PIPESTATUS[@]}} >&2"
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert len(result.stdout.splitlines()) == 51
    assert re.fullmatch(r"skvae: mean log p\(x\) of 50 rows: -\d+\.\d+ nats\n0 0\n", result.stderr)
