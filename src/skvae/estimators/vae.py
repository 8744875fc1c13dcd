"""VAE: a variational autoencoder for tables, with the interface of scikit-learn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from skvae.estimators.answers import ROWS_AT_ONCE, Answers
from skvae.estimators.base import also_parameter, to_numpy
from skvae.estimators.conditions import check_conditions, completed_sample, conditional_sample
from skvae.estimators.settings import trains_jointly
from skvae.inference import conditional, diagnosis, log_likelihood
from skvae.training import Callback, Noise
from skvae.training.randomness import new_seed, seeds_of_batches


class VAE(Answers):
    """Variational autoencoder (Kingma & Welling 2014; Rezende, Mohamed & Wierstra 2014).

    Fits p(x) = ∫ p(x|z) p(z) dz to a table whose columns may be numbers, truth values, categories, ordered
    levels or dates, with missing entries anywhere, by maximising the evidence lower bound. The fitted model
    reduces, reconstructs, generates, scores and completes rows.

    Parameters
    ----------
    latent_dim : int or "auto"
        Number of latent dimensions D.
    image_shape : tuple of int, optional
        For images: (height, width), or (channels, height, width) or (height, width, channels), the channels being
        the shorter axis. X then holds uint8 or other numbers, flat or in that shape, and answers come back in the
        shape and type seen at fit; a folder of image files needs no `image_shape`.
    hidden_sizes : tuple of int or "auto"
        Widths of the encoder's hidden layers; the decoder's are the same, reversed. Empty for linear maps. "auto" of
        images is a `ConvNet`.
    likelihood : str, Likelihood or dict
        p(x|z). "auto" chooses for each column of a table by the kind and, from 300 rows on, for numeric and ordered
        columns by what a small probe predicts best on held-out rows (not in tables of more than 100 such
        columns); for images, Bernoulli for two values, a discretised logistic distribution for grey levels (uint8,
        255ths, whole numbers …), and else a Gaussian with one σ. `likelihood_` shows the outcome. "gaussian" is a
        normal density with one σ for all columns; a dict maps column names or kinds to likelihoods, as {"visits":
        "negative-binomial"}, and leaves the other columns to "auto".
    prior : str or Prior
        p(z): "normal", "mixture", "vamp", "autoregressive" or "flow", or an object, for example
        VampPrior(n_pseudo_inputs=100).
    posterior : str or Posterior
        q(z|x): "diagonal", "full", "flow", or "deterministic" for a plain autoencoder.
    objective : str or Objective
        What is maximised: "elbo", "iwae", "beta-tcvae", "factor-vae", "mmd", "dip-vae", "geco", "rae", "neighbours";
        objects may be added up.
    encoder, decoder : str, Network or torch.nn.Module, optional
        Networks in place of those that `hidden_sizes` describes: "mlp", "residual", for images "conv",
        "residual-conv" or, as an encoder, "hog", a component, or your own module, mapping [n, features] to
        [n, hidden] and [n, latent_dim] to [n, hidden]. The last linear layers are added to it. A copy is trained.
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
    patience : int or "auto"
        Epochs without improvement before stopping; "auto" is a tenth of the planned ones, at least 20.
    quality : {"fast", "default", "high"}
        How much work "auto" asks for.
    masking : float or "auto"
        Share of the rows of each training step from which random entries are hidden, so that the model
        learns to answer for any subset of columns. "auto": 0.25, or 0 for a linear model and for images of which no
        pixel is missing.
    missing : str or Missingness
        Why entries are missing. "ignore" says nothing of it, which is right where they are as others are, given
        those that are there. "self-masking" and "linear" model the mask (see `SelfMasking` and `LinearMasking`) of
        the columns that had missing entries at fit: it then counts in the bound and in `score_samples`, which are
        of x and the mask, and in what `impute` fills in, and drawn rows have holes. Without such columns they
        change nothing.
    latent_density : "auto", "mixture", "autoregressive", "flow", "flow-matching", Prior or None
        Density of the latents that is fitted after training to draws from q(z|x), and from which new rows are then
        made; rarely do they lie as the prior has them. "auto" compares mixtures of normals (at quality "high" an
        `AutoregressivePrior` and a flow too) with the prior by held-out rows, and takes the simplest that is as good
        as the best; below 300 rows, and of linear models, it keeps the prior. "mixture", "autoregressive", "flow" and
        "flow-matching", or an object such as GaussianMixture(20, covariance="full") or FlowPrior(), are fitted
        whether they are better or not, and None keeps the prior of training. Models whose prior depends on a target
        keep it, whatever is asked for.

        Tables of 2,000 rows or more get more of it, where latent_density is "auto", prior "normal", objective "elbo",
        quality not "fast", and some thousand steps are planned: training opens with a fifth of the KL, which the
        density will make up for; that is fitted, an `AutoregressivePrior`; and encoder, decoder and density are then
        trained together, to maximise the evidence lower bound under it, of which `elbo` speaks. Both parts take about
        three quarters of the planned epochs (at quality "high" two fifths), as a step with the density takes longer.
    column_kinds : dict, optional
        Kinds of columns, by name or position, where the inferred ones are not wanted: "continuous",
        "integer", "binary", "categorical", "ordinal", "date"; or "identifier", of whole numbers or text that is not
        to be modelled: rows keep theirs, and new rows get new ones.
    handle_unknown : {"error", "missing"}
        What to do with category levels not seen at fit.
    device : str
        "auto" takes a GPU if there is one.
    precision : {"auto", "float32"}
        Digits of the factors in the matrix products of training. "auto" rounds them to bfloat16 where the processor
        has instructions for it and the products are most of a step, which makes them about twice as fast; sums,
        weights, losses and all answers of the fitted model are float32. `history_.info["precision"]` has what
        was used.
    compile : bool or "auto"
        Whether to compile the training step; "auto" does so when the rest of the run pays for it.
    warm_start : bool
        Whether `fit` continues from the weights of the last fit, of which `max_epochs`, `batch_size` and
        `learning_rate` may differ.
    callbacks : sequence of functions, optional
        Called as `callback(history, model)` after each epoch; a true answer stops training.
    random_state : int, RandomState or None
        Seeds everything; the same seed gives the same model on the same machine, None another at every fit.
    verbose : int
        1 shows a progress bar.

    Attributes
    ----------
    schema_ : Schema
        The columns as seen at fit; `schema_.constraints` are rules that no row violates (sums of columns, a ≤ b),
        found and not imposed.
    model_ : LatentVariableModel
        The torch module; `encoder_` and `decoder_` are its parts.
    likelihood_ : Table
        What each column got as likelihood; `history_.info["likelihood"]` has the gain over the default of its
        kind, in nats per entry, for those that were chosen by held-out probability.
    prior_ : Prior
        The density of latents used by `sample`, `score_samples` and `impute`: that fitted after training (see
        `latent_density`), or `model_.prior`, the prior of training, to which `elbo` keeps unless the density had a
        part in training.
        `history_.info["latent_density"]` has what was tried, and the gain in nats per row.
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
        image_shape: Sequence[int] | None = None,
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
        patience: int | str = "auto",
        quality: str = "default",
        masking: float | str = "auto",
        missing: Any = "ignore",
        latent_density: Any = "auto",
        column_kinds: dict[Any, str] | None = None,
        handle_unknown: str = "error",
        device: str = "auto",
        precision: str = "auto",
        compile: bool | str = "auto",
        warm_start: bool = False,
        callbacks: Sequence[Callback] | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.latent_dim = latent_dim
        self.image_shape = image_shape
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
        self.missing = missing
        self.latent_density = latent_density
        self.column_kinds = column_kinds
        self.handle_unknown = handle_unknown
        self.device = device
        self.precision = precision
        self.compile = compile
        self.warm_start = warm_start
        self.callbacks = callbacks
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None, *, sample_weight: Any = None, validation_data: Any = None) -> Self:
        """Fit the model.

        Parameters
        ----------
        X : array or data frame [n, n_features]
            Or, here as in every method, the path of a csv or parquet file; of images (see `image_shape`) also an
            array [n, height, width], [n, height, width, channels] …, or the path of a folder of image files.
        y : ignored
            Only its length is checked.
        sample_weight : array [n], optional
            Relative weight of each row in the objective; rows of weight 0 count only for the schema.
        validation_data : array or data frame, optional
            Rows for early stopping, in place of a split of X.

        Returns
        -------
        self

        Raises
        ------
        ColumnError
            A column that cannot be used as it is.
        ValueError
            A parameter out of range, or of another model when `warm_start` continues one.
        TrainingError
            If the loss becomes and stays non-finite.
        """
        if validation_data is not None and not self.early_stopping:
            raise ValueError("validation_data is there to stop early, which early_stopping=False forbids; drop one")
        anew = not (self.warm_start and self.__sklearn_is_fitted__())
        rows, seed = self._begin(X, y, sample_weight, anew=anew)
        if validation_data is None:
            train, validation = self._split(rows)
        else:
            train, validation = rows, self._encode(self._read(validation_data))
        if trains_jointly(self.get_params(deep=False), self.settings_, self.schema_, len(train)):
            self._train_jointly(train, validation, seed)
        else:
            self._train(train, validation, seed, decay=True)
            self._fit_latent_density(train, validation, seed)
        return self

    def partial_fit(self, X: Any, y: Any = None, *, sample_weight: Any = None) -> Self:
        """Make one pass over X, starting a model if there is none.

        The first call infers the schema; later ones must bring the same columns and levels. There is no
        validation, and the learning rate does not decay. `prior_` is the prior of training: a density of the latents
        is fitted by `fit` alone.

        Parameters
        ----------
        X : array or data frame [n, n_features]
        y : ignored
        sample_weight : array [n], optional

        Returns
        -------
        self
        """
        rows, seed = self._begin(X, y, sample_weight, anew=not self.__sklearn_is_fitted__())
        self._train(rows, None, seed, decay=False)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Posterior means, the same at every call.

        Parameters
        ----------
        X : array or data frame [n, n_features]

        Returns
        -------
        ndarray [n, latent_dim], float32
        """
        return to_numpy(self._means(self._rows(X)))

    @also_parameter
    def posterior(self, X: Any, n_draws: int = 100) -> np.ndarray:
        """Draws from q(z|x), independent over rows, the same at every call.

        Returns
        -------
        ndarray [n_draws, n, latent_dim], float32
        """
        rows = self._rows(X)
        self._check_count(n_draws, "n_draws")
        eps = self._noise.normal("posterior", n_draws, len(rows), self.model_.latent_dim)
        with self._answering(len(rows)):
            draws = [self.model_.encode(p).rsample(eps[:, p.index]) for p in rows.chunks(ROWS_AT_ONCE)]
        return to_numpy(torch.cat(draws, dim=1))

    def inverse_transform(self, Z: Any) -> Any:
        """Rows for given latents: the decoder's mean (numbers, dates) or mode (levels); identifiers are new.

        Parameters
        ----------
        Z : array [n, latent_dim]

        Returns
        -------
        array or data frame like X at fit, n rows
        """
        check_is_fitted(self)
        z, index = self._latents(Z)
        return self._decode(z, index=index)

    def reconstruct(self, X: Any) -> Any:
        """`inverse_transform(transform(X))`: what the model retains of each row, whose identifiers it keeps."""
        table = self._table(X)
        return self._decode(self._means(self._encode(table)), index=table.index, identifiers=table)

    def sample(
        self,
        n_samples: int = 1,
        *,
        conditions: Any = None,
        decode: str = "draw",
        return_report: bool = False,
        random_state: Any = None,
    ) -> Any:
        """New rows; with conditions, such as meet them, drawn from p(x | conditions) without rejection.

        They have no holes unless `missing` models them. Identifiers are new ones: a running number, after the largest
        seen at fit where they are numbers, and behind text that no entry at fit begins with where they are text
        ("id-1", …).

        Parameters
        ----------
        n_samples : int
        conditions : dict of column to value, (low, high), set of values or None; or a data frame, optional
            Of columns, by name (of an array: or position): a value is returned exactly, a range holds its ends, of
            which None is an open one, of a set any value may come, and None is for a missing entry, which says
            something about the others if `missing` models why. A frame has partial rows, with any of the columns:
            each is returned completed, what is present as it is, `n_samples` times, one table below the other.
            Latents are proposed by what the encoder makes of the conditions, and weighed by importance, as
            `inference.conditional_sampling` has it.
        decode : {"draw", "mean"}
            Whether columns are drawn from p(x|z) or set to its mean or mode, which leaves no holes; those with
            conditions are drawn.
        return_report : bool
            Whether to return a SamplingReport too: the effective sample size of the latents' weights, the share of
            distinct latents, and the log-probability of the conditions.
        random_state : int, RandomState or None
            None gives other rows at every call.

        Returns
        -------
        rows : array or data frame like X at fit
            With n_samples rows; of a frame of conditions, so many for each of its rows.
        report : SamplingReport
            Only with `return_report`.

        Raises
        ------
        ColumnError
            A condition on a column that is not there, or that no entry at fit meets.
        ValueError
            Conditions that exclude each other.

        Warns
        -----
        SamplingWarning
            If the rows rest on few latents, as the conditions are rare.
        """
        return self._sample(n_samples, conditions, decode, return_report, random_state)

    def sample_batches(
        self,
        n_samples: int,
        *,
        batch_size: int = 16_384,
        conditions: Mapping[Any, Any] | None = None,
        decode: str = "draw",
        random_state: Any = None,
    ) -> Iterator[Any]:
        """New rows batch by batch, so that there may be more of them than fit into memory.

        Identifiers run on from batch to batch, and each batch has its own random numbers; a first one that holds all
        rows is what `sample` draws.

        Parameters
        ----------
        n_samples : int
            Rows in all.
        batch_size : int
            Rows at a time; the last batch may have fewer.
        conditions : dict, optional
        decode : {"draw", "mean"}
        random_state : int, RandomState or None
            As in `sample`.

        Yields
        ------
        array or data frame like X at fit
        """
        check_is_fitted(self)
        self._check_count(n_samples, "n_samples")
        self._check_count(batch_size, "batch_size")
        if conditions is not None and not isinstance(conditions, Mapping):
            raise ValueError("conditions in batches are a dict; partial rows are completed by `sample`")
        firsts = range(0, n_samples, batch_size)
        return (
            self._sample(min(batch_size, n_samples - first), conditions, decode, False, seed, first)
            for first, seed in zip(firsts, seeds_of_batches(random_state), strict=False)
        )

    def _sample(
        self, n_samples: int, conditions: Any, decode: str, return_report: bool, random_state: Any, first: int = 0
    ) -> Any:
        """As `sample`, after `first` rows of the same table."""
        check_is_fitted(self)
        self._check_count(n_samples, "n_samples")
        if decode not in ("draw", "mean"):
            raise ValueError(f"decode={decode!r}: expected 'draw' or 'mean'")
        check_conditions(self, conditions)
        noise = Noise(new_seed(random_state), self._device)
        if conditions is not None and not isinstance(conditions, Mapping):
            if return_report or decode != "draw":
                raise ValueError(
                    "partial rows are completed by draws, and without a report; leave out decode and return_report, "
                    "or give conditions as a dict"
                )
            return completed_sample(self, n_samples, conditions, noise)
        if conditions or return_report:
            rows, report = conditional_sample(self, n_samples, conditions or {}, decode, noise, first)
            return (rows, report) if return_report else rows
        eps = noise.normal("latents", n_samples, self.prior_.n_noise)
        with self._answering(n_samples):
            z = torch.cat([self.prior_.sample(piece) for piece in eps.split(ROWS_AT_ONCE)])
        return self._decode(z, draws=noise.stream("entries") if decode == "draw" else None, identifiers=first)

    def score_samples(self, X: Any, n_draws: int = 100) -> np.ndarray:
        """log p(x) of each row in nats, by importance sampling; missing entries are marginalised.

        Densities count for numbers (per unit of the column) and dates (per microsecond), probabilities for
        whole numbers and levels. All rows share the same fixed noise, so that a row's score does not depend on
        the others.

        Parameters
        ----------
        n_draws : int
            Latents per row; the estimate grows towards log p(x) with it, from below.

        Returns
        -------
        ndarray [n], float32
        """
        rows, eps = self._rows(X), self._shared_noise(n_draws)
        with self._answering(len(rows) * n_draws):
            return to_numpy(log_likelihood.log_likelihood(self.model_, self.prior_, rows, eps).log_p)

    def score(self, X: Any, y: Any = None) -> float:
        """Mean of `score_samples`, nats per row."""
        return float(self.score_samples(X).mean(dtype=np.float64))

    def elbo(self, X: Any, n_draws: int = 100) -> np.ndarray:
        """The evidence lower bound of each row in nats, under the prior of training, or the density trained with.

        Returns
        -------
        ndarray [n], float32
        """
        rows, eps = self._rows(X), self._matched_noise(n_draws)
        with self._answering(len(rows) * n_draws):
            return to_numpy(log_likelihood.elbo(self.model_, rows, eps, self._prior_of_bound))

    def impute(self, X: Any, n_imputations: int | None = None, n_draws: int = 100) -> Any:
        """Fill missing entries; what is present is returned as it is, and so are identifiers, which are not made up.

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
        table = self._table(X)
        rows, eps = self._encode(table), self._shared_noise(n_draws)
        if n_imputations is None:
            with self._answering(len(rows) * n_draws):
                filled = conditional.conditional_centre(self.model_, self.prior_, rows, eps)
            return self.schema_.decode(to_numpy(filled), keep=table, identifiers=table)
        self._check_count(n_imputations, "n_imputations")
        stream = self._noise.stream("imputations")
        with self._answering(len(rows) * (n_draws + n_imputations)):
            draws = conditional.conditional_draws(self.model_, self.prior_, rows, eps, n_imputations, stream)
        return [self.schema_.decode(to_numpy(draw), keep=table, identifiers=table) for draw in draws]

    def diagnose(self, X: Any, n_draws: int = 100) -> diagnosis.Diagnosis:
        """What the model uses its latents for, where it falls short, and what to change; prints readably.

        Active units, KL per unit and posterior collapse; what the approximate posterior, overfitting and a prior
        that is not where the rows are cost in nats; and of each column, what the latents and the other columns
        explain, and whether its intervals hold what they promise. Of more than 1,000 rows (400 of wide tables)
        a random 1,000 are looked at, the same at every call.

        Parameters
        ----------
        X : array or data frame [n, n_features]
            Held-out rows tell most: of rows it was trained on, a model thinks better than of others.
        n_draws : int
            Latents per row for importance weighting.

        Returns
        -------
        Diagnosis
            With `to_dict()`, ready for JSON, and `advice`, a list that names the parameters to change.
        """
        rows = self._rows(X)
        self._check_count(n_draws, "n_draws")
        info = self.history_.info
        record = self.history_.epochs[info["best_epoch"] - 1]
        gap = record["train_bound"] - record["validation_bound"] if "validation_bound" in record else None
        training = diagnosis.Training(gap, info["n_validation"])
        with self._answering(min(len(rows), 1000) * n_draws):
            return diagnosis.diagnose(
                self.model_, self.prior_, rows, self.schema_.modelled, self._noise, n_draws, training
            )
