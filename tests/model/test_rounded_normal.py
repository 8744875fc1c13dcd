"""The probability of a rounding cell: near and far, wide and narrow, in float32."""

import numpy as np
import pytest
import torch
from scipy import special, stats

from skvae.data.columns import Column, Kind
from skvae.model import Gaussian
from skvae.model.likelihoods.normal import Normal
from skvae.model.likelihoods.rounded import Rounded

COLUMN = Column("n", Kind.INTEGER, "int64", offset=4.0, scale=2.0, lower=0.0, resolution=1.0)
# Wide and narrow cells, on both sides of where the midpoint rule takes over.
CELLS = [1e-6, 1e-3, 0.019, 0.021, 1.0, 30.0, 1e4]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("log_scale", [0.0, -5.0, -12.0])
def test_rounded_normal_far_in_the_tails(cell, log_scale):
    """Value and gradients, in float32, of the mass of cells up to 10,000 σ from the mean."""
    distance = torch.tensor([0.0, 0.3, 1.0, 5.0, 30.0, 200.0, 1e3, 1e4])
    sigma = np.exp(log_scale)
    mean = torch.zeros(1, 1, 16, requires_grad=True)
    log_sigma = torch.full((1, 1, 16), log_scale, requires_grad=True)
    values = torch.cat([distance, -distance]).unsqueeze(0) * sigma  # [1, 16]
    cells = torch.full((16,), cell * sigma)
    log_p = Rounded(Normal(mean, log_sigma, torch.zeros(16)), cells, torch.zeros(16)).log_prob(values)
    log_p.sum().backward()

    centre = -values.double().numpy()[0].__abs__() / sigma
    half = cell / 2
    upper, lower = special.log_ndtr(centre + half), special.log_ndtr(centre - half)
    expected = upper + np.log(-np.expm1(lower - upper))
    # d log mass / d centre and d half, through logarithms
    at_upper = np.exp(stats.norm.logpdf(centre + half) - expected)
    at_lower = np.exp(stats.norm.logpdf(centre - half) - expected)
    by_mean = (at_upper - at_lower) * np.sign(values.numpy()[0]) / sigma
    by_log_sigma = -(at_upper - at_lower) * centre - (at_upper + at_lower) * half
    np.testing.assert_allclose(log_p.detach()[0, 0], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(mean.grad[0, 0] * sigma, by_mean * sigma, rtol=1e-2, atol=1e-3)
    np.testing.assert_allclose(log_sigma.grad[0, 0], by_log_sigma, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("cell", [1e-3, 0.019, 0.021, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("origin", [0.0, 0.3, 0.5])
def test_rounded_normal_sums_to_one(cell, origin):
    steps = torch.arange(-np.ceil(10 / cell) - 1, np.ceil(10 / cell) + 2)
    values = ((steps + origin) * cell).unsqueeze(1)
    zero = torch.zeros(1, 1, 1)
    log_p = Rounded(Normal(zero, zero, zero), torch.tensor([cell]), torch.tensor([origin * cell])).log_prob(values)
    assert log_p.double().exp().sum().item() == pytest.approx(1.0, abs=1e-4)


def test_rounded_normal_under_vmap():
    """Gradients of several models at once are those of each."""
    bound = Gaussian("row", rounded=True).bind([COLUMN, COLUMN])
    params, values = torch.randn(3, 2, 5, 4), torch.randn(5, 2)

    def loss(params):
        return bound(params).log_prob(values).sum()

    together = torch.func.vmap(torch.func.grad(loss))(params)
    torch.testing.assert_close(together, torch.stack([torch.func.grad(loss)(p) for p in params]))


def test_rounded_normal_does_not_reward_a_point_mass_without_bound():
    """A repeated value: the density of a normal grows as σ shrinks, the probability stops at 1."""
    tight = torch.tensor([[[0.0, -30.0]]])
    assert Gaussian("row").bind([COLUMN])(tight).log_prob(torch.zeros(1, 1)).item() > 3.0
    log_p = Gaussian("row", rounded=True).bind([COLUMN])(tight).log_prob(torch.zeros(1, 1)).item()
    assert log_p == pytest.approx(0.0, abs=1e-5)
