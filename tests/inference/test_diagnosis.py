"""What `diagnose` finds, where the answer is known."""

import inspect
import json
import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from skvae import VAE
from skvae.data.batch import Batch
from skvae.data.columns import Column, Kind
from skvae.inference.advice import _likelihoods
from skvae.inference.column_fit import (
    Conditional,
    cell_halves,
    conditional_fit,
    critical_distance,
    marginal_log_prob,
    uniformity,
)
from skvae.inference.diagnosis import Training, _of_columns, diagnose
from skvae.inference.latent_usage import aggregate_posterior, units
from skvae.inference.log_likelihood import kl_per_dimension
from skvae.model import MLP, DiagonalNormal, LatentVariableModel, StandardNormal, Table
from skvae.model.component import choices
from skvae.model.likelihoods import Likelihood
from skvae.model.posteriors import PosteriorDistribution
from skvae.training import Noise
from skvae.training.engine import threads_for

# Of the linear Gaussian model.
SIGMA, UNITS = 0.6, (10.0, 0.2, 3.0, 1.0)
COLUMNS = [Column(f"x{c}", Kind.CONTINUOUS, "float64", offset=5.0, scale=unit) for c, unit in enumerate(UNITS)]


@pytest.fixture(autouse=True)
def _one_thread():
    with threads_for(0):
        yield


def ask(exact, rows, n_draws=50, training=None):
    return diagnose(exact.model, exact.model.prior, rows, COLUMNS, Noise(0), n_draws, training)


def quantiles(n):
    """A grid of n normal quantiles: averages over it are integrals over a single latent."""
    return torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n).unsqueeze(1)


def set_sigma(exact, sigma):
    with torch.no_grad():
        exact.model.likelihood.parts[0].log_scale.fill_(5 * math.atanh(math.log(sigma) / 5))


class Unlisted(StandardNormal):
    """A prior to which no closed-form divergence is known."""

    alias = ""


class Drawn(PosteriorDistribution):
    """A posterior of which nothing but draws and densities is known."""

    def __init__(self, base):
        self.mean, self.rsample, self.log_prob = base.mean, base.rsample, base.log_prob


@pytest.mark.parametrize(("latent_dim", "unused"), [(2, 0), (3, 1), (4, 3), (2, 2), (1, 0)])
def test_units(linear_gaussian, latent_dim, unused):
    exact = linear_gaussian(latent_dim, unused=unused)
    rows = exact.rows(300)
    found = ask(exact, rows)
    used = latent_dim - unused
    assert (found.latent_dim, found.used_units, found.active_units) == (latent_dim, used, used)
    assert found.collapsed == (used == 0)
    assert found.kl_per_unit_exact
    assert found.kl_per_unit == pytest.approx(kl_per_dimension(exact.model, rows).mean(0).tolist(), abs=1e-9)
    assert found.kl == pytest.approx(sum(found.kl_per_unit))
    assert any(line.startswith("no latent is used (posterior collapse)") for line in found.advice) == (used == 0)
    assert any(f"latent_dim={used} would do" in line for line in found.advice) == (0 < used < latent_dim)


def test_a_unit_may_be_active_and_yet_useless(linear_gaussian):
    """A variance above 0.01 of the posterior mean may go with hardly any divergence."""
    exact = linear_gaussian(1)
    with torch.no_grad():
        exact.model.posterior.linear.weight.copy_(torch.tensor([[0.2, 0.0], [0.0, 0.0]]))
    found = ask(exact, exact.rows(300))
    assert 0.005 < found.kl_per_unit[0] < 0.05
    assert (found.active_units, found.used_units, found.collapsed) == (1, 0, True)


@pytest.mark.parametrize("normal", [True, False])
def test_units_without_a_closed_form(linear_gaussian, noise, normal, monkeypatch):
    exact = linear_gaussian(3, unused=1, widen=0.8)
    rows, prior = exact.rows(50), Unlisted().bind(3)
    expected = units(exact.model, exact.model.prior, rows, noise(2, 3), noise(2, 3))
    if not normal:
        encode = exact.model.encode
        monkeypatch.setattr(exact.model, "encode", lambda batch, context=None: Drawn(encode(batch)))
    found = units(exact.model, prior, rows, noise(4000, 3), noise(20_000, 3, seed=5))
    assert expected.exact
    assert not found.exact
    torch.testing.assert_close(found.variance, expected.variance)
    torch.testing.assert_close(found.kl, expected.kl, rtol=0.04, atol=0.02)


@pytest.mark.parametrize("n_draws", [1, 2, 7, 4000])
def test_the_inference_gap_is_never_negative(linear_gaussian, n_draws):
    exact = linear_gaussian(2, widen=1.5, shift=0.5)
    rows = exact.rows(60)
    found = ask(exact, rows, n_draws)
    assert found.inference_gap == pytest.approx(found.log_p - found.elbo)
    assert found.inference_gap >= 0.0
    if n_draws == 1:
        assert found.inference_gap == 0.0
    if n_draws == 4000:
        q = exact.model.encode(rows)
        normal = torch.distributions.MultivariateNormal(q.mean, scale_tril=q.scale.diag_embed())
        expected = torch.distributions.kl_divergence(normal, exact.posterior(rows)).mean().item()
        assert found.inference_gap == pytest.approx(expected, rel=0.05)
        assert found.log_p == pytest.approx(exact.log_p(rows).mean().item(), abs=0.03)
        assert found.effective_draws < 4000


def test_an_exact_model_has_no_gaps(linear_gaussian):
    exact = linear_gaussian(2, orthogonal=True)
    rows = exact.rows(1000, seed=1)
    found = ask(exact, rows, training=Training(0.01, 100))
    assert found.inference_gap == pytest.approx(0.0, abs=1e-9)
    assert found.effective_draws == pytest.approx(50)
    assert found.prior_gap == pytest.approx(0.0, abs=0.15)
    assert found.prior_gap_at_least <= found.prior_gap
    assert found.advice == []
    # What is gained over independent columns is their total correlation.
    covariance = exact.weight @ exact.weight.T + SIGMA**2 * torch.eye(len(UNITS))
    total_correlation = 0.5 * (covariance.diagonal().log().sum() - covariance.logdet())
    assert found.gain == pytest.approx(total_correlation.item(), abs=0.1)
    q = exact.posterior(rows)
    fit, variance = exact.weight @ q.covariance_matrix @ exact.weight.T, covariance.diagonal()
    residual = (rows.values - exact.bias - q.mean @ exact.weight.T).square() + fit.diagonal(dim1=1, dim2=2)
    deviation = (rows.values - exact.bias).square()
    explained = 0.5 * (variance.log() - math.log(SIGMA**2) + deviation / variance - residual / SIGMA**2).mean(0)
    for c, column in enumerate(found.columns):
        # Half the log of the ratio of variances, but for the error of a mean over rows.
        assert explained[c].item() == pytest.approx(0.5 * math.log(variance[c] / SIGMA**2), abs=0.08)
        assert column.explained == pytest.approx(explained[c].item(), abs=0.04)
        assert column.share == pytest.approx(1 - SIGMA**2 / variance[c].item(), abs=0.05)
        assert column.predicted <= column.explained + 0.02
        assert column.calibrated
        assert column.coverage == pytest.approx(0.9, abs=0.03)


def test_explained_in_a_unit_of_the_user_s_choice(linear_gaussian):
    """Nats that are explained do not depend on whether a column is in metres."""
    exact = linear_gaussian(2)
    found = ask(exact, exact.rows(100))
    exact.model.likelihood.parts[0].log_unit.add_(3.0)
    other = ask(exact, exact.rows(100))
    assert other.log_p == pytest.approx(found.log_p - 3.0 * len(UNITS))
    for one, again in zip(found.columns, other.columns, strict=True):
        assert (one.explained, one.predicted) == pytest.approx((again.explained, again.predicted))
    assert other.gain == pytest.approx(found.gain)


def test_the_aggregated_posterior_of_a_normal_model(linear_gaussian, noise):
    """Posterior means of x ~ p(x) have variance 1 − v; the aggregate is normal, and so is its divergence."""
    exact = linear_gaussian(1, widen=1.4, shift=2.0)
    n = 1000
    rows = exact.rows(n)
    v = exact.posterior(rows).covariance_matrix[0].item()
    mean, variance = 2.0 * 1.4 * math.sqrt(v), 1 - v + 1.4**2 * v
    expected = 0.5 * (mean**2 + variance - 1 - math.log(variance))
    kl = kl_per_dimension(exact.model, rows).mean().item()
    found = aggregate_posterior(exact.model, exact.model.prior, rows, noise(n, 1))
    assert expected > 0.3
    assert found.gap == pytest.approx(expected, abs=0.08)
    assert found.at_least == pytest.approx(expected, abs=0.08)
    assert found.information == pytest.approx(kl - expected, abs=0.08)


def test_the_aggregated_posterior_by_brute_force(linear_gaussian, noise):
    exact = linear_gaussian(2, widen=2.0)
    rows, eps = exact.rows(5), noise(5, 2)
    with torch.no_grad():
        q = exact.model.encode(rows)
    gap, least, information = [], [], []
    for i in range(5):
        z = q.mean[i] + q.scale[i] * eps[i]
        densities = [stats.multivariate_normal(q.mean[j], np.diag(q.scale[j] ** 2)).pdf(z) for j in range(5)]
        log_p = stats.norm.logpdf(z).sum()
        gap.append(np.log(np.mean(densities)) - log_p)
        least.append(np.log(np.mean(np.delete(densities, i))) - log_p)
        information.append(np.log(densities[i]) - np.log(np.mean(densities)))
    for posterior in (lambda q: q, Drawn):
        exact.model.encode = lambda batch, posterior=posterior: posterior(q)
        found = aggregate_posterior(exact.model, exact.model.prior, rows, eps)
        assert found.gap == pytest.approx(np.mean(gap))
        assert found.information == pytest.approx(np.mean(information))
        assert found.at_least >= max(0.0, np.mean(least)) - 1e-9


def test_few_rows_tell_little_of_narrow_posteriors(linear_gaussian):
    """n rows share out log n nats; what the latents carry beyond that is in the upper bound only."""
    exact = linear_gaussian(2, widen=1e-2)
    found = ask(exact, exact.rows(10))
    assert found.information <= math.log(10) + 1e-9
    assert found.prior_gap > 5.0
    assert found.prior_gap_at_least < 1.0


@pytest.mark.parametrize("holes", [False, True])
def test_entries_given_half_of_the_others(linear_gaussian, holes):
    """Against the exact conditional normal of every entry."""
    exact = linear_gaussian(1)
    rows = exact.rows(12, holes)
    stream = torch.Generator().manual_seed(4)
    answer = conditional_fit(
        exact.model,
        exact.model.prior,
        rows,
        quantiles(2000).unsqueeze(1).expand(-1, 12, -1),
        cell_halves(COLUMNS).double(),
        stream,
    )
    draws = torch.rand((2, *rows.values.shape), generator=torch.Generator().manual_seed(4))
    first = draws[0] < 0.5
    assert 0 < first.sum() < first.numel()
    for hidden in (first, ~first):
        mean, covariance = exact.given_seen(rows.hide(hidden))
        normal = torch.distributions.Normal(mean, covariance.diagonal(dim1=1, dim2=2).sqrt())
        asked = hidden if rows.observed is None else hidden & rows.observed
        log_p = normal.log_prob(rows.values) - torch.tensor(UNITS).double().log()
        torch.testing.assert_close(answer.log_p[asked], log_p[asked], rtol=0, atol=5e-3)
        torch.testing.assert_close(answer.pit[asked], normal.cdf(rows.values)[asked], rtol=0, atol=2e-3)


def test_marginals(linear_gaussian):
    exact = linear_gaussian(1)
    rows = exact.rows(20)
    answer = marginal_log_prob(exact.model, exact.model.prior, rows, quantiles(2000))
    variance = (exact.weight @ exact.weight.T).diagonal() + SIGMA**2
    normal = torch.distributions.Normal(exact.bias, variance.sqrt())
    expected = normal.log_prob(rows.values) - torch.tensor(UNITS).double().log()
    torch.testing.assert_close(answer, expected, rtol=0, atol=3e-3)


MIXED = [
    Column("city", Kind.CATEGORICAL, "str", levels=tuple("abc")),
    Column("cm", Kind.CONTINUOUS, "float64", resolution=0.5),
    Column("flag", Kind.BINARY, "bool", levels=(False, True), offset=0.5, scale=0.5),
    Column("n", Kind.INTEGER, "int64", offset=2.0, scale=2.0, upper=9.0, resolution=1.0),
]


def mixed_model():
    torch.manual_seed(0)
    model = LatentVariableModel(
        MIXED,
        latent_dim=2,
        encoder=MLP((8,)),
        decoder=MLP((8,)),
        posterior=DiagonalNormal(),
        prior=StandardNormal(),
        likelihood=Table(),
        masks=True,
    ).eval()
    with torch.no_grad():
        model.output.weight.mul_(6)
    return model


def drawn_rows(model, n, seed=0):
    """Rows from the model itself."""
    stream = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        distribution = model.decode(torch.randn(1, n, 2, generator=stream))
        values = distribution.icdf(torch.rand(1, n, len(MIXED), generator=stream).clamp(1e-6, 1 - 1e-6))[0]
    values[:, 1] = (2 * values[:, 1]).round() / 2  # to its resolution
    return Batch(values)


def test_levels_and_rounded_numbers_are_spread_over_their_cells():
    """Rows drawn from the model itself: calibrated, though most entries repeat."""
    model = mixed_model()
    rows = drawn_rows(model, 400)
    found = diagnose(model, model.prior, rows, MIXED, Noise(1))
    for column in found.columns:
        assert column.n_entries == 400
        assert column.distance < column.critical_distance, column
        assert column.calibrated
        assert column.coverage == pytest.approx(0.9, abs=0.05)


def test_shares():
    """Of entropy for levels, of variance for numbers."""
    values = torch.tensor([[0.0, 1.0, 0.0, 1.0], [1.0, 2.0, 0.0, 1.0]])
    marginal = torch.full((2, 4), -math.log(3))
    conditional = Conditional(log_p=marginal + 0.2, pit=torch.full((2, 4), 0.5))
    explained = torch.tensor([0.5, 0.5, -0.1, -0.1])
    found = _of_columns(MIXED, Batch(values), marginal + explained, marginal, conditional)
    assert [column.explained for column in found] == pytest.approx(explained.tolist())
    assert [column.share for column in found] == pytest.approx([0.5 / math.log(3), 1 - math.exp(-1), 0.0, 0.0])
    assert [column.predicted for column in found] == pytest.approx([0.2] * 4)


def test_cells():
    torch.testing.assert_close(cell_halves(MIXED), torch.tensor([0.5, 0.25, 0.5, 0.25]))
    assert 0 < cell_halves(COLUMNS).max() < 1e-3


def test_uniformity_against_scipy():
    rng = np.random.default_rng(0)
    u = rng.beta([1.0, 2.0, 1.0], [1.0, 1.0, 1.0], (40, 3))
    observed = rng.random(u.shape) < 0.7
    observed[:, 2] = False
    for mask in (None, torch.from_numpy(observed)):
        found = uniformity(torch.from_numpy(u), mask)
        for c in range(2):
            known = u[:, c] if mask is None else u[observed[:, c], c]
            assert found.n[c] == len(known)
            assert found.distance[c].item() == pytest.approx(stats.kstest(known, "uniform").statistic)
            assert found.coverage[c].item() == pytest.approx(np.mean((known > 0.05) & (known < 0.95)))
    assert found.n[2] == 0
    assert found.distance[2].isnan()


def test_a_cdf_that_fails_is_not_passed_over():
    found = uniformity(torch.tensor([[0.2], [math.nan], [0.7]]), None)
    assert found.n.tolist() == [3]
    assert found.distance.isnan().all()


@pytest.mark.parametrize("n", [5, 50, 2000])
@pytest.mark.parametrize("level", [0.01, 0.0005])
def test_critical_distance_against_scipy(n, level):
    found = critical_distance(torch.tensor([n]), level).item()
    assert found == pytest.approx(stats.kstwo.isf(level, n), rel=0.02 if n > 5 else 0.05)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_wrong_sigma_is_found(linear_gaussian, factor):
    exact = linear_gaussian(2)
    rows = exact.rows(600, seed=1)
    assert all(column.calibrated for column in ask(exact, rows).columns)
    set_sigma(exact, factor * SIGMA)
    found = ask(exact, rows)
    wrong = [column for column in found.columns if not column.calibrated]
    assert wrong
    assert all(column.coverage < 0.87 if factor < 1 else column.coverage > 0.93 for column in wrong)
    worst = max(wrong, key=lambda column: column.distance)
    (line,) = (line for line in found.advice if "miscalibrated" in line)
    assert f"column '{worst.name}'" in line
    key = worst.name if len(wrong) <= 3 else "continuous"
    assert f"likelihood={{'{key}': 'auto'}}" in line
    assert f"{worst.coverage:.0%}" in line
    assert "miscalibrated" in str(found)


def test_advice_for_a_column_names_likelihoods_that_it_can_have():
    model = mixed_model()
    spiky = replace(MIXED[1], spikes=(0.0,))
    for position, column in enumerate([*MIXED[:1], spiky, *MIXED[2:]]):
        named = _likelihoods(model, position, column)
        assert bool(named) == (column.kind not in (Kind.BINARY, Kind.CATEGORICAL))
        assert "gaussian" not in named
        assert ("spikes" in named) == (column is spiky)
        for alias in named:
            choices(Likelihood)[alias]().check([column])


ADVICE = {
    "wide posterior": ({"widen": 3.0}, None, "posterior='full'"),
    "shifted posterior": ({"shift": 4.0}, None, "prior='vamp'"),
    "collapse": ({"unused": 2}, None, "objective=ELBO(warm_up=0.5) or objective=ELBO(free_bits=0.1)"),
    "room for more": ({}, None, "a latent_dim above 1 may explain more"),
    "unused": ({"unused": 1}, None, "only 1 latent is used: latent_dim=1 would do"),
    "overfitting": ({}, Training(50.0, 20), "lower hidden_sizes or max_epochs"),
}


@pytest.mark.parametrize("case", ADVICE)
def test_advice(linear_gaussian, case):
    params, training, words = ADVICE[case]
    exact = linear_gaussian(1 if case == "room for more" else 2, **params)
    found = ask(exact, exact.rows(300), training=training)
    assert any(words in line for line in found.advice), found.advice
    parameters = inspect.signature(VAE).parameters
    for line in found.advice:
        named = re.findall(r"\b([a-z_]+)=(?!\d*\.?\d+\))", line) + re.findall(
            "latent_dim|hidden_sizes|max_epochs", line
        )
        assert named
        assert set(named) <= set(parameters), line


@pytest.mark.parametrize(
    ("training", "advised"),
    [(None, False), (Training(None, 0), False), (Training(0.3, 100), False), (Training(2.0, 1), False)],
)
def test_no_advice_on_a_gap_that_is_small_or_within_its_error(linear_gaussian, training, advised):
    exact = linear_gaussian(1)
    found = ask(exact, exact.rows(100), training=training)
    assert any("hidden_sizes" in line for line in found.advice) == advised
    assert found.overfitting_gap == (training and training.overfitting_gap)


def test_print_and_json(linear_gaussian):
    exact = linear_gaussian(2)
    found = ask(exact, exact.rows(100), training=Training(0.25, 30))
    text = str(found)
    for words in (
        "rows             100",
        "active units     2 of 2",
        "used units       2 of 2",
        "overfitting gap  0.250 nats",
        "nats per row",
        "explained by the latents, predicted from half of the other columns",
        "advice           ",
        "column  explained  share  predicted  KS distance  in 90 %",
    ):
        assert words in text
    assert all(f"\nx{c} " in text for c in range(4))
    assert max(map(len, text.split("\n"))) < 160
    assert "no validation rows" in str(ask(exact, exact.rows(20)))
    again = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert again == found.to_dict()
    assert again["columns"][0]["name"] == "x0"


def test_of_many_columns_the_best_and_the_wrong_are_printed(linear_gaussian):
    exact = linear_gaussian(2)
    found = ask(exact, exact.rows(50))
    many = [replace(found.columns[0], name=f"c{j}", explained=1 / (j + 1), calibrated=j != 70) for j in range(90)]
    text = str(replace(found, columns=many))
    assert "\nc0 " in text
    assert "c70 " in text
    assert "c60 " not in text
    assert "and 66 more columns" in text


@pytest.mark.parametrize("n_rows", [1, 2, 5])
def test_few_rows(linear_gaussian, n_rows):
    exact = linear_gaussian(2)
    found = ask(exact, exact.rows(n_rows), training=Training(0.1, 10))
    assert found.n_rows == n_rows
    json.dumps(found.to_dict(), allow_nan=False)
    assert "miscalibrated" not in str(found)


def test_many_rows_are_sampled_and_always_the_same(linear_gaussian):
    exact = linear_gaussian(1)
    rows = exact.rows(1500)
    found = ask(exact, rows, 5)
    assert found.n_rows == 1000
    assert found == ask(exact, rows, 5)
    assert found.elbo == pytest.approx(exact.log_p(rows.rows(torch.arange(1000))).mean().item(), abs=0.3)


def test_holes(linear_gaussian):
    exact = linear_gaussian(1)
    rows = exact.rows(400, holes=True)
    observed = rows.observed.clone()
    observed[:, 2] = False
    rows = Batch(torch.where(observed, rows.values, 0.0), observed=observed)
    found = ask(exact, rows)
    assert [column.n_entries for column in found.columns] == observed.sum(0).tolist()
    empty = found.columns[2]
    assert (empty.explained, empty.predicted, empty.distance, empty.calibrated) == (None, None, None, None)
    assert all(column.calibrated for column in found.columns if column is not empty)
    assert found.log_p == pytest.approx(exact.log_p(rows).mean().item(), abs=0.02)
    json.dumps(found.to_dict(), allow_nan=False)
    assert "\nx2 " not in str(found)


def frame(n=60):
    rng = np.random.default_rng(0)
    z = rng.normal(size=n)
    table = pd.DataFrame({"a": z + 0.3 * rng.normal(size=n), "b": z > 0, "c": rng.choice(list("xyz"), n)})
    return table.mask(rng.random(table.shape) < 0.1)


@pytest.mark.parametrize(
    ("posterior", "prior"), [("full", "vamp"), ("flow", "mixture"), ("diagonal", "flow"), ("deterministic", "normal")]
)
def test_every_kind_of_posterior_and_prior(posterior, prior):
    X = frame()
    vae = VAE(
        latent_dim=2, hidden_sizes=(8,), posterior=posterior, prior=prior, max_epochs=2, random_state=0, compile=False
    )
    found = vae.fit(X).diagnose(X, 20)
    again = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    missing = {name for name, value in again.items() if value is None}
    if posterior == "deterministic":
        assert {"elbo", "log_p", "inference_gap", "kl", "kl_per_unit", "prior_gap", "used_units"} <= missing
        assert again["columns"] == []
        assert "active units" in str(found)
        assert "ELBO" not in str(found)
    else:
        assert not missing
        assert len(found.kl_per_unit) == 2
        assert not found.kl_per_unit_exact
        assert [column.name for column in found.columns] == ["a", "b", "c"]
        assert "of normals with the same moments" in str(found)
