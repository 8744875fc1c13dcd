"""VAEClassifier: predicts labels with their probabilities, from few of them if need be, and generates rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d

from skvae import persistence
from skvae.data.batch import Batch
from skvae.data.columns import Kind
from skvae.estimators.answers import ROWS_AT_ONCE
from skvae.estimators.base import to_numpy
from skvae.estimators.labels import TakesLabels, plain_labels
from skvae.estimators.parameters import grouping, if_open, takes_parameters_of
from skvae.estimators.reading import copy_features
from skvae.estimators.sampling_strategy import target_array
from skvae.estimators.supervised import MIN_LABELLED_TO_SPLIT
from skvae.estimators.task import Task
from skvae.estimators.vae import VAE
from skvae.model import Categorical, Objective, Table, VampPrior
from skvae.model.component import resolve
from skvae.model.heads import label_log_probs
from skvae.model.objectives.sums import above
from skvae.training import Noise
from skvae.training.randomness import new_seed, open_uniform

# More labels than this are not summed out by M2 unless it is asked for: each is a copy of every row.
_MAX_ENUMERATED = 20
# Share of labelled rows below which M2 stands on latents, if nothing else is asked for.
_FEW = 0.1
# Standard deviation of log T that is thought likely.
_TEMPERATURE_SPREAD = 0.5


class VAEClassifier(ClassifierMixin, TakesLabels):
    """Classification by a variational autoencoder of rows and labels, from all labels or a few.

    One model predicts labels with calibrated probabilities, generates rows of a wanted class, and learns from rows
    without a label and from rows with missing entries.

    Parameters
    ----------
    structure : {"auto", "m2", "m1+m2", "joint"}
        "m2": p(y) p(z) p(x|y, z), with q(y|x) and q(z|x, y); missing labels are summed out (Kingma, Rezende, Mohamed
        & Welling 2014). "m1+m2": the same on the latents of a VAE of all rows, trained before; q(y|·) and q(z|·, y)
        are of these latents and of the row as the encoder below is shown it, with encoder="hog" of its outlines (as
        in the skip model of Maaløe, Sønderby, Sønderby & Winther 2016). "joint": p(z) p(x|z) p(y|z), with q(z|x).
        "auto": "m1+m2" where fewer than a tenth of the rows are labelled, if these are 100 or more; else "m2" or
        "joint", whichever predicts held-out labels better; below 100 labelled rows "m2" if there are rows without,
        else "joint". Whether a tenth of the encoder's units is dropped in training, as otherwise it is, is then
        tried too.
    target_weight : float or "auto"
        α, the weight of log q(y|x) of a labelled row against the bound on log p(x, y), which is counted once. "auto"
        tries a tenth of the number of labelled rows (Kingma et al. 2014, section 4), at least ten and at most ten per
        column, and a tenth of that, for a quarter of the planned epochs each, and takes the lighter one if it
        predicts held-out labels better; `trials_` and `history_.info` show it.
    n_estimators : int or "auto"
        Members of an ensemble, whose probabilities are averaged. "auto": of 100 or more rows, all with a label, 5,
        or as many as together see some 100,000, if `max_epochs` is left open and `quality` is not "fast"; else 1.
    recall : bool
        Whether the labels of near rows of the training data may be mixed into the probabilities (see `Recall`), which
        is done where held-out labels become likelier by it. The fitted model then holds these rows, as they
        enter its encoder, with their labels.
    class_weight : None, "balanced" or dict
        Weights of the classes, as in scikit-learn; rows without a label weigh 1.
    objective : str or Objective
        As that of `VAE`. "auto" is "elbo", and of "m1+m2" ELBO() + Neighbours(n_neighbors=5, attraction=4, scale=1):
        rows of a label are mostly neighbours. `LabelSpreading` may be added where few rows have a label. Of "m1+m2",
        what compares the latents of rows, as MMD() does, is for the first model alone.
    unlabelled : "auto", None or label
        What marks a row without a label, besides missing entries (None, NaN). "auto": −1, except where y holds
        nothing but −1 and one other value: then −1 is a class, and a warning says so.
    **parameters
        Those of `VAE`.

    Attributes
    ----------
    classes_ : ndarray
        Sorted; never the mark of unlabelled rows.
    vae_ : VAE
        The first member, with all methods of a VAE (of "m1+m2", the VAE of the rows).
    estimators_ : list of VAE
        Members; those of "m1+m2" are told more than their columns, and asked by the methods here alone.
    structure_ : str
    target_weight_ : float
    recall_ : Recall or None
        The rows that are recalled, with `bandwidth`, `count` and `width`; None where held-out labels did not become
        likelier by three standard errors, where there are none (below 100 labelled rows, or without early stopping),
        and after `partial_fit`.
    trials_ : list of dict
        Held-out log p(y|x), in nats, of everything that was tried: the choices of "auto", each for a quarter of the
        planned epochs, and the chosen one for all of them, unless the quarter was already too long.
    temperature_ : float
        By which the log-odds of each member are divided: fitted on the rows that stopped its training (Guo, Pleiss,
        Sun & Weinberger 2017), 1 where there were none.
    latent_direction_ : ndarray [n_classes, latent_dim]
    history_ : History

    References
    ----------
    D. P. Kingma, D. J. Rezende, S. Mohamed & M. Welling (2014), Semi-supervised learning with deep generative models.
    C. Guo, G. Pleiss, Y. Sun & K. Q. Weinberger (2017), On calibration of modern neural networks.
    L. Maaløe, C. K. Sønderby, S. K. Sønderby & O. Winther (2016), Auxiliary deep generative models.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import VAEClassifier
    >>> X, y = load_wine(return_X_y=True)
    >>> model = VAEClassifier(max_epochs=30, random_state=0).fit(X, y)
    >>> model.predict_proba(X[:2]).shape
    (2, 3)
    """

    _structures = ("m2", "m1+m2", "joint")

    @takes_parameters_of(VAE)
    def __init__(
        self,
        *,
        structure: str = "auto",
        target_weight: float | str = "auto",
        n_estimators: int | str = "auto",
        recall: bool = True,
        class_weight: Any = None,
        objective: Any = "auto",
        unlabelled: Any = "auto",
    ) -> None: ...

    def partial_fit(self, X: Any, y: Any, classes: Any = None, *, sample_weight: Any = None) -> Self:
        """Make one pass over X and y, starting a model if there is none; without anything held out.

        Parameters
        ----------
        X : array or data frame [n, n_features]
        y : array [n]
        classes : array, optional
            All labels that will ever come; needed at the first call if y lacks some.
        sample_weight : array [n], optional

        Returns
        -------
        self
        """
        fitted = self.__sklearn_is_fitted__()
        if classes is not None and fitted and not np.array_equal(np.unique(classes), self.classes_):
            raise ValueError(f"classes={classes!r} is not the same as at the first call, {self.classes_!r}")
        self._expected = None if classes is None or fitted else np.unique(plain_labels(np.asarray(classes)))
        try:
            return super().partial_fit(X, y, sample_weight=sample_weight)
        finally:
            self._expected = None

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the classes, [n, n_classes], in the order of `classes_`."""
        check_is_fitted(self)
        return self._probs(self._rows(X))

    def _probs(self, rows: Batch) -> np.ndarray:
        """Calibrated probabilities [n, n_classes], with the labels of near rows mixed in."""
        probs = np.exp(self._log_probs(self.estimators_, rows, self.temperature_))
        recalled = self._recalled(rows)
        if recalled is None:
            return probs
        own = torch.cat([piece.log_model_share for piece in recalled]).exp()
        shares = torch.cat([piece.log_shares for piece in recalled], dim=1).exp()  # [K, n]
        codes = torch.cat([piece.targets for piece in recalled], dim=1).squeeze(-1).long()
        is_of = codes.unsqueeze(-1) == torch.arange(probs.shape[1], device=codes.device)  # [K, n, n_classes]
        of_rows = (shares.unsqueeze(-1) * is_of).sum(0)
        return to_numpy(own).astype(probs.dtype)[:, None] * probs + to_numpy(of_rows)

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest class of each row, [n]."""
        code = self.predict_proba(X).argmax(1)
        return self.classes_[code]

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy over the rows that have a label."""
        check_is_fitted(self)
        y = column_or_1d(target_array(y))
        labelled = ~self._unmarked(y)
        if not labelled.any():
            raise ValueError("y holds no label: there is nothing to score; pass rows that have one")
        found = self.predict_proba(X).argmax(1)
        check_consistent_length(found, y, sample_weight)
        weight = None if sample_weight is None else np.asarray(sample_weight)[labelled]
        return float(accuracy_score(self._codes(y[labelled]), found[labelled], sample_weight=weight))

    def sample(self, n_samples: int = 1, *, y: Any = None, random_state: Any = None) -> tuple[Any, np.ndarray]:
        """New rows and their labels.

        Parameters
        ----------
        n_samples : int
        y : label or array [n_samples], optional
            Wanted labels: rows are then drawn from p(x|y). Without them, from p(x), and y from p(y|x).
        random_state : int, RandomState or None
            None gives other rows at every call.

        Returns
        -------
        X : array or data frame like X at fit
        y : ndarray [n_samples]
        """
        check_is_fitted(self)
        self.vae_._check_count(n_samples, "n_samples")
        seed = new_seed(random_state)
        noise = Noise(seed, self.vae_._device)
        if y is None:
            X = self.vae_.sample(n_samples, random_state=seed)
            cumulative = self.predict_proba(X).cumsum(1)
            u = to_numpy(open_uniform((n_samples, 1), noise.stream("targets")))
            return X, self.classes_[(cumulative < u * cumulative[:, -1:]).sum(1)]
        codes = self._codes(np.full(n_samples, y) if np.ndim(y) == 0 else column_or_1d(target_array(y)))
        if len(codes) != n_samples:
            raise ValueError(f"y has {len(codes)} labels; expected one, or one for each of the {n_samples} samples")
        target = torch.from_numpy(codes.astype(np.float32)).unsqueeze(1)
        z = self._latents_given(target, noise.stream("latents"))
        return self._rows_from(z, noise), self.classes_[codes]

    def traverse(self, X: Any, y_values: Any) -> list[Any]:
        """Each row as it would look in other classes, all else that sets it apart left as it is.

        z stays as it is and the label changes, or z moves by what sets the classes apart; what they do not say of an
        entry, its probability level given them, stays what it was (Pearl 2009, section 7.1). Missing entries are
        drawn.

        Parameters
        ----------
        X : array or data frame [n, n_features]
        y_values : array [m]
            Labels.

        Returns
        -------
        list of m arrays or data frames like X at fit, n rows each
        """
        check_is_fitted(self)
        codes = self._codes(np.atleast_1d(np.asarray(y_values)))
        member = self.estimators_[0]
        table = self.vae_._table(X)
        rows = encoded = self.vae_._encode(table)
        if self._m1 is not None:
            latents, told = self._above(encoded)
            rows = self._as_members_take(latents, told)
        z = member._means(rows)
        now = self._probs(rows).argmax(1)

        def labelled(codes: np.ndarray) -> torch.Tensor:
            labels = torch.eye(len(self.classes_), dtype=z.dtype, device=z.device)[
                torch.from_numpy(codes).to(z.device)
            ]
            return torch.cat([z[:, : -len(self.classes_)], labels], dim=1)

        def moved(z: torch.Tensor, onto: torch.Tensor) -> Any:
            """The rows at other latents of the first member; see `VAE._moved`."""
            if self._m1 is not None:
                onto = self._below(member._moved(rows, z, onto, member._noise.stream("moved")))
                z = self._below(latents)
            return self.vae_._moved(encoded, z, onto, self.vae_._noise.stream("moved"), table)

        found = []
        for code in codes:
            target = np.full(len(rows), code)
            if self._task.structure == "m2":
                found.append(moved(labelled(now), labelled(target)))
            else:
                step = torch.from_numpy(self._slopes[target] - self._slopes[now]).to(z)
                found.append(moved(z, z + step))
        return found

    # -- M1 + M2

    def _rows_from(self, z: torch.Tensor, noise: Noise) -> Any:
        """Draws of rows for latents of the first member."""
        member = self.estimators_[0]
        decoded = member._decode(z, draws=noise.stream("entries"))
        if member is self.vae_:
            return decoded
        return self.vae_._decode(self._below(decoded), draws=noise.stream("entries below"))

    def _below(self, decoded: Any) -> torch.Tensor:
        """Latents of the VAE of the rows, from a table of them."""
        return torch.from_numpy(np.asarray(decoded, dtype=np.float32)).to(self.vae_._device)

    def _inputs(self, X: Any) -> tuple[Any, torch.Tensor | None]:
        return (X, None) if self._m1 is None else self._above(self._m1._rows(X))

    def _above(self, rows: Batch) -> tuple[np.ndarray, torch.Tensor | None]:
        """What M2 stands on, of rows as M1 has them: latents, and what its encoders are told beside."""
        assert self._m1 is not None
        latents = to_numpy(self._m1._means(rows))
        if self.__sklearn_is_fitted__() and not self._task.n_told:  # saved when nothing was told yet
            return latents, None
        with self._m1._answering(len(rows)):
            return latents, torch.cat([self._m1.model_.computed(piece) for piece in rows.chunks(ROWS_AT_ONCE)])

    def _vae_params(self) -> dict[str, Any]:
        params = super()._vae_params()
        return params | {"objective": if_open(params["objective"], grouping() if self._has_m1 else "elbo")}

    def _member_params(self) -> dict[str, Any]:
        params = super()._member_params()
        if not self._has_m1:
            return params
        # M2 stands on latents, which are numbers, whatever the columns of X are.
        likelihood = params["likelihood"]
        if isinstance(likelihood, Mapping):
            likelihood = {name: its for name, its in likelihood.items() if name in set(Kind)}
        elif Kind.CONTINUOUS not in Table(likelihood).kinds:
            likelihood = "auto"
        of_columns = {
            "column_kinds": None,
            "image_shape": None,
            "encoder": None,
            "decoder": None,
            "missing": "ignore",
        }
        objective = above(resolve(Objective, params["objective"], "objective"))
        return params | of_columns | {"likelihood": likelihood, "objective": objective}

    def _first(self, X: Any, y: np.ndarray, sample_weight: Any, *, whole: bool = False) -> tuple[VAE, Batch, int]:
        self._m1 = None
        structure = self.get_params(deep=False)["structure"]
        self._has_m1 = structure == "m1+m2" or (structure == "auto" and whole and self._has_few_labels(y))
        if self._has_m1:
            self._m1 = VAE(**self._vae_params()).fit(X, y, sample_weight=sample_weight)
        return super()._first(X, y, sample_weight, whole=whole)

    def _has_few_labels(self, y: np.ndarray) -> bool:
        """Whether there are so few that what sets the rows apart is to be learned from all of them first."""
        n_labelled = int((~np.isnan(y)).sum())
        few = MIN_LABELLED_TO_SPLIT <= n_labelled < _FEW * len(y)
        return few and len(self.classes_) <= _MAX_ENUMERATED and not self._has_prior(VampPrior)

    def _finish(
        self, members: list[VAE], task: Task, rows: Batch, held_out: list[Batch | None], calibration: Batch | None
    ) -> None:
        super()._finish(members, task, rows, held_out, calibration)
        self._put_m1_in_front()

    def _put_m1_in_front(self) -> None:
        """Of M1 + M2, rows are the business of M1."""
        if self._m1 is not None:
            self.vae_, self.structure_ = self._m1, "m1+m2"
            copy_features(self._m1, self)

    def _members(self) -> dict[str, VAE]:
        return super()._members() | ({} if self._m1 is None else {"m1": self._m1})

    def _adopt(self, members: dict[str, VAE]) -> None:
        super()._adopt(members)
        self._m1 = members.get("m1")
        self._put_m1_in_front()

    # -- what SupervisedVAE asks

    _m1: VAE | None = None
    _has_m1 = False
    temperature_: float = 1.0

    def _target_table(self, rows: Batch) -> Table:
        return Table(Categorical())

    def _candidates(self, partly_labelled: bool) -> list[str]:
        if self._m1 is not None:
            return ["m2"]
        if self._has_prior(VampPrior) or self._compares_latents():
            return ["joint"]  # which M2 cannot have
        if partly_labelled and len(self.classes_) > _MAX_ENUMERATED:
            return ["joint"]
        return ["m2", "joint"] if partly_labelled else ["joint", "m2"]

    def _compares_latents(self) -> bool:
        """Whether the objective needs the latents of the rows of a batch, once each."""
        return resolve(Objective, self._vae_params()["objective"], "objective").compares_latents

    def _default_task(self, rows: Batch) -> Task:
        task = super()._default_task(rows)
        if not self._has_m1:
            return task
        # Latents have no steps or levels for bins to show, which would be learned by heart.
        return replace(task, structure="m2", piecewise=False)

    def _log_probs(self, members: Sequence[VAE], rows: Batch, temperature: float = 1.0) -> np.ndarray:
        """log p(y|x) [n, K], the mean of what members say at a temperature."""
        pieces = []
        for piece in self._answers(members, rows):
            each = [label_log_probs(part).double().exp().mean(0).clamp(min=1e-12).log() for part in piece]
            tempered = torch.stack([(log_p / temperature).softmax(-1) for log_p in each])
            pieces.append(tempered.mean(0).log())
        return to_numpy(torch.cat(pieces))

    def _calibrate(self, rows: Batch, held_out: list[tuple[VAE, Batch]], calibration: Batch | None) -> None:
        """The temperature at which each member's own held-out labels are likeliest; then what is recalled."""
        self.temperature_ = 1.0
        labelled = [(member, its, its.target) for member, its in held_out if its.target is not None]
        if not labelled:
            return
        log_p = np.concatenate([self._log_probs([member], its) for member, its, _ in labelled])
        code = np.concatenate([to_numpy(target)[:, 0].astype(int) for _, _, target in labelled])
        self.temperature_ = fitted_temperature(log_p, code)
        self._fit_recall(rows, held_out, log_p_of(code, log_p, self.temperature_)[:, None], calibration)

    def _held_out_log_p(self, member: VAE, rows: Batch) -> np.ndarray:
        assert rows.target is not None
        log_p, code = self._log_probs([member], rows), to_numpy(rows.target)[:, 0].astype(int)
        return log_p_of(code, log_p, fitted_temperature(log_p, code))

    def _latent_slopes(self, rows: Batch) -> np.ndarray:
        """From the centre of all classes to the posterior means of each, [K, D]."""
        some = rows.rows(self._labelled(rows))
        assert some.target is not None
        code = to_numpy(some.target)[:, 0].astype(int)
        z = to_numpy(self.estimators_[0]._means(some)).astype(np.float64)
        sums = np.zeros((len(self.classes_), z.shape[1]))
        np.add.at(sums, code, z)
        centres = sums / np.maximum(np.bincount(code, minlength=len(sums)), 1)[:, None]
        return (centres - centres.mean(0)).astype(np.float32)

    def _saved_state(self) -> dict[str, Any]:
        return super()._saved_state() | {
            "classes": self.classes_.tolist(),
            "label_dtype": self.classes_.dtype.str,
            "mark": persistence.encode(self._mark),
            "temperature": self.temperature_,
        }

    def _restore_state(self, state: dict[str, Any]) -> None:
        self._has_m1 = "m1" in state["members"]
        super()._restore_state(state)
        self.classes_ = np.array(state["classes"], dtype=state["label_dtype"])
        self._mark = persistence.decode(state["mark"])
        self._slopes = self._slopes.astype(np.float32)
        self.temperature_ = state["temperature"]


def log_p_of(code: np.ndarray, log_p: np.ndarray, temperature: float) -> np.ndarray:
    """log p [n] of labels [n] at a temperature, from log-probabilities [n, K] of all."""
    return log_softmax(log_p / temperature, axis=1)[np.arange(len(code)), code]


def fitted_temperature(log_p: np.ndarray, code: np.ndarray) -> float:
    """The temperature at which labels [n] are likeliest, given log-probabilities [n, K] (Guo et al. 2017)."""

    def cost(log_temperature: float) -> float:
        # A few rows, all of them right, would ask for certainty: log T is held near 0 as by a normal prior.
        prior = 0.5 * (log_temperature / _TEMPERATURE_SPREAD) ** 2
        return prior - float(log_p_of(code, log_p, np.exp(log_temperature)).sum())

    return float(np.exp(minimize_scalar(cost, bounds=(-1.5, 2.5), method="bounded").x))
