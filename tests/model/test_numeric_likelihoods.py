"""What is particular to one likelihood of numeric columns: bounds, zeros, starts, tails."""

import numpy as np
import pytest
import torch
from scipy import stats

from skvae.data.columns import Column, Kind
from skvae.model import Beta, Gaussian, LogNormal, MixtureOfGaussians, StudentT
from skvae.model.likelihoods.continuous import Continuous


def column(name="x", kind=Kind.CONTINUOUS, **facts) -> Column:
    return Column(name, kind, "float64", **facts)


def encode(x, of: Column) -> torch.Tensor:
    return torch.tensor((np.asarray(x, dtype=float) - of.offset) / of.scale, dtype=torch.float32).reshape(-1, 1)


def drawn(x: np.ndarray, **facts) -> Column:
    x = np.asarray(x, dtype=float)
    quantiles = tuple(np.quantile(x, np.linspace(0, 1, 33)))
    return column(offset=x.mean(), scale=x.std(), lower=x.min(), upper=x.max(), quantiles=quantiles, **facts)


SHARE = column("share", offset=0.5, scale=0.25, lower=0.0, upper=1.0)


@pytest.mark.parametrize("resolution", [0.0, 0.01])
def test_both_ends_of_the_range_have_a_finite_density(resolution):
    of = column(offset=0.5, scale=0.45, lower=0.0, upper=1.0, resolution=resolution)  # more at the ends than between
    bound = Beta().bind([of])
    params = torch.randn(3, 2, 2, requires_grad=True)
    log_p = bound(params).log_prob(encode([0.0, 1.0], of))
    log_p.sum().backward()
    assert torch.isfinite(log_p).all()
    assert torch.isfinite(params.grad).all()


def test_beyond_the_range_the_density_is_zero_without_harm():
    bound = Beta().bind([SHARE])
    params = torch.zeros(1, 4, 2, requires_grad=True)
    distribution = bound(params)
    values = encode([-0.01, 1.01, -50.0, 0.5], SHARE)
    log_p = distribution.log_prob(values)
    assert log_p[0, :, 0].tolist()[:3] == [-np.inf] * 3
    np.testing.assert_allclose(distribution.cdf(values).detach()[0, :, 0], [0, 1, 0, 0.5], atol=1e-6)
    log_p.sum().backward()
    assert torch.isfinite(params.grad).all()


def test_beta_starts_with_the_mean_and_the_deviation_of_the_column():
    of = column(offset=0.3, scale=0.1, lower=0.0, upper=1.0)
    distribution = Beta().bind([of])(torch.zeros(1, 1, 2))
    u = torch.linspace(0.0005, 0.9995, 1000).reshape(1, -1, 1)
    x = Beta().bind([of])(torch.zeros(1, 1000, 2)).icdf(u)
    assert distribution.mean.item() == pytest.approx(0.0, abs=0.15)
    assert x.std().item() == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize(
    ("likelihood", "of", "message"),
    [
        (LogNormal(), column("debt", lower=-3.5), r"LogNormal\(\).*'debt'.*smallest value is -3.5.*'auto'"),
        (LogNormal(), column("rain", lower=0.0), r"column 'rain'.*smallest value is 0;.*Spikes\(rest='log-normal'\)"),
        (LogNormal(), column("born", Kind.DATE, lower=1.0), r"cannot score column 'born' \(date\)"),
        (LogNormal(rounded=True), column("cm", lower=1.0), r"cannot score column 'cm' \(continuous\)"),
        (StudentT(), column("city", Kind.CATEGORICAL), "cannot score column 'city'"),
        (Beta(), column("city", Kind.CATEGORICAL), "cannot score column 'city'"),
    ],
    ids=repr,
)  # fmt: skip
def test_columns_that_cannot_be_scored(likelihood, of, message):
    with pytest.raises(ValueError, match=message):
        likelihood.check([of])


@pytest.mark.parametrize("n", [0, -1, 2.5, True, "5"])
def test_number_of_components(n):
    with pytest.raises(ValueError, match=r"MixtureOfGaussians\(n_components=.*expected a whole number ≥ 1"):
        MixtureOfGaussians(n).bind([SHARE])


def test_log_normal_over_seven_orders_of_magnitude():
    """The smallest entries are near what float32 can tell from 0."""
    of = drawn(np.exp(2.5 * stats.norm.ppf(np.linspace(1e-4, 1 - 1e-4, 2001))))
    bound = LogNormal().bind([of])
    x = [of.lower, 1e-2, 1.0, 100.0, of.upper]
    log_p = bound(torch.zeros(1, 5, 2)).log_prob(encode(x, of))[0, :, 0]
    logs = np.log([of.lower, *of.quantiles, of.upper])
    sigma = logs.std() * np.exp(-2 + 3 * np.tanh(2 / 3))
    np.testing.assert_allclose(log_p, stats.lognorm(s=sigma, scale=np.exp(logs.mean())).logpdf(x), atol=0.05)
    impossible = bound(torch.zeros(1, 2, 2)).log_prob(encode([-1.0, -1e3], of))
    assert (impossible == -torch.inf).all()


def test_log_normal_means_and_draws_stay_finite():
    of = drawn(np.exp(3 * stats.norm.ppf(np.linspace(1e-3, 1 - 1e-3, 500))))
    distribution = LogNormal().bind([of])(torch.tensor([[[30.0, 50.0]]]))
    assert torch.isfinite(distribution.mean).all()
    assert torch.isfinite(distribution.icdf(torch.full((1, 1, 1), 1 - 2.0**-24))).all()


def test_degrees_of_freedom_leave_a_mean_and_reach_the_normal():
    bound = StudentT().bind([SHARE, SHARE])
    with torch.no_grad():
        bound.log_excess.copy_(torch.tensor([-1e3, 1e3]))
    df = bound(torch.zeros(1, 1, 4)).df
    assert 1.0 < df[0] < 1.1
    assert 140 < df[1] < 150


def test_a_distant_entry_costs_the_logarithm_of_its_distance():
    of = column(offset=0.0, scale=1.0)
    bound = StudentT().bind([of])
    near, far = bound(torch.zeros(1, 2, 2)).log_prob(torch.tensor([[1e3], [1e6]]))[0, :, 0].tolist()
    df = bound(torch.zeros(1, 1, 2)).df.item()
    assert near - far == pytest.approx((df + 1) * np.log(1e3), rel=1e-3)


@pytest.mark.parametrize("rounded", [False, True])
def test_components_start_apart_and_cover_the_column(rounded):
    """Before any training, the mixture is nearer to a column of two peaks than one normal distribution is."""
    rng = np.random.default_rng(0)
    x = np.rint(np.append(rng.normal(0, 5, size=600), rng.normal(100, 10, size=400)))
    of = drawn(x, kind=Kind.INTEGER if rounded else Kind.CONTINUOUS, resolution=1.0)

    def log_p(likelihood):
        bound = likelihood.bind([of])
        return bound(torch.zeros(1, len(x), bound.n_params)).log_prob(encode(x, of)).mean().item()

    one = log_p(Gaussian("row", rounded=rounded))
    assert log_p(MixtureOfGaussians(1, rounded)) == pytest.approx(one, abs=0.3)
    assert log_p(MixtureOfGaussians(5, rounded)) > one + 0.5


def test_components_of_a_column_without_quantiles_start_as_those_of_a_normal_one():
    bound = MixtureOfGaussians(3).bind([column(offset=3.0, scale=2.0)])
    np.testing.assert_allclose(bound.mean_start[:, 0], stats.norm.ppf([1 / 6, 1 / 2, 5 / 6]), atol=0.02)


@pytest.mark.parametrize("rounded", [False, True])
def test_the_mean_counts_the_outliers_too(rounded):
    """Of the mixture: a share ε of it has mean 0, that of the column."""
    of = column(kind=Kind.INTEGER, offset=50.0, scale=10.0, lower=0.0, resolution=1.0)
    distribution = Gaussian("row", rounded=rounded, outliers=0.1).bind([of])(torch.tensor([[[2.0, -1.0]]]))
    u = torch.linspace(5e-5, 1 - 5e-5, 10_000).reshape(1, -1, 1)
    by_draws = Gaussian("row", rounded=rounded, outliers=0.1).bind([of])(torch.tensor([[[2.0, -1.0]]])).icdf(u).mean()
    assert distribution.mean.item() == pytest.approx(0.9 * 2.0)
    assert by_draws.item() == pytest.approx(0.9 * 2.0, abs=5e-3)
    assert distribution.centre(torch.ones(1, 1)).item() == pytest.approx(0.9 * 2.0)


@pytest.mark.parametrize("likelihood", [LogNormal, MixtureOfGaussians, Gaussian])
def test_rounding_is_for_whole_numbers(likelihood):
    assert likelihood(rounded=True).kinds == {Kind.INTEGER}
    assert likelihood().kinds <= Continuous().kinds
