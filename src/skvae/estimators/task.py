"""What a supervised estimator asks of the VAE that it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from skvae import persistence
from skvae.data.columns import Column
from skvae.model import Objective, StandardNormal, Table, VampPrior
from skvae.model.supervised import STRUCTURES, SupervisedModel


@dataclass(frozen=True)
class Task:
    """Targets, and how they are joined to the rows.

    Attributes
    ----------
    structure : str
        A key of `STRUCTURES`.
    targets : tuple of Column
    likelihood : Table
        p(y| …), unbound.
    weight : float
        α of the objective `Supervised`.
    partly_labelled : bool
        Whether rows without a target are learned from.
    piecewise : bool
        Whether numeric columns enter by their bins too (see `Embedding`).
    dropout : float
        Share of the units of the encoder, where it is the estimator's own perceptron, that are dropped in training.
    n_told : int
        How many numbers the encoder is told of a row beside its columns.
    """

    structure: str
    targets: tuple[Column, ...]
    likelihood: Table
    weight: float
    partly_labelled: bool
    piecewise: bool = True
    dropout: float = 0.0
    n_told: int = 0

    def check(self, objective: Objective) -> None:
        """Refuse an objective that the structure cannot have."""
        if self.structure == "m2" and objective.compares_latents:
            raise ValueError(
                f"objective={objective!r} compares the latents of the rows of a batch, and structure='m2' has some "
                "for each label of a row; set structure='joint', or objective='elbo'"
            )

    def model(self, columns: Sequence[Column], **parts: Any) -> SupervisedModel:
        """The untrained model for rows of these columns."""
        if self.structure == "prior" and not isinstance(parts["prior"], StandardNormal):
            raise ValueError(
                f"structure='prior' brings its own prior p(z|y), which contradicts prior={parts['prior']!r}; leave "
                "prior on 'normal', or set structure='joint'"
            )
        if self.structure == "m2" and isinstance(parts["prior"], VampPrior):
            raise ValueError(
                f"structure='m2' has q(z|x, y), and the pseudo-inputs of prior={parts['prior']!r} have no label; use "
                "prior='mixture', or structure='joint'"
            )
        return STRUCTURES[self.structure](
            columns,
            self.targets,
            target_likelihood=self.likelihood,
            partly_labelled=self.partly_labelled,
            piecewise=self.piecewise,
            n_context={"encoder": self.n_told},
            **parts,
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "structure": self.structure,
            "targets": [column.to_dict() for column in self.targets],
            "likelihood": persistence.encode(self.likelihood),
            "weight": self.weight,
            "partly_labelled": self.partly_labelled,
            "piecewise": self.piecewise,
            "dropout": self.dropout,
            "n_told": self.n_told,
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Task:
        return cls(
            state["structure"],
            tuple(Column.from_dict(column) for column in state["targets"]),
            persistence.decode(state["likelihood"]),
            state["weight"],
            state["partly_labelled"],
            state["piecewise"],
            state["dropout"],
            state.get("n_told", 0),  # which folders of before have not
        )
