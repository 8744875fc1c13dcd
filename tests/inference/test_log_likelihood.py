"""log p(x), its bound and its weights, where the exact answer is known."""

import math

import numpy as np
import pytest
import torch
from scipy import special, stats

from skvae.inference import log_likelihood as module
from skvae.inference.log_likelihood import elbo, kl_per_dimension, log_likelihood, log_weights, rows_at_once
from skvae.model import StandardNormal

N = 7  # rows, never as many as draws


@pytest.mark.parametrize("n_draws", [1, 3, 20])
def test_exact_for_any_number_of_draws_from_the_exact_posterior(linear_gaussian, noise, n_draws):
    exact = linear_gaussian(2, orthogonal=True)
    rows = exact.rows(N)
    answer = log_likelihood(exact.model, exact.model.prior, rows, noise(n_draws, 2))
    torch.testing.assert_close(answer.log_p, exact.log_p(rows))
    torch.testing.assert_close(answer.effective_draws, torch.full((N,), float(n_draws), dtype=torch.float64))


@pytest.mark.parametrize("n_draws", [1, 3])
def test_exact_with_holes(linear_gaussian, noise, n_draws):
    """Missing entries are marginalised; one row has none left, and log p = 0."""
    exact = linear_gaussian(1)
    rows = exact.rows(N, holes=True)
    answer = log_likelihood(exact.model, exact.model.prior, rows, noise(n_draws, 1)).log_p
    torch.testing.assert_close(answer, exact.log_p(rows))
    assert answer[1].item() == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("holes", [False, True])
def test_converges_from_another_posterior(linear_gaussian, noise, holes):
    exact = linear_gaussian(2, widen=1.6, shift=0.5)
    rows = exact.rows(N, holes)
    answer = log_likelihood(exact.model, exact.model.prior, rows, noise(50_000, 2))
    torch.testing.assert_close(answer.log_p, exact.log_p(rows), rtol=0, atol=0.03)


def test_increases_with_the_number_of_draws_in_expectation(linear_gaussian, noise):
    exact = linear_gaussian(2, widen=2.0)
    rows = exact.rows(N)
    repeats = 100
    means, errors = [], []
    for k in (1, 4, 30):
        eps = noise(repeats, k, 2)
        estimates = torch.stack([log_likelihood(exact.model, exact.model.prior, rows, e).log_p.mean() for e in eps])
        means.append(estimates.mean().item())
        errors.append(estimates.std().item() / repeats**0.5)
    assert means[0] + 4 * errors[0] < means[1] < means[2] - 4 * errors[2]
    assert means[2] < exact.log_p(rows).mean() + 4 * errors[2]


def brute_force(exact, rows, eps):
    """log p(x, z_k) − log q(z_k | x), one draw and one row at a time, [K, n]."""
    q = exact.model.encode(rows)
    log_w = np.empty((len(eps), len(rows)))
    for k, b in np.ndindex(log_w.shape):
        z = (q.mean[b] + q.scale[b] * eps[k]).detach()
        x = exact.weight @ z + exact.bias
        log_p = stats.norm(x, 0.6).logpdf(rows.values[b]) - np.log([10.0, 0.2, 3.0, 1.0])
        log_p = log_p[rows.mask[b].numpy()].sum() + stats.norm.logpdf(z).sum()
        log_w[k, b] = log_p - stats.norm(q.mean[b].detach(), q.scale[b].detach()).logpdf(z).sum()
    return log_w


def test_published_mistake_1_axes_of_draws_and_rows(linear_gaussian, noise):
    exact = linear_gaussian(2, widen=1.5, shift=1.0)
    rows, eps = exact.rows(N, holes=True), noise(3, 2)
    z, log_w = log_weights(exact.model, exact.model.prior, rows, eps)
    assert z.shape == (3, N, 2)
    expected = brute_force(exact, rows, eps)
    np.testing.assert_allclose(log_w.detach(), expected)
    answer = log_likelihood(exact.model, exact.model.prior, rows, eps)
    np.testing.assert_allclose(answer.log_p, special.logsumexp(expected, axis=0) - math.log(3))
    weights = special.softmax(expected, axis=0)
    np.testing.assert_allclose(answer.effective_draws, 1 / (weights**2).sum(0))


def test_published_mistake_2_the_value_is_the_log_of_the_mean_weight(linear_gaussian, noise):
    exact = linear_gaussian(2, widen=2.0)
    rows, eps = exact.rows(N, holes=True), noise(5, 2)
    log_w = brute_force(exact, rows, eps)
    answer = log_likelihood(exact.model, exact.model.prior, rows, eps).log_p.numpy()
    np.testing.assert_allclose(answer, np.log(np.exp(log_w).mean(0)))
    assert (np.abs(answer - (special.softmax(log_w, 0) * log_w).sum(0)) > 1e-3).any()


def test_published_mistake_6_sign_and_number_of_draws(linear_gaussian, noise):
    """Likelier rows score higher, and every draw counts even when there are fewer than rows."""
    exact = linear_gaussian(2, widen=1.5)
    rows = exact.rows(40)
    eps = noise(6, 2)
    score = {k: log_likelihood(exact.model, exact.model.prior, rows, eps[:k]).log_p for k in (1, 5, 6)}
    assert stats.spearmanr(score[6], exact.log_p(rows)).statistic > 0.9
    assert (score[5] != score[6]).all()
    assert (score[1] != score[5]).all()


@pytest.mark.parametrize("holes", [False, True])
def test_elbo_is_log_p_minus_the_gap(linear_gaussian, holes):
    """ELBO = log p(x) − KL(q(z|x) ‖ p(z|x)), with nodes of noise that integrate a quadratic exactly."""
    exact = linear_gaussian(2, widen=1.4, shift=-0.8)
    rows = exact.rows(N, holes)
    nodes = math.sqrt(2) * torch.cat([torch.eye(2), -torch.eye(2)]).double()  # mean 0, covariance I
    q = exact.model.encode(rows)
    q = torch.distributions.MultivariateNormal(q.mean, scale_tril=torch.diag_embed(q.scale))
    gap = torch.distributions.kl_divergence(q, exact.posterior(rows)).detach()
    torch.testing.assert_close(elbo(exact.model, rows, nodes), exact.log_p(rows) - gap)


def test_elbo_without_a_closed_form_kl(linear_gaussian, noise):
    class Other(StandardNormal):
        pass

    exact = linear_gaussian(2, widen=1.4)
    rows, eps = exact.rows(N), noise(40_000, 2)
    closed = elbo(exact.model, rows, eps)
    exact.model.prior = Other().bind(2)
    assert kl_per_dimension(exact.model, rows) is None
    torch.testing.assert_close(elbo(exact.model, rows, eps), closed, rtol=0, atol=0.05)


def test_kl_per_dimension(linear_gaussian):
    exact = linear_gaussian(3, unused=1)
    rows = exact.rows(N)
    q = exact.model.encode(rows)
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(q.mean, q.scale), torch.distributions.Normal(0.0, 1.0)
    ).detach()
    torch.testing.assert_close(kl_per_dimension(exact.model, rows), kl)
    torch.testing.assert_close(kl[:, 2], torch.zeros(N, dtype=torch.float64))


def test_another_prior_than_that_of_training(linear_gaussian, noise):
    class Tight(StandardNormal):
        def log_prob(self, z, context=None):
            return torch.distributions.Normal(0.0, 0.5).log_prob(z).sum(-1)

    exact = linear_gaussian(1)
    rows = exact.rows(N)
    covariance = 0.25 * exact.weight @ exact.weight.T + 0.36 * torch.eye(4)
    expected = stats.multivariate_normal(exact.bias, covariance).logpdf(rows.values) - np.log(6.0)
    answer = log_likelihood(exact.model, Tight().bind(1), rows, noise(50_000, 1)).log_p
    np.testing.assert_allclose(answer, expected, atol=0.05)


def test_effective_draws(linear_gaussian, noise):
    eps = noise(50, 2)
    found = []
    for shift in (0.0, 1.0, 30.0):
        exact = linear_gaussian(2, widen=1.5, shift=shift)
        effective = log_likelihood(exact.model, exact.model.prior, exact.rows(N), eps).effective_draws
        assert (effective >= 1 - 1e-9).all()
        assert (effective <= 50 + 1e-9).all()
        found.append(effective.mean().item())
    assert found[0] > found[1] > found[2]
    assert found[2] < 1.5


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("holes", [False, True])
def test_neither_pieces_nor_neighbours_matter(linear_gaussian, noise, monkeypatch, at_once, holes):
    exact = linear_gaussian(2, widen=1.5)
    rows, eps = exact.rows(N, holes), noise(4, 2)

    def ask(rows):
        answer = log_likelihood(exact.model, exact.model.prior, rows, eps)
        return answer.log_p, answer.effective_draws, elbo(exact.model, rows, eps)

    whole = ask(rows)
    some = torch.tensor([6, 2])
    for one, other in zip(ask(rows.rows(some)), whole, strict=True):
        torch.testing.assert_close(one, other[some])
    monkeypatch.setattr(module, "rows_at_once", lambda *_: at_once)
    for one, other in zip(ask(rows), whole, strict=True):
        torch.testing.assert_close(one, other)


def test_memory_is_bounded(linear_gaussian):
    model = linear_gaussian(2).model
    assert rows_at_once(model, 2**40) == 1
    assert rows_at_once(model, 100) * 100 * 4 <= 2**24
    assert rows_at_once(model, 100) > 1000
