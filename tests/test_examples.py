"""The README's code and the examples run, with few epochs, and without a warning."""

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from skvae import VAE
from skvae.estimators import settings

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def _few_epochs(monkeypatch, tmp_path):
    monkeypatch.setitem(VAE.__init__.__kwdefaults__, "max_epochs", 3)
    monkeypatch.setitem(settings._STEPS, "default", 100)  # of the estimators that are made of VAEs
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run_example(monkeypatch, capsys):
    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        monkeypatch.syspath_prepend(ROOT / "examples")
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_readme():
    blocks = re.findall(r"^```python\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    assert blocks
    names = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    np.testing.assert_array_equal(names["same"], names["latents"])
    assert names["new"].dtypes.equals(names["table"].dtypes)
    assert not names["complete"].isna().any(axis=None)
    assert names["spread"].notna().all()
    np.testing.assert_array_equal(names["again"].transform(names["table"]), names["mine"].transform(names["table"]))


def test_files_that_the_readme_points_to():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert "docs/figure.png" in targets
    for target in targets:
        assert (ROOT / target).is_file(), target


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "says"),
    [("normal_2d.py", "R² from latents"), ("blobs.py", "silhouette")],
)
def test_example(name, says, run_example, tmp_path):
    assert says in run_example(name, "--output", tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("name", ["normal_2d.py", "blobs.py"])
def test_help(name, run_example, capsys):
    with pytest.raises(SystemExit, match="0"):
        run_example(name, "--help")
    assert "--output" in capsys.readouterr().out


def test_figure(run_example, tmp_path):
    run_example("figure.py", tmp_path / "figure.png")
    image = (tmp_path / "figure.png").read_bytes()
    assert image.startswith(PNG)
    assert len(image) < 300_000


@pytest.mark.slow
def test_demo(run_example):
    out = run_example("demo.py")
    for job in ("Reduce", "Reconstruct", "Generate", "Impute", "Diagnose", "Mixed table", "Score", "Save and load"):
        assert f"\n{job}: " in out
    answers = out[out.index("Save and load") :]
    assert answers.count("True") == 4
    assert "False" not in answers
