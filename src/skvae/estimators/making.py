"""Making the model for the rows of a fit, and training it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import clone
from sklearn.utils.validation import _check_sample_weight, check_consistent_length

from skvae.data.batch import Batch
from skvae.data.image_schema import ImageSchema, infer_schema
from skvae.data.schema import Schema
from skvae.data.source import opened, reading
from skvae.data.table import Table as RawTable
from skvae.estimators.reading import ReadsRows, copy_features, warn_of_identifiers
from skvae.estimators.settings import Settings, check_parameters, settle
from skvae.estimators.task import Task
from skvae.inference.joint_density import JOINT_LEARNING_RATE, OPENING_BETA, SHARES, Opening, train_with_density
from skvae.inference.latent_density import fit_latent_density
from skvae.model import MLP, ConvNet, Likelihood, Network, Objective, Posterior, Prior, Table
from skvae.model.component import resolve
from skvae.model.likelihoods.table import pixel_likelihood
from skvae.model.missingness import Missingness
from skvae.model.networks import network
from skvae.model.objectives import Supervised
from skvae.model.vae import LatentVariableModel
from skvae.training import History, Noise, Plan, fit
from skvae.training.engine import choose_device
from skvae.training.randomness import new_seed, seeded_torch
from skvae.training.selection import choose

# Fewer rows than this are all needed for training.
_MIN_ROWS_TO_SPLIT = 50
# Weights that are judged and kept: a running mean over some hundred steps.
_AVERAGING = 0.998

PARTS = {
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
    *(name for name in PARTS if name != "latent_density"),
    "latent_dim",
    "hidden_sizes",
    "masking",
    "column_kinds",
    "image_shape",
)


class TrainsModel(ReadsRows):
    """An estimator that makes its model for the rows of a fit and trains it; one way for all."""

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


def changed(name: str, now: str, before: str) -> ValueError:
    """What a fit that goes on says of a parameter that is not as it was when the model was made."""
    return ValueError(
        f"{name}={now}, but the model to be continued was made with {before}; set it back, or fit a new one with "
        "warm_start=False"
    )


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
