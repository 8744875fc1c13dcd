"""VAE: a variational autoencoder for tables, with the interface of scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from sklearn.utils.validation import _check_sample_weight, check_consistent_length, check_random_state

from skvae.data.batch import Batch
from skvae.data.schema import Schema
from skvae.data.table import Table as RawTable
from skvae.data.table import read_table
from skvae.estimators.base import BaseVAE, to_numpy
from skvae.estimators.settings import Settings, check_parameters, settle
from skvae.inference import conditional, diagnosis, log_likelihood
from skvae.model import MLP, Objective, Posterior, Prior, Table
from skvae.model.component import resolve
from skvae.model.networks import network
from skvae.model.vae import LatentVariableModel
from skvae.training import Callback, History, Noise, Plan, fit
from skvae.training.engine import choose_device
from skvae.training.randomness import open_uniform, seeded_torch

# Fewer rows than this are all needed for training.
_MIN_ROWS_TO_SPLIT = 50
_ROWS_AT_ONCE = 8192


class VAE(BaseVAE):
    """Variational autoencoder (Kingma & Welling 2014; Rezende, Mohamed & Wierstra 2014).

    Fits p(x) = ∫ p(x|z) p(z) dz to a table whose columns may be numbers, truth values, categories, ordered
    levels or dates, with missing entries anywhere, by maximising the evidence lower bound. The fitted model
    reduces, reconstructs, generates, scores and completes rows.

    Parameters
    ----------
    latent_dim : int or "auto"
        Number of latent dimensions D.
    hidden_sizes : tuple of int or "auto"
        Widths of the encoder's hidden layers; the decoder's are the same, reversed. Empty for linear maps.
    likelihood : str, Likelihood or dict
        p(x|z). "auto" chooses by the kind of each column; "gaussian" is a normal density with one σ for all
        columns; a dict maps column names or kinds to likelihoods.
    prior : str or Prior
        p(z): "normal".
    posterior : str or Posterior
        q(z|x): "diagonal".
    objective : str or Objective
        What is maximised: "elbo".
    encoder, decoder : str, Network or torch.nn.Module, optional
        Networks in place of those that `hidden_sizes` describes: "mlp", "residual", a component, or your own
        module, mapping [n, features] to [n, hidden] and [n, latent_dim] to [n, hidden]. The last linear
        layers are added to it. A copy is trained.
    max_epochs : int or "auto"
        Passes over the data, at most.
    batch_size : int or "auto"
    learning_rate : float or "auto"
        Of Adam, at its peak; it decays to nearly zero over the planned epochs.
    early_stopping : bool
        Hold out rows, stop when their bound no longer improves, and keep the best weights. Without it, all
        rows are trained on for all epochs.
    validation_fraction : float
        Share of rows held out; none are below 50 rows or when `validation_data` is given.
    patience : int
        Epochs without improvement before stopping.
    quality : {"fast", "default", "high"}
        How much work "auto" asks for.
    masking : float or "auto"
        Share of the rows of each training step from which random entries are hidden, so that the model
        learns to answer for any subset of columns. "auto": 0.5, or 0 for a linear model.
    column_kinds : dict, optional
        Kinds of columns, by name or position, where the inferred ones are not wanted: "continuous",
        "integer", "binary", "categorical", "ordinal", "date".
    handle_unknown : {"error", "missing"}
        What to do with category levels not seen at fit.
    device : str
        "auto" takes a GPU if there is one.
    compile : bool or "auto"
        Whether to compile the training step; "auto" does so when the rest of the run pays for it.
    warm_start : bool
        Whether `fit` continues from the weights of the last fit.
    callbacks : sequence of functions, optional
        Called as `callback(history, model)` after each epoch; a true answer stops training.
    random_state : int, RandomState or None
        Seeds everything; the same seed gives the same model on the same machine.
    verbose : int
        1 shows a progress bar.

    Attributes
    ----------
    schema_ : Schema
        The columns as seen at fit.
    model_ : LatentVariableModel
        The torch module; `encoder_`, `decoder_` and `prior_` are its parts.
    prior_ : Prior
        The density of latents used by `sample`, `score_samples` and `impute`.
    settings_ : dict
        The values that "auto" came to.
    history_ : History
        Loss, bound and named terms of each epoch.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only if X had column names.

    References
    ----------
    D. P. Kingma & M. Welling (2014), Auto-encoding variational Bayes.
    D. J. Rezende, S. Mohamed & D. Wierstra (2014), Stochastic backpropagation and approximate inference in
    deep generative models.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import VAE
    >>> X, _ = load_wine(return_X_y=True)
    >>> vae = VAE(latent_dim=2, max_epochs=50, random_state=0).fit(X)
    >>> vae.transform(X).shape
    (178, 2)
    >>> vae.sample(3, random_state=0).shape
    (3, 13)
    """

    def __init__(
        self,
        *,
        latent_dim: int | str = "auto",
        hidden_sizes: Sequence[int] | str = "auto",
        likelihood: Any = "auto",
        prior: Any = "normal",
        posterior: Any = "diagonal",
        objective: Any = "elbo",
        encoder: Any = None,
        decoder: Any = None,
        max_epochs: int | str = "auto",
        batch_size: int | str = "auto",
        learning_rate: float | str = "auto",
        early_stopping: bool = True,
        validation_fraction: float = 0.1,
        patience: int = 20,
        quality: str = "default",
        masking: float | str = "auto",
        column_kinds: dict[Any, str] | None = None,
        handle_unknown: str = "error",
        device: str = "auto",
        compile: bool | str = "auto",
        warm_start: bool = False,
        callbacks: Sequence[Callback] | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.latent_dim = latent_dim
        self.hidden_sizes = hidden_sizes
        self.likelihood = likelihood
        self.prior = prior
        self.posterior = posterior
        self.objective = objective
        self.encoder = encoder
        self.decoder = decoder
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.quality = quality
        self.masking = masking
        self.column_kinds = column_kinds
        self.handle_unknown = handle_unknown
        self.device = device
        self.compile = compile
        self.warm_start = warm_start
        self.callbacks = callbacks
        self.random_state = random_state
        self.verbose = verbose

    # Learning

    def fit(self, X: Any, y: Any = None, *, sample_weight: Any = None, validation_data: Any = None) -> Self:
        """Fit the model.

        Parameters
        ----------
        X : array or data frame [n, n_features]
        y : ignored
            Only its length is checked.
        sample_weight : array [n], optional
            Relative weight of each row in the objective.
        validation_data : array or data frame, optional
            Rows for early stopping, in place of a split of X.

        Returns
        -------
        self

        Raises
        ------
        ColumnError
            A column that cannot be used as it is.
        TrainingError
            If the loss becomes and stays non-finite.
        """
        check_parameters(self.get_params(deep=False))
        starts_anew = not (self.warm_start and self.__sklearn_is_fitted__())
        table = self._read(X, reset=starts_anew, min_rows=2)
        weight = self._check_rows(X, y, sample_weight)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        if starts_anew:
            self._build(table, seed)
        rows = _with_weight(self._encode(table), weight)
        if validation_data is not None:
            train, validation = rows, self._rows(validation_data)
        else:
            train, validation = self._split(rows, seed)
        self._train(train, validation, seed, decay=True)
        return self

    def partial_fit(self, X: Any, y: Any = None, *, sample_weight: Any = None) -> Self:
        """Make one pass over X, starting a model if there is none.

        The first call infers the schema; later ones must bring the same columns and levels. There is no
        validation, and the learning rate does not decay.

        Parameters
        ----------
        X : array or data frame [n, n_features]
        y : ignored
        sample_weight : array [n], optional

        Returns
        -------
        self
        """
        check_parameters(self.get_params(deep=False))
        starts_anew = not self.__sklearn_is_fitted__()
        table = self._read(X, reset=starts_anew, min_rows=2 if starts_anew else 1)
        weight = self._check_rows(X, y, sample_weight)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        if starts_anew:
            self._build(table, seed)
        # Each call draws its own noise, whatever the seed.
        done = 0 if starts_anew else self.history_.info["n_steps"]
        self._train(_with_weight(self._encode(table), weight), None, seed + done, decay=False)
        return self

    def _check_rows(self, X: Any, y: Any, sample_weight: Any) -> np.ndarray | None:
        if y is not None:
            check_consistent_length(X, y)
        if sample_weight is None:
            return None
        weight = _check_sample_weight(sample_weight, X, ensure_non_negative=True)
        if not weight.sum() > 0:
            raise ValueError("sample_weight is 0 for every row; give some rows a positive weight")
        return weight / weight.mean()

    def _build(self, table: RawTable, seed: int) -> None:
        """Infer the schema and make the untrained model."""
        schema = Schema.infer(table, self.column_kinds, Table(self.likelihood).kinds)
        settings = settle(self.get_params(deep=False), schema.modelled, table.n_rows)
        self._assemble(schema, settings, seed)

    def _assemble(self, schema: Schema, settings: Settings, seed: int) -> None:
        body = MLP(settings.hidden_sizes)
        objective = resolve(Objective, self.objective, "objective")
        objective.check()
        device = choose_device(self.device)
        with seeded_torch(seed):
            model = LatentVariableModel(
                schema.modelled,
                latent_dim=settings.latent_dim,
                encoder=network(self.encoder, body, "encoder"),
                decoder=network(self.decoder, body.reversed(), "decoder"),
                posterior=resolve(Posterior, self.posterior, "posterior"),
                prior=resolve(Prior, self.prior, "prior"),
                likelihood=Table(self.likelihood),
                masks=settings.masking > 0 or any(column.missing for column in schema.modelled),
            )
        self.schema_ = schema
        self.settings_ = settings.to_dict()
        self.model_ = model.to(device).eval()
        self.prior_ = model.prior
        self._objective = objective.to(device)
        self._noise_seed = seed
        self._optimizer_state: dict[str, Any] | None = None

    def _saved_state(self) -> dict[str, Any]:
        return {
            "schema": self.schema_.to_dict(),
            "settings": self.settings_,
            "history": self.history_.to_dict(),
            "noise_seed": self._noise_seed,
            "n_features_in": self.n_features_in_,
            "has_feature_names": hasattr(self, "feature_names_in_"),
        }

    def _restore_state(self, state: dict[str, Any]) -> None:
        schema = Schema.from_dict(state["schema"])
        self._assemble(schema, Settings.from_dict(state["settings"]), state["noise_seed"])
        self.history_ = History.from_dict(state["history"])
        self.n_features_in_ = state["n_features_in"]
        if state["has_feature_names"]:
            self.feature_names_in_ = np.array([column.name for column in schema.columns], dtype=object)

    def _split(self, rows: Batch, seed: int) -> tuple[Batch, Batch | None]:
        if not self.early_stopping or len(rows) < _MIN_ROWS_TO_SPLIT:
            return rows, None
        order = torch.randperm(len(rows), generator=Noise(seed).stream("split")).to(rows.values.device)
        n_validation = min(len(rows) - 1, max(1, round(self.validation_fraction * len(rows))))
        return rows.rows(order[n_validation:].sort().values), rows.rows(order[:n_validation].sort().values)

    def _train(self, train: Batch, validation: Batch | None, seed: int, *, decay: bool) -> None:
        plan = Plan(
            max_epochs=self.settings_["max_epochs"] if decay else 1,
            batch_size=self.settings_["batch_size"],
            learning_rate=self.settings_["learning_rate"],
            decay=decay,
            patience=self.patience,
            masking=self.settings_["masking"],
            compile=self.compile,
            verbose=self.verbose,
        )
        self.history_, self._optimizer_state = fit(
            self.model_,
            self._objective,
            train,
            validation,
            plan,
            Noise(seed, self._device),
            column_names=[column.name for column in self.schema_.modelled],
            callbacks=self.callbacks or (),
            optimizer_state=self._optimizer_state,
        )

    # Reducing and back

    def transform(self, X: Any) -> np.ndarray:
        """Posterior means, the same at every call.

        Parameters
        ----------
        X : array or data frame [n, n_features]

        Returns
        -------
        ndarray [n, latent_dim], float32
        """
        rows = self._rows(X)
        with torch.no_grad():
            return to_numpy(torch.cat([self.model_.encode(piece).mean for piece in rows.chunks(_ROWS_AT_ONCE)]))

    def posterior(self, X: Any, n_draws: int = 100) -> np.ndarray:
        """Draws from q(z|x), independent over rows, the same at every call.

        Returns
        -------
        ndarray [n_draws, n, latent_dim], float32
        """
        rows = self._rows(X)
        eps = self._noise.normal("posterior", n_draws, len(rows), self.model_.latent_dim)
        with torch.no_grad():
            draws = [self.model_.encode(p).rsample(eps[:, p.index]) for p in rows.chunks(_ROWS_AT_ONCE)]
        return to_numpy(torch.cat(draws, dim=1))

    def inverse_transform(self, Z: Any) -> Any:
        """Rows for given latents: the decoder's mean (numbers, dates) or mode (levels).

        Parameters
        ----------
        Z : array [n, latent_dim]

        Returns
        -------
        array or data frame like X at fit, n rows
        """
        return self._decode(self._latents(Z))

    def reconstruct(self, X: Any) -> Any:
        """`inverse_transform(transform(X))`: what the model retains of each row."""
        table = self._read(X)
        with torch.no_grad():
            z = torch.cat([self.model_.encode(p).mean for p in self._encode(table).chunks(_ROWS_AT_ONCE)])
        return self._decode(z, index=table.index)

    def sample(self, n_samples: int = 1, *, decode: str = "draw", random_state: Any = None) -> Any:
        """New rows.

        Parameters
        ----------
        n_samples : int
        decode : {"draw", "mean"}
            Whether columns are drawn from p(x|z) or set to its mean or mode.
        random_state : int, RandomState or None
            None gives other rows at every call.

        Returns
        -------
        array or data frame like X at fit, n_samples rows
        """
        self._check_count(n_samples, "n_samples")
        if decode not in ("draw", "mean"):
            raise ValueError(f"decode={decode!r}: expected 'draw' or 'mean'")
        noise = Noise(int(check_random_state(random_state).randint(2**31 - 1)), self._device)
        z = self.prior_.sample(noise.normal("latents", n_samples, self.model_.latent_dim))
        return self._decode(z, draws=noise.stream("entries") if decode == "draw" else None)

    # Judging rows

    def score_samples(self, X: Any, n_draws: int = 100) -> np.ndarray:
        """log p(x) of each row in nats, by importance sampling; missing entries are marginalised.

        Densities count for numbers and dates, probabilities for whole numbers and levels. All rows share
        the same fixed noise, so that a row's score does not depend on the others.

        Parameters
        ----------
        n_draws : int
            Latents per row; the estimate grows towards log p(x) with it, from below.

        Returns
        -------
        ndarray [n], float32
        """
        rows, eps = self._rows(X), self._shared_noise(n_draws)
        return to_numpy(log_likelihood.log_likelihood(self.model_, self.prior_, rows, eps).log_p)

    def score(self, X: Any, y: Any = None) -> float:
        """Mean of `score_samples`, nats per row."""
        return float(self.score_samples(X).mean(dtype=np.float64))

    def elbo(self, X: Any, n_draws: int = 100) -> np.ndarray:
        """The evidence lower bound of each row in nats, under the prior of training.

        Returns
        -------
        ndarray [n], float32
        """
        rows, eps = self._rows(X), self._shared_noise(n_draws)
        return to_numpy(log_likelihood.elbo(self.model_, rows, eps))

    def impute(self, X: Any, n_imputations: int | None = None, n_draws: int = 100) -> Any:
        """Fill missing entries; what is present is returned as it is.

        Parameters
        ----------
        X : array or data frame [n, n_features]
        n_imputations : int, optional
            None fills in the mean (numbers, dates) or mode (levels) given the row's other entries; a number
            gives that many tables, filled with independent draws.
        n_draws : int
            Latents per row for importance weighting.

        Returns
        -------
        array or data frame like X at fit; a list of them if `n_imputations` is given
        """
        table = self._read(X)
        rows, eps = self._encode(table), self._shared_noise(n_draws)
        if n_imputations is None:
            filled = conditional.conditional_centre(self.model_, self.prior_, rows, eps)
            return self.schema_.decode(to_numpy(filled), keep=table)
        self._check_count(n_imputations, "n_imputations")
        stream = self._noise.stream("imputations")
        draws = conditional.conditional_draws(self.model_, self.prior_, rows, eps, n_imputations, stream)
        return [self.schema_.decode(to_numpy(draw), keep=table) for draw in draws]

    def diagnose(self, X: Any, n_draws: int = 100) -> diagnosis.Diagnosis:
        """Active units, KL per unit, posterior collapse and gaps, on the rows of X; prints readably.

        Parameters
        ----------
        X : array or data frame [n, n_features]
            Held-out rows tell most.
        """
        rows, eps = self._rows(X), self._shared_noise(n_draws)
        best = self.history_.info["best_epoch"] - 1
        record = self.history_.epochs[best]
        gap = record["train_bound"] - record["validation_bound"] if "validation_bound" in record else None
        return diagnosis.diagnose(self.model_, rows, eps, gap)

    # Shared by the methods above

    @property
    def _noise(self) -> Noise:
        return Noise(self._noise_seed, self._device)

    def _shared_noise(self, n_draws: int) -> torch.Tensor:
        self._check_count(n_draws, "n_draws")
        half = self._noise.normal("shared", (n_draws + 1) // 2, self.model_.latent_dim)
        # In antithetic pairs: odd errors, the same for all rows, cancel.
        return torch.cat([half, -half])[:n_draws]

    def _check_count(self, value: Any, name: str) -> None:
        if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:
            raise ValueError(f"{name}={value!r}: expected a whole number ≥ 1")

    def _latents(self, Z: Any) -> torch.Tensor:
        table = read_table(Z)
        latent_dim = self.model_.latent_dim
        if table.numbers.shape[1] != latent_dim or np.isnan(table.numbers).any():
            raise ValueError(
                f"Z has shape {table.numbers.shape}; expected [n, {latent_dim}] finite latents, as `transform` "
                "gives them"
            )
        return torch.from_numpy(table.numbers.astype(np.float32)).to(self._device)

    @torch.no_grad()
    def _decode(self, z: torch.Tensor, draws: torch.Generator | None = None, index: Any = None) -> Any:
        """A table from latents [n, D]: draws if a stream is given, else means and modes."""
        pieces = []
        for piece in z.split(_ROWS_AT_ONCE):
            distribution = self.model_.decode(piece.unsqueeze(0))
            if draws is None:
                pieces.append(distribution.centre(torch.ones(1, len(piece), device=z.device)))
            else:
                u = open_uniform((1, len(piece), self.model_.n_columns), draws)
                pieces.append(distribution.icdf(u).squeeze(0))
        return self.schema_.decode(to_numpy(torch.cat(pieces)), index=index)


def _with_weight(rows: Batch, weight: np.ndarray | None) -> Batch:
    if weight is None:
        return rows
    w = torch.from_numpy(weight.astype(np.float32)).to(rows.values.device)
    return Batch(values=rows.values, observed=rows.observed, weight=w)
