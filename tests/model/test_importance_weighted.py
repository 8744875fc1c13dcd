"""IWAE against its formula, and its gradients against each other and against ones worked out by hand."""

import math

import pytest
import torch
from objective_terms import B, C, D, S, make_terms

from skvae.data.batch import Batch
from skvae.model import ELBO, IWAE, DiagonalNormal, StandardNormal, Terms
from skvae.model.likelihoods.normal import Normal
from skvae.model.posteriors import NormalPosterior

every_gradient = pytest.mark.parametrize("gradient", ["plain", "dreg"])


class Shifted(StandardNormal):
    """N(m, I) with a learned m."""

    def bind(self, latent_dim, n_context=0):
        self.m = torch.nn.Parameter(torch.full((latent_dim,), 0.3, dtype=torch.float64))
        return super().bind(latent_dim, n_context)

    def log_prob(self, z, context=None):
        return super().log_prob(z - self.m)


def log_weight(terms, k, i):
    """log p(x_i, z_ki) − log q(z_ki | x_i), by torch.distributions."""
    z = terms.z[k, i]
    log_p_x = torch.distributions.Normal(terms.distribution.mean[k, i], 1.0).log_prob(terms.batch.values[i]).sum()
    log_p_z = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum()
    q = torch.distributions.Normal(terms.posterior.mean[i], terms.posterior.scale[i])
    return (log_p_x + log_p_z - q.log_prob(z).sum()).item()


@every_gradient
@pytest.mark.parametrize("requires_grad", [False, True])
def test_published_mistakes_1_and_2_the_loss_is_the_log_mean_exp_of_each_rows_own_draws(gradient, requires_grad):
    assert len({S, B, D, C}) == 4
    terms = make_terms(requires_grad=requires_grad)
    losses = IWAE(gradient=gradient)(terms)
    for i in range(B):
        weights = [math.exp(log_weight(terms, k, i)) for k in range(S)]
        assert losses.bound[i].item() == pytest.approx(math.log(sum(weights) / S))
        share = [w / sum(weights) for w in weights]
        assert losses.named["effective_draws"][i].item() == pytest.approx(1 / sum(w * w for w in share))
    torch.testing.assert_close(losses.loss.detach(), -losses.bound)
    assert not losses.bound.requires_grad


@every_gradient
def test_with_one_draw_it_is_the_elbo_of_that_draw(gradient):
    terms = make_terms(n_draws=1)
    mine, elbo = IWAE(1, gradient)(terms), ELBO(kl="monte-carlo")(terms)
    torch.testing.assert_close(mine.loss, elbo.loss)
    torch.testing.assert_close(mine.bound, elbo.bound)
    for name, value in elbo.named.items():
        torch.testing.assert_close(mine.named[name], value)


def linear_gaussian(n_rows, n_draws, seed=0, at_the_truth=False):
    """Rows that are all alike, x | z ~ N(A z, I), each with parameters of q of its own: gradients by replicate.

    Returns terms, (mean, log scale) of q, A.
    """
    stream = torch.Generator().manual_seed(seed)
    a = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.7]], dtype=torch.float64, requires_grad=True)  # [3, 2]
    x = torch.tensor([1.0, -0.5, 0.8], dtype=torch.float64)
    precision = torch.eye(2, dtype=torch.float64) + a.detach().T @ a.detach()  # diagonal
    mean, log_scale = torch.linalg.solve(precision, a.detach().T @ x), -0.5 * precision.diagonal().log()
    if not at_the_truth:
        mean, log_scale = mean + 0.4, log_scale + 0.3
    params = [p.repeat(n_rows, 1).requires_grad_() for p in (mean, log_scale)]
    q = NormalPosterior(*params)
    z = q.rsample(torch.randn(n_draws, n_rows, 2, generator=stream, dtype=torch.float64))
    distribution = Normal(z @ a.T, torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    prior = Shifted().bind(2)
    if at_the_truth:
        prior.m.data.zero_()
    return Terms(z, q, prior, distribution, Batch(x.repeat(n_rows, 1))), params, a


def test_the_bound_grows_with_the_number_of_draws_to_log_p():
    terms, _, a = linear_gaussian(1, 1)
    marginal = torch.distributions.MultivariateNormal(a @ terms.prior.m, torch.eye(3) + a @ a.T)
    log_p = marginal.log_prob(terms.batch.values[0]).item()
    bounds = [IWAE()(linear_gaussian(4000, k)[0]).bound for k in (1, 4, 30)]
    means = [bound.mean().item() for bound in bounds]
    assert means[0] < means[1] - 0.05 < means[2] - 0.06
    assert means[2] == pytest.approx(log_p, abs=0.01)
    # The mean of the weights, unlike that of their logarithm, is p(x) for any number of draws.
    for bound in bounds:
        p = bound.exp()
        assert abs(p.mean().item() - math.exp(log_p)) < 4 * p.std().item() / 4000**0.5


@pytest.mark.parametrize("n_draws", [1, 3, 8])
def test_both_gradients_agree_in_expectation_and_the_second_varies_less(n_draws):
    n = 5000
    found = {}
    for gradient in ("plain", "dreg"):
        terms, params, _ = linear_gaussian(n, n_draws)
        IWAE(n_draws, gradient)(terms).loss.sum().backward()
        found[gradient] = torch.cat([p.grad for p in params], dim=1)  # [n, 4]
    difference = found["plain"] - found["dreg"]
    error = difference.std(0) / n**0.5
    assert (difference.mean(0).abs() < 4 * error).all()
    mean, of_mean = found["dreg"].mean(0), found["dreg"].std(0) / n**0.5
    assert (mean.abs() > 10 * of_mean).any()  # there is something to agree on
    assert (found["dreg"].var(0) < 0.8 * found["plain"].var(0)).all()


@pytest.mark.parametrize("n_draws", [1, 5])
def test_at_the_true_posterior_the_second_has_no_variance(n_draws):
    """There all weights are alike, wherever z falls."""
    gradients = {}
    for gradient in ("plain", "dreg"):
        terms, params, _ = linear_gaussian(50, n_draws, at_the_truth=True)
        IWAE(n_draws, gradient)(terms).loss.sum().backward()
        gradients[gradient] = torch.cat([p.grad for p in params], dim=1)
    torch.testing.assert_close(gradients["dreg"], torch.zeros_like(gradients["dreg"]))
    assert (gradients["plain"].abs() > 0.01).any()


def test_doubly_reparametrised_by_hand():
    """−Σ_k w̃² ∂log w/∂z ∂z/∂φ, with ∂log w/∂z of the linear model written out."""
    n, n_draws = 4, 3
    terms, (mean, log_scale), a = linear_gaussian(n, n_draws)
    IWAE(n_draws, "dreg")(terms).loss.sum().backward()
    z, x, q = terms.z.detach(), terms.batch.values, terms.posterior.detach()
    a = a.detach()
    by_z = (x - z @ a.T) @ a - (z - 0.3) + (z - q.mean) / q.scale**2  # [K, n, 2]
    share = (terms.log_p.total() - terms.log_q.total()).detach().softmax(0).unsqueeze(-1)
    torch.testing.assert_close(mean.grad, -(share**2 * by_z).sum(0))
    torch.testing.assert_close(log_scale.grad, -(share**2 * by_z * (z - q.mean)).sum(0))


def test_decoder_and_prior_get_the_same_gradient_from_both():
    found = {}
    for gradient in ("plain", "dreg"):
        terms, _, a = linear_gaussian(7, 4)
        IWAE(4, gradient)(terms).loss.mean().backward()
        found[gradient] = [a.grad, terms.prior.m.grad]
    torch.testing.assert_close(found["plain"], found["dreg"])
    assert all((g != 0).all() for g in found["dreg"][1:])


def test_row_weights_multiply_the_gradient_of_a_row():
    weight = torch.tensor([0.0, 1.0, 2.5, 0.5], dtype=torch.float64)
    gradients = []
    for w in (torch.ones(4, dtype=torch.float64), weight):
        terms, (mean, _), _ = linear_gaussian(4, 3)
        (w * IWAE(3, "dreg")(terms).loss).sum().backward()
        gradients.append(mean.grad)
    torch.testing.assert_close(gradients[1], weight.unsqueeze(1) * gradients[0])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_draws": 0}, r"IWAE\(n_draws=0\): expected a whole number ≥ 1"),
        ({"n_draws": True}, r"n_draws=True"),
        ({"gradient": "stl"}, r"gradient='stl'.*'plain' or 'dreg' \(which with n_draws=1 is STL"),
    ],
    ids=str,
)
def test_parameters_out_of_range(params, message):
    with pytest.raises(ValueError, match=message):
        IWAE(**params).check()


def test_parameters_in_range():
    IWAE(n_draws=50, gradient="dreg").check()
    assert DiagonalNormal.has_density
