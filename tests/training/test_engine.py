"""The optimiser, threads and compilation."""

import copy
import time

import numpy as np
import pytest
import torch
from torch import nn

import skvae
from skvae.data import Batch, Column, Kind
from skvae.model import ELBO, MLP, DiagonalNormal, LatentVariableModel, StandardNormal, Table
from skvae.model.networks import Custom
from skvae.training import engine
from skvae.training.engine import (
    Inputs,
    Optimizer,
    Steps,
    choose_device,
    compiling_pays,
    has_short_products,
    short_products,
    threads_for,
)


def make_net(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def loss_of(net, step):
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
    return 10 ** (step % 3) * net(x).square().mean()  # gradients on both sides of the clipping norm


@pytest.mark.parametrize("max_norm", [0.5, 10.0, 1e6])
def test_step_for_step_equal_to_adam_with_clipping(max_norm):
    net, twin = make_net(), make_net()
    optimizer = Optimizer([net], max_norm)
    reference = torch.optim.Adam(twin.parameters(), lr=1e-2)
    for step in range(30):
        learning_rate = 1e-2 / (1 + step)
        norm = optimizer.step(loss_of(net, step), learning_rate)

        reference.param_groups[0]["lr"] = learning_rate
        reference.zero_grad()
        loss_of(twin, step).backward()
        expected = nn.utils.clip_grad_norm_(twin.parameters(), max_norm)
        reference.step()
        torch.testing.assert_close(norm, expected)
        torch.testing.assert_close(net.state_dict(), twin.state_dict())


def test_averaged_weights_are_a_running_mean_that_forgets_the_first():
    """m ← k m + (1 − k) w with k = min(averaging, n / (n + 9)) at step n; the steps are as without."""
    net, twin = make_net(), make_net()
    optimizer, reference = Optimizer([net], 10.0, averaging=0.6), Optimizer([twin], 10.0)
    mean = optimizer.flat.clone().double()
    for step in range(1, 31):
        optimizer.step(loss_of(net, step), 1e-2)
        reference.step(loss_of(twin, step), 1e-2)
        kept = min(0.6, step / (step + 9))
        mean = kept * mean + (1 - kept) * reference.flat
        last = optimizer.flat.clone()
        assert torch.equal(last, reference.flat)
        with optimizer.averaged():
            torch.testing.assert_close(optimizer.flat.double(), mean, rtol=1e-4, atol=1e-5)
            assert not torch.equal(next(net.parameters()), next(twin.parameters()))
        assert torch.equal(optimizer.flat, last)
    with pytest.raises(RuntimeError), optimizer.averaged():
        raise RuntimeError
    assert torch.equal(optimizer.flat, last)
    with reference.averaged():
        assert torch.equal(reference.flat, last)


def test_several_modules_are_one_vector():
    net, other = make_net(), nn.Linear(2, 1)
    optimizer = Optimizer([net, other], 1.0)
    assert optimizer.flat.numel() == sum(p.numel() for module in (net, other) for p in module.parameters())
    optimizer.flat.fill_(3.0)
    assert all((p == 3.0).all() for module in (net, other) for p in module.parameters())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing(bad):
    net = make_net()
    optimizer = Optimizer([net], 10.0)
    for step in range(3):
        optimizer.step(loss_of(net, step), 1e-2)
    before = optimizer.flat.clone(), copy.deepcopy(optimizer.state)
    norm = optimizer.step(loss_of(net, 3) * bad, 1e-2)
    assert not torch.isfinite(norm)
    assert torch.equal(optimizer.flat, before[0])
    for name, value in optimizer.state.items():
        assert torch.equal(value, before[1][name])
    optimizer.step(loss_of(net, 4), 1e-2)
    assert optimizer.state["step"].item() == 4
    assert not torch.equal(optimizer.flat, before[0])
    assert torch.isfinite(optimizer.flat).all()


def test_one_bad_element_skips_the_whole_step():
    net = nn.Linear(3, 1)
    optimizer = Optimizer([net], 10.0)
    before = optimizer.flat.clone()
    optimizer.step((net.weight[0, 0] * float("nan") + net.weight.sum() + net.bias.sum()), 1e-2)
    assert torch.equal(optimizer.flat, before)


def test_frozen_and_unused_parameters_stay():
    net, unused = make_net(), nn.Linear(2, 2)
    net[1].weight.requires_grad_(False)
    frozen, idle = net[1].weight.clone(), unused.weight.clone()
    optimizer = Optimizer([net, unused], 10.0)
    for step in range(3):
        optimizer.step(loss_of(net, step), 1e-2)
    assert torch.equal(net[1].weight, frozen)
    assert torch.equal(unused.weight, idle)


def test_going_on_from_a_state():
    net, twin = make_net(), make_net()
    whole, first = Optimizer([net], 10.0), Optimizer([twin], 10.0)
    for step in range(6):
        whole.step(loss_of(net, step), 1e-2)
    for step in range(3):
        first.step(loss_of(twin, step), 1e-2)
    second = Optimizer([twin], 10.0, first.release())
    for step in range(3, 6):
        second.step(loss_of(twin, step), 1e-2)
    torch.testing.assert_close(net.state_dict(), twin.state_dict(), rtol=0, atol=0)


def test_snapshot_and_restore():
    net = make_net()
    optimizer = Optimizer([net], 10.0)
    optimizer.step(loss_of(net, 0), 1e-2)
    snapshot, before = optimizer.snapshot(), {name: value.clone() for name, value in net.state_dict().items()}
    optimizer.step(loss_of(net, 1), 1e-2)
    assert not torch.equal(net[0].running_mean, before["0.running_mean"])
    optimizer.restore(snapshot)
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)


def test_release_gives_every_parameter_memory_of_its_own():
    net = make_net()
    optimizer = Optimizer([net], 10.0)
    optimizer.step(loss_of(net, 0), 1e-2)
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    optimizer.release()
    optimizer.flat.zero_()
    torch.testing.assert_close(net.state_dict(), weights, rtol=0, atol=0)
    assert all(p.grad is None for p in net.parameters())
    assert all(p.untyped_storage().nbytes() == 4 * p.numel() for p in net.parameters())


@pytest.mark.parametrize(("work", "inside"), [(1e3, 1), (1e12, 2)])
def test_threads(work, inside):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with threads_for(work) as n_threads:
            assert n_threads == torch.get_num_threads() == inside
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_devices():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device(torch.device("meta")) == torch.device("meta")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_only_long_runs_are_worth_a_compilation():
    assert not compiling_pays(10.0)
    assert compiling_pays(1000.0)


def quick(function):
    return function


def slow(function):
    def run(*args):
        time.sleep(0.005)
        return function(*args)

    return run


def model_and_inputs(**parts):
    columns = [Column("x", Kind.CONTINUOUS, "float64"), Column("y", Kind.CONTINUOUS, "float64")]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LatentVariableModel(
            columns,
            latent_dim=1,
            encoder=parts.get("encoder", MLP((8,))),
            decoder=MLP((8,), dropout=parts.get("dropout", 0.0)),
            posterior=DiagonalNormal(),
            prior=StandardNormal(),
            likelihood=Table("gaussian"),
            masks=False,
        )
    stream = torch.Generator().manual_seed(0)
    inputs = [
        Inputs(
            Batch(torch.randn(6, 2, generator=stream), weight=torch.rand(6, generator=stream)),
            torch.randn(1, 6, 1, generator=stream),
            torch.tensor(k / 120),
        )
        for k in range(120)
    ]
    return model.train(), inputs


def weights_after(model, inputs, how, compile="auto", **options):
    with Steps(model, ELBO(warm_up=0.5), 10.0, len(inputs), compile, **options) as steps:
        history = [steps(one, 1e-2) for one in inputs]
        assert steps.how == how
    return steps, torch.cat([p.detach().flatten() for p in model.parameters()]), torch.stack([h[0] for h in history])


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recorded_steps_are_equal_to_eager_ones(monkeypatch, dropout):
    model, inputs = model_and_inputs(dropout=dropout)
    twin, _ = model_and_inputs(dropout=dropout)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        _, ours, history = weights_after(model, inputs, "recorded")
        torch.manual_seed(0)
        monkeypatch.setattr(engine, "only_known_modules", lambda *_: False)
        _, theirs, expected = weights_after(twin, inputs, "eager")
    assert torch.equal(ours, theirs)
    assert torch.equal(history, expected)


def test_a_module_of_the_users_own_runs_eagerly():
    class Own(nn.Module):
        def forward(self, x):
            return torch.tanh(x)

    model, inputs = model_and_inputs(encoder=Custom(Own()))
    weights_after(model, inputs[:3], "eager")


@pytest.mark.parametrize(
    ("candidate", "how", "reason"), [(quick, "compiled", "yes"), (slow, "recorded", "no: tried, and not faster")]
)
def test_compiled_code_is_used_where_a_trial_shows_a_gain(monkeypatch, candidate, how, reason):
    monkeypatch.setattr(torch, "compile", lambda function, **_: candidate(function))
    monkeypatch.setattr(engine, "compiling_pays", lambda _: True)
    model, inputs = model_and_inputs()
    if how == "compiled":
        # A recording so slow that anything gains on it.
        recorded = engine.Recording.__call__
        monkeypatch.setattr(engine.Recording, "__call__", lambda *args: time.sleep(0.02) or recorded(*args))
    steps, ours, _ = weights_after(model, inputs, how)
    assert steps.compiled == reason
    twin, _ = model_and_inputs()
    _, theirs, _ = weights_after(twin, inputs, "recorded", compile=False)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.skipif(not has_short_products(), reason="this processor has no products of bfloat16")
def test_short_products_round_the_factors_alone():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 256, 256, generator=generator)
    with short_products(True):
        short = a @ b
    rounded = (a.bfloat16().double() @ b.bfloat16().double()).float()
    torch.testing.assert_close(short, rounded, rtol=1e-4, atol=1e-4)
    assert (short - a @ b).abs().max() > 1e-3  # and the setting is back


@pytest.mark.skipif(not has_short_products(), reason="this processor has no products of bfloat16")
def test_short_products_are_for_large_steps_and_reach_the_same_bound():
    X = np.random.default_rng(0).normal(size=(512, 40)) @ np.random.default_rng(1).normal(size=(40, 40))
    common = {
        "likelihood": "gaussian",
        "batch_size": 256,
        "max_epochs": 10,
        "early_stopping": False,
        "random_state": 0,
    }
    fits = {
        (precision, width): skvae.VAE(**common, hidden_sizes=(width,), precision=precision).fit(X)
        for precision, width in [("auto", 2048), ("float32", 2048), ("auto", 16)]
    }
    assert [vae.history_.info["precision"] for vae in fits.values()] == ["bfloat16", "float32", "float32"]
    short, full = (fits[precision, 2048].elbo(X).mean() for precision in ("auto", "float32"))
    assert short == pytest.approx(full, abs=0.5)
