"""A prior, a likelihood and an objective of one's own: one class each, here, and nothing anywhere else."""

import math

import numpy as np
import pytest
import torch
from sklearn.base import clone

import skvae
from skvae import ELBO, VAE, LoadError
from skvae.data.columns import NUMERIC
from skvae.model import Likelihood, Losses, Objective, Penalty, Prior, Regulariser
from skvae.model.likelihoods.normal import Normal

D = 2


class Logistic(Prior):
    """Independent logistic latents with a given scale."""

    alias = "logistic"

    def __init__(self, scale=0.5):
        super().__init__()
        self.scale = scale

    def log_prob(self, z, context=None):
        x = z / self.scale
        return (-x - 2 * torch.nn.functional.softplus(-x) - math.log(self.scale)).sum(-1)

    def sample(self, eps, context=None):
        return self.scale * torch.logit(torch.special.ndtr(eps), eps=1e-6)


class UnitGaussian(Likelihood):
    """Normal columns, with a σ that is a given share of each column's own: the squared error of old."""

    alias = "unit-gaussian"
    kinds = NUMERIC

    def __init__(self, share=1.0):
        super().__init__()
        self.share = share

    def bind(self, columns):
        self.n_params = len(columns)
        self.register_buffer("log_unit", torch.tensor([column.scale for column in columns]).log(), persistent=False)
        return self

    def forward(self, params):
        return Normal(params, torch.full_like(self.log_unit, math.log(self.share)), self.log_unit)


class Renyi(Objective):
    """The variational Rényi bound of order α ≠ 1 (Li & Turner 2016, equation 6)."""

    alias = "renyi"

    def __init__(self, alpha=0.5, n_draws=3):
        super().__init__()
        self.alpha = alpha
        self.n_draws = n_draws

    def check(self):
        if self.alpha == 1:
            raise ValueError("Renyi(alpha=1) is the ELBO; use objective='elbo'")

    def forward(self, terms):
        log_w = terms.log_p.total() - terms.log_q.total()  # [S, B]
        power = 1 - self.alpha
        bound = ((power * log_w).logsumexp(0) - math.log(len(log_w))) / power
        return Losses(loss=-bound, bound=log_w.mean(0).detach(), named={"renyi": bound})


class Lasso(Regulariser):
    """weight · Σ_j |z_j|."""

    alias = "lasso"

    def __init__(self, weight=0.1):
        super().__init__()
        self.weight = weight

    def penalty(self, terms):
        size = terms.z.abs().sum(-1).mean(0)
        return Penalty(loss=self.weight * size, named={"size": size})


PARTS = [Logistic, UnitGaussian, Renyi, Lasso]
CASES = [
    {"prior": "logistic"},
    {"prior": Logistic(scale=0.3), "posterior": "full"},
    {"likelihood": "unit-gaussian"},
    {"likelihood": {"x": UnitGaussian(share=0.5)}},
    {"objective": "renyi"},
    {"objective": Renyi(alpha=0.2, n_draws=4)},
    {"objective": "lasso"},
    {"objective": ELBO(warm_up=0.5) + Lasso(weight=2.0)},
    {"prior": Logistic(), "likelihood": UnitGaussian(), "objective": Renyi() + Lasso() + Lasso()},
]


def table():
    pd = pytest.importorskip("pandas")
    z = np.random.default_rng(0).normal(size=(80, 3))
    return pd.DataFrame({"x": z[:, 0], "y": z[:, 0] + z[:, 1], "z": 3 * z[:, 2]})


X = table()


def vae(**params):
    return VAE(latent_dim=D, hidden_sizes=(6,), max_epochs=3, random_state=0, **params)


@pytest.mark.parametrize("params", CASES, ids=str)
def test_own_parts_fit_save_and_load(params, tmp_path):
    model = vae(**params).fit(X)
    assert all(np.isfinite(model.history_["train_loss"]))
    model.save(tmp_path / "model")
    again = skvae.load(tmp_path / "model", parts=PARTS)
    np.testing.assert_array_equal(again.transform(X), model.transform(X))
    np.testing.assert_array_equal(again.score_samples(X), model.score_samples(X))
    np.testing.assert_array_equal(again.sample(5, random_state=0), model.sample(5, random_state=0))
    for part in ("prior", "likelihood"):
        assert repr(getattr(again.model_, part)) == repr(getattr(model.model_, part))
    assert repr(clone(model)) == repr(model)


@pytest.mark.parametrize(
    ("params", "missing"),
    [(CASES[1], "Logistic"), (CASES[3], "UnitGaussian"), (CASES[5], "Renyi"), (CASES[7], "Lasso")],
    ids=["prior", "likelihood", "objective", "in a sum"],
)
def test_a_class_that_the_caller_does_not_give_is_not_looked_for(params, missing, tmp_path):
    vae(**params).fit(X).save(tmp_path / "model")
    others = [cls for cls in PARTS if cls.__name__ != missing]
    with pytest.raises(LoadError, match=rf"{missing}.*parts=\[{missing}\]"):
        skvae.load(tmp_path / "model", parts=others)


def test_parameters_of_own_parts():
    model = vae(prior=Logistic(), objective=ELBO() + Lasso())
    model.set_params(prior__scale=0.7, objective__lasso__weight=3.0, objective__elbo__beta=2.0)
    assert repr(model.prior) == "Logistic(scale=0.7)"
    assert repr(model.objective) == "ELBO(beta=2.0) + Lasso(weight=3.0)"
    with pytest.raises(ValueError, match=r"'prior__scale'.*a string; give prior as an object.*Logistic"):
        vae(prior="logistic").set_params(prior__scale=0.7)
    with pytest.raises(ValueError, match="use objective='elbo'"):
        vae(objective=Renyi(alpha=1)).fit(X)


def test_own_parts_are_used():
    """Of order near 1 the bound is the ELBO's; latents go where the prior is; σ stays what it was set to."""
    objectives = Renyi(alpha=1 - 1e-4, n_draws=1), ELBO(kl="monte-carlo")
    near, elbo = (vae(objective=objective).fit(X).transform(X) for objective in objectives)
    np.testing.assert_allclose(near, elbo, atol=1e-3)
    spread = []
    for scale in (0.02, 1.0):
        model = vae(prior=Logistic(scale), learning_rate=0.05).set_params(max_epochs=40).fit(X)
        spread.append(model.posterior(X).std())
    assert spread[0] < 0.3 * spread[1]
    model = vae(likelihood=UnitGaussian(share=0.5)).fit(X).model_
    assert model.decode(torch.zeros(1, 1, D)).parts[0].scale.tolist() == pytest.approx([0.5] * 3)
