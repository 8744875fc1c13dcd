"""The ELBO against its formula, written out row by row; and what holds for every objective."""

import pytest
import torch
from objective_terms import B, D, S, kl_by_torch, log_p_x, make_terms, rows_of

from skvae.model import (
    DIPVAE,
    ELBO,
    GECO,
    IWAE,
    MMD,
    RAE,
    BetaTCVAE,
    FactorVAE,
    LabelSpreading,
    Neighbours,
    Objective,
    StandardNormal,
    Terms,
)
from skvae.model.component import choices
from skvae.model.likelihoods.normal import Normal
from skvae.model.networks import MLP


class OtherNormal(StandardNormal):
    """A prior to which no closed-form KL is known."""


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 4.0])
def test_loss_and_bound(beta):
    terms = make_terms()
    losses = ELBO(beta=beta)(terms)
    kl = kl_by_torch(terms).sum(-1)
    torch.testing.assert_close(losses.loss, beta * kl - log_p_x(terms))
    torch.testing.assert_close(losses.bound, log_p_x(terms) - kl)
    torch.testing.assert_close(losses.named["kl"], kl)
    torch.testing.assert_close(losses.named["log_p_x"], log_p_x(terms))


@pytest.mark.parametrize(
    "objective",
    [ELBO(), ELBO(beta=7.0), ELBO(free_bits=0.5), ELBO(warm_up=0.5), ELBO(beta=0.1, free_bits=2.0, warm_up=0.9)],
    ids=repr,
)
@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_the_bound_is_unweighted(objective, progress):
    terms = make_terms(progress=progress)
    bound = objective(terms).bound
    torch.testing.assert_close(bound, log_p_x(terms) - kl_by_torch(terms).sum(-1))
    assert not bound.requires_grad


def test_record_carries_no_gradient():
    record = ELBO()(make_terms(requires_grad=True)).record()
    assert set(record) == {"loss", "bound", "log_p_x", "kl"}
    assert not any(value.requires_grad for value in record.values())
    assert all(value.shape == (B,) for value in record.values())


def test_closed_form_and_monte_carlo_kl_agree_in_expectation():
    n = 40_000
    terms = make_terms(n_draws=n)
    closed, drawn = ELBO()(terms), ELBO(kl="monte-carlo")(terms)
    error = (terms.log_q["z"] - terms.log_p["z"]).std(0) / n**0.5
    assert ((closed.named["kl"] - drawn.named["kl"]).abs() < 4 * error).all()


@pytest.mark.parametrize("kl", ["closed", "monte-carlo"])
def test_draws_are_averaged(kl):
    terms = make_terms()
    together = ELBO(kl=kl)(terms).loss
    one_by_one = []
    for s in range(S):
        d = terms.distribution
        distribution = Normal(d.mean[s : s + 1], d.log_scale, d.log_unit)
        one = Terms(terms.z[s : s + 1], terms.posterior, terms.prior, distribution, terms.batch)
        one_by_one.append(ELBO(kl=kl)(one).loss)
    torch.testing.assert_close(together, torch.stack(one_by_one).mean(0))


def test_auto_draws_the_kl_where_no_closed_form_exists():
    terms = make_terms(prior=OtherNormal())
    torch.testing.assert_close(ELBO()(terms).loss, ELBO(kl="monte-carlo")(terms).loss)


@pytest.mark.parametrize("objective", [ELBO(kl="closed"), ELBO(free_bits=0.1)], ids=repr)
def test_a_closed_form_that_does_not_exist(objective):
    with pytest.raises(
        ValueError, match="no closed-form KL from NormalPosterior to OtherNormal; set kl='monte-carlo'"
    ):
        objective(make_terms(prior=OtherNormal()))


@pytest.mark.parametrize("n_open", range(D + 1))
def test_free_bits_row_by_row(n_open):
    """Σ_j [open_j KL_ij + (1 − open_j) λ], with open_j = (batch mean of KL_j > λ)."""
    terms = make_terms(by_z=False, requires_grad=True)
    means = sorted(kl_by_torch(terms).detach().mean(0).tolist(), reverse=True)
    free_bits = sum(([means[0] + 1, *means, 0.0])[n_open : n_open + 2]) / 2  # between two of them
    losses = ELBO(free_bits=free_bits)(terms)
    kl = kl_by_torch(terms).detach()
    is_open = [sum(kl[i, j] for i in range(B)) / B > free_bits for j in range(D)]
    assert sum(is_open) == n_open
    for i in range(B):
        penalty = sum(kl[i, j] if is_open[j] else free_bits for j in range(D))
        assert losses.loss[i].item() == pytest.approx(float(penalty - log_p_x(terms)[i]))

    losses.loss.sum().backward()
    for j in range(D):
        for gradient in (terms.posterior.mean.grad, terms.posterior.log_scale.grad):
            assert bool((gradient[:, j] != 0).all()) == bool(is_open[j])


@pytest.mark.parametrize("warm_up", [0.1, 0.5])
@pytest.mark.parametrize("progress", [0.0, 0.05, 0.25, 0.5, 0.9, 1.0])
def test_published_mistake_9_warm_up_is_a_share_of_the_planned_steps(warm_up, progress):
    terms = make_terms(progress=torch.tensor(progress, dtype=torch.float64))
    weight = min(progress / warm_up, 1.0)
    expected = weight * kl_by_torch(terms).sum(-1) - log_p_x(terms)
    torch.testing.assert_close(ELBO(warm_up=warm_up)(terms).loss, expected)
    torch.testing.assert_close(
        ELBO(warm_up=warm_up, beta=3.0)(terms).loss + log_p_x(terms), 3 * weight * terms.kl.sum(-1)
    )


def prepared(objective):
    """The objective, with what it would get from a model."""
    for part in list(objective.double().modules()):
        if isinstance(part, FactorVAE):
            part.player = torch.nn.Sequential(MLP((5,)).bind(D), torch.nn.Linear(5, 1)).double()
        if isinstance(part, RAE):
            part._decoder = (torch.ones(3, 2, dtype=torch.float64),)
        if isinstance(part, GECO):
            part.log_multiplier.fill_(0.7)
    return objective


# Those whose loss of a row does not depend on the other rows, and those that compare rows.
BY_ROW = [
    (ELBO(), "diagonal"),
    (ELBO(beta=2.0), "full"),
    (ELBO(kl="monte-carlo"), "diagonal"),
    (ELBO(warm_up=0.5), "diagonal"),
    (ELBO(), "deterministic"),
    (IWAE(), "diagonal"),
    (IWAE(gradient="dreg"), "full"),
    (GECO(), "diagonal"),
    (RAE(), "deterministic"),
    (RAE(regularisation="gradient-penalty"), "deterministic"),
    (FactorVAE(), "diagonal"),
    (IWAE() + FactorVAE(gamma=2.0), "diagonal"),
    (ELBO() + LabelSpreading(), "diagonal"),
]
BY_BATCH = [BetaTCVAE, DIPVAE, MMD, Neighbours]


@pytest.mark.parametrize(("objective", "posterior"), BY_ROW, ids=repr)
@pytest.mark.parametrize("masked", [False, True])
def test_published_mistake_4_losses_do_not_scale_with_the_batch(objective, posterior, masked):
    """The loss of a batch is the mean of the losses of its halves."""
    objective = prepared(objective)
    terms = make_terms(progress=0.2, posterior=posterior, masked=masked)
    halves = [objective(rows_of(terms, slice(0, B // 2))), objective(rows_of(terms, slice(B // 2, B)))]
    whole = objective(terms)
    torch.testing.assert_close(whole.loss.mean(), (halves[0].loss.mean() + halves[1].loss.mean()) / 2)
    for name, value in whole.record().items():
        torch.testing.assert_close(value, torch.cat([half.record()[name] for half in halves]))


def test_every_objective_has_been_told_apart():
    by_row = {type(part) for objective, _ in BY_ROW for part in objective.modules()}
    for cls in choices(Objective).values():
        if cls.__module__.startswith("skvae."):
            assert (cls in by_row) != (cls in BY_BATCH), cls


def test_published_mistake_8_beta_weighs_the_kl_from_the_first_step():
    gradients = []
    for beta in (1.0, 5.0):
        terms = make_terms(by_z=False, requires_grad=True, progress=0.0)
        ELBO(beta=beta)(terms).loss.sum().backward()
        gradients.append(terms.posterior.mean.grad)
    torch.testing.assert_close(gradients[0], terms.posterior.mean.detach())  # dKL/dμ = μ
    torch.testing.assert_close(gradients[1], 5 * gradients[0])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"kl": "exact"}, "kl='exact'.*expected 'auto', 'closed' or 'monte-carlo'"),
        ({"beta": -1.0}, "beta=-1.0.*expected a finite number ≥ 0"),
        ({"beta": float("nan")}, "beta=nan"),
        ({"free_bits": -0.1}, "free_bits=-0.1.*nats ≥ 0"),
        ({"warm_up": 1.0}, r"warm_up=1.0.*\[0, 1\)"),
        ({"warm_up": 10}, r"warm_up=10.*a share in"),
        ({"n_draws": 0}, "n_draws=0.*whole number ≥ 1"),
        ({"n_draws": 2.0}, "n_draws=2.0"),
        ({"free_bits": 0.1, "kl": "monte-carlo"}, "free_bits needs the KL per dimension"),
    ],
    ids=str,
)
def test_parameters_out_of_range(params, message):
    with pytest.raises(ValueError, match=message):
        ELBO(**params).check()


def test_parameters_in_range():
    ELBO(beta=0.0, free_bits=0.0, warm_up=0.0, n_draws=5).check()


@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_of_a_deterministic_posterior_the_prior_is_left(beta):
    terms = make_terms(posterior="deterministic")
    losses = ELBO(beta=beta)(terms)
    log_p_z = torch.distributions.Normal(0.0, 1.0).log_prob(terms.posterior.mean).sum(-1)
    torch.testing.assert_close(losses.loss, -log_p_x(terms) - beta * log_p_z)
    torch.testing.assert_close(losses.bound, log_p_x(terms) + log_p_z)


def test_without_it_that_is_the_plain_autoencoder():
    terms = make_terms(posterior="deterministic")
    losses = ELBO(beta=0.0)(terms)
    torch.testing.assert_close(losses.loss, -log_p_x(terms))
    torch.testing.assert_close(losses.bound, log_p_x(terms))
    assert set(losses.record()) == {"loss", "bound", "log_p_x"}


@pytest.mark.parametrize("objective", [cls() for cls in choices(Objective).values()], ids=repr)
def test_records_are_by_row_and_without_gradient(objective):
    objective = prepared(objective)
    posterior = "deterministic" if isinstance(objective, RAE) else "diagonal"
    record = objective(make_terms(posterior=posterior, requires_grad=True)).record()
    assert {"loss", "bound", "log_p_x"} < set(record)
    for value in record.values():
        assert value.shape == (B,)
        assert not value.requires_grad
        assert torch.isfinite(value).all()
