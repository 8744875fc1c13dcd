"""VAEClassifier: what it predicts, generates, learns from and refuses."""

import math
import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy import special
from sklearn.datasets import make_blobs
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.metrics import accuracy_score
from small_targets import SMALL, N

from skvae import ELBO, IWAE, MMD, VAE, LabelSpreading, Neighbours, VAEClassifier, load
from skvae.estimators.supervised import _repeated
from skvae.model.objectives import Supervised
from skvae.training.engine import Steps

STRUCTURES = ["m2", "m1+m2", "joint"]
every_structure = pytest.mark.parametrize("structure", STRUCTURES)


def small(**params):
    return VAEClassifier(**SMALL | {"structure": "m2"} | params)


def data(n=N, seed=0):
    """Three clouds in four columns, two of them close to each other."""
    rng = np.random.default_rng(seed)
    y = rng.choice(3, n, p=[0.5, 0.3, 0.2])
    centres = np.array([[0.0, 0, 0, 0], [2.5, 1, 0, 0], [0, -2, 3, 0]])
    return centres[y] + rng.normal(size=(n, 4)) * [0.8, 0.8, 0.8, 1.0], y


X, Y = data()
HOLES = np.where(np.arange(N) % 2, Y, -1)
NAMES = np.array(["cat", "dog", "emu"])


@pytest.fixture(scope="module", params=STRUCTURES)
def model(request):
    return small(structure=request.param, max_epochs=40, target_weight=10.0).fit(X, Y)


@pytest.fixture(scope="module")
def m2():
    return small(max_epochs=8, recall=False).fit(X, Y)


# Predictions


def test_what_is_learned(model):
    new, truth = data(500, seed=1)
    p = model.predict_proba(new)
    assert p.shape == (500, 3)
    np.testing.assert_allclose(p.sum(1), 1)
    assert model.classes_.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(model.predict(new), p.argmax(1))
    assert accuracy_score(truth, model.predict(new)) > 0.85
    assert model.score(new, truth) == accuracy_score(truth, model.predict(new))
    log_loss = -np.log(p[np.arange(500), truth]).mean()
    assert log_loss < 0.5


def test_probabilities_are_tempered(m2):
    """softmax(log p / T), with the T at which held-out labels are likeliest, drawn a little towards 1."""
    rows = m2.vae_._rows(X)
    log_p = m2._log_probs(m2.estimators_, rows)
    np.testing.assert_allclose(m2.predict_proba(X), special.softmax(log_p / m2.temperature_, axis=1), rtol=1e-6)
    np.testing.assert_array_equal(m2.predict(X), log_p.argmax(1))
    target = torch.from_numpy(Y.astype(np.float32)).unsqueeze(1)
    _, validation, calibration = m2._held_out(type(rows)(rows.values, target=target), m2.vae_._noise_seed)
    assert calibration is None
    held_out = validation.index.numpy()

    def cost(temperature):
        log_q = special.log_softmax(log_p[held_out] / temperature, axis=1)[np.arange(24), Y[held_out]]
        return 2 * np.log(temperature) ** 2 - log_q.sum()

    grid = np.exp(np.linspace(-1.5, 2.5, 2001))
    assert m2.temperature_ == pytest.approx(grid[np.argmin([cost(t) for t in grid])], rel=0.01)
    assert small(max_epochs=1).fit(X[:60], Y[:60]).temperature_ == 1  # no row was held out


def test_the_members_of_an_ensemble_are_tempered_by_rows_they_have_not_seen():
    model = small(structure="m2", n_estimators=3, max_epochs=3, recall=False).fit(X, Y)
    batch = model.vae_._rows(X)
    batch = type(batch)(batch.values, target=torch.from_numpy(Y.astype(np.float32)).unsqueeze(1))
    held_out = [model._held_out(batch, model.vae_._noise_seed, k)[1].index.numpy() for k in range(3)]
    assert len(np.unique(np.concatenate(held_out))) == sum(map(len, held_out))
    log_p = np.concatenate(
        [model._log_probs([one], batch)[rows] for one, rows in zip(model.estimators_, held_out, strict=True)]
    )
    code = Y[np.concatenate(held_out)]

    def cost(temperature):
        log_q = special.log_softmax(log_p / temperature, axis=1)[np.arange(len(code)), code]
        return 2 * np.log(temperature) ** 2 - log_q.sum()

    grid = np.exp(np.linspace(-1.5, 2.5, 2001))
    assert model.temperature_ == pytest.approx(grid[np.argmin([cost(t) for t in grid])], rel=0.01)
    each = [special.softmax(model._log_probs([one], batch) / model.temperature_, axis=1) for one in model.estimators_]
    np.testing.assert_allclose(model.predict_proba(X), np.mean(each, axis=0), rtol=1e-5)


@pytest.mark.parametrize("structure", ["m2", "joint", "m1+m2"])
def test_labels_of_rows_that_come_again_are_recalled(structure, tmp_path):
    """Rows in pairs, whose label no network learns."""
    pairs, names = np.repeat(X, 2, axis=0), np.repeat(np.random.default_rng(7).choice(NAMES, N), 2)
    model = small(structure=structure, max_epochs=3).fit(pairs, names)
    assert model.score(pairs, names) > 0.8
    p = model.predict_proba(pairs)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
    rows = model._rows(pairs)
    (shares,) = model._recalled(rows)
    own = shares.log_model_share.exp().numpy()[:, None]
    of_model = np.exp(model._log_probs(model.estimators_, rows, model.temperature_))
    of_rows = np.zeros_like(of_model)
    for weight, code in zip(shares.log_shares.exp().numpy(), shares.targets[..., 0].numpy().astype(int), strict=True):
        of_rows[np.arange(len(of_rows)), code] += weight
    np.testing.assert_allclose(p, own * of_model + of_rows, rtol=1e-5)
    assert small(structure=structure, max_epochs=3, recall=False).fit(pairs, names).score(pairs, names) < 0.6
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(load(tmp_path / "model").predict_proba(pairs), p)


def test_held_out_rows_have_their_share_of_every_class(m2):
    rows = m2.vae_._rows(X)
    y = HOLES.astype(np.float32)
    y[y < 0] = np.nan
    batch = type(rows)(rows.values, target=torch.from_numpy(y).unsqueeze(1))
    known = Y[HOLES >= 0]
    for seed in range(5):
        train, validation, _ = m2._held_out(batch, seed)
        assert not set(train.index.tolist()) & set(validation.index.tolist())
        assert len(train) + len(validation) == N
        counts = np.bincount(validation.target[:, 0].long(), minlength=3)
        assert (np.abs(counts - 12 * np.bincount(known) / len(known)) <= 1).all()


# Rows without a label

MARKED = {
    "-1": HOLES,
    "a list": HOLES.tolist(),
    "small integers": HOLES.astype(np.int8),
    "floats": HOLES.astype(float),
    "floats, NaN": np.where(HOLES < 0, np.nan, HOLES),
    "None among numbers": [None if y < 0 else int(y) for y in HOLES],
    "None among names": [None if y < 0 else str(NAMES[y]) for y in HOLES],
    "-1 among names": np.array([-1 if y < 0 else str(NAMES[y]) for y in HOLES], dtype=object),
    "pandas, nullable": pd.Series([None if y < 0 else int(y) for y in HOLES], dtype="Int64"),
    "pandas, text": pd.Series([None if y < 0 else str(NAMES[y]) for y in HOLES], dtype="str"),
    "pandas, NA": pd.Series([None if y < 0 else str(NAMES[y]) for y in HOLES], dtype="string"),
    "pandas, categories": pd.Series([None if y < 0 else str(NAMES[y]) for y in HOLES], dtype="category"),
    "polars": pl.Series([None if y < 0 else str(NAMES[y]) for y in HOLES]),
}


@pytest.fixture(scope="module")
def from_some():
    return small(max_epochs=2).fit(X, HOLES)


@pytest.mark.parametrize("case", MARKED)
def test_ways_to_have_no_label(case, from_some):
    y = MARKED[case]
    model = small(max_epochs=2).fit(X, y)
    classes = NAMES if isinstance(model.classes_[0], str) else np.arange(3)
    assert model.classes_.tolist() == classes.tolist()
    np.testing.assert_array_equal(model.predict(X), classes[from_some.predict(X)])
    assert model.score(X, y) == from_some.score(X, HOLES)


@pytest.mark.parametrize("mark", ["?", 9, -2, np.int64(7)])
def test_marks_of_one_s_own(mark, from_some):
    """A mark other than −1, beside which −1 is a class."""
    names = np.array(["-1", "dog", "emu"]) if isinstance(mark, str) else np.array([-1, 1, 2])
    y = np.where(HOLES < 0, mark, names[HOLES])
    model = small(max_epochs=2, unlabelled=mark).fit(X, y)
    assert model.classes_.tolist() == names.tolist()
    np.testing.assert_array_equal(model.predict(X), names[from_some.predict(X)])


def test_minus_one_and_one_other():
    y = np.where(Y > 0, 1, -1)
    with pytest.warns(UserWarning, match="but -1 and 1: -1 is taken for a class; pass unlabelled=-1 if") as caught:
        model = small(max_epochs=1).fit(X, y)
    assert caught[0].filename == __file__
    assert model.classes_.tolist() == [-1, 1]
    assert small(max_epochs=1, unlabelled=None).fit(X, y).classes_.tolist() == [-1, 1]  # and no warning
    with pytest.raises(ValueError, match="y has only one class, 1; a classifier needs at least two"):
        small(unlabelled=-1).fit(X, y)


@every_structure
def test_rows_without_a_label_are_learned_from(structure):
    y = np.where(np.arange(N) % 12 == 0, Y, -1)  # 20 labels
    model = small(structure=structure).fit(X, y)
    assert model.estimators_[0]._task.partly_labelled
    assert model.history_.info["n_train"] >= N
    labelled = y >= 0
    assert model.score(X, y) == accuracy_score(Y[labelled], model.predict(X[labelled]))
    others = small(structure=structure).fit(np.where(labelled[:, None], X, X[::-1] + 1), y)
    assert not np.allclose(model.predict_proba(X), others.predict_proba(X), atol=0.01)


def test_repeating_labelled_rows_changes_nothing_on_average():
    y = np.where(np.arange(N) < 8, Y, -1)
    member = small(max_epochs=1).fit(X, y).estimators_[0]
    target = torch.from_numpy(np.where(y < 0, np.nan, y).astype(np.float32)).unsqueeze(1)
    rows = replace(member._rows(X), target=target)
    eps = torch.randn(1, N, member.model_.n_noise)
    found = []
    for some in (rows, _repeated(rows)):
        objective = Supervised(ELBO(), 5.0)
        objective.prepare(member.model_, some)
        noise = eps if some is rows else eps[:, some.index]
        with torch.no_grad():
            loss = objective(member.model_(some, noise)).loss
        found.append(np.average(loss, weights=some.weight))
    assert len(some) > N
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_few_labels_and_many_rows():
    new, truth = data(1_000, seed=3)
    y = np.where(np.arange(1_000) < 15, truth, -1)
    model = small(max_epochs=20, batch_size=64, target_weight=10.0).fit(new, y)
    assert model.score(X, Y) > 0.75


# Generation


def test_generated_rows_are_of_the_class_asked_for(model):
    wanted = np.repeat([0, 1, 2], 60)
    rows, y = model.sample(180, y=wanted, random_state=0)
    np.testing.assert_array_equal(y, wanted)
    assert (model.predict(rows) == wanted).mean() > 0.6
    for k in range(3):
        np.testing.assert_allclose(rows[wanted == k].mean(0), X[k == Y].mean(0), atol=1.3)
    rows, y = model.sample(5, y=2, random_state=0)
    assert rows.shape == (5, 4)
    assert y.tolist() == [2] * 5


def test_generated_pairs_are_like_the_data(model):
    rows, y = model.sample(2_000, random_state=0)
    np.testing.assert_allclose(np.bincount(y) / 2_000, np.bincount(Y) / N, atol=0.12)
    np.testing.assert_allclose(rows[y == 1].mean(0), X[Y == 1].mean(0), atol=1.0)
    for given in (None, 1):
        again = [model.sample(20, y=given, random_state=1) for _ in range(2)]
        np.testing.assert_array_equal(again[0][0], again[1][0])
        np.testing.assert_array_equal(again[0][1], again[1][1])
        assert not np.array_equal(model.sample(20, y=given)[0], model.sample(20, y=given)[0])


def test_rows_in_other_classes(model):
    each = model.traverse(X, [0, 1, 2])
    assert [rows.shape for rows in each] == [X.shape] * 3
    p = np.stack([model.predict_proba(rows) for rows in each])  # [wanted, n, K]
    for k in range(3):
        assert p[k, :, k].mean() > p[[j for j in range(3) if j != k], :, k].mean() + 0.2


def test_to_its_own_class_a_row_does_not_move():
    for structure in ("joint", "m2", "m1+m2"):
        model = small(structure=structure, max_epochs=4).fit(X, NAMES[Y])
        (same,) = model.traverse(X[:1], model.predict(X[:1]))
        np.testing.assert_allclose(same, X[:1], atol=1e-3)


def test_latent_directions(model):
    direction = model.latent_direction_
    z = model.transform(X)
    assert direction.shape == (3, z.shape[1])
    np.testing.assert_allclose(np.linalg.norm(direction, axis=1), 1, rtol=1e-5)
    along = z @ direction.T
    for k in range(3):
        assert along[k == Y, k].mean() > along[k != Y, k].mean()


def test_bins_are_for_columns_and_not_for_latents():
    X, y = make_blobs(400, 3, centers=3, random_state=0)
    for structure, has_bins in (("m2", True), ("m1+m2", False)):
        model = small(structure=structure, max_epochs=1).fit(X, y)
        assert model.estimators_[0].model_.embedding.piecewise is has_bins


@pytest.mark.parametrize(
    "params",
    [
        {"image_shape": (2, 4), "likelihood": "auto"},
        {"image_shape": (4, 4), "likelihood": "gaussian", "encoder": "hog", "decoder": "mlp"},
        {"column_kinds": {1: "continuous"}},
        {"likelihood": {"x0": "student-t", "continuous": "gaussian"}},
        {"encoder": torch.nn.LazyLinear(4), "decoder": torch.nn.LazyLinear(4)},
    ],
    ids=lambda params: next(iter(params)),
)
def test_m2_stands_on_latents_whatever_the_columns_are(params, tmp_path):
    rows = np.tile(X, math.prod(params.get("image_shape", (4,))) // 4)
    hidden_sizes = "auto" if "encoder" in params else (8,)
    params = {"structure": "m1+m2", "max_epochs": 1, "hidden_sizes": hidden_sizes} | params
    model = small(**params).fit(rows, Y)
    assert model.predict(rows).shape == (N,)
    new, labels = model.sample(3, y=1, random_state=0)
    assert new.shape == (3, rows.shape[1])
    assert labels.tolist() == [1, 1, 1]
    if not isinstance(params.get("encoder"), torch.nn.Module):  # modules of one's own are passed in again
        model.save(tmp_path / "model")
        np.testing.assert_array_equal(load(tmp_path / "model").predict_proba(rows), model.predict_proba(rows))


NEIGHBOURLY = ELBO() + Neighbours(n_neighbors=5, attraction=4.0, scale=1.0)


@pytest.mark.parametrize(
    ("objective", "of_m1", "of_m2"),
    [
        ("auto", NEIGHBOURLY, NEIGHBOURLY),
        ("elbo", "elbo", ELBO()),
        (NEIGHBOURLY + LabelSpreading(), NEIGHBOURLY, NEIGHBOURLY + LabelSpreading()),
        ("iwae", "iwae", IWAE()),
        (IWAE() + MMD() + LabelSpreading(), IWAE() + MMD(), IWAE() + LabelSpreading()),
        (MMD() + LabelSpreading(), MMD(), ELBO() + LabelSpreading()),
    ],
    ids=["auto", "elbo", "neighbours and spreading", "iwae", "mmd", "regularisers alone"],
)
def test_m1_and_m2(objective, of_m1, of_m2):
    """M2 on the latents of a VAE that was trained before, which stays as it was; its encoder sees the rows too."""
    model = small(structure="m1+m2", max_epochs=3, n_estimators=2, objective=objective).fit(X, HOLES)
    below = VAE(**model._vae_params() | {"objective": of_m1}).fit(X)
    np.testing.assert_array_equal(model.vae_.transform(X), below.transform(X))
    assert model.structure_ == "m1+m2"
    assert [member.model_.structure for member in model.estimators_] == ["m2", "m2"]
    member = model.estimators_[0]
    assert repr(member.objective) == repr(of_m2)
    rows = model._rows(X)
    torch.testing.assert_close(rows.values, member._rows(below.transform(X)).values)
    of_rows = below._rows(X)
    torch.testing.assert_close(rows.told, below.model_.embedding(of_rows.values, of_rows.mask))
    np.testing.assert_array_equal(model.transform(X), member._means(rows))
    assert not np.allclose(member._means(replace(rows, told=rows.told.flip(0))), member._means(rows), atol=1e-3)
    assert model.n_features_in_ == 4
    assert member.n_features_in_ == 2
    before = model.vae_.transform(X)
    model.partial_fit(X, HOLES)
    np.testing.assert_array_equal(model.vae_.transform(X), before)
    assert len(model.history_) == 4


# Choices


def test_auto_learns_what_sets_rows_apart_first_where_few_have_a_label():
    """Below a tenth of the rows, if 100 have one; but not in a stream, nor under a prior that M2 cannot have."""
    params = {"structure": "auto", "max_epochs": 2, "target_weight": 1.0}
    few = np.where(np.arange(N) % 5 == 0, Y, -1)
    assert small(**params).fit(X, few).structure_ == "m2"
    many, their_labels = np.tile(X, (10, 1)), np.tile(Y, 10)
    sparse = np.where(np.arange(10 * N) < 100, their_labels, -1)
    assert small(**params).fit(many, sparse).structure_ == "m1+m2"
    assert small(**params).partial_fit(many, sparse).structure_ == "m2"
    assert small(**params, prior="vamp").fit(many, sparse).structure_ == "joint"
    enough = np.where(np.arange(10 * N) % 5 == 0, their_labels, -1)
    assert small(**params).fit(many, enough).structure_ in ("m2", "joint")


def test_auto_takes_what_predicts_held_out_labels_best():
    model = small(structure="auto", target_weight="auto", max_epochs=8).fit(X, Y)
    assert {trial["structure"] for trial in model.trials_} == {"m2", "joint"}
    assert len({trial["target_weight"] for trial in model.trials_}) > 1
    of_chosen = [
        trial
        for trial in model.trials_
        if (trial["structure"], trial["target_weight"]) == (model.structure_, model.target_weight_)
        and trial["dropout"] == model._task.dropout
    ]
    chosen, final = of_chosen
    assert (chosen["max_epochs"], final["max_epochs"]) == (2, 8)
    assert chosen["log_p_y"] >= model.trials_[0]["log_p_y"]  # the default gives way only to what is better
    info = model.history_.info
    assert (info["structure"], info["target_weight"]) == (model.structure_, model.target_weight_)
    assert small(structure="auto", max_epochs=1).fit(X[:60], Y[:60]).trials_ == []


def test_many_labels_are_not_summed_out_unasked():
    y = np.r_[np.repeat(np.arange(25), 5), np.full(N - 125, -1)]
    assert small(structure="auto", max_epochs=1).fit(X, y).structure_ == "joint"


@pytest.mark.parametrize("prior", ["vamp", "mixture"])
def test_a_prior_of_one_s_own(prior):
    if prior == "vamp":
        with pytest.raises(ValueError, match=r"structure='m2' has q\(z\|x, y\), and the pseudo-inputs .* no label"):
            small(prior=prior).fit(X, Y)
        assert small(prior=prior, structure="auto", max_epochs=1).fit(X, HOLES).structure_ == "joint"
    else:
        model = small(prior=prior, max_epochs=1).fit(X, HOLES)
        assert np.isfinite(model.vae_.score_samples(X)).all()


def test_m2_has_no_regularisers():
    message = r"objective=MMD\(\) compares the latents of the rows of a batch, and structure='m2' has some for each"
    with pytest.raises(ValueError, match=message):
        small(structure="m2", objective="mmd").fit(X, Y)
    assert small(structure="auto", objective="mmd", max_epochs=1).fit(X, HOLES).structure_ == "joint"


@every_structure
def test_an_ensemble_averages_probabilities(structure):
    model = small(structure=structure, n_estimators=3, max_epochs=3).fit(X, Y)
    rows = model._rows(X)
    alone = []
    for member in model.estimators_:
        one = pickle.loads(pickle.dumps(model))
        one.estimators_ = [member]
        alone.append(np.exp(one._log_probs(one.estimators_, rows)))
    np.testing.assert_allclose(np.exp(model._log_probs(model.estimators_, rows)), np.mean(alone, axis=0), atol=1e-5)
    assert not np.allclose(alone[0], alone[1], atol=1e-3)


def test_class_weights_are_row_weights():
    weight = {0: 1.0, 1: 4.0, 2: 10.0}
    by_class = small(max_epochs=4, class_weight=weight).fit(X, Y)
    by_row = small(max_epochs=4).fit(X, Y, sample_weight=np.array([1.0, 4.0, 10.0])[Y])
    np.testing.assert_array_equal(by_class.predict_proba(X), by_row.predict_proba(X))
    both = small(max_epochs=4, class_weight=weight).fit(X, Y, sample_weight=1 / np.array([1.0, 4.0, 10.0])[Y])
    np.testing.assert_allclose(both.predict_proba(X), small(max_epochs=4).fit(X, Y).predict_proba(X), atol=1e-3)
    balanced = small(max_epochs=4, class_weight="balanced").fit(X, NAMES[Y])
    exact = N / 3 / np.bincount(Y)
    np.testing.assert_array_equal(
        balanced.predict_proba(X), small(max_epochs=4).fit(X, Y, sample_weight=exact[Y]).predict_proba(X)
    )


def test_class_weights_leave_unlabelled_rows_alone():
    model = small(class_weight={0: 2.0, 1: 3.0, 2: 5.0})
    codes = model._targets(HOLES, reset=True)
    np.testing.assert_array_equal(
        model._row_weight(codes, None), np.where(HOLES < 0, 1.0, np.array([2.0, 3.0, 5.0])[HOLES])
    )


# Training further


def test_partial_fit():
    model = small(target_weight=10.0)
    scores = []
    for call in range(8):
        some = slice(0, 160) if call % 2 else slice(80, N)
        model.partial_fit(X[some], Y[some], classes=[0, 1, 2, 7] if call == 0 else None)
        scores.append(model.score(X, Y))
    assert model.classes_.tolist() == [0, 1, 2, 7]
    assert model.predict_proba(X).shape == (N, 4)
    assert scores[-1] > max(0.8, scores[0])
    only = model.partial_fit(X[Y == 1], Y[Y == 1], classes=[0, 1, 2, 7])  # one class in a piece
    assert len(only.history_) == 9
    with pytest.raises(ValueError, match=r"classes=\[0, 1\] is not the same as at the first call"):
        model.partial_fit(X, Y, classes=[0, 1])
    with pytest.raises(ValueError, match="y holds 5, a class not seen at fit; known are 0, 1, 2, 7: refit"):
        model.partial_fit(X, np.where(Y == 2, 5, Y))
    with pytest.raises(ValueError, match="y holds 2, a class not seen at fit; known are 0, 1"):
        small().partial_fit(X, Y, classes=[0, 1])


def test_names_as_classes_of_partial_fit():
    model = small().partial_fit(X[Y < 2], NAMES[Y[Y < 2]], classes=["emu", "cat", "dog"])
    assert model.classes_.tolist() == NAMES.tolist()
    assert set(model.partial_fit(X, NAMES[Y]).predict(X)) <= set(NAMES)


@every_structure
def test_warm_start(structure):
    model = small(structure=structure, warm_start=True, max_epochs=2).fit(X, Y)
    members = model.estimators_
    model.fit(X, Y)
    assert model.estimators_ == members
    assert len(model.history_) == 4
    with pytest.raises(ValueError, match=r"n_estimators=2, but the model to be continued was made with 1"):
        model.set_params(n_estimators=2).fit(X, Y)


def test_later_rows_without_a_label():
    with pytest.raises(ValueError, match="y has rows without a target, and all had one when"):
        small().partial_fit(X, Y).partial_fit(X, HOLES)
    small().partial_fit(X, HOLES).partial_fit(X, HOLES)
    small(structure="joint").partial_fit(X, Y).partial_fit(X, HOLES)


# Tables, and randomness


@pytest.mark.parametrize("to", [lambda f: f, lambda f: pl.from_pandas(f)], ids=["pandas", "polars"])
@pytest.mark.parametrize("structure", ["m2", "m1+m2"])
def test_mixed_tables_with_holes(to, structure):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "size": X[:, 0],
            "rooms": pd.array(rng.poisson(2 + Y), dtype="Int64"),
            "town": pd.array(np.array(["Bern", "Genf", "Basel"])[Y], dtype="str"),
            "grade": pd.Categorical(rng.choice(["low", "high"], N), ["low", "high"], ordered=True),
        }
    )
    table = to(frame.mask(rng.random(frame.shape) < 0.2))
    model = small(structure=structure, likelihood="auto").fit(table, NAMES[Y])
    assert model.score(table, NAMES[Y]) > 0.6
    assert model.feature_names_in_.tolist() == list(frame)
    for like in (model.sample(10, y="emu")[0], model.sample(10)[0], *model.traverse(table, ["dog"])):
        assert type(like) is type(table)
        assert list(like.columns) == list(table.columns)
        assert list(like.dtypes) == list(table.dtypes)


def test_rows_may_come_from_a_file(tmp_path):
    path = tmp_path / "rows.csv"
    pl.DataFrame(X, schema=list("abcd")).write_csv(path)
    model = small(max_epochs=1).fit(path, Y)
    np.testing.assert_allclose(
        model.predict_proba(str(path)), small(max_epochs=1).fit(X, Y).predict_proba(X), atol=1e-5
    )


def test_the_same_seed_gives_the_same_predictions():
    params = {"max_epochs": 2, "n_estimators": 2, "structure": "auto", "target_weight": "auto"}
    first, again, other = (small(**params, random_state=s).fit(X, HOLES).predict_proba(X) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


@pytest.mark.parametrize("structure", ["m1+m2", "auto"])
@pytest.mark.parametrize("random_state", [None, 0])
def test_the_caller_s_random_streams_are_left_alone(structure, random_state):
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    model = small(structure=structure, max_epochs=1, random_state=random_state).fit(X, HOLES)
    model.predict_proba(X)
    model.sample(3)
    model.sample(3, y=1)
    model.traverse(X[:3], [1])
    model.partial_fit(X, HOLES)
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert pickle.dumps(np.random.get_state()) == pickle.dumps(numpy_before)  # noqa: NPY002


def test_recorded_steps_do_what_plain_ones_do(monkeypatch):
    fast = small(max_epochs=2).fit(X, HOLES)
    monkeypatch.setattr(Steps, "_record", lambda self, inputs: None)
    np.testing.assert_allclose(fast.predict_proba(X), small(max_epochs=2).fit(X, HOLES).predict_proba(X), rtol=1e-5)


# What is refused

BAD_LABELS = {
    "infinity": (np.where(np.arange(N) == 7, np.inf, Y), r"y contains infinity \(row 7\); mark the row unlabelled"),
    "one class": (Y * 0, "y has only one class, 0; a classifier needs at least two"),
    "one class and none": (np.where(Y == 1, None, "a"), "y has only one class, 'a'"),
    "a class with one row": (np.where(np.arange(N) == 7, 9, Y), "class 9 has one row.*add rows of it, merge it"),
    "a name with one row": (np.where(np.arange(N) == 7, "yak", NAMES[Y]), "class 'yak' has one row"),
    "no label": (Y * 0 - 1, "y holds no label: every row is unlabelled; use VAE or VAEClusterer"),
    "only None": ([None] * N, "y holds no label"),
    "a name": ("species", r"y='species' is text; pass the column itself.*X.pop\('species'\)"),
    "nothing": (None, "requires y to be passed, but the target y is None"),
    "real numbers": (X[:, 0], "Unknown label type: continuous"),
    "two columns": (np.column_stack([Y, Y]), "1d array"),
    "names and numbers": (np.where(Y > 0, "a", Y.astype(object)), r"y mixes text \('a'\) and numbers \(0\)"),
    "names and numbers in a list": (["a", 0] * (N // 2), r"y mixes text \('a'\) and numbers \(0\)"),
    "dates": (np.array(["2020-01-01", "2020-01-02"] * (N // 2), "M8[D]"), "labels of type datetime64.*convert them"),
    "fewer rows": (Y[:-1], r"inconsistent numbers of samples: \[240, 239\]"),
}


@pytest.mark.parametrize("case", BAD_LABELS)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_labels_refused(method, case):
    y, message = BAD_LABELS[case]
    with pytest.raises(ValueError, match=message):
        getattr(small(), method)(X, y)


@pytest.mark.parametrize("mark", [np.nan, None, -1], ids=str)
def test_names_in_a_list_beside_what_marks_rows_without_one(mark):
    """Of which numpy makes text."""
    names = [mark if k % 7 == 0 else name for k, name in enumerate(NAMES[Y].tolist())]
    model = small(max_epochs=2).fit(X, names)
    assert model.classes_.tolist() == NAMES.tolist()
    marked = np.array(names, dtype=object)
    np.testing.assert_array_equal(model.predict_proba(X), small(max_epochs=2).fit(X, marked).predict_proba(X))
    assert model.score(X, names) == model.score(X, marked)


def test_a_column_of_labels(m2):
    column = Y[:, None]
    with pytest.warns(DataConversionWarning):
        fitted = small(max_epochs=8, recall=False).fit(X, column)
    np.testing.assert_array_equal(fitted.predict(X), m2.predict(X))
    assert m2.score(X, column) == m2.score(X, Y)
    assert m2.sample(2, y=[[1], [0]], random_state=0)[1].tolist() == [1, 0]


def test_a_fit_that_fails_leaves_no_model_of_other_labels():
    model = small(max_epochs=1).fit(X, Y)
    with pytest.raises(ValueError, match="inconsistent"):
        model.fit(X[:-1], NAMES[Y])
    with pytest.raises(NotFittedError):
        model.predict(X)


@pytest.mark.parametrize("params", [{}, {"class_weight": "balanced"}], ids=["plain", "class weights"])
def test_weights_of_nothing_but_rows_without_a_label(params):
    with pytest.raises(ValueError, match="sample_weight is 0 for every row that has a target"):
        small(**params).fit(X, HOLES, sample_weight=(HOLES < 0).astype(float))


def test_m1_does_not_learn_rows_of_weight_zero():
    far = np.concatenate([X, X + 50])
    weight = np.repeat([1.0, 0.0], N)
    model = small(structure="m1+m2", max_epochs=60, learning_rate=1e-2).fit(far, np.tile(Y, 2), sample_weight=weight)
    assert (model.sample(200, random_state=0)[0][:, 0] > 25).mean() < 0.25
    untouched = small(structure="m1+m2", max_epochs=60).fit
    with pytest.raises(ValueError, match="inconsistent"):
        untouched(X, Y[:-1])


def test_minus_one_among_the_classes_announced_is_a_class():
    signs = np.where(Y > 0, 1, -1)
    model = small().partial_fit(X[signs > 0], signs[signs > 0], classes=[-1, 1])
    for _ in range(5):
        model.partial_fit(X, signs)
    assert model.classes_.tolist() == [-1, 1]
    assert model.score(X, signs) == accuracy_score(signs, model.predict(X))
    with pytest.raises(ValueError, match=r"unlabelled=-1 is one of classes=\[-1, 1\]"):
        small(unlabelled=-1).partial_fit(X, signs, classes=[-1, 1])


def test_rows_to_go_on_with_may_lack_a_class_that_weights_balance():
    model = small(class_weight="balanced").partial_fit(X, Y)
    model.partial_fit(X[Y < 2], Y[Y < 2])
    assert model.classes_.tolist() == [0, 1, 2]


def test_a_class_with_one_of_few_rows():
    """Where none are held out, one row is enough."""
    y = np.r_[9, Y[1:60]]
    assert 9 in small(max_epochs=1).fit(X[:60], y).classes_


@pytest.mark.parametrize(
    "ask",
    [
        lambda m, y: m.score(X, np.where(np.arange(N) == 3, y, Y.astype(object))),
        lambda m, y: m.sample(3, y=y),
        lambda m, y: m.sample(3, y=[y] * 3),
        lambda m, y: m.traverse(X, [y]),
    ],
    ids=["score", "sample", "sample each", "traverse"],
)
def test_classes_not_seen_at_fit(ask, m2):
    with pytest.raises(ValueError, match="y holds 8, a class not seen at fit; known are 0, 1, 2: refit with rows"):
        ask(m2, 8)


def test_labels_of_another_kind(m2):
    for ask in (lambda: m2.score(X, Y.astype(str)), lambda: m2.sample(2, y="1"), lambda: m2.traverse(X, ["1"])):
        with pytest.raises(ValueError, match=r"y holds '\d', a class not seen at fit"):
            ask()


def test_scores_need_labels(m2):
    with pytest.raises(ValueError, match="nothing to score; pass rows that have one"):
        m2.score(X, Y * 0 - 1)
    with pytest.raises(ValueError, match="inconsistent"):
        m2.score(X, Y[:-1])
    half = np.where(np.arange(N) % 2, Y, -1)
    weight = np.random.default_rng(0).random(N)
    expected = accuracy_score(Y[half >= 0], m2.predict(X)[half >= 0], sample_weight=weight[half >= 0])
    assert m2.score(X, half, sample_weight=weight) == pytest.approx(expected)


def test_number_of_labels_asked_for(m2):
    with pytest.raises(ValueError, match="y has 2 labels; expected one, or one for each of the 3 samples"):
        m2.sample(3, y=[0, 1])
    for y in (None, 1):
        with pytest.raises(ValueError, match="n_samples=0: expected a whole number"):
            m2.sample(0, y=y)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"structure": "prior"}, r"structure='prior': expected one of \('auto', 'm2', 'm1\+m2', 'joint'\)"),
        ({"target_weight": -1}, "target_weight=-1: expected 'auto' or a number > 0"),
        ({"n_estimators": True}, "n_estimators=True: expected 'auto' or a whole number ≥ 1"),
        ({"class_weight": "even"}, "class_weight.*'even'"),
        ({"class_weight": {7: 2.0}}, "not in class_weight"),
        ({"validation_fraction": 0}, "validation_fraction=0: expected"),
        ({"max_epochs": 0}, "max_epochs=0: expected"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_parameters_refused(params, message):
    with pytest.raises(ValueError, match=message):
        small(**params).fit(X, Y)


@pytest.mark.parametrize("params", [{}, {"class_weight": "balanced"}], ids=["plain", "class weights"])
def test_weights_of_other_length(params):
    with pytest.raises(ValueError, match=r"sample_weight.shape == \(3,\)|inconsistent numbers .*: \[240, 3\]"):
        small(**params).fit(X, Y, sample_weight=np.ones(3))


@pytest.mark.parametrize(
    "ask",
    [
        lambda m: m.predict(X),
        lambda m: m.predict_proba(X),
        lambda m: m.score(X, Y),
        lambda m: m.sample(2),
        lambda m: m.sample(2, y=1),
        lambda m: m.traverse(X, [1]),
        lambda m: m.transform(X),
        lambda m: m.latent_direction_,
    ],
)
def test_questions_need_a_fit(ask):
    with pytest.raises(NotFittedError):
        ask(small())
