"""Counts, ordered levels and discretised logistics against scipy. A new likelihood is one more row of CASES."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from numeric_oracles import uniform
from scipy import integrate, optimize, special, stats

from skvae.data.columns import Column, Kind
from skvae.model import Categorical, DiscretisedLogistic, Likelihood, NegativeBinomial, Ordinal, Poisson, Table

S, B = 3, 5  # draws and rows: different, so that swapped axes show


def whole(name: str, offset: float, scale: float, lower: float = 0.0, upper: float = 1e4) -> Column:
    return Column(name, Kind.INTEGER, "int64", offset=offset, scale=scale, lower=lower, upper=upper, resolution=1.0)


def levels(name: str, cardinality: int, kind: Kind = Kind.ORDINAL) -> Column:
    offset, scale = 0.4 * cardinality, 0.3 * cardinality
    return Column(name, kind, "str", levels=tuple(range(cardinality)), offset=offset, scale=scale)


@dataclass
class LogisticOracle:
    """A mixture of logistic variables on whole numbers from `lower` to `upper`, the ends taking the tails."""

    shares: np.ndarray
    locations: np.ndarray
    scales: np.ndarray
    lower: float
    upper: float

    def smooth(self, x):
        at = (np.asarray(x, dtype=float)[..., None] - self.locations) / self.scales
        return (self.shares * special.expit(at)).sum(-1)

    def cdf(self, x):
        x = np.floor(x)
        return np.where(x < self.lower, 0.0, np.where(x >= self.upper, 1.0, self.smooth(x + 0.5)))

    def pmf(self, x):
        return self.cdf(x) - self.cdf(np.asarray(x) - 1)

    def logpmf(self, x):
        return np.log(self.pmf(x))

    def ppf(self, u):
        found = optimize.brentq(lambda x: self.smooth(x) - u, -1e5, 1e5, xtol=1e-9)
        return np.clip(np.rint(found), self.lower, self.upper)

    def mean(self):
        """Of the variable cut to the bounds, before rounding."""
        points = np.clip(self.locations, self.lower, self.upper)
        above = integrate.quad(lambda x: 1 - self.smooth(x), self.lower, self.upper, points=points, limit=500)[0]
        return self.lower + above


def poisson(bound, params, column, c):
    return stats.poisson(column.offset * np.exp(15 * np.tanh(params[c] / 15)))


def negative_binomial(bound, params, column, c):
    mean = column.offset * np.exp(15 * np.tanh(params[c] / 15))
    raw = bound.log_size.detach().double().numpy()[c]
    size = np.exp(2.5 + 9.5 * np.tanh((raw - 2.5) / 9.5))
    return stats.nbinom(size, size / (size + mean))


def logistic(bound, params, column, c):
    params = params.reshape(-1, bound.n_components, len(bound.cell))[..., c]
    lowest = min(np.log(1 / column.scale / 16), -5.0)
    centre, half = (5 + lowest) / 2, (5 - lowest) / 2
    log_scale = centre + half * np.tanh((params[1] - centre) / half)
    start = bound.start[:, c].double().numpy()
    return LogisticOracle(
        special.softmax(params[2]) if len(params) == 3 else np.ones(1),
        column.offset + column.scale * (start + params[0]),
        column.scale * np.exp(log_scale),
        column.lower,
        column.upper,
    )


def ordinal(bound, params, column, c):
    first, steps = bound.first.detach().double().numpy()[c], bound.steps.detach().double().numpy()[c]
    thresholds = first + np.append(0.0, np.cumsum(np.log1p(np.exp(steps))))[: column.cardinality - 1]
    stretch = np.exp(5 * np.tanh(bound.log_stretch.detach().double().numpy()[c] / 5))
    cumulative = np.concatenate([[0.0], special.expit(stretch * (thresholds - params[c])), [1.0]])
    return stats.rv_discrete(values=(np.arange(column.cardinality), np.diff(cumulative)))


@dataclass(frozen=True)
class Case:
    """A likelihood, the columns it is bound to, and what scipy makes of one entry's parameters.

    `oracle(likelihood, params, column, c)` gives the distribution of entry c, in the units of the data, from
    the `params` [n_params] of its row.
    """

    name: str
    likelihood: Likelihood
    columns: list[Column]
    oracle: Callable[[Likelihood, np.ndarray, Column, int], Any]

    def bind(self) -> Likelihood:
        bound = self.likelihood.fresh().bind(self.columns).requires_grad_(False)
        for p in bound.parameters():
            p += torch.linspace(-1.0, 0.5, p.numel()).view_as(p)
        return bound

    def params(self, bound: Likelihood, *shape: int, seed: int = 0) -> torch.Tensor:
        return torch.randn(*shape, bound.n_params, generator=torch.Generator().manual_seed(seed))

    def encode(self, x: np.ndarray) -> torch.Tensor:
        """From the units of the data, [..., C]."""
        if not self.columns[0].is_discrete:
            x = (x - [c.offset for c in self.columns]) / [c.scale for c in self.columns]
        return torch.as_tensor(x, dtype=torch.float32)

    def decode(self, x: torch.Tensor, rounded: bool = True) -> np.ndarray:
        x = x.detach().double().numpy()
        if not self.columns[0].is_discrete:
            x = x * [c.scale for c in self.columns] + [c.offset for c in self.columns]
        return np.rint(x) if rounded else x

    def answers(self, bound: Likelihood, params: torch.Tensor, question: Callable[[Any, tuple], float]) -> np.ndarray:
        """The oracle's answer for every entry, [S, B, C]."""
        out = np.empty((*params.shape[:2], len(self.columns)))
        for s, b, c in np.ndindex(out.shape):
            entry = self.oracle(bound, params[s, b].double().numpy(), self.columns[c], c)
            out[s, b, c] = question(entry, (s, b, c))
        return out


COUNTS = [whole("children", 1.7, 1.4), whole("visits", 40.0, 90.0), whole("clicks", 900.0, 700.0)]
WHOLE = [whole("age", 40.0, 12.0, 17.0, 60.0), whole("n", 1.3, 0.8, -1.0, 4.0)]
CASES = [
    Case("poisson", Poisson(), COUNTS, poisson),
    Case("negative-binomial", NegativeBinomial(), COUNTS, negative_binomial),
    Case("logistic", DiscretisedLogistic(), WHOLE, logistic),
    Case("logistic-mixture", DiscretisedLogistic(n_components=3), WHOLE, logistic),
    Case("ordinal", Ordinal(), [levels("a", 5), levels("b", 8), levels("c", 6)], ordinal),
    Case("ordinal-of-two", Ordinal(), [levels("a", 2)], ordinal),
]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@every_case
def test_log_prob(case):
    bound = case.bind()
    params = case.params(bound, S, B)
    values = bound(params).icdf(uniform(S, B, len(case.columns)))[0]  # [B, C]
    x = case.decode(values)
    expected = case.answers(bound, params, lambda p, at: p.logpmf(x[at[1:]]))
    np.testing.assert_allclose(bound(params).log_prob(values), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(
        bound(params).log_cell_prob(values, torch.ones(len(case.columns))), bound(params).log_prob(values)
    )


@every_case
@pytest.mark.parametrize("shift", [0.0, 0.4, -0.4, -50.0, 50.0])
def test_cdf(case, shift):
    """Also between the points, and beyond the ends."""
    bound = case.bind()
    params = case.params(bound, S, B)
    x = case.decode(bound(params).icdf(uniform(S, B, len(case.columns)))[0]) + shift
    expected = case.answers(bound, params, lambda p, at: p.cdf(x[at[1:]]))
    np.testing.assert_allclose(bound(params).cdf(case.encode(x)), expected, rtol=1e-4, atol=1e-5)


@every_case
def test_icdf_is_the_inverse_of_the_cdf(case):
    bound = case.bind()
    params = case.params(bound, S, B)
    u = uniform(S, B, len(case.columns))
    distribution = bound(params)
    quantile = distribution.icdf(u)
    expected = case.answers(bound, params, lambda p, at: p.ppf(u[at].item()))
    np.testing.assert_allclose(case.decode(quantile, rounded=False), expected, rtol=1e-4, atol=1e-4)
    below = distribution.cdf(case.encode(case.decode(quantile) - 1))
    assert ((below - 1e-6 < u) & (u < distribution.cdf(quantile) + 1e-6)).all()


@every_case
def test_gradient(case):
    bound = case.bind().double().requires_grad_()
    params = case.params(bound, S, B).double().requires_grad_()
    values = bound(params).icdf(uniform(S, B, len(case.columns)).double())[0].detach()
    inputs = (params, *bound.parameters())
    assert torch.autograd.gradcheck(lambda *_: bound(params).log_prob(values), inputs, atol=1e-6, fast_mode=True)


@every_case
def test_shapes(case):
    bound = case.bind()
    entries = (S, B, len(case.columns))
    distribution = bound(case.params(bound, S, B))
    values = torch.zeros(entries[1:])
    assert distribution.log_prob(values).shape == entries
    assert distribution.mean.shape == entries
    assert distribution.cdf(values).shape == entries
    assert distribution.icdf(torch.full(entries, 0.5)).shape == entries
    assert distribution.centre(torch.full((S, B), 1 / S)).shape == entries[1:]


@every_case
def test_mean(case):
    bound = case.bind()
    params = case.params(bound, S, B)
    expected = case.answers(bound, params, lambda p, at: p.mean())
    np.testing.assert_allclose(case.decode(bound(params).mean, rounded=False), expected, rtol=1e-4, atol=1e-4)


@every_case
def test_centre_of_a_mixture_of_draws(case):
    """Brute force: the weighted mean of the means, or the level with the largest weighted probability."""
    bound = case.bind()
    params = case.params(bound, S, B)
    weights = torch.distributions.Dirichlet(torch.ones(S)).sample((B,)).T  # [S, B]
    if case.columns[0].is_discrete:
        n_levels = max(c.cardinality for c in case.columns)
        pmf = np.stack([case.answers(bound, params, lambda p, at, k=k: p.pmf(k)) for k in range(n_levels)], -1)
        expected = np.einsum("sb,sbck->bck", weights, pmf).argmax(-1)
    else:
        expected = np.einsum("sb,sbc->bc", weights, bound(params).mean)
    np.testing.assert_allclose(bound(params).centre(weights), expected, rtol=1e-5, atol=1e-6)


@every_case
def test_draws_follow_log_prob(case):
    """Chi-square of draws by icdf against masses from log_prob, which sum to 1."""
    bound = case.bind()
    n = 4_000
    params = case.params(bound, 1, 1, seed=3)
    draws = case.decode(bound(params.expand(1, n, -1)).icdf(uniform(1, n, len(case.columns), seed=4)))[0]  # [n, C]
    for c in range(len(case.columns)):
        entry = case.oracle(bound, params[0, 0].double().numpy(), case.columns[c], c)
        grid = np.arange(entry.ppf(1e-6), entry.ppf(1 - 1e-6) + 1)
        at = case.encode(np.tile(grid[:, None], len(case.columns)))
        mass = bound(params.expand(1, len(grid), -1)).log_prob(at)[0, :, c].double().exp().numpy()
        assert mass.sum() == pytest.approx(1.0, abs=1e-4)
        bins = np.arange(0, len(grid), 1 + len(grid) // 40)
        mass = np.add.reduceat(mass, bins)
        counts = np.histogram(draws[:, c], np.append(grid[bins], grid[-1] + 1) - 0.5)[0]
        common = mass * n >= 5
        counts = np.append(counts[common], n - counts[common].sum())
        expected = np.append(mass[common], 1 - mass[common].sum()) * n
        statistic = ((counts - expected) ** 2 / np.maximum(expected, 1.0)).sum()
        assert stats.chi2.sf(statistic, common.sum()) > 1e-3


@pytest.mark.parametrize("likelihood", [Poisson(), NegativeBinomial(), DiscretisedLogistic(), DiscretisedLogistic(4)])
def test_far_out_it_stays_finite(likelihood):
    """Values and gradients of entries anywhere, for parameters anywhere."""
    column = whole("n", 20.0, 30.0, upper=1e6)
    bound = likelihood.fresh().bind([column])
    params = (torch.randn(1, 200, bound.n_params) * 30).requires_grad_()
    for x in (0.0, 1.0, 50.0, 1e4, 1e6):
        log_p = bound(params).log_prob(torch.full((200, 1), (x - 20) / 30))
        assert torch.isfinite(log_p).all()
        assert (log_p <= 0).all()
        gradients = torch.autograd.grad(log_p.mean(), [params, *bound.parameters()], allow_unused=True)
        assert all(torch.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("count", [0, 1, 7, 8, 200, 30_000, 10**6])
@pytest.mark.parametrize("mean", [1e-3, 1.0, 30.0, 1e4, 1e6])
def test_large_and_small_counts_in_float32(count, mean):
    """Where log-gamma functions would leave no digits."""
    column = whole("n", mean, mean)
    value = torch.tensor([[(count - mean) / mean]], dtype=torch.float64).float()
    count = np.rint(value.item() * np.float32(mean) + np.float32(mean))  # as far as float32 can tell
    poisson = Poisson().bind([column])(torch.zeros(1, 1, 1))
    exact = stats.poisson(mean).logpmf(count)
    assert poisson.log_prob(value).item() == pytest.approx(exact, rel=1e-4, abs=1e-3)
    bound = NegativeBinomial().bind([column])
    for raw in (-6.0, 0.0, 5.0):
        torch.nn.init.constant_(bound.log_size, raw)
        size = bound(torch.zeros(1, 1, 1)).size.double().item()
        exact = stats.nbinom(size, size / (size + mean)).logpmf(count)
        found = bound(torch.zeros(1, 1, 1)).log_prob(value).item()
        assert found == pytest.approx(exact, rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("mean", [0.1, 3.0, 150.0, 2e4])
@pytest.mark.parametrize("size", [0.01, 0.7, 90.0, 3e3])
def test_cdf_of_the_negative_binomial(mean, size):
    """By the continued fraction and, for large counts, by the normal approximation."""
    oracle = stats.nbinom(size, size / (size + mean))
    count = np.unique(np.append(np.arange(12), oracle.ppf(np.linspace(0.001, 0.999, 60))))
    bound = NegativeBinomial().bind([whole("n", mean, 1.0)])
    torch.nn.init.constant_(bound.log_size, 2.5 + 9.5 * np.arctanh((np.log(size) - 2.5) / 9.5))
    distribution = bound.double()(torch.zeros(1, len(count), 1).double())
    found = distribution.cdf(torch.from_numpy(count - float(bound.offset[0])).unsqueeze(1))
    np.testing.assert_allclose(found.detach()[0, :, 0], oracle.cdf(count), atol=3e-5)


def test_negative_binomial_is_poisson_in_the_limit():
    column = whole("n", 6.0, 4.0)
    params = torch.linspace(-3, 2, 50).reshape(1, 50, 1)
    values = (torch.arange(50.0) - 6.0).unsqueeze(1) / 4.0
    bound = NegativeBinomial().bind([column])
    torch.nn.init.constant_(bound.log_size, 100.0)
    difference = bound(params).log_prob(values) - Poisson().bind([column])(params).log_prob(values)
    assert difference.abs().max() < 0.02
    u = uniform(1, 50, 1)
    assert (bound(params).icdf(u) - Poisson().bind([column])(params).icdf(u)).abs().max() < 1e-5


@pytest.mark.parametrize("likelihood", [NegativeBinomial(), Ordinal(), DiscretisedLogistic(2)], ids=repr)
def test_several_models_at_once(likelihood):
    """Gradients under vmap are those of each model by itself."""
    column = levels("a", 5) if isinstance(likelihood, Ordinal) else whole("n", 2.0, 1.5)
    bound = likelihood.fresh().bind([column, column])
    params, values = torch.randn(3, S, B, bound.n_params), torch.ones(B, 2)

    def loss(params):
        return bound(params).log_prob(values).sum()

    together = torch.func.vmap(torch.func.grad(loss))(params)
    torch.testing.assert_close(together, torch.stack([torch.func.grad(loss)(p) for p in params]))


def test_dispersion_is_found():
    """Maximum likelihood of counts whose size is known."""
    size = 1.5
    x = torch.from_numpy(stats.nbinom(size, size / (size + 4.0)).rvs(2000, random_state=0).astype(np.float32))
    column = whole("n", float(x.mean()), 10.0)  # not told by the spread
    bound = NegativeBinomial().bind([column])
    params = torch.zeros(1, 1, 1, requires_grad=True)
    optimiser = torch.optim.LBFGS([params, *bound.parameters()], max_iter=10, line_search_fn="strong_wolfe")
    values = ((x - column.offset) / column.scale).unsqueeze(1)

    def loss():
        optimiser.zero_grad()
        (loss := -bound(params.expand(1, 2000, 1)).log_prob(values).mean()).backward()
        return loss

    optimiser.step(loss)
    assert bound(params).size.item() == pytest.approx(size, rel=0.15)


def test_a_negative_count_has_no_probability():
    for likelihood in (Poisson(), NegativeBinomial()):
        distribution = likelihood.bind([whole("n", 3.0, 1.0)])(torch.zeros(1, 1, 1))
        values = torch.tensor([[-4.0]])
        assert distribution.log_prob(values).item() == -np.inf
        assert distribution.cdf(values).item() == 0.0


@pytest.mark.parametrize("likelihood", ["poisson", "negative-binomial"])
@pytest.mark.parametrize(
    ("column", "message"),
    [
        (whole("balance", 3.0, 9.0, lower=-7.0), r"column 'balance' goes down to -7; shift it .* likelihood='auto'"),
        (Column("cm", Kind.CONTINUOUS, "float64"), r"cannot score column 'cm' \(continuous\); it scores integer"),
    ],
)
def test_columns_that_hold_no_counts(likelihood, column, message):
    with pytest.raises(ValueError, match=message):
        Table({column.name: likelihood}).bind([whole("n", 1.0, 1.0), column])


@pytest.mark.parametrize("likelihood", [DiscretisedLogistic(), DiscretisedLogistic(n_components=3)], ids=repr)
def test_the_ends_take_the_tails(likelihood):
    """Wherever the variable lies, its mass is on the grid, all of it."""
    bound = likelihood.fresh().bind([whole("n", 5.0, 2.0, 0.0, 10.0)])
    params = torch.randn(1, 50, bound.n_params) * 20
    grid = (torch.arange(11.0) - 5.0) / 2.0
    mass = torch.stack([bound(params).log_prob(x.expand(50, 1)).exp() for x in grid])
    torch.testing.assert_close(mass.sum(0), torch.ones(1, 50, 1))


def test_beyond_the_ends_an_entry_is_the_less_likely_the_farther():
    """An absurd entry at prediction is not taken for one at the bound."""
    distribution = DiscretisedLogistic().bind([whole("n", 5.0, 2.0, 0.0, 10.0)])(torch.zeros(1, 1, 2))
    log_p = [distribution.log_prob(torch.tensor([[(x - 5.0) / 2.0]])).item() for x in (10, 11, 12, 100, 10_000)]
    assert log_p == sorted(log_p, reverse=True)
    assert np.isfinite(log_p).all()


def test_logistic_does_not_reward_a_point_mass_without_bound():
    distribution = DiscretisedLogistic().bind([whole("n", 5.0, 2.0)])(torch.tensor([[[0.0, -30.0]]]))
    assert distribution.log_prob(torch.zeros(1, 1)).item() == pytest.approx(0.0, abs=1e-2)


def test_components_start_over_the_quantiles():
    quantiles = tuple(np.linspace(0, 16, 33) ** 2)
    column = replace(whole("n", 85.0, 76.0, 0.0, 256.0), quantiles=quantiles)
    starts = DiscretisedLogistic(n_components=4).bind([column]).start[:, 0] * 76.0 + 85.0
    np.testing.assert_allclose(
        starts, np.interp([0.125, 0.375, 0.625, 0.875], np.linspace(0, 1, 33), quantiles), rtol=1e-4
    )


@pytest.mark.parametrize("n_components", [0, 1.5, True, "5"])
def test_number_of_components_is_refused(n_components):
    with pytest.raises(ValueError, match=r"n_components=.*: expected a whole number ≥ 1"):
        DiscretisedLogistic(n_components).bind(WHOLE)


def test_thresholds_stay_in_order_whatever_their_parameters():
    bound = Ordinal().bind([levels("a", 6)])
    torch.nn.init.normal_(bound.steps, std=5.0)
    values = torch.arange(6.0).unsqueeze(1)
    probs = bound(torch.zeros(1, 6, 1)).log_prob(values).exp()
    assert (probs > 0).all()
    assert probs.sum().item() == pytest.approx(1.0, abs=1e-5)


def test_padded_levels_are_never_drawn_and_cost_nothing():
    columns = [levels("a", 5), levels("b", 8)]
    bound = Ordinal().bind(columns)
    assert bound(torch.full((1, 1, 2), 50.0)).icdf(torch.full((1, 1, 2), 0.99)).flatten().tolist() == [4.0, 7.0]
    params = torch.randn(S, B, 2, requires_grad=True)
    log_p = bound(params).log_prob(torch.tensor([[4.0, 7.0]]).expand(B, 2))
    for c, column in enumerate(columns):
        alone, last = Ordinal().bind([column])(params[..., c : c + 1]), torch.full((B, 1), column.cardinality - 1.0)
        torch.testing.assert_close(log_p[..., c : c + 1], alone.log_prob(last))
    log_p.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in (params, *bound.parameters()))
    assert (bound.steps.grad[0, 4:] == 0).all()


def test_it_starts_with_the_mean_and_spread_of_the_column():
    column = replace(levels("a", 9), offset=5.2, scale=1.8)
    distribution = Ordinal().bind([column])(torch.zeros(1, 9, 1))
    probs = distribution.log_prob(torch.arange(9.0).unsqueeze(1)).detach().exp()[0, :, 0].double().numpy()
    mean = (np.arange(9) * probs).sum()
    assert mean == pytest.approx(5.2, abs=0.2)
    assert np.sqrt(((np.arange(9) - mean) ** 2 * probs).sum()) == pytest.approx(1.8, rel=0.1)


def test_ordinal_needs_an_order():
    with pytest.raises(ValueError, match=r"likelihood Ordinal\(\) cannot score column 'city' \(categorical\)"):
        Table({"city": "ordinal"}).bind([levels("city", 4, Kind.CATEGORICAL)])


def test_ordinal_takes_one_output_per_column():
    columns = [levels("a", 5), levels("b", 8)]
    assert Ordinal().bind(columns).n_params == 2
    assert Categorical().bind(columns).n_params == 16
