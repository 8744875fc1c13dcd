"""Columns that tell rows apart are named at fit, with what to do."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

from skvae import VAE, IdentifierWarning

QUICK = {"max_epochs": 1, "hidden_sizes": (4,), "likelihood": {"integer": "gaussian"}, "random_state": 0}
X = pd.DataFrame({"x": np.random.default_rng(0).normal(size=60), "id": [f"u{i}" for i in range(60)]})


def test_identifiers_are_named_at_fit():
    with pytest.warns(
        IdentifierWarning, match=r"column 'id' looks like an identifier.*\"u0\".*drop it.*'categorical'"
    ):
        VAE(**QUICK).fit(X)
    numbers = X.assign(id=np.arange(60))
    with pytest.warns(IdentifierWarning, match=r"column 'id'.*column_kinds=\{'id': 'integer'\}"):
        VAE(**QUICK).fit(numbers)
    text = X.assign(id=[f"a customer wrote {i} things" for i in range(60)])
    with pytest.warns(IdentifierWarning, match="column 'id' looks like free text"):
        VAE(**QUICK).fit(text)


def test_what_was_asked_for_is_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        VAE(**QUICK).fit(X[["x"]])
        VAE(**QUICK, column_kinds={"id": "categorical"}).fit(X)
