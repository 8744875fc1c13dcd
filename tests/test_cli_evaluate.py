"""`skvae evaluate` gives what `quality_report` gives."""

from __future__ import annotations

import json
import re

import numpy as np
import pyarrow as pa
import pytest

from commands import run
from skvae.data.source import write
from skvae.evaluation import quality_report


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for seed, name in enumerate(("real.csv", "new.parquet", "held.csv")):
            rng = np.random.default_rng(seed)
            x = rng.normal(size=80).round(3)
            rows = {"x": x, "code": rng.choice(["1", "2"], 80), "sold": x + rng.normal(size=80) > 0}
            write([pa.table(rows)], name)
        yield folder


def test_answers_are_the_reports(tmp_path):
    kinds = {"code": "categorical"}
    expected = quality_report("real.csv", "new.parquet", "held.csv", target=["sold"], column_kinds=kinds)
    words = "evaluate real.csv new.parquet --holdout held.csv --target sold --column-kind code=categorical"
    result = run(f"{words} --html {tmp_path}/r.html")
    assert (result.exit_code, result.stdout) == (0, f"{expected}\n")
    assert (tmp_path / "r.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert json.loads(run(f"{words} --json").stdout) == expected.to_dict()


WRONG = {
    "a target without holdout": ("evaluate real.csv new.parquet --target sold", 2, "name them with --holdout"),
    "no such target": (
        "evaluate new.parquet new.parquet --holdout new.parquet --target z",
        1,
        "target='z' is no column",
    ),
    "no such file": ("evaluate real.csv none.csv", 1, "there is no file none.csv"),
    "no such folder": ("evaluate real.csv new.parquet --html none/r.html", 1, "does not exist; create it first"),
    "text for numbers": ("evaluate real.csv new.parquet", 1, "column 'code' holds text in the synthetic table"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_goes_wrong(case):
    command, code, message = WRONG[case]
    result = run(command)
    assert (result.exit_code, result.stdout) == (code, "")
    assert re.search(message, " ".join(result.stderr.split())), result.stderr
