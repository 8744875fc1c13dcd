"""Objectives made of parts: one that bounds log p(x), and regularisers."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from skvae.data.batch import Batch
from skvae.model.objectives.base import Losses, Objective, Penalty
from skvae.model.objectives.elbo import ELBO
from skvae.model.vae import LatentVariableModel, Terms


class Regulariser(Objective):
    """A penalty to be added to an objective, as in `IWAE() + MMD()`; alone it stands for `ELBO()` and itself."""

    compares_latents = True

    def __init__(self) -> None:
        super().__init__()
        self._elbo = ELBO()

    def penalty(self, terms: Terms) -> Penalty:
        """What is added to the loss of each row, and pieces of it worth recording."""
        raise NotImplementedError

    def judge(self, means: dict[str, float]) -> float:
        return means[self.monitor] + self.judged_beside(means)

    def judged_beside(self, means: dict[str, float]) -> float:
        """What counts beside the bound for the choice of the best epoch."""
        return 0.0

    def forward(self, terms: Terms) -> Losses:
        return self._elbo(terms).plus(self.penalty(terms), _name(self))

    def _needs_rows(self, terms: Terms, n_rows: int, why: str) -> None:
        """Refuse to learn from a batch of fewer rows than that."""
        n = terms.z.shape[1]
        if terms.z.requires_grad and n < n_rows:
            raise ValueError(f"{self!r} {why}, and the batch has {n}: set batch_size={n_rows} or more")


class Sum(Objective):
    """An objective and regularisers, made by `+`: the losses add up; the bound and the draws are the objective's.

    Parameters
    ----------
    **parts : Objective
        The objective (without one, the first regulariser brings the ELBO), and then the regularisers. `+` names
        each by its alias with underscores, which makes `objective__mmd__weight` a parameter of the estimator; a
        second one of the same kind is `mmd_2`.
    """

    def __init__(self, **parts: Objective) -> None:
        super().__init__()
        for part in list(parts.values())[1:]:
            if not isinstance(part, Regulariser):
                raise ValueError(
                    f"{part!r} cannot be added to {next(iter(parts.values()))!r}: a sum has one objective, all "
                    "others are regularisers"
                )
        self._names = list(parts)
        for name, part in parts.items():
            setattr(self, name, part)

    def _parameter_names(self) -> list[str]:  # type: ignore[override]
        return self._names

    @property
    def parts(self) -> dict[str, Objective]:
        """By name, the objective first."""
        return self.get_params(deep=False)

    @property
    def n_draws(self) -> int:  # type: ignore[override]
        return next(iter(self.parts.values())).n_draws

    @property
    def n_prior_draws(self) -> int:  # type: ignore[override]
        return max(part.n_prior_draws for part in self.parts.values())

    @property
    def warm_up(self) -> float:  # type: ignore[override]
        return max(part.warm_up for part in self.parts.values())

    @property
    def has_partners(self) -> bool:  # type: ignore[override]
        return any(part.has_partners for part in self.parts.values())

    @property
    def compares_latents(self) -> bool:  # type: ignore[override]
        return any(part.compares_latents for part in self.parts.values())

    def check(self) -> None:
        for part in self.parts.values():
            part.check()
        if sum(part.has_partners for part in self.parts.values()) > 1:
            raise ValueError(f"{self!r} has two parts which give rows a partner, and there can be one; leave one out")

    def prepare(self, model: LatentVariableModel, rows: Batch) -> None:
        for part in self.parts.values():
            part.prepare(model, rows)
        players = [part.player for part in self.parts.values() if part.player is not None]
        self.player = nn.ModuleList(players) if players else None

    def partners(self, rows: Tensor, stream: torch.Generator) -> Tensor:
        return self._pairing().partners(rows, stream)

    def partners_of_others(self, model: LatentVariableModel, rows: Batch, stream: torch.Generator) -> Tensor:
        return self._pairing().partners_of_others(model, rows, stream)

    def _pairing(self) -> Objective:
        return next(part for part in self.parts.values() if part.has_partners)

    def judge(self, means: dict[str, float]) -> float:
        first, *others = self.parts.values()
        return first.judge(means) + sum(part.judged_beside(means) for part in others if isinstance(part, Regulariser))

    def forward(self, terms: Terms) -> Losses:
        first, *others = self._names
        losses = getattr(self, first)(terms)
        for name in others:
            losses = losses.plus(getattr(self, name).penalty(terms), name)
        return losses

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.parts.values()))


def add(one: Objective, other: Objective) -> Sum:
    """The sum of two objectives or sums; regularisers go last, and are named by their aliases."""
    terms = [part for term in (one, other) for part in (term.parts.values() if isinstance(term, Sum) else [term])]
    named: dict[str, Objective] = {}
    for part in sorted(terms, key=lambda part: isinstance(part, Regulariser)):
        name, n = _name(part), 1
        while name in named or hasattr(Sum, name):
            n += 1
            name = f"{_name(part)}_{n}"
        named[name] = part
    return Sum(**named)


def above(objective: Objective) -> Objective:
    """The objective for a model of the latents of another one, without what compares these, which have it in them."""
    parts = objective.parts.values() if isinstance(objective, Sum) else [objective]
    left = [part for part in parts if not part.compares_latents]
    if not left or isinstance(left[0], Regulariser):
        left.insert(0, ELBO())
    return functools.reduce(add, left)


def _name(part: Objective) -> str:
    return (part.alias or type(part).__name__.lower()).replace("-", "_")
