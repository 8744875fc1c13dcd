"""Targets of near rows against sums written out."""

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats

from skvae.data.columns import Column, Kind
from skvae.inference.predictive import Predictive
from skvae.inference.recall import Recall
from skvae.model import Poisson, Spikes, Table
from skvae.model.likelihoods.kernels import Kernels
from skvae.model.likelihoods.normal import Normal

N, F, B = 40, 3, 9
COLUMN = Column("y", Kind.CONTINUOUS, "float64", offset=50.0, scale=8.0)
UNIT = torch.tensor([8.0]).log()


def rows(n, seed=0, n_features=F):
    return torch.randn(n, n_features, generator=torch.Generator().manual_seed(seed))


def recall(weight=None, bandwidth=0.7, count=0.5, width=0.2):
    made = Recall.of(rows(N), rows(N, 1, 1), weight)
    made.bandwidth, made.count, made.width = bandwidth, count, [width]
    return made


def by_hand(made, x, weight=None, own=None):
    """Shares of all kept rows, [B, N], of which only the ten nearest have one, and of the model, [B]."""
    squared = ((x[:, None] - rows(N)) ** 2).sum(-1).double().numpy()
    w = np.exp(-squared / (2 * made.bandwidth**2)) * (1 if weight is None else weight.numpy())
    if own is not None:
        squared[np.arange(len(x)), own], w[np.arange(len(x)), own] = np.inf, 0
    w[squared > np.sort(squared, axis=1)[:, 9:10]] = 0
    total = made.count + w.sum(1)
    return w / total[:, None], made.count / total


class Mixture:
    """Of a standard normal and of normals about the targets recalled; one row."""

    def __init__(self, shares, model_share, width):
        targets = rows(N, 1, 1)[:, 0].double().numpy()
        self.shares = np.append(shares, model_share)
        self.parts = stats.norm(50 + 8 * np.append(targets, 0.0), 8 * np.append(np.full(N, width), 1.0))

    def cdf(self, y):
        return self.shares @ self.parts.cdf(y)

    def pdf(self, y):
        return self.shares @ self.parts.pdf(y)

    def mean(self):
        return self.shares @ self.parts.mean()

    def std(self):
        return np.sqrt(self.shares @ (self.parts.var() + self.parts.mean() ** 2) - self.mean() ** 2)

    def crps(self, y):
        """∫ (F(t) − 1[t ≥ y])² dt."""
        below = integrate.quad(lambda t: self.cdf(t) ** 2, y - 100, y, limit=200)[0]
        return below + integrate.quad(lambda t: (1 - self.cdf(t)) ** 2, y, y + 100, limit=200)[0]


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_shares(weighted, own):
    weight = torch.linspace(0.2, 1.8, N) if weighted else None
    made = recall(weight)
    x, places = (rows(N)[:B], torch.arange(B)) if own else (rows(B, 2), None)
    found = made(x, places)
    shares, model_share = by_hand(made, x, weight, None if places is None else places.numpy())
    np.testing.assert_allclose(found.log_model_share.exp(), model_share, rtol=1e-4)
    np.testing.assert_allclose(found.log_model_share.exp() + found.log_shares.exp().sum(0), 1, rtol=1e-5)
    expected = shares @ rows(N, 1, 1)[:, 0].double().numpy()
    np.testing.assert_allclose(
        (found.log_shares.exp() * found.targets[..., 0]).sum(0), expected, rtol=1e-3, atol=1e-5
    )


def test_every_answer_is_that_of_the_mixture():
    made, x = recall(), rows(B, 2)
    standard = Normal(torch.zeros(1, B, 1), torch.zeros(1, B, 1), UNIT)
    found = Predictive([[standard]], [COLUMN], recalled=[made(x)])
    shares, model_share = by_hand(made, x)
    oracles = [Mixture(shares[b], model_share[b], made.width[0]) for b in range(B)]
    y = np.linspace(40, 65, B)
    np.testing.assert_allclose(found.mean(), [o.mean() for o in oracles], rtol=1e-4)
    np.testing.assert_allclose(found.std(), [o.std() for o in oracles], rtol=0.01)
    np.testing.assert_allclose(found.cdf(y), [o.cdf(v) for o, v in zip(oracles, y, strict=True)], atol=1e-4)
    np.testing.assert_allclose(
        found.log_prob(y), np.log([o.pdf(v) for o, v in zip(oracles, y, strict=True)]), atol=1e-3
    )
    np.testing.assert_allclose(found.crps(y), [o.crps(v) for o, v in zip(oracles, y, strict=True)], atol=0.05)
    for p in (0.05, 0.5, 0.9):
        exact = [optimize.brentq(lambda v, o=o, p=p: o.cdf(v) - p, -50, 150) for o in oracles]
        np.testing.assert_allclose(found.quantile(p), exact, atol=1e-2)
    stream = torch.Generator().manual_seed(0)
    drawn = [found.draw(torch.rand(B, 2, generator=stream)) for _ in range(400)]
    levels = [[o.cdf(v) for o, v in zip(oracles, values, strict=True)] for values in drawn]
    assert stats.kstest(np.ravel(levels), "uniform").pvalue > 1e-3


def test_several_pieces_and_a_spread():
    """Deviations of the model alone are stretched."""
    made, x = recall(), rows(B, 2)
    pieces = [[Normal(torch.zeros(1, n, 1), torch.zeros(1, n, 1), UNIT)] for n in (4, B - 4)]
    recalled = [made(x[:4]), made(x[4:])]
    found = Predictive(pieces, [COLUMN], np.array([2.0]), recalled=recalled)
    shares, model_share = by_hand(made, x)
    kernels = 8 * rows(N, 1, 1)[:, 0].double().numpy()
    y = np.linspace(40, 65, B)
    expected = model_share * stats.norm.cdf(y, 50, 16) + (shares * stats.norm.cdf(y[:, None], 50 + kernels, 1.6)).sum(
        1
    )
    np.testing.assert_allclose(found.cdf(y), expected, atol=1e-4)
    joined = Predictive.joined(
        [Predictive([p], [COLUMN], recalled=[r]) for p, r in zip(pieces, recalled, strict=True)]
    )
    np.testing.assert_array_equal(joined.stretched(np.array([2.0])).cdf(y), found.cdf(y))


def test_values_with_a_probability_are_recalled_as_such():
    column = Column("n", Kind.INTEGER, "int64", offset=3.0, scale=2.0, lower=0.0, upper=9.0, resolution=1.0)
    whole = Table(Poisson()).bind([column])(torch.zeros(1, B, 1))
    y = ((torch.arange(B) % 4 - 3.0) / 2).unsqueeze(1)
    kernels = Kernels(y.unsqueeze(0), torch.ones(1), torch.zeros(1), whole)
    assert (kernels.log_prob(y) == 0).all()
    assert (kernels.log_prob(y + 0.5) == -torch.inf).all()
    assert (kernels.cdf(y) == 1).all()
    assert (kernels.cdf(y - 0.25) == 0).all()
    assert (kernels.icdf(torch.full((1, B, 1), 0.3)) == y).all()


def test_beside_a_spike_a_density_adds_nothing():
    """The value 50 has a probability; about others there is a density, of which none is at 50."""
    column = Column("y", Kind.CONTINUOUS, "float64", offset=50.0, scale=8.0, spikes=(50.0,))
    bound = Table(Spikes()).bind([column])
    like = bound(torch.zeros(1, 2, bound.n_params))
    assert like.has_mass(torch.tensor([[0.0], [0.3]])).tolist() == [[True], [False]]
    kernels = Kernels(torch.tensor([[[0.0], [0.3]]]), torch.tensor([0.1]), UNIT, like)
    at_spike, beside = (kernels.log_prob(torch.full((2, 1), value))[0, :, 0] for value in (0.0, 0.3))
    assert at_spike.tolist() == [0.0, -np.inf]
    np.testing.assert_allclose(beside, [-np.inf, stats.norm.logpdf(0, scale=0.8)], rtol=1e-5)


def held_out(noise, n=300):
    """Rows in pairs, the second of which is held out, with a model that knows nothing."""
    x = rows(n, 3).repeat(2, 1)
    y = rows(n, 4, 1).repeat(2, 1) + noise * rows(2 * n, 5, 1)
    places = torch.arange(n, 2 * n)
    like = Normal(torch.zeros(1, n, 1), torch.zeros(1, n, 1), UNIT)
    return Recall.of(x, y, None), (x[n:], places, y[n:], like.log_prob(y[n:])[0], like, UNIT)


def test_what_is_alike_is_recalled_as_exactly_as_it_is_alike():
    made, asked = held_out(noise=0.1)
    assert made.fit(*asked)
    assert made.width == [0.15]  # √2 · .1
    shares = made(*asked[:2])
    assert shares.log_model_share.exp().max() < 0.1
    _, _, y, log_p, like, _ = asked
    mixed = Predictive([[like]], [COLUMN], recalled=[shares]).log_prob(50 + 8 * y[:, 0].double().numpy())
    gain = mixed - log_p[:, 0].double().numpy()
    assert gain.mean() == pytest.approx(np.log(1 / (0.1 * np.sqrt(2))), abs=0.2)  # deviations of 1 and of √2 · .1


def test_what_tells_nothing_is_not_recalled():
    made, (x, places, y, _, like, unit) = held_out(noise=0.1)
    shuffled = rows(len(y), 6, 1)
    assert not made.fit(x, places, shuffled, like.log_prob(shuffled)[0], like, unit)


def test_copies_alone_do_not_stop_the_search():
    """All held-out rows coincide with others: there is no distance to take as a unit."""
    x, y = torch.zeros(60, F), torch.ones(60, 1)
    like = Normal(torch.zeros(1, 60, 1), torch.zeros(1, 60, 1), UNIT)
    made = Recall.of(x, y, None)
    assert made.fit(x, torch.arange(60), y, like.log_prob(y)[0], like, UNIT)
    assert made(x).log_shares.isfinite().all()
