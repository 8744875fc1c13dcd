"""VAERegressor: predicts numbers, with their uncertainty, and generates rows for wanted ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from skvae.data.batch import Batch
from skvae.data.columns import NUMERIC, Kind
from skvae.data.infer import infer_columns
from skvae.data.table import missing_entries, read_table
from skvae.estimators.base import to_numpy
from skvae.estimators.parameters import takes_parameters_of
from skvae.estimators.sampling_strategy import target_array
from skvae.estimators.supervised import SupervisedVAE
from skvae.estimators.vae import VAE
from skvae.inference.predictive import Predictive
from skvae.model import StandardNormal, Table
from skvae.model.checks import is_number
from skvae.training import Noise
from skvae.training.randomness import new_seed, open_uniform
from skvae.training.selection import choose

# Factors tried by which the predicted deviations are stretched.
_SPREADS = np.exp(np.linspace(math.log(0.5), math.log(4.0), 61))


class VAERegressor(RegressorMixin, SupervisedVAE):
    """Regression by a variational autoencoder of rows and targets.

    One model predicts y with its uncertainty, generates rows for a wanted y, and learns from rows without y and
    from rows with missing entries.

    Parameters
    ----------
    structure : {"auto", "prior", "joint"}
        "prior": p(y) p(z|y) p(x|z), with q(z|x) and q(y|x) (Zhao, Adeli, Honnorat, Leng & Pohl 2019). "joint":
        p(z) p(x|z) p(y|z), with q(z|x). "auto": the one that predicts held-out targets better; and
        whether a tenth of the encoder's units is dropped in training, as otherwise it is, is then tried too.
    target_likelihood : "auto", str, Likelihood or dict
        p(y| …): "gaussian" and its like, as `likelihood` of VAE; a dict is by target. "auto": from 300 labelled rows
        on what a small probe predicts held-out targets best with, else normal with a predicted σ.
    target_weight : float or "auto"
        α, the weight of log q(y|x) of a labelled row against the bound on log p(x, y), which is counted once. A
        small one keeps the latents faithful to x, a large one makes the shared encoder serve the prediction. "auto"
        tries a tenth of the number of labelled rows (Kingma et al. 2014, section 4), at least ten and at most ten per
        column, and a tenth of that, for a quarter of the planned epochs each, and takes the lighter one if it
        predicts held-out targets better; `trials_` and `history_.info` show it.
    n_estimators : int or "auto"
        Members of an ensemble, which differ in their weights at first, in the noise of their training and in the
        rows that are held out to choose by. The predictive distribution is the mixture of theirs. "auto": of
        100 or more rows, all with a target, 5, or as many as together see some 100,000, if `max_epochs` is left open
        and `quality` is not "fast"; else 1.
    recall : bool
        Whether the targets of near rows of the training data may be mixed into predictions (see `Recall`), which is
        done where held-out targets become likelier by it. The fitted model then holds these rows, as they enter its
        encoder, with their targets.
    calibration_fraction : float
        Share of the labelled rows (at least 20, at most 1,000) that serve nothing but `predict_interval`; 0 for
        none. None are set aside below 100 labelled rows.
    **parameters
        Those of `VAE`.

    Attributes
    ----------
    vae_ : VAE
        The first member, with all methods of a VAE.
    estimators_ : list of VAE
    structure_ : str
    target_weight_ : float
    recall_ : Recall or None
        The rows that are recalled, with `bandwidth`, `count` and `width`; None where held-out targets did not become
        likelier by three standard errors, where there are none (below 100 labelled rows, or without early stopping),
        and after `partial_fit`.
    trials_ : list of dict
        Held-out log p(y|x), in nats, of everything that was tried: the choices of "auto", each for a quarter of the
        planned epochs, and the chosen one for all of them, unless the quarter was already too long.
    target_likelihood_ : Table
        What each target got as likelihood.
    latent_direction_ : ndarray [latent_dim], or [n_targets, latent_dim]
        Along which y grows in the latent space, of length 1.
    history_ : History

    References
    ----------
    Q. Zhao, E. Adeli, N. Honnorat, T. Leng & K. M. Pohl (2019), Variational autoencoder for regression.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from skvae import VAERegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = VAERegressor(max_epochs=30, random_state=0).fit(X, y)
    >>> mean, std = model.predict(X[:3], return_std=True)
    >>> low, high = model.predict_interval(X[:3], coverage=0.9).T
    """

    _structures = ("prior", "joint")

    @takes_parameters_of(VAE)
    def __init__(
        self,
        *,
        structure: str = "auto",
        target_likelihood: Any = "auto",
        target_weight: float | str = "auto",
        n_estimators: int | str = "auto",
        recall: bool = True,
        calibration_fraction: float = 0.1,
    ) -> None: ...

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """The mean of p(y|x), and on request its standard deviation.

        Parameters
        ----------
        X : array or data frame [n, n_features]
        return_std : bool

        Returns
        -------
        ndarray [n] or [n, n_targets]; or a pair of them
        """
        found = self.predict_distribution(X)
        return (found.mean(), found.std()) if return_std else found.mean()

    def predict_quantiles(self, X: Any, quantiles: Sequence[float] = (0.05, 0.25, 0.5, 0.75, 0.95)) -> np.ndarray:
        """Quantiles of p(y|x), [n, n_quantiles] (of several targets, [n, n_targets, n_quantiles])."""
        return self.predict_distribution(X).quantile(list(quantiles))

    def predict_interval(self, X: Any, coverage: float = 0.9) -> np.ndarray:
        """Intervals that hold the target of a new row with probability `coverage`, whatever the model is worth.

        Split conformal prediction (Lei, G'Sell, Rinaldo, Tibshirani & Wasserman 2018, section 5.2): the mean plus and
        minus a multiple of the predicted σ, the multiple being the ⌈(n + 1) coverage⌉-th of the n normalised
        residuals of rows that served nothing else.

        Parameters
        ----------
        X : array or data frame [n, n_features]
        coverage : float

        Returns
        -------
        ndarray [n, 2], or [n, n_targets, 2]

        Raises
        ------
        ValueError
            If `coverage` is not in (0, 1), or too few rows were set aside for it.
        """
        check_is_fitted(self)
        if not (is_number(coverage) and 0 < coverage < 1):
            raise ValueError(f"coverage={coverage!r}: expected a share in (0, 1)")
        n = len(self._residuals)
        rank = math.ceil(round((n + 1) * coverage, 9))  # 100 · 0.55 is more than 55 in floating point
        if rank > n:
            needed = math.ceil(round(coverage / (1 - coverage), 9))
            raise ValueError(
                f"coverage={coverage:g} needs at least {needed} rows to calibrate on, and {n} were set aside; fit "
                "with more labelled rows, a larger calibration_fraction, or ask for less coverage"
            )
        found = self.predict_distribution(X)
        reach = np.sort(self._residuals, axis=0)[rank - 1]  # [T]
        mean, std = found.mean(), found.std()
        half = std * (reach[0] if mean.ndim == 1 else reach)
        return np.stack([mean - half, mean + half], axis=-1)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R² over the rows that have a target."""
        check_is_fitted(self)
        y = _numbers(y)
        self._check_width(y)
        known = ~np.isnan(y.reshape(len(y), -1)).any(1)
        if not known.any():
            raise ValueError("y holds no number: there is nothing to score; pass rows that have a target")
        found = self.predict(X)
        check_consistent_length(found, y, sample_weight)
        weight = None if sample_weight is None else np.asarray(sample_weight)[known]
        return float(r2_score(y[known].reshape(found[known].shape), found[known], sample_weight=weight))

    def sample(self, n_samples: int = 1, *, y: Any = None, random_state: Any = None) -> tuple[Any, np.ndarray]:
        """New rows and their targets.

        Parameters
        ----------
        n_samples : int
        y : float or array [n_samples] or [n_samples, n_targets], optional
            Wanted targets: rows are then drawn from p(x|y). Without them, from p(x), and y from p(y|x).
        random_state : int, RandomState or None
            None gives other rows at every call.

        Returns
        -------
        X : array or data frame like X at fit
        y : ndarray [n_samples] or [n_samples, n_targets]
        """
        check_is_fitted(self)
        seed = new_seed(random_state)
        if y is None:
            X = self.vae_.sample(n_samples, random_state=seed)
            u = open_uniform((n_samples, 1 + len(self._columns)), Noise(seed, "cpu").stream("targets"))
            return X, self._rounded(self.predict_distribution(X).draw(u))
        self.vae_._check_count(n_samples, "n_samples")
        wanted = self._wanted(y)
        n_targets = len(self._columns)
        if len(wanted) not in (1, n_samples):
            raise ValueError(
                f"y has shape {np.shape(y)}; expected a finite number, or one for each of the {n_samples} samples"
            )
        wanted = np.broadcast_to(wanted, (n_samples, n_targets))
        noise = Noise(seed, self.vae_._device)
        z = self._latents_given(self._standardised(wanted), noise.stream("latents"))
        X = self.vae_._decode(z, draws=noise.stream("entries"))
        return X, wanted[:, 0].copy() if self._squeeze else wanted.copy()

    def traverse(self, X: Any, y_values: Any) -> list[Any]:
        """Each row as it would look at other targets, all else that sets it apart left as it is.

        Latents are moved along `latent_direction_` by as much as y is to change; what they do not say of an entry,
        its probability level given them, stays what it was (Pearl 2009, section 7.1). Missing entries are drawn.

        Parameters
        ----------
        X : array or data frame [n, n_features]
        y_values : array [m] or [m, n_targets]

        Returns
        -------
        list of m arrays or data frames like X at fit, n rows each
        """
        check_is_fitted(self)
        wanted = self._wanted(y_values)
        table = self.vae_._table(X)
        rows = self.vae_._encode(table)
        now = self._standardised(self._predictive_of(self.estimators_, rows, True).mean().reshape(len(rows), -1))
        z = self.vae_._means(rows)
        slopes = torch.tensor(self._slopes, dtype=z.dtype, device=z.device)
        return [
            # By the same noise for all, so that they differ by the target alone.
            self.vae_._moved(rows, z, z + (target - now).to(z) @ slopes, self.vae_._noise.stream("moved"), table)
            for target in self._standardised(wanted)
        ]

    @property
    def target_likelihood_(self) -> Table:
        check_is_fitted(self)
        return self.vae_.model_.head.likelihood  # type: ignore[union-attr, return-value]

    # -- what SupervisedVAE asks

    def _targets(self, y: Any, *, reset: bool) -> np.ndarray:
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None")
        values = _numbers(y)
        if np.isinf(values).any():
            row = int(np.flatnonzero(np.isinf(values).any(axis=tuple(range(1, values.ndim))))[0])
            raise ValueError(f"y contains infinity (row {row}); mark it missing (NaN), or transform y")
        if values.ndim > 2:
            raise ValueError(f"y has shape {values.shape}; expected [n] or [n, n_targets]")
        table = values.reshape(len(values), -1)
        if reset:
            known = ~np.isnan(table)
            if not known.any(0).all():
                raise ValueError(
                    "y holds no number at all for a target: every row is unlabelled; use VAE, which needs no y"
                )
            self._squeeze = values.ndim == 1
            names = _names(y, table.shape[1])
            raw = read_table(np.ascontiguousarray(table))
            allowed = Table(self._given_likelihood()).kinds & NUMERIC
            found = infer_columns(raw, {}, frozenset(allowed | {Kind.CONSTANT}) if allowed else NUMERIC)
            self._columns = tuple(
                _varying(column, name, table[:, j]) for j, (column, name) in enumerate(zip(found, names, strict=True))
            )
        else:
            self._check_width(table)
        return to_numpy(self._standardised(table))

    def _wanted(self, y: Any) -> np.ndarray:
        """Targets asked for, [m, T]: of a single number, it for all; of T numbers, those of one row."""
        wanted, n_targets = _numbers(y), len(self._columns)
        if wanted.ndim == 0:
            wanted = np.full((1, n_targets), wanted)
        elif wanted.ndim == 1:
            wanted = wanted[:, None] if n_targets == 1 else wanted[None]
        if wanted.ndim != 2 or wanted.shape[1] != n_targets or not np.isfinite(wanted).all():
            raise ValueError(f"y={y!r}: expected finite numbers, {n_targets} for each row")
        return wanted

    def _check_width(self, y: np.ndarray) -> None:
        n_targets = y.shape[1] if y.ndim > 1 else 1
        if n_targets != len(self._columns):
            raise ValueError(f"y has {n_targets} targets, but had {len(self._columns)} at fit")

    def _check_own(self) -> None:
        super()._check_own()
        fraction = self.get_params(deep=False)["calibration_fraction"]
        if not (is_number(fraction) and 0 <= fraction < 1):
            raise ValueError(f"calibration_fraction={fraction!r}: expected a share in [0, 1)")

    def _made_with(self) -> dict[str, tuple[Any, ...]]:
        return super()._made_with() | {"target_likelihood": (self._likelihood_asked_for,)}

    def _given_likelihood(self) -> Any:
        return self.get_params(deep=False)["target_likelihood"]

    def _standardised(self, table: np.ndarray) -> torch.Tensor:
        offset = np.array([column.offset for column in self._columns])
        scale = np.array([column.scale for column in self._columns])
        return torch.from_numpy(((table - offset) / scale).astype(np.float32))

    def _target_table(self, rows: Batch) -> Table:
        """The likelihood of the targets, chosen by the probe where it is left open."""
        likelihood = self._given_likelihood()
        self._likelihood_asked_for = deepcopy(likelihood)  # which may be changed where it stands
        table = Table(likelihood)
        some = rows.rows(self._labelled(rows))
        assert some.target is not None
        first = self._schema_columns
        observed = None
        if some.observed is not None:
            observed = torch.cat([some.observed, torch.ones_like(some.target, dtype=torch.bool)], dim=1)
        joined = Batch(torch.cat([some.values, some.target], dim=1), observed, weight=some.weight)
        # The targets go by names that no column has.
        targets = [replace(column, name=f"\0{column.name}") for column in self._columns]
        undecided = Table(_renamed(likelihood)).undecided(targets)
        seed = new_seed(self.get_params(deep=False)["random_state"])
        made = choose([*first, *targets], undecided, joined, seed) if undecided else {}
        return Table(table.likelihood, {name.removeprefix("\0"): choice.likelihood for name, choice in made.items()})

    def _candidates(self, partly_labelled: bool) -> list[str]:
        return ["joint", "prior"] if self._has_prior(StandardNormal) else ["joint"]

    def _calibrate(self, rows: Batch, held_out: list[tuple[VAE, Batch]], calibration: Batch | None) -> None:
        """Stretch the distribution to fit held-out rows, and keep the residuals of those that served nothing else.

        Stretched by the latter, where there are some: intervals hardly depend on it, as a factor of all σ cancels,
        but for the rounding of whole numbers and what is recalled. Else each member answers for the rows that it was
        not trained on.
        """
        self._spread, self._residuals = None, np.zeros((0, len(self._columns)))
        own: list[torch.Tensor] | list[None] = []
        if held_out:  # stretched before, lest rows be recalled for no other reason than that the models are too sure
            alone, _, y = self._best_fit([([member], its, None) for member, its in held_out])
            own = self._fit_recall(rows, held_out, alone.log_prob(y).reshape(y.shape), calibration)
        asked: list[tuple[list[VAE], Batch, torch.Tensor | None]]
        if calibration is None:
            asked = [([member], its, places) for (member, its), places in zip(held_out, own, strict=True)]
        else:
            asked = [(self.estimators_, calibration, None)]
        if not asked:
            return
        found, self._spread, y = self._best_fit(asked)
        if calibration is None:
            return
        if self.recall_ is not None:  # by which single members gain; all together may know better
            recall, self.recall_ = self.recall_, None
            alone, its_spread, _ = self._best_fit(asked)
            if alone.log_prob(y).sum() >= found.log_prob(y).sum():
                found, self._spread = alone, its_spread
            else:
                self.recall_ = recall
        mean, std = found.mean().reshape(y.shape), found.std().reshape(y.shape)
        # A row of which the model is certain has no spread to measure an error by.
        self._residuals = np.abs(y - mean) / np.maximum(std, np.finfo(np.float32).tiny)

    def _best_fit(
        self, asked: list[tuple[list[VAE], Batch, torch.Tensor | None]]
    ) -> tuple[Predictive, np.ndarray, np.ndarray]:
        """What members say of rows, stretched as these ask for, the factors of that, and the targets [n, T]."""
        found = Predictive.joined([self._predictive_of(members, its, own=places) for members, its, places in asked])
        y = np.concatenate([self._in_units(its) for _, its, _ in asked])
        spread = found.best_spread(y, _SPREADS)
        return found.stretched(spread), spread, y

    def _latent_slopes(self, rows: Batch) -> np.ndarray:
        """Least-squares slopes of the posterior means on the standardised targets, [T, D]."""
        if self.structure_ == "prior":
            return to_numpy(self.vae_.model_.prior.direction).astype(np.float64)
        some = rows.rows((~rows.target.isnan()).any(1).nonzero().squeeze(1))  # type: ignore[union-attr]
        y = to_numpy(some.target).astype(np.float64)
        if np.isnan(y).any():  # of several targets some: what the others and x say of them
            predicted = self._predictive_of(self.estimators_, some).mean().reshape(y.shape)
            y = np.where(np.isnan(y), to_numpy(self._standardised(predicted)), y)
        z = to_numpy(self.vae_._means(some)).astype(np.float64)
        return np.linalg.lstsq(y - y.mean(0), z - z.mean(0), rcond=None)[0]

    def _rounded(self, y: np.ndarray) -> np.ndarray:
        """Draws within what was observed."""
        lower, upper = (np.array([getattr(c, name) for c in self._columns]) for name in ("lower", "upper"))
        whole = np.array([column.kind == Kind.INTEGER for column in self._columns])
        shaped = np.clip(y.reshape(len(y), -1), lower, upper)
        return np.where(whole, np.rint(shaped), shaped).reshape(y.shape)

    def _saved_state(self) -> dict[str, Any]:
        return super()._saved_state() | {"residuals": self._residuals.tolist()}

    def _restore_state(self, state: dict[str, Any]) -> None:
        super()._restore_state(state)
        self._residuals = np.array(state["residuals"]).reshape(-1, len(self._columns))
        self._likelihood_asked_for = deepcopy(self._given_likelihood())

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _numbers(y: Any) -> np.ndarray:
    """y as float64; text is refused."""
    if isinstance(y, str):
        raise ValueError(f"y={y!r} is text; pass the column itself, for example y=X.pop({y!r})")
    array = target_array(y)
    if array.dtype.kind in "mM":
        raise ValueError("y holds dates or durations; a regression needs numbers: convert them, for example to days")
    if array.dtype.kind in "USO":
        for value in array.ravel():
            if isinstance(value, (str, bytes)):
                raise ValueError(
                    f"y holds text ({str(value)!r}); a regression needs numbers: convert it, or use VAEClassifier"
                )
        array = np.where(missing_entries(array.ravel()).reshape(array.shape), np.nan, array)
    if np.iscomplexobj(array):
        raise ValueError("Complex data not supported: y holds complex numbers; pass real ones")
    try:
        return array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"y cannot be read as numbers: {error}; pass numbers, NaN where there is none") from error


def _names(y: Any, n_targets: int) -> list[str]:
    columns = getattr(y, "column_names", getattr(y, "columns", None))  # of Arrow, of pandas and polars
    if columns is not None:
        return [str(name) for name in columns]
    name = getattr(y, "name", None)
    if n_targets == 1:
        return [str(name) if name is not None else "y"]
    return [f"y{j}" for j in range(n_targets)]


def _varying(column: Any, name: str, values: np.ndarray) -> Any:
    """The column as a target, also where it is constant."""
    if column.kind == Kind.CONSTANT:
        value = float(values[~np.isnan(values)][0])
        return replace(
            column, name=name, kind=Kind.CONTINUOUS, levels=None, offset=value, scale=1.0, lower=value, upper=value
        )
    return replace(column, name=name)


def _renamed(likelihood: Any) -> Any:
    return {f"\0{name}": part for name, part in likelihood.items()} if isinstance(likelihood, dict) else likelihood
