"""Every entry of a row given all others of it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from skvae.data.batch import Batch
from skvae.inference.log_likelihood import log_weights, rows_at_once
from skvae.model.priors import Prior
from skvae.model.vae import LatentVariableModel


class LeftOut(NamedTuple):
    """What the other entries of its row say of each entry.

    Attributes
    ----------
    log_p : Tensor [n, C]
        log p(x_c | the others), in nats and the units of the data; NaN where the entry is missing.
    centre : Tensor [n, C]
        Mean (numeric) or mode (discrete) of p(x_c | the others).
    """

    log_p: Tensor
    centre: Tensor


@torch.no_grad()
def left_out(model: LatentVariableModel, prior: Prior, rows: Batch, eps: Tensor) -> LeftOut:
    """Hide each entry in turn, and ask for it.

    p(x_c | the others) is the mixture of p(x_c|z) over draws from q(z | the others), importance weighted as for
    imputation.

    Parameters
    ----------
    eps : Tensor [K, D]
        Standard normal noise, the same for all rows.
    """
    n, n_columns = rows.values.shape
    device = rows.values.device
    answers = []
    for pairs in torch.arange(n * n_columns, device=device).split(rows_at_once(model, len(eps), prior)):
        row, column = pairs // n_columns, pairs % n_columns
        asked = rows.rows(row).hide(column.unsqueeze(1) == torch.arange(n_columns, device=device))
        z, log_w = log_weights(model, prior, asked, eps)  # [K, P, D], [K, P]
        log_w = log_w.log_softmax(0)
        distribution = model.decode_given(z, asked)
        log_p = (log_w.unsqueeze(-1) + distribution.log_prob(asked.values)).logsumexp(0)  # [P, C]
        both = torch.stack([log_p, distribution.centre(log_w.exp())])
        answers.append(both.gather(2, column.view(1, -1, 1).expand(2, -1, -1)).squeeze(2))
    log_p, centre = torch.cat(answers, dim=1).unflatten(1, (n, n_columns))
    if rows.observed is not None:
        log_p = log_p.masked_fill(~rows.observed, torch.nan)
    return LeftOut(log_p, centre)
