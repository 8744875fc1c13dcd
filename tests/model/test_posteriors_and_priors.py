"""q(z|x) and p(z) against scipy, torch.distributions and Monte Carlo. A new pair is one more row of a table."""

import numpy as np
import pytest
import torch
from scipy import stats

from skvae.model import DiagonalNormal, StandardNormal
from skvae.model.posteriors import NormalPosterior
from skvae.model.priors import kl_divergence

S, B, D = 5, 3, 2


def normal_posterior(n_rows: int = B, n_dims: int = D, seed: int = 0) -> NormalPosterior:
    stream = torch.Generator().manual_seed(seed)
    mean = torch.randn(n_rows, n_dims, generator=stream, dtype=torch.float64)
    return NormalPosterior(mean, 0.7 * torch.randn(n_rows, n_dims, generator=stream, dtype=torch.float64))


POSTERIORS = {"diagonal": normal_posterior()}
PRIORS = {"normal": StandardNormal().bind(D)}
# What torch.distributions calls them, one dimension at a time.
IN_TORCH = {
    "diagonal": lambda q: torch.distributions.Normal(q.mean, q.scale),
    "normal": lambda p: torch.distributions.Normal(torch.zeros(D), torch.ones(D)),
}
every_posterior = pytest.mark.parametrize("name", POSTERIORS)
every_prior = pytest.mark.parametrize("name", PRIORS)
every_pair = pytest.mark.parametrize("pair", [("diagonal", "normal")], ids="-".join)


@every_posterior
def test_log_prob_of_a_posterior(name):
    q = POSTERIORS[name]
    z = torch.randn(S, B, D, dtype=torch.float64)
    expected = stats.norm(q.mean, q.scale).logpdf(z).sum(-1)
    np.testing.assert_allclose(q.log_prob(z), expected)


@every_prior
def test_log_prob_of_a_prior(name):
    z = torch.randn(S, B, D, dtype=torch.float64)
    np.testing.assert_allclose(PRIORS[name].log_prob(z), stats.norm.logpdf(z).sum(-1))


@every_pair
def test_closed_form_kl_against_torch(pair):
    q, p = POSTERIORS[pair[0]], PRIORS[pair[1]]
    expected = torch.distributions.kl_divergence(IN_TORCH[pair[0]](q), IN_TORCH[pair[1]](p))
    torch.testing.assert_close(kl_divergence(q, p), expected)


@every_pair
def test_closed_form_kl_against_draws(pair):
    q, p = POSTERIORS[pair[0]], PRIORS[pair[1]]
    n = 100_000
    z = q.rsample(torch.randn(n, B, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    ratio = q.log_prob(z) - p.log_prob(z)  # [n, B]
    error = ratio.std(0) / n**0.5
    assert ((kl_divergence(q, p).sum(-1) - ratio.mean(0)).abs() < 4 * error).all()


def test_kl_is_zero_only_at_the_prior():
    at_prior = NormalPosterior(torch.zeros(1, D), torch.zeros(1, D))
    assert (kl_divergence(at_prior, StandardNormal().bind(D)) == 0).all()
    assert (kl_divergence(normal_posterior(), StandardNormal().bind(D)) > 0).all()


def test_kl_without_a_closed_form():
    class Other(StandardNormal):
        pass

    assert kl_divergence(normal_posterior(), Other().bind(D)) is None


@every_posterior
def test_rsample(name):
    """Moments, independence over rows, and the gradient through the draw."""
    q = POSTERIORS[name]
    n = 50_000
    z = q.rsample(torch.randn(n, B, D, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))
    assert z.shape == (n, B, D)
    np.testing.assert_allclose(z.mean(0), q.mean, atol=4 * q.scale.max().item() / n**0.5)
    np.testing.assert_allclose(z.std(0), q.scale, rtol=0.02)
    correlation = np.corrcoef(z.reshape(n, -1).T)
    assert np.abs(correlation - np.eye(B * D)).max() < 0.03
    for b, d in np.ndindex(B, D):
        assert stats.kstest(z[:2000, b, d].numpy(), stats.norm(q.mean[b, d], q.scale[b, d]).cdf).pvalue > 1e-3


@every_posterior
def test_noise_shared_by_all_rows(name):
    q = POSTERIORS[name]
    eps = torch.randn(S, 1, D, dtype=torch.float64)
    assert q.rsample(eps).shape == (S, B, D)
    torch.testing.assert_close(q.rsample(eps), q.rsample(eps.expand(S, B, D)))


@every_posterior
def test_detach(name):
    q = POSTERIORS[name]
    mean, log_scale = q.mean.clone().requires_grad_(), q.log_scale.clone().requires_grad_()
    attached = NormalPosterior(mean, log_scale)
    z = torch.randn(S, B, D, dtype=torch.float64, requires_grad=True)
    value = attached.detach().log_prob(z)
    torch.testing.assert_close(value, attached.log_prob(z))
    value.sum().backward()
    assert mean.grad is None
    assert log_scale.grad is None
    assert z.grad is not None


def test_posterior_of_hidden_units():
    posterior = DiagonalNormal().bind(4, D)
    with torch.no_grad():
        posterior.linear.weight.mul_(1000)  # far beyond what the scale may be
    hidden = torch.randn(7, 4)
    q = posterior(hidden)
    assert q.mean.shape == q.scale.shape == (7, D)
    assert (q.log_scale.abs() <= 6.0).all()
    torch.testing.assert_close(q.mean, posterior.linear(hidden)[:, :D])


@every_prior
def test_draws_of_a_prior(name):
    eps = torch.randn(20_000, D, generator=torch.Generator().manual_seed(3))
    z = PRIORS[name].sample(eps)
    assert z.shape == eps.shape
    for d in range(D):
        assert stats.kstest(z[:, d].numpy(), stats.norm.cdf).pvalue > 1e-3
