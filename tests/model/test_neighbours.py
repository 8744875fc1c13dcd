"""The term on the graph of neighbours against a loop over pairs, and the graph against scikit-learn."""

import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from objective_terms import B, make_terms
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors

from skvae import ELBO, IWAE, MMD, VAE, Neighbours, VAEClassifier, load
from skvae.data.batch import Batch
from skvae.model import neighbour_graph
from skvae.model.neighbour_graph import Projection, nearest
from skvae.model.oriented_gradients import oriented_gradients


def terms_with_partners(weight=None):
    terms = make_terms(weight=weight, requires_grad=True)
    terms.partners = torch.randn(terms.z[0].shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return terms


@pytest.mark.parametrize(("attraction", "scale"), [(1.0, 1.0), (4.0, 0.3)])
@pytest.mark.parametrize("weight", [None, [1.0, 2.0, 0.5, 0.5, 1.5, 0.5]])
def test_pair_by_pair(attraction, scale, weight):
    terms = terms_with_partners(weight)
    part = Neighbours(weight=3.0, attraction=attraction, scale=scale).double()
    here, there = terms.z[0].detach().numpy(), terms.partners.numpy()
    w = np.ones(B) if weight is None else weight

    def q(a, b):
        return 1 / (1 + ((a - b) ** 2).sum() / scale**2)

    expected = []
    for i in range(B):
        own = q(here[i], there[i])
        others = sum(w[j] * (q(here[i], here[j]) + q(here[i], there[j])) for j in range(B) if j != i)
        expected.append(-attraction * math.log(own) + math.log(own + others))
    penalty = part.penalty(terms)
    np.testing.assert_allclose(penalty.named["neighbours"].detach(), expected, rtol=1e-6)
    n_columns = terms.batch.values.shape[1]
    np.testing.assert_allclose(penalty.loss.detach(), 3 * n_columns * np.array(expected), rtol=1e-6)
    penalty.loss.sum().backward()
    assert torch.isfinite(terms.posterior.mean.grad).all()


@pytest.mark.parametrize(("progress", "factor"), [(0.0, 8.0), (0.25, 4.5), (0.5, 1.0), (0.9, 1.0), (1.0, 1.0)])
def test_attraction_is_exaggerated_at_first(progress, factor):
    terms = terms_with_partners()
    terms.progress = torch.tensor(progress)
    exaggerated = Neighbours(attraction=1.5, early_exaggeration=8.0).double().penalty(terms)
    torch.testing.assert_close(exaggerated.loss, Neighbours(attraction=1.5 * factor).double().penalty(terms).loss)


@pytest.mark.parametrize("weight", [None, [1.0, 2.0, 0.5, 0.5, 1.5, 0.5]])
def test_pair_by_pair_of_labels(weight):
    """Where labels are summed out, of which each row has three copies in a batch."""
    generator = torch.Generator().manual_seed(6)
    here, there = torch.rand(2, B, 3, generator=generator, dtype=torch.float64).softmax(-1)
    w = torch.ones(B) if weight is None else torch.tensor(weight)
    batch = Batch(torch.zeros(3 * B, 4), weight=None if weight is None else w.repeat(3))
    supervision = SimpleNamespace(probs=here)
    terms = SimpleNamespace(batch=batch, weight=batch.weight, supervision=supervision, partners=there)
    expected = []
    for i in range(B):
        own = here[i] @ there[i]
        others = sum(w[j] * (here[i] @ here[j] + here[i] @ there[j]) for j in range(B) if j != i)
        expected.append(-math.log(own) + math.log(own + others))
    found = Neighbours(attraction=4.0).penalty(terms)
    np.testing.assert_allclose(found.named["neighbours"], expected * 3, rtol=1e-4)


def test_copies_of_a_row_are_one_point():
    rows = torch.tensor([[0.0], [0.1], [0.1], [5.0], [0.1], [5.2]])
    part = Neighbours(n_neighbors=2)
    model = SimpleNamespace(n_columns=1, embedding=lambda values, mask: values)
    part.prepare(model, Batch(rows))
    assert part.graph.tolist() == [[1, 3], [0, 3], [0, 3], [5, 1], [0, 3], [3, 1]]
    others = part.partners_of_others(model, Batch(rows + 0.01), torch.Generator().manual_seed(0))
    assert set(others.tolist()) <= {0, 1, 3, 5}
    part.prepare(model, Batch(torch.zeros(3, 1)))
    assert part.partners(torch.tensor([2, 1]), torch.Generator()).tolist() == [0, 0]


@pytest.mark.parametrize("n_features", [3, 64])
def test_the_graph_is_that_of_scikit_learn(n_features, monkeypatch):
    monkeypatch.setattr(neighbour_graph, "_AT_ONCE", 1000)  # several pieces
    points = torch.randn(300, n_features, generator=torch.Generator().manual_seed(0))
    expected = NearestNeighbors(n_neighbors=7).fit(points.numpy())
    found = nearest(points, points, 7, others=True)
    np.testing.assert_array_equal(found, expected.kneighbors(return_distance=False))
    queries = torch.randn(40, n_features, generator=torch.Generator().manual_seed(1))
    np.testing.assert_array_equal(
        nearest(queries, points, 7), expected.kneighbors(queries.numpy(), return_distance=False)
    )


def test_a_row_is_not_its_own_approximate_neighbour(monkeypatch):
    """Also where its doubles have crowded it out of its own list."""

    class Found:
        def __init__(self, points, n_neighbors, random_state):
            self.neighbor_graph = (np.array([[0, 2, 1], [1, 0, 2], [0, 1, 3], [2, 3, 1]]), None)

    monkeypatch.setitem(sys.modules, "pynndescent", SimpleNamespace(NNDescent=Found))
    found = neighbour_graph._by_descent(torch.zeros(4, 2), 2)
    assert found.tolist() == [[2, 1], [0, 2], [0, 1], [2, 1]]


@pytest.mark.slow  # numba compiles
def test_the_approximate_graph_is_nearly_exact(monkeypatch):
    pytest.importorskip("pynndescent")
    monkeypatch.setattr(neighbour_graph, "_EXACT_ROWS", 100)
    points = torch.randn(600, 5, generator=torch.Generator().manual_seed(0))
    found = nearest(points, points, 10, others=True).numpy()
    assert (found != np.arange(600)[:, None]).all()
    exact = NearestNeighbors(n_neighbors=10).fit(points.numpy()).kneighbors(return_distance=False)
    assert np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(found, exact, strict=True)]) > 0.95


def test_the_projection_keeps_the_most_variable_directions():
    rows = torch.randn(200, 60, generator=torch.Generator().manual_seed(0)) * torch.linspace(3, 0.01, 60)
    projected = Projection.of(rows)(rows)
    assert projected.shape == (200, 50)
    variance = np.linalg.eigvalsh(np.cov(rows.numpy().T))[::-1]
    np.testing.assert_allclose(projected.var(0).sum(), variance[:50].sum(), rtol=1e-4)
    few = rows[:, :4]
    torch.testing.assert_close(Projection.of(few)(few).diff(dim=0), few.diff(dim=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("share", [0.4, 1.0])
def test_the_graph_of_outlines(share):
    X = torch.from_numpy(load_digits().images[:100]).float()
    rows, others = Batch(X[:80].flatten(1)), Batch(X[80:].flatten(1))
    model = SimpleNamespace(n_columns=64, image_shape=(1, 8, 8), embedding=lambda values, mask: values)
    part = Neighbours(n_neighbors=4, hog=share)
    part.prepare(model, rows)

    def spread(features):
        return math.sqrt(features[:80].var(0).sum())

    outlines, pixels = oriented_gradients(X.unsqueeze(1)), X.flatten(1)
    places = math.sqrt(share) * outlines / spread(outlines)
    if share < 1:
        places = torch.cat([places, math.sqrt(1 - share) * pixels / spread(pixels)], dim=1)
    places = Projection.of(places[:80])(places).numpy()  # both in the dimensions of the training rows
    expected = NearestNeighbors(n_neighbors=4).fit(places[:80])
    np.testing.assert_array_equal(part.graph, expected.kneighbors(return_distance=False))
    near = expected.kneighbors(places[80:], return_distance=False)
    drawn = part.partners_of_others(model, others, torch.Generator().manual_seed(0))
    assert all(int(p) in row for p, row in zip(drawn, near, strict=True))


def test_identical_outlines_make_no_graph_of_their_own():
    flat = torch.arange(6.0).unsqueeze(1).expand(6, 16).contiguous()  # six shades without an outline
    model = SimpleNamespace(n_columns=16, image_shape=(1, 4, 4), embedding=lambda values, mask: values)
    part = Neighbours(n_neighbors=1, hog=0.5)
    part.prepare(model, Batch(flat))
    assert part.graph[0].tolist() == [1]
    assert part.graph[5].tolist() == [4]


@pytest.mark.parametrize("image_shape", [None, (1, 3, 12)])
def test_rows_without_outlines(image_shape):
    rows = Batch(torch.randn(30, 36, generator=torch.Generator().manual_seed(0)))
    model = SimpleNamespace(n_columns=36, image_shape=image_shape, embedding=lambda values, mask: values)
    graphs = []
    for part in (Neighbours(n_neighbors=4), Neighbours(n_neighbors=4, hog=1.0)):
        part.prepare(model, rows)
        graphs.append(part.graph)
    assert torch.equal(*graphs)


def test_partners_are_neighbours():
    part = Neighbours(n_neighbors=3)
    part.graph = torch.tensor([[1, 2, 3], [0, 2, 3], [3, 1, 0], [2, 0, 1]])
    rows = torch.tensor([2, 0, 2, 1] * 50)
    drawn = part.partners(rows, torch.Generator().manual_seed(0))
    assert all(int(p) in part.graph[int(i)].tolist() for i, p in zip(rows, drawn, strict=True))
    assert len(set(drawn[rows == 2].tolist())) == 3


@pytest.fixture(scope="module")
def X():
    return load_digits().data[:400]


def small(**params):
    return VAE(latent_dim=2, hidden_sizes=(64,), likelihood="gaussian", max_epochs=30, random_state=0).set_params(
        **params
    )


def shared(X, z, k=10):
    """Share of the nearest rows that are nearest in the latents too."""
    near = [NearestNeighbors(n_neighbors=k).fit(a).kneighbors(return_distance=False) for a in (X, z)]
    return np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(*near, strict=True)])


def test_neighbours_stay_together_and_the_model_is_saved(X, tmp_path):
    plain = small(max_epochs=80).fit(X)
    model = small(objective=ELBO() + Neighbours(attraction=1.0), max_epochs=80).fit(X)
    assert model.history_.info["steps"] == "recorded"
    assert shared(X, model.transform(X)) > shared(X, plain.transform(X)) + 0.1
    assert np.isfinite(model.history_["validation_neighbours"]).all()
    best = np.subtract(model.history_["validation_bound"], np.multiply(64, model.history_["validation_neighbours"]))
    assert model.history_.info["best_epoch"] == best.argmax() + 1
    model.save(tmp_path / "model")
    loaded = load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.transform(X), model.transform(X))
    assert loaded.objective.get_params()["neighbours__weight"] == 1
    loaded.partial_fit(X[:100])
    again = small(objective=ELBO() + Neighbours(attraction=1.0), max_epochs=80).fit(X)
    np.testing.assert_array_equal(again.transform(X), model.transform(X))


def test_added_to_others_with_holes_and_weights(X):
    holed = np.where(np.random.default_rng(0).random(X.shape) < 0.2, np.nan, X)
    for objective in (IWAE(n_draws=2) + Neighbours(n_neighbors=5), Neighbours(space="latents") + MMD()):
        model = small(objective=objective, max_epochs=3).fit(holed, sample_weight=np.arange(400) % 3)
        assert np.isfinite(model.transform(holed)).all()


@pytest.mark.parametrize("structure", ["joint", "m2", "m1+m2"])
def test_with_targets(structure, X):
    y = load_digits().target[:400].copy()
    y[40:] = -1
    params = {
        "latent_dim": 4,
        "likelihood": "gaussian",
        "max_epochs": 3,
        "structure": structure,
        "target_weight": 10.0,
        "hidden_sizes": (16,),
        "random_state": 0,
    }
    model = VAEClassifier(objective=ELBO() + Neighbours(), **params).fit(X, y)
    assert np.isfinite(model.history_["train_neighbours"]).all()
    assert np.isfinite(model.predict_proba(X)).all()


def test_neighbours_are_to_have_the_same_label(X):
    y = load_digits().target[:400]
    labels = np.full(400, -1)
    for k in range(10):
        labels[np.flatnonzero(y == k)[:3]] = k
    params = {"structure": "m2", "hidden_sizes": (32,), "max_epochs": 20, "random_state": 0}
    plain = VAEClassifier(objective="elbo", **params).fit(X, labels)
    model = VAEClassifier(objective=ELBO() + Neighbours(n_neighbors=5), **params).fit(X, labels)
    near = NearestNeighbors(n_neighbors=5).fit(X).kneighbors(return_distance=False)

    def alike(model):
        probs = model.predict_proba(X)
        return np.mean([probs[i] @ probs[near[i]].T for i in range(400)])

    assert alike(model) > alike(plain) + 0.1


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Neighbours(weight=-1), "weight=-1"),
        (Neighbours(n_neighbors=0), "n_neighbors=0"),
        (Neighbours(attraction=0.5), r"attraction=0.5\): expected a number ≥ 1"),
        (Neighbours(early_exaggeration=0.5), r"early_exaggeration=0.5\): expected a number ≥ 1"),
        (Neighbours(scale=0), r"scale=0\): expected a finite number > 0"),
        (Neighbours(space="pixels"), r"space='pixels'\): expected one of"),
        (Neighbours(hog=1.5), r"hog=1.5\): expected a share from 0 to 1"),
        (Neighbours() + Neighbours(), "two parts which give rows a partner"),
    ],
)
def test_bad_parameters(part, message, X):
    with pytest.raises(ValueError, match=message):
        small(objective=part).fit(X[:60])


def test_a_single_row_has_no_neighbour():
    with pytest.raises(ValueError, match="there is a single row"):
        Neighbours().prepare(None, Batch(torch.zeros(1, 2)))


def test_the_projection_of_features_that_hardly_vary():
    """Outlines of images with an empty border, on which single precision fails."""
    pixels = torch.from_numpy(np.pad(load_digits().images[:300], ((0, 0), (10, 10), (10, 10))) / 16).float()
    features = oriented_gradients(pixels.unsqueeze(1))
    found = Projection.of(features)(features)
    centred = (features - features.mean(0)).double()
    torch.testing.assert_close(
        found.square().sum(), torch.linalg.svdvals(centred)[:50].square().sum().float(), rtol=1e-4, atol=0
    )
