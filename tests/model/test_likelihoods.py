"""Every likelihood against scipy, its own draws and brute force. A new likelihood is one more row of CASES."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from numeric_oracles import (
    beta,
    gaussian,
    log_normal,
    mixture_of_gaussians,
    quantile_normal,
    rescaled,
    spikes_and_gaussian,
    student_t,
    uniform,
)
from scipy import special, stats
from torch import nn

from skvae.data.columns import Column, Kind
from skvae.data.schema import Schema
from skvae.data.table import read_table
from skvae.model import (
    Bernoulli,
    Beta,
    Categorical,
    Gaussian,
    Likelihood,
    LogNormal,
    MixtureOfGaussians,
    QuantileNormal,
    Spikes,
    StudentT,
)

S, B = 3, 5  # draws and rows: different, so that swapped axes show


def number(name: str = "x", offset: float = 0.0, scale: float = 1.0) -> Column:
    return Column(name, Kind.CONTINUOUS, "float64", offset=offset, scale=scale)


def integer(name: str = "n", offset: float = 0.0, scale: float = 1.0) -> Column:
    return Column(name, Kind.INTEGER, "int64", offset=offset, scale=scale, lower=np.rint(offset - 3), resolution=1.0)


def levels(name: str, cardinality: int, kind: Kind | None = None) -> Column:
    kind = kind or (Kind.BINARY if cardinality == 2 else Kind.CATEGORICAL)
    return Column(name, kind, "str", levels=tuple(range(cardinality)), offset=0.5, scale=0.5)


def column_of(values: np.ndarray, kind: Kind = Kind.CONTINUOUS) -> Column:
    """A column with the facts of its values."""
    return Schema.infer(read_table(values[:, None]), {0: kind}).columns[0]


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
    mean_error: float = 1e-6  # in standard deviations of the column

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


def bernoulli(bound, params, column, c):
    return stats.bernoulli(special.expit(params[c]))


def categorical(bound, params, column, c):
    own = params.reshape(bound.shape)[c, : column.cardinality]
    return stats.rv_discrete(values=(np.arange(column.cardinality), special.softmax(own)))


GENERATOR = np.random.default_rng(0)
NUMBERS = [number("cm", 170.0, 10.0), number("share", 0.3, 0.01), number("euro", -2e4, 5e4)]
WHOLE = [integer("age", 40.0, 12.0), integer("n", 1.3, 0.8)]
SKEWED = [column_of(1e3 * np.exp(GENERATOR.normal(size=500))), column_of(1 + GENERATOR.gamma(2.0, size=500))]
PEAKED = [column_of(np.append(GENERATOR.normal(size=300), GENERATOR.normal(9.0, 0.1, size=200))), *SKEWED]
BOUNDED = [column_of(GENERATOR.beta(2, 3, size=500)), column_of(-7 + 40 * GENERATOR.beta(6, 4, size=500).round(2))]
COUNTED = [
    column_of(np.ceil(GENERATOR.gamma(3.0, 9.0, size=500)), Kind.INTEGER),
    column_of(1 + GENERATOR.poisson(2.0, size=500), Kind.INTEGER),
]
# Ten years and both ends stand out; one column has fewer spikes than the other.
REPEATED = [
    column_of(np.append(GENERATOR.normal(40, 12, 3000).round(), np.repeat([30, 40, 50, 17, 90], 300)), Kind.INTEGER),
    column_of(np.append(GENERATOR.normal(0, 400, 3000).round(), np.repeat([0, 99, 100, 101], 200)), Kind.INTEGER),
]
CASES = [
    Case("gaussian-shared", Gaussian("shared"), NUMBERS, gaussian),
    Case("gaussian-column", Gaussian("column"), NUMBERS, gaussian),
    Case("gaussian-row", Gaussian("row"), NUMBERS, gaussian),
    Case("gaussian-outliers", Gaussian("row", outliers=0.1), NUMBERS, gaussian),
    Case("rounded-outliers", Gaussian("row", rounded=True, outliers=0.01), WHOLE, gaussian),
    Case("rounded-row", Gaussian("row", rounded=True), WHOLE, gaussian),
    Case("rounded-column", Gaussian("column", rounded=True), WHOLE, gaussian),
    Case("student-t", StudentT(), NUMBERS, student_t),
    Case("log-normal", LogNormal(), SKEWED, log_normal),
    Case("log-normal-rounded", LogNormal(rounded=True), COUNTED, log_normal),
    Case("beta", Beta(), BOUNDED, beta),
    Case("mixture", MixtureOfGaussians(3), PEAKED, mixture_of_gaussians),
    Case("mixture-rounded", MixtureOfGaussians(4, rounded=True), COUNTED, mixture_of_gaussians),
    Case("quantile-normal", QuantileNormal(), PEAKED, quantile_normal, mean_error=0.07),
    Case("quantile-normal-rounded", QuantileNormal(rounded=True), COUNTED, quantile_normal, mean_error=1e-3),
    Case("spikes", Spikes(), REPEATED, spikes_and_gaussian),
    Case("bernoulli", Bernoulli(), [levels("a", 2), levels("b", 2)], bernoulli),
    Case("categorical-padded", Categorical(), [levels("a", 5), levels("b", 8), levels("c", 6)], categorical),
    Case("categorical-ordinal", Categorical(), [levels("a", 3, Kind.ORDINAL), levels("b", 3)], categorical),
]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


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
    assert torch.autograd.gradcheck(lambda *_: bound(params).log_prob(values), inputs, atol=1e-6, fast_mode=True)


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
        expected = (expected - [c.offset for c in case.columns]) / [c.scale for c in case.columns]
    np.testing.assert_allclose(mean, expected, rtol=1e-4, atol=case.mean_error)


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
        grid = np.linspace(low, high, 12_001) if case.is_continuous else np.arange(low, high + 1)
        at = case.encode(np.tile(grid[:, None], len(case.columns)))
        density = bound(params.expand(1, len(grid), -1)).log_prob(at)[0, :, c].double().exp().numpy()
        if case.is_continuous:
            mass = (density[1:] + density[:-1]) / 2 * np.diff(grid)
            mass = mass.reshape(30, -1).sum(1)
            counts = np.histogram(draws[:, c], grid[::400])[0]
        else:
            mass = density
            counts = (draws[:, c, None] == grid).sum(0)
        assert mass.sum() == pytest.approx(1.0, abs=1e-3)
        common = mass * n >= 5
        counts = np.append(counts[common], n - counts[common].sum())
        expected = np.append(mass[common], 1 - mass[common].sum()) * n
        statistic = ((counts - expected) ** 2 / np.maximum(expected, 1.0)).sum()
        assert stats.chi2.sf(statistic, common.sum()) > 1e-3


numeric_case = pytest.mark.parametrize(
    "case", [case for case in CASES if not case.columns[0].is_discrete], ids=lambda case: case.name
)
continuous_case = pytest.mark.parametrize(
    "case", [case for case in CASES if case.is_continuous], ids=lambda case: case.name
)


@every_case
def test_gradients_of_several_models_at_once(case):
    """Under vmap they are those of each."""
    bound = case.bind()
    params = torch.stack([case.params(bound, S, B, seed=seed) for seed in range(3)])
    values = bound(params[0]).icdf(uniform(S, B, len(case.columns)))[0]
    gradient = torch.func.grad(lambda p: bound(p).log_prob(values).sum())
    torch.testing.assert_close(torch.func.vmap(gradient)(params), torch.stack([gradient(p) for p in params]))


@continuous_case
def test_change_of_unit(case):
    """Metres instead of millimetres change log p by log 1000, whatever the parameters."""
    bound = case.bind()
    params = case.params(bound, S, B)
    values = bound(params).icdf(uniform(S, B, len(case.columns)))[0]
    in_metres = replace(case, columns=[rescaled(column, 1e-3) for column in case.columns]).bind()
    gain = in_metres(params).log_prob(values) - bound(params).log_prob(values)
    np.testing.assert_allclose(gain, np.log(1000), rtol=1e-4)


@every_case
@pytest.mark.parametrize("half", [3.0, 0.4, 1e-2, 1e-5])
def test_probability_of_a_cell(case, half):
    """A difference of cdfs, or the density times the width; a mass is that of the value, whatever the cell."""
    bound = case.bind()
    params = case.params(bound, S, B)
    values = bound(params).icdf(uniform(S, B, len(case.columns)))[0]
    got = bound(params).log_cell_prob(values, torch.full((len(case.columns),), half))
    if not case.is_continuous:
        torch.testing.assert_close(got, bound(params).log_prob(values))
        return
    x = case.decode(values)

    def cell(p, at):
        around = half * case.columns[at[2]].scale
        if half < 1e-3:
            return p.logpdf(x[at[1:]]) + np.log(2 * around)
        return np.log(p.cdf(x[at[1:]] + around) - p.cdf(x[at[1:]] - around))

    # The slope of a quantile map is not constant over a cell that is narrow for the normal variable.
    tolerance = 2e-2 if isinstance(bound, QuantileNormal) else 3e-4
    np.testing.assert_allclose(got, case.answers(bound, params, cell), rtol=tolerance, atol=tolerance)


@numeric_case
@pytest.mark.parametrize("at", [-1e8, -1e3, 1e3, 1e8])
def test_gradient_far_in_the_tails(case, at):
    """Finite for every value that a Batch can hold, and for decoder outputs that went astray."""
    bound = case.bind().requires_grad_()
    params = (5 * case.params(bound, S, B)).requires_grad_()
    bound(params).log_prob(torch.full((B, len(case.columns)), at)).sum().backward()
    for p in (params, *bound.parameters()):
        assert torch.isfinite(p.grad).all()


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
