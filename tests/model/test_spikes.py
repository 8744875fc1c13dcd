"""Repeated values with a probability each, over a density or a mass."""

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from skvae.data.columns import Column, Kind
from skvae.model import Gaussian, LogNormal, NegativeBinomial, Spikes, Table
from skvae.model.likelihoods.continuous import Continuous

S, B = 2, 3


def column(spikes=(), name="x", kind=Kind.CONTINUOUS, offset=10.0, scale=4.0, lower=-10.0, **facts) -> Column:
    resolution = 1.0 if kind == Kind.INTEGER else 0.0
    return Column(
        name, kind, "float64", offset=offset, scale=scale, lower=lower, upper=40.0, resolution=resolution,
        spikes=tuple(float(v) for v in spikes), **facts,
    )  # fmt: skip


def encode(x, of: Column) -> torch.Tensor:
    return torch.tensor((np.asarray(x, dtype=float) - of.offset) / of.scale, dtype=torch.float32)


SPIKED = column([12.0, 0.0, 12.5])
SHARES = np.array([0.1, 0.2, 0.3, 0.4])  # of 0, 12, 12.5 and of the rest
MEAN, SD = 11.0, 3.0  # of the rest


@pytest.fixture
def distribution():
    """With a plain Gaussian as the rest, for 1,000 rows."""
    bound = Spikes(Gaussian("row")).bind([SPIKED])
    rest = [(MEAN - 10) / 4, 5 * np.arctanh(np.log(SD / 4) / 5)]
    params = torch.tensor([*rest, *np.log(SHARES)], dtype=torch.float32)
    return bound(params.expand(1, 1000, -1))


def cdf(x):
    below = (SHARES[:3] * (np.array([0.0, 12.0, 12.5]) <= np.asarray(x)[..., None])).sum(-1)
    return below + SHARES[3] * stats.norm(MEAN, SD).cdf(x)


def at(x) -> torch.Tensor:
    return encode(np.resize(x, 1000), SPIKED).unsqueeze(1)


def test_an_entry_equal_to_a_spike_scores_its_share_alone(distribution):
    log_p = distribution.log_prob(at([0.0, 12.0, 12.5, 12.2, -3.0]))[0, :5, 0]
    rest = np.log(0.4) + stats.norm(MEAN, SD).logpdf([12.2, -3.0])
    np.testing.assert_allclose(log_p, [*np.log(SHARES[:3]), *rest], rtol=1e-5)


def test_spikes_and_rest_sum_to_one(distribution):
    x = np.linspace(MEAN - 8 * SD, MEAN + 8 * SD, 1000)  # none of them a spike
    density = distribution.log_prob(at(x))[0, :, 0].double().exp()
    spikes = distribution.log_prob(at([0.0, 12.0, 12.5]))[0, :3, 0].exp().sum()
    assert integrate.trapezoid(density, x) + spikes.item() == pytest.approx(1.0, abs=1e-5)


def test_cdf_jumps_at_the_spikes(distribution):
    x = np.array([-5.0, -1e-3, 0.0, 1e-3, 11.9, 12.0, 12.1, 12.5, 30.0])
    np.testing.assert_allclose(distribution.cdf(at(x))[0, : len(x), 0], cdf(x), rtol=1e-4, atol=1e-7)


def test_icdf_is_the_smallest_value_at_which_the_cdf_reaches_u(distribution):
    u = torch.linspace(0.0005, 0.9995, 1000).reshape(1, -1, 1)
    x = SPIKED.offset + SPIKED.scale * distribution.icdf(u)[0, :, 0].double().numpy()
    grid = np.append(np.linspace(-12, 40, 200_001), [0.0, 12.0, 12.5])
    grid.sort()
    expected = grid[np.searchsorted(cdf(grid), u.flatten().double().numpy())]
    np.testing.assert_allclose(x, expected, atol=1e-3)
    # Spikes are hit exactly, as often as they should be, so that a draw is a value that occurs.
    for spike, share in zip([0.0, 12.0, 12.5], SHARES, strict=False):
        hit = distribution.icdf(u)[0, :, 0] == encode(spike, SPIKED)
        assert hit.double().mean().item() == pytest.approx(share, abs=2e-3)


def test_mean(distribution):
    expected = SHARES @ np.array([0.0, 12.0, 12.5, MEAN])
    mean = SPIKED.offset + SPIKED.scale * distribution.mean[0, 0, 0].item()
    assert mean == pytest.approx(expected, rel=1e-5)
    centre = distribution.centre(torch.ones(1, 1000))[0, 0].item()
    assert centre == pytest.approx(distribution.mean[0, 0, 0].item())


@pytest.mark.parametrize("half", [1e-4, 0.1, 3.0])
def test_probability_of_a_cell_counts_the_spikes_in_it(distribution, half):
    x = np.array([0.0, 12.0, 12.3, 5.0])
    got = distribution.log_cell_prob(at(x), torch.tensor([half / SPIKED.scale]))[0, :4, 0]
    np.testing.assert_allclose(got, np.log(cdf(x + half) - cdf(x - half)), rtol=2e-4, atol=2e-4)


def test_a_whole_number_has_both_probabilities():
    ages = column([12, 0], kind=Kind.INTEGER)
    bound = Spikes().bind([ages])
    params = torch.randn(1, 1, bound.n_params)
    shares = special.softmax(params[0, 0, -3:].double().numpy())
    rest = bound.part(params[..., :-3]).log_prob(encode([[12.0]], ages)).exp().item()
    expected = shares[1] + shares[2] * rest
    assert bound(params).log_prob(encode([[12.0]], ages)).exp().item() == pytest.approx(expected, rel=1e-4)


def test_columns_with_different_numbers_of_spikes_are_each_as_alone():
    """Entries on and next to the last spike of the column with fewer: padding is never met."""
    columns = [column([1, 2, 3], "a"), column([5.5, -2], "b"), column([], "c")]
    bound = Spikes(Gaussian("row")).bind(columns)
    n_rest, most = 6, 4
    params = torch.randn(S, B, bound.n_params, requires_grad=True)
    own = params[..., n_rest:].unflatten(-1, (3, most))
    together = bound(params)
    u = torch.rand(S, B, 3)
    for c, one in enumerate(columns):
        alone = Spikes(Gaussian("row")).bind([one])
        n = len(one.spikes)
        chosen = [params[..., [c, 3 + c]], own[..., c, :n], own[..., c, -1:]] if n else [params[..., [c, 3 + c]]]
        single = alone(torch.cat(chosen, -1))
        edge = max(one.spikes, default=4.0)
        values = encode([[edge], [edge + 1e-3], [edge + 20]], one)
        for question in ("log_prob", "cdf"):
            whole = getattr(together, question)(values.expand(B, 3))
            torch.testing.assert_close(whole[..., c : c + 1], getattr(single, question)(values))
        torch.testing.assert_close(together.icdf(u)[..., c : c + 1], single.icdf(u[..., c : c + 1]))
        torch.testing.assert_close(together.mean[..., c : c + 1], single.mean)
    together.log_prob(values.expand(B, 3)).sum().backward()
    assert torch.isfinite(params.grad).all()
    assert (params.grad[..., n_rest:].unflatten(-1, (3, most))[..., 1, 2] == 0).all()


def test_a_column_without_spikes_is_scored_by_the_rest():
    bound = Spikes().bind([column()])
    assert bound.n_params == 2
    assert type(bound(torch.randn(S, B, 2))) is type(bound.part(torch.randn(S, B, 2)))


def test_float32_errors_do_not_hide_a_spike_nor_join_two():
    """Values decoded from a draw and encoded again, at both ends of what a column can hold."""
    close = column([1e6, 1e6 + 1, 0.0], scale=1e3)
    bound = Spikes(Gaussian("row")).bind([close])
    params = torch.tensor([0.0, 0.0, 1.0, 2.0, 3.0, 0.0]).expand(1, 3, -1)
    exact = encode([[0.0], [1e6], [1e6 + 1]], close)
    again = encode(exact.double().numpy() * close.scale + close.offset, close)
    expected = special.log_softmax([1.0, 2.0, 3.0, 0.0])[:3]
    for values in (exact, again, exact * (1 + 1.2e-7)):
        np.testing.assert_allclose(bound(params).log_prob(values)[0, :, 0], expected, rtol=1e-5)
    near = encode([[1e-1], [1e6 + 0.5], [1e6 + 3]], close)
    assert (bound(params).log_prob(near)[0, :, 0] < -4).all()


def test_spikes_that_are_neighbours_in_float32():
    close = column([1e6, 1e6 + 0.05], scale=1e3)
    values = encode([[1e6], [1e6 + 0.05]], close)
    assert values[1] == torch.nextafter(values[0], values[1])
    bound = Spikes(Gaussian("row")).bind([close])
    log_p = bound(torch.tensor([0.0, 0.0, 1.0, 2.0, 0.0]).expand(1, 2, -1)).log_prob(values)
    np.testing.assert_allclose(log_p[0, :, 0], special.log_softmax([1.0, 2.0, 0.0])[:2], rtol=1e-5)


def test_groups_by_rest_and_number_of_spikes():
    sizes = [0, 1, 2, 3, 4, 100, 128, 0]
    columns = [column(range(n), kind=Kind.INTEGER if i == 7 else Kind.CONTINUOUS) for i, n in enumerate(sizes)]
    assert Spikes().groups(columns) == [[0], [1], [2, 3], [4], [5], [6], [7]]
    table = Table("spikes").bind(columns)
    assert table(torch.randn(S, B, table.n_params)).log_prob(torch.zeros(B, 8)).shape == (S, B, 8)


def test_zero_inflated_log_normal():
    """One spike at 0, and a rest that could not score it."""
    quantiles = tuple(np.append(np.zeros(13), np.geomspace(0.1, 50.0, 20)))
    rain = column([0.0], "rain", lower=0.0, quantiles=quantiles)
    likelihood = Spikes("log-normal")
    likelihood.check([rain])
    bound = likelihood.bind([rain])
    params = torch.randn(S, B, bound.n_params, requires_grad=True)
    log_p = bound(params).log_prob(encode([[0.0], [0.2], [30.0]], rain))
    shares = params[..., -2:].log_softmax(-1)
    torch.testing.assert_close(log_p[:, 0, 0], shares[:, 0, 0])
    log_p.sum().backward()
    assert torch.isfinite(params.grad).all()


def test_counts_as_the_rest():
    visits = column([0.0], "visits", kind=Kind.INTEGER, lower=0.0)
    bound = Spikes(NegativeBinomial()).bind([visits])
    values = encode([[0.0], [3.0], [7.0]], visits)
    params = torch.randn(1, B, bound.n_params)
    shares = params[..., -2:].log_softmax(-1)
    rest = shares[..., 1:] + bound.part(params[..., :-2]).log_prob(values)
    expected = torch.where(values == values[0], torch.logaddexp(shares[..., :1], rest), rest)
    torch.testing.assert_close(bound(params).log_prob(values), expected)


@pytest.mark.parametrize(
    ("likelihood", "of", "message"),
    [
        (Spikes("categorical"), column(), r"Spikes\(rest='categorical'\): expected a likelihood of numeric columns"),
        (Spikes("spike"), column(), "rest='spike' is not understood; expected one of .*'gaussian'"),
        (Spikes("log-normal"), column([5.0], "dB"), "column 'dB', whose smallest value is -10"),
        (Spikes(), Column("city", Kind.CATEGORICAL, "str"), "cannot score column 'city'"),
    ],
    ids=repr,
)
def test_refusals(likelihood, of, message):
    with pytest.raises(ValueError, match=message):
        likelihood.check([of])


def test_rests_are_hyper_parameters():
    likelihood = Spikes(LogNormal(rounded=True))
    assert likelihood.get_params()["rest__rounded"] is True
    assert likelihood.kinds == {Kind.INTEGER}
    assert Spikes().kinds == Continuous().kinds
    assert repr(likelihood.fresh()) == "Spikes(rest=LogNormal(rounded=True))"
