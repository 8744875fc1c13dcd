"""Labels spread over the graph, against the solution of the linear system, and the term against a loop."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, make_blobs
from sklearn.neighbors import NearestNeighbors

from skvae import ELBO, VAE, LabelSpreading, VAEClassifier, VAERegressor, load
from skvae.data.batch import Batch

N, K = 60, 3


def rows_with_few_labels():
    X, y = make_blobs(N, n_features=4, centers=K, cluster_std=3.0, random_state=0)
    target = np.full(N, np.nan)
    target[:12] = y[:12]
    return torch.from_numpy(X).float(), torch.from_numpy(target).float().unsqueeze(1)


def model_of(n_labels=K):
    return SimpleNamespace(n_columns=4, n_labels=n_labels, image_shape=None, embedding=lambda values, mask: values)


def solved(X, target, k, alpha):
    """π and c by the inverse, row by row."""
    near = NearestNeighbors(n_neighbors=k).fit(X).kneighbors(return_distance=False)
    joined = np.zeros((N, N))
    for i in range(N):
        joined[i, near[i]] = 1
        joined[near[i], i] = 1
    root = np.sqrt(joined.sum(1))
    Y = np.array([[float(t == label) for label in range(K)] for t in target])
    Z = np.linalg.inv(np.eye(N) - alpha * joined / np.outer(root, root)) @ Y
    Z /= Z.sum(1, keepdims=True)
    Z *= (Y.sum(0) / Y.sum()) / Z.mean(0)
    Z /= Z.sum(1, keepdims=True)
    certainty = [1 + sum(p * math.log(p) for p in row) / math.log(K) for row in Z]
    return Z, np.array(certainty)


@pytest.mark.parametrize(("k", "alpha"), [(5, 0.9), (8, 0.99), (100, 0.5)])
def test_the_solution_of_the_linear_system(k, alpha):
    X, target = rows_with_few_labels()
    part = LabelSpreading(n_neighbors=k, alpha=alpha)
    part.prepare(model_of(), Batch(X, target=target))
    shares, certainty = solved(X.numpy(), target.numpy().ravel(), min(k, N - 1), alpha)
    np.testing.assert_allclose(part.spread, shares * certainty[:, None], atol=1e-5)
    assert certainty.min() < 0.5 < certainty.max()


def test_copies_of_a_row_count_once():
    X, target = rows_with_few_labels()
    part, again = LabelSpreading(n_neighbors=5), LabelSpreading(n_neighbors=5)
    part.prepare(model_of(), Batch(X, target=target))
    order = torch.cat([torch.arange(N), torch.arange(12).repeat(4)])
    again.prepare(model_of(), Batch(X[order], target=target[order]))
    torch.testing.assert_close(again.spread, part.spread[order])


def test_where_no_label_comes_to_nothing_is_learned():
    X = torch.tensor([[0.0], [0.1], [0.2], [9.0], [9.1], [9.2]])
    target = torch.tensor([[0.0], [1.0]] + 4 * [[math.nan]])
    part = LabelSpreading(n_neighbors=2)
    part.prepare(model_of(2), Batch(X, target=target))
    assert (part.spread[3:] == 0).all()
    assert (part.spread.sum(1)[:2] > 0).all()
    part.prepare(model_of(4), Batch(X, target=target))  # of which two have no row
    assert part.spread.shape == (6, 4)
    assert (part.spread[:, 2:] == 0).all()


def test_the_term_row_by_row():
    X, target = rows_with_few_labels()
    part = LabelSpreading(weight=2.0)
    part.prepare(model_of(), Batch(X, target=target))
    index = torch.tensor([3, 20, 40, 59])
    probs = torch.rand(4, K, generator=torch.Generator().manual_seed(0)).softmax(-1)
    supervision = SimpleNamespace(probs=probs, labelled=torch.tensor([1.0, 0.0, 0.0, 0.0]))
    batch = Batch(X[index].repeat(K, 1), index=index.repeat(K))
    found = part.penalty(SimpleNamespace(batch=batch, supervision=supervision, z=probs))
    shares = part.spread[index]
    expected = [0.0] + [-sum(shares[i, y] * math.log(probs[i, y] + 1e-6) for y in range(K)) for i in range(1, 4)]
    np.testing.assert_allclose(found.named["label_spreading"], expected * K, rtol=1e-5)
    np.testing.assert_allclose(found.loss, 2 * 4 * np.array(expected * K), rtol=1e-5)


@pytest.mark.parametrize("known", [0, N])
def test_all_labels_or_none(known):
    X, _ = rows_with_few_labels()
    target = torch.full((N, 1), math.nan)
    target[:known] = 0.0
    part = LabelSpreading()
    part.prepare(model_of(), Batch(X, target=target))
    assert part.spread is None
    found = part.penalty(SimpleNamespace(batch=Batch(X), supervision=None, z=X))
    assert found.loss.tolist() == [0.0] * N
    assert not found.named


def test_digits_by_ten_labels(tmp_path):
    """q(y|x) follows the labels that come over the graph where ten known ones do not suffice."""
    X, y = load_digits(return_X_y=True)
    X, y = X[:600], y[:600]
    few = np.full(len(y), -1)
    few[[np.flatnonzero(y == label)[0] for label in range(10)]] = range(10)
    how = {"structure": "m2", "max_epochs": 15, "target_weight": 10.0, "likelihood": "gaussian", "random_state": 0}
    alone = VAEClassifier(**how).fit(X, few)
    model = VAEClassifier(objective=ELBO() + LabelSpreading(n_neighbors=5), **how).fit(X, few)
    assert model.score(X, y) > alone.score(X, y) + 0.1
    assert model.history_["train_label_spreading"][-1] < model.history_["train_label_spreading"][0]
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(load(tmp_path / "model").predict(X), model.predict(X))


def test_where_it_has_no_place():
    X, y = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 3
    objective = ELBO() + LabelSpreading()
    VAE(objective=objective, max_epochs=1).fit(X)  # no targets: as the first stage of "m1+m2"
    with pytest.raises(ValueError, match=r"summed out; set structure='m2'"):
        VAEClassifier(structure="joint", objective=objective, max_epochs=1).fit(X, y - 1)
    with pytest.raises(ValueError, match=r"summed out"):
        VAERegressor(objective=objective, max_epochs=1).fit(X, np.where(y == 0, np.nan, X[:, 0]))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"alpha": 1.0}, r"alpha=1.0.*between 0 and 1"),
        ({"weight": -1}, r"weight=-1"),
        ({"n_neighbors": 0}, r"n_neighbors=0"),
        ({"space": "pixels"}, r"space='pixels'"),
        ({"hog": 2}, r"hog=2"),
    ],
)
def test_parameters_out_of_range(params, message):
    with pytest.raises(ValueError, match=message):
        LabelSpreading(**params).check()
