"""The model that joins the parts, and its terms."""

import gc
import weakref

import pytest
import torch

from skvae.data.batch import Batch
from skvae.data.columns import Column, Kind
from skvae.model import MLP, DiagonalNormal, LatentVariableModel, StandardNormal, Table

S, B, D = 3, 5, 2  # all different, so that swapped axes show
COLUMNS = [
    Column("cm", Kind.CONTINUOUS, "float64", offset=170.0, scale=10.0),
    Column("city", Kind.CATEGORICAL, "str", levels=tuple("abcde")),
    Column("age", Kind.INTEGER, "int64", offset=40.0, scale=12.0, lower=18.0, resolution=1.0),
    Column("flag", Kind.BINARY, "bool", levels=(False, True), offset=0.4, scale=0.5),
]
C = len(COLUMNS)


def make_model(n_context: int = 0, masks: bool = True) -> LatentVariableModel:
    return LatentVariableModel(
        COLUMNS,
        latent_dim=D,
        encoder=MLP((6,)),
        decoder=MLP((7,)),
        posterior=DiagonalNormal(),
        prior=StandardNormal(),
        likelihood=Table(),
        masks=masks,
        n_context=n_context,
    )


def make_batch(n: int = B, **fields) -> Batch:
    values = torch.stack(
        [torch.randn(n), torch.randint(5, (n,)).float(), torch.randn(n), torch.randint(2, (n,)).float()], dim=1
    )
    return Batch(values, **fields)


def test_shapes():
    terms = make_model()(make_batch(), torch.randn(S, B, D))
    assert terms.z.shape == (S, B, D)
    assert terms.log_p_columns.shape == (S, B, C)
    assert terms.kl.shape == (B, D)
    for factors in (terms.log_p, terms.log_q, terms.log_q_detached):
        for value in (*factors.values(), factors.total()):
            assert value.shape == (S, B)
    assert set(terms.log_p) == {"x", "z"}
    assert set(terms.log_q) == {"z"}


def test_factors_by_hand():
    model = make_model()
    batch = make_batch()
    eps = torch.randn(S, B, D)
    terms = model(batch, eps)
    q = model.encode(batch)
    z = q.mean + q.scale * eps
    torch.testing.assert_close(terms.z, z)
    torch.testing.assert_close(terms.log_p["z"], torch.distributions.Normal(0, 1).log_prob(z).sum(-1))
    torch.testing.assert_close(terms.log_q["z"], torch.distributions.Normal(q.mean, q.scale).log_prob(z).sum(-1))
    for s in range(S):
        one_draw = model.decode(z[s : s + 1]).log_prob(batch.values)[0]
        torch.testing.assert_close(terms.log_p_columns[s], one_draw)
    torch.testing.assert_close(terms.log_p["x"], terms.log_p_columns.sum(-1))
    torch.testing.assert_close(terms.log_p.total(), terms.log_p["x"] + terms.log_p["z"])


def test_noise_shared_by_all_rows():
    model, batch, eps = make_model(), make_batch(), torch.randn(S, 1, D)
    shared = model(batch, eps).log_p["x"]
    torch.testing.assert_close(shared, model(batch, eps.expand(S, B, D)).log_p["x"])


def test_a_row_does_not_depend_on_its_batch():
    model, batch, eps = make_model(), make_batch(), torch.randn(S, B, D)
    together = model(batch, eps)
    for b in range(B):
        alone = model(batch.rows(torch.tensor([b])), eps[:, b : b + 1])
        torch.testing.assert_close(together.log_p_columns[:, b : b + 1], alone.log_p_columns)
        torch.testing.assert_close(together.kl[b : b + 1], alone.kl)


@pytest.mark.parametrize("hiding", ["observed", "seen"])
def test_hidden_entries_do_not_matter(hiding):
    """What stands at an entry that is missing, or hidden for a step, changes nothing, and adds nothing."""
    model = make_model()
    mask = torch.rand(B, C) < 0.5
    one, other = make_batch(), make_batch()
    other.values[mask] = one.values[mask]
    eps = torch.randn(S, B, D)
    terms, same = (
        model(Batch(b.values, observed=mask) if hiding == "observed" else b.hide(~mask), eps) for b in (one, other)
    )
    for name in terms.log_p:
        torch.testing.assert_close(terms.log_p[name], same.log_p[name])
    torch.testing.assert_close(terms.kl, same.kl)
    assert (terms.log_p_columns[:, ~mask] == 0).all()
    assert (terms.log_p_columns[:, mask] != 0).all()


def test_hidden_entries_are_a_subset_of_the_observed():
    observed = torch.rand(B, C) < 0.7
    hidden = torch.rand(B, C) < 0.5
    assert (make_batch(observed=observed).hide(hidden).mask == observed & ~hidden).all()


def test_a_row_without_entries_is_as_likely_as_any():
    model = make_model()
    terms = model(make_batch().hide(torch.ones(B, C, dtype=torch.bool)), torch.randn(S, B, D))
    assert (terms.log_p["x"] == 0).all()


def test_context_reaches_encoder_and_decoder():
    model = make_model(n_context=2)
    batch, eps = make_batch(), torch.randn(S, B, D)
    context = torch.randn(B, 2)
    terms = model(batch, eps, context=context)
    assert terms.log_p_columns.shape == (S, B, C)
    for b in range(B):
        alone = model(batch.rows(torch.tensor([b])), eps[:, b : b + 1], context=context[b : b + 1])
        torch.testing.assert_close(terms.log_p_columns[:, b : b + 1], alone.log_p_columns)
    other = context + 1
    assert not torch.allclose(model.encode(batch, other).mean, terms.posterior.mean)
    decoded, shifted = model.decode(terms.z, context), model.decode(terms.z, other)
    torch.testing.assert_close(decoded.log_prob(batch.values), terms.log_p_columns)
    assert not torch.allclose(decoded.mean, shifted.mean)


def test_another_prior_for_questions():
    class Shifted(StandardNormal):
        def log_prob(self, z, context=None):
            return super().log_prob(z - 1, context)

    model, batch, eps = make_model(), make_batch(), torch.randn(S, B, D)
    terms = model(batch, eps, prior=Shifted().bind(D))
    torch.testing.assert_close(terms.log_p["z"], torch.distributions.Normal(1, 1).log_prob(terms.z).sum(-1))
    assert terms.kl is None


def test_factors_are_made_only_when_asked_for(monkeypatch):
    """An objective with a closed-form KL does not pay for log p(z) and log q(z|x)."""
    asked = []
    monkeypatch.setattr(StandardNormal, "log_prob", lambda *_: asked.append("prior"))
    terms = make_model()(make_batch(), torch.randn(S, B, D))
    assert terms.log_p["x"] is terms.log_p["x"]
    assert terms.kl is terms.kl
    assert asked == []
    assert terms.log_p["z"] is None
    assert asked == ["prior"]


def test_detached_posterior_carries_no_gradient():
    model = make_model()
    terms = model(make_batch(), torch.randn(S, B, D))
    torch.testing.assert_close(terms.log_q_detached["z"], terms.log_q["z"])
    z_of = torch.autograd.grad(terms.log_q["z"].sum(), terms.posterior.log_scale, retain_graph=True)[0]
    # The path through z = μ + σ ε is left: its derivative by log σ is −ε², where the whole one is −1.
    through_z = torch.autograd.grad(terms.log_q_detached["z"].sum(), terms.posterior.log_scale)[0]
    torch.testing.assert_close(z_of, torch.full((B, D), -float(S)))
    eps = (terms.z - terms.posterior.mean) / terms.posterior.scale
    torch.testing.assert_close(through_z, -eps.square().sum(0).detach())


def test_published_mistake_7_the_same_question_has_the_same_answer():
    model, batch = make_model(), make_batch()
    assert torch.equal(model.encode(batch).mean, model.encode(batch).mean)
    assert torch.equal(model.encode(batch).scale, model.encode(batch).scale)


def test_the_memory_of_a_step_is_freed_at_once():
    """No reference cycle keeps a graph alive until the next garbage collection."""
    model, batch, eps = make_model(), make_batch(), torch.randn(S, B, D)
    model(batch, eps).log_p["x"].sum().backward()  # what torch allocates once
    gc.collect()
    gc.disable()
    try:
        terms = model(batch, eps)
        loss = terms.log_p.total().sum() + terms.log_q.total().sum() + terms.log_q_detached.total().sum()
        (loss + terms.kl.sum()).backward()
        watched = [weakref.ref(terms), weakref.ref(terms.z), weakref.ref(terms.distribution)]
        del terms, loss
        assert [ref() for ref in watched] == [None] * 3
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_architecture_names_every_part():
    model = make_model()
    assert list(model.architecture()) == ["encoder", "posterior", "prior", "decoder", "likelihood", "missing"]
    assert "latent_dim=2" in repr(model)
