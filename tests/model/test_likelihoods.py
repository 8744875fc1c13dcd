"""Every likelihood against scipy, its own draws and brute force. A new likelihood is one more row of CASES."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from scipy import optimize, special, stats
from torch import nn

from skvae.data.columns import Column, Kind
from skvae.model import Bernoulli, Categorical, Gaussian, Likelihood

S, B = 3, 5  # draws and rows: different, so that swapped axes show


def number(name: str = "x", offset: float = 0.0, scale: float = 1.0) -> Column:
    return Column(name, Kind.CONTINUOUS, "float64", offset=offset, scale=scale)


def integer(name: str = "n", offset: float = 0.0, scale: float = 1.0) -> Column:
    return Column(name, Kind.INTEGER, "int64", offset=offset, scale=scale, lower=np.rint(offset - 3), resolution=1.0)


def levels(name: str, cardinality: int, kind: Kind | None = None) -> Column:
    kind = kind or (Kind.BINARY if cardinality == 2 else Kind.CATEGORICAL)
    return Column(name, kind, "str", levels=tuple(range(cardinality)), offset=0.5, scale=0.5)


@dataclass
class RoundedOracle:
    """A scipy normal distribution in the units of the data, rounded to whole numbers."""

    normal: Any

    def logpmf(self, x):
        return np.log(self.pmf(x))

    def pmf(self, x):
        return self.normal.cdf(x + 0.5) - self.normal.cdf(x - 0.5)

    def cdf(self, x):
        return self.normal.cdf(np.floor(x) + 0.5)

    def ppf(self, u):
        return np.rint(self.normal.ppf(u))

    def mean(self):
        return self.normal.mean()


@dataclass
class Mixture:
    """Two distributions, the second with a share of `share`."""

    core: Any
    broad: Any
    share: float

    def mix(self, question, *args):
        return (1 - self.share) * getattr(self.core, question)(*args) + self.share * getattr(self.broad, question)(
            *args
        )

    def logpdf(self, x):
        return np.log(self.mix("pdf", x))

    def logpmf(self, x):
        return np.log(self.mix("pmf", x))

    def cdf(self, x):
        return self.mix("cdf", x)

    def mean(self):
        return self.mix("mean")

    def ppf(self, u):
        """The quantile before rounding, then rounded."""
        core, broad = (getattr(part, "normal", part) for part in (self.core, self.broad))
        ends = core.ppf(u), broad.ppf(u)
        smooth = Mixture(core, broad, self.share)
        found = optimize.brentq(lambda x: smooth.cdf(x) - u, min(ends), max(ends), xtol=1e-12)
        return found if core is self.core else np.rint(found)


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
            p.copy_(torch.linspace(-1.0, 0.5, p.numel()))
        return bound

    @property
    def is_continuous(self) -> bool:
        return self.columns[0].kind == Kind.CONTINUOUS

    def params(self, bound: Likelihood, *shape: int, seed: int = 0) -> torch.Tensor:
        return torch.randn(*shape, bound.n_params, generator=torch.Generator().manual_seed(seed))

    def encode(self, x: np.ndarray) -> torch.Tensor:
        """From the units of the data, [..., C]."""
        if not self.columns[0].is_discrete:
            x = (x - [c.offset for c in self.columns]) / [c.scale for c in self.columns]
        return torch.as_tensor(x, dtype=torch.float32)

    def decode(self, x: torch.Tensor) -> np.ndarray:
        x = x.double().numpy()
        if not self.columns[0].is_discrete:
            x = x * [c.scale for c in self.columns] + [c.offset for c in self.columns]
        return x if self.is_continuous else np.rint(x)

    def answers(self, bound: Likelihood, params: torch.Tensor, question: Callable[[Any, tuple], float]) -> np.ndarray:
        """The oracle's answer for every entry, [S, B, C]."""
        out = np.empty((*params.shape[:2], len(self.columns)))
        for s, b, c in np.ndindex(out.shape):
            entry = self.oracle(bound, params[s, b].double().numpy(), self.columns[c], c)
            out[s, b, c] = question(entry, (s, b, c))
        return out


def contaminated(oracle):
    """The oracle's normal, with a share of outliers over the whole column."""

    def mixture(bound, params, column, c):
        broad = stats.norm(column.offset, 3 * column.scale)
        return Mixture(
            oracle(bound, params, column, c), RoundedOracle(broad) if bound.rounded else broad, bound.outliers
        )

    return mixture


def gaussian(bound, params, column, c):
    if bound.scale == "row":
        mean, raw = np.split(params, 2)
        raw = raw[c]
    else:
        mean, log_scale = params, bound.log_scale.detach().double().numpy()
        raw = np.broadcast_to(log_scale, len(mean))[c]
    return stats.norm(column.offset + column.scale * mean[c], column.scale * np.exp(5 * np.tanh(raw / 5)))


def rounded(bound, params, column, c):
    mean, raw = np.split(params, 2) if bound.scale == "row" else (params, bound.log_scale.detach().double().numpy())
    lower = min(np.log(1 / column.scale / 8), -5.0)
    log_scale = (5 - lower) / 2 * np.tanh((raw[c] - (5 + lower) / 2) / ((5 - lower) / 2)) + (5 + lower) / 2
    return RoundedOracle(stats.norm(column.offset + column.scale * mean[c], column.scale * np.exp(log_scale)))


def bernoulli(bound, params, column, c):
    return stats.bernoulli(special.expit(params[c]))


def categorical(bound, params, column, c):
    own = params.reshape(bound.shape)[c, : column.cardinality]
    return stats.rv_discrete(values=(np.arange(column.cardinality), special.softmax(own)))


NUMBERS = [number("cm", 170.0, 10.0), number("share", 0.3, 0.01), number("euro", -2e4, 5e4)]
WHOLE = [integer("age", 40.0, 12.0), integer("n", 1.3, 0.8)]
CASES = [
    Case("gaussian-shared", Gaussian("shared"), NUMBERS, gaussian),
    Case("gaussian-column", Gaussian("column"), NUMBERS, gaussian),
    Case("gaussian-row", Gaussian("row"), NUMBERS, gaussian),
    Case("gaussian-outliers", Gaussian("row", outliers=0.1), NUMBERS, contaminated(gaussian)),
    Case("rounded-outliers", Gaussian("row", rounded=True, outliers=0.01), WHOLE, contaminated(rounded)),
    Case("rounded-row", Gaussian("row", rounded=True), WHOLE, rounded),
    Case("rounded-column", Gaussian("column", rounded=True), WHOLE, rounded),
    Case("bernoulli", Bernoulli(), [levels("a", 2), levels("b", 2)], bernoulli),
    Case("categorical-padded", Categorical(), [levels("a", 5), levels("b", 8), levels("c", 6)], categorical),
    Case("categorical-ordinal", Categorical(), [levels("a", 3, Kind.ORDINAL), levels("b", 3)], categorical),
]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def uniform(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).clamp(1e-6, 1 - 1e-6)


@every_case
def test_log_prob_in_the_units_of_the_data(case):
    bound = case.bind()
    params = case.params(bound, S, B)
    values = bound(params).icdf(uniform(S, B, len(case.columns)))[0]  # [B, C]
    x = case.decode(values)
    expected = case.answers(
        bound, params, lambda p, at: getattr(p, "logpdf" if case.is_continuous else "logpmf")(x[at[1:]])
    )
    np.testing.assert_allclose(bound(params).log_prob(values), expected, rtol=1e-4, atol=1e-4)


@every_case
@pytest.mark.parametrize("shift", [0.0, 0.4, -0.4, -50.0, 50.0])
def test_cdf(case, shift):
    """Also between the points of a discrete distribution, and beyond its ends."""
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
    np.testing.assert_allclose(case.decode(quantile.detach()), expected, rtol=1e-4)

    at = distribution.cdf(quantile)
    if case.is_continuous:
        torch.testing.assert_close(at, u, rtol=1e-4, atol=1e-5)
    else:
        below = distribution.cdf(case.encode(case.decode(quantile) - 1))
        assert ((below - 1e-6 < u) & (u < at + 1e-6)).all()


@every_case
def test_gradient(case):
    bound = case.bind().double().requires_grad_()
    params = case.params(bound, S, B).double().requires_grad_()
    values = bound(params).icdf(uniform(S, B, len(case.columns)).double())[0].detach()
    inputs = (params, *bound.parameters())
    assert torch.autograd.gradcheck(lambda *_: bound(params).log_prob(values), inputs, atol=1e-6)


@every_case
def test_shapes(case):
    bound = case.bind()
    n_columns = len(case.columns)
    distribution = bound(case.params(bound, S, B))
    entries = (S, B, n_columns)
    values = torch.zeros(B, n_columns)
    assert distribution.log_prob(values).shape == entries
    assert distribution.mean.shape == entries
    assert distribution.cdf(values).shape == entries
    assert distribution.icdf(torch.full(entries, 0.5)).shape == entries
    assert distribution.centre(torch.full((S, B), 1 / S)).shape == (B, n_columns)


@every_case
def test_mean(case):
    bound = case.bind()
    params = case.params(bound, S, B)
    expected = case.answers(bound, params, lambda p, at: p.mean())
    mean = bound(params).mean.detach().double().numpy()
    if not case.columns[0].is_discrete:
        mean = mean * [c.scale for c in case.columns] + [c.offset for c in case.columns]
    np.testing.assert_allclose(mean, expected, rtol=1e-4)


@every_case
def test_centre_of_a_mixture_of_draws(case):
    """Brute force: the weighted mean of the means, or the level with the largest weighted probability."""
    bound = case.bind()
    params = case.params(bound, S, B)
    weights = torch.distributions.Dirichlet(torch.ones(S)).sample((B,)).T  # [S, B]
    centre = bound(params).centre(weights).detach()
    if case.columns[0].is_discrete:
        n_levels = max(c.cardinality for c in case.columns)
        pmf = np.stack([case.answers(bound, params, lambda p, at, k=k: p.pmf(k)) for k in range(n_levels)], -1)
        expected = np.einsum("sb,sbck->bck", weights, pmf).argmax(-1)
    else:
        expected = np.einsum("sb,sbc->bc", weights, bound(params).mean.detach())
    np.testing.assert_allclose(centre, expected, rtol=1e-5, atol=1e-6)


@every_case
def test_draws_follow_log_prob(case):
    """Chi-square of draws by icdf against masses from log_prob, entry by entry."""
    bound = case.bind()
    n = 20_000
    params = case.params(bound, 1, 1, seed=3)
    u = uniform(1, n, len(case.columns), seed=4)
    draws = case.decode(bound(params.expand(1, n, -1)).icdf(u))[0]  # [n, C]
    for c in range(len(case.columns)):
        entry = case.oracle(bound, params[0, 0].double().numpy(), case.columns[c], c)
        low, high = entry.ppf(1e-5), entry.ppf(1 - 1e-5)
        grid = np.linspace(low, high, 3001) if case.is_continuous else np.arange(low, high + 1)
        at = case.encode(np.tile(grid[:, None], len(case.columns)))
        density = bound(params.expand(1, len(grid), -1)).log_prob(at)[0, :, c].double().exp().numpy()
        if case.is_continuous:
            mass = (density[1:] + density[:-1]) / 2 * np.diff(grid)
            mass = mass.reshape(30, -1).sum(1)
            counts = np.histogram(draws[:, c], grid[::100])[0]
        else:
            mass = density
            counts = (draws[:, c, None] == grid).sum(0)
        assert mass.sum() == pytest.approx(1.0, abs=1e-3)
        common = mass * n >= 5
        counts = np.append(counts[common], n - counts[common].sum())
        expected = np.append(mass[common], 1 - mass[common].sum()) * n
        statistic = ((counts - expected) ** 2 / np.maximum(expected, 1.0)).sum()
        assert stats.chi2.sf(statistic, common.sum()) > 1e-3


def test_change_of_unit():
    """Metres instead of millimetres change log p by log 1000, whatever the parameters."""
    params = torch.randn(S, B, 2)
    values = torch.randn(B, 1)
    in_mm = Gaussian("row").bind([number(scale=700.0)])(params).log_prob(values)
    in_m = Gaussian("row").bind([number(scale=0.7)])(params).log_prob(values)
    torch.testing.assert_close(in_m - in_mm, torch.full_like(in_m, np.log(1000)))


@pytest.mark.parametrize("likelihood", [Gaussian("shared"), Gaussian("column"), Gaussian("row")], ids=repr)
def test_published_mistake_5_one_map_to_the_scale(likelihood):
    """σ is the same in log_prob, cdf, icdf and `scale`."""
    bound = likelihood.bind([number()])
    for p in bound.parameters():
        nn.init.constant_(p, 1.2)
    distribution = bound(torch.tensor([[[0.3, 1.2][: bound.n_params]]]))
    mean, sd = distribution.mean.item(), distribution.scale.item()
    assert sd == pytest.approx(np.exp(5 * np.tanh(1.2 / 5)), rel=1e-5)
    assert distribution.log_prob(torch.tensor([[mean]])).item() == pytest.approx(-np.log(sd * np.sqrt(2 * np.pi)))
    assert distribution.icdf(torch.tensor([[[stats.norm.cdf(2)]]])).item() == pytest.approx(mean + 2 * sd, rel=1e-4)
    assert distribution.cdf(torch.tensor([[mean + sd]])).item() == pytest.approx(stats.norm.cdf(1), rel=1e-4)


def test_published_mistake_11_nothing_bounds_a_decoder():
    """Means lie wherever the decoder puts them: no sigmoid at its end."""
    params = torch.tensor([[[-40.0, 70.0]]])
    assert Gaussian("shared").bind([number("a"), number("b")])(params).mean.flatten().tolist() == [-40.0, 70.0]


def test_published_mistake_14_parameters_are_logits():
    p = 0.9
    bernoulli = Bernoulli().bind([levels("a", 2)])(torch.tensor([[[special.logit(p)]]]))
    assert bernoulli.log_prob(torch.ones(1, 1)).item() == pytest.approx(np.log(p))
    categorical = Categorical().bind([levels("a", 3)])(torch.log(torch.tensor([[[0.2, 0.7, 0.1]]])))
    assert categorical.log_prob(torch.ones(1, 1)).item() == pytest.approx(np.log(0.7))


@pytest.mark.parametrize(
    ("likelihood", "message"),
    [
        (Gaussian("rows"), r"Gaussian\(scale='rows'\).*'shared', 'column', 'row'"),
        (Gaussian(outliers=1.0), r"Gaussian\(outliers=1.0\).*a share in \[0, 1\)"),
    ],
    ids=repr,
)
def test_gaussian_refuses(likelihood, message):
    with pytest.raises(ValueError, match=message):
        likelihood.bind([number()])


@pytest.mark.parametrize("rounded", [False, True])
def test_an_outlier_costs_no_more_than_its_share(rounded):
    """However small σ has become, and without a gradient that explodes."""
    column = integer(scale=100.0)
    bound = Gaussian("row", rounded=rounded, outliers=1e-3).bind([column])
    params = torch.tensor([[[0.0, -30.0]]], requires_grad=True)
    log_p = bound(params).log_prob(torch.tensor([[5.0]]))
    expected = np.log(1e-3) + stats.norm(0, 3).logpdf(5.0) - np.log(100)
    assert log_p.item() == pytest.approx(expected, rel=1e-3)
    log_p.backward()
    assert (params.grad.abs() < 1e-6).all()


def test_bernoulli_with_extreme_logits():
    logits = torch.tensor([[[-1e4, -30.0, 30.0, 1e4]]], requires_grad=True)
    distribution = Bernoulli().bind([levels(name, 2) for name in "abcd"])(logits)
    for code, expected in [(0.0, [0.0, 0.0, -30.0, -1e4]), (1.0, [-1e4, -30.0, 0.0, 0.0])]:
        log_p = distribution.log_prob(torch.full((1, 4), code))
        np.testing.assert_allclose(log_p.detach()[0, 0], expected, atol=1e-6)
        (gradient,) = torch.autograd.grad(log_p.sum(), logits)
        assert torch.isfinite(gradient).all()


def test_categorical_with_ten_thousand_levels():
    n_levels = 10_000
    bound = Categorical().bind([levels("city", n_levels)])
    logits = torch.randn(2, 3, n_levels, generator=torch.Generator().manual_seed(0))
    distribution = bound(logits)
    code = torch.tensor([[0.0], [17.0], [n_levels - 1.0]])
    expected = np.take_along_axis(special.log_softmax(logits.double().numpy(), -1), code.long().numpy()[None], -1)
    np.testing.assert_allclose(distribution.log_prob(code), expected, rtol=1e-5)
    for u, code in [(2.0**-25, 0), (1 - 2.0**-24, n_levels - 1)]:
        extreme = distribution.icdf(torch.full((2, 3, 1), u))
        assert ((extreme - code).abs() < 10).all()
        assert (extreme >= 0).all()
        assert (extreme < n_levels).all()
    # Every level can be drawn: its middle quantile gives it back.
    probs = distribution.probs[0, 0, 0].double()
    asked = torch.arange(0, n_levels, 97)
    middle = (probs.cumsum(0) - probs / 2)[asked].float().reshape(1, -1, 1)
    drawn = bound(logits[:1, :1].expand(1, len(asked), -1)).icdf(middle)
    assert (drawn.flatten() - asked).abs().max() <= 1


def test_padding_is_never_drawn_and_costs_nothing():
    """Columns of different cardinality, padded together, each against itself alone."""
    columns = [levels("a", 5), levels("b", 8), levels("c", 7)]
    together = Categorical().bind(columns)
    assert together.n_params == 3 * 8
    params = torch.randn(S, B, 24, requires_grad=True)
    u = torch.full((S, B, 3), 1 - 2.0**-24)
    distribution = together(params)
    assert distribution.icdf(u).amax((0, 1)).tolist() == [4.0, 7.0, 6.0]
    values = torch.tensor([[4.0, 7.0, 6.0]]).expand(B, 3)
    log_p = distribution.log_prob(values)
    for c, column in enumerate(columns):
        alone = Categorical().bind([column])(params[..., 8 * c : 8 * c + column.cardinality])
        torch.testing.assert_close(log_p[..., c], alone.log_prob(values[:, c : c + 1])[..., 0])
    log_p.sum().backward()
    padding = params.grad.unflatten(-1, (3, 8))
    assert (padding[..., 0, 5:] == 0).all()
    assert (padding[..., 2, 7:] == 0).all()
    assert torch.isfinite(params.grad).all()


def test_categorical_groups_columns_of_similar_size():
    columns = [levels("a", 3), levels("b", 1000), levels("c", 4), levels("d", 5), levels("e", 600)]
    assert Categorical().groups(columns) == [[0, 2], [3], [1, 4]]
