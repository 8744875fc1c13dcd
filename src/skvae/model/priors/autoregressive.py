"""A prior of any shape, one latent after the other."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skvae.model.checks import check_whole
from skvae.model.likelihoods.base import soft_limit
from skvae.model.priors.base import ScaledPrior

# σ of a component lies between e^-5 and e^2, in units of the latent's own deviation.
_LOWEST_LOG_SCALE, _HIGHEST_LOG_SCALE = -5.0, 2.0
_LOG_2PI = math.log(2 * math.pi)


class AutoregressivePrior(ScaledPrior):
    r"""Each latent given those before it is a mixture of normals, whose parameters one masked network gives.

    .. math:: p(z) = \prod_d \sum_k w_{dk} \, N(z_d; \mu_{dk}, \sigma_{dk}^2),
        \qquad w_d, \mu_d, \sigma_d \text{ functions of } z_1 \dots z_{d-1}

    A masked autoencoder (Germain, Gregor, Murray & Larochelle 2015) with mixtures as its conditionals
    (Papamakarios, Pavlakou & Murray 2017, section 2.2) and residual blocks (Nash & Durkan 2019, section 4.1). The
    density takes one pass. So does a draw: hidden units stand in the order of the latents that they depend on, and
    those that wait for the next latent are computed when it is known.

    Parameters
    ----------
    n_components : int
        Normals in the mixture of each latent.
    hidden_size : int
        Hidden units of each layer.
    n_blocks : int
        Residual blocks, of two layers each.
    """

    alias = "autoregressive"
    into: Tensor
    within: Tensor
    out_of: Tensor

    def __init__(self, n_components: int = 10, hidden_size: int = 256, n_blocks: int = 2) -> None:
        super().__init__()
        self.n_components = n_components
        self.hidden_size = hidden_size
        self.n_blocks = n_blocks

    @property
    def n_noise(self) -> int:
        """One number chooses the component of each latent, one is for the component."""
        return 2 * self.latent_dim

    def bind(self, latent_dim: int, n_context: int = 0) -> AutoregressivePrior:
        for name in ("n_components", "hidden_size"):
            check_whole(self, name, 1)
        check_whole(self, "n_blocks", 0)
        super().bind(latent_dim, n_context)
        n_params = 3 * self.n_components * latent_dim
        self.width = max(n_params, 4 * self.hidden_size)
        # A hidden unit of degree d sees latents 1 … d; all layers have the same degrees, in increasing order.
        degree = 1 + torch.arange(self.hidden_size) * max(1, latent_dim - 1) // self.hidden_size
        latent = torch.arange(1, latent_dim + 1)
        self._ends = [0, *torch.searchsorted(degree, latent, right=True).tolist()]  # units of degree ≤ d
        given = latent.repeat_interleave(3 * self.n_components)
        self.register_buffer("into", (degree[:, None] >= latent).float(), persistent=False)
        self.register_buffer("within", (degree[:, None] >= degree).float(), persistent=False)
        self.register_buffer("out_of", (given[:, None] > degree).float(), persistent=False)
        self.first = nn.Linear(latent_dim, self.hidden_size)
        self.context = nn.Linear(n_context, self.hidden_size, bias=False) if n_context else None
        self.layers = nn.ModuleList(nn.Linear(self.hidden_size, self.hidden_size) for _ in range(2 * self.n_blocks))
        self.last = nn.Linear(self.hidden_size, n_params)
        with torch.no_grad():  # every block starts as the identity, every mixture as about N(0, 1)
            for layer in (*(two for _, two in self._blocks), self.last):
                layer.weight.mul_(0.1)
                layer.bias.zero_()
            start = self.last.bias.view(latent_dim, 3, self.n_components)
            start[:, 1] = torch.linspace(-1.5, 1.5, self.n_components) if self.n_components > 1 else 0.0
            start[:, 2] = _raw_log_scale(0.5 if self.n_components > 1 else 1.0)
        return self

    def mixtures(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Of each latent given those before it: logits, means and log σ [S, B, D, K], in its own units."""
        x = (z - self.centre) / self.unit  # [S, B, D]
        hidden = F.linear(x, self.first.weight * self.into, self.first.bias)
        if self.context is not None and context is not None:
            hidden = hidden + self.context(context)
        for one, two in self._blocks:
            inner = F.linear(F.silu(hidden), one.weight * self.within, one.bias)
            hidden = hidden + F.linear(F.silu(inner), two.weight * self.within, two.bias)
        params = F.linear(F.silu(hidden), self.last.weight * self.out_of, self.last.bias)
        return self._split(params.unflatten(-1, (self.latent_dim, 3, self.n_components)))

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        logits, mean, log_scale = self.mixtures(z, context)
        x = ((z - self.centre) / self.unit).unsqueeze(-1)
        distance = (x - mean) * torch.exp(-log_scale)
        log_p = (logits - 0.5 * distance.square() - log_scale).logsumexp(-1) - logits.logsumexp(-1)
        return (log_p - self.unit.log() - 0.5 * _LOG_2PI).sum(-1)

    @torch.no_grad()
    def sample(self, eps: Tensor, context: Tensor | None = None) -> Tensor:
        """Latents [..., D] from standard normal noise `eps` [..., 2 D]; they carry no gradient."""
        noise = eps.flatten(0, -2)  # [n, 2 D]
        n = len(noise)
        if context is not None:
            context = context.expand(*eps.shape[:-1], -1).flatten(0, -2)
        chooses, fills = noise.chunk(2, dim=1)
        x = noise.new_empty(n, self.latent_dim)
        # Of every layer the units that are known so far; all but the first are kept after their activation.
        known = [noise.new_empty(n, self.hidden_size) for _ in range(2 * self.n_blocks + 1)]
        stretch = 3 * self.n_components
        for d in range(self.latent_dim):
            seen, end = self._ends[d], self._ends[d + 1]
            rows = slice(d * stretch, (d + 1) * stretch)
            params = F.linear(known[-1][:, :seen], self.last.weight[rows, :seen], self.last.bias[rows])
            logits, mean, log_scale = self._split(params.unflatten(-1, (3, self.n_components)))  # [n, K] each
            cumulative = logits.softmax(-1).cumsum(-1)
            u = torch.special.ndtr(chooses[:, d : d + 1]) * cumulative[:, -1:]
            at = torch.searchsorted(cumulative, u.contiguous()).clamp(max=self.n_components - 1)
            x[:, d] = torch.addcmul(mean.gather(1, at), log_scale.gather(1, at).exp(), fills[:, d : d + 1])[:, 0]
            units = slice(seen, end)
            hidden = F.linear(x[:, : d + 1], self.first.weight[units, : d + 1], self.first.bias[units])
            if self.context is not None and context is not None:
                hidden = hidden + F.linear(context, self.context.weight[units])
            known[0][:, units] = F.silu(hidden)
            for k, (one, two) in enumerate(self._blocks):
                inner = F.linear(known[2 * k][:, :end], one.weight[units, :end], one.bias[units])
                known[2 * k + 1][:, units] = F.silu(inner)
                hidden = hidden + F.linear(known[2 * k + 1][:, :end], two.weight[units, :end], two.bias[units])
                known[2 * k + 2][:, units] = F.silu(hidden)
        return torch.addcmul(self.centre, x, self.unit).unflatten(0, eps.shape[:-1])

    @property
    def _blocks(self) -> list[tuple[Any, Any]]:
        """The two layers of each block."""
        return list(zip(self.layers[::2], self.layers[1::2], strict=True))

    def _split(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, means and log σ [..., K] of `params` [..., 3, K]."""
        logits, mean, raw = params.unbind(-2)
        return logits, mean, soft_limit(raw, _LOWEST_LOG_SCALE, _HIGHEST_LOG_SCALE)


def _raw_log_scale(scale: float) -> float:
    """What `soft_limit` makes log σ of."""
    centre, half = (_HIGHEST_LOG_SCALE + _LOWEST_LOG_SCALE) / 2, (_HIGHEST_LOG_SCALE - _LOWEST_LOG_SCALE) / 2
    return half * math.atanh((math.log(scale) - centre) / half) + centre
