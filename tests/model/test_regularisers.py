"""MMD and DIP-VAE against their formulas, and sums of objectives."""

import itertools

import numpy as np
import pytest
import torch
from objective_terms import B, D, M, S, log_p_x, make_terms, rows_of
from sklearn.base import clone

from skvae import persistence
from skvae.data.batch import Batch
from skvae.model import DIPVAE, ELBO, IWAE, MMD, BetaTCVAE, Objective, Regulariser, StandardNormal, Terms
from skvae.model.objectives import Penalty
from skvae.model.posteriors import PointPosterior

SCALES = (0.2, 1, 5)
WEIGHT = [1.0, 2.0, 0.0, 0.5, 1.5, 1.0]


def kernel(name, a, b):
    r = float(((a - b) ** 2).sum()) / (2 * D)
    one = {"imq": lambda r: 1 / (1 + r), "rbf": lambda r: np.exp(-r)}[name]
    return sum(one(r / scale) for scale in SCALES) / len(SCALES)


@pytest.mark.parametrize("name", ["imq", "rbf"])
@pytest.mark.parametrize("posterior", ["diagonal", "deterministic"])
def test_mmd_pair_by_pair(name, posterior):
    terms = make_terms(posterior=posterior)
    prior_z = terms.prior_eps
    expected = 0.0
    for z in terms.z:
        among = [kernel(name, z[i], z[j]) for i, j in itertools.permutations(range(B), 2)]
        among_prior = [kernel(name, prior_z[i], prior_z[j]) for i, j in itertools.permutations(range(M), 2)]
        across = [kernel(name, a, b) for a in z for b in prior_z]
        expected += (np.mean(among) + np.mean(among_prior) - 2 * np.mean(across)) / S
    penalty = MMD(weight=30.0, kernel=name).penalty(terms)
    assert penalty.named["mmd"].mean().item() == pytest.approx(expected)
    torch.testing.assert_close(penalty.loss, 30 * penalty.named["mmd"])


def test_mmd_takes_as_many_draws_from_the_prior_as_it_asked_for():
    terms = make_terms()
    few = MMD(n_prior_draws=3).penalty(terms).loss
    terms.prior_eps = terms.prior_eps[:3]
    torch.testing.assert_close(few, MMD().penalty(terms).loss)


def latents(z, **fields):
    """Terms of which only the latents [B, D] matter."""
    return Terms(
        z.unsqueeze(0),
        PointPosterior(z),
        StandardNormal().bind(z.shape[1]),
        None,
        Batch(torch.zeros(len(z), 1), **fields),
        prior_eps=torch.randn(40, z.shape[1]),
    )


@pytest.mark.parametrize("name", ["imq", "rbf"])
def test_mmd_is_unbiased_and_notices_shift_and_scale(name):
    def values(change):
        return torch.stack(
            [MMD(kernel=name).penalty(latents(change(torch.randn(20, 2)))).named["mmd"].mean() for _ in range(100)]
        )

    none = values(lambda z: z)
    assert abs(none.mean()) < 4 * none.std() / 100**0.5
    assert (none < 0).any()
    assert values(lambda z: z + 1).mean() > 20 * none.std() / 100**0.5
    assert values(lambda z: 0.3 * z).mean() > 20 * none.std() / 100**0.5


def test_mmd_of_weighted_rows():
    """Rows of weight 0 count for nothing, and equal weights are none."""
    z = torch.randn(5, 2)
    torch.manual_seed(1)
    whole = MMD().penalty(latents(z[:4])).loss
    torch.manual_seed(1)
    weight = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0])
    torch.testing.assert_close(MMD().penalty(latents(z, weight=weight)).loss[:4], whole)


def covariance_of_z(terms, variant, share):
    """By numpy: of the means, or that plus the mean variance."""
    mean = terms.posterior.mean.numpy()
    found = np.cov(mean.T, aweights=share, bias=True)
    if variant == "ii":
        found += np.diag(share @ terms.posterior.variance.numpy() / np.sum(share))
    return found


@pytest.mark.parametrize("variant", ["i", "ii"])
@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_dip_against_numpy(variant, weight):
    terms = make_terms(weight=weight)
    v = covariance_of_z(terms, variant, np.ones(B) if weight is None else np.array(weight))
    off_diagonal = sum(v[i, j] ** 2 for i in range(D) for j in range(D) if i != j)
    expected = 3.0 * off_diagonal + 5.0 * sum((v[i, i] - 1) ** 2 for i in range(D))
    penalty = DIPVAE(lambda_od=3.0, lambda_d=5.0, variant=variant).penalty(terms)
    np.testing.assert_allclose(penalty.loss, np.full(B, expected))


@pytest.mark.parametrize("posterior", ["full", "deterministic"])
def test_dip_by_draws_where_the_posterior_is_no_diagonal_normal(posterior):
    n = 50_000
    terms = make_terms(n_draws=n if posterior == "full" else 1, posterior=posterior)
    v = np.cov(terms.posterior.mean.numpy().T, bias=True)
    if posterior == "full":
        tril = terms.posterior.scale_tril
        v += (tril @ tril.mT).mean(0).numpy()
    np.testing.assert_allclose(DIPVAE()._covariance(terms), v, atol=0.03)


def test_rows_that_come_twice_do_not_change_dip():
    terms = make_terms()
    twice = rows_of(terms, torch.arange(B).repeat(2))
    torch.testing.assert_close(DIPVAE().penalty(twice).loss.mean(), DIPVAE().penalty(terms).loss.mean())


@pytest.mark.parametrize("objective", [MMD(), DIPVAE(), BetaTCVAE()], ids=repr)
def test_a_single_row_is_refused_in_training_only(objective):
    rows = rows_of(make_terms(), slice(0, 1))
    assert torch.isfinite(objective(rows).loss).all()
    rows.z.requires_grad_()
    with pytest.raises(ValueError, match="rows of a batch, and the batch has 1: set batch_size=2 or more"):
        objective(rows)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (MMD(weight=0.5 + 0.2 - 1), r"MMD\(weight=-0\.3.*\): expected a finite number ≥ 0"),
        (MMD(kernel="linear"), "kernel='linear'.*'imq', 'rbf'"),
        (MMD(n_prior_draws=1), "n_prior_draws=1.*whole number ≥ 2"),
        (DIPVAE(lambda_od=-1), "lambda_od=-1"),
        (DIPVAE(lambda_d=float("inf")), "lambda_d=inf"),
        (DIPVAE(variant="iii"), "variant='iii'.*'i' or 'ii'"),
        (ELBO(beta=1 - 1.5), r"ELBO\(beta=-0.5"),
    ],
    ids=repr,
)
def test_published_mistake_3_and_other_parameters_out_of_range(objective, message):
    """Of InfoVAE, α + λ − 1 may not be negative."""
    for one in (objective, objective + DIPVAE()):
        with pytest.raises(ValueError, match=message):
            one.check()


@pytest.mark.parametrize(("alpha", "lambda_"), [(0.0, 4.0), (0.4, 2.5), (1.0, 10.0)])
def test_info_vae_is_a_sum(alpha, lambda_):
    """(1 − α) KL(q(z|x) ‖ p(z)) + (α + λ − 1) MMD(q(z), p(z)) − log p(x|z) (Zhao, Song & Ermon 2019, equation 6)."""
    terms = make_terms()
    losses = (ELBO(beta=1 - alpha) + MMD(weight=alpha + lambda_ - 1))(terms)
    expected = -log_p_x(terms) + (1 - alpha) * terms.kl.sum(1) + (alpha + lambda_ - 1) * losses.named["mmd"]
    torch.testing.assert_close(losses.loss, expected)
    torch.testing.assert_close(losses.bound, log_p_x(terms) - terms.kl.sum(1))


class Constant(Regulariser):
    """Adds a number, by name, and may bring a player."""

    def __init__(self, value=1.0, name="constant"):
        super().__init__()
        self.value = value
        self.name = name

    def prepare(self, model, rows):
        self.player = torch.nn.Linear(1, 1)

    def penalty(self, terms):
        value = torch.full((B,), self.value, dtype=torch.float64)
        return Penalty(loss=value, named={self.name: value}, player=10 * value)


def test_a_sum_adds_losses_and_keeps_the_bound_of_the_objective():
    terms = make_terms()
    iwae = IWAE()(terms)
    losses = (IWAE() + Constant(2.0) + Constant(3.0, name="kl"))(terms)
    torch.testing.assert_close(losses.loss, iwae.loss + 5)
    torch.testing.assert_close(losses.bound, iwae.bound)
    assert losses.named["constant"][0] == 2
    assert losses.named["constant_2_kl"][0] == 3  # "kl" was taken
    torch.testing.assert_close(losses.named["kl"], iwae.named["kl"])
    assert losses.player[0] == 50


@pytest.mark.parametrize("objective", [MMD(), MMD() + DIPVAE()], ids=repr)
def test_regularisers_alone_stand_for_the_elbo_and_themselves(objective):
    terms = make_terms()
    alone, together = objective(terms).record(), (objective + ELBO())(terms).record()
    assert alone.keys() == together.keys()
    for name, value in together.items():
        torch.testing.assert_close(alone[name], value)


def test_names_of_the_parts():
    objective = MMD() + ELBO() + (DIPVAE() + MMD(weight=3.0))
    assert list(objective.parts) == ["elbo", "mmd", "dip_vae", "mmd_2"]
    assert repr(objective) == "ELBO() + MMD() + DIPVAE() + MMD(weight=3.0)"
    assert list((MMD() + DIPVAE()).parts) == ["mmd", "dip_vae"]
    params = objective.get_params()
    assert params["mmd_2__weight"] == 3.0
    assert params["elbo"] is objective.elbo


def test_a_part_that_is_named_like_an_attribute_gets_another_name():
    class Parts(Constant):
        alias = "parts"

    assert list((ELBO() + Parts()).parts) == ["elbo", "parts_2"]


def test_parameters_of_the_parts_are_set_copied_and_saved():
    objective = ELBO(warm_up=0.3) + MMD() + MMD()
    objective.set_params(mmd_2__weight=7.0, elbo=IWAE(n_draws=3))
    for copy in (clone(objective), objective.fresh(), persistence.decode(persistence.encode(objective))):
        assert repr(copy) == repr(objective) == "IWAE(n_draws=3) + MMD() + MMD(weight=7.0)"
        assert copy.parts.keys() == objective.parts.keys()
        assert copy.mmd is not objective.mmd
    with pytest.raises(ValueError, match=r"Sum has no parameter 'iwae'; it has \['elbo', 'mmd', 'mmd_2'\]"):
        objective.set_params(iwae__n_draws=3)


def test_what_a_sum_asks_for():
    objective = ELBO(n_draws=2, warm_up=0.3) + MMD(n_prior_draws=5) + MMD(n_prior_draws=9) + DIPVAE()
    assert (objective.n_draws, objective.n_prior_draws, objective.warm_up) == (2, 9, 0.3)
    assert objective.player is None
    objective.set_params(mmd__n_prior_draws=20, elbo__n_draws=4)
    assert (objective.n_draws, objective.n_prior_draws) == (4, 20)
    two = ELBO() + Constant() + DIPVAE() + Constant()
    two.prepare(None, None)
    assert list(two.player.parameters()) == [*two.constant.player.parameters(), *two.constant_2.player.parameters()]
    one = Constant()
    one.prepare(None, None)
    assert one.player is not None


def test_two_bounds_do_not_add_up():
    with pytest.raises(ValueError, match=r"IWAE\(\) cannot be added to ELBO\(\): a sum has one objective"):
        ELBO() + IWAE()
    with pytest.raises(ValueError, match=r"IWAE\(\) cannot be added"):
        (ELBO() + MMD()) + IWAE()
    with pytest.raises(TypeError):
        ELBO() + 1.0


def test_objectives_are_left_as_they_were():
    one, other = ELBO(), MMD()
    both = one + other
    assert both.fresh().elbo is not one
    assert isinstance(both, Objective)
    assert one.get_params() == ELBO().get_params()
