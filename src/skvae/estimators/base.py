"""What the estimators share: making and training the model, saving it."""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin, clone
from sklearn.utils.validation import (
    _check_sample_weight,
    check_consistent_length,
    check_is_fitted,
    check_random_state,
)

from skvae import persistence
from skvae.data.batch import Batch
from skvae.data.image_schema import ImageSchema, infer_schema, schema_from_dict
from skvae.data.schema import Schema
from skvae.data.source import opened, reading
from skvae.data.table import Table as RawTable
from skvae.estimators.reading import ReadsRows, copy_features, warn_of_identifiers
from skvae.estimators.settings import Settings, check_parameters, settle
from skvae.estimators.task import Task
from skvae.inference.joint_density import JOINT_LEARNING_RATE, OPENING_BETA, SHARES, Opening, train_with_density
from skvae.inference.latent_density import fit_latent_density
from skvae.model import MLP, ConvNet, Likelihood, Network, Objective, Posterior, Prior, Table
from skvae.model.component import choices, resolve
from skvae.model.likelihoods.table import pixel_likelihood
from skvae.model.missingness import Missingness
from skvae.model.networks import Custom, network
from skvae.model.objectives import Supervised
from skvae.model.vae import LatentVariableModel
from skvae.training import History, Noise, Plan, fit
from skvae.training.engine import choose_device, threads_for
from skvae.training.randomness import seeded_torch
from skvae.training.selection import choose

# Fewer rows than this are all needed for training.
_MIN_ROWS_TO_SPLIT = 50
# Weights that are judged and kept: a running mean over some hundred steps.
_AVERAGING = 0.998

_PARTS = {
    "likelihood": Likelihood,
    "prior": Prior,
    "posterior": Posterior,
    "objective": Objective,
    "encoder": Network,
    "decoder": Network,
    "missing": Missingness,
    "latent_density": Prior,
}
# What a model is made from; a fit that continues cannot change it.
_MADE_FROM = (
    *(name for name in _PARTS if name != "latent_density"),
    "latent_dim",
    "hidden_sizes",
    "masking",
    "column_kinds",
    "image_shape",
)


class also_parameter:
    """Marks a method whose name is also that of a constructor's parameter.

    Reading the attribute gives the method; assigning to it sets the parameter, which `get_params` returns.
    """

    def __init__(self, method: Callable[..., Any]) -> None:
        self.method = method
        functools.update_wrapper(self, method)  # type: ignore[arg-type]

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Callable[..., Any]:
        return self.method.__get__(instance, owner)

    def __set__(self, instance: Any, value: Any) -> None:
        vars(instance)[self.name] = value


class BaseVAE(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ReadsRows):
    """Shared by all estimators: tables in, checked against the schema; one way to make, train and save."""

    settings_: dict[str, Any]
    likelihood_: Table
    history_: History
    _decided: dict[str, Any]
    _task: Task | None = None

    def _begin(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        *,
        anew: bool,
        target: torch.Tensor | None = None,
        told: torch.Tensor | None = None,
    ) -> tuple[Batch, int]:
        """Check everything, make the model unless one is continued; rows to learn from, and a seed."""
        params = self.get_params(deep=False)
        check_parameters(params)
        if self._takes_images(X, anew):
            X = self._read(X, reset=anew)
        else:
            X = opened(X, None if anew else self.schema_, **reading(params["column_kinds"]))
        table = self._read(X, reset=anew, min_rows=2 if anew else 1)
        if y is not None:
            check_consistent_length(X, y)
        weight = None if sample_weight is None else _check_sample_weight(sample_weight, X, ensure_non_negative=True)
        seed = new_seed(params["random_state"])
        labelled = target is not None and not bool(target.isnan().any())
        if anew:
            likelihood, ignored = params["likelihood"], params["missing"] == "ignore"
            named = list(likelihood) if isinstance(likelihood, Mapping) else []
            # Where holes are modelled, each column has its own.
            schema = infer_schema(table, params["column_kinds"], Table(likelihood).kinds, named if ignored else None)
            if isinstance(table, RawTable):
                warn_of_identifiers(table, params["column_kinds"] or {})
            settings = settle(params, schema, table.n_rows, labelled)
            self._assemble(schema, settings, seed)  # what does not fit together is refused before any work
        else:
            self._continue(params, table.n_rows, labelled)
            # Each continuation draws its own noise, whatever the seed.
            seed += self.history_.info["n_steps"]
        rows = replace(self._encode(table), told=told)
        if target is not None:
            rows = replace(rows, target=target.to(rows.values.device))
        rows = _weighted(rows, weight)
        if anew:
            undecided = self.likelihood_.undecided(schema.modelled) if isinstance(schema, Schema) else []
            if made := choose(schema.modelled, undecided, rows, seed):
                self._assemble(schema, settings, seed, {name: choice.likelihood for name, choice in made.items()})
                self._decided = {"likelihood": {name: choice.to_dict() for name, choice in made.items()}}
        return rows, seed

    def _assemble(
        self,
        schema: Schema | ImageSchema,
        settings: Settings,
        seed: int,
        chosen: Mapping[str, Likelihood] | None = None,
    ) -> None:
        """Make the untrained model, with the likelihoods chosen for columns that are left to "auto"."""
        params = self.get_params(deep=False)
        body = ConvNet() if settings.hidden_sizes is None else MLP(settings.hidden_sizes)
        image_shape, likelihood = None, Table(params["likelihood"], chosen)
        if isinstance(schema, ImageSchema):
            image_shape = schema.image_shape
            if params["likelihood"] == "auto":
                likelihood = Table(pixel_likelihood(schema.pixel))
        objective = resolve(Objective, params["objective"], "objective")
        make: Callable[..., LatentVariableModel] = LatentVariableModel
        encoder = body
        if self._task is not None:
            if isinstance(body, MLP):
                encoder = MLP(body.hidden_sizes, dropout=self._task.dropout)
            self._task.check(objective)
            objective, make = Supervised(objective, self._task.weight), self._task.model
        objective.check()
        device = choose_device(params["device"])
        with seeded_torch(seed):
            model = make(
                schema.modelled,
                latent_dim=settings.latent_dim,
                encoder=network(params["encoder"], encoder, "encoder"),
                decoder=network(params["decoder"], body.reversed(), "decoder"),
                posterior=resolve(Posterior, params["posterior"], "posterior"),
                prior=resolve(Prior, params["prior"], "prior"),
                likelihood=likelihood,
                missing=resolve(Missingness, params["missing"], "missing"),
                image_shape=image_shape,
                masks=settings.masking > 0 or any(column.missing for column in schema.modelled),
            )
        self.__dict__.pop("history_", None)
        self.schema_ = schema
        self.settings_ = settings.to_dict()
        self.model_ = model.to(device).eval()
        self.likelihood_ = model.likelihood
        self._decided = {}
        self._objective = objective.to(device)
        self._noise_seed = seed
        self._optimizer_state: dict[str, Any] | None = None
        self._saved_objective: dict[str, torch.Tensor] | None = None
        self._made_from = {name: repr(params[name]) for name in _MADE_FROM}

    def _sibling(self, task: Task | None, seed: int) -> Self:
        """An untrained estimator for the same rows: other weights, another task."""
        other = clone(self)
        other._task = task
        copy_features(self, other)
        other._assemble(self.schema_, Settings.from_dict(self.settings_), seed, self.likelihood_.chosen)
        other._decided = dict(self._decided)
        return other

    def _continue(self, params: dict[str, Any], n_rows: int, labelled: bool) -> None:
        """Settle for more training of the same model what may change from fit to fit."""
        for name, before in self._made_from.items():
            if repr(params[name]) != before:
                raise changed(name, repr(params[name]), before)
        now = settle(params, self.schema_, n_rows, labelled)
        self.settings_ = replace(
            Settings.from_dict(self.settings_),
            max_epochs=now.max_epochs,
            batch_size=now.batch_size,
            learning_rate=now.learning_rate,
            patience=now.patience,
            latent_density=now.latent_density,
        ).to_dict()

    def _split(self, rows: Batch) -> tuple[Batch, Batch | None]:
        """Rows to train on and rows to validate on, the same for every fit that continues."""
        params = self.get_params(deep=False)
        if not params["early_stopping"] or len(rows) < _MIN_ROWS_TO_SPLIT:
            return rows, None
        order = torch.randperm(len(rows), generator=Noise(self._noise_seed).stream("split")).to(rows.values.device)
        n_validation = min(len(rows) - 1, max(1, round(params["validation_fraction"] * len(rows))))
        return rows.rows(order[n_validation:].sort().values), rows.rows(order[:n_validation].sort().values)

    def _plan(self, *, decay: bool) -> Plan:
        params = self.get_params(deep=False)
        return Plan(
            max_epochs=self.settings_["max_epochs"] if decay else 1,
            batch_size=self.settings_["batch_size"],
            learning_rate=self.settings_["learning_rate"],
            decay=decay,
            patience=self.settings_["patience"],
            masking=self.settings_["masking"],
            averaging=_AVERAGING,
            precision=params["precision"],
            compile=params["compile"],
            verbose=params["verbose"],
        )

    def _train(
        self,
        train: Batch,
        validation: Batch | None,
        seed: int,
        *,
        decay: bool,
        objective: Objective | None = None,
        max_epochs: int | None = None,
    ) -> None:
        """Train the model; `objective` and `max_epochs` stand in for those of the settings, if given."""
        params = self.get_params(deep=False)
        plan = self._plan(decay=decay)
        plan = plan if max_epochs is None else replace(plan, max_epochs=max_epochs)
        if self._saved_objective is not None:  # of a loaded model, whose objective meets its first rows here
            with torch.no_grad(), seeded_torch(seed):
                self._objective.prepare(self.model_, train)
            self._objective.load_state_dict(self._saved_objective)
            self._saved_objective = None
        self.model_.latent_density = None  # it is that of other weights
        # Without a history the estimator is not fitted: half-trained weights answer nothing.
        before = self.__dict__.pop("history_", None)
        history, self._optimizer_state = fit(
            self.model_,
            objective or self._objective,
            train,
            validation,
            plan,
            Noise(seed, self._device),
            column_names=[column.name for column in self.schema_.modelled],
            callbacks=params["callbacks"] or (),
            anew=before is None,
            optimizer_state=self._optimizer_state,
        )
        history.info |= self._decided
        self.history_ = history if before is None else _joined(before, history)

    def _fit_latent_density(self, train: Batch, validation: Batch | None, seed: int) -> None:
        """Give the trained model a density of its latents, if one is wanted and better than its prior."""
        choice = self.settings_["latent_density"]
        self.history_.info.pop("latent_density", None)
        if choice is None or not self.model_.has_free_latents:
            return
        if choice == "given":
            choice = self.get_params(deep=False)["latent_density"]
        found = fit_latent_density(
            self.model_, train, validation, choice, self.get_params(deep=False)["quality"], Noise(seed, self._device)
        )
        if found is None:
            return
        self.history_.info["latent_density"] = found.to_dict()
        if found.prior is not self.model_.prior:
            self.model_.latent_density = found.prior

    def _train_jointly(self, train: Batch, validation: Batch | None, seed: int) -> None:
        """Train with a light KL, fit a density to the latents, train both together, and fit the density once more.

        The density is trained on rows with entries hidden too, whose posteriors are not quite as they should be; so
        the last step, of whole rows alone.
        """
        quality, device = self.get_params(deep=False)["quality"], self._device
        n_opening, n_joint = (max(1, round(share * self.settings_["max_epochs"])) for share in SHARES[quality])
        opening = Opening(OPENING_BETA)
        self._train(train, validation, seed, decay=True, objective=opening, max_epochs=n_opening)
        if self.history_.info["stopped"] == "callback":
            self._fit_latent_density(train, validation, seed)
            return
        noise = Noise(seed + self.history_.info["n_steps"], device)
        fitted = fit_latent_density(self.model_, train, validation, "autoregressive", quality, noise)
        assert fitted is not None
        before = self.__dict__.pop("history_")
        plan = self._plan(decay=True)
        plan = replace(plan, max_epochs=n_joint, learning_rate=JOINT_LEARNING_RATE * plan.learning_rate)
        history = train_with_density(
            self.model_,
            fitted.prior,
            self._objective,
            train,
            validation,
            plan,
            noise,
            column_names=[column.name for column in self.schema_.modelled],
            callbacks=self.get_params(deep=False)["callbacks"] or (),
        )
        self.history_ = _joined(before, history)
        found = fit_latent_density(self.model_, train, validation, fitted.prior, quality, noise, go_on=True)
        assert found is not None
        self.model_.latent_density = found.prior
        self.history_.info["latent_density"] = {**found.to_dict(), "joint": True}

    @property
    def _prior_of_bound(self) -> Prior:
        """The prior under which the bound was maximised at the end of training."""
        joint = self.history_.info.get("latent_density", {}).get("joint", False)
        return self.prior_ if joint else self.model_.prior

    @property
    def prior_(self) -> Prior:
        """p(z) of all that is generated, completed and scored: the density fitted to the latents after training, or
        the prior of training, `model_.prior`, where none was better."""
        return self.model_.density

    @contextlib.contextmanager
    def _answering(self, n_latents: int) -> Iterator[None]:
        """Where the fitted model is asked about `n_latents` latents: no gradients, one thread for small work."""
        n_weights = sum(p.numel() for p in self.model_.parameters())
        with torch.no_grad(), threads_for(n_latents * n_weights):
            yield

    @property
    def _n_features_out(self) -> int:
        return self.model_.latent_dim

    @property
    def encoder_(self) -> Any:
        """The trained encoder network; the copy of your own module, where you gave one."""
        return _unwrapped(self.model_.encoder)

    @property
    def decoder_(self) -> Any:
        """The trained decoder network; the copy of your own module, where you gave one."""
        return _unwrapped(self.model_.decoder)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters by name; with `deep`, those of components as `name__parameter`."""
        params = super().get_params(deep=deep)
        for name in params:
            if isinstance(inspect.getattr_static(type(self), name, None), also_parameter):
                params[name] = value = vars(self)[name]
                if deep and hasattr(value, "get_params"):
                    params = params | {f"{name}__{key}": nested for key, nested in value.get_params().items()}
        return params

    def set_params(self, **params: Any) -> Self:
        """Set parameters, those of components as `name__parameter`.

        Raises
        ------
        ValueError
            For an unknown parameter, or a nested one of something that has no parameters.
        """
        current = self.get_params(deep=False)
        for key in params:
            name, _, rest = key.partition("__")
            if not rest or name not in current:
                continue
            value = params.get(name, current[name])
            if not hasattr(value, "set_params"):
                known = choices(_PARTS[name]) if name in _PARTS else {}
                part = known.get(value) if isinstance(value, str) else None
                example = f"an object, for example {name}=skvae.{part.__name__}()" if part else "an object"
                what = ", which is a string" if isinstance(value, str) else ", which has no parameters"
                raise ValueError(
                    f"'{key}' asks for a parameter of {name}={value!r}{what}; give {name} as {example}, and then "
                    f"set '{key}'"
                )
        return super().set_params(**params)

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Save the fitted estimator as a folder of JSON and safetensors; `skvae.load` reads it.

        The folder appears complete or not at all. No training row is stored in it, but what the columns are is:
        their names, levels, bounds, quantiles and repeated values. Of parts of your own the folder has the
        weights and the parameters, but no code: `load` asks you for their classes. Callbacks and a RandomState
        are not saved.

        Parameters
        ----------
        path : str or Path
        overwrite : bool
            Whether an existing model at `path` may be replaced.

        Raises
        ------
        FileExistsError
            If `path` exists and `overwrite` is false, or is not a saved model.
        TypeError
            If a parameter, or one of a part, has no form in JSON.
        """
        check_is_fitted(self)
        persistence.save(self, Path(path), overwrite=overwrite)

    def _objective_tensors(self) -> dict[str, torch.Tensor]:
        """The objective's parameters and buffers; those of a loaded model wait until it is trained further."""
        return self._objective.state_dict() if self._saved_objective is None else self._saved_objective

    def _saved_state(self) -> dict[str, Any]:
        return {
            "schema": self.schema_.to_dict(),
            "settings": self.settings_,
            "history": self.history_.to_dict(),
            "noise_seed": self._noise_seed,
            "likelihood": {name: persistence.encode(part) for name, part in (self.likelihood_.chosen or {}).items()},
            "n_features_in": self.n_features_in_,
            "has_feature_names": hasattr(self, "feature_names_in_"),
            "task": None if self._task is None else self._task.to_dict(),
            "latent_density": persistence.encode(self.model_.latent_density),
        }

    def _restore_state(self, state: dict[str, Any]) -> None:
        schema = schema_from_dict(state["schema"])
        chosen = {name: persistence.decode(part) for name, part in state.get("likelihood", {}).items()}
        if state.get("task") is not None:
            self._task = Task.from_dict(state["task"])
        self._assemble(schema, Settings.from_dict(state["settings"]), state["noise_seed"], chosen)
        density = persistence.decode(state.get("latent_density"))
        if density is not None:
            self.model_.latent_density = density.bind(self.model_.latent_dim).requires_grad_(False).to(self._device)
        self.history_ = History.from_dict(state["history"])
        self.n_features_in_ = state["n_features_in"]
        if state["has_feature_names"]:
            self.feature_names_in_ = np.array([column.name for column in schema.columns], dtype=object)

    def __sklearn_is_fitted__(self) -> bool:
        return "history_" in vars(self)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


def to_numpy(tensor: Any) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def changed(name: str, now: str, before: str) -> ValueError:
    """What a fit that goes on says of a parameter that is not as it was when the model was made."""
    return ValueError(
        f"{name}={now}, but the model to be continued was made with {before}; set it back, or fit a new one with "
        "warm_start=False"
    )


def _unwrapped(part: Network) -> Any:
    return part.module if isinstance(part, Custom) else part


def new_seed(random_state: Any) -> int:
    """A seed drawn from a `random_state` parameter; None leaves numpy's global stream alone."""
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0]) >> 1
    return int(check_random_state(random_state).randint(2**31 - 1))


def seeds_of_batches(random_state: Any) -> Iterator[Any]:
    """A `random_state` for each of any number of batches; the first is that given."""
    yield random_state
    for batch in itertools.count(1):
        if isinstance(random_state, Integral):
            yield int(np.random.SeedSequence([int(random_state), batch]).generate_state(1)[0] >> 1)
        else:  # None, or a stream that has moved on
            yield random_state


def _weighted(rows: Batch, weight: np.ndarray | None) -> Batch:
    """The rows of positive weight, with weights of mean 1."""
    if weight is None:
        return rows
    if not weight.any():
        raise ValueError("sample_weight is 0 for every row; give some rows a positive weight")
    weight = weight / weight.max()  # so that the sum is finite
    w = torch.from_numpy((weight / weight.mean()).astype(np.float32)).to(rows.values.device)
    counted = w > 0
    rows, w = rows.rows(counted.nonzero().squeeze(1)), w[counted]
    return replace(rows, weight=w / w.mean())


def _joined(before: History, after: History) -> History:
    """One history of a model that was trained further."""
    done, last = before.info["n_steps"], before.epochs[-1]
    shift = {"epoch": last["epoch"], "step": done, "seconds": last["seconds"]}
    epochs = [record | {name: record[name] + by for name, by in shift.items()} for record in after.epochs]
    totals = {
        "best_epoch": after.info["best_epoch"] + last["epoch"],
        "n_steps": after.info["n_steps"] + done,
    }
    return History([*before.epochs, *epochs], before.info | after.info | totals)
