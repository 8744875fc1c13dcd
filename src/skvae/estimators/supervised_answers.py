"""What estimators with targets answer: predictions of one VAE or an ensemble, latents for targets; saving."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import nn

from skvae import persistence
from skvae.data.batch import Batch
from skvae.data.columns import Column
from skvae.estimators.base import to_numpy
from skvae.estimators.parameters import TakesVAEParameters
from skvae.estimators.reading import copy_features
from skvae.estimators.task import Task
from skvae.estimators.vae import VAE
from skvae.inference.predictive import Predictive
from skvae.inference.recall import Recall, Recalled
from skvae.model.likelihoods import Distribution

# Draws of z for a prediction through p(y|z), and rows predicted at once.
_N_DRAWS, _ROWS_AT_ONCE = 64, 2048


class SupervisedAnswers(ClassNamePrefixFeaturesOutMixin, TransformerMixin, TakesVAEParameters):
    """The estimators with targets, once fitted: each is one VAE of rows and targets, or an ensemble of them."""

    vae_: VAE
    estimators_: list[VAE]
    structure_: str
    target_weight_: float
    trials_: list[dict[str, Any]]
    _columns: tuple[Column, ...]
    _task: Task
    _slopes: np.ndarray
    _squeeze: bool = True
    _spread: np.ndarray | None = None
    recall_: Recall | None = None

    # -- asking

    def transform(self, X: Any) -> np.ndarray:
        """Posterior means of the latents, as `VAE.transform`; in an ensemble, those of the first member."""
        check_is_fitted(self)
        return to_numpy(self.estimators_[0]._means(self._rows(X)))

    @property
    def _n_features_out(self) -> int:
        return self.estimators_[0].model_.latent_dim

    def predict_distribution(self, X: Any) -> Predictive:
        """p(y|x) of each row: `mean`, `std`, `quantile`, `cdf`, `log_prob` and `crps`, in the units of y.

        Parameters
        ----------
        X : array or data frame [n, n_features]
        """
        check_is_fitted(self)
        return self._predictive_of(self.estimators_, self._rows(X), calibrated=True)

    def _inputs(self, X: Any) -> tuple[Any, torch.Tensor | None]:
        """The table that the members are made for, and what their encoders are told beside it."""
        return X, None

    def _rows(self, X: Any) -> Batch:
        """Rows as the members take them."""
        return self._as_members_take(*self._inputs(X))

    def _as_members_take(self, inputs: Any, told: torch.Tensor | None) -> Batch:
        return replace(self.estimators_[0]._rows(inputs), told=told)

    def _predictive_of(
        self, members: Sequence[VAE], rows: Batch, calibrated: bool = False, own: torch.Tensor | None = None
    ) -> Predictive:
        """p(y|x) by some members; with what is recalled, for rows that may be kept for that at positions `own`."""
        spread = self._spread if calibrated else None
        recalled = self._recalled(rows, own)
        return Predictive(self._answers(members, rows), self._columns, spread, self._squeeze, recalled)

    def _recalled(self, rows: Batch, own: torch.Tensor | None = None) -> list[Recalled] | None:
        """What is recalled for consecutive rows, which may be kept themselves, at positions `own`."""
        if self.recall_ is None:
            return None
        features = self._seen_features(rows)
        places = [None] * len(features) if own is None else own.split(_ROWS_AT_ONCE)
        return [self.recall_(piece, its) for piece, its in zip(features, places, strict=True)]

    def _answers(self, members: Sequence[VAE], rows: Batch) -> list[list[Distribution]]:
        """What each member says of consecutive rows."""
        pieces: list[list[Distribution]] = []
        for piece in rows.chunks(_ROWS_AT_ONCE):
            answers = []
            for member in members:
                eps = member._shared_noise(_N_DRAWS)
                with member._answering(len(piece) * _N_DRAWS):
                    answers.append(member.model_.predictive(piece, eps))  # type: ignore[operator]
            pieces.append(answers)
        return pieces

    def _seen_features(self, rows: Batch) -> list[torch.Tensor]:
        """Consecutive rows as they enter the first member's encoder, [B, F] each."""
        first = self.estimators_[0]
        with first._answering(_ROWS_AT_ONCE):
            return [first.model_.embedding(piece.values, piece.mask) for piece in rows.chunks(_ROWS_AT_ONCE)]

    def _in_units(self, rows: Batch) -> np.ndarray:
        """Targets [n, T] in their own units."""
        assert rows.target is not None
        offset = np.array([column.offset for column in self._columns])
        scale = np.array([column.scale for column in self._columns])
        return to_numpy(rows.target).astype(np.float64) * scale + offset

    # -- generating

    def _latents_given(self, target: torch.Tensor, stream: torch.Generator) -> torch.Tensor:
        """Draws from p(z|y) for encoded targets [n, T], [n, D]."""
        vae = self.estimators_[0]
        with vae._answering(len(target)):
            return vae.model_.latents_given(target.to(vae._device), stream)  # type: ignore[operator]

    def _latent_slopes(self, rows: Batch) -> np.ndarray:
        """How the posterior means move with the targets, one row per target or class."""
        raise NotImplementedError

    @property
    def latent_direction_(self) -> np.ndarray:
        """Unit vectors in the latent space along which the targets grow; of classes, from the centre of all to each.

        [D] for a single target of a regression, else [n_targets or n_classes, D].
        """
        check_is_fitted(self)
        norm = np.linalg.norm(self._slopes, axis=1, keepdims=True)
        directions = self._slopes / np.where(norm > 0, norm, 1.0)
        return directions[0] if self._squeeze and len(directions) == 1 else directions

    # -- saving

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Save the fitted estimator as a folder of JSON and safetensors; see `VAE.save`.

        The rows of `recall_`, if there are any, are in it, as they enter the encoder, with their targets.
        """
        check_is_fitted(self)
        persistence.save(self, Path(path), overwrite=overwrite)

    def _members(self) -> dict[str, VAE]:
        return {str(k): member for k, member in enumerate(self.estimators_)}

    @property
    def model_(self) -> nn.ModuleDict:
        """The torch modules of all members, and the rows that are recalled."""
        modules: dict[str, nn.Module] = {name: member.model_ for name, member in self._members().items()}
        return nn.ModuleDict(modules if self.recall_ is None else modules | {"recall": self.recall_})

    @property
    def history_(self) -> Any:
        """The training of the first member."""
        return self.estimators_[0].history_

    @property
    def schema_(self) -> Any:
        """The columns of X as seen at fit."""
        return self.vae_.schema_

    def _objective_tensors(self) -> dict[str, torch.Tensor]:
        return {
            f"{name}.{key}": value
            for name, member in self._members().items()
            for key, value in member._objective_tensors().items()
        }

    @property
    def _saved_objective(self) -> Any:
        return None

    @_saved_objective.setter
    def _saved_objective(self, tensors: dict[str, torch.Tensor]) -> None:
        for name, member in self._members().items():
            prefix = f"{name}."
            member._saved_objective = {
                key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
            }

    def _saved_state(self) -> dict[str, Any]:
        return {
            "members": {name: member._saved_state() for name, member in self._members().items()},
            "slopes": self._slopes.tolist(),
            "spread": None if self._spread is None else self._spread.tolist(),
            "recall": None if self.recall_ is None else self.recall_.to_dict(),
            "squeeze": self._squeeze,
            "trials": self.trials_,
        }

    def _restore_state(self, state: dict[str, Any]) -> None:
        members = {}
        for name, its_state in state["members"].items():
            members[name] = VAE(**(self._member_params() if name.isdigit() else self._vae_params()))
            members[name]._restore_state(its_state)
        self._adopt(members)
        self._slopes = np.array(state["slopes"])
        self._spread = None if state["spread"] is None else np.array(state["spread"])
        recall = state.get("recall")  # which folders of before have not
        self.recall_ = None if recall is None else Recall(**recall).to(self.vae_._device)
        self._squeeze, self.trials_ = state["squeeze"], state["trials"]

    def _member_params(self) -> dict[str, Any]:
        """Parameters of the members."""
        return self._vae_params()

    def _adopt(self, members: dict[str, VAE]) -> None:
        """Take over restored members."""
        self.estimators_ = [member for name, member in members.items() if name.isdigit()]
        self.vae_ = self.estimators_[0]
        task = self.estimators_[0]._task
        assert task is not None
        self._task, self._columns = task, task.targets
        self.structure_, self.target_weight_ = task.structure, task.weight
        copy_features(self.vae_, self)

    def __sklearn_is_fitted__(self) -> bool:
        return "estimators_" in vars(self)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags
