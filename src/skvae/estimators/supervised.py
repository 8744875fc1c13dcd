"""How VAERegressor and VAEClassifier are fitted: labelled rows, candidates, ensembles."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch

from skvae.data.batch import Batch
from skvae.estimators.making import changed
from skvae.estimators.reading import copy_features
from skvae.estimators.supervised_answers import SupervisedAnswers
from skvae.estimators.task import Task
from skvae.estimators.vae import VAE
from skvae.inference.recall import Recall, kept
from skvae.model import Prior, Table
from skvae.model.checks import is_number, is_whole
from skvae.model.component import resolve
from skvae.training import Noise

# Fewer labelled rows than this are all needed for training.
MIN_LABELLED_TO_SPLIT = 100
# With fewer, the bins of numeric columns would be learned by heart.
_MIN_LABELLED_FOR_BINS = 300
# Labelled rows make up at least this share of those of an epoch; the rarer are repeated, with less weight each.
_MIN_LABELLED_SHARE = 0.25
# Members of an ensemble where that is left open, at most, and rows that they may have together: the more rows, the
# more they agree, and the longer each takes.
_MEMBERS, _ROWS_OF_MEMBERS = 5, 100_000
# Rows set aside for calibration, at least and at most.
_MIN_CALIBRATION, _MAX_CALIBRATION = 20, 1_000
# α per labelled row, but no less than for a hundred, lest few labels be outvoted, and no more than so much per column
# of x; and the factor of the lighter one that is tried too.
_PER_LABELLED, _LEAST, _PER_COLUMN, _LIGHTER = 0.1, 10.0, 10.0, 0.1
# Part of the planned epochs that each candidate is given before one is chosen; a model that was best before that part
# of these is overfitted by more of them.
_TRIAL, _LATE = 0.25, 0.75
# Share of the encoder's units dropped in training; chosen on splits inside training rows of concrete and red wine.
_DROPOUT = 0.1


class SupervisedVAE(SupervisedAnswers):
    """Shared by the estimators with targets.

    Subclasses say what targets they take (`_targets`), which structures and likelihoods come into question
    (`_structures`, `_target_table`), how rows are held out, and what is fitted after training (`_calibrate`).
    """

    def fit(self, X: Any, y: Any, *, sample_weight: Any = None) -> Self:
        """Fit the model to rows with and without targets.

        Parameters
        ----------
        X : array or data frame [n, n_features]
            Or the path of a csv or parquet file. Entries may be missing.
        y : array [n] or [n, n_targets]
        sample_weight : array [n], optional

        Returns
        -------
        self

        Raises
        ------
        ColumnError
            A column that cannot be used as it is.
        ValueError
            A parameter or target that is out of range.
        TrainingError
            If the loss becomes and stays non-finite.
        """
        if self.warm_start and self.__sklearn_is_fitted__():
            return self._go_on(X, y, sample_weight, decay=True)
        self._check_own()
        self.__dict__.pop("estimators_", None)  # which would answer for other targets, if anything below fails
        y = self._targets(y, reset=True)
        first, rows, seed = self._first(X, y, sample_weight, whole=True)
        train, validation, calibration = self._held_out(rows, seed)
        self.trials_ = []
        task = self._default_task(rows)
        if validation is None:
            one = _trained(first, task, first.settings_, train, validation, seed)
        else:
            one = self._best_of_trials(task, first, train, validation, seed)
            assert one._task is not None
            task = one._task
        one._fit_latent_density(train, validation, seed)  # all rows are made by its decoder
        members, held_out = [one], [validation]
        for k in range(1, self._n_members(rows)):
            its_train, its_validation, _ = self._held_out(rows, seed, k)
            members.append(_trained(first, task, one.settings_, its_train, its_validation, seed + k))
            held_out.append(its_validation)
        for member in members:
            member.history_.info |= {"structure": task.structure, "target_weight": task.weight}
        self._finish(members, task, rows, held_out, calibration)
        return self

    def _first(self, X: Any, y: np.ndarray, sample_weight: Any, *, whole: bool = False) -> tuple[VAE, Batch, int]:
        """A VAE for the rows, not trained; the encoded rows with their targets; a seed.

        `whole` says that no more rows are expected.
        """
        self.recall_ = None
        vae = VAE(**self._member_params())
        weight = self._row_weight(y, sample_weight)
        X, told = self._inputs(X)
        target = torch.from_numpy(y.astype(np.float32))
        rows, seed = vae._begin(X, y, weight, anew=True, target=target, told=told)
        _check_targets(rows)
        self._schema_columns = vae.schema_.modelled
        copy_features(vae, self)
        return vae, rows, seed

    def _row_weight(self, y: np.ndarray, sample_weight: Any) -> Any:
        return sample_weight

    def _best_of_trials(self, task: Task, first: VAE, train: Batch, validation: Batch, seed: int) -> VAE:
        """The first member, with what "auto" leaves open settled one after the other, as held-out targets ask for.

        Each candidate is trained for a quarter of the planned epochs, and takes the place of the one before it if it
        is better by more than the standard error of the difference, row by row. The chosen one is then trained anew
        for as long as planned, unless that quarter was already too long for it: with the learning rate still high, a
        longer plan only stops earlier. Whichever of the two predicts better is kept.
        """
        params = self.get_params(deep=False)
        planned = first.settings_
        short = planned | {"max_epochs": max(1, round(_TRIAL * planned["max_epochs"]))}
        structures = self._candidates(task.partly_labelled) if params["structure"] == "auto" else []
        weights = [task.weight, task.weight * _LIGHTER] if params["target_weight"] == "auto" else []
        tried: dict[tuple[str, float, float, int], tuple[VAE, np.ndarray]] = {}

        def trained(candidate: Task, settings: dict[str, Any]) -> tuple[VAE, np.ndarray]:
            """The model, and log p(y|x) of each held-out row."""
            key = candidate.structure, candidate.weight, candidate.dropout, settings["max_epochs"]
            if key not in tried:
                trial = _trained(first, candidate, settings, train, validation, seed)
                log_p = self._held_out_log_p(trial, validation)
                tried[key] = trial, log_p
                names = ("structure", "target_weight", "dropout", "max_epochs", "log_p_y")
                self.trials_.append(dict(zip(names, (*key, float(log_p.mean())), strict=True)))
            return tried[key]

        def better(one: Task, other: Task) -> Task:
            gain = trained(other, short)[1] - trained(one, short)[1]
            return other if gain.mean() > gain.std() / np.sqrt(len(gain)) else one

        for structure in structures[1:]:
            task = better(task, replace(task, structure=structure))
        for weight in weights[1:]:
            task = better(task, replace(task, weight=weight))
        if structures:  # everything is open; targets without noise are better learned by all units
            task = better(task, replace(task, dropout=0.0))
        if params["max_epochs"] != "auto":
            return trained(task, planned)[0]
        model, log_p = trained(task, short)
        info = model.history_.info
        if info["stopped"] == "early" or info["best_epoch"] <= _LATE * short["max_epochs"]:
            return model
        if params["patience"] == "auto":  # the quarter has shown that most of it is needed
            planned = planned | {"patience": max(planned["patience"], planned["max_epochs"] // 4)}
        longer, its_log_p = trained(task, planned)
        return longer if its_log_p.mean() > log_p.mean() else model

    def partial_fit(self, X: Any, y: Any, *, sample_weight: Any = None) -> Self:
        """Make one pass over X and y, starting a model if there is none; without anything held out.

        Parameters
        ----------
        X : array or data frame [n, n_features]
        y : array [n] or [n, n_targets]
        sample_weight : array [n], optional

        Returns
        -------
        self
        """
        if self.__sklearn_is_fitted__():
            return self._go_on(X, y, sample_weight, decay=False)
        self._check_own()
        y = self._targets(y, reset=True)
        first, rows, seed = self._first(X, y, sample_weight)
        task = self._default_task(rows)
        members = [first._sibling(task, seed + k) for k in range(self._n_members(rows))]
        for k, member in enumerate(members):
            member._train(rows, None, seed + k, decay=False)
        self.trials_ = []
        self._finish(members, task, rows, [], None)
        return self

    def _go_on(self, X: Any, y: Any, sample_weight: Any, *, decay: bool) -> Self:
        """Train the members further."""
        params = self.get_params(deep=False)
        for name, allowed in self._made_with().items():
            now = params[name]
            if now not in allowed and repr(now) not in map(repr, allowed):
                raise changed(name, repr(now), repr(allowed[-1]))
        (X, told), y = self._inputs(X), self._targets(y, reset=False)
        if np.isnan(y).any() and not (self._task.partly_labelled or self._task.structure == "joint"):
            raise ValueError(
                "y has rows without a target, and all had one when the model to be continued was made; pass labelled "
                "rows, or fit a new model with some that are not"
            )
        weight = self._row_weight(y, sample_weight)
        target = torch.from_numpy(y.astype(np.float32))
        held_out = []
        for k, member in enumerate(self.estimators_):
            member.set_params(**self._member_params())
            rows, seed = member._begin(X, y, weight, anew=False, target=target, told=told)
            _check_targets(rows)
            # By the same seed for all, lest the rows that calibrate had served a member.
            parts = self._held_out(rows, self.estimators_[0]._noise_seed, k) if decay else (rows, None, None)
            train, validation, calibration = parts
            held_out.append(validation)
            member._train(_repeated(train), validation, seed, decay=decay)
            if decay and k == 0:
                member._fit_latent_density(train, validation, seed)
        self._finish(self.estimators_, self._task, rows, held_out, calibration)
        return self

    def _finish(
        self, members: list[VAE], task: Task, rows: Batch, held_out: list[Batch | None], calibration: Batch | None
    ) -> None:
        self.estimators_, self.vae_ = members, members[0]
        self.structure_, self.target_weight_, self._task = task.structure, task.weight, task
        self._slopes = self._latent_slopes(rows)
        self.recall_ = None
        own = [(member, its) for member, its in zip(members, held_out, strict=False) if its is not None]
        self._calibrate(rows, own, calibration)

    def _fit_recall(
        self, rows: Batch, held_out: list[tuple[VAE, Batch]], log_p: np.ndarray, calibration: Batch | None
    ) -> list[torch.Tensor] | list[None]:
        """Keep labelled rows to be recalled, if the held-out targets of each member become likelier by it.

        Those that calibrate are not among them, lest intervals be made for rows that are recalled themselves.

        Parameters
        ----------
        log_p : ndarray [n, T]
            log p(y|x) of all held-out rows, by the member that has held each out.

        Returns
        -------
        list of Tensor or None
            Where the rows held out of each member are among those kept.
        """
        if not self.get_params(deep=False)["recall"]:
            return [None] * len(held_out)
        keep = self._labelled(rows)
        if rows.weight is not None:
            keep = keep[rows.weight[keep] > 0]
        if calibration is not None:
            assert calibration.index is not None
            keep = keep[~torch.isin(keep, calibration.index)]
        keep = keep[kept(len(keep)).to(keep.device)]
        some = rows.rows(keep)
        assert some.target is not None
        recall = Recall.of(self._seen_features(some), some.target, some.weight)
        place = torch.full((len(rows),), -1, device=keep.device)
        place[keep] = torch.arange(len(keep), device=keep.device)
        own = [place[its.index] for _, its in held_out]
        found = recall.fit(
            torch.cat([features for _, its in held_out for features in self._seen_features(its)]),
            torch.cat(own),
            torch.cat([its.target for _, its in held_out if its.target is not None]),
            torch.from_numpy(log_p).to(some.target),
            self._columns,
            self._answers([held_out[0][0]], held_out[0][1].rows(torch.zeros_like(own[0][:1])))[0][0],
        )
        self.recall_ = recall if found else None
        return own

    def _check_own(self) -> None:
        """Refuse own parameters that are out of range."""
        params = self.get_params(deep=False)
        known = ("auto", *self._structures)
        if params["structure"] not in known:
            raise ValueError(f"structure={params['structure']!r}: expected one of {known}")
        weight = params["target_weight"]
        if weight != "auto" and not (is_number(weight) and 0 < weight < float("inf")):
            raise ValueError(f"target_weight={weight!r}: expected 'auto' or a number > 0")
        if params["recall"] not in (True, False):
            raise ValueError(f"recall={params['recall']!r}: expected True or False")
        n = params["n_estimators"]
        if n != "auto" and not (is_whole(n) and n >= 1):
            raise ValueError(f"n_estimators={n!r}: expected 'auto' or a whole number ≥ 1")

    def _default_task(self, rows: Batch) -> Task:
        """What is done where validation does not choose."""
        assert rows.target is not None
        params = self.get_params(deep=False)
        partly = bool(rows.target.isnan().any())
        structure, weight = params["structure"], params["target_weight"]
        return Task(
            structure=self._candidates(partly)[0] if structure == "auto" else structure,
            targets=self._columns,
            likelihood=self._target_table(rows),
            weight=self._default_weight(rows) if weight == "auto" else float(weight),
            partly_labelled=partly,
            piecewise=self._n_labelled(rows) >= _MIN_LABELLED_FOR_BINS,
            dropout=_DROPOUT,
            n_told=0 if rows.told is None else rows.told.shape[1],
        )

    def _default_weight(self, rows: Batch) -> float:
        """A tenth of the labelled rows (Kingma et al. 2014, section 4), at least ten, and at most ten per column."""
        return float(min(_PER_COLUMN * rows.values.shape[1], max(_LEAST, _PER_LABELLED * self._n_labelled(rows))))

    def _n_members(self, rows: Batch) -> int:
        params = self.get_params(deep=False)
        if params["n_estimators"] != "auto":
            return int(params["n_estimators"])
        n_labelled = self._n_labelled(rows)
        in_a_hurry = params["quality"] == "fast" or params["max_epochs"] != "auto" or n_labelled < len(rows)
        if in_a_hurry or n_labelled < MIN_LABELLED_TO_SPLIT:
            return 1
        return min(_MEMBERS, max(1, round(_ROWS_OF_MEMBERS / n_labelled)))

    def _n_labelled(self, rows: Batch) -> int:
        return len(self._labelled(rows))

    @staticmethod
    def _labelled(rows: Batch) -> torch.Tensor:
        """Positions of the rows that have all targets."""
        assert rows.target is not None
        return (~rows.target.isnan()).all(1).nonzero().squeeze(1)

    def _held_out(self, rows: Batch, seed: int, member: int = 0) -> tuple[Batch, Batch | None, Batch | None]:
        """Rows to train a member on, labelled ones to choose by, and labelled ones that serve calibration alone.

        The last are the same for all members. Each member has others of the rest to choose by, so that hardly a row
        is lost to the training of an ensemble.
        """
        params = self.get_params(deep=False)
        order = self._order(rows, Noise(seed, "cpu").stream("split"))
        n, fraction = len(order), params.get("calibration_fraction", 0)
        if n < MIN_LABELLED_TO_SPLIT:
            return rows, None, None
        n_calibration = min(_MAX_CALIBRATION, max(_MIN_CALIBRATION, round(fraction * n))) if fraction else 0
        n_validation = max(1, round(params["validation_fraction"] * n)) if params["early_stopping"] else 0
        if n_calibration + n_validation >= n:
            raise ValueError(
                f"validation_fraction={params['validation_fraction']!r} and calibration_fraction={fraction!r} leave "
                f"none of {n} labelled rows to train on; choose smaller ones"
            )
        calibration, others = order.split([n_calibration, n - n_calibration])
        validation = others.roll(-member * n_validation)[:n_validation]
        rest = torch.ones(len(rows), dtype=torch.bool, device=order.device)
        rest[torch.cat([calibration, validation])] = False
        return (
            rows.rows(rest.nonzero().squeeze(1)),
            rows.rows(validation.sort().values) if n_validation else None,
            rows.rows(calibration.sort().values) if n_calibration else None,
        )

    # -- what subclasses say

    _structures: tuple[str, ...] = ()

    def _made_with(self) -> dict[str, tuple[Any, ...]]:
        """What the parameters may be, beside those of `VAE`, in a fit that continues: last what they were."""
        return {
            "structure": ("auto", self.structure_),
            "target_weight": ("auto", self.target_weight_),
            "n_estimators": ("auto", len(self.estimators_)),
        }

    def _held_out_log_p(self, member: VAE, rows: Batch) -> np.ndarray:
        """log p(y|x) [n] of rows, by which candidates are compared."""
        log_p = self._predictive_of([member], rows).log_prob(self._in_units(rows)).reshape(len(rows), -1).sum(1)
        return np.nan_to_num(log_p, nan=-1e6, neginf=-1e6)

    def _targets(self, y: Any, *, reset: bool) -> np.ndarray:
        """Encoded targets [n, T], NaN where missing."""
        raise NotImplementedError

    def _target_table(self, rows: Batch) -> Table:
        raise NotImplementedError

    def _candidates(self, partly_labelled: bool) -> list[str]:
        raise NotImplementedError

    def _has_prior(self, kind: type[Prior]) -> bool:
        """Whether the parameter `prior` stands for one of that kind."""
        return isinstance(resolve(Prior, self.get_params(deep=False)["prior"], "prior"), kind)

    def _order(self, rows: Batch, stream: torch.Generator) -> torch.Tensor:
        """Positions of the labelled rows, shuffled: any first part of them is like the whole."""
        labelled = self._labelled(rows)
        return labelled[torch.randperm(len(labelled), generator=stream).to(labelled.device)]

    def _calibrate(self, rows: Batch, held_out: list[tuple[VAE, Batch]], calibration: Batch | None) -> None:
        """Fit what is fitted after training; `held_out` has the members with the rows that each has chosen by."""
        raise NotImplementedError


def _trained(
    first: VAE, task: Task, settings: dict[str, Any], train: Batch, validation: Batch | None, seed: int
) -> VAE:
    """A sibling of an untrained estimator, with a task, trained as the settings say."""
    member = first._sibling(task, seed)
    member.settings_ = dict(settings)
    member._train(_repeated(train), validation, seed, decay=True)
    return member


def _check_targets(rows: Batch) -> None:
    """Refuse rows that say nothing of a target, as those of weight 0 do not count."""
    assert rows.target is not None
    if rows.target.isnan().all(0).any():
        raise ValueError("sample_weight is 0 for every row that has a target; give some of them a positive weight")


def _repeated(rows: Batch) -> Batch:
    """The rows, with rare labelled ones several times at less weight, so that every step has some."""
    assert rows.target is not None
    labelled = (~rows.target.isnan()).any(1)
    n, n_labelled = len(rows), int(labelled.sum())
    times = int(min(50, _MIN_LABELLED_SHARE * (n - n_labelled) / ((1 - _MIN_LABELLED_SHARE) * max(1, n_labelled))))
    if times < 2:
        return rows
    order = torch.cat([torch.arange(n, device=labelled.device), *[labelled.nonzero().squeeze(1)] * (times - 1)])
    weight = torch.ones(n, device=labelled.device) if rows.weight is None else rows.weight
    weight = (torch.where(labelled, weight / times, weight))[order]
    return replace(rows.rows(order), weight=weight / weight.mean())
