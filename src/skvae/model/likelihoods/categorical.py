"""Likelihoods of columns with levels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from skvae.data.columns import DISCRETE, Column, Kind, names_of
from skvae.model.likelihoods.base import Distribution, Likelihood


class BernoulliColumns(Distribution):
    """0 or 1, with `logits` [S, B, C]; of numbers, whether they are above one half.

    Parameters
    ----------
    logits : Tensor [S, B, C]
    offset, scale : Tensor [C] or None
        Of numbers, which are (code − offset) / scale.
    """

    def __init__(self, logits: Tensor, offset: Tensor | None = None, scale: Tensor | None = None) -> None:
        self.logits, self.offset, self.scale = logits, offset, scale

    def _code(self, values: Tensor) -> Tensor:
        if self.offset is None or self.scale is None:
            return values
        return (values * self.scale + self.offset).round()

    def _value(self, code: Tensor) -> Tensor:
        code = code.to(self.logits.dtype)
        return code if self.offset is None or self.scale is None else (code - self.offset) / self.scale

    def log_prob(self, values: Tensor) -> Tensor:
        # code · logit − softplus(logit), in half as many passes over [S, B, C].
        return F.logsigmoid((2 * self._code(values) - 1) * self.logits)

    def log_cell_prob(self, values: Tensor, half: Tensor) -> Tensor:
        return self.log_prob(values)

    @property
    def mean(self) -> Tensor:
        return self._value(torch.sigmoid(self.logits))

    def centre(self, weights: Tensor) -> Tensor:
        one = (weights.unsqueeze(-1) * torch.sigmoid(self.logits)).sum(0)  # [B, C]
        return self._value(one > 0.5 if self.offset is None else one)

    def cdf(self, values: Tensor) -> Tensor:
        code = self._code(values)
        above_zero = torch.where(code < 1, torch.sigmoid(-self.logits), 1.0)
        return torch.where(code < 0, 0.0, above_zero)

    def icdf(self, u: Tensor) -> Tensor:
        return self._value(u > torch.sigmoid(-self.logits))

    def nodes(self) -> tuple[Tensor, Tensor]:
        values = torch.stack([self._value(torch.full_like(self.logits, code)) for code in (0.0, 1.0)])
        return values, torch.stack([F.logsigmoid(-self.logits), F.logsigmoid(self.logits)])

    def tilted(self, log_g: Callable[[Tensor], Tensor]) -> Distribution:
        at_zero, at_one = log_g(self.nodes()[0])
        return BernoulliColumns(self.logits + at_one - at_zero, self.offset, self.scale)


class Bernoulli(Likelihood):
    """Columns with two levels, or with the probabilities of two.

    Parameters
    ----------
    binarize : {None, "threshold", "dynamic"}
        None: the columns have two levels. Otherwise they are numbers in [0, 1], or of type uint8 from 0 to 255,
        such as grey values. "threshold": those above one half count as 1, the others as 0. "dynamic": each training
        step draws 0 or 1 with that probability (Salakhutdinov & Murray 2008); of rows asked about later, values
        above one half count as 1.
    """

    alias = "bernoulli"
    offset: Tensor | None
    scale: Tensor | None

    def __init__(self, binarize: str | None = None) -> None:
        super().__init__()
        self.binarize = binarize

    @property
    def draws_values(self) -> bool:  # type: ignore[override]
        return self.binarize == "dynamic"

    @property
    def recounts(self) -> bool:  # type: ignore[override]
        return self.binarize is not None

    @property
    def kinds(self) -> frozenset[Kind]:  # type: ignore[override]
        if self.binarize not in (None, "threshold", "dynamic"):
            raise ValueError(f"Bernoulli(binarize={self.binarize!r}): expected None, 'threshold' or 'dynamic'")
        return frozenset({Kind.BINARY}) if self.binarize is None else frozenset({Kind.CONTINUOUS, Kind.INTEGER})

    def check(self, columns: Sequence[Column]) -> None:
        """Refuse columns of another kind, and numbers that are no probabilities."""
        numbers = [column for column in columns if column.kind not in DISCRETE]
        if self.binarize is None and numbers:
            column = numbers[0]
            raise ValueError(
                f"likelihood Bernoulli() cannot score column {names_of(numbers)} ({column.kind}); it scores binary "
                f"columns, and this one has values from {column.lower:g} to {column.upper:g}. Cut them in two with "
                "Bernoulli(binarize='threshold'), draw 0 or 1 with Bernoulli(binarize='dynamic'), or use "
                "'continuous-bernoulli', 'discretised-logistic' or 'auto'"
            )
        super().check(columns)
        if self.binarize is not None:
            check_shares(self, columns)

    def bind(self, columns: Sequence[Column]) -> Bernoulli:
        self.n_params = len(columns)
        are_numbers = self.binarize is not None
        offset = torch.tensor([column.offset / full_scale(column) for column in columns])
        scale = torch.tensor([column.scale / full_scale(column) for column in columns])
        self.register_buffer("offset", offset if are_numbers else None, persistent=False)
        self.register_buffer("scale", scale if are_numbers else None, persistent=False)
        return self

    def observe(self, values: Tensor, u: Tensor) -> Tensor:
        if self.offset is None or self.scale is None or not self.draws_values:
            return values
        return ((u < values * self.scale + self.offset).to(values.dtype) - self.offset) / self.scale

    def counted(self, values: Tensor) -> Tensor:
        if self.offset is None or self.scale is None:
            return values
        return ((values * self.scale + self.offset).round() - self.offset) / self.scale

    def forward(self, params: Tensor) -> BernoulliColumns:
        return BernoulliColumns(params, self.offset, self.scale)


def full_scale(column: Column) -> float:
    """What a grey value of 1 is in the data's units: 255 of type uint8."""
    return 255.0 if column.dtype == "uint8" else 1.0


def check_shares(likelihood: Likelihood, columns: Sequence[Column]) -> None:
    """Refuse numbers beyond [0, 1], of type uint8 beyond 255."""
    for column in columns:
        if column.lower < 0 or column.upper > full_scale(column):
            value = column.lower if column.lower < 0 else column.upper
            raise ValueError(
                f"{likelihood!r} needs values in [0, 1], but column '{column.name}' holds {value:g}; divide the "
                "column by its largest value (pixels: by 255, or give them as uint8)"
            )


class CategoricalColumns(Distribution):
    """Codes 0 … K_c − 1 of columns that share a table of `logits` [S, B, C, K], −inf where K_c < K."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    def log_prob(self, values: Tensor) -> Tensor:
        code = values.long().expand(self.logits.shape[:-1]).unsqueeze(-1)
        return self.logits.gather(-1, code).squeeze(-1) - self.logits.logsumexp(-1)

    @property
    def probs(self) -> Tensor:
        return self.logits.softmax(-1)

    @property
    def mean(self) -> Tensor:
        return self.probs @ torch.arange(self.logits.shape[-1], dtype=self.logits.dtype, device=self.logits.device)

    def centre(self, weights: Tensor) -> Tensor:
        return torch.einsum("sb,sbck->bck", weights, self.probs).argmax(-1).to(self.logits.dtype)

    def cdf(self, values: Tensor) -> Tensor:
        code = values.long().clamp(0, self.logits.shape[-1] - 1).expand(self.logits.shape[:-1]).unsqueeze(-1)
        cumulative = self.probs.cumsum(-1).gather(-1, code).squeeze(-1)
        return torch.where(values < 0, 0.0, cumulative)

    def icdf(self, u: Tensor) -> Tensor:
        cumulative = self.probs.cumsum(-1)
        # Scaled to the total, so that rounding cannot lead past the last level.
        threshold = u.unsqueeze(-1) * cumulative[..., -1:]
        return (cumulative < threshold).sum(-1).to(u.dtype)

    def nodes(self) -> tuple[Tensor, Tensor]:
        log_p = self.logits.log_softmax(-1).movedim(-1, 0)
        return code_values(log_p), log_p

    def tilted(self, log_g: Callable[[Tensor], Tensor]) -> Distribution:
        values, log_p = self.nodes()
        return CategoricalColumns((log_p + log_g(values)).movedim(0, -1))


class Categorical(Likelihood):
    """Columns with named levels.

    Columns whose numbers of levels lie between the same powers of two are computed together, padded to the
    largest among them.
    """

    alias = "categorical"
    kinds = DISCRETE
    padding: Tensor

    def __init__(self) -> None:
        super().__init__()

    def groups(self, columns: Sequence[Column]) -> list[list[int]]:
        return groups_by_size(columns)

    def bind(self, columns: Sequence[Column]) -> Categorical:
        n_levels = torch.tensor([column.cardinality for column in columns])
        self.shape = (len(columns), int(n_levels.max()))
        self.n_params = self.shape[0] * self.shape[1]
        beyond = torch.arange(self.shape[1]) >= n_levels.unsqueeze(1)
        padding = torch.zeros(self.shape).masked_fill(beyond, -torch.inf)
        self.register_buffer("padding", padding, persistent=False)
        return self

    def arranged(self, params: Tensor) -> Tensor:
        return params.transpose(-1, -2).flatten(-2)

    def forward(self, params: Tensor) -> CategoricalColumns:
        return CategoricalColumns(params.unflatten(-1, self.shape) + self.padding)


def code_values(like: Tensor) -> Tensor:
    """0 … K − 1 along the first axis of `like` [K, S, B, C]."""
    codes = torch.arange(len(like), dtype=like.dtype, device=like.device)
    return codes.view(-1, 1, 1, 1).expand(like.shape)


def groups_by_size(columns: Sequence[Column]) -> list[list[int]]:
    """Positions of columns whose numbers of levels lie between the same powers of two."""
    by_size: dict[int, list[int]] = {}
    for position, column in enumerate(columns):
        by_size.setdefault((column.cardinality - 1).bit_length(), []).append(position)
    return [by_size[size] for size in sorted(by_size)]
