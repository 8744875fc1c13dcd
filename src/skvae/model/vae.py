"""The latent-variable model that joins the parts, and the terms that objectives are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from skvae.data.batch import Batch
from skvae.data.columns import Column
from skvae.model.likelihoods import Distribution, Table
from skvae.model.likelihoods.table import TableDistribution
from skvae.model.missingness import Ignorable, Missingness
from skvae.model.networks import Embedding, Network
from skvae.model.posteriors import Posterior, PosteriorDistribution
from skvae.model.priors import Prior, kl_divergence


class Factors(Mapping[str, Tensor]):
    """Named log-factors [S, B], each computed when it is first asked for.

    An objective with a closed-form KL never asks for log p(z) or log q(z|x), and so never pays for them.
    """

    def __init__(self, **makers: Callable[[], Tensor]) -> None:
        self._makers = makers
        self._made: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._made:
            self._made[name] = self._makers[name]()
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    def total(self, *, without: str = "") -> Tensor:
        """Sum of all factors but one, [S, B]; 0 if there are none."""
        found = [self[name] for name in self if name != without]
        return sum(found[1:], found[0]) if found else 0.0  # type: ignore[return-value]


@dataclass(frozen=True)
class Supervision:
    """What a model with targets says of those of one batch.

    Attributes
    ----------
    log_p_y : Tensor [B]
        log p(y|x), or q(y|x) where the model has one, of the targets that a row has; 0 for none.
    labelled : Tensor [B]
        Share of its targets that a row has.
    entropy : Tensor [B] or None
        Of q(y|x), where targets that are missing were drawn or summed out.
    share : Tensor [K, B] or None
        q(y = k|x) of the K copies of each row that the terms are about: all labels, one after another; one-hot
        where y is known. None if each row stands there once.
    probs : Tensor [B, K] or None
        q(y = k|x) of each row, one-hot where y is known, of a model in which labels take the place of clusters.
    tempered : dict of float to Tensor [B]
        log p(y|x) of a label at other temperatures, outside training.
    """

    log_p_y: Tensor
    labelled: Tensor
    entropy: Tensor | None = None
    share: Tensor | None = None
    probs: Tensor | None = None
    tempered: dict[float, Tensor] = field(default_factory=dict)

    def per_row(self, value: Tensor) -> Tensor:
        """The mean over labels [B] of a value of each copy [K B]."""
        return value if self.share is None else (self.share * value.unflatten(0, self.share.shape)).sum(0)


class Terms:
    """What the model says of one batch: S draws, B rows, C columns, D latent dimensions.

    Attributes
    ----------
    z : Tensor [S, B, D]
    posterior : PosteriorDistribution
        q(z|x) of the rows.
    prior : Prior
    distribution : Distribution
        p(x | z).
    batch : Batch
    progress : Tensor, scalar
        Share of the planned training steps that is done.
    prior_eps : Tensor [n, prior.n_noise] or None
        Noise for as many draws from the prior as the objective asked for.
    log_p_columns : Tensor [S, B, C]
        log p(x_c | z), 0 for entries not seen.
    log_p, log_q, log_q_detached : Factors
        Factors of the joint density and of the posterior, [S, B]; the last with the posterior's parameters
        detached. A posterior without a density has none.
    supervision : Supervision or None
        Of a model with targets.
    partners : Tensor [B, D] or [B, K], or None
        Where as many other rows are, if the objective asked for them; see `LatentVariableModel.places`.
    kl : Tensor [B, D] or None
        Closed-form KL(q ‖ p) per dimension, where one exists (see `kl_divergence`).
    """

    def __init__(
        self,
        z: Tensor,
        posterior: PosteriorDistribution,
        prior: Prior,
        distribution: Distribution,
        batch: Batch,
        progress: Tensor | float = 1.0,
        context: Tensor | None = None,
        prior_eps: Tensor | None = None,
        supervision: Supervision | None = None,
        **factors: Callable[[], Tensor],
    ) -> None:
        self.z = z
        self.posterior = posterior
        self.prior = prior
        self.distribution = distribution
        self.batch = batch
        self.progress = progress
        self.context = context
        self.prior_eps = prior_eps
        self.supervision = supervision
        self.partners: Tensor | None = None

        # None of the makers refers to self: a cycle would keep the graph of a step alive until the next
        # garbage collection, and its memory from being used again.
        columns = Factors(x=lambda: _observed_log_prob(distribution, batch))
        self._columns = columns
        self.log_p = Factors(x=lambda: columns["x"].sum(-1), z=lambda: prior.log_prob(z, context), **factors)
        self.log_q, self.log_q_detached = Factors(), Factors()
        if posterior.has_density:
            self.log_q = Factors(z=lambda: posterior.log_prob(z))
            self.log_q_detached = Factors(z=lambda: posterior.detach().log_prob(z))

    @property
    def weight(self) -> Tensor | None:
        return self.batch.weight

    @property
    def log_p_columns(self) -> Tensor:
        return self._columns["x"]

    @cached_property
    def kl(self) -> Tensor | None:
        return kl_divergence(self.posterior, self.prior, self.context)


def _observed_log_prob(distribution: Distribution, batch: Batch) -> Tensor:
    log_p = distribution.log_prob(batch.values)
    return log_p if batch.mask is None else log_p * batch.mask


class LatentVariableModel(nn.Module):
    """p(z) p(x|z) with q(z|x): embedding → encoder → posterior, and decoder → likelihood.

    Parameters
    ----------
    columns : sequence of Column
    latent_dim : int
    encoder, decoder : Network
    posterior : Posterior
    prior : Prior
    likelihood : Table
    masks : bool
        Whether rows with missing or hidden entries are to be expected.
    n_context : int or dict of str to int
        Length of the context vectors given to encoder, decoder and prior; by part ("encoder", "posterior",
        "decoder", "prior") where they differ. To the encoder's belongs what a batch tells it beside its entries.
    piecewise : bool
        See `Embedding`.
    missing : Missingness, optional
        p(mask | x); `Ignorable` by default.
    image_shape : (channels, height, width) or None
        Of rows that are images, whose pixels are the columns, in this order.

    Attributes
    ----------
    latent_density : Prior or None
        A density of z fitted after training, which stands in for the prior in all that is generated, completed and
        scored; the bound keeps to the prior of training.
    has_free_latents : bool
        Whether such a density may take the prior's place: what is random beside x and z depends on z, not z on it.
    n_labels : int or None
        Labels that it has q(y|x) of, and sums out where they are missing.
    """

    latent_density: Prior | None
    has_free_latents: bool = True
    n_labels: int | None = None

    def __init__(
        self,
        columns: Sequence[Column],
        *,
        latent_dim: int,
        encoder: Network,
        decoder: Network,
        posterior: Posterior,
        prior: Prior,
        likelihood: Table,
        masks: bool,
        n_context: int | Mapping[str, int] = 0,
        piecewise: bool = False,
        missing: Missingness | None = None,
        image_shape: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.n_columns = len(columns)
        self.image_shape = image_shape
        self.embedding = Embedding(columns, masks, piecewise=piecewise)
        if not isinstance(n_context, Mapping):
            n_context = dict.fromkeys(("encoder", "decoder", "prior"), n_context)
        self.encoder = encoder.place("encoder", image_shape).bind(self.embedding.n_out + n_context.get("encoder", 0))
        self.posterior = posterior.bind(self.encoder.n_out + n_context.get("posterior", 0), latent_dim)
        self.prior = prior.bind(latent_dim, n_context.get("prior", 0))
        self.decoder = decoder.place("decoder", image_shape).bind(latent_dim + n_context.get("decoder", 0))
        self.likelihood = likelihood.bind(columns)
        self.output = self.decoder.bind_output(self.likelihood)
        self.missing = (missing or Ignorable()).bind(columns)
        self.prior.attach(self)
        self.latent_density = None

    @property
    def density(self) -> Prior:
        """p(z) of what is generated: that fitted after training, or else the prior of training."""
        return self.prior if self.latent_density is None else self.latent_density

    @property
    def n_noise(self) -> int:
        """Standard normal numbers that a draw in training takes."""
        return self.latent_dim

    def hidden(self, batch: Batch, context: Tensor | None = None) -> Tensor:
        """What the encoder makes of each row, [B, hidden]."""
        features = self._features(batch)  # [B, features]
        beside = [given for given in (batch.told, context) if given is not None]
        return self.encoder(torch.cat([features, *beside], dim=-1) if beside else features)

    def computed(self, batch: Batch) -> Tensor:
        """What the encoder computes of each row without having learned it, or is shown of it, [B, F]."""
        return self.encoder.computed(self._features(batch))

    def _features(self, batch: Batch) -> Tensor:
        return self.embedding(self.likelihood.counted(batch.values), batch.mask)

    def encode(self, batch: Batch, context: Tensor | None = None) -> PosteriorDistribution:
        """q(z|x) of each row."""
        return self.posterior(self.hidden(batch, context), context)

    def places(self, batch: Batch, eps: Tensor) -> Tensor:
        """What rows are compared by: draws from q(z|x) for noise `eps` [1, B, D], [B, D]."""
        return self.encode(batch).rsample(eps)[0]

    def decode(self, z: Tensor, context: Tensor | None = None) -> TableDistribution:
        """p(x|z) for `z` [S, B, D]."""
        if context is not None:
            z = torch.cat([z, context.expand(*z.shape[:-1], -1)], dim=-1)
        # Networks are promised two dimensions; draws and rows are all the same to them.
        params = self.output(self.decoder(z.flatten(0, 1))).unflatten(0, z.shape[:2])
        return self.likelihood(params)

    def decode_given(self, z: Tensor, batch: Batch) -> TableDistribution:
        """p(x | z, mask) of entries that the rows do not show, for `z` [S, B, D]."""
        return self.missing.given_mask(self.decode(z), batch)

    def forward(
        self,
        batch: Batch,
        eps: Tensor,
        progress: Tensor | float = 1.0,
        context: Tensor | None = None,
        prior: Prior | None = None,
        prior_eps: Tensor | None = None,
    ) -> Terms:
        """Terms of a batch for noise `eps` [S, B, D] (or [S, 1, D], shared by all rows).

        `prior` stands in for the prior of training, if given.
        """
        posterior = self.encode(batch, context)
        z = posterior.rsample(eps)  # [S, B, D]
        distribution = self.decode(z, context)
        factors = self.missing.factors(distribution, batch)
        return Terms(z, posterior, prior or self.prior, distribution, batch, progress, context, prior_eps, **factors)

    def extra_repr(self) -> str:
        return f"latent_dim={self.latent_dim}"

    def architecture(self) -> dict[str, Any]:
        """Parts by role, for printing and saving."""
        parts = {
            "encoder": self.encoder,
            "posterior": self.posterior,
            "prior": self.prior,
            "decoder": self.decoder,
            "likelihood": self.likelihood,
            "missing": self.missing,
        }
        return parts if self.latent_density is None else {**parts, "latent density": self.latent_density}
