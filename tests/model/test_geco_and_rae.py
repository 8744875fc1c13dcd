"""The constraint of GECO, and the regularised autoencoder, against their formulas and a linear decoder."""

import itertools
import math

import pytest
import torch
from objective_terms import B, C, kl_by_torch, log_p_x, make_terms

from skvae.data.batch import Batch
from skvae.data.columns import Column, Kind
from skvae.model import (
    ELBO,
    GECO,
    MLP,
    RAE,
    Deterministic,
    DiagonalNormal,
    FlowPosterior,
    LatentVariableModel,
    StandardNormal,
    Table,
)
from skvae.training import Noise, Plan, fit
from skvae.training.randomness import seeded_torch


def make_model(posterior=None, hidden_sizes=()):
    with seeded_torch(1):
        return LatentVariableModel(
            [Column(name, Kind.CONTINUOUS, "float64") for name in "abcde"],
            latent_dim=2,
            encoder=MLP(hidden_sizes),
            decoder=MLP(hidden_sizes),
            posterior=posterior or DiagonalNormal(),
            prior=StandardNormal(),
            likelihood=Table("gaussian"),
            masks=False,
        )


def make_rows(n=256, noise=0.2, **fields):
    """Standardised columns that two causes make."""
    stream = torch.Generator().manual_seed(0)
    x = torch.randn(n, 2, generator=stream) @ torch.randn(2, C, generator=stream)
    x = x / x.std(0)
    return Batch((x + noise * torch.randn(n, C, generator=stream)) / (1 + noise**2) ** 0.5, **fields)


@pytest.mark.parametrize("log_multiplier", [-1.0, 0.0, 2.0])
def test_loss_and_bound_of_geco(log_multiplier):
    objective = GECO().double()
    objective.log_multiplier.fill_(log_multiplier)
    terms = make_terms()
    losses = objective(terms)
    kl = kl_by_torch(terms).sum(-1)
    torch.testing.assert_close(losses.loss, kl - math.exp(log_multiplier) * log_p_x(terms))
    torch.testing.assert_close(losses.bound, log_p_x(terms) - kl)
    torch.testing.assert_close(losses.named["multiplier"], torch.full((B,), math.exp(log_multiplier)).double())
    if log_multiplier == 0:
        torch.testing.assert_close(losses.loss, ELBO()(terms).loss)


@pytest.mark.parametrize("weight", [None, [2.0, 0.0, 1.0, 1.0, 2.0, 0.0]])
@pytest.mark.parametrize("masked", [False, True])
def test_the_multiplier_follows_the_constraint(masked, weight):
    """Rezende & Viola (2018), algorithm 1, with pencil and paper."""
    objective = GECO(target=0.4, rate=0.1, momentum=0.8).double()
    objective.baseline.fill_(-3.0)
    average, log_multiplier = 0.0, 0.0
    for seed in range(5):
        terms = make_terms(requires_grad=True, masked=masked, weight=weight, seed=seed)
        losses = objective(terms)
        assert losses.named["multiplier"][0].item() == pytest.approx(math.exp(log_multiplier))  # that of before
        w = [1.0] * B if weight is None else weight
        n = [C] * B if not masked else terms.batch.observed.sum(1).tolist()
        log_p = terms.log_p["x"].mean(0).tolist()
        worth = sum(a * b for a, b in zip(w, log_p, strict=True)) / sum(a * b for a, b in zip(w, n, strict=True))
        average = 0.8 * average + 0.2 * (0.4 - (worth - -3.0))
        log_multiplier += 0.1 * average
        assert objective.log_multiplier.item() == pytest.approx(log_multiplier)
    before = objective.log_multiplier.clone()
    objective(make_terms())  # where nothing is learnt, nothing moves
    assert torch.equal(objective.log_multiplier, before)


def test_a_step_that_is_not_finite_and_a_target_out_of_reach():
    objective = GECO(target=1e6, rate=1.0).double()
    terms = make_terms(requires_grad=True)
    objective(terms)
    assert objective.log_multiplier == 10.0
    broken = make_terms(requires_grad=True)
    broken.batch.values.fill_(float("nan"))
    objective(broken)
    assert torch.isfinite(objective.constraint)
    assert torch.isfinite(objective.log_multiplier)


def test_the_baseline_is_the_untrained_decoder_at_the_origin():
    model, objective = make_model(), GECO()
    observed = torch.rand(256, C) < 0.7
    rows = make_rows(observed=observed)
    with torch.no_grad():
        objective.prepare(model, rows)
        log_p = model.decode(torch.zeros(1, 256, 2)).log_prob(rows.values)[0]
    assert objective.baseline.item() == pytest.approx(log_p[observed].mean().item(), rel=1e-5)
    # That of independent standard normals, about, for standardised columns.
    assert objective.baseline.item() == pytest.approx(-0.5 * (math.log(2 * math.pi) + 1), abs=0.2)


def test_training_meets_the_constraint():
    multipliers = []
    for target in (0.3, 0.8):
        objective = GECO(target=target, rate=0.03)
        plan = Plan(max_epochs=150, batch_size=64, learning_rate=0.02, compile=False)
        history, _ = fit(make_model(), objective, make_rows(), None, plan, Noise(0))
        worth = torch.tensor(history["train_log_p_x"]) / C - objective.baseline.item()
        assert worth[:5].mean() < target - 0.1
        assert worth[20:40].max() > target + 0.3  # what the ELBO would settle at
        assert worth[-20:].mean().item() == pytest.approx(target, abs=0.1)
        multipliers.append(history["train_multiplier"][-1])
    assert multipliers[0] < multipliers[1] < 1


@pytest.mark.parametrize("beta", [0.0, 1.0, 0.1])
def test_loss_of_the_regularised_autoencoder(beta):
    model = make_model(Deterministic(), hidden_sizes=(3,))
    objective = RAE(beta=beta, weight=0.01)
    objective.prepare(model, make_rows())
    rows = make_rows(8)
    terms = model(rows, torch.zeros(1, 8, 2))
    losses = objective(terms)
    log_p = torch.distributions.Normal(terms.distribution.mean[0], 1.0).log_prob(rows.values).sum(-1)
    norm = beta / 2 * model.encode(rows).mean.square().sum(-1)
    decoder = [p for name, p in model.named_parameters() if name.startswith(("decoder", "output"))]
    assert len(decoder) == 4
    weights = sum(p.square().sum() for p in decoder)
    torch.testing.assert_close(losses.loss, norm - log_p + 0.01 * weights)
    torch.testing.assert_close(losses.bound, log_p - norm)
    assert not losses.bound.requires_grad
    assert not list(objective.parameters())


def test_gradient_penalty_of_a_linear_decoder():
    """Over all signs its mean is the squared Frobenius norm of the decoder's matrix."""
    terms = make_terms(n_draws=1, posterior="deterministic", requires_grad=True)
    found = []
    for signs in itertools.product([-1.0, 1.0], repeat=C):
        terms.prior_eps = 0.7 * torch.tensor(signs, dtype=torch.float64).unsqueeze(0)
        losses = RAE(beta=0.0, regularisation="gradient-penalty", weight=2.0)(terms)
        torch.testing.assert_close(losses.loss, -log_p_x(terms) + 2 * losses.named["gradient_penalty"])
        found.append(losses.named["gradient_penalty"])
    expected = terms.matrix.square().sum().expand(B)
    torch.testing.assert_close(torch.stack(found).mean(0), expected)
    assert len({round(value[0].item(), 6) for value in found}) > 1


def test_gradient_penalty_reaches_the_decoder_and_its_noise_suffices():
    model = make_model(Deterministic(), hidden_sizes=(3,))
    objective = RAE(regularisation="gradient-penalty", weight=1.0)
    rows = make_rows(8)
    objective.prepare(model, rows)
    eps = torch.randn(objective.n_prior_draws, 2)
    assert eps.numel() >= C
    penalty = objective(model(rows, torch.zeros(1, 8, 2), prior_eps=eps)).named["gradient_penalty"]
    penalty.mean().backward()
    assert (model.output.weight.grad != 0).all()
    with torch.no_grad():
        assert "gradient_penalty" not in objective(model(rows, torch.zeros(1, 8, 2), prior_eps=eps)).named


@pytest.mark.parametrize("regularisation", ["l2", "gradient-penalty"])
def test_training_with_a_heavy_penalty_makes_a_smoother_decoder(regularisation):
    def slope(weight):
        model = make_model(Deterministic())
        plan = Plan(max_epochs=20, batch_size=64, learning_rate=0.02, compile=False)
        fit(model, RAE(regularisation=regularisation, weight=weight), make_rows(), None, plan, Noise(0))
        return model.output.weight.detach().square().sum().item()

    assert slope(3.0) < 0.5 * slope(0.0)


@pytest.mark.parametrize("posterior", [DiagonalNormal(), FlowPosterior()], ids=repr)
def test_a_posterior_that_draws_is_refused(posterior):
    message = r"objective=RAE\(\) is for autoencoders, and posterior=\w+\(\) draws z at random; use posterior='determ"
    with pytest.raises(ValueError, match=message):
        RAE().prepare(make_model(posterior), make_rows())


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (GECO(target=float("nan")), "target=nan.*nats per entry"),
        (GECO(rate=0.0), "rate=0.0.*number > 0"),
        (GECO(momentum=1.0), r"momentum=1.0.*\[0, 1\)"),
        (RAE(beta=-1.0), "beta=-1.0"),
        (RAE(weight="much"), "weight='much'.*finite number ≥ 0"),
        (RAE(regularisation="spectral"), "regularisation='spectral'.*'l2', 'gradient-penalty'"),
    ],
    ids=repr,
)
def test_parameters_out_of_range(objective, message):
    with pytest.raises(ValueError, match=message):
        objective.check()
