"""Noise, masks, the schedule and the history."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from skvae.training import History, Noise
from skvae.training.history import Tally, summed
from skvae.training.randomness import open_uniform, random_mask, seeded_torch
from skvae.training.schedule import learning_rate_factor


def test_streams_do_not_depend_on_what_was_asked_before():
    noise = Noise(3)
    first = noise.normal("a", 5), noise.normal("b", 5), noise.uniform("c", 5, number=2)
    noise.normal("anything", 100)
    again = noise.uniform("c", 5, number=2), noise.normal("b", 5), noise.normal("a", 5)
    for one, two in zip(first, reversed(again), strict=True):
        assert torch.equal(one, two)
    assert torch.equal(first[0], Noise(3).normal("a", 5))


def test_streams_differ_by_seed_name_and_number():
    draws = [Noise(seed).normal(name, 4, number=k) for seed in (0, 1) for name in ("a", "b") for k in (0, 1)]
    assert not any(torch.equal(one, two) for one, two in itertools.combinations(draws, 2))
    assert abs(np.corrcoef(Noise(0).normal("a", 10_000), Noise(1).normal("a", 10_000))[0, 1]) < 0.04


def test_noise_leaves_the_global_stream_alone():
    before = torch.get_rng_state()
    Noise(0).normal("a", 10)
    with seeded_torch(5):
        inside = torch.randn(3)
    assert torch.equal(torch.get_rng_state(), before)
    with seeded_torch(5):
        assert torch.equal(torch.randn(3), inside)


def test_uniform_is_open(monkeypatch):
    ends = torch.tensor([0.0, 0.5, 1 - 2.0**-24])
    monkeypatch.setattr(torch, "rand", lambda *_, **__: ends.clone())
    u = open_uniform((3,), torch.Generator())
    assert torch.isfinite(torch.special.ndtri(u)).all()
    assert u[1] == 0.5
    monkeypatch.undo()
    assert stats.kstest(Noise(0).uniform("u", 5000).numpy(), stats.uniform.cdf).pvalue > 1e-3


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_random_masks(share):
    """Part of the rows stays whole; in the others, any number of any columns is hidden, equally often."""
    n, n_columns = 60_000, 4
    hidden = random_mask((n, n_columns), torch.Generator().manual_seed(0), share)
    counts = torch.bincount(hidden.sum(1), minlength=n_columns + 1).numpy()
    expected = np.full(n_columns + 1, share / (n_columns + 1)) * n
    expected[0] += (1 - share) * n
    if share == 0.0:
        assert not hidden.any()
        return
    assert stats.chisquare(counts, expected).pvalue > 1e-3
    for size in range(1, n_columns + 1):
        subsets = hidden[hidden.sum(1) == size].int() @ (2 ** torch.arange(n_columns, dtype=torch.int32))
        _, found = subsets.unique(return_counts=True)
        assert len(found) == math.comb(n_columns, size)
        assert stats.chisquare(found.numpy()).pvalue > 1e-3 or len(found) == 1


@pytest.mark.parametrize(
    ("step", "factor"),
    [(0, 0.1), (4, 0.5), (9, 1.0), (10, 1.0), (60, 0.505), (110, 0.01), (500, 0.01)],
)
def test_learning_rate(step, factor):
    """Ten steps of warm-up, then half a cosine down to a hundredth over a hundred steps."""
    assert learning_rate_factor(step, 110, 10) == pytest.approx(factor)


def test_learning_rate_without_warm_up():
    assert learning_rate_factor(0, 100, 0) == 1.0
    assert learning_rate_factor(0, 1, 1) == 1.0


def test_tally_of_weighted_rows():
    """Batches of different size and weight, one of them skipped: a mean over all rows of the others."""
    tally = Tally()
    tally.add(["loss"], summed({"loss": torch.tensor([1.0, 2.0])}, None), torch.tensor(3.0))
    tally.add(["loss"], summed({"loss": torch.tensor([9.0, 9.0])}, None), torch.tensor(float("nan")))
    tally.look()
    assert (tally.skipped, tally.skipped_in_a_row) == (1, 1)
    tally.add(["loss"], summed({"loss": torch.tensor([4.0, 6.0])}, torch.tensor([0.5, 3.0])), torch.tensor(1.0))
    tally.look()
    assert tally.means() == {"loss": pytest.approx((1 + 2 + 0.5 * 4 + 3 * 6) / 5.5)}
    assert (tally.skipped, tally.skipped_in_a_row) == (1, 0)


def test_the_run_of_skipped_steps_goes_on_over_epochs():
    tally = Tally()
    for _ in range(3):
        tally.clear()
        tally.add(["loss"], summed({"loss": torch.ones(2)}, None), torch.tensor(float("inf")))
        tally.look()
    assert (tally.skipped, tally.skipped_in_a_row) == (1, 3)
    assert np.isnan(tally.means()["bound"])


def test_history():
    empty = History()
    assert repr(empty) == "History of 0 epochs"
    assert empty["train_bound"] == []
    history = History([{"epoch": 1, "train_bound": -2.0}, {"epoch": 2, "train_bound": -1.5}], {"best_epoch": 2})
    assert history["train_bound"] == [-2.0, -1.5]
    assert len(history) == 2
    assert [record["epoch"] for record in history] == [1, 2]
    assert repr(history) == "History of 2 epochs (train_bound=-1.5, best epoch 2)"
    assert History.from_dict(history.to_dict()).epochs == history.epochs
    with pytest.raises(KeyError, match=r"the history has no 'loss'; it has \['epoch', 'train_bound'\]"):
        history["loss"]
