"""The likelihood of a whole table: columns of different kinds, joined."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from skvae.data.columns import Column, Kind, names_of
from skvae.model.component import resolve
from skvae.model.likelihoods.base import Distribution, Likelihood
from skvae.model.likelihoods.categorical import Bernoulli, Categorical
from skvae.model.likelihoods.continuous import Gaussian, default_gaussian
from skvae.model.likelihoods.logistic import DiscretisedLogistic


def default_likelihood(kind: Kind) -> Likelihood:
    """The likelihood of a column of which only the kind is known."""
    if kind == Kind.BINARY:
        return Bernoulli()
    if kind in (Kind.CATEGORICAL, Kind.ORDINAL):
        return Categorical()
    return default_gaussian(kind)


def pixel_likelihood(pixel: Column) -> Likelihood:
    """The likelihood of the pixels of images, of which one description is all that is known."""
    if pixel.kind == Kind.BINARY:
        return Bernoulli()
    return DiscretisedLogistic() if pixel.kind == Kind.INTEGER else Gaussian()


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

    def _join(self, question: Callable[..., Tensor], *entries: Tensor) -> Tensor:
        if self.order is None:
            return question(self.parts[0], *entries)
        answers = [
            question(part, *(x[..., at] for x in entries))
            for part, at in zip(self.parts, self.positions, strict=True)
        ]
        return torch.cat(answers, dim=-1)[..., self.order]

    def part_of(self, column: int) -> tuple[Distribution, int, int]:
        """What computes a column, the column's place in it, and how many columns it has."""
        for part, positions in zip(self.parts, self.positions, strict=True):
            place = (positions == column).nonzero()
            if len(place):
                return part, int(place[0]), len(positions)
        raise IndexError(column)

    def log_prob(self, values: Tensor) -> Tensor:
        return self._join(lambda part, x: part.log_prob(x), values)

    def has_mass(self, values: Tensor) -> Tensor:
        return self._join(lambda part, x: part.has_mass(x), values)

    @property
    def mean(self) -> Tensor:
        return self._join(lambda part: part.mean)

    def centre(self, weights: Tensor) -> Tensor:
        return self._join(lambda part: part.centre(weights))

    def log_cell_prob(self, values: Tensor, half: Tensor) -> Tensor:
        return self._join(lambda part, x, h: part.log_cell_prob(x, h), values, half)

    def cdf(self, values: Tensor) -> Tensor:
        return self._join(lambda part, x: part.cdf(x), values)

    def icdf(self, u: Tensor) -> Tensor:
        return self._join(lambda part, x: part.icdf(x), u)


class Table(Likelihood):
    """Joins the likelihoods of columns of different kinds; columns with the same one are computed together.

    Parameters
    ----------
    likelihood : "auto", str, Likelihood, or mapping of kind or column name to one of these
        "auto": what is chosen for the column; else numeric columns are Gaussian with a predicted σ (whole
        numbers as probabilities of their rounding cell), columns with two levels Bernoulli, others
        categorical. A single likelihood is used for all columns; a mapping overrides "auto" for some, a
        column's name going before its kind. Columns share a σ (`Gaussian(scale="shared")`) within one entry
        of a mapping, never across entries.
    chosen : mapping of column name to Likelihood, optional
        What `likelihood` leaves to "auto", where that is not by kind alone.
    """

    alias = "table"
    order: Tensor | None

    def __init__(self, likelihood: Any = "auto", chosen: Mapping[str, Likelihood] | None = None) -> None:
        super().__init__()
        self.likelihood = likelihood
        self.chosen = chosen
        self._by_likelihood: dict[str, list[Column]] = {}

    @property
    def kinds(self) -> frozenset[Kind]:  # type: ignore[override]
        if isinstance(self.likelihood, Mapping) or _is_auto(self.likelihood):
            return frozenset(Kind)
        return resolve(Likelihood, self.likelihood, "likelihood").kinds

    def _asked(self, column: Column) -> tuple[Any, Any]:
        """What `likelihood` says of a column, and the key of the mapping that says so."""
        if not isinstance(self.likelihood, Mapping):
            return self.likelihood, None
        key = next((key for key in (column.name, str(column.kind)) if key in self.likelihood), None)
        return ("auto" if key is None else self.likelihood[key]), key

    def undecided(self, columns: Sequence[Column]) -> list[Column]:
        """The columns that `likelihood` leaves to "auto"."""
        return [column for column in columns if _is_auto(self._asked(column)[0])]

    def bind(self, columns: Sequence[Column]) -> Table:
        if isinstance(self.likelihood, Mapping):
            known = {column.name for column in columns} | set(Kind)
            for key in self.likelihood:
                if key not in known:
                    raise ValueError(f"likelihood names '{key}', which is neither a column that varies nor a kind")
        chosen = self.chosen or {}
        alike: dict[tuple[str, Any], tuple[Likelihood, list[int]]] = {}
        self._by_likelihood = {}
        # Made and printed once for all columns that ask for the same.
        default = functools.cache(lambda kind: _named(default_likelihood(kind)))
        made: dict[int, tuple[Likelihood, str]] = {}
        for position, column in enumerate(columns):
            asked, source = self._asked(column)
            if not _is_auto(asked):
                if id(asked) not in made:
                    made[id(asked)] = _named(resolve(Likelihood, asked, "likelihood"))
                choice, name = made[id(asked)]
            elif column.name in chosen:
                choice, name = _named(chosen[column.name])
            else:
                choice, name = default(column.kind)
            # What is alike is computed together; what would then share parameters, only if it was asked for at once.
            key = name, source if choice.pools else None
            alike.setdefault(key, (choice, []))[1].append(position)
            self._by_likelihood.setdefault(name, []).append(column)
        parts: list[Likelihood] = []
        positions: list[list[int]] = []
        for choice, members in alike.values():
            choice.check([columns[j] for j in members])
            for group in choice.groups([columns[j] for j in members]):
                positions.append([members[j] for j in group])
                parts.append(choice.fresh().bind([columns[j] for j in positions[-1]]))
        self.parts = nn.ModuleList(parts)
        # Most tables have no column that is counted otherwise than it is.
        self._recounts = any(part.recounts for part in parts)
        self._sizes = [part.n_params for part in parts]
        self.n_params = sum(self._sizes)
        joined = torch.tensor([j for group in positions for j in group])
        in_order = len(positions) == 1 and positions[0] == list(range(len(columns)))
        self.register_buffer("order", None if in_order else joined.argsort(), persistent=False)
        for k, group in enumerate(positions):
            self.register_buffer(f"positions_{k}", torch.tensor(group), persistent=False)
        return self

    @property
    def draws_values(self) -> bool:  # type: ignore[override]
        return any(part.draws_values for part in self.parts)

    def observe(self, values: Tensor, u: Tensor) -> Tensor:
        return self._join(lambda part, x, v: part.observe(x, v), values, u)

    def counted(self, values: Tensor) -> Tensor:
        return self._join(lambda part, x: part.counted(x), values) if self._recounts else values

    def _join(self, question: Callable[..., Tensor], *entries: Tensor) -> Tensor:
        """The answers of all parts for their own columns of `entries`, [B, C] each."""
        parts = [cast(Likelihood, part) for part in self.parts]
        if self.order is None:
            return question(parts[0], *entries)
        positions = [self.get_buffer(f"positions_{k}") for k in range(len(parts))]
        answers = [question(part, *(x[:, at] for x in entries)) for part, at in zip(parts, positions, strict=True)]
        return torch.cat(answers, dim=-1)[:, self.order]

    def arranged(self, params: Tensor) -> Tensor:
        if self.order is not None:
            raise ValueError(
                "a convolutional network gives all pixels the same parameters, but the likelihood differs between "
                "them; use one likelihood for all, or decoder='mlp'"
            )
        return cast(Likelihood, self.parts[0]).arranged(params)

    def __repr__(self) -> str:
        if not self._by_likelihood:
            return super().__repr__()
        n_columns = sum(len(columns) for columns in self._by_likelihood.values())
        lines = [f"  {name}: {names_of(columns)}" for name, columns in self._by_likelihood.items()]
        return "\n".join([f"Table of {n_columns} columns", *lines])

    def forward(self, params: Tensor) -> TableDistribution:
        pieces = params.split(self._sizes, dim=-1)
        parts = [part(piece) for part, piece in zip(self.parts, pieces, strict=True)]
        positions = [self.get_buffer(f"positions_{k}") for k in range(len(parts))]
        return TableDistribution(parts, positions, self.order)


def _named(choice: Likelihood) -> tuple[Likelihood, str]:
    return choice, repr(choice)


def _is_auto(choice: Any) -> bool:
    return isinstance(choice, str) and choice == "auto"
