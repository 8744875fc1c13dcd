"""β-TCVAE against sums over all rows, and FactorVAE's discriminator against a known density ratio."""

import itertools
import math

import pytest
import torch
from objective_terms import B, D, S, log_p_x, make_terms, rows_of

from skvae.data.batch import Batch
from skvae.data.columns import Column, Kind
from skvae.model import (
    ELBO,
    MLP,
    BetaTCVAE,
    Deterministic,
    DiagonalNormal,
    FactorVAE,
    FlowPosterior,
    LatentVariableModel,
    StandardNormal,
    Table,
    Terms,
)
from skvae.model.objectives import total_correlation
from skvae.model.objectives.factor import permuted
from skvae.model.posteriors import NormalPosterior, PointPosterior
from skvae.training import Noise, Plan, fit
from skvae.training.engine import Optimizer
from skvae.training.randomness import seeded_torch

ESTIMATORS = ["minibatch-weighted", "minibatch-stratified"]
every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS)
every_posterior = pytest.mark.parametrize("posterior", ["diagonal", "full"])


def with_rows(objective, n_rows):
    objective.n_rows = n_rows
    return objective


def torch_posterior(q, m):
    tril = torch.diag(q.log_scale[m].exp()) if isinstance(q, NormalPosterior) else q.scale_tril[m]
    return torch.distributions.MultivariateNormal(q.mean[m], scale_tril=tril)


@every_estimator
@every_posterior
def test_the_parts_add_up_to_the_kl(estimator, posterior):
    """Chen et al. (2018), equation 2: draw for draw, whatever is put for q(z)."""
    terms = make_terms(posterior=posterior)
    named = with_rows(BetaTCVAE(estimator=estimator), 50).penalty(terms).named
    kl = (terms.log_q["z"] - terms.log_p["z"]).mean(0)
    torch.testing.assert_close(sum(named.values()), kl)


@pytest.mark.parametrize("weights", [(1.0, 6.0, 1.0), (0.0, 1.0, 1.0), (2.0, 3.0, 0.5), (1.0, 1.0, 1.0)])
def test_weights_of_the_parts(weights):
    terms = make_terms()
    losses = BetaTCVAE(*weights)(terms)
    parts = [losses.named[name] for name in ("mutual_information", "total_correlation", "dimension_wise_kl")]
    expected = -log_p_x(terms) + terms.kl.sum(1) + sum((w - 1) * part for w, part in zip(weights, parts, strict=True))
    torch.testing.assert_close(losses.loss, expected)
    torch.testing.assert_close(losses.bound, log_p_x(terms) - terms.kl.sum(1))


@every_posterior
def test_with_all_rows_in_the_batch_the_stratified_estimate_is_exact(posterior):
    """log q(z) and Σ_j log q(z_j) as averages over the posteriors of all rows, by torch.distributions."""
    terms = make_terms(posterior=posterior)
    q = terms.posterior
    joint, marginal = with_rows(BetaTCVAE(estimator="minibatch-stratified"), B)._aggregate(terms)
    for s, i in itertools.product(range(S), range(B)):
        z = terms.z[s, i]
        rows = [torch_posterior(q, m) for m in range(B)]
        expected = torch.stack([row.log_prob(z) for row in rows]).logsumexp(0) - math.log(B)
        torch.testing.assert_close(joint[s, i], expected)
        by_dimension = torch.stack([torch.distributions.Normal(r.mean, r.variance.sqrt()).log_prob(z) for r in rows])
        torch.testing.assert_close(marginal[s, i], (by_dimension.logsumexp(0) - math.log(B)).sum())


def test_over_all_batches_the_stratified_estimate_of_q_is_unbiased():
    terms = make_terms()
    n_batch, q = 3, terms.posterior
    objective = with_rows(BetaTCVAE(estimator="minibatch-stratified"), B)
    exact = torch.stack([torch_posterior(q, m).log_prob(terms.z[0, 0]).exp() for m in range(B)]).mean()
    estimates = [
        objective._aggregate(rows_of(terms, torch.tensor([0, *others])))[0][0, 0].exp()
        for others in itertools.combinations(range(1, B), n_batch - 1)
    ]
    torch.testing.assert_close(torch.stack(estimates).mean(), exact)


def test_importance_weights():
    like = torch.zeros((), dtype=torch.float64)
    n, n_rows = 4, 10
    weighted, stratified = (
        with_rows(BetaTCVAE(estimator=estimator), n_rows).log_weights(n, None, like).exp() for estimator in ESTIMATORS
    )
    torch.testing.assert_close(weighted, torch.full((n, n), 1 / (n * n_rows), dtype=torch.float64))
    torch.testing.assert_close(stratified.sum(1), torch.ones(n, dtype=torch.float64))
    # The paper's weights for an ordered batch of M + 1 rows (appendix C.1), averaged over all orders.
    m = n - 1
    total = torch.zeros(n, n, dtype=torch.float64)
    orders = list(itertools.permutations(range(n)))
    for order in orders:
        own, *others = order
        total[own, own] += 1 / n_rows
        for k, row in enumerate(others):
            total[own, row] += (n_rows - m) / (n_rows * m) if k == m - 1 else 1 / m
    torch.testing.assert_close(stratified, total * n / len(orders))


@every_estimator
def test_a_row_of_weight_two_counts_as_two_rows(estimator):
    terms = make_terms()
    objective = with_rows(BetaTCVAE(estimator=estimator), B)
    weight = torch.tensor([2.0, 1, 1, 1, 1, 0], dtype=torch.float64)
    found = objective._aggregate(make_terms(weight=weight))
    twice = objective._aggregate(rows_of(terms, torch.tensor([0, 1, 2, 3, 4, 0])))
    for one, other in zip(found, twice, strict=True):
        torch.testing.assert_close(one[:, 1:5], other[:, 1:5])


def test_large_batches_are_done_in_pieces(monkeypatch):
    terms = make_terms(requires_grad=True)
    whole = BetaTCVAE()(terms).loss
    monkeypatch.setattr(total_correlation, "_MAX_ELEMENTS", 5 * B * D)
    torch.testing.assert_close(BetaTCVAE()(terms).loss, whole)


def test_weights_of_rows_that_do_not_count_leave_gradients_finite():
    terms = make_terms(requires_grad=True, weight=[2.0, 0.0, 1.0, 1.0, 2.0, 0.0])
    (terms.weight * BetaTCVAE(estimator="minibatch-stratified")(terms).loss).sum().backward()
    assert torch.isfinite(terms.posterior.mean.grad).all()
    assert torch.isfinite(terms.posterior.log_scale.grad).all()


@pytest.mark.parametrize("posterior", [Deterministic(), FlowPosterior()], ids=repr)
def test_posteriors_without_densities_of_single_dimensions(posterior):
    model = make_model(posterior=posterior)
    message = (
        r"objective=BetaTCVAE\(\) needs the density of each dimension.*posterior=\w+\(\) has none; use posterior"
    )
    with pytest.raises(ValueError, match=message):
        BetaTCVAE().prepare(model, make_rows())
    BetaTCVAE().prepare(make_model(), make_rows())


@pytest.mark.parametrize("d", [2, 3, 5])
def test_permuted_rows_come_from_different_rows(d):
    z = torch.arange(5).view(1, 5, 1) * 10 + torch.arange(d) + 100 * torch.arange(2).view(2, 1, 1)
    moved = permuted(z)
    for s, j in itertools.product(range(2), range(d)):
        assert sorted(moved[s, :, j].tolist()) == z[s, :, j].tolist()
    assert all(len({int(value) // 10 for value in row}) == d for row in moved.flatten(0, 1))


def with_discriminator(objective=None, d=D):
    objective = objective or FactorVAE(hidden_sizes=(5,))
    objective.prepare(make_model(latent_dim=d), make_rows())
    return objective


def test_losses_of_both_players():
    objective = with_discriminator().double()
    terms = make_terms(requires_grad=True, weight=[2.0, 1, 1, 1, 1, 0])
    penalty = objective.penalty(terms)
    logit = objective.player(terms.z).squeeze(-1)
    torch.testing.assert_close(penalty.loss, 10 * logit.mean(0))
    torch.testing.assert_close(penalty.named["total_correlation"], logit.mean(0))
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    shuffled = objective.player(permuted(terms.z)).squeeze(-1)
    expected = bce(logit, torch.ones(S, B).double(), reduction="none")
    expected = 0.5 * (expected + bce(shuffled, torch.zeros(S, B).double(), reduction="none")).mean(0)
    torch.testing.assert_close(penalty.named["discriminator"], expected)
    torch.testing.assert_close(penalty.player, terms.weight * expected)

    penalty.player.sum().backward()
    assert terms.posterior.mean.grad is None
    assert all((p.grad != 0).any() for p in objective.player.parameters())
    assert set(objective.penalty(make_terms()).named) == {"total_correlation"}  # where nothing is learnt


def test_more_latents_than_rows():
    objective = with_discriminator().double()
    terms = rows_of(make_terms(requires_grad=True), slice(0, D - 1))
    with pytest.raises(ValueError, match=f"each dimension from another row, and the batch has 3.*batch_size={D}"):
        objective(terms)


def latents(z):
    model = make_model(latent_dim=z.shape[1])
    return Terms(z.unsqueeze(0), PointPosterior(z), model.prior, None, Batch(torch.zeros(len(z), 1)))


def test_the_discriminator_finds_the_total_correlation():
    """Of two normal latents with correlation ρ it is −½ log(1 − ρ²)."""
    rho = 0.9
    torch.manual_seed(0)
    objective = with_discriminator(FactorVAE(hidden_sizes=(32, 32)), d=2)
    optimizer = Optimizer([objective.player], max_norm=1e3)
    losses = []
    for _ in range(200):
        x = torch.randn(200, 2)
        z = torch.stack([x[:, 0], rho * x[:, 0] + (1 - rho**2) ** 0.5 * x[:, 1]], dim=1)
        penalty = objective.penalty(latents(z.requires_grad_()))
        optimizer.step(penalty.player.mean(), 0.01)
        losses.append(penalty.player.mean().item())
    assert losses[0] == pytest.approx(math.log(2), abs=0.05)
    assert sum(losses[-20:]) / 20 < 0.5
    x = torch.randn(5000, 2)
    z = torch.stack([x[:, 0], rho * x[:, 0] + (1 - rho**2) ** 0.5 * x[:, 1]], dim=1)
    found = objective.penalty(latents(z)).named["total_correlation"].mean().item()
    assert found == pytest.approx(-0.5 * math.log(1 - rho**2), abs=0.15)


def make_model(latent_dim=2, posterior=None):
    with seeded_torch(1):
        return LatentVariableModel(
            [Column(name, Kind.CONTINUOUS, "float64") for name in "abcd"],
            latent_dim=latent_dim,
            encoder=MLP(()),
            decoder=MLP(()),
            posterior=posterior or DiagonalNormal(),
            prior=StandardNormal(),
            likelihood=Table("gaussian"),
            masks=False,
        )


def make_rows(n=512):
    """Two strong directions that share a cause: an autoencoder's latents of them are correlated."""
    stream = torch.Generator().manual_seed(0)
    shared = torch.randn(n, 1, generator=stream)
    x = torch.cat([shared + 0.5 * torch.randn(n, 1, generator=stream) for _ in range(2)], dim=1)
    return Batch(torch.cat([x, x], dim=1) + 0.1 * torch.randn(n, 4, generator=stream))


def trained(objective):
    """A model whose latents start correlated, trained; its record and the final correlation."""
    model = make_model()
    with torch.no_grad():
        weight = torch.tensor([[1.0, 0, 1, 0], [0, 1.0, 0, 1]]) / 2
        model.posterior.linear.weight[:2] = weight
        model.output.weight.copy_(torch.cat([torch.eye(2), torch.eye(2)]))
        model.posterior.linear.bias.fill_(0.0)
        model.posterior.linear.bias[2:] = -2.0
        model.likelihood.parts[0].log_scale.fill_(-2.0)
    plan = Plan(max_epochs=60, batch_size=128, learning_rate=0.02, decay=False, compile=False)
    history, _ = fit(model, objective, make_rows(), None, plan, Noise(0))
    means = model.encode(make_rows()).mean.detach()
    return history, torch.corrcoef(means.T)[0, 1].abs().item()


def test_in_training_the_discriminator_learns_and_then_has_less_to_tell():
    idle, correlation = trained(ELBO(beta=0.01) + FactorVAE(gamma=0.0, hidden_sizes=(32,)))
    assert correlation > 0.6
    assert idle["train_discriminator"][-1] < idle["train_discriminator"][0] - 0.05
    assert idle["train_total_correlation"][-1] > 0.2
    history, correlation = trained(ELBO(beta=0.01) + FactorVAE(gamma=30.0, hidden_sizes=(32,)))
    assert correlation < 0.3
    assert history["train_total_correlation"][-1] < 0.5 * max(history["train_total_correlation"])
    assert history["train_total_correlation"][-1] < 0.1
