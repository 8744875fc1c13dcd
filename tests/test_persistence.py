"""A saved model answers as before, holds no code and no row, and says so when it is damaged."""

import copy
import errno
import json
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from sklearn.exceptions import NotFittedError
from torch import nn

import skvae
from skvae import (
    ELBO,
    MLP,
    VAE,
    DiagonalNormal,
    Gaussian,
    LoadError,
    ResidualMLP,
    StandardNormal,
    VAEClassifier,
    VAERegressor,
)
from skvae.model import Likelihood, Network, Objective, Posterior, Prior
from skvae.model.component import choices
from skvae.persistence import FORMAT, _checksum, decode, encode

FILES = ["model.json", "weights.safetensors"]


def small(**params):
    defaults = {"latent_dim": 2, "hidden_sizes": (8,), "max_epochs": 3, "random_state": 0}
    return VAE(**defaults | params)


def mixed(n=70):
    rng = np.random.default_rng(0)
    z = rng.normal(size=n)
    frame = pd.DataFrame(
        {
            "income": np.round(np.exp(7 + z), 2),
            "height": 170 + 8 * z,
            "children": pd.array(rng.poisson(2, n), dtype="Int64"),
            "smokes": z > 0,
            "city": pd.array(rng.choice(["Bern", "Genf", "Zürich"], n), dtype="str"),
            "grade": pd.Categorical(rng.choice(["low", "high"], n), ["none", "low", "high"], ordered=True),
            "joined": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 900, n), unit="D"),
            "country": "CH",
        }
    )
    return frame.mask(rng.random(frame.shape) < 0.1)


def module(n_in, width=6):
    return nn.Sequential(nn.Linear(n_in, width), nn.Tanh())


X = mixed()
WIDTH = 20  # of what the encoder gets: 6 columns with masks and a vector of 8 for the city

CASES = {
    "defaults": (VAE(max_epochs=2, random_state=0), {}),
    "components": (
        small(
            likelihood={"continuous": Gaussian(scale="column"), "height": Gaussian()},
            encoder=ResidualMLP(width=6, n_blocks=1),
            decoder=MLP([5], activation="tanh"),
            objective=ELBO(beta=0.5),
            prior=StandardNormal(),
            posterior=DiagonalNormal(),
            hidden_sizes="auto",
            column_kinds={"smokes": "categorical", 2: "continuous"},
        ),
        {},
    ),
    "linear, no masks": (small(hidden_sizes=(), masking=0.0, early_stopping=False), {}),
    "own encoder": (small(encoder=module(WIDTH)), {"encoder": module(WIDTH)}),
    "own networks": (
        small(encoder=module(WIDTH), decoder=module(2), hidden_sizes="auto"),
        {"encoder": module(WIDTH), "decoder": module(2)},
    ),
    "not stored": (small(callbacks=[lambda history, model: None], random_state=np.random.RandomState(0)), {}),
}


@pytest.fixture(autouse=True)
def one_thread():
    """What is handed to threads, and so the order of sums, may differ from machine to machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def vae():
    return small().fit(X)


@pytest.fixture
def folder(vae, tmp_path):
    vae.save(tmp_path / "model")
    return tmp_path / "model"


def assert_same_answers(loaded, vae, X):
    np.testing.assert_array_equal(loaded.transform(X), vae.transform(X))
    for ask in ("score_samples", "elbo", "posterior"):
        np.testing.assert_array_equal(getattr(loaded, ask)(X, 20), getattr(vae, ask)(X, 20))
    pairs = [
        (loaded.sample(20, random_state=0), vae.sample(20, random_state=0)),
        (loaded.impute(X, n_draws=20), vae.impute(X, n_draws=20)),
        (loaded.impute(X, 2, n_draws=20)[1], vae.impute(X, 2, n_draws=20)[1]),
        (loaded.reconstruct(X), vae.reconstruct(X)),
    ]
    for ours, theirs in pairs:
        assert type(ours) is type(theirs)
        assert ours.equals(theirs) if hasattr(ours, "equals") else np.array_equal(ours, theirs)
    assert loaded.get_feature_names_out().tolist() == vae.get_feature_names_out().tolist()


@pytest.mark.parametrize("case", CASES)
def test_a_loaded_model_answers_bit_for_bit(case, tmp_path):
    estimator, modules = CASES[case]
    vae = estimator.fit(X)
    vae.save(tmp_path / "model")
    loaded = skvae.load(tmp_path / "model", **modules)
    assert_same_answers(loaded, vae, X)
    assert loaded.settings_ == vae.settings_
    assert loaded.schema_ == vae.schema_
    assert loaded.history_.to_dict() == vae.history_.to_dict()
    assert loaded.diagnose(X, 20).to_dict() == vae.diagnose(X, 20).to_dict()
    assert loaded.feature_names_in_.tolist() == vae.feature_names_in_.tolist()
    if case != "not stored":
        assert repr(loaded) == repr(vae)
    # What was loaded can be saved, and trained on.
    loaded.save(tmp_path / "again")
    if not modules:
        assert_same_answers(skvae.load(tmp_path / "again"), vae, X)
    assert np.isfinite(loaded.partial_fit(X).score(X))
    assert len(loaded.history_) == len(vae.history_) + 1


ROWS = mixed(120)
WAGES = np.random.default_rng(1).normal(size=120) + ROWS["height"].fillna(170).to_numpy()
TOWNS = np.array(["Bern", "Genf", "Zürich"])[np.arange(120) % 3]
SUPERVISED = {
    "regressor": (VAERegressor, {"structure": "prior"}, WAGES),
    "regressor, ensemble": (
        VAERegressor,
        {"structure": "joint", "n_estimators": 2},
        np.r_[WAGES[:110], [np.nan] * 10],
    ),
    "regressor, two targets": (
        VAERegressor,
        {"structure": "auto", "target_likelihood": {"wage": "log-normal", "n": "poisson"}},
        pd.DataFrame({"wage": WAGES, "n": np.arange(120) % 4}),
    ),
    "m2": (VAEClassifier, {"structure": "m2", "unlabelled": "?"}, np.where(np.arange(120) % 9, TOWNS, "?")),
    "m1+m2": (VAEClassifier, {"structure": "m1+m2"}, np.arange(120, dtype=np.int8) % 3 - 1),
    "classifier, ensemble": (VAEClassifier, {"structure": "joint", "n_estimators": 2}, np.arange(120) % 2 == 0),
}


@pytest.mark.parametrize("case", SUPERVISED)
def test_loaded_models_with_targets_answer_bit_for_bit(case, tmp_path):
    estimator, params, y = SUPERVISED[case]
    params = {"latent_dim": 2, "hidden_sizes": (8,), "max_epochs": 2, "random_state": 0} | params
    model = estimator(target_weight=20.0, **params).fit(ROWS, y)
    model.save(tmp_path / "model")
    loaded = skvae.load(tmp_path / "model")

    def answers(of):
        wanted = of.classes_[0] if hasattr(of, "classes_") else (1.0 if np.ndim(y) == 1 else [170.0, 2.0])
        yield of.predict(ROWS)
        yield of.transform(ROWS)
        yield of.latent_direction_
        yield of.score(ROWS, y)
        yield from (pd.DataFrame(part) for part in of.sample(9, random_state=0))
        yield from (pd.DataFrame(part) for part in of.sample(9, y=wanted, random_state=0))
        yield from of.traverse(ROWS, [wanted])
        yield of.vae_.score_samples(ROWS, 10)
        if hasattr(of, "classes_"):
            yield of.predict_proba(ROWS)
            yield of.classes_
        else:
            yield of.predict(ROWS, return_std=True)[1]
            yield of.predict_interval(ROWS)
            yield of.predict_quantiles(ROWS)

    for ours, theirs in zip(answers(loaded), answers(model), strict=True):
        assert type(ours) is type(theirs)
        assert ours.equals(theirs) if hasattr(ours, "equals") else np.array_equal(ours, theirs)
        assert getattr(ours, "dtype", None) == getattr(theirs, "dtype", None)
    for name in ("structure_", "target_weight_", "trials_", "n_features_in_"):
        assert getattr(loaded, name) == getattr(model, name)
    assert loaded.feature_names_in_.tolist() == list(ROWS)
    assert [member.history_.to_dict() for member in loaded.estimators_] == [
        member.history_.to_dict() for member in model.estimators_
    ]
    assert repr(loaded) == repr(model)
    # What was loaded can be saved, and trained on.
    loaded.save(tmp_path / "again")
    assert np.array_equal(skvae.load(tmp_path / "again").predict(ROWS), model.predict(ROWS))
    assert np.isfinite(loaded.partial_fit(ROWS, y).score(ROWS, y))
    assert len(loaded.history_) == len(model.history_) + 1


@pytest.mark.parametrize(
    "table",
    [
        X.drop(columns="country").astype({"children": "float"}).select_dtypes("number").to_numpy(),
        X.to_numpy(dtype=object, na_value=None),
        pl.DataFrame({"a": [1.5, None, 2.5, 3.25] * 5, "b": ["x", "y", None, "z"] * 5}),
        pl.DataFrame({"a": [1.5, None, 2.5, 3.25] * 5, "b": ["x", "y", None, "z"] * 5}).to_arrow(),
    ],
    ids=["numbers", "objects", "polars", "pyarrow"],
)
def test_every_container(table, tmp_path):
    vae = small().fit(table)
    vae.save(tmp_path / "model")
    assert_same_answers(skvae.load(tmp_path / "model"), vae, table)


def test_after_warm_start_with_other_settings(tmp_path):
    vae = small(warm_start=True).fit(X).set_params(max_epochs=2, batch_size=8).fit(X)
    vae.save(tmp_path / "model")
    loaded = skvae.load(tmp_path / "model")
    assert_same_answers(loaded, vae, X)
    assert len(loaded.fit(X).history_) == 7


def test_the_folder_holds_json_and_tensors_only(folder):
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    assert json.loads((folder / "model.json").read_text(encoding="utf-8"))["format"] == FORMAT
    for name in FILES:
        content = (folder / name).read_bytes()
        assert b"pickle" not in content
        assert not content.startswith((b"\x80", b"PK"))


def test_no_row_is_stored(tmp_path):
    rng = np.random.default_rng(0)
    n = 200
    frame = pd.DataFrame(
        {"x": rng.normal(size=n), "name": rng.choice(["anna", "berta"], n), "when": rng.normal(size=n)}
    )
    frame.loc[17, "x"] = sentinel = 0.12345678912345  # neither a bound nor a level
    small().fit(frame).save(tmp_path / "model")
    text = (tmp_path / "model" / "model.json").read_text(encoding="utf-8")
    weights = (tmp_path / "model" / "weights.safetensors").read_bytes()
    # Levels, names and bounds are part of the schema.
    assert "anna" in text
    inner = frame["x"].drop([frame["x"].idxmin(), frame["x"].idxmax()])
    assert not any(repr(value) in text for value in inner)
    assert not any(np.float32(value).tobytes() in weights for value in inner)
    assert not any(value.tobytes() in weights for value in inner.to_numpy())
    assert repr(sentinel) not in text
    assert "random_state" in text


class MyPrior(StandardNormal):
    def __init__(self, shift=0.0):
        super().__init__()
        self.shift = shift

    def bind(self, latent_dim, n_context=0):
        self.location = nn.Parameter(torch.full((latent_dim,), float(self.shift)))
        return super().bind(latent_dim, n_context)

    def prepare(self, rows):
        self.location += 1.0

    def log_prob(self, z, context=None):
        return super().log_prob(z - self.location)

    def sample(self, eps, context=None):
        return eps + self.location


class MyLikelihood(Gaussian):
    pass


class MyNetwork(MLP):
    pass


class MyObjective(ELBO):
    """An objective with a parameter, a buffer and a second player, of which two appear when it is prepared."""

    def __init__(self, inner="elbo", beta=1.0):
        super().__init__(beta=beta)
        self.inner = inner
        self.register_buffer("n_steps", torch.zeros(()))

    def prepare(self, model, rows):
        self.weight = nn.Parameter(torch.ones(()))
        self.player = nn.Linear(model.latent_dim, 1)

    def forward(self, terms):
        if self.training and torch.is_grad_enabled():
            self.n_steps += 1
        losses = super().forward(terms)
        losses.loss = losses.loss + (self.weight - 3.0) ** 2
        losses.player = self.player(terms.z.detach().mean(0)).squeeze(-1) ** 2
        return losses


class Outer:
    class MyPrior(StandardNormal):
        """Of the same name as another one."""


OWN = {
    "an object": ({"prior": MyPrior(shift=0.5)}, [MyPrior]),
    "a nested class": ({"prior": Outer.MyPrior()}, [MyPrior, Outer.MyPrior]),
    "by column": ({"likelihood": {"height": MyLikelihood("column"), "integer": MyLikelihood()}}, (MyLikelihood,)),
    "a network": ({"encoder": MyNetwork((5,))}, [MyNetwork]),
    "a part of a part": ({"objective": MyObjective(inner=MyPrior(shift=2.0))}, [MyObjective, MyPrior]),
    "moved since": ({"prior": MyPrior(shift=0.5)}, {f"{__name__}:MyPrior": MyPrior}),
}


@pytest.mark.parametrize("case", OWN)
def test_own_parts(case, tmp_path):
    params, parts = OWN[case]
    vae = small(**params).fit(X)
    vae.save(tmp_path / "model")
    loaded = skvae.load(tmp_path / "model", parts=parts)
    assert_same_answers(loaded, vae, X)
    assert repr(loaded) == repr(vae)
    with pytest.raises(LoadError, match=r"a class of your own \(.*:.*My.*pass it: skvae.load\(path, parts=\["):
        skvae.load(tmp_path / "model")


def test_the_toy_prior_is_not_prepared_again(tmp_path):
    vae = small(prior=MyPrior(), learning_rate=1e-9).fit(X)
    vae.save(tmp_path / "model")
    loaded = skvae.load(tmp_path / "model", parts=[MyPrior]).partial_fit(X)
    torch.testing.assert_close(loaded.prior_.location, torch.ones(2), atol=1e-4, rtol=0)


def test_an_alias_of_ones_own_class_is_stored_as_the_class(tmp_path, monkeypatch):
    monkeypatch.setattr(MyPrior, "alias", "mine", raising=False)
    monkeypatch.setattr(MyLikelihood, "alias", "my-likelihood", raising=False)
    vae = small(prior="mine", likelihood={"height": "my-likelihood"}).fit(X)
    vae.save(tmp_path / "model")
    monkeypatch.undo()
    assert_same_answers(skvae.load(tmp_path / "model", parts=[MyPrior, MyLikelihood]), vae, X)
    with pytest.raises(LoadError, match="MyLikelihood, a class of your own"):
        skvae.load(tmp_path / "model", parts=[MyPrior])


def test_a_folder_runs_no_code_by_naming_it(folder, tmp_path, monkeypatch):
    (tmp_path / "innocent.py").write_text("raise SystemError('was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("innocent:MyPrior", "os:system", "builtins:eval", ":", "skvae.model.priors:StandardNormal"):
        set_in("model", "params", "prior", value={"component": name, "params": {}})(folder)
        with pytest.raises(LoadError, match="a class of your own"):
            skvae.load(folder, parts=[MyPrior])


def test_parts_that_are_none_of_it(folder, tmp_path):
    for parts in ([MyPrior()], [nn.Linear], ["MyPrior"], {"a:b": 3}):
        with pytest.raises(TypeError, match="expected classes of your own"):
            skvae.load(folder, parts=parts)
    small(prior=MyPrior()).fit(X).save(tmp_path / "own")
    with pytest.raises(LoadError, match=r"parts=\{'.*:MyPrior': MyPrior\}\), if .*Outer.MyPrior is the same"):
        skvae.load(tmp_path / "own", parts=[Outer.MyPrior])
    with pytest.raises(LoadError, match="with the modules and parts given"):
        skvae.load(tmp_path / "own", parts={f"{__name__}:MyPrior": MyLikelihood})


def test_tensors_of_the_objective_survive(tmp_path):
    vae = small(objective=MyObjective()).fit(X)
    state = {name: value.clone() for name, value in vae._objective.state_dict().items()}
    assert set(state) == {"n_steps", "weight", "player.weight", "player.bias"}
    assert state["n_steps"] > 0
    vae.save(tmp_path / "model")
    skvae.load(tmp_path / "model", parts=[MyObjective]).save(tmp_path / "again")
    loaded = skvae.load(tmp_path / "again", parts=[MyObjective])
    assert_same_answers(loaded, vae, X)

    seen = []
    loaded.set_params(callbacks=[lambda history, model: seen.append(copy.deepcopy(loaded._objective.state_dict()))])
    loaded.set_params(learning_rate=1e-9).partial_fit(X).partial_fit(X)
    assert seen[1]["n_steps"] > seen[0]["n_steps"] > state["n_steps"]
    for name in ("weight", "player.weight", "player.bias"):
        for later in seen:
            torch.testing.assert_close(later[name], state[name], atol=1e-5, rtol=0)


def test_parts_with_what_is_no_data(tmp_path):
    vae = small(prior=MyPrior()).fit(X)
    vae.prior = MyPrior(shift=lambda: 3)
    with pytest.raises(TypeError, match=r"prior=MyPrior\(.* cannot be saved: function has no form in JSON"):
        vae.save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_own_network_classes_may_come_as_modules(tmp_path):
    vae = small(encoder=MyNetwork((5,))).fit(X)
    vae.save(tmp_path / "model")
    assert_same_answers(skvae.load(tmp_path / "model", encoder=MyNetwork((5,))), vae, X)
    with pytest.raises(LoadError, match="uses MyNetwork, a class of your own"):
        skvae.load(tmp_path / "model")


@pytest.mark.parametrize("base", [Likelihood, Network, Objective, Posterior, Prior], ids=lambda base: base.__name__)
def test_every_part_of_the_package_is_found_again(base):
    for alias, cls in choices(base).items():
        if cls.__module__.startswith("skvae."):
            stored = json.loads(json.dumps(encode(cls())))
            assert ":" not in stored["component"], f"{cls.__name__} ('{alias}') is missing from skvae.model"
            assert repr(decode(stored)) == repr(cls())


@pytest.mark.parametrize(
    "value",
    [
        None,
        "auto",
        True,
        3,
        0.1,
        float("inf"),
        (8, 8),
        [8, (1,)],
        {"a": (1, 2), 3: "x"},
        ELBO(beta=0.5),
        {"height": Gaussian("row")},
    ],
    ids=repr,
)
def test_parameters_survive_json(value):
    assert repr(decode(json.loads(json.dumps(encode(value))))) == repr(value)


def test_numpy_and_torch_parameters_become_plain():
    assert encode(np.int64(3)) == 3
    assert encode((np.float64(0.5), np.array([1, 2]))) == {"tuple": [0.5, [1, 2]]}
    assert encode(torch.device("cpu")) == "cpu"


def test_own_modules_are_asked_for(tmp_path):
    small(encoder=module(WIDTH)).fit(X).save(tmp_path / "model")
    small().fit(X).save(tmp_path / "plain")
    with pytest.raises(LoadError, match=r"fitted with encoder=Sequential, your own module.*load\(path, encoder="):
        skvae.load(tmp_path / "model")
    for wrong in (module(WIDTH, 7), module(WIDTH + 1), nn.Linear(WIDTH, 6), nn.Identity()):
        with pytest.raises(LoadError, match="with the modules and parts given"):
            skvae.load(tmp_path / "model", encoder=wrong)
    with pytest.raises(LoadError, match="leave encoder out"):
        skvae.load(tmp_path / "plain", encoder=module(WIDTH))
    with pytest.raises(LoadError, match="leave decoder out"):
        skvae.load(tmp_path / "model", encoder=module(WIDTH), decoder=module(2))


def edit(folder, change, sign=True):
    """Change the parsed description; with `sign`, as someone would who also mends the checksum."""
    path = folder / "model.json"
    description = json.loads(path.read_text(encoding="utf-8"))
    change(description)
    if sign:
        description["sha256"] = _checksum(description["model"], (folder / "weights.safetensors").read_bytes())
    path.write_text(json.dumps(description), encoding="utf-8")


def replace_bytes(name, change):
    def damage(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(change(content))

    return damage


def set_in(*keys, value, sign=True):
    def change(description):
        for key in keys[:-1]:
            description = description[key]
        description[keys[-1]] = value

    return lambda folder: edit(folder, change, sign)


def flip(content, position):
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


DAMAGES = {
    "empty json": (replace_bytes("model.json", lambda b: b""), "missing or damaged"),
    "truncated json": (replace_bytes("model.json", lambda b: b[: len(b) // 2]), "missing or damaged"),
    "no text": (replace_bytes("model.json", lambda b: b"\xff\xfe\xff"), "missing or damaged"),
    "a list": (replace_bytes("model.json", lambda b: b"[1, 2]"), "missing or damaged"),
    "nested without end": (replace_bytes("model.json", lambda b: b"[" * 100_000), "missing or damaged"),
    "no format": (replace_bytes("model.json", lambda b: b"{}"), "missing or damaged"),
    "no model": (replace_bytes("model.json", lambda b: b'{"format": 1}'), "checksum"),
    "a digit": (replace_bytes("model.json", lambda b: b.replace(b'"lower": 1', b'"lower": 2')), "checksum"),
    "edited": (set_in("model", "settings", value=1, sign=False), "checksum"),
    "truncated weights": (replace_bytes("weights.safetensors", lambda b: b[:-4]), "checksum"),
    "empty weights": (replace_bytes("weights.safetensors", lambda b: b""), "checksum"),
    "flipped first byte": (replace_bytes("weights.safetensors", lambda b: flip(b, 0)), "checksum"),
    "flipped byte": (replace_bytes("weights.safetensors", lambda b: flip(b, len(b) - 1)), "checksum"),
    "no weights": (lambda folder: (folder / "weights.safetensors").unlink(), "is missing; copy the whole folder"),
    "no json": (lambda folder: (folder / "model.json").unlink(), "missing or damaged"),
    "later format": (set_in("format", value=FORMAT + 1), "upgrade scikit-vae"),
    "format zero": (set_in("format", value=0), "has format 0"),
    "format text": (set_in("format", value="1"), "has format '1'"),
    "unknown estimator": (set_in("model", "estimator", value="VAEWizard"), "'VAEWizard', an estimator that"),
    "not an estimator": (set_in("model", "estimator", value="BaseVAE"), "'BaseVAE', an estimator that"),
    "unknown part": (
        set_in("model", "params", "prior", value={"component": "Oracle", "params": {}}),
        "a part named 'Oracle'",
    ),
    "a part that is none": (
        set_in("model", "params", "prior", value={"component": "LatentVariableModel", "params": {}}),
        "a part named 'LatentVariableModel'",
    ),
    "unknown parameter": (set_in("model", "params", "wings", value=2), "does not describe a model"),
    "wrong part": (
        set_in("model", "params", "prior", value={"component": "ELBO", "params": {}}),
        "does not describe a model",
    ),
    "other shape": (set_in("model", "state", "settings", "latent_dim", value=3), "does not describe a model"),
    "no state": (set_in("model", "state", value={}), "does not describe a model"),
    "no params": (set_in("model", "params", value=[]), "does not describe a model"),
    "a column fewer": (
        lambda folder: edit(folder, lambda description: description["model"]["state"]["schema"]["columns"].pop(0)),
        "does not describe a model",
    ),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damage_is_told(case, folder):
    damage, message = DAMAGES[case]
    damage(folder)
    with pytest.raises(LoadError, match=message):
        skvae.load(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_never_changes_an_answer(name, folder, vae):
    content = (folder / name).read_bytes()
    rng = np.random.default_rng(0)
    n_refused = 0
    for position in rng.integers(0, len(content), 60):
        (folder / name).write_bytes(flip(content, position))
        try:
            loaded = skvae.load(folder)
        except LoadError:
            n_refused += 1
        else:  # white space
            np.testing.assert_array_equal(loaded.transform(X), vae.transform(X))
    assert n_refused > 20


def test_weights_of_another_model_are_refused(folder, tmp_path):
    small(latent_dim=3).fit(X).save(tmp_path / "other")
    (folder / "weights.safetensors").write_bytes((tmp_path / "other" / "weights.safetensors").read_bytes())
    with pytest.raises(LoadError, match="checksum"):
        skvae.load(folder)
    edit(folder, lambda description: None)
    with pytest.raises(LoadError, match="does not describe a model"):
        skvae.load(folder)


def test_a_device_that_is_not_here_is_replaced(folder, vae):
    set_in("model", "params", "device", value="cuda:77")(folder)
    with pytest.warns(UserWarning, match="device='cuda:77', which is not here"):
        loaded = skvae.load(folder)
    assert loaded.device == "auto"
    np.testing.assert_allclose(loaded.transform(X), vae.transform(X), atol=1e-5)


def test_nothing_to_load_or_to_save(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match="no saved model at"):
        skvae.load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="no saved model at"):
        skvae.load(folder / "model.json")
    with pytest.raises(NotFittedError):
        VAE().save(tmp_path / "unfitted")


def test_existing_folders(vae, folder, tmp_path):
    with pytest.raises(FileExistsError, match="pass overwrite=True"):
        vae.save(folder)
    other = small(random_state=1).fit(X)
    other.save(str(folder), overwrite=True)
    np.testing.assert_array_equal(skvae.load(str(folder)).transform(X), other.transform(X))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
    assert sorted(path.name for path in folder.iterdir()) == FILES

    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("long work")
    (tmp_path / "file").write_text("content")
    for path in (tmp_path / "thesis", tmp_path / "file"):
        with pytest.raises(FileExistsError, match="not a saved model and is not overwritten"):
            vae.save(path, overwrite=True)
    assert (tmp_path / "thesis" / "chapter1.txt").read_text() == "long work"
    with pytest.raises(FileNotFoundError, match="does not exist; create it first"):
        vae.save(tmp_path / "no" / "model")


def test_a_relative_path(vae, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    vae.save("here")
    np.testing.assert_array_equal(skvae.load("here").transform(X), vae.transform(X))


@pytest.mark.parametrize("n_writes", [0, 1])
@pytest.mark.parametrize("exists", [False, True])
def test_a_full_disk_leaves_nothing_behind(n_writes, exists, vae, tmp_path, monkeypatch):
    path = tmp_path / "model"
    if exists:
        vae.save(path)
    write_bytes, written = Path.write_bytes, []

    def full(self, data):
        if len(written) == n_writes:
            write_bytes(self, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(self)
        return write_bytes(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    other = small(random_state=1).fit(X)
    with pytest.raises(OSError, match="No space left"):
        other.save(path, overwrite=True)
    monkeypatch.undo()
    assert [entry.name for entry in tmp_path.iterdir()] == (["model"] if exists else [])
    if exists:
        np.testing.assert_array_equal(skvae.load(path).transform(X), vae.transform(X))


def test_a_failed_exchange_keeps_the_old_model(vae, folder, monkeypatch):
    rename = Path.rename

    def refuse_new(self, target):
        if self.name == "new":
            raise PermissionError(errno.EACCES, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse_new)
    with pytest.raises(PermissionError):
        small(random_state=1).fit(X).save(folder, overwrite=True)
    monkeypatch.undo()
    assert [entry.name for entry in folder.parent.iterdir()] == ["model"]
    np.testing.assert_array_equal(skvae.load(folder).transform(X), vae.transform(X))
