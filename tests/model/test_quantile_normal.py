"""The map from a column's quantiles to a normal scale, and the density that it makes."""

import numpy as np
import pytest
import torch
from scipy import stats

from skvae.data.columns import Column, Kind
from skvae.data.schema import Schema
from skvae.data.table import read_table
from skvae.model import QuantileNormal

RNG = np.random.default_rng(0)
SAMPLES = {
    "normal": RNG.normal(5.0, 2.0, size=1000),
    "skewed": np.exp(2 * RNG.normal(size=1000)),
    "two peaks": np.append(RNG.normal(size=500), RNG.normal(20.0, 0.1, size=500)),
    "half zeros": np.append(np.zeros(500), RNG.gamma(2.0, size=500)),
    "one value but for few": np.append(np.zeros(990), RNG.normal(size=10)),
    "outliers": np.append(RNG.normal(size=998), [-1e7, 1e6]),
    "three values": np.repeat([0.0, 1.0, 5.0], [300, 500, 200]),
}
COLUMNS = [Schema.infer(read_table(x[:, None]), {0: Kind.CONTINUOUS}).columns[0] for x in SAMPLES.values()]
C = len(COLUMNS)


@pytest.fixture
def bound():
    return QuantileNormal().bind(COLUMNS)


@pytest.fixture
def exact(bound):
    return bound.map.double()


def grid(quantile_map) -> torch.Tensor:
    """Values of each column around and between its knots, [n, C]."""
    x = quantile_map.x
    between = x[:, :-1] + torch.linspace(0.01, 0.99, 11).unsqueeze(1).unsqueeze(1) * torch.diff(x)
    ends = torch.stack([x[:, 0], x[:, 0], x[:, -1], x[:, -1]])
    beyond = ends + torch.tensor([-3.0, -0.1, 0.1, 3.0]).unsqueeze(1)
    return torch.cat([between.transpose(1, 2).flatten(0, 1), beyond])


def test_slope_is_the_derivative(exact):
    x = grid(exact).requires_grad_()
    t, log_slope = exact(x)
    (derivative,) = torch.autograd.grad(t.sum(), x)
    torch.testing.assert_close(log_slope.exp(), derivative)


def test_smooth_and_increasing(exact):
    """Value and slope are the same from both sides of every knot."""
    x, gap = exact.x, torch.diff(exact.x)
    step = 1e-9 * torch.cat([gap, gap.clamp(min=1e-9)[:, -1:]], 1).amin(1, keepdim=True).clamp(min=1e-9)
    left, right = (exact((x + side * step).T) for side in (-1, 1))
    for below, above in zip(left, right, strict=True):
        torch.testing.assert_close(below, above, rtol=1e-4, atol=1e-4)
    assert torch.isfinite(exact(grid(exact))[1]).all()


def test_round_trip(exact):
    t = torch.linspace(-6, 6, 301, dtype=torch.float64).unsqueeze(1).expand(-1, C)
    torch.testing.assert_close(exact(exact.inverse(t))[0], t, rtol=1e-6, atol=1e-6)
    x = grid(exact)
    torch.testing.assert_close(exact.inverse(exact(x)[0]), x, rtol=1e-6, atol=1e-9)


def test_round_trip_in_float32(bound):
    """Up to steps of float32, which a steep map enlarges."""
    t = torch.linspace(-6, 6, 301).unsqueeze(1).expand(-1, C)
    x = bound.map.inverse(t)
    back, log_slope = bound.map(x)
    assert ((back - t).abs() <= 1e-5 + 4e-7 * x.abs().clamp(min=1e-2) * log_slope.exp()).all()


@pytest.mark.parametrize("c", [0, 1, 2], ids=list(SAMPLES)[:3])
def test_quantiles_go_to_normal_quantiles(bound, c):
    column = COLUMNS[c]
    x = (np.array(column.quantiles) - column.offset) / column.scale
    t = bound.map(torch.tensor(x, dtype=torch.float32).unsqueeze(1).expand(-1, C))[0][:, c]
    expected = stats.norm.ppf(np.linspace(0, 1, 33)).clip(-3, 3)
    np.testing.assert_allclose(t, expected, atol=2e-3)


def test_many_equal_entries_are_one_knot_at_the_middle_of_their_probabilities(bound):
    """Zeros are the lower half: at probability 1/4, not at 0."""
    c = list(SAMPLES).index("half zeros")
    zero = torch.full((1, C), -COLUMNS[c].offset / COLUMNS[c].scale)
    assert bound.map(zero)[0][0, c].item() == pytest.approx(stats.norm.ppf(0.25), abs=0.06)


@pytest.mark.parametrize("params", [(0.0, 0.0), (0.7, -1.0), (-1.5, 0.5)])
def test_density_integrates_to_one(bound, params):
    """Also where entries repeat, over values spread by the map itself."""
    bound = bound.double()
    mean, raw = params
    t = torch.linspace(mean - 14, mean + 14, 20_001, dtype=torch.float64).unsqueeze(1).expand(-1, C)
    x = bound.map.inverse(t)
    decoder = torch.tensor([mean] * C + [raw] * C, dtype=torch.float64).expand(1, len(t), -1)
    # In the units of the data, so that the Jacobian of the standardisation counts too.
    density = bound(decoder).log_prob(x)[0].exp()
    unit = torch.tensor([column.scale for column in COLUMNS], dtype=torch.float64)
    mass = torch.trapezoid(density, x * unit, dim=0)
    np.testing.assert_allclose(mass, 1.0, atol=2e-3)


def test_the_column_itself_results_from_the_normal_at_rest():
    """With mean 0 and deviation 1, the 33 quantiles are those of the column."""
    bound = QuantileNormal().bind(COLUMNS)
    p = torch.linspace(0, 1, 33)[1:-1]
    decoder = torch.zeros(1, len(p), 2 * C)
    got = bound(decoder).icdf(p.reshape(1, -1, 1).expand(1, -1, C))[0]
    for c in range(3):
        expected = (np.array(COLUMNS[c].quantiles[1:-1]) - COLUMNS[c].offset) / COLUMNS[c].scale
        np.testing.assert_allclose(got[:, c], expected, rtol=1e-3, atol=1e-4)


def test_a_column_without_quantiles_is_refused():
    old = Column("cm", Kind.CONTINUOUS, "float64", offset=170.0, scale=10.0)
    with pytest.raises(ValueError, match=r"needs the quantiles of column 'cm'.*fit anew"):
        QuantileNormal().check([old])
