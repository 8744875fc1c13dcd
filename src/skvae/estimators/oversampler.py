"""VAEOversampler: more rows of rare classes, or of rare ranges of a number."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any, Self

import narwhals as nw
import numpy as np
import pyarrow as pa
import torch
from sklearn.base import OneToOneFeatureMixin
from sklearn.utils.validation import _check_feature_names, check_consistent_length

from skvae.data.batch import Batch
from skvae.data.columns import Kind
from skvae.data.schema import Schema
from skvae.data.source import opened
from skvae.data.table import Table as RawTable
from skvae.data.table import read_table
from skvae.estimators.parameters import TakesVAEParameters, takes_parameters_of
from skvae.estimators.sampling_strategy import Groups, check_enough, groups_of, new_rows
from skvae.estimators.vae import VAE
from skvae.model import Table
from skvae.model.checks import is_whole
from skvae.training import Noise
from skvae.training.randomness import new_seed

_TASKS = ("auto", "classification", "regression")
# Candidates for each new row: draws from its posterior with σ so much wider, of which p(y|z), to this power, chooses.
# On folds inside training rows, a class's rows vary more than q(z|x, y) knows from the few that there are.
_POOL, _WIDER, _POWER = 20, 1.5, 3.0
_ROWS_AT_ONCE = 8192 // _POOL


class VAEOversampler(OneToOneFeatureMixin, TakesVAEParameters):
    """Oversampling by a variational autoencoder: generated rows of rare classes, or of rare ranges of a number.

    A sampler with the interface of imbalanced-learn (Lemaître, Nogueira & Aridas 2017), inside its pipelines or
    without them. One VAE is fitted to all rows, with their target as a further column: what the classes have in
    common is learned from all of them. A new row is a real row of its class as it would be at another z from around
    its posterior q(z|x, y), with what the latents do not say of its entries left as it is (Pearl 2009, section 7.1),
    a variation of that row, as SMOTE's are (Chawla, Bowyer, Hall & Kegelmeyer 2002), but along the dependencies
    between the columns, and made of entries that each column can hold. All real rows of a class have equally many.

    In the fit a row weighs one over the square root of the size of its class, so that the rare ones are learned too.
    Of 20 such z for each row wanted, drawn with σ half as large again as the posterior's, one is kept, at random with
    weights p(y|z)³: those that speak for the class.

    Parameters
    ----------
    sampling_strategy : str, float, dict or callable
        How many rows each class is to have. "not majority", which "auto" means, brings all classes to the size of
        the largest; "minority", "not minority" and "all" bring those that they name to it. A float, for two classes,
        is the ratio of the smaller to the larger. A dict gives the number of rows of each class that it names, and a
        function makes such a dict from y. Of a regression, classes are the bins, numbered from 0, and "auto" brings
        those with fewer rows than the median of all that have some to that number.
    task : {"auto", "classification", "regression"}
        What y is. "auto" takes numbers with decimals for a regression, all else for classes.
    n_bins : int
        Bins of equal width between the smallest and the largest target of a regression. "auto" leaves those with
        a single row as they are.
    **parameters
        Those of `VAE`.

    Attributes
    ----------
    sampling_strategy_ : dict
        Number of rows to be generated for each class, or bin.
    bin_edges_ : ndarray [n_bins + 1]
        Of a regression.
    vae_ : VAE
        The model of rows and targets, the latter its last column; not there if no row had to be generated.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only if X had column names.

    References
    ----------
    N. V. Chawla, K. W. Bowyer, L. O. Hall & W. P. Kegelmeyer (2002), SMOTE: synthetic minority over-sampling
    technique.
    G. Lemaître, F. Nogueira & C. K. Aridas (2017), Imbalanced-learn: a Python toolbox to tackle the curse of
    imbalanced datasets in machine learning.
    J. Pearl (2009), Causality: models, reasoning and inference.
    L. Torgo, R. P. Ribeiro, B. Pfahringer & P. Branco (2013), SMOTE for regression.

    Examples
    --------
    >>> from sklearn.datasets import make_classification
    >>> from skvae import VAEOversampler
    >>> X, y = make_classification(200, weights=[0.9], random_state=0)
    >>> X_more, y_more = VAEOversampler(max_epochs=20, random_state=0).fit_resample(X, y)
    >>> int((y == 1).sum()), int((y_more == 1).sum()), int((y_more == 0).sum())
    (20, 180, 180)
    """

    _estimator_type = "sampler"
    sampling_strategy_: dict[Any, int]
    bin_edges_: np.ndarray
    vae_: VAE

    @takes_parameters_of(VAE)
    def __init__(self, *, sampling_strategy: Any = "auto", task: str = "auto", n_bins: int = 10) -> None: ...

    def fit(self, X: Any, y: Any) -> Self:
        """Check X and y, and settle how many rows each class would get; nothing is trained.

        Parameters
        ----------
        X : array or data frame [n, n_features]
        y : array [n]

        Returns
        -------
        self
        """
        self._settle(opened(X), y)
        return self

    def fit_resample(self, X: Any, y: Any) -> tuple[Any, Any]:
        """The rows, and after them generated ones.

        Parameters
        ----------
        X : array or data frame [n, n_features]
            Or the path of a csv or parquet file. Entries may be missing, and then are in generated rows too, as often
            as in the real ones of their class.
        y : array [n], or one-hot [n, n_classes]

        Returns
        -------
        X : array or data frame [n + n_generated, n_features]
            Like the one given, whose rows are the first n; pandas frames get a new index.
        y : array [n + n_generated], or one-hot
            Like the one given.

        Raises
        ------
        ColumnError
            A column that cannot be used as it is.
        ValueError
            A parameter or target that is out of range, or a class with too few rows.
        TrainingError
            If the loss becomes and stays non-finite.
        """
        X = opened(X)
        table, groups = self._settle(X, y)
        n = len(groups.codes)
        if not any(self.sampling_strategy_.values()):
            return _stacked(X, None, np.arange(0)), _taken(y, np.arange(n))
        check_enough(self.sampling_strategy_, groups)
        name = _free_name(table.names)
        frame = _with_target(X, table, name, groups)
        seed = new_seed(self.random_state)
        self.vae_ = VAE(**self._params_for(table, name, groups, seed)).fit(frame, sample_weight=groups.weights)
        rows, z, source, target, pattern = self._new_rows(frame, groups, seed)
        stream = Noise(seed, self.vae_._device).stream("entries")
        drawn = self.vae_._moved(rows, self.vae_._means(rows), z, stream)
        return (
            _stacked(X, _without_target(drawn, name, table, pattern), pattern),
            _taken(y, np.concatenate([np.arange(n), source]), None if groups.numbers is None else target),
        )

    def _settle(self, X: Any, y: Any) -> tuple[RawTable, Groups]:
        """Check everything; read X, group its rows by y, and set `sampling_strategy_`."""
        if self.task not in _TASKS:
            raise ValueError(f"task={self.task!r}: expected one of {_TASKS}")
        if not is_whole(self.n_bins) or self.n_bins < 2:
            raise ValueError(f"n_bins={self.n_bins!r}: expected a whole number ≥ 2")
        if self.warm_start:
            raise ValueError("warm_start=True: each fit_resample has a model of its own; leave it False")
        if self.image_shape is not None:
            raise ValueError(
                f"image_shape={self.image_shape!r}: rows of tables alone are oversampled; leave it None and pass the "
                "pixels of an image as a row, [n, n_pixels]"
            )
        table = read_table(X, min_rows=2, estimator=self)
        groups = groups_of(y, self.task, self.n_bins)
        check_consistent_length(X, y)
        _check_feature_names(self, X, reset=True)
        self.n_features_in_ = len(table.names)
        self.sampling_strategy_ = new_rows(self.sampling_strategy, groups, y)
        if groups.edges is not None:
            self.bin_edges_ = groups.edges
        return table, groups

    def _params_for(self, table: RawTable, name: str, groups: Groups, seed: int) -> dict[str, Any]:
        """Those of the model of rows and targets, in which columns go by position."""
        kinds = {_position(key, table): kind for key, kind in (self.column_kinds or {}).items()}
        likelihood = self.likelihood
        if not (isinstance(likelihood, Mapping) or likelihood == "auto"):
            # It is meant for the columns of X, and says which kinds they are taken for.
            allowed = Table(likelihood).kinds
            kinds |= {
                j: c.kind
                for j, c in enumerate(Schema.infer(table, kinds, allowed).columns)
                if c.kind != Kind.CONSTANT
            }
            likelihood = dict.fromkeys(Kind, likelihood) | {name: "auto"}
        kinds[len(table.names)] = Kind.CONTINUOUS if groups.numbers is not None else Kind.CATEGORICAL
        return self._vae_params() | {"column_kinds": kinds, "likelihood": likelihood, "random_state": seed}

    def _new_rows(
        self, frame: Any, groups: Groups, seed: int
    ) -> tuple[Batch, torch.Tensor, np.ndarray, np.ndarray, np.ndarray]:
        """Of the rows to be generated: the real rows that they are variations of, with their targets; latents [m, D];
        the position of the former, [m]; their targets, as numbers or codes, [m]; real rows of their class, whichever,
        that have the same holes, [m]."""
        rng, rows = np.random.default_rng(seed), self.vae_._rows(frame)
        latents, parts, encoded = [], [], []
        for code, name in enumerate(groups.names):
            n = self.sampling_strategy_.get(name, 0)
            if n == 0:
                continue
            members = np.flatnonzero(groups.codes == code)
            source = _shared(members, n, rng)
            target = groups.codes[source]
            varied = rows.rows(torch.from_numpy(source).to(rows.values.device))
            if groups.numbers is not None:
                column = self.vae_.schema_.modelled[-1]
                target = groups.near(source, code, column.resolution, rng)
                varied.values[:, -1] = torch.from_numpy((target - column.offset) / column.scale)
            latents.append(self._variations(varied, Noise(seed, rows.values.device), code))
            encoded.append(varied)
            parts.append((source, target, _shared(members, n, rng)))
        sources, targets, patterns = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Batch.joined(encoded), torch.cat(latents), sources, targets, patterns

    def _variations(self, rows: Batch, noise: Noise, number: int) -> torch.Tensor:
        """Other latents of the rows, [n, D], which speak for their targets."""
        model = self.vae_.model_
        eps = _WIDER * noise.normal("variations", _POOL, len(rows), model.latent_dim, number=number)
        stream, found = noise.stream("choice", number), []
        with self.vae_._answering(_POOL * len(rows)):
            for piece in rows.chunks(_ROWS_AT_ONCE):
                z = model.encode(piece).rsample(eps[:, piece.index])  # [20, B, D]
                log_p = model.decode(z).log_prob(piece.values)[..., -1]  # [20, B]
                chosen = torch.multinomial((_POWER * log_p).softmax(0).mT, 1, generator=stream).squeeze(1)
                found.append(z[chosen, torch.arange(len(chosen), device=z.device)])
        return torch.cat(found)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags


def _shared(rows: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """`n` of the rows, in random order, each as often as any other, give or take one."""
    return np.resize(rng.permutation(rows), n)


def _position(key: Any, table: RawTable) -> Any:
    """The position of a column of X that goes by a name or a position; what is wrong with others, VAE says."""
    if key in table.labels:
        return table.labels.index(key)
    n = len(table.labels)
    return int(key) % n if isinstance(key, Integral) and -n <= int(key) < n else key


def _free_name(names: list[str]) -> str:
    name = "target"
    while name in names:
        name += "_"
    return name


def _with_target(X: Any, table: RawTable, name: str, groups: Groups) -> Any:
    """A frame of X and, in a last column, its target: numbers, or the classes as text."""
    if groups.numbers is not None:
        column = pa.array(groups.numbers)
    else:
        column = pa.array([str(code) for code in groups.codes])
    if table.container == "numpy":
        arrays = [table.array(j).cast(kind) for j, kind in enumerate(table.types)]
        return pa.table([*arrays, column], names=[*table.names, name])
    if table.container == "pandas":
        X = X.set_axis(table.names, axis=1).reset_index(drop=True)
    frame = nw.from_native(X, eager_only=True)
    values = column.to_numpy(zero_copy_only=False)
    return frame.with_columns(nw.new_series(name, values, backend=frame.implementation)).to_native()


def _without_target(drawn: Any, name: str, table: RawTable, pattern: np.ndarray) -> Any:
    """The rows drawn without their last column, and with the holes of the real rows at `pattern`."""
    frame = nw.from_native(drawn, eager_only=True).drop(name)
    for j, column in enumerate(frame.columns):
        hole = table.missing(j)[pattern]
        if hole.any():
            present = nw.new_series("present", ~hole, backend=frame.implementation)
            frame = frame.with_columns(nw.when(present).then(nw.col(column)).alias(column))
    return frame.to_native()


def _stacked(X: Any, new: Any, pattern: np.ndarray) -> Any:
    """X with the new rows below, with the holes of those at `pattern`: the same kind of array or frame."""
    frame = nw.from_native(X, eager_only=True, pass_through=True)
    if isinstance(frame, nw.DataFrame):
        if new is None:
            return nw.maybe_reset_index(frame).to_native()
        if frame.implementation.is_pandas():
            new = new.set_axis(X.columns, axis=1)
        return nw.maybe_reset_index(nw.concat([frame, nw.from_native(new, eager_only=True)])).to_native()
    rows = np.asarray(X)
    if new is not None:
        added = rows[pattern]  # for what marks its missing entries
        for j, column in enumerate(new.columns):
            present = column.is_valid().to_numpy()
            added[present, j] = column.drop_null().to_pylist() if rows.dtype.kind in "OUS" else column.drop_null()
        rows = np.concatenate([rows, added])
    return rows.tolist() if isinstance(X, list) else rows


def _taken(y: Any, index: np.ndarray, numbers: np.ndarray | None = None) -> Any:
    """The entries of y at `index`, the last replaced by `numbers`: the same kind of array, series or frame."""
    series = nw.from_native(y, eager_only=True, allow_series=True, pass_through=True)
    if not isinstance(series, nw.DataFrame | nw.Series):
        entries = np.asarray(y)[index]
        if numbers is not None:
            entries[len(index) - len(numbers) :] = numbers.reshape(-1, *entries.shape[1:])
        return entries.tolist() if isinstance(y, list) else entries
    series = nw.maybe_reset_index(series[index.tolist()])
    if numbers is None:
        return series.to_native()
    column = series[series.columns[0]] if isinstance(series, nw.DataFrame) else series
    last = list(range(len(index) - len(numbers), len(index)))
    column = column.scatter(last, nw.new_series("", numbers, column.dtype, backend=column.implementation))
    return (series.with_columns(column) if isinstance(series, nw.DataFrame) else column).to_native()
