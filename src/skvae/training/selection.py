"""The automatic choice of each column's likelihood, by held-out probability."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from skvae.data.batch import Batch
from skvae.data.columns import Column, Kind
from skvae.model.likelihoods import (
    Categorical,
    DiscretisedLogistic,
    Distribution,
    Likelihood,
    NegativeBinomial,
    Ordinal,
    Poisson,
    Table,
)
from skvae.model.likelihoods.table import default_likelihood
from skvae.model.networks import MLP, Embedding
from skvae.training.engine import Optimizer, threads_for
from skvae.training.randomness import Noise, random_mask, seeded_torch
from skvae.training.schedule import learning_rate_factor

# Below so many rows the noise of the comparison decides, above so many columns the probe takes too long.
_MIN_ROWS, _MAX_COLUMNS = 300, 100
_HELD_OUT_SHARE, _MAX_HELD_OUT = 0.2, 4096
_N_STEPS, _N_EPOCHS, _BATCH_SIZE = 600, 40, 256
_WIDTH, _LEARNING_RATE, _MAX_NORM = 128, 5e-3, 1e3
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Choice:
    """What was chosen for a column.

    Attributes
    ----------
    likelihood : Likelihood
    gain : float
        Nats per entry that it is better by than the default of the column's kind, held out.
    """

    likelihood: Likelihood
    gain: float


def candidates(column: Column) -> list[Likelihood]:
    """The likelihoods that come into question for a column, the simplest first."""
    default = default_likelihood(column.kind)
    if column.kind == Kind.ORDINAL:
        return [Ordinal(), Categorical()]
    if column.kind == Kind.INTEGER:
        found: list[Likelihood] = [default]
        # Whatever the rates, counts vary at least as much as Poisson counts of their mean.
        if column.lower >= 0 and column.scale**2 >= 0.7 * column.offset:
            found += [Poisson(), NegativeBinomial()]
        return [*found, DiscretisedLogistic(n_components=5)]
    return [default]


def choose(columns: Sequence[Column], undecided: Sequence[Column], rows: Batch, seed: int) -> dict[str, Choice]:
    """The best likelihood of each undecided column by what a small probe makes of it.

    The probe is one network for all columns and candidates: it sees a part of the entries of a row and predicts
    the others, by each candidate at once. Candidates are compared on rows held out from it, by the probability of
    what a rounded entry stands for (see `Distribution.log_cell_prob`), which unlike a density cannot grow without
    bound; of those within one standard error of the best the simplest is taken (Breiman, Friedman, Olshen & Stone
    1984, section 3.4.3). Where no resolution is known, a cell is as wide as the median gap between neighbouring
    values.

    Parameters
    ----------
    columns : sequence of Column
    undecided : sequence of Column
        Those of them whose likelihood is to be chosen.
    rows : Batch [n, C]
    seed : int

    Returns
    -------
    dict of column name to Choice
        Of the columns that have more than one candidate; of none if there are fewer than 300 rows or more than
        100 such columns.
    """
    wanted = {column.name for column in undecided}
    open_to = {j: found for j, c in enumerate(columns) if c.name in wanted and len(found := candidates(c)) > 1}
    if not open_to or len(open_to) > _MAX_COLUMNS or len(rows) < _MIN_ROWS:
        return {}
    noise = Noise(seed, rows.values.device)
    order = torch.randperm(len(rows), generator=noise.stream("candidates"), device=rows.values.device)
    n_held_out = min(round(_HELD_OUT_SHARE * len(rows)), _MAX_HELD_OUT)
    with seeded_torch(seed):
        probe = Probe(columns, open_to).to(rows.values.device)
    _train(probe, rows.rows(order[n_held_out:]), noise)
    half = _half_cells(columns, rows)
    log_p, weight = _held_out(probe, rows.rows(order[:n_held_out]), half, noise)  # [n, V] each
    chosen, start = {}, 0
    for position, found in open_to.items():
        own = slice(start, start + len(found))
        start = own.stop
        best, gain = _simplest(log_p[:, own], weight[:, own.start])
        chosen[columns[position].name] = Choice(found[best], gain)
    return chosen


class Probe(nn.Module):
    """Predicts entries of a row from others, by several likelihoods at once.

    Parameters
    ----------
    columns : sequence of Column
    open_to : dict of position to list of Likelihood
        The candidates of some columns.

    Attributes
    ----------
    positions : Tensor [V]
        The column of each of the V candidates.
    """

    positions: Tensor

    def __init__(self, columns: Sequence[Column], open_to: dict[int, list[Likelihood]]) -> None:
        super().__init__()
        positions = [j for j, found in open_to.items() for _ in found]
        # As many columns as candidates, so that a Table computes those of a kind together.
        copies = [replace(columns[j], name=str(k)) for k, j in enumerate(positions)]
        likelihoods = [likelihood for found in open_to.values() for likelihood in found]
        by_copy = {copy.name: likelihood for copy, likelihood in zip(copies, likelihoods, strict=True)}
        self.register_buffer("positions", torch.tensor(positions), persistent=False)
        self.embedding = Embedding(columns, masks=True)
        self.body = MLP((_WIDTH,)).bind(self.embedding.n_out)
        self.likelihood = Table(by_copy).bind(copies)
        self.output = nn.Linear(_WIDTH, self.likelihood.n_params)

    def forward(self, values: Tensor, seen: Tensor) -> Distribution:
        """Distributions [1, B, V] of rows [B, C] given what is seen of them."""
        return self.likelihood(self.output(self.body(self.embedding(values, seen))).unsqueeze(0))


def _train(probe: Probe, rows: Batch, noise: Noise) -> None:
    """Maximise the log-probability of hidden entries."""
    batch_size = min(_BATCH_SIZE, len(rows) // 8)
    n_steps = min(_N_STEPS, _N_EPOCHS * len(rows) // batch_size)
    n_columns = rows.values.shape[1]
    optimizer = Optimizer([probe], _MAX_NORM)
    stream = noise.stream("probe")
    with threads_for(batch_size * optimizer.flat.numel()):
        for step in range(n_steps):
            at = torch.randint(len(rows), (batch_size,), generator=stream, device=noise.device)
            batch = rows.rows(at)
            batch = batch.hide(random_mask((batch_size, n_columns), stream, share=1.0))
            factor = learning_rate_factor(step, n_steps, n_steps // 20)
            optimizer.step(_loss(probe, batch), _LEARNING_RATE * factor)
    optimizer.release()


def _loss(probe: Probe, batch: Batch) -> Tensor:
    log_p = probe(batch.values, batch.seen).log_prob(batch.values[:, probe.positions])[0]  # [B, V]
    return -(log_p * _hidden(probe, batch)).sum() / len(batch)


def _hidden(probe: Probe, batch: Batch) -> Tensor:
    """Weights [B, V] of the entries to be predicted, 0 for those that are seen or missing."""
    assert batch.seen is not None
    hidden = ~batch.seen if batch.observed is None else batch.observed & ~batch.seen
    weight = hidden[:, probe.positions].to(batch.values.dtype)
    return weight if batch.weight is None else weight * batch.weight.unsqueeze(1)


@torch.no_grad()
def _held_out(probe: Probe, rows: Batch, half: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """Log-probabilities of cells [n, V] and their weights, with fixed masks."""
    rows = rows.hide(random_mask(tuple(rows.values.shape), noise.stream("held out"), share=1.0))
    log_p, weight = [], []
    for piece in rows.chunks(_ROWS_AT_ONCE):
        distribution = probe(piece.values, piece.seen)
        log_p.append(distribution.log_cell_prob(piece.values[:, probe.positions], half[probe.positions])[0])
        weight.append(_hidden(probe, piece))
    return torch.cat(log_p).double(), torch.cat(weight).double()


def _simplest(log_p: Tensor, weight: Tensor) -> tuple[int, float]:
    """The first of the candidates within one standard error of the best, and its gain on the first.

    Parameters
    ----------
    log_p : Tensor [n, K]
    weight : Tensor [n]
    """
    share = weight / weight.sum()
    mean = (share.unsqueeze(1) * log_p).sum(0).nan_to_num(nan=-torch.inf)
    best = int(mean.argmax())
    for k in range(len(mean)):
        difference = log_p[:, best] - log_p[:, k]
        lead = float(mean[best] - mean[k])
        error = math.sqrt(float((share.square() * (difference - lead).square()).sum()))
        if lead <= error:
            break
    return k, float(mean[k] - mean[0])


def _half_cells(columns: Sequence[Column], rows: Batch) -> Tensor:
    """Half the width of what an entry stands for, in standardised units, [C]."""
    half = []
    for j, column in enumerate(columns):
        width = column.resolution / column.scale
        if not width and not column.is_discrete:
            values = rows.values[:, j] if rows.observed is None else rows.values[rows.observed[:, j], j]
            width = float(values.unique().diff().median())
        half.append(max(0.5 * width, 1e-6))
    return torch.tensor(half, device=rows.values.device)
