"""What the entries of a row that were seen say about those that were not."""

from __future__ import annotations

import torch
from torch import Tensor

from skvae.data.batch import Batch
from skvae.inference.log_likelihood import log_weights, rows_at_once
from skvae.model.priors import Prior
from skvae.model.vae import LatentVariableModel
from skvae.training.randomness import open_uniform


@torch.no_grad()
def conditional_centre(model: LatentVariableModel, prior: Prior, rows: Batch, eps: Tensor) -> Tensor:
    """Mean (numeric) or mode (discrete) of p(x | x_seen) of every column, [n, C].

    Self-normalised importance sampling from q(z | x_seen) (Mattei & Frellsen 2019, equation 12).

    Parameters
    ----------
    eps : Tensor [K, D]
        Standard normal noise, the same for all rows.
    """
    centres = []
    for piece in rows.chunks(rows_at_once(model, len(eps), prior)):
        z, log_w = log_weights(model, prior, piece, eps)
        centres.append(model.decode_given(z, piece).centre(log_w.softmax(0)))
    return torch.cat(centres)


@torch.no_grad()
def conditional_draws(
    model: LatentVariableModel, prior: Prior, rows: Batch, eps: Tensor, n_draws: int, stream: torch.Generator
) -> Tensor:
    """Draws from p(x | x_seen), [n_draws, n, C], by sampling importance resampling.

    Parameters
    ----------
    eps : Tensor [K, D]
        Standard normal noise for the pool of latents.
    stream : torch.Generator
        For the choice of latents and the draws of x, independent over rows.
    """
    # All at once and row after row, so that what a row draws does not depend on how many are done together.
    u = open_uniform((len(rows), n_draws, 1 + model.n_columns), stream)  # [n, M, 1 + C]
    draws = []
    for piece in rows.chunks(rows_at_once(model, len(eps), prior)):
        z, log_w = log_weights(model, prior, piece, eps)  # [K, B, D], [K, B]
        own = u[piece.index]  # [B, M, 1 + C]
        cumulative = log_w.softmax(0).T.cumsum(1)  # [B, K]
        chosen = torch.searchsorted(cumulative, own[:, :, 0] * cumulative[:, -1:]).T  # [M, B]
        z = z.gather(0, chosen.unsqueeze(-1).expand(-1, -1, z.shape[-1]))  # [M, B, D]
        draws.append(model.decode_given(z, piece).icdf(own[:, :, 1:].transpose(0, 1)))
    return torch.cat(draws, dim=1)
