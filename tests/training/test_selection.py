"""The choice of likelihoods on columns whose right answer is known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from skvae import Schema
from skvae.data.batch import Batch
from skvae.data.columns import Column, Kind
from skvae.data.table import read_table
from skvae.model import (
    Categorical,
    DiscretisedLogistic,
    Gaussian,
    LogNormal,
    MixtureOfGaussians,
    NegativeBinomial,
    Ordinal,
    Poisson,
    QuantileNormal,
    Spikes,
    StudentT,
)
from skvae.model.likelihoods.table import default_likelihood
from skvae.training import selection
from skvae.training.engine import Optimizer, threads_for
from skvae.training.randomness import Noise
from skvae.training.recording import NotRecordable


@pytest.fixture(autouse=True)
def _one_thread():
    with threads_for(0):
        yield


def encoded(frame: pd.DataFrame, **kinds: str) -> tuple[tuple[Column, ...], Batch]:
    table = read_table(frame)
    schema = Schema.infer(table, kinds)
    return schema.modelled, schema.encode(table)


def known(n: int, seed: int) -> pd.DataFrame:
    """Columns that depend on x, each in a way that one likelihood says best."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    return pd.DataFrame(
        {
            "x": x,
            "linear": 2 * x + 0.5 * rng.normal(size=n),
            "heavy": 2 * x + rng.standard_t(1.2, size=n),
            "log-normal": np.exp(1 + x + 0.4 * rng.normal(size=n)),
            "zeros": np.where(rng.random(n) < 1 / (1 + np.exp(-2 * x)), 0.0, 5 + rng.normal(size=n)),
            "counts": rng.poisson(np.exp(1 + 0.4 * x)),
            "dispersed": rng.poisson(np.exp(2 + 0.4 * x) * rng.gamma(0.7, 1 / 0.7, size=n)),
            "rounded": np.rint(50 + 10 * x + 4 * rng.normal(size=n)).astype(int),
        }
    )


EXPECTED = {
    "linear": (Gaussian,),
    "heavy": (StudentT, MixtureOfGaussians),
    "log-normal": (LogNormal,),
    "zeros": (Spikes,),
    "counts": (Poisson, NegativeBinomial),
    "dispersed": (NegativeBinomial,),
    "rounded": (Gaussian,),
}


@pytest.mark.parametrize("seed", range(3))
def test_columns_of_which_the_answer_is_known(seed, monkeypatch):
    monkeypatch.setattr(selection, "_N_STEPS", 150)
    columns, rows = encoded(known(1500, seed))
    chosen = selection.choose(columns, columns[1:], rows, seed)
    assert list(chosen) == list(EXPECTED)
    for name, choice in chosen.items():
        assert isinstance(choice.likelihood, EXPECTED[name]), (name, choice)
    assert chosen["linear"].gain == chosen["rounded"].gain == 0.0
    assert all(chosen[name].gain > 0.02 for name in ("heavy", "log-normal", "zeros", "counts", "dispersed"))


@pytest.mark.parametrize(("centres", "expected"), [(True, Ordinal), (False, Categorical)])
def test_levels_in_order_or_not(centres, expected):
    """Neighbouring levels alike, or a level that has nothing to do with its neighbours."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=1000)
    level = np.digitize(x + 0.3 * rng.normal(size=1000), [-1, -0.3, 0.3, 1])
    if not centres:
        level = np.array([0, 3, 1, 4, 2])[level]
    columns, rows = encoded(pd.DataFrame({"x": x, "level": level}), level="ordinal")
    chosen = selection.choose(columns, columns[1:], rows, 0)
    assert isinstance(chosen["level"].likelihood, expected)
    assert (chosen["level"].gain == 0) == (expected is Categorical)


def test_whole_numbers_that_are_nearly_levels():
    """School years that go with a school: each value has a cause of its own."""
    rng = np.random.default_rng(0)
    code = rng.choice(4, size=2000, p=[0.4, 0.3, 0.2, 0.1])
    school = np.array(["d", "a", "c", "b"])[code]
    gaps, _ = encoded(pd.DataFrame({"years": np.array([9, 10, 13, 18])[code], "school": school}))
    assert not selection._is_of_few_values(gaps[0])  # most numbers between are never seen
    columns, rows = encoded(pd.DataFrame({"years": 9 + code, "school": school}))
    assert selection._is_of_few_values(columns[0])
    kinds = [type(part) for part in selection.candidates(columns[0])]
    assert kinds.count(Spikes) == 1
    assert DiscretisedLogistic not in kinds
    assert DiscretisedLogistic in [type(part) for part in selection.candidates(gaps[0])]
    found = selection.choose(columns, columns[:1], rows, 0)["years"]
    assert isinstance(found.likelihood, Spikes), found


def test_no_entry_is_predicted_from_itself():
    """Noise over 64 values costs log 64, however it is predicted; all else would be a leak."""
    rng = np.random.default_rng(0)
    columns, rows = encoded(pd.DataFrame({"a": rng.integers(0, 64, 800), "b": rng.normal(size=800)}))
    noise = Noise(0)
    probe = selection.Probe(columns, {0: [default_likelihood(Kind.INTEGER), DiscretisedLogistic(5)]})
    selection._train(probe, rows.rows(torch.arange(600)), 64, noise)
    log_p, weight = selection._score(probe, rows.rows(torch.arange(600, 800)), torch.ones(2), noise)
    assert log_p.shape == weight.shape == (200, 2)
    assert (weight == 1).all()
    assert (log_p.mean(0) < -np.log(64) + 0.02).all()


def test_recorded_gradients_are_those_of_each_batch(monkeypatch):
    columns, rows = encoded(known(100, 0))
    probe = selection.Probe(columns, {j: selection.candidates(c) for j, c in enumerate(columns)})
    optimizer = Optimizer([probe], 1.0)
    found = {}
    for how in ("recorded", "eager"):
        if how == "eager":
            monkeypatch.setattr(selection, "Recording", refuse)
        gradients = selection._Gradients(probe, optimizer)
        stream = torch.Generator().manual_seed(0)
        found[how] = []
        for first in (0, 20, 40):
            batch = rows.rows(torch.arange(first, first + 20))
            gradients(batch.hide(selection._folds((20, len(columns)), stream) == 0))
            found[how].append(optimizer.grad.clone())
    torch.testing.assert_close(found["recorded"], found["eager"])


def refuse(*_):
    raise NotRecordable


def test_the_folds_of_a_row_are_alike():
    for n_columns in (1, 5, 8, 20):
        folds = selection._folds((50, n_columns), torch.Generator().manual_seed(0))
        sizes = torch.stack([(folds == fold).sum(1) for fold in range(min(8, n_columns))])
        assert sizes.sum(0).eq(n_columns).all()
        assert sizes.max() - sizes.min() <= 1
        assert n_columns == 1 or len(folds.unique(dim=0)) > 1


def test_missing_entries_and_weights():
    """An entry that is not there is neither predicted nor counted; a row counts by its weight."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 2))
    x[rng.random((60, 2)) < 0.3] = np.nan
    columns, rows = encoded(pd.DataFrame(x, columns=list("ab")))
    rows = replace(rows, weight=torch.rand(60))
    probe = selection.Probe(columns, {j: [Gaussian(), StudentT()] for j in (0, 1)})
    assert probe.positions.tolist() == [0, 0, 1, 1]
    _, weight = selection._score(probe, rows, torch.ones(2), Noise(0))
    expected = torch.from_numpy(~np.isnan(x)).repeat_interleave(2, dim=1) * rows.weight.unsqueeze(1)
    torch.testing.assert_close(weight, expected.double())


@pytest.mark.parametrize(
    ("means", "spread", "expected"),
    [
        ([-2.0, -1.0, -1.0], 0.0, 1),  # the first of the best
        ([-1.0, -2.0, -0.5], 0.0, 2),
        ([-1.01, -1.0, -1.0], 0.0, 0),  # 0.02 nats are not worth another
        ([-1.05, -1.0, -1.0], 1.0, 0),  # within one standard error, which is 0.1
        ([-1.15, -1.0, -1.0], 1.0, 1),
        ([-1.0, np.nan, -0.5], 0.0, 2),
        ([np.nan, np.nan, -np.inf], 0.0, 0),
    ],
)
def test_the_simplest_of_the_good_ones(means, spread, expected):
    deviation = torch.tensor([spread, -spread]).repeat(50).double()
    log_p = torch.stack([means[0] + deviation, *(torch.full((100,), m).double() for m in means[1:])], dim=1)
    simplest, mean = selection._simplest(log_p, torch.ones(100).double())
    assert simplest == expected
    assert torch.isfinite(mean).all()
    # Rows without weight do not count.
    padded = torch.cat([log_p, torch.full((100, 3), -7.0).double()])
    weight = torch.cat([torch.ones(100), torch.zeros(100)]).double()
    assert selection._simplest(padded, weight)[0] == expected


def test_what_an_entry_stands_for():
    frame = pd.DataFrame(
        {
            "cents": np.round(np.arange(100) ** 1.5 / 7, 2),
            "whole": np.arange(100) // 3,
            "even": np.sqrt(2) * np.arange(100),
            "repeated": np.sqrt(2) * (np.arange(100) // 10),
        }
    )
    columns, rows = encoded(frame)
    half = selection._half_cells(columns, rows) * torch.tensor([c.scale for c in columns])
    np.testing.assert_allclose(half, [0.005, 0.5, np.sqrt(2) / 2, np.sqrt(2) / 2], rtol=1e-3)


def column(kind=Kind.INTEGER, **facts):
    return Column("x", kind, "int64", **{"resolution": 1.0} | facts)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (column(offset=3.0, scale=2.0), {Gaussian, Poisson, NegativeBinomial, DiscretisedLogistic}),
        (column(offset=3.0, scale=1.0), {Gaussian, DiscretisedLogistic}),  # varies less than counts do
        (column(offset=3.0, scale=2.0, lower=-1.0), {Gaussian, DiscretisedLogistic}),
        (column(offset=3.0, scale=30.0), {Gaussian, NegativeBinomial, DiscretisedLogistic}),
        (column(offset=1e5, scale=1e5, spikes=(0.0,)), {Gaussian, DiscretisedLogistic, QuantileNormal, Spikes}),
        (column(offset=4.0, scale=1.0, lower=2.0, upper=5.0, spikes=(5.0, 3.0, 4.0)), {Gaussian, Spikes}),
        (column(Kind.CONTINUOUS, lower=-1.0), {Gaussian, StudentT, QuantileNormal, MixtureOfGaussians}),
        (column(Kind.CONTINUOUS, lower=1.0), {Gaussian, StudentT, LogNormal, QuantileNormal, MixtureOfGaussians}),
        (column(Kind.DATE, lower=1.0), {Gaussian, StudentT, QuantileNormal, MixtureOfGaussians}),
        (column(Kind.ORDINAL, levels=(0, 1, 2)), {Ordinal, Categorical}),
        (column(Kind.CATEGORICAL, levels=(0, 1, 2)), {Categorical}),
    ],
)
def test_candidates_are_what_the_column_can_have(column, expected):
    column = replace(column, quantiles=() if column.is_discrete else tuple(np.linspace(column.lower, 9, 33)))
    found = selection.candidates(column)
    assert {type(part) for part in found} == expected
    assert repr(default_likelihood(column.kind)) in map(repr, found)
    for part in found:
        part.check([column])


def test_where_nothing_is_chosen(monkeypatch):
    columns, rows = encoded(known(299, 0))
    assert selection.choose(columns, columns, rows, 0) == {}
    columns, rows = encoded(known(400, 0))
    assert selection.choose(columns, [], rows, 0) == {}
    monkeypatch.setattr(selection, "_MAX_COLUMNS", 7)
    assert selection.choose(columns, columns, rows, 0) == {}


def test_the_seed_decides_and_nothing_else(monkeypatch):
    monkeypatch.setattr(selection, "_N_STEPS", 20)
    columns, rows = encoded(known(300, 0)[["x", "zeros"]])
    torch.manual_seed(1)
    first = selection.choose(columns, columns, rows, 5)
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    assert selection.choose(columns, columns, rows, 5)["zeros"].to_dict() == first["zeros"].to_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    assert not torch.equal(before, state)
    assert selection.choose(columns, columns, rows, 6)["zeros"].gain != first["zeros"].gain
