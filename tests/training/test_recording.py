"""Recorded operations repeat what the function would do, for any inputs."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from skvae.training.recording import NotRecordable, Recording, only_known_modules

WEIGHT = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))


def draw(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def views(x):
    a, b = (x @ WEIGHT).chunk(2, dim=-1)
    return [a.t().contiguous() + b.t(), a.expand(2, *a.shape).sum(0)[..., :1]]


def factories(x):
    total = torch.zeros_like(x)
    total += x
    mask = torch.ones(x.shape, dtype=torch.bool)
    return [total * 2.0, torch.where(mask, x, 0.0), torch.arange(3.0) + x, torch.zeros(2)]


def in_place_on_views(x):
    y = x * 2
    y[:, 0].add_(1.0)
    y.view(-1)[0].zero_()
    return [y, y.sum()]


def several_results(x):
    values, places = x.max(dim=-1)
    normed = F.layer_norm(x, (3,))
    return [values, places.to(x.dtype), normed, *x.split(1, dim=-1)]


def lookups(x):
    level = (x > 0).long()
    table = x.cumsum(0)
    return [table.gather(0, level), table[:, level[0]], F.embedding(level[:, 0], WEIGHT), x.logsumexp(-1)]


def gradients(x):
    weight = WEIGHT.clone().requires_grad_()
    loss = torch.tanh(x @ weight).square().sum()
    return [*torch.autograd.grad(loss, [weight]), loss.detach()]


def an_input(x):
    return [x, x.t()]


FUNCTIONS = [views, factories, in_place_on_views, several_results, lookups, gradients, an_input]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_repeats_the_function_for_other_inputs(function):
    recording = Recording(function, [draw(0, 5, 3)])
    for seed in (0, 1, 2, 1):
        x = draw(seed, 5, 3)
        if seed:
            recording(x)
        expected = function(x)
        for ours, theirs in zip(recording.results, expected, strict=True):
            assert torch.equal(ours, theirs)


def test_inputs_may_be_left_out():
    recording = Recording(lambda x, y, z: [x + z], [draw(0, 2), None, draw(1, 2)])
    recording(draw(2, 2), None, draw(3, 2))
    assert torch.equal(recording.results[0], draw(2, 2) + draw(3, 2))


def test_gradients_are_written_where_they_belong():
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    flat = torch.zeros(sum(p.numel() for p in net.parameters()))
    into = [piece.view_as(p) for piece, p in zip(flat.split([12, 4, 4, 1]), net.parameters(), strict=True)]

    def function(x):
        loss = net(x).square().sum()
        return [*torch.autograd.grad(loss, list(net.parameters())), loss.detach()]

    recording = Recording(function, [draw(0, 5, 3)], into)
    assert recording._copies == []
    for seed in (1, 2):
        recording(draw(seed, 5, 3))
        *expected, loss = function(draw(seed, 5, 3))
        assert torch.equal(flat, torch.cat([g.flatten() for g in expected]))
        assert torch.equal(recording.results[0], loss)


def test_weights_are_read_anew():
    weight = torch.ones(3)
    recording = Recording(lambda x: [x * weight], [draw(0, 3)])
    weight.mul_(2)
    recording(draw(1, 3))
    assert torch.equal(recording.results[0], 2 * draw(1, 3))


def test_what_nobody_reads_is_not_computed():
    def function(x):
        _ = x.exp().sin()
        return [x + 1]

    assert len(Recording(function, [draw(0, 3)])._program) == 1


def test_memory_is_used_again():
    def function(x):
        for _ in range(20):
            x = x.sin()
        return [x]

    recording = Recording(function, [draw(0, 1000)])
    places = {t.data_ptr() for _, args, kwargs in recording._program for t in (*args, *kwargs.values())}
    assert len(places) <= 4
    recording(draw(1, 1000))
    assert torch.equal(recording.results[0], function(draw(1, 1000))[0])


def branch(x):
    return [x + 1] if x.sum() > 0 else [x - 1]


@pytest.mark.parametrize("function", [branch, lambda x: [x * x.max().item()], lambda x: [x[x > 0]]])
def test_what_depends_on_the_data_is_refused(function):
    with pytest.raises(NotRecordable, match="depends on the values"):
        Recording(function, [draw(0, 3)])


def test_normalisation_over_batches_counts_every_batch_once():
    net, twin = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    recording = Recording(lambda x: [net(x)], [draw(0, 5, 3)])
    twin(draw(0, 5, 3))
    for seed in (1, 2):
        recording(draw(seed, 5, 3))
        assert torch.equal(recording.results[0], twin(draw(seed, 5, 3)))
    torch.testing.assert_close(net.state_dict(), twin.state_dict(), rtol=0, atol=0)


def test_dropout_draws_anew_as_it_would_have():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        recording = Recording(lambda x: [F.dropout(x, 0.5, training=True)], [torch.ones(50)])
        ours = [recording.results[0].clone()]
        for _ in range(2):
            recording(torch.ones(50))
            ours.append(recording.results[0].clone())
        torch.manual_seed(0)
        theirs = [F.dropout(torch.ones(50), 0.5, training=True) for _ in range(3)]
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not torch.equal(ours[0], ours[1])


def test_modules_of_the_users_own_are_not_known():
    class Own(nn.Module):
        pass

    assert only_known_modules(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    assert not only_known_modules(nn.Sequential(nn.Linear(2, 2), Own()))
