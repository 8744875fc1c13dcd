"""The quality report as one HTML file that needs nothing else: tables, and bars and a map in SVG."""

from __future__ import annotations

import html
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from skvae.data import source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skvae.evaluation.report import QualityReport

# Columns and pairs drawn or listed at most.
_DRAWN, _LISTED = 60, 200
_BAR, _CELL, _LABEL = 18, 14, 190

_STYLE = """
.skvae{font:14px/1.45 system-ui,sans-serif;color:#1b2733;max-width:64em}
.skvae table{border-collapse:collapse;margin:.5em 0 1.5em}
.skvae td,.skvae th{padding:.15em .8em .15em 0;text-align:right;border-bottom:1px solid #e3e8ee}
.skvae td:first-child,.skvae th:first-child,.skvae td.note{text-align:left}
.skvae td.note{color:#667788}
.skvae svg text{font:11px system-ui,sans-serif;fill:#1b2733}
"""


def summary(report: QualityReport) -> str:
    """The figures of the report as an HTML fragment."""
    held = "no holdout" if report.n_holdout is None else f"{report.n_holdout:,} held out"
    title = f"{report.n_synthetic:,} synthetic rows ({report.n_real:,} real, {held})"
    rows = [
        f'<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td><td class="note">{html.escape(note)}</td></tr>'
        for name, value, note in report.facts()
    ]
    left_out = (
        f"<p>Not compared, as identifiers or free text: {html.escape(', '.join(report.left_out))}</p>"
        if report.left_out
        else ""
    )
    return f'<div class="skvae"><style>{_STYLE}</style><p>{title}</p><table>{"".join(rows)}</table>{left_out}</div>'


def render(report: QualityReport) -> str:
    """The whole report as an HTML document."""
    columns = sorted(report.columns, key=lambda column: -column.error)
    pairs = sorted(report.pairs, key=lambda pair: -pair.error)
    sections = [
        summary(report),
        "<h2>Column shapes</h2>",
        _bars([(column.name, column.error, column.holdout_error) for column in columns[:_DRAWN]]),
        _table(
            ("column", "kind", "distance", "of the holdout", "missing", "missing in real", "outside"),
            [
                (
                    column.name,
                    column.kind,
                    column.error,
                    column.holdout_error,
                    column.missing_synthetic,
                    column.missing_real,
                    column.outside,
                )
                for column in columns[:_LISTED]
            ],
        ),
        "<h2>Pair trends</h2>",
        _map([column.name for column in report.columns[:_DRAWN]], report.pair_matrix()[:_DRAWN, :_DRAWN]),
        _table(
            ("first", "second", "distance", "of the holdout"),
            [(pair.first, pair.second, pair.error, pair.holdout_error) for pair in pairs[:_DRAWN]],
        ),
    ]
    if report.rare_levels:
        sections += [
            "<h2>Rare levels</h2>",
            _table(
                ("column", "level", "real rate", "synthetic rate"),
                [
                    (rare.column, rare.level, rare.real_rate, rare.synthetic_rate)
                    for rare in report.rare_levels[:_LISTED]
                ],
            ),
        ]
    if report.constraints:
        sections += [
            "<h2>Rules that no real row violates</h2>",
            _table(("rule", "violated by"), [(rule.constraint, rule.violated) for rule in report.constraints]),
        ]
    body = "\n".join(sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<title>Quality of synthetic rows</title></head>\n"
        f'<body><div class="skvae"><h1>Quality of synthetic rows</h1>\n{body}\n</div></body></html>\n'
    )


def write(report: QualityReport, path: str | os.PathLike[str]) -> None:
    """Write the document; it takes the place of a file at `path` once it is complete."""
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(f"{target} is a folder; expected the name of a file to write")
    if not target.absolute().parent.is_dir():
        raise FileNotFoundError(f"the folder {target.absolute().parent} does not exist; create it first")
    with source.replacing(target) as file:
        file.write(render(report).encode())


def _table(header: Sequence[str], rows: Sequence[Sequence[str | float | None]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(f'<td>{_cell(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _cell(value: str | float | None) -> str:
    if value is None:
        return ""
    return html.escape(value) if isinstance(value, str) else f"{100 * value:.2f}\u202f%"


def _bars(rows: Sequence[tuple[str, float, float | None]]) -> str:
    """A bar per column, with a mark where the holdout is."""
    longest = max([error for _, error, _ in rows] + [held for *_, held in rows if held is not None] + [1e-9])
    width = 420 / longest
    parts = []
    for i, (name, error, held) in enumerate(rows):
        y = i * _BAR
        parts.append(f'<text x="{_LABEL - 8}" y="{y + 12}" text-anchor="end">{html.escape(name[:28])}</text>')
        parts.append(f'<rect x="{_LABEL}" y="{y + 2}" width="{width * error:.1f}" height="12" fill="#4477aa"/>')
        if held is not None:
            x = _LABEL + width * held
            parts.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{y + 16}" stroke="#cc3311" stroke-width="2"/>'
            )
        parts.append(f'<text x="{_LABEL + width * error + 6:.1f}" y="{y + 12}">{100 * error:.2f} %</text>')
    note = "<p>Bars: synthetic rows; red marks: held-out rows.</p>" if rows and rows[0][2] is not None else ""
    return f'<svg width="{_LABEL + 500}" height="{len(rows) * _BAR + 4}">{"".join(parts)}</svg>{note}'


def _map(names: Sequence[str], errors: np.ndarray) -> str:
    """A square per pair of columns, the darker the larger its error."""
    if np.isnan(errors).all():
        return ""
    largest = max(float(np.nanmax(errors)), 1e-9)
    parts = []
    for i, name in enumerate(names):
        y = i * _CELL
        parts.append(f'<text x="{_LABEL - 8}" y="{y + 11}" text-anchor="end">{html.escape(name[:28])}</text>')
        parts += [
            f'<rect x="{_LABEL + j * _CELL}" y="{y}" width="{_CELL - 1}" height="{_CELL - 1}" fill="#aa3344" '
            f'fill-opacity="{errors[i, j] / largest:.3f}"><title>{html.escape(f"{name}, {names[j]}")}: '
            f"{100 * errors[i, j]:.2f} %</title></rect>"
            for j in np.flatnonzero(~np.isnan(errors[i])).tolist()
        ]
    size = len(names) * _CELL
    return (
        f'<svg width="{_LABEL + size + 4}" height="{size + 4}">{"".join(parts)}</svg>'
        f"<p>The darkest is {100 * largest:.2f} %.</p>"
    )
