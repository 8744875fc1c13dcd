"""VAE with each posterior and prior: fitted on a table with holes, asked everything, saved and trained further."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from torch import nn

import skvae
from skvae import (
    ELBO,
    VAE,
    AutoregressivePrior,
    Deterministic,
    FlowPosterior,
    FlowPrior,
    FullNormal,
    GaussianMixture,
    VampPrior,
)

N = 60


def table(n=N):
    rng = np.random.default_rng(0)
    z = rng.normal(size=n)
    frame = pd.DataFrame(
        {
            "height": 170 + 8 * z,
            "children": pd.array(rng.poisson(2, n), dtype="Int64"),
            "smokes": z > 0,
            "city": pd.array(rng.choice(["Bern", "Genf", "Basel"], n), dtype="str"),
        }
    )
    return frame.mask(rng.random(frame.shape) < 0.1)


X = table()
POSTERIORS = {
    "diagonal": "diagonal",
    "full": "full",
    "flow": FlowPosterior(2, (8,)),
    "splines": FlowPosterior(1, [8], transform="spline", passes=2),
}
PRIORS = {
    "normal": "normal",
    "mixture": GaussianMixture(3),
    "vamp": VampPrior(5, learn_weights=True),
    "flow": FlowPrior(1, (8,)),
    "autoregressive": AutoregressivePrior(3, 8),
    "coupling": FlowPrior(2, (), transform="spline", passes=2),
}
# Every part with a simple partner, and pairs of which neither is.
PAIRS = [
    ("diagonal", "mixture"),
    ("diagonal", "vamp"),
    ("diagonal", "flow"),
    ("diagonal", "coupling"),
    ("diagonal", "autoregressive"),
    ("full", "normal"),
    ("full", "vamp"),
    ("flow", "normal"),
    ("flow", "mixture"),
    ("splines", "flow"),
]
every_pair = pytest.mark.parametrize("pair", PAIRS, ids="-".join)


@pytest.fixture(autouse=True)
def one_thread():
    """What is handed to threads, and so the order of sums, may differ from machine to machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small(**params):
    return VAE(**{"latent_dim": 3, "hidden_sizes": (8,), "max_epochs": 2, "random_state": 0, **params})


def make(pair):
    return small(posterior=POSTERIORS[pair[0]], prior=PRIORS[pair[1]])


@pytest.fixture(scope="module")
def fitted():
    done = {}
    return lambda pair: done.setdefault(pair, make(pair).fit(X))


@every_pair
def test_save_and_load(pair, fitted, tmp_path):
    vae = fitted(pair)
    vae.save(tmp_path / "model")
    loaded = skvae.load(tmp_path / "model")
    assert repr(loaded) == repr(vae)
    for ask in (
        lambda v: v.transform(X),
        lambda v: v.score_samples(X, n_draws=7),
        lambda v: v.elbo(X, n_draws=7),
        lambda v: v.posterior(X, n_draws=2),
        lambda v: v.sample(20, random_state=1).to_numpy(dtype=object),
        lambda v: v.impute(X, 1)[0].to_numpy(dtype=object),
    ):
        np.testing.assert_array_equal(ask(loaded), ask(vae))
    assert np.isfinite(vae.score_samples(X)).all()
    assert list(vae.sample(20, random_state=1)) == list(X)


@every_pair
def test_the_same_seed_gives_the_same_model(pair, fitted):
    state = torch.get_rng_state()
    again = clone(make(pair)).fit(X)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(again.score_samples(X, n_draws=3), fitted(pair).score_samples(X, n_draws=3))


@every_pair
def test_a_score_does_not_depend_on_the_other_rows(pair, fitted):
    vae = fitted(pair)
    scores = vae.score_samples(X)
    np.testing.assert_allclose(vae.score_samples(X.iloc[[7]]), scores[[7]], rtol=1e-4)
    np.testing.assert_allclose(vae.score_samples(X.iloc[5:50]), scores[5:50], rtol=1e-4)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda vae: pickle.loads(pickle.dumps(vae))], ids=["copy", "pickle"])
@pytest.mark.parametrize("pair", [("diagonal", "vamp"), ("flow", "mixture")], ids="-".join)
def test_copies(pair, how, fitted):
    vae = fitted(pair)
    twin = how(vae)
    before = vae.score_samples(X)
    np.testing.assert_array_equal(twin.score_samples(X), before)
    with torch.no_grad():
        for parameter in twin.model_.parameters():
            parameter.add_(0.5)
    np.testing.assert_array_equal(vae.score_samples(X), before)
    if pair[1] == "vamp":
        assert twin.prior_._model[0] is twin.model_


def test_pseudo_inputs_are_no_rows(fitted):
    vae = fitted(("diagonal", "vamp"))
    rows = vae._rows(X)
    embedded = vae.model_.embedding(rows.values, rows.mask)
    assert torch.cdist(vae.prior_.pseudo_inputs, embedded).min() > 0.05


def test_a_loaded_vamp_prior_goes_on_from_where_it_was(fitted, tmp_path):
    fitted(("diagonal", "vamp")).save(tmp_path / "model")
    vae = skvae.load(tmp_path / "model")
    before = vae.prior_.pseudo_inputs.clone()
    vae.set_params(warm_start=True, max_epochs=1, learning_rate=1e-6).fit(X)
    torch.testing.assert_close(vae.prior_.pseudo_inputs, before, rtol=0, atol=1e-4)


@pytest.mark.parametrize("pair", [("flow", "flow"), ("full", "mixture"), ("diagonal", "vamp")], ids="-".join)
def test_fitting_moves_every_parameter_of_both(pair):
    start, end = (
        make(pair).set_params(max_epochs=3, early_stopping=False, learning_rate=rate).fit(X).model_
        for rate in (1e-12, 1e-2)
    )
    for name, value in end.named_parameters():
        if name.startswith(("prior", "posterior")):
            assert not torch.allclose(value, start.get_parameter(name), rtol=0, atol=1e-6), name


@pytest.mark.parametrize("pair", [("full", "vamp"), ("diagonal", "mixture")], ids="-".join)
def test_steps_can_be_recorded(pair):
    numbers = np.random.default_rng(0).normal(size=(N, 3))
    assert make(pair).set_params(likelihood="gaussian").fit(numbers).history_.info["steps"] == "recorded"


def test_nested_parameters():
    vae = small(prior=GaussianMixture()).set_params(prior__n_components=2).fit(X)
    assert vae.prior_.means.shape == (2, 3)


@pytest.fixture(scope="module")
def plain():
    return small(posterior="deterministic", objective=ELBO(beta=0)).fit(X)


def test_a_plain_autoencoder(plain, tmp_path):
    z = plain.transform(X)
    assert z.shape == (N, 3)
    pd.testing.assert_frame_equal(plain.reconstruct(X), plain.inverse_transform(z).set_axis(X.index))
    assert not plain.impute(X).isna().any(axis=None)
    assert len(plain.impute(X, 2)) == 2
    assert len(plain.sample(5)) == 5
    np.testing.assert_array_equal(plain.posterior(X, n_draws=2), np.stack([z, z]))
    plain.save(tmp_path / "model")
    np.testing.assert_array_equal(skvae.load(tmp_path / "model").transform(X), z)


@pytest.mark.parametrize("method", ["score_samples", "score", "elbo"])
def test_what_a_plain_autoencoder_cannot_answer(plain, method):
    with pytest.raises(
        ValueError, match=r"posterior='deterministic' has no density .* fit with posterior='diagonal'"
    ):
        getattr(plain, method)(X)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"prior": "conditional"}, "prior='conditional' depends on a context, and this model has none; use prior="),
        ({"prior": "vamp", "posterior": "flow"}, r"posterior=FlowPosterior\(\) is none; use posterior='diagonal'"),
        ({"prior": "vamp", "posterior": Deterministic()}, r"posterior=Deterministic\(\) is none"),
        ({"prior": GaussianMixture(0)}, r"GaussianMixture\(n_components=0\): expected a whole number ≥ 1"),
        ({"prior": "gaussian"}, r"prior='gaussian' is not understood; expected one of .*'conditional'.*'flow'.*'mix"),
        ({"posterior": FullNormal}, "posterior=.* is not understood; expected one of .*'full'"),
        ({"posterior": "flow", "objective": ELBO(kl="closed")}, "no closed-form KL from TransformedPosterior to"),
        (
            {"prior": "mixture", "objective": ELBO(free_bits=0.1)},
            "no closed-form KL from NormalPosterior to Gaussian",
        ),
    ],
)
def test_choices_that_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        small(**params).fit(X)


class Own(nn.Module):
    def __init__(self, n_in):
        super().__init__()
        self.linear = nn.Linear(n_in, 6)

    def forward(self, x):
        return torch.relu(self.linear(x))


def test_the_networks_of_a_fitted_estimator():
    """One's own module as such, not what it is wrapped in; and how wide the encoder's has to be."""
    n_features = small().fit(X).model_.embedding.n_out
    vae = small(encoder=Own(n_features), decoder=Own(3), hidden_sizes="auto").fit(X)
    assert type(vae.encoder_) is Own
    assert type(vae.decoder_) is Own
    assert type(small().fit(X).encoder_) is skvae.MLP
    with pytest.raises(
        ValueError, match=rf"encoder Own .* \[n, {n_features}\], the features of an embedded row .*n_out"
    ):
        small(encoder=Own(4)).fit(X)
    with pytest.raises(ValueError, match=r"decoder Own .* \[n, 3\], the latents \(latent_dim\)"):
        small(decoder=Own(4)).fit(X)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (skvae.MLP(5), r"MLP\(hidden_sizes=5\): expected a sequence of whole numbers ≥ 1"),
        (skvae.ResidualMLP(width=0), r"ResidualMLP\(width=0\): expected a whole number ≥ 1"),
    ],
)
def test_networks_out_of_range(network, message):
    for name in ("encoder", "decoder"):
        with pytest.raises(ValueError, match=message):
            small(**{name: network}).fit(X)
