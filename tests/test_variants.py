"""docs/variants.md: each line of its table is fitted, saved and loaded; its code runs."""

import re
from pathlib import Path

import numpy as np
import pytest

import skvae
from skvae.model import Objective, Posterior, Prior
from skvae.model.component import choices

TEXT = (Path(__file__).resolve().parent.parent / "docs" / "variants.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| ([^|]+?) \| ([^|]+?) \| `(VAE\w*\(.*\))` \|$", TEXT, flags=re.MULTILINE)
N_ROWS, N_LATENT = 200, 2


def numbers():
    rng = np.random.default_rng(0)
    return rng.normal(size=(N_ROWS, 2)) @ rng.normal(size=(2, 5)) + 0.3 * rng.normal(size=(N_ROWS, 5))


X = numbers()
# Half of the rows have no target.
TARGETS = {
    skvae.VAERegressor: np.where(np.arange(N_ROWS) % 2, X[:, 0], np.nan),
    skvae.VAEClassifier: np.where(np.arange(N_ROWS) % 2, 1 + (X[:, 0] > 0), -1),
}


def test_every_row_was_read():
    lines = [line for line in TEXT.splitlines() if line.startswith("| ")]
    assert len(ROWS) == len(lines) - 2 > 25
    for name, reference, _ in ROWS:
        assert re.search(r"\d{4}", reference), name


@pytest.mark.parametrize("code", [code for _, _, code in ROWS], ids=[name for name, _, _ in ROWS])
def test_variant(code, tmp_path):
    vae = eval(code, {name: getattr(skvae, name) for name in skvae.__all__})
    vae.set_params(latent_dim=N_LATENT, max_epochs=2, random_state=0)
    if vae.hidden_sizes == "auto":
        vae.set_params(hidden_sizes=(6,))
    vae.fit(X, TARGETS.get(type(vae)))
    assert all(np.isfinite(vae.history_["train_loss"]))
    assert all(np.isfinite(vae.history_["validation_bound"]))
    vae.save(tmp_path / "model")
    again = skvae.load(tmp_path / "model")
    assert repr(again) == repr(vae)
    np.testing.assert_array_equal(again.transform(X), vae.transform(X))
    for one, other in zip(again.sample(3, random_state=0), vae.sample(3, random_state=0), strict=True):
        np.testing.assert_array_equal(one, other)


def test_every_part_is_in_the_table():
    code = " ".join(code for _, _, code in ROWS)
    for base in (Objective, Posterior, Prior):
        for alias, cls in choices(base).items():
            # Conditional priors belong to estimators that have a y.
            if cls.__module__.startswith("skvae.") and alias not in ("normal", "diagonal", "conditional"):
                assert f'"{alias}"' in code or f"{cls.__name__}(" in code, alias


def test_code():
    names = {}
    for block in re.findall(r"^```python\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE):
        exec(compile(block, "variants.md", "exec"), names)
    vae = names["vae"].set_params(hidden_sizes=(6,)).fit(X)
    assert vae.history_["train_size"][-1] > 0
