"""VAEClusterer: clusters as the components of a mixture in the latent space."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture as MixtureFit
from sklearn.utils.validation import check_is_fitted

from skvae.data.batch import Batch
from skvae.estimators.base import to_numpy
from skvae.estimators.parameters import grouping, if_open, takes_parameters_of
from skvae.estimators.reading import copy_features
from skvae.estimators.settings import Settings
from skvae.estimators.single import SingleVAE
from skvae.estimators.vae import VAE
from skvae.inference.clusters import ClusterReport, describe_clusters
from skvae.inference.latent_density import COVARIANCE_TYPES, take_over
from skvae.model import GaussianMixture
from skvae.model.checks import is_whole
from skvae.training import Noise
from skvae.training.randomness import new_seed

# VAEs trained before the mixture, at most, and rows that they may see together.
_STARTS, _ROWS_OF_STARTS = 3, 10_000
# Components tried for n_clusters="auto".
_MAX_AUTO = 20
# σ of a component is no smaller than this share of the spread of all latents.
_FLOOR = 0.05
# Part of the planned epochs, and of the learning rate, of the training with the mixture.
_JOINT_EPOCHS, _JOINT_RATE = 0.25, 0.25
_REVIVALS = 3
_ROWS_AT_ONCE, _ROWS_FOR_MIXTURES = 8192, 20_000


class VAEClusterer(ClusterMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, SingleVAE):
    """Clusters as the components of a mixture in the latent space of a VAE (Jiang et al. 2017).

    A VAE with the standard normal prior is trained first, of few rows (up to 5,000) the best of two or three, by
    held-out rows; mixtures of normals are fitted to draws from q(z|x) from many starts, and the most likely one
    becomes the prior with which training goes on. Nothing is chosen by labels. Columns of any kind, with entries
    missing, do as everywhere.

    Parameters
    ----------
    n_clusters : int or "auto"
        "auto" is the number, up to 20, whose mixture has the least Bayesian information criterion (Schwarz 1978;
        Fraley & Raftery 2002), of those with no more parameters than there are rows. A likelihood of held-out rows,
        of which there are few, would choose it by those that lie between clusters.
    n_init : int
        Starts of each mixture, from k-means.
    objective : str or Objective
        As that of `VAE`; "elbo" is VaDE. "auto" is ELBO() + Neighbours(n_neighbors=5, attraction=4, scale=1), which
        draws clusters together; with more attraction their rows fall into one place, and with more neighbours small
        clusters run into one another.
    prior : str or GaussianMixture
        That of the clusters; there is no other than "mixture", which has full covariances; of an object, its
        covariance is taken.
    **parameters
        Those of `VAE`.

    Attributes
    ----------
    labels_ : ndarray [n]
        The cluster of each row seen at fit.
    n_clusters_ : int
    cluster_centers_ : array or data frame like X at fit, n_clusters_ rows
        The decoded means of the components.
    bic_ : dict of int to float
        The criterion of each number of clusters tried by "auto", of draws from q(z|x); the least is best.
    vae_ : VAE
    history_, pretraining_ : History
        Of the training with the mixture, and of that before.

    References
    ----------
    C. Fraley & A. E. Raftery (2002), Model-based clustering, discriminant analysis, and density estimation.
    Z. Jiang, Y. Zheng, H. Tan, B. Tang & H. Zhou (2017), Variational deep embedding.
    R. McConville, R. Santos-Rodríguez, R. J. Piechocki & I. Craddock (2020), N2D: (not too) deep clustering.
    G. Schwarz (1978), Estimating the dimension of a model.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import VAEClusterer
    >>> X, _ = load_wine(return_X_y=True)
    >>> VAEClusterer(n_clusters=3, max_epochs=20, random_state=0).fit_predict(X).shape
    (178,)
    """

    @takes_parameters_of(VAE)
    def __init__(
        self,
        *,
        n_clusters: int | str = "auto",
        n_init: int = 20,
        objective: Any = "auto",
        prior: Any = "mixture",
    ) -> None: ...

    def fit(self, X: Any, y: Any = None, *, sample_weight: Any = None) -> Self:
        """Find clusters.

        Parameters
        ----------
        X : array or data frame [n, n_features]
            Or the path of a csv or parquet file.
        y : ignored
        sample_weight : array [n], optional

        Returns
        -------
        self

        Raises
        ------
        ValueError
            A parameter out of range; fewer different rows than clusters.
        """
        self._check_own()
        first = VAE(**self._params_with("normal"))
        rows, seed = first._begin(X, None, sample_weight, anew=True)
        every = first._encode(first._read(X))
        copy_features(first, self)
        n_different = _n_different(rows)
        wanted = self.get_params(deep=False)["n_clusters"]
        if n_different < (2 if wanted == "auto" else wanted):
            what = "they cannot be told apart" if n_different == 1 else "each cluster needs one of its own"
            weighted = "" if len(rows) == len(every) else " of positive weight"
            raise ValueError(
                f"n_clusters={wanted!r}, and X has {len(rows)} rows{weighted} of which {n_different} differ "
                f"(n_samples={len(every)}): {what}; ask for fewer clusters, or pass more rows"
            )
        train, validation = first._split(rows)
        if wanted != "auto" and n_different - len(rows) + len(train) < wanted:
            train, validation = rows, None  # too few to be sure that those left differ enough
        first = self._pretrained(first, train, validation, seed)
        mixture = self._best_mixture(first, train, seed, min(_MAX_AUTO, n_different))
        self._join(first, mixture, train, validation, seed)
        self._describe(every)
        return self

    def _pretrained(self, first: VAE, train: Batch, validation: Batch | None, seed: int) -> VAE:
        """The best on held-out rows of a few VAEs that differ in their weights at first.

        Two clusters that lie on top of each other in the first map may never come apart.
        """
        n_starts = 1 if validation is None else min(_STARTS, max(1, _ROWS_OF_STARTS // len(train)))
        starts = [first, *(first._sibling(None, seed + k) for k in range(1, n_starts))]
        for start in starts:
            start._train(train, validation, seed, decay=True)
        return max(starts, key=lambda vae: vae.history_.info["judged"] or -math.inf)

    def _best_mixture(self, vae: VAE, train: Batch, seed: int, most: int) -> MixtureFit:
        """The most likely mixture of draws of q(z|x), of the wanted number of components or that of the least BIC."""
        wanted = self.get_params(deep=False)["n_clusters"]
        z = self._drawn(vae, train)
        self.bic_: dict[int, float] = {}
        if wanted != "auto":
            return self._mixture(z, wanted, seed)
        d = z.shape[1]
        per_component = 1 + d + (d if self._covariance == "diagonal" else d * (d + 1) // 2)
        # With fewer rows than parameters the criterion, which holds for many rows, finds clusters in anything.
        fits = {k: self._mixture(z, k, seed) for k in range(1, max(1, min(most, len(z) // per_component)) + 1)}
        self.bic_ = {k: float(fit.bic(z)) for k, fit in fits.items()}
        return fits[min(self.bic_, key=lambda k: self.bic_[k])]

    def _mixture(self, z: np.ndarray, n_components: int, seed: int, **start: np.ndarray) -> MixtureFit:
        n_init = 1 if start else self.get_params(deep=False)["n_init"]
        if len(z) > _ROWS_FOR_MIXTURES:
            z = z[np.random.default_rng(seed).choice(len(z), _ROWS_FOR_MIXTURES, replace=False)]
        floor = _FLOOR**2 * float(z.var(0).mean())
        how = {"covariance_type": COVARIANCE_TYPES[self._covariance], "reg_covar": max(floor, 1e-12), "max_iter": 200}
        return MixtureFit(n_components, n_init=n_init, random_state=seed, **how, **start).fit(z)

    def _drawn(self, vae: VAE, rows: Batch) -> np.ndarray:
        """One draw from q(z|x) of each row; of as many random ones, by weight, if they differ in it."""
        if rows.weight is not None:
            stream = vae._noise.stream("rows of clusters")
            rows = rows.rows(torch.multinomial(rows.weight, len(rows), True, generator=stream))
        eps = vae._noise.normal("clusters", len(rows), vae.model_.latent_dim)
        with vae._answering(len(rows)):
            draws = [vae.model_.encode(p).rsample(eps[p.index].unsqueeze(0))[0] for p in rows.chunks(_ROWS_AT_ONCE)]
        return to_numpy(torch.cat(draws)).astype(np.float64)

    def _join(self, first: VAE, mixture: MixtureFit, train: Batch, validation: Batch | None, seed: int) -> None:
        """Go on with the mixture as the prior."""
        self.n_clusters_ = int(mixture.n_components)
        spread = math.sqrt(float(self._drawn(first, train).var(0).mean()))
        self._min_scale = min(0.5, max(1e-4, _FLOOR * spread))
        vae = VAE(**self._params_with(self._prior()))
        copy_features(first, vae)
        settings = Settings.from_dict(first.settings_)
        vae._assemble(first.schema_, settings, seed, first.likelihood_.chosen)
        vae._decided = dict(first._decided)
        its = {name: value for name, value in first.model_.state_dict().items() if not name.startswith("prior.")}
        vae.model_.load_state_dict(its, strict=False)
        # A second player is made when the objective meets its rows, and learns anew.
        vae._objective.load_state_dict(first._objective.state_dict(), strict=False)
        take_over(_components_of(vae), mixture)
        vae.settings_ = replace(
            settings,
            max_epochs=max(1, round(_JOINT_EPOCHS * settings.max_epochs)),
            learning_rate=_JOINT_RATE * settings.learning_rate,
        ).to_dict()
        vae._train(train, validation, seed + 1, decay=True)
        vae.settings_ = settings.to_dict()
        self.vae_, self.pretraining_ = vae, first.history_
        self._fill(train, seed)

    def _fill(self, train: Batch, seed: int) -> None:
        """See to it that every component has rows, where training has left one without.

        It goes to the rows that the others explain worst, and EM on draws of q(z|x), which raises the bound in the
        prior, goes on from there. What is still empty then is more than the likelihood has use for; normals alike
        but for their means, those of k-means, are read as k-means, which leaves none empty.
        """
        vae, k = self.vae_, self.n_clusters_
        prior = self._clusters
        z: np.ndarray | None = None
        for _ in range(_REVIVALS):
            sizes = np.bincount(self._responsibilities(train).argmax(1), minlength=k)
            if sizes.all():
                return
            z = self._drawn(vae, train) if z is None else z
            with torch.no_grad():
                density = to_numpy(prior.log_prob(torch.from_numpy(z).to(prior.means)))
                means = to_numpy(prior.means).astype(np.float64)
            empty = np.flatnonzero(sizes == 0)
            means[empty] = z[np.argsort(density)[: len(empty)]]
            take_over(prior, self._mixture(z, k, seed, means_init=means))
        if np.bincount(self._responsibilities(train).argmax(1), minlength=k).all():
            return
        places = to_numpy(vae._means(train)).astype(np.float64)
        fit = KMeans(k, n_init=self.get_params(deep=False)["n_init"], random_state=seed).fit(places)
        within = max(float((places - fit.cluster_centers_[fit.labels_]).std()), self._min_scale)
        factors = (
            np.full(places.shape[1], within) if self._covariance == "diagonal" else within * np.eye(places.shape[1])
        )
        equal = (np.full(k, 1 / k), fit.cluster_centers_, np.stack([factors] * k))
        prior.place(*(torch.from_numpy(p).to(prior.means) for p in equal))

    def _responsibilities(self, rows: Batch) -> np.ndarray:
        """p(k|z) at the posterior mean of each row, [n, K]."""
        z = self.vae_._means(rows)
        with self.vae_._answering(len(rows)):
            return to_numpy(self._clusters.log_joint(z).softmax(-1))

    @property
    def _clusters(self) -> GaussianMixture:
        return _components_of(self.vae_)

    def _describe(self, rows: Batch) -> None:
        self.labels_ = self._responsibilities(rows).argmax(1)
        self._report = describe_clusters(self.vae_.schema_.modelled, rows, self.labels_, self.n_clusters_)

    # -- asking

    def predict(self, X: Any) -> np.ndarray:
        """The most probable cluster of each row, [n]."""
        check_is_fitted(self)
        return self._responsibilities(self.vae_._rows(X)).argmax(1)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the clusters, p(k|z) at the posterior mean, [n, n_clusters_], float32."""
        check_is_fitted(self)
        return self._responsibilities(self.vae_._rows(X))

    def transform(self, X: Any) -> np.ndarray:
        """Posterior means of the latents, as `VAE.transform`."""
        check_is_fitted(self)
        return self.vae_.transform(X)

    @property
    def cluster_centers_(self) -> Any:
        check_is_fitted(self)
        return self.vae_._decode(self._clusters.means.detach())

    def sample(self, n_samples: int = 1, *, cluster: int | None = None, random_state: Any = None) -> Any:
        """New rows, of one cluster or of all.

        Parameters
        ----------
        n_samples : int
        cluster : int, optional
        random_state : int, RandomState or None
            None gives other rows at every call.

        Returns
        -------
        array or data frame like X at fit
        """
        check_is_fitted(self)
        vae = self.vae_
        if cluster is None:
            return vae.sample(n_samples, random_state=random_state)
        vae._check_count(n_samples, "n_samples")
        if not is_whole(cluster) or not 0 <= cluster < self.n_clusters_:
            raise ValueError(f"cluster={cluster!r}: expected a whole number from 0 to {self.n_clusters_ - 1}")
        noise = Noise(new_seed(random_state), vae._device)
        with vae._answering(n_samples):
            chosen = torch.full((n_samples,), int(cluster), device=vae._device)
            eps = noise.normal("latents", 1, n_samples, vae.model_.latent_dim)
            z = self._clusters.components().rows(chosen).rsample(eps)[0]
        return vae._decode(z, draws=noise.stream("entries"))

    def describe(self) -> ClusterReport:
        """What sets each cluster apart, column by column, of the rows seen at fit; prints readably, goes to JSON."""
        check_is_fitted(self)
        return self._report

    @property
    def _n_features_out(self) -> int:
        return self.vae_.model_.latent_dim

    # -- parameters

    def _check_own(self) -> None:
        params = self.get_params(deep=False)
        n = params["n_clusters"]
        if not (isinstance(n, str) and n == "auto") and (not is_whole(n) or n < 1):
            raise ValueError(f"n_clusters={n!r}: expected 'auto' or a whole number ≥ 1")
        if not is_whole(params["n_init"]) or params["n_init"] < 1:
            raise ValueError(f"n_init={params['n_init']!r}: expected a whole number ≥ 1")
        if params["prior"] != "mixture" and not isinstance(params["prior"], GaussianMixture):
            raise ValueError(
                f"prior={params['prior']!r}: clusters are the components of a mixture; leave prior on 'mixture', or "
                "use VAE, which has other priors"
            )
        if params["warm_start"]:
            raise ValueError("warm_start=True: clusters are found anew at every fit; leave it False")

    @property
    def _covariance(self) -> str:
        prior = self.get_params(deep=False)["prior"]
        return prior.covariance if isinstance(prior, GaussianMixture) else "full"

    def _prior(self) -> GaussianMixture:
        return GaussianMixture(self.n_clusters_, self._covariance, self._min_scale)

    def _params_with(self, prior: Any) -> dict[str, Any]:
        """Parameters of the VAE with a prior."""
        params = self._vae_params()
        return params | {"prior": prior, "objective": if_open(params["objective"], grouping())}

    # -- saving

    def _saved_state(self) -> dict[str, Any]:
        return super()._saved_state() | {
            "n_clusters": self.n_clusters_,
            "min_scale": self._min_scale,
            "labels": self.labels_.tolist(),
            "bic": [[k, value] for k, value in self.bic_.items()],
            "report": self._report.to_dict(),
            "pretraining": self.pretraining_.to_dict(),
        }

    def _restore_state(self, state: dict[str, Any]) -> None:
        self.n_clusters_, self._min_scale = state["n_clusters"], state["min_scale"]
        vae = VAE(**self._params_with(self._prior()))
        vae._restore_state(state["vae"])
        self.vae_ = vae
        copy_features(vae, self)
        self.labels_ = np.array(state["labels"], dtype=np.int64)
        self.bic_ = {int(k): value for k, value in state.get("bic", [])}  # which folders of before have not
        self._report = ClusterReport.from_dict(state["report"])
        self.pretraining_ = type(vae.history_).from_dict(state["pretraining"])

    def __sklearn_is_fitted__(self) -> bool:
        return "labels_" in vars(self)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


def _n_different(rows: Batch) -> int:
    """Number of rows that differ in an entry, or in what is missing."""
    values = to_numpy(rows.values)
    entries = values if rows.observed is None else np.column_stack([values, to_numpy(rows.observed)])
    return len(np.unique(entries, axis=0))


def _components_of(vae: VAE) -> GaussianMixture:
    prior = vae.model_.prior
    assert isinstance(prior, GaussianMixture)
    return prior
