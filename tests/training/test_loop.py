"""The training loop: what it promises, step by step."""

import itertools
import random
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from skvae.data.batch import Batch
from skvae.data.columns import Column, Kind
from skvae.exceptions import TrainingError
from skvae.model import (
    ELBO,
    MLP,
    DiagonalNormal,
    Gaussian,
    LatentVariableModel,
    StandardNormal,
    Table,
)
from skvae.model.likelihoods.normal import Normal
from skvae.model.networks import network
from skvae.training import Noise, Plan, fit, loop
from skvae.training.randomness import seeded_torch

NAMES = ("a", "b", "c")
COLUMNS = [Column(name, Kind.CONTINUOUS, "float64") for name in NAMES]


def make_model(encoder=None, likelihood="gaussian", masks=False) -> LatentVariableModel:
    with seeded_torch(1):
        return LatentVariableModel(
            COLUMNS,
            latent_dim=2,
            encoder=network(encoder, MLP((8,)), "encoder"),
            decoder=MLP((8,)),
            posterior=DiagonalNormal(),
            prior=StandardNormal(),
            likelihood=Table(likelihood),
            masks=masks,
        )


def make_rows(n=64, seed=0, **fields) -> Batch:
    stream = torch.Generator().manual_seed(seed)
    shared = torch.randn(n, 1, generator=stream)
    return Batch((shared + 0.5 * torch.randn(n, 3, generator=stream)) / 1.25**0.5, **fields)


def run(
    model=None, objective=None, train=None, validation=None, *, seed=0, callbacks=(), optimizer_state=None, **plan
):
    model = make_model() if model is None else model
    plan = {"max_epochs": 4, "batch_size": 16, "learning_rate": 1e-2, "compile": False} | plan
    history, state = fit(
        model,
        objective or ELBO(),
        make_rows() if train is None else train,
        validation,
        Plan(**plan),
        Noise(seed),
        column_names=NAMES,
        callbacks=callbacks,
        optimizer_state=optimizer_state,
    )
    return history, model, state


def weights_of(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same_weights(one, other) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


class Recorder(ELBO):
    """Remembers what each training step was given."""

    def forward(self, terms):
        if torch.is_grad_enabled():
            self.__dict__.setdefault("steps", []).append(terms.batch)
        return super().forward(terms)


class Faulty(ELBO):
    """A loss that is not a number at the steps in `bad`, of `n_steps`."""

    bad: frozenset[int] = frozenset()
    n_steps = 16

    def forward(self, terms):
        losses = super().forward(terms)
        if torch.is_grad_enabled() and round(float(terms.progress) * self.n_steps) in self.bad:
            losses.loss = losses.loss * float("nan")
        return losses


class BrokenNormal(Normal):
    def log_prob(self, values):
        return super().log_prob(values) * float("nan")


class Broken(Gaussian):
    """A likelihood that answers NaN."""

    def forward(self, params):
        mean, log_scale, log_unit = params, self.log_scale, self.log_unit
        return BrokenNormal(mean, log_scale, log_unit)


def test_two_fits_are_equal_bit_for_bit():
    encoder = MLP((8,), dropout=0.3)
    plan = {"masking": 0.5, "validation": make_rows(20, seed=1)}
    (one, model_one, _), (two, model_two, _) = (run(make_model(encoder, masks=True), **plan) for _ in range(2))
    assert same_weights(weights_of(model_one), weights_of(model_two))
    for record in (*one, *two):
        del record["seconds"]
    assert one.epochs == two.epochs
    other, _, _ = run(make_model(encoder, masks=True), seed=1, **plan)
    assert other["train_loss"] != one["train_loss"]


def test_global_streams_and_threads_are_as_before():
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run(make_model(MLP((8,), dropout=0.3)))
        assert torch.get_num_threads() == 2
        with pytest.raises(RuntimeError, match="from outside"):
            run(callbacks=[_raise])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert random.getstate() == before[2]


def _raise(history, model):
    raise RuntimeError("from outside")


def test_small_steps_run_on_one_thread():
    assert run()[0].info["threads"] == 1


def test_every_epoch_shuffles_anew():
    objective = Recorder()
    run(objective=objective, max_epochs=3)
    epochs = torch.cat([batch.index for batch in objective.steps]).reshape(3, 64)
    for order in epochs:
        assert sorted(order.tolist()) == list(range(64))
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[1], epochs[2])


def test_published_mistake_12_there_is_no_last_batch_of_one_row():
    objective = Recorder()
    history, _, _ = run(objective=objective, train=make_rows(33), batch_size=16, max_epochs=5)
    assert [len(batch) for batch in objective.steps] == [16] * 10
    left_over = {
        (set(range(33)) - {i for batch in objective.steps[2 * k : 2 * k + 2] for i in batch.index.tolist()}).pop()
        for k in range(5)
    }
    assert len(left_over) > 1
    assert history["step"] == [2, 4, 6, 8, 10]


def test_a_batch_larger_than_the_data():
    objective = Recorder()
    run(objective=objective, train=make_rows(10), batch_size=512, max_epochs=3)
    assert [len(batch) for batch in objective.steps] == [10] * 3


def test_rows_of_weight_zero_do_not_count():
    weight = torch.ones(64)
    weight[::2] = 0.0
    rows = make_rows(weight=2 * weight)
    spoilt = rows.values.clone()
    spoilt[::2] = 7.0
    one, model, _ = run(train=rows)
    other, twin, _ = run(train=Batch(spoilt, weight=rows.weight))
    torch.testing.assert_close(model.state_dict(), twin.state_dict())
    np.testing.assert_allclose(one["train_loss"], other["train_loss"], rtol=1e-5)


def test_equal_weights_are_no_weights():
    one, model, _ = run()
    other, twin, _ = run(train=make_rows(weight=torch.ones(64)))
    torch.testing.assert_close(model.state_dict(), twin.state_dict())
    np.testing.assert_allclose(one["train_bound"], other["train_bound"], rtol=1e-5)


def test_history_holds_the_mean_over_rows():
    """With a learning rate of nothing, an epoch's record is the objective at the initial weights."""
    history, model, _ = run(validation=make_rows(50, seed=1), learning_rate=1e-30, max_epochs=2, decay=False)
    eps = Noise(0).normal("validation", 50, 2)
    with torch.no_grad():
        expected = ELBO()(model(make_rows(50, seed=1), eps.unsqueeze(0))).record()
    for name, value in expected.items():
        assert history[f"validation_{name}"][0] == pytest.approx(value.mean().item(), rel=1e-5)
    # Validation noise is the same in all epochs, training noise is not.
    assert history["validation_bound"][0] == history["validation_bound"][1]
    assert history["train_bound"][0] != history["train_bound"][1]


def test_validation_masks_are_fixed():
    history, _, _ = run(
        make_model(masks=True), validation=make_rows(50, seed=1), learning_rate=1e-30, max_epochs=3, masking=1.0
    )
    assert len(set(history["validation_bound"])) == 1
    whole, _, _ = run(make_model(masks=True), validation=make_rows(50, seed=1), learning_rate=1e-30)
    assert whole["validation_bound"][0] < history["validation_bound"][0]  # more entries, more to explain


def test_masking_leaves_part_of_each_batch_whole():
    objective = Recorder()
    run(make_model(masks=True), objective, make_rows(512), batch_size=256, max_epochs=10, masking=0.5)
    whole = torch.stack([batch.mask.all(1).float().mean() for batch in objective.steps])
    assert whole.mean().item() == pytest.approx(0.5 + 0.5 / 4, abs=0.02)
    assert not torch.equal(objective.steps[0].mask, objective.steps[1].mask)


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted():
    objective = Faulty()
    objective.bad = {4, 5, 15}
    snapshots = []
    history, model, state = run(objective=objective, callbacks=[lambda h, m: snapshots.append(weights_of(m))])
    assert history["skipped_steps"] == [0, 2, 0, 1]
    assert state["step"].item() == 16 - 3
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert all(np.isfinite(history["train_loss"]))

    objective.bad = {4, 5, 6, 7}
    snapshots.clear()
    history, _, _ = run(objective=objective, callbacks=[lambda h, m: snapshots.append(weights_of(m))])
    assert same_weights(snapshots[0], snapshots[1])
    assert not same_weights(snapshots[1], snapshots[2])
    assert np.isnan(history["train_bound"][1])


def test_breakdown_names_step_term_and_column():
    model = make_model(likelihood={"b": Broken()})
    message = (
        r"training broke down at step 1 and did not recover: the term 'log_p_x' is not finite in column 'b'; "
        "lower learning_rate"
    )
    with pytest.raises(TrainingError, match=message):
        run(model, max_epochs=2)


def test_breakdown_of_the_latents_blames_no_column():
    class NotANumber(nn.Module):
        def forward(self, x):
            return x * float("nan")

    with pytest.raises(TrainingError, match="the term 'kl' is not finite in no single column"):
        run(make_model(encoder=NotANumber()))


def test_breakdown_half_way_names_its_first_step():
    objective = Faulty()
    objective.n_steps = 200
    objective.bad = frozenset(range(30, 200))
    with pytest.raises(TrainingError, match="at step 31 and did not recover: the gradient is not finite"):
        run(objective=objective, max_epochs=50)


@pytest.fixture
def scripted(monkeypatch):
    """Let validation answer with given bounds."""

    def script(*bounds):
        answers = iter(bounds)
        monkeypatch.setattr(loop, "evaluate", lambda *_: {"loss": 0.0, "bound": next(answers)})

    return script


@pytest.mark.parametrize(
    ("bounds", "warm_up", "patience", "best", "stopped"),
    [
        ([1, 2, 3, 4, 5, 6], 0.0, 2, 6, "max_epochs"),
        ([1, 3, 2, 2, 9, 9], 0.0, 2, 2, "early"),
        ([1, 3, 2, 4, 2, 3], 0.0, 2, 4, "early"),
        ([9, 8, 1, 2, 1, 1], 0.5, 2, 4, "early"),  # flattered before the warm-up is over
        ([9, 8, 7, 6, 5, 4], 0.5, 2, 3, "early"),
        ([9, 8, 7, 6, 5, 4], 0.5, 9, 3, "max_epochs"),
        ([float("nan")] * 6, 0.0, 2, 6, "max_epochs"),
    ],
)
def test_early_stopping(scripted, bounds, warm_up, patience, best, stopped):
    scripted(*bounds)
    snapshots = []
    history, model, _ = run(
        objective=ELBO(warm_up=warm_up),
        validation=make_rows(8),
        max_epochs=6,
        patience=patience,
        callbacks=[lambda h, m: snapshots.append(weights_of(m))],
    )
    assert history.info["best_epoch"] == best
    assert history.info["stopped"] == stopped
    assert len(history) == (6 if stopped == "max_epochs" else best + patience)
    assert same_weights(weights_of(model), snapshots[best - 1])


def test_published_mistake_10_the_best_epoch_is_that_of_the_unweighted_validation_bound():
    train = make_rows(16)
    history, _, _ = run(
        objective=ELBO(beta=4.0, warm_up=0.2),
        train=train,
        validation=make_rows(16, seed=5),
        learning_rate=0.05,
        max_epochs=60,
        patience=60,
        decay=False,
    )
    bounds = history["validation_bound"]
    after_warm_up = range(12, 61)
    assert history.info["best_epoch"] == max(after_warm_up, key=lambda epoch: bounds[epoch - 1])
    assert history.info["best_epoch"] != max(after_warm_up, key=lambda epoch: history["train_bound"][epoch - 1])
    for name in ("train", "validation"):
        difference = np.subtract(history[f"{name}_log_p_x"], history[f"{name}_kl"])
        np.testing.assert_allclose(history[f"{name}_bound"], difference, rtol=1e-4)


def test_the_statistics_of_the_users_normalisation_go_back_to_the_best_epoch(scripted):
    scripted(1.0, 2.0, 0.0, 0.0)
    encoder = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    snapshots = []
    _, model, _ = run(
        make_model(encoder), validation=make_rows(8), callbacks=[lambda h, m: snapshots.append(weights_of(m))]
    )
    assert any("running_mean" in name for name in snapshots[1])
    assert same_weights(weights_of(model), snapshots[1])


def test_without_validation_the_last_weights_stay():
    snapshots = []
    history, model, _ = run(callbacks=[lambda h, m: snapshots.append(weights_of(m))])
    assert history.info["best_epoch"] == 4
    assert same_weights(weights_of(model), snapshots[-1])
    assert not model.training
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("validated", [False, True])
def test_what_is_judged_and_kept_is_the_mean_of_the_weights(validated):
    """Training itself is as without; the validation bound is that of the weights which are kept."""
    validation = make_rows(seed=1) if validated else None
    seen, plain = [], []
    history, model, _ = run(
        validation=validation, averaging=0.9, callbacks=[lambda h, m: seen.append(weights_of(m))], max_epochs=3
    )
    without, last, _ = run(validation=validation, callbacks=[lambda h, m: plain.append(weights_of(m))], max_epochs=3)
    assert all(same_weights(one, other) for one, other in zip(seen, plain, strict=True))
    assert not same_weights(weights_of(model), weights_of(last))
    for epoch, other in zip(history.epochs, without.epochs, strict=True):
        assert epoch["train_bound"] == other["train_bound"]
        assert not validated or epoch["validation_bound"] != other["validation_bound"]
    if validated:
        noise, plan = Noise(0), Plan(max_epochs=3, batch_size=16, learning_rate=1e-2)
        rows = loop._freeze(validation, make_rows(), model, ELBO(), plan, noise)
        best = history.epochs[history.info["best_epoch"] - 1]["validation_bound"]
        assert loop.evaluate(model, ELBO(), rows)["bound"] == pytest.approx(best, rel=1e-5)


def test_callbacks_can_stop_and_all_are_asked():
    asked = []
    history, _, _ = run(
        callbacks=[lambda h, m: len(h) == 2, lambda h, m: asked.append((len(h), type(m)))], max_epochs=5
    )
    assert asked == [(1, LatentVariableModel), (2, LatentVariableModel)]
    assert history.info["stopped"] == "callback"
    assert history.info["n_steps"] == 8


def test_learning_rate_over_the_run():
    rates = run(max_epochs=50)[0]["learning_rate"]
    assert rates[0] == pytest.approx(4e-3)  # four of ten steps of warm-up
    assert rates[2] == pytest.approx(1e-2, rel=1e-3)
    assert all(one > two for one, two in itertools.pairwise(rates[2:]))
    assert rates[-1] == pytest.approx(1e-4, rel=0.1)
    assert run(decay=False)[0]["learning_rate"] == [1e-2] * 4


def test_training_goes_on_from_the_state_of_the_optimiser():
    _, model, state = run(decay=False, max_epochs=2)
    assert state["step"].item() == 8
    _, _, state = run(model, decay=False, max_epochs=1, optimizer_state=state)
    assert state["step"].item() == 12


@pytest.mark.parametrize("message", ["no compiler\nat all", ""])
def test_where_compilation_fails_training_goes_on_eagerly(monkeypatch, message):
    def fail(*args, **kwargs):
        raise RuntimeError(message)

    _, eager, _ = run()
    monkeypatch.setattr(torch, "compile", fail)
    history, model, _ = run(compile=True)
    assert history.info["compiled"].startswith("no: RuntimeError: " + message.split("\n")[0])
    assert same_weights(weights_of(model), weights_of(eager))


def test_short_runs_are_not_compiled(monkeypatch):
    monkeypatch.setattr(torch, "compile", None)
    assert run(compile="auto", max_epochs=30)[0].info["compiled"] == "no: not worth its time"
    assert run(compile=False)[0].info["compiled"] == "no"


@pytest.mark.parametrize("verbose", [0, 1])
def test_progress_is_shown_only_when_asked_for(capfd, verbose):
    run(verbose=verbose, validation=make_rows(8))
    out, err = capfd.readouterr()
    assert out == ""
    assert ("validation bound" in err) == bool(verbose)


def test_the_terms_of_a_step_die_with_it():
    class Watch(ELBO):
        def forward(self, terms):
            alive.append([ref() is not None for ref in refs])
            refs.append(weakref.ref(terms))
            return super().forward(terms)

    refs, alive = [], []
    run(objective=Watch())
    assert not any(any(step) for step in alive)


def test_a_linear_model_reaches_probabilistic_pca():
    """At the optimum, ELBO = log p(x) of Tipping & Bishop (1999), equation 3.8 (Lucas et al. 2019)."""
    n, n_columns, latent_dim = 400, 3, 1
    rows = make_rows(n)
    values = (rows.values - rows.values.mean(0)) / rows.values.std(0, correction=0)
    eigenvalues = torch.linalg.eigvalsh(values.double().T.cov(correction=0)).flip(0)
    noise = eigenvalues[latent_dim:].mean()
    log_det = eigenvalues[:latent_dim].log().sum() + (n_columns - latent_dim) * noise.log()
    expected = -0.5 * (n_columns * np.log(2 * np.pi) + log_det + n_columns)

    with seeded_torch(0):
        model = LatentVariableModel(
            COLUMNS,
            latent_dim=latent_dim,
            encoder=MLP(()),
            decoder=MLP(()),
            posterior=DiagonalNormal(),
            prior=StandardNormal(),
            likelihood=Table("gaussian"),
            masks=False,
        )
    run(model, train=Batch(values), batch_size=200, max_epochs=750, learning_rate=0.02)
    with torch.no_grad():
        bound = ELBO()(model(Batch(values), Noise(1).normal("test", 500, 1, 1))).bound
    assert bound.mean().item() == pytest.approx(expected.item(), abs=0.01)
