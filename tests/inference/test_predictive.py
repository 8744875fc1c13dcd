"""The predictive distribution against scipy's mixtures of normals."""

import math

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from skvae.data.columns import Column, Kind
from skvae.inference.predictive import Predictive, is_mass
from skvae.model import Poisson, StudentT, Table
from skvae.model.likelihoods.normal import Normal

B, T = 7, 2
COLUMNS = [Column("y0", Kind.CONTINUOUS, "float64", offset=50.0, scale=8.0)]
COLUMNS += [Column("y1", Kind.CONTINUOUS, "float64", offset=-0.1, scale=0.02)]
SHAPES = {"one normal": (1, 1), "many draws": (64, 1), "an ensemble": (1, 3), "an ensemble of draws": (4, 3)}


class Mixture:
    """Of normals with equal shares: means and deviations [M, B], in the units of the data."""

    def __init__(self, mean, sigma):
        self.parts = stats.norm(mean, sigma)
        self.means, self.sigmas = mean, sigma

    def cdf(self, y):
        return self.parts.cdf(y).mean(0)

    def log_prob(self, y):
        return np.log(self.parts.pdf(y).mean(0))

    def mean(self):
        return self.means.mean(0)

    def std(self):
        return np.sqrt((self.sigmas**2).mean(0) + self.means.var(0))

    def quantile(self, p):
        ends = self.parts.ppf(p).min(0) - 1, self.parts.ppf(p).max(0) + 1
        return np.array(
            [
                optimize.brentq(
                    lambda x, b=b: stats.norm.cdf(x, self.means[:, b], self.sigmas[:, b]).mean() - p, *end
                )
                for b, end in enumerate(zip(*ends, strict=True))
            ]
        )

    def crps(self, y):
        """Grimit, Gneiting, Berrocal & Johnson (2006), equation 5."""

        def absolute(mean, variance):
            sigma = np.sqrt(variance)
            return 2 * sigma * stats.norm.pdf(mean / sigma) + mean * (2 * stats.norm.cdf(mean / sigma) - 1)

        to_y = absolute(y - self.means, self.sigmas**2).mean(0)
        between = absolute(self.means[:, None] - self.means[None], self.sigmas[:, None] ** 2 + self.sigmas[None] ** 2)
        return to_y - 0.5 * between.mean((0, 1))


def make(n_draws, n_members, n_targets=1, spread=None, squeeze=True, at_once=4):
    """A prediction in two pieces, and what scipy makes of each target."""
    stream = torch.Generator().manual_seed(0)
    shape = n_members, n_draws, B, n_targets
    mean, log_scale = torch.randn(shape, generator=stream), 0.5 * torch.randn(shape, generator=stream) - 0.5
    unit = torch.tensor([column.scale for column in COLUMNS[:n_targets]]).log()
    pieces = [
        [Normal(m[:, rows], s[:, rows], unit) for m, s in zip(mean, log_scale, strict=True)]
        for rows in (slice(0, at_once), slice(at_once, B))
    ]
    if spread is not None:
        spread = np.full(n_targets, spread)
    found = Predictive(pieces, COLUMNS[:n_targets], spread, squeeze)
    mean, sigma = (x.double().numpy().reshape(-1, B, n_targets) for x in (mean, log_scale.exp()))
    oracles = []
    for t, column in enumerate(COLUMNS[:n_targets]):
        m, s = column.offset + column.scale * mean[..., t], column.scale * sigma[..., t]
        if spread is not None:
            centre = m.mean(0)
            m, s = centre + spread[t] * (m - centre), spread[t] * s
        oracles.append(Mixture(m, s))
    return found, oracles


CASES = [(*SHAPES[name], spread) for name in SHAPES for spread in (None, 1.7)]
every_case = pytest.mark.parametrize(
    ("n_draws", "n_members", "spread"), CASES, ids=[f"{n}-{s}" for n in SHAPES for s in (1, 1.7)]
)


@every_case
def test_against_scipy(n_draws, n_members, spread):
    found, (oracle,) = make(n_draws, n_members, spread=spread)
    y = oracle.mean() + oracle.std() * np.linspace(-2, 2, B)
    np.testing.assert_allclose(found.mean(), oracle.mean(), rtol=1e-5)
    np.testing.assert_allclose(found.cdf(y), oracle.cdf(y), atol=1e-5)
    np.testing.assert_allclose(found.log_prob(y), oracle.log_prob(y), atol=1e-4)
    for p in (0.01, 0.3, 0.9):
        np.testing.assert_allclose(found.quantile(p), oracle.quantile(p), atol=1e-4 * oracle.std().max())
    np.testing.assert_allclose(found.std(), oracle.std(), rtol=0.01)
    np.testing.assert_allclose(found.crps(y), oracle.crps(y), atol=0.01 * oracle.std().max())


def test_crps_of_a_normal():
    """σ [z (2Φ(z) − 1) + 2 φ(z) − 1/√π] (Gneiting & Raftery 2007)."""
    found, (oracle,) = make(1, 1)
    y = oracle.mean() + oracle.std() * np.linspace(-3, 3, B)
    z = (y - oracle.mean()) / oracle.std()
    exact = z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / math.sqrt(math.pi)
    np.testing.assert_allclose(found.crps(y) / oracle.std(), exact, atol=3e-3)


@every_case
def test_draws(n_draws, n_members, spread):
    """Their probabilities under the exact mixture are uniform."""
    found, (oracle,) = make(n_draws, n_members, spread=spread)
    stream = torch.Generator().manual_seed(1)
    levels = [oracle.cdf(found.draw(torch.rand(B, 2, generator=stream))) for _ in range(400)]
    assert stats.kstest(np.ravel(levels), "uniform").pvalue > 1e-3


def test_several_targets_are_answered_for_apart():
    found, oracles = make(4, 3, n_targets=2)
    y = np.stack([oracle.mean() + oracle.std() for oracle in oracles], axis=1)
    for name, arguments in (("mean", ()), ("cdf", (y,)), ("log_prob", (y,))):
        expected = [getattr(oracle, name)(*(a[:, t] for a in arguments)) for t, oracle in enumerate(oracles)]
        np.testing.assert_allclose(getattr(found, name)(*arguments), np.stack(expected, axis=1), rtol=1e-3)
    assert found.quantile([0.1, 0.5, 0.9]).shape == (B, T, 3)
    assert found.std().shape == found.crps(y).shape == (B, T)
    drawn = np.array([found.draw(torch.rand(B, 1 + T)) for _ in range(300)])
    for t, oracle in enumerate(oracles):
        assert stats.kstest([oracle.cdf(y) for y in drawn[..., t]], "uniform", axis=None).pvalue > 1e-3
    assert make(1, 1, squeeze=False)[0].mean().shape == (B, 1)


def test_quantiles():
    found, _ = make(4, 3)
    assert found.quantile(0.3).shape == (B,)
    assert found.quantile([0.3]).shape == (B, 1)
    np.testing.assert_array_equal(found.quantile([0.3, 0.8])[:, 0], found.quantile(0.3))
    assert (np.diff(found.quantile(np.linspace(0.01, 0.99, 30))) > 0).all()
    for bad in (0, 1, -0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"quantile .*expected in \(0, 1\)"):
            found.quantile([0.5, bad])


def test_y_of_other_length():
    with pytest.raises(ValueError, match=f"y has 3 rows; the prediction is of {B}"):
        make(1, 1)[0].log_prob(np.zeros(3))


@pytest.mark.parametrize("true", [0.6, 1.0, 2.5])
def test_the_best_spread_is_that_of_the_data(true):
    """Of a normal, the root of the mean square of the standardised residuals."""
    rng = np.random.default_rng(0)
    n = 500
    unit = torch.tensor([column.scale for column in COLUMNS]).log()
    found = Predictive([[Normal(torch.zeros(1, n, T), torch.zeros(1, n, T), unit)]], COLUMNS)
    z = np.stack([true * rng.normal(size=n), rng.normal(size=n)], axis=1)
    factors = np.exp(np.linspace(math.log(0.5), math.log(4), 61))
    best = found.best_spread(z * np.exp(unit.numpy()) + [column.offset for column in COLUMNS], factors)
    exact = np.sqrt((z**2).mean(0))
    assert (np.abs(np.log(best / exact)) < np.log(factors[1] / factors[0])).all()


def test_what_is_a_mass():
    whole = Column("n", Kind.INTEGER, "int64", offset=3.0, scale=2.0, lower=0.0, upper=9.0, resolution=1.0)
    for likelihood, columns, expected in (
        (Table(StudentT()), COLUMNS, [False, False]),
        (Table(Poisson()), [whole], [True]),
        (Table(), [COLUMNS[0], whole, COLUMNS[1]], [False, True, False]),
    ):
        bound = likelihood.bind(columns)
        assert is_mass(bound(torch.zeros(1, 1, bound.n_params)), len(columns)).tolist() == expected


class Whole:
    """A mixture of Poisson variables, each moved by a number from (−½, ½), stretched about its mean, and rounded."""

    def __init__(self, rates, spread):
        self.parts, self.spread, self.centre = stats.poisson(rates), spread, rates.mean(0)

    def cdf(self, y):
        inner = self.centre + (y + 0.5 - self.centre) / self.spread
        cell = np.floor(inner + 0.5)
        share = inner - cell + 0.5
        below, up_to = (self.parts.cdf(k).mean(0) for k in (cell - 1, cell))
        return below + share * (up_to - below)


@pytest.mark.parametrize("spread", [0.6, 1.0, 1.3, 2.5])
@pytest.mark.parametrize("n_members", [1, 3])
def test_whole_numbers_stretched(n_members, spread):
    """Every answer against the distribution function."""
    column = Column("n", Kind.INTEGER, "int64", offset=3.0, scale=2.0, lower=1.0, upper=40.0, resolution=1.0)
    bound = Table(Poisson()).bind([column])
    log_rate = torch.linspace(-1, 1, n_members * B).view(n_members, 1, B, 1)
    piece = [bound(own) for own in log_rate]
    rates = np.array([part.mean.numpy()[0, :, 0] * 2 + 3 for part in piece], dtype=np.float64)
    found, oracle = Predictive([piece], [column], np.array([spread])), Whole(rates, spread)
    y = np.arange(-20, 60)[:, None] * np.ones(B)
    mass = np.diff(np.stack([oracle.cdf(k) for k in [y[0] - 1, *y]]), axis=0)
    np.testing.assert_allclose(mass.sum(0), 1, atol=1e-6)
    np.testing.assert_allclose(found.mean(), rates.mean(0), rtol=1e-5)
    expected_std = np.sqrt((mass * (y - (mass * y).sum(0)) ** 2).sum(0))
    np.testing.assert_allclose(found.std(), expected_std, rtol=0.05)
    for k in range(8):
        np.testing.assert_allclose(found.cdf(np.full(B, k)), oracle.cdf(np.full(B, k)), atol=1e-4)
        mass_here = oracle.cdf(np.full(B, k)) - oracle.cdf(np.full(B, k - 1))
        np.testing.assert_allclose(np.exp(found.log_prob(np.full(B, k))), mass_here, atol=1e-4, rtol=1e-3)
    for p in (0.1, 0.45, 0.9):
        quantile = found.quantile(p)
        assert (quantile == np.rint(quantile)).all()
        assert (oracle.cdf(quantile) >= p - 1e-4).all()
        assert (oracle.cdf(quantile - 1) < p + 1e-4).all()
    exact = [((np.cumsum(mass, 0)[:, b] - (y[:, b] >= 4)) ** 2).sum() for b in range(B)]
    np.testing.assert_allclose(found.crps(np.full(B, 4.0)), exact, atol=0.01 * expected_std.max())
    drawn = np.array([found.draw(torch.rand(B, 2, generator=torch.Generator().manual_seed(s))) for s in range(2000)])
    for b in range(B):
        shares = (drawn[:, b] <= 3).mean(), (drawn[:, b] <= 5).mean()
        expected = [oracle.cdf(np.full(B, k))[b] for k in (3, 5)]
        np.testing.assert_allclose(shares, expected, atol=4 * 0.5 / math.sqrt(2000))
