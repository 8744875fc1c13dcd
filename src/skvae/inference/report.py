"""What `diagnose` answers, as numbers and in print."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

_SHOWN_COLUMNS, _SHOWN_UNITS, _NAME_WIDTH = 24, 16, 28
_HEADER = ("column", "explained", "share", "predicted", "KS distance", "in 90 %", "")
_LEGEND = "explained by the latents, predicted from half of the other columns: nats per entry"


@dataclass(frozen=True)
class ColumnDiagnosis:
    """What the model says of one column; None where it cannot be said.

    Attributes
    ----------
    name : str
    n_entries : int
        Entries looked at.
    explained : float
        Nats per entry that the latents of a row explain: E_q[log p(x_c|z)] − log p(x_c), where p(x_c) is the
        model's own marginal. Half the log of the ratio of variances, for a linear Gaussian model.
    share : float
        Of a column with levels: `explained` as a share of the column's entropy. Of a number: 1 − exp(−2
        `explained`), the share of variance that so many nats are for a normal variable.
    predicted : float
        Nats per entry that a random half of the row's other entries explain: log p(x_c | half) − log p(x_c).
    distance : float
        Kolmogorov–Smirnov distance between the probability integral transforms of the entries, each given a
        random half of the others, and the uniform distribution.
    critical_distance : float
        What chance exceeds with a probability of 1 % over all columns.
    coverage : float
        Share of entries inside their central 90 % interval.
    calibrated : bool
        Whether the distance is below the critical one, or below 0.05.
    """

    name: str
    n_entries: int
    explained: float | None = None
    share: float | None = None
    predicted: float | None = None
    distance: float | None = None
    critical_distance: float | None = None
    coverage: float | None = None
    calibrated: bool | None = None


@dataclass(frozen=True)
class Diagnosis:
    """The answers of `diagnose`, in nats per row; None where a posterior without density leaves one out.

    Attributes
    ----------
    n_rows : int
        Rows looked at.
    latent_dim : int
    active_units : int
        Latents whose posterior mean varies over rows by more than 0.01 (Burda et al. 2016).
    used_units : int
        Latents with a KL of at least 0.05 nats.
    collapsed : bool
        Whether no latent is used: the decoder ignores z.
    kl : float
        Mean KL(q(z|x) ‖ p(z)).
    kl_per_unit : list of float
        Mean KL(q(z_j|x) ‖ p(z_j)), by latent.
    kl_per_unit_exact : bool
        Whether that is the closed form, or the one of normal distributions with the same moments.
    elbo, log_p : float
        Means over the rows.
    effective_draws : float
        Median over rows of the effective number of importance-weighted draws behind `log_p`.
    inference_gap : float
        log p(x) − ELBO, from the same draws and so never negative: what the approximate posterior costs. Too
        small where `effective_draws` is.
    overfitting_gap : float or None
        Training minus validation bound at the best epoch; None without validation rows.
    prior_gap, prior_gap_at_least : float
        KL(q(z) ‖ p(z)), where q(z) is the mean of q(z|x) over rows, up to 512 of them, and a lower bound of it
        over all rows. The first is too large where the latents tell more of a row than the log of the number of
        rows.
    information : float
        Mutual information of rows and latents: KL minus `prior_gap`.
    gain : float
        log p(x) − Σ_c log p(x_c), over the model of independent columns with the same marginals.
    columns : list of ColumnDiagnosis
    advice : list of str
        What to change.
    """

    n_rows: int
    latent_dim: int
    active_units: int
    used_units: int | None = None
    collapsed: bool = False
    kl: float | None = None
    kl_per_unit: list[float] | None = None
    kl_per_unit_exact: bool = False
    elbo: float | None = None
    log_p: float | None = None
    effective_draws: float | None = None
    inference_gap: float | None = None
    overfitting_gap: float | None = None
    prior_gap: float | None = None
    prior_gap_at_least: float | None = None
    information: float | None = None
    gain: float | None = None
    columns: list[ColumnDiagnosis] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            ("rows", f"{self.n_rows}"),
            ("active units", f"{self.active_units} of {self.latent_dim}"),
            ("used units", None if self.used_units is None else f"{self.used_units} of {self.latent_dim}"),
            ("KL", _nats(self.kl)),
            ("KL per unit", self._units()),
            ("ELBO", _nats(self.elbo, " per row")),
            ("log p(x)", self._log_p()),
            ("gain", _nats(self.gain, " per row, over independent columns")),
            ("inference gap", _nats(self.inference_gap)),
            ("overfitting gap", _nats(self.overfitting_gap) or "no validation rows"),
            ("prior gap", self._prior_gap()),
        ]
        text = [f"{name:<16} {value}" for name, value in lines if value is not None]
        text += self._column_table()
        return "\n".join(text + [f"{'advice':<16} {line}" for line in self.advice])

    def _units(self) -> str | None:
        if self.kl_per_unit is None:
            return None
        ordered = [f"{value:.2f}" for value in sorted(self.kl_per_unit, reverse=True)]
        rest = len(ordered) - _SHOWN_UNITS
        more = f"  and {rest} more" if rest > 0 else ""
        about = "" if self.kl_per_unit_exact else ", of normals with the same moments"
        return "  ".join(ordered[:_SHOWN_UNITS]) + f"{more} nats{about}"

    def _log_p(self) -> str | None:
        if self.log_p is None:
            return None
        return f"{self.log_p:.3f} nats per row ({self.effective_draws or 0:.0f} effective draws)"

    def _prior_gap(self) -> str | None:
        if self.prior_gap is None:
            return None
        return f"{self.prior_gap_at_least:.3f} to {self.prior_gap:.3f} nats"

    def _column_table(self) -> list[str]:
        """Columns by what is explained; of many, the first and all that are not calibrated, up to a limit."""
        ordered = sorted(self.columns, key=lambda column: -(column.explained or 0.0))
        ordered = [column for column in ordered if column.explained is not None]
        shown = ordered
        if len(ordered) > _SHOWN_COLUMNS:
            shown = sorted(ordered[_SHOWN_COLUMNS // 2 :], key=lambda column: column.calibrated is not False)
            shown = ordered[: _SHOWN_COLUMNS // 2] + shown[: _SHOWN_COLUMNS // 2]
        if not shown:
            return []
        rows = [_HEADER, *(_cells(column) for column in shown)]
        widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
        text = [
            "  ".join([cells[0].ljust(widths[0]), *map(str.rjust, cells[1:-1], widths[1:-1]), cells[-1]]).rstrip()
            for cells in rows
        ]
        more = len(ordered) - len(shown)
        return ["", *text, *([f"and {more} more columns"] if more else []), _LEGEND, ""]


def _cells(column: ColumnDiagnosis) -> tuple[str, ...]:
    name = column.name if len(column.name) <= _NAME_WIDTH else column.name[: _NAME_WIDTH - 1] + "…"
    numbers = [
        (column.explained, ".2f"),
        (column.share, ".0%"),
        (column.predicted, ".2f"),
        (column.distance, ".3f"),
        (column.coverage, ".0%"),
    ]
    flag = "miscalibrated" if column.calibrated is False else ""
    return (name, *("" if value is None else format(value, form) for value, form in numbers), flag)


def _nats(value: float | None, what: str = "") -> str | None:
    return None if value is None else f"{value:.3f} nats{what}"
