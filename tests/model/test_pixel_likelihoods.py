"""Likelihoods of grey values against numeric integration and scipy."""

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats

from skvae.data.columns import Column, Kind
from skvae.model import Bernoulli, Categorical, ContinuousBernoulli, DiscretisedLogistic, Gaussian, Spikes, Table
from skvae.model.likelihoods.table import pixel_likelihood

SHARE = Column("share", Kind.CONTINUOUS, "float64", offset=0.3, scale=0.2, lower=0.0, upper=1.0)
GREY = Column("grey", Kind.INTEGER, "uint8", offset=73.0, scale=90.0, lower=0.0, upper=255.0, resolution=1.0)
LOGITS = [-80.0, -12.0, -1.01, -0.99, -1e-2, -1e-4, 0.0, 1e-6, 2e-3, 0.5, 3.0, 15.0, 60.0]


def kernel(x, logit):
    """λ^x (1 − λ)^(1 − x), up to a factor without x, at most 1."""
    return np.exp(logit * (x - (logit > 0)))


def integral(logit, upper=1.0):
    breaks = np.clip([1 / (1 + abs(logit)), 1 - 1 / (1 + abs(logit))], 0, upper)
    return integrate.quad(kernel, 0, upper, args=(logit,), points=breaks, epsabs=1e-14, epsrel=1e-12, limit=200)[0]


def encoded(x, column):
    return torch.as_tensor((np.asarray(x) - column.offset) / column.scale, dtype=torch.float32)


def of_logits(column, logits=LOGITS):
    """A distribution [1, len(logits), 1]."""
    return ContinuousBernoulli().bind([column])(torch.tensor(logits).reshape(1, -1, 1))


@pytest.mark.parametrize("column", [SHARE, GREY], ids=lambda column: column.dtype)
@pytest.mark.parametrize("x", [0.0, 0.2, 0.5, 0.83, 1.0])
def test_density_and_cdf_by_numeric_integration(column, x):
    top = 255.0 if column.dtype == "uint8" else 1.0
    distribution = of_logits(column)
    values = encoded(np.full((len(LOGITS), 1), x * top), column)
    expected = [np.log(kernel(x, logit) / integral(logit)) - np.log(top) for logit in LOGITS]
    np.testing.assert_allclose(distribution.log_prob(values)[0, :, 0], expected, rtol=2e-6, atol=5e-5)
    below = [integral(logit, x) / integral(logit) for logit in LOGITS]
    np.testing.assert_allclose(distribution.cdf(values)[0, :, 0], below, atol=2e-5)


def test_mean_by_numeric_integration():
    mean = of_logits(SHARE).mean[0, :, 0].double().numpy() * SHARE.scale + SHARE.offset
    expected = [
        integrate.quad(lambda x, a=a: x * kernel(x, a), 0, 1, epsabs=1e-15, limit=500)[0] / integral(a)
        for a in LOGITS
    ]
    np.testing.assert_allclose(mean, expected, atol=2e-6)


@pytest.mark.parametrize("u", [1e-4, 0.1, 0.5, 0.9, 0.9999])
def test_quantiles_by_numeric_integration(u):
    x = (
        of_logits(SHARE).icdf(torch.full((1, len(LOGITS), 1), u))[0, :, 0].double().numpy() * SHARE.scale
        + SHARE.offset
    )
    expected = [optimize.brentq(lambda x, a=a: integral(a, x) / integral(a) - u, 0, 1, xtol=1e-12) for a in LOGITS]
    np.testing.assert_allclose(x, expected, atol=2e-5)


def test_the_gradient_is_stable_near_one_half():
    """d log p / dη = x − E x, in float32."""
    logits = torch.linspace(-1.5, 1.5, 301).requires_grad_()
    distribution = ContinuousBernoulli().bind([SHARE])(logits.reshape(1, -1, 1))
    distribution.log_prob(encoded(np.full((301, 1), 0.7), SHARE)).sum().backward()
    mean = of_logits(SHARE, logits.tolist()).mean[0, :, 0] * SHARE.scale + SHARE.offset
    torch.testing.assert_close(logits.grad, 0.7 - mean, atol=2e-6, rtol=0)
    a = torch.tensor([0.3, -1e-5, 2.0, -30.0], dtype=torch.float64, requires_grad=True)
    bound = ContinuousBernoulli().bind([SHARE]).double()
    values = torch.full((4, 1), 0.4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a: bound(a.reshape(1, -1, 1)).log_prob(values), a, atol=1e-6)


def test_shares_beyond_the_ends_are_refused_at_fit():
    with pytest.raises(ValueError, match=r"ContinuousBernoulli\(\) needs values in \[0, 1\], but column 'x' holds 7"):
        ContinuousBernoulli().check([Column("x", Kind.CONTINUOUS, "float64", lower=0.0, upper=7.0)])
    ContinuousBernoulli().check([GREY])


@pytest.mark.parametrize("n", [1, 5])
def test_256_grey_levels_have_the_masses_of_the_logistic_distribution(n):
    """Cells of 1, of which the first and the last take the tails; they sum to 1."""
    bound = DiscretisedLogistic(n).bind([GREY])
    params = torch.randn(1, 1, bound.n_params, generator=torch.Generator().manual_seed(n)) * 2
    every = encoded(np.arange(256).reshape(-1, 1), GREY)
    mass = bound(params.expand(1, 256, -1)).log_prob(every)[0, :, 0].exp().double().numpy()
    assert mass.sum() == pytest.approx(1.0, abs=1e-5)

    location, raw, *logits = params[0, 0].double().numpy().reshape(-1, n)
    low, high = np.log(1 / GREY.scale / 16), 5.0
    half = (high - low) / 2
    scale = GREY.scale * np.exp((low + high) / 2 + half * np.tanh((raw - (low + high) / 2) / half))
    start = bound.start[:, 0].double().numpy()
    centre = GREY.offset + GREY.scale * (location + start)
    share = np.exp(logits[0]) / np.exp(logits[0]).sum() if logits else np.ones(1)
    edges = np.concatenate([[-np.inf], np.arange(255) + 0.5, [np.inf]])
    below = (share * stats.logistic(centre, scale).cdf(edges[:, None])).sum(1)
    np.testing.assert_allclose(mass, np.diff(below), atol=2e-6)
    cdf = bound(params.expand(1, 256, -1)).cdf(every)[0, :, 0]
    np.testing.assert_allclose(cdf, below[1:], atol=1e-5)


def test_threshold_cuts_at_one_half_without_drawing():
    bound = Bernoulli(binarize="threshold").bind([GREY])
    assert not bound.draws_values
    values = encoded([[0.0], [127.0], [128.0], [255.0]], GREY)
    log_p = bound(torch.full((1, 4, 1), 0.7)).log_prob(values)[0, :, 0]
    zero, one = np.log(1 / (1 + np.exp(0.7))), np.log(1 / (1 + np.exp(-0.7)))
    np.testing.assert_allclose(log_p, [zero, zero, one, one], rtol=1e-5)
    counted = bound.counted(values)
    torch.testing.assert_close(counted, encoded([[0.0], [0.0], [255.0], [255.0]], GREY))
    torch.testing.assert_close(bound.counted(counted), counted)


def test_in_a_table_only_columns_cut_in_two_are_counted_otherwise():
    table = Table({"share": Bernoulli(binarize="threshold")}).bind([GREY, SHARE])
    values = torch.cat([encoded([[10.0], [200.0]], GREY), encoded([[0.1], [0.6]], SHARE)], dim=1)
    counted = table.counted(values)
    assert torch.equal(counted[:, 0], values[:, 0])
    torch.testing.assert_close(counted[:, 1:], encoded([[0.0], [1.0]], SHARE))
    plain = Table("gaussian").bind([GREY, SHARE])
    assert plain.counted(values) is values


def test_of_numbers_the_centre_is_the_mean():
    for binarize in ("threshold", "dynamic"):
        distribution = Bernoulli(binarize=binarize).bind([GREY])(torch.tensor([[[1.0]], [[-1.0]]]))
        centre = distribution.centre(torch.tensor([[0.75], [0.25]])) * GREY.scale + GREY.offset
        expected = 255 * (0.75 / (1 + np.exp(-1)) + 0.25 / (1 + np.exp(1)))
        assert centre.item() == pytest.approx(expected, rel=1e-5)


def test_grey_values_for_a_plain_bernoulli_name_the_remedies():
    message = r"cannot score column 'grey' \(integer\).*0 to 255.*'threshold'.*'dynamic'.*'continuous-bernoulli'"
    with pytest.raises(ValueError, match=message):
        Table("bernoulli").bind([GREY])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(Kind.BINARY, Bernoulli), (Kind.INTEGER, DiscretisedLogistic), (Kind.CONTINUOUS, Gaussian)],
)
def test_the_likelihood_of_pixels_by_their_kind(kind, expected):
    assert type(pixel_likelihood(Column("pixel", kind, "uint8"))) is expected


@pytest.mark.parametrize(
    ("likelihood", "kind"),
    [
        (Gaussian("row"), Kind.CONTINUOUS),
        (DiscretisedLogistic(3), Kind.INTEGER),
        (Categorical(), Kind.ORDINAL),
        (Spikes(), Kind.INTEGER),
    ],
    ids=repr,
)
def test_arranged_gives_every_column_its_own_numbers(likelihood, kind):
    """What is changed for one column changes the density of that column alone."""
    column = Column(
        "x", kind, "int64", levels=(0, 1, 2) if kind == Kind.ORDINAL else None, upper=9.0, resolution=1.0, scale=3.0,
        spikes=(2.0, 5.0),
    )  # fmt: skip
    n_columns = 4
    bound = likelihood.fresh().bind([column] * n_columns)
    params = torch.randn(1, 1, bound.n_params // n_columns, n_columns, generator=torch.Generator().manual_seed(0))
    values = torch.ones(1, n_columns)
    before = bound(bound.arranged(params)).log_prob(values)
    params[..., 2] += torch.randn(params.shape[2], generator=torch.Generator().manual_seed(1))
    changed = (bound(bound.arranged(params)).log_prob(values) != before)[0, 0]
    assert changed.tolist() == [False, False, True, False]
