"""Metrics of clusters, latents and images against brute force and closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from sklearn.datasets import load_digits

from skvae.evaluation import FeatureNetwork, clustering_accuracy, continuity, frechet_distance, knn_accuracy


@pytest.mark.parametrize("n_clusters", [2, 3, 4])
def test_clustering_accuracy_is_that_of_the_best_permutation(n_clusters):
    rng = np.random.default_rng(n_clusters)
    y, labels = rng.integers(0, 3, 50), rng.integers(0, n_clusters, 50)
    best = max(
        np.mean([matched.get(label) == truth for truth, label in zip(y, labels, strict=True)])
        for order in itertools.permutations(range(4), n_clusters)
        for matched in [dict(zip(range(n_clusters), order, strict=True))]
    )
    assert clustering_accuracy(y, labels) == pytest.approx(best)
    assert clustering_accuracy(np.array(list("abc"))[y], 7 - y) == 1.0
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        clustering_accuracy(y, labels[1:])


def test_continuity_is_that_of_all_ranks():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 5))
    latents = X[:, :2] + 0.3 * rng.normal(size=(40, 2))
    n, k = 40, 4
    near = np.argsort(np.linalg.norm(X[:, None] - X, axis=2), axis=1)[:, 1 : k + 1]
    ranks = np.argsort(np.argsort(np.linalg.norm(latents[:, None] - latents, axis=2), axis=1), axis=1)
    penalty = sum(max(0, ranks[i, j] - k) for i in range(n) for j in near[i])
    expected = 1 - 2 / (n * k * (2 * n - 3 * k - 1)) * penalty
    assert continuity(X, latents, n_neighbors=k) == pytest.approx(expected)
    assert continuity(X, X) == 1.0
    assert expected < 1


def test_knn_accuracy_counts_votes():
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(60, 2)), rng.normal(size=(30, 2))
    y, test_y = (train[:, 0] > 0).astype(int), (test[:, 0] > 0).astype(int)
    near = np.argsort(np.linalg.norm(test[:, None] - train, axis=2), axis=1)[:, :5]
    expected = ((y[near].sum(1) >= 3) == test_y).mean()
    assert knn_accuracy(train, y, test, test_y) == pytest.approx(expected)


def test_frechet_distance_is_the_formula():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(50, 6)) @ rng.normal(size=(6, 6)), rng.normal(size=(40, 6)) + 1
    first, second = np.cov(a.T), np.cov(b.T)
    gap = a.mean(0) - b.mean(0)
    expected = gap @ gap + np.trace(first + second - 2 * sqrtm(first @ second).real)
    assert frechet_distance(a, b) == pytest.approx(expected)
    assert frechet_distance(b, a) == pytest.approx(expected)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    singular = np.hstack([a, np.zeros((50, 2))])
    assert frechet_distance(singular, np.hstack([b, np.zeros((40, 2))])) == pytest.approx(expected)


def test_frechet_distance_of_normals_is_the_closed_form():
    """Σ (Δμ² + Δσ²) over independent coordinates."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(200_000, 2)) * [1, 2], rng.normal(size=(200_000, 2)) * [3, 2] + [0, 1]
    assert frechet_distance(a, b) == pytest.approx(2**2 + 1**2, rel=0.01)
    assert frechet_distance(a[:, :1], b[:, :1]) == pytest.approx(2**2, rel=0.01)


@pytest.mark.parametrize("pair", [((5, 2), (5, 3)), ((1, 2), (5, 2)), ((5,), (5,))])
def test_frechet_distance_refuses(pair):
    with pytest.raises(ValueError, match="expected \\[n, D\\] and \\[m, D\\]"):
        frechet_distance(*map(np.ones, pair))


@pytest.fixture(scope="module")
def network():
    X, y = load_digits(return_X_y=True)
    state = torch.random.get_rng_state()
    network = FeatureNetwork((8, 8), n_features=16, n_epochs=2).fit(X[:900], y[:900])
    assert torch.equal(torch.random.get_rng_state(), state)
    return network


def test_features_tell_images_apart(network):
    X, _ = load_digits(return_X_y=True)
    real, fresh = network.transform(X[:900]), network.transform(X[900:])
    noisy = network.transform(np.clip(X[900:] + 4 * np.random.default_rng(0).normal(size=X[900:].shape), 0, 16))
    assert network.accuracy_ > 0.7
    assert real.shape == (900, 16)
    assert frechet_distance(real, fresh) < 0.5 * frechet_distance(real, noisy)


def test_features_are_the_same_by_seed_and_by_shape(network):
    X, y = load_digits(return_X_y=True)
    again = FeatureNetwork((1, 8, 8), n_features=16, n_epochs=2).fit(X[:900].reshape(-1, 8, 8), y[:900])
    np.testing.assert_array_equal(again.transform(X[:50].astype(np.uint8)), network.transform(X[:50]))
    other = FeatureNetwork((8, 8), n_features=16, n_epochs=1, random_state=1).fit(X[:200], y[:200])
    assert not np.allclose(other.transform(X[:50]), network.transform(X[:50]))


def test_features_refuse():
    X, y = load_digits(return_X_y=True)
    with pytest.raises(ValueError, match=r"expected images of shape \(7, 8\), flat \(56\) or not"):
        FeatureNetwork((7, 8)).fit(X, y)
    colour = np.random.default_rng(0).random((60, 8, 8, 3))
    first, last = (FeatureNetwork(shape, n_epochs=1) for shape in ((3, 8, 8), (8, 8, 3)))
    by_plane = first.fit(colour.transpose(0, 3, 1, 2), np.arange(60) % 2).transform(colour.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(last.fit(colour, np.arange(60) % 2).transform(colour), by_plane)
    with pytest.raises(ValueError, match=r"X has shape \(60, 8, 8, 3\); expected images of shape \(3, 8, 8\)"):
        first.transform(colour)
    with pytest.raises(ValueError, match=r"image_shape=\(64,\): expected"):
        FeatureNetwork((64,)).fit(X, y)
    with pytest.raises(ValueError, match="y has 3 labels of 3 classes for 1797 images"):
        FeatureNetwork((8, 8)).fit(X, y[:3])
    with pytest.raises(ValueError, match="call fit"):
        FeatureNetwork((8, 8)).transform(X)
