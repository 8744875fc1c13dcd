"""The likelihood of a whole table: columns of different kinds, joined."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from skvae.data.columns import Column, Kind
from skvae.model.component import resolve
from skvae.model.likelihoods.base import Distribution, Likelihood
from skvae.model.likelihoods.categorical import Bernoulli, Categorical
from skvae.model.likelihoods.continuous import Gaussian


def default_likelihood(kind: Kind) -> Likelihood:
    """The likelihood of a column of which only the kind is known."""
    if kind == Kind.BINARY:
        return Bernoulli()
    if kind in (Kind.CATEGORICAL, Kind.ORDINAL):
        return Categorical()
    return Gaussian(scale="row", rounded=kind == Kind.INTEGER, outliers=1e-3)


class TableDistribution(Distribution):
    """Independent columns given z; each part answers for its own columns.

    Parameters
    ----------
    parts : sequence of Distribution
    positions : sequence of Tensor
        The columns of each part.
    order : Tensor [C] or None
        Where each column stands in the parts' concatenation; None if one part has them all in order.
    """

    def __init__(self, parts: Sequence[Distribution], positions: Sequence[Tensor], order: Tensor | None) -> None:
        self.parts, self.positions, self.order = parts, positions, order

    def _join(self, question: Callable[..., Tensor], values: Tensor | None = None) -> Tensor:
        if self.order is None:
            return question(self.parts[0]) if values is None else question(self.parts[0], values)
        if values is None:
            answers = [question(part) for part in self.parts]
        else:
            answers = [question(part, values[..., at]) for part, at in zip(self.parts, self.positions, strict=True)]
        return torch.cat(answers, dim=-1)[..., self.order]

    def log_prob(self, values: Tensor) -> Tensor:
        return self._join(lambda part, x: part.log_prob(x), values)

    @property
    def mean(self) -> Tensor:
        return self._join(lambda part: part.mean)

    def centre(self, weights: Tensor) -> Tensor:
        return self._join(lambda part: part.centre(weights))

    def cdf(self, values: Tensor) -> Tensor:
        return self._join(lambda part, x: part.cdf(x), values)

    def icdf(self, u: Tensor) -> Tensor:
        return self._join(lambda part, x: part.icdf(x), u)


class Table(Likelihood):
    """Joins the likelihoods of columns of different kinds; columns with the same one are computed together.

    Parameters
    ----------
    likelihood : "auto", str, Likelihood, or mapping of kind or column name to one of these
        "auto": numeric columns are Gaussian with a predicted σ (whole numbers as probabilities of their
        rounding cell), columns with two levels Bernoulli, others categorical. A single likelihood is used
        for all columns; a mapping overrides "auto" for some, a column's name going before its kind.
    """

    alias = "table"
    order: Tensor | None

    def __init__(self, likelihood: Any = "auto") -> None:
        super().__init__()
        self.likelihood = likelihood

    @property
    def kinds(self) -> frozenset[Kind]:  # type: ignore[override]
        if isinstance(self.likelihood, Mapping) or self.likelihood == "auto":
            return frozenset(Kind)
        return resolve(Likelihood, self.likelihood, "likelihood").kinds

    def _choose(self, column: Column) -> Likelihood:
        choice = self.likelihood
        if isinstance(choice, Mapping):
            choice = choice.get(column.name, choice.get(str(column.kind), "auto"))
        if isinstance(choice, str) and choice == "auto":
            return default_likelihood(column.kind)
        return resolve(Likelihood, choice, "likelihood")

    def bind(self, columns: Sequence[Column]) -> Table:
        if isinstance(self.likelihood, Mapping):
            known = {column.name for column in columns} | set(Kind)
            for key in self.likelihood:
                if key not in known:
                    raise ValueError(f"likelihood names '{key}', which is neither a column that varies nor a kind")
        alike: dict[str, tuple[Likelihood, list[int]]] = {}
        for position, column in enumerate(columns):
            choice = self._choose(column)
            alike.setdefault(repr(choice), (choice, []))[1].append(position)
        parts: list[Likelihood] = []
        positions: list[list[int]] = []
        for choice, members in alike.values():
            choice.check([columns[j] for j in members])
            for group in choice.groups([columns[j] for j in members]):
                positions.append([members[j] for j in group])
                parts.append(choice.fresh().bind([columns[j] for j in positions[-1]]))
        self.parts = nn.ModuleList(parts)
        self._sizes = [part.n_params for part in parts]
        self.n_params = sum(self._sizes)
        joined = torch.tensor([j for group in positions for j in group])
        in_order = len(positions) == 1 and positions[0] == list(range(len(columns)))
        self.register_buffer("order", None if in_order else joined.argsort(), persistent=False)
        for k, group in enumerate(positions):
            self.register_buffer(f"positions_{k}", torch.tensor(group), persistent=False)
        return self

    def forward(self, params: Tensor) -> TableDistribution:
        pieces = params.split(self._sizes, dim=-1)
        parts = [part(piece) for part, piece in zip(self.parts, pieces, strict=True)]
        positions = [self.get_buffer(f"positions_{k}") for k in range(len(parts))]
        return TableDistribution(parts, positions, self.order)
