"""The automatic choice of each column's likelihood, by held-out probability."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from skvae.data.batch import Batch
from skvae.data.columns import Column, Kind
from skvae.model.likelihoods import (
    DiscretisedLogistic,
    Distribution,
    Likelihood,
    LogNormal,
    MixtureOfGaussians,
    NegativeBinomial,
    Ordinal,
    Poisson,
    QuantileNormal,
    Spikes,
    StudentT,
    Table,
)
from skvae.model.likelihoods.table import default_likelihood
from skvae.model.networks import MLP, Embedding
from skvae.training.engine import Optimizer, threads_for
from skvae.training.randomness import Noise, seeded_torch
from skvae.training.recording import NotRecordable, Recording
from skvae.training.schedule import learning_rate_factor

# Below so many rows the noise of the comparison would decide; above so many columns the probe would take long.
_MIN_ROWS, _MAX_COLUMNS = 300, 100
_HELD_OUT_SHARE, _N_STEPS, _N_EPOCHS = 0.2, 300, 40
# Rows per step and held out: so many for up to 100 columns times candidates, then fewer, down to a quarter.
_BATCH_SIZE, _MAX_HELD_OUT, _FULL_WIDTH = 256, 2048, 100
_WIDTH, _LEARNING_RATE, _MAX_NORM = 128, 1e-2, 1e3
# Of the entries of a row an eighth is hidden at a time, or one: latents know most of a row.
_N_FOLDS = 8
# Nats per entry that are not worth another likelihood.
_MIN_LEAD = 0.02
# Whole numbers of a range no longer than this, of which most are repeated values, are nearly levels.
_FEW_VALUES, _SHARE_OF_FEW = 40, 0.75
# Whole numbers that spread this far have a smooth distribution function.
_SMOOTH_SCALE = 100.0
# Rows on which the gaps between neighbouring values are taken.
_GAP_ROWS = 10_000
_ROWS_AT_ONCE = 512


@dataclass(frozen=True)
class Choice:
    """What was chosen for a column.

    Attributes
    ----------
    likelihood : Likelihood
    gain : float
        Nats per held-out entry by which it is better than the default of the column's kind.
    """

    likelihood: Likelihood
    gain: float

    def to_dict(self) -> dict[str, Any]:
        return {"likelihood": repr(self.likelihood), "gain": self.gain}


def candidates(column: Column) -> list[Likelihood]:
    """The likelihoods that come into question for a column, the simplest first."""
    default = default_likelihood(column.kind)
    if column.kind == Kind.ORDINAL:
        return [Ordinal(), default]
    found: list[Likelihood] = [default]
    if column.kind == Kind.INTEGER:
        # Whatever their rates, counts vary at least as much as Poisson counts of the same mean; where they vary
        # much more, the rates would have to explain it all. Large counts are as good as continuous.
        dispersion = column.scale**2 / column.offset if column.lower >= 0 else 0.0
        if 0.7 <= dispersion <= 10:
            found.append(Poisson())
        if dispersion >= 0.7 and column.offset <= 1000:
            found.append(NegativeBinomial())
        # Where the rest of a row tells the value exactly, as a name tells a code, levels say so; what is spread about
        # a mean is sooner learned by the probe, and later left behind.
        if _is_of_few_values(column):
            return [*found, Spikes()]
        found += [DiscretisedLogistic(), DiscretisedLogistic(n_components=3)]
        if column.scale >= _SMOOTH_SCALE:
            found.append(QuantileNormal(rounded=True))
        return [*found, Spikes()] if column.spikes else found
    if column.kind in (Kind.CONTINUOUS, Kind.DATE):
        found.append(StudentT())
        if column.lower > 0 and column.kind == Kind.CONTINUOUS:
            found.append(LogNormal())
        found += [QuantileNormal(), MixtureOfGaussians()]
        return [*found, Spikes(), Spikes(rest=MixtureOfGaussians())] if column.spikes else found
    return found


def _is_of_few_values(column: Column) -> bool:
    """Whether whole numbers are hardly more than levels: most values of a short range repeat, each by itself."""
    n_values = column.upper - column.lower + 1
    return 2 < n_values <= _FEW_VALUES and len(column.spikes) >= _SHARE_OF_FEW * n_values


def choose(columns: Sequence[Column], undecided: Sequence[Column], rows: Batch, seed: int) -> dict[str, Choice]:
    """The likelihood of each undecided column by which a small probe predicts it best.

    The probe is one network for all columns and candidates: it sees all entries of a row but an eighth (or one)
    and predicts those, by every candidate at once. On rows held out from it the candidates are compared by the
    probability of what a rounded entry stands for (`Distribution.log_cell_prob`), which unlike a density cannot
    grow without bound; where no resolution is known, that is the median gap between neighbouring values. Of the
    candidates within one standard error of the best, or 0.02 nats, the simplest is taken (Breiman, Friedman,
    Olshen & Stone 1984, section 3.4.3).

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
        Of the columns for which there is more than one candidate; of none, if there are fewer than 300 rows or
        more than 100 such columns.
    """
    wanted = {column.name for column in undecided}
    open_to = {j: found for j, c in enumerate(columns) if c.name in wanted and len(found := candidates(c)) > 1}
    if not open_to or len(open_to) > _MAX_COLUMNS or len(rows) < _MIN_ROWS:
        return {}
    thinning = min(4.0, max(1.0, sum(map(len, open_to.values())) / _FULL_WIDTH))
    batch_size = min(round(_BATCH_SIZE / thinning), round((1 - _HELD_OUT_SHARE) * len(rows)) // 8)
    n_held_out = min(round(_MAX_HELD_OUT / thinning), round(_HELD_OUT_SHARE * len(rows)))
    noise = Noise(seed, rows.values.device)
    order = torch.randperm(len(rows), generator=noise.stream("probe rows"), device=noise.device)
    held_out, train = order[:n_held_out], order[n_held_out:][: _N_STEPS * batch_size]
    half = _half_cells(columns, rows.rows(order[:_GAP_ROWS]))
    with seeded_torch(seed):
        probe = Probe(columns, open_to).to(noise.device)
    with threads_for(batch_size * sum(p.numel() for p in probe.parameters())):
        _train(probe, rows.rows(train), batch_size, noise)
        log_p, weight = _score(probe, rows.rows(held_out), half, noise)  # [n, V] each
    chosen, start = {}, 0
    for position, found in open_to.items():
        own = slice(start, start + len(found))
        start = own.stop
        simplest, mean = _simplest(log_p[:, own], weight[:, own.start])
        default = [repr(part) for part in found].index(repr(default_likelihood(columns[position].kind)))
        chosen[columns[position].name] = Choice(found[simplest], float(mean[simplest] - mean[default]))
    return chosen


class Probe(nn.Module):
    """Predicts entries of a row from others, by several likelihoods at once.

    Parameters
    ----------
    columns : sequence of Column
    open_to : dict of position to list of Likelihood
        The candidates of some of the columns.

    Attributes
    ----------
    positions : Tensor [V]
        The column of each of the V candidates.
    """

    positions: Tensor

    def __init__(self, columns: Sequence[Column], open_to: dict[int, list[Likelihood]]) -> None:
        super().__init__()
        pairs = [(j, part) for j, found in open_to.items() for part in found]
        # As many copies of a column as it has candidates, so that a Table computes those that are alike together.
        copies = [replace(columns[j], name=str(k)) for k, (j, _) in enumerate(pairs)]
        self.embedding = Embedding(columns, masks=True)
        self.body = MLP((_WIDTH,)).bind(self.embedding.n_out)
        self.likelihood = Table({str(k): part for k, (_, part) in enumerate(pairs)}).bind(copies)
        self.output = nn.Linear(_WIDTH, self.likelihood.n_params)
        self.register_buffer("positions", torch.tensor([j for j, _ in pairs]), persistent=False)

    def forward(self, rows: Batch) -> Distribution:
        """Distributions [1, B, V] of the entries of rows, given what is seen of them."""
        return self.likelihood(self.output(self.body(self.embedding(rows.values, rows.seen))).unsqueeze(0))

    def hidden(self, rows: Batch) -> Tensor:
        """Weights [B, V] of the entries that are to be predicted; 0 for those seen or missing."""
        assert rows.seen is not None
        hidden = ~rows.seen if rows.observed is None else rows.observed & ~rows.seen
        weight = hidden[:, self.positions].to(rows.values.dtype)
        return weight if rows.weight is None else weight * rows.weight.unsqueeze(1)


def _train(probe: Probe, rows: Batch, batch_size: int, noise: Noise) -> None:
    """Maximise the log-probability of hidden entries."""
    n_steps = min(_N_STEPS, _N_EPOCHS * len(rows) // batch_size)
    shape = batch_size, rows.values.shape[1]
    stream = noise.stream("probe steps")
    optimizer = Optimizer([probe], _MAX_NORM)
    gradients = _Gradients(probe, optimizer)
    for step in range(n_steps):
        batch = rows.rows(torch.randint(len(rows), shape[:1], generator=stream, device=noise.device))
        gradients(batch.hide(_folds(shape, stream) == 0))
        optimizer.update(_LEARNING_RATE * learning_rate_factor(step, n_steps, n_steps // 20))
    optimizer.release()


class _Gradients:
    """Takes the gradients of batches of one shape to the optimizer, from a recording of the first if possible."""

    def __init__(self, probe: Probe, optimizer: Optimizer) -> None:
        self.probe, self.optimizer = probe, optimizer
        self._run: Callable[..., Any] | None = None

    def __call__(self, batch: Batch) -> None:
        tensors = list(vars(batch).values())
        if self._run is None and not batch.values.is_cuda:
            with contextlib.suppress(NotRecordable):
                self._run = Recording(self._compute, tensors, self.optimizer.gradients)
                return
        self._run = self._run or self._eagerly
        self._run(*tensors)

    def _compute(self, *tensors: Any) -> Sequence[Tensor | None]:
        batch = Batch(*tensors)
        log_p = self.probe(batch).log_prob(batch.values[:, self.probe.positions])[0]  # [B, V]
        loss = -(log_p * self.probe.hidden(batch)).sum() / len(batch)
        return torch.autograd.grad(loss, self.optimizer.parameters, allow_unused=True)

    def _eagerly(self, *tensors: Any) -> None:
        for place, gradient in zip(self.optimizer.gradients, self._compute(*tensors), strict=True):
            if gradient is not None:
                place.copy_(gradient)


@torch.no_grad()
def _score(probe: Probe, rows: Batch, half: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """Log-probabilities [n, V] of the cells of all entries, each predicted once, and the entries' weights."""
    n_rows, n_columns = rows.values.shape
    folds = _folds((n_rows, n_columns), noise.stream("probe folds"))
    log_p, weight = [], []
    for piece in rows.chunks(_ROWS_AT_ONCE):
        turns = [piece.hide(folds[piece.index] == fold) for fold in range(int(folds.max()) + 1)]
        weights = torch.stack([probe.hidden(turn) for turn in turns])  # [folds, B, V]
        x = piece.values[:, probe.positions]
        answers = torch.cat([probe(turn).log_cell_prob(x, half[probe.positions]) for turn in turns])
        log_p.append(torch.where(weights > 0, answers, 0.0).sum(0))
        weight.append(weights.sum(0))
    return torch.cat(log_p).double(), torch.cat(weight).double()


def _folds(shape: tuple[int, int], stream: torch.Generator) -> Tensor:
    """The entries of each row dealt out at random to equal folds, [n, C]."""
    place = torch.rand(shape, generator=stream, device=stream.device).argsort(1)
    return place % _N_FOLDS


def _simplest(log_p: Tensor, weight: Tensor) -> tuple[int, Tensor]:
    """The first of the candidates that are as good as the best, and the means [K] of all.

    Parameters
    ----------
    log_p : Tensor [n, K]
    weight : Tensor [n]
    """
    share = (weight / weight.sum()).unsqueeze(1)
    log_p = log_p.nan_to_num(nan=-1e6, neginf=-1e6, posinf=-1e6)
    mean = (share * log_p).sum(0)
    gap = log_p[:, mean.argmax()].unsqueeze(1) - log_p
    lead = (share * gap).sum(0)
    error = (share * (gap - lead)).square().sum(0).sqrt()
    return int((lead <= error.clamp(min=_MIN_LEAD)).int().argmax()), mean


def _half_cells(columns: Sequence[Column], rows: Batch) -> Tensor:
    """Half the width of what an entry stands for, in standardised units, [C]."""
    half = []
    for j, column in enumerate(columns):
        width = column.resolution / column.scale
        if not width and not column.is_discrete:
            values = rows.values[:, j] if rows.observed is None else rows.values[rows.observed[:, j], j]
            gaps = values.unique().diff()
            width = float(gaps.median()) if len(gaps) else 0.0
        half.append(max(0.5 * width, 1e-6))
    return torch.tensor(half, device=rows.values.device)
