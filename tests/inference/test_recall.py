"""Targets of near rows against sums written out."""

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats

from skvae import VAERegressor
from skvae.data.columns import Column, Kind
from skvae.inference.predictive import Predictive
from skvae.inference.recall import Recall
from skvae.model import Poisson, Spikes, Table
from skvae.model.likelihoods.kernels import Kernels
from skvae.model.likelihoods.normal import Normal

N, F, B = 40, 3, 9
COLUMN = Column("y", Kind.CONTINUOUS, "float64", offset=50.0, scale=8.0, lower=-1e3, upper=1e3)
UNIT = torch.tensor([8.0]).log()


def rows(n, seed=0, n_features=F):
    return torch.randn(n, n_features, generator=torch.Generator().manual_seed(seed))


def recall(weight=None, bandwidth=0.7, count=0.5, width=0.2):
    made = Recall.of([rows(N)[:15], rows(N)[15:]], rows(N, 1, 1), weight)
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


WHOLE = Column("n", Kind.INTEGER, "int64", offset=3.0, scale=2.0, lower=0.0, upper=9.0, resolution=1.0)
SPIKED = Column("y", Kind.CONTINUOUS, "float64", offset=50.0, scale=8.0, spikes=(50.0,), lower=10.0, upper=90.0)


@pytest.mark.parametrize("width", [0.01, 0.4, 2.0])
def test_whole_numbers_are_recalled_by_cells(width):
    """A normal within [−½, 9½], by the probability of each cell."""
    like = Table(Poisson()).bind([WHOLE])(torch.zeros(1, 10, 1))
    value = 2.0
    kernels = Kernels(torch.full((1, 10, 1), (value - 3) / 2), torch.tensor([width]), [WHOLE], like)
    n = torch.arange(10.0).unsqueeze(1)
    oracle = stats.truncnorm((-0.5 - value) / (2 * width), (9.5 - value) / (2 * width), value, 2 * width)
    mass = oracle.cdf(np.arange(10) + 0.5) - oracle.cdf(np.arange(10) - 0.5)
    np.testing.assert_allclose(kernels.log_prob((n - 3) / 2).exp()[0, :, 0], mass, atol=1e-5)
    np.testing.assert_allclose(kernels.cdf((n - 3) / 2)[0, :, 0], mass.cumsum(), atol=1e-5)
    np.testing.assert_allclose(3 + 2 * kernels.mean[0, :, 0], oracle.mean(), rtol=1e-3)
    for u in (0.1, 0.5, 0.99):
        exact = np.flatnonzero(mass.cumsum() >= u)[0]
        np.testing.assert_allclose(3 + 2 * kernels.icdf(torch.full((1, 10, 1), u))[0, :, 0], exact, atol=1e-5)


def test_densities_are_cut_off_where_nothing_was_observed():
    column = Column("y", Kind.CONTINUOUS, "float64", offset=1.0, scale=2.0, lower=0.5, upper=30.0)
    like = Normal(torch.zeros(1, 9, 1), torch.zeros(1, 9, 1), torch.tensor([2.0]).log())
    kernels = Kernels(torch.full((1, 9, 1), -0.2), torch.tensor([0.5]), [column], like)
    oracle = stats.truncnorm((0.5 - 0.6) / 1.0, (30 - 0.6) / 1.0, 0.6, 1.0)
    y = np.linspace(-0.45, 4, 9)
    z = torch.from_numpy((y - 1) / 2).float().unsqueeze(1)
    np.testing.assert_allclose(kernels.log_prob(z)[0, :, 0].exp(), oracle.pdf(y), atol=1e-5)
    np.testing.assert_allclose(kernels.cdf(z)[0, :, 0], oracle.cdf(y), atol=1e-5)
    np.testing.assert_allclose(1 + 2 * kernels.mean[0, :, 0], oracle.mean(), rtol=1e-4)
    np.testing.assert_allclose(1 + 2 * kernels.icdf(torch.full((1, 9, 1), 0.3))[0, :, 0], oracle.ppf(0.3), rtol=1e-4)


def test_levels_are_recalled_as_such():
    y = (torch.arange(B) % 4.0).unsqueeze(1)
    levels = Column("y", Kind.CATEGORICAL, "object", levels=("a", "b", "c", "d"))
    like = Table().bind([levels])(torch.zeros(1, B, 4))
    kernels = Kernels(y.unsqueeze(0), torch.ones(1), [levels], like)
    assert (kernels.log_prob(y) == 0).all()
    assert (kernels.log_prob(y + 1) == -torch.inf).all()
    assert (kernels.icdf(torch.full((1, B, 1), 0.3)) == y).all()


def test_beside_a_spike_a_density_adds_nothing():
    """The value 50 has a probability; about others there is a density, of which none is at 50."""
    bound = Table(Spikes()).bind([SPIKED])
    like = bound(torch.zeros(1, 2, bound.n_params))
    assert like.has_mass(torch.tensor([[0.0], [0.3]])).tolist() == [[True], [False]]
    kernels = Kernels(torch.tensor([[[0.0], [0.3]]]), torch.tensor([0.1]), [SPIKED], like)
    at_spike, beside = (kernels.log_prob(torch.full((2, 1), value))[0, :, 0] for value in (0.0, 0.3))
    assert at_spike.tolist() == [0.0, -np.inf]
    np.testing.assert_allclose(beside, [-np.inf, stats.norm.logpdf(0, scale=0.8)], rtol=1e-5)


@pytest.mark.parametrize("spread", [0.7, 1.5])
def test_a_spike_that_is_recalled_stays_one_whatever_the_spread(spread):
    bound = Table(Spikes()).bind([SPIKED])
    made, x = recall(), rows(B, 2)
    made.targets = torch.zeros_like(made.targets)
    piece = [bound(torch.zeros(1, B, bound.n_params))]
    found = Predictive([piece], [SPIKED], np.array([spread]), recalled=[made(x)])
    share = by_hand(made, x)[0].sum(1)
    y = np.full(B, 50.0)
    jump = found.cdf(y) - found.cdf(y - 1e-3)
    assert (jump >= 0.99 * share).all()
    assert (found.log_prob(y) <= 1e-5).all()


def held_out(noise, n=300):
    """Rows in pairs, the second of which is held out, with a model that knows nothing."""
    x = rows(n, 3).repeat(2, 1)
    y = rows(n, 4, 1).repeat(2, 1) + noise * rows(2 * n, 5, 1)
    places = torch.arange(n, 2 * n)
    like = Normal(torch.zeros(1, n, 1), torch.zeros(1, n, 1), UNIT)
    return Recall.of([x], y, None), (x[n:], places, y[n:], like.log_prob(y[n:])[0], [COLUMN], like)


def test_what_is_alike_is_recalled_as_exactly_as_it_is_alike():
    made, asked = held_out(noise=0.1)
    assert made.fit(*asked)
    assert made.width == [0.15]  # √2 · .1
    shares = made(*asked[:2])
    assert shares.log_model_share.exp().max() < 0.1
    _, _, y, log_p, _, like = asked
    mixed = Predictive([[like]], [COLUMN], recalled=[shares]).log_prob(50 + 8 * y[:, 0].double().numpy())
    gain = mixed - log_p[:, 0].double().numpy()
    assert gain.mean() == pytest.approx(np.log(1 / (0.1 * np.sqrt(2))), abs=0.2)  # deviations of 1 and of √2 · .1


def test_what_tells_nothing_is_not_recalled():
    made, (x, places, y, _, _, like) = held_out(noise=0.1)
    shuffled = rows(len(y), 6, 1)
    assert not made.fit(x, places, shuffled, like.log_prob(shuffled)[0], [COLUMN], like)


def test_rows_are_not_recalled_for_want_of_a_spread(monkeypatch):
    """A model that is too sure is mended by a spread, and rows that tell nothing are to have no part in that."""

    def too_sure(self, members, rows):
        unit = torch.tensor([self._columns[0].scale]).log()
        return [[Normal(torch.zeros(1, n, 1), torch.full((1, n, 1), np.log(0.5)), unit)] for n in [len(rows)]]

    monkeypatch.setattr(VAERegressor, "_answers", too_sure)
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(500, 4)), rng.normal(size=500)
    model = VAERegressor(structure="prior", target_likelihood="gaussian", max_epochs=1, random_state=0)
    assert model.set_params(calibration_fraction=0).fit(X, y).recall_ is None
    assert 1.5 < model._spread[0] < 2.5


def test_copies_alone_do_not_stop_the_search():
    """All held-out rows coincide with others: there is no distance to take as a unit."""
    x, y = torch.zeros(60, F), torch.ones(60, 1)
    like = Normal(torch.zeros(1, 60, 1), torch.zeros(1, 60, 1), UNIT)
    made = Recall.of([x], y, None)
    assert made.fit(x, torch.arange(60), y, like.log_prob(y)[0], [COLUMN], like)
    assert made(x).log_shares.isfinite().all()
