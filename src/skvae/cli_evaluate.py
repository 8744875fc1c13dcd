"""`skvae evaluate`: the quality report of synthetic rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from skvae.shell import AsJson, pairs


def evaluate(
    real: Annotated[str, typer.Argument(metavar="REAL", help="The rows a model was fitted to; csv or parquet.")],
    synthetic: Annotated[str, typer.Argument(metavar="SYNTHETIC", help="Rows that it made, with the same columns.")],
    holdout: Annotated[
        str | None,
        typer.Option(
            "--holdout", metavar="FILE", help="Real rows that it has not seen: what they do is the measure."
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target", metavar="COLUMN", help="What is to be predicted; may be repeated; the last column without it."
        ),
    ] = None,
    page: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the report as one HTML file, too.")
    ] = None,
    as_json: AsJson = False,
    column_kind: Annotated[
        list[str] | None,
        typer.Option("--column-kind", metavar="COLUMN=KIND", help="As in `skvae fit`; may be repeated."),
    ] = None,
    max_rows: Annotated[
        int, typer.Option("--max-rows", metavar="N", help="Rows looked at where the work grows with their square.")
    ] = 10_000,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="The same seed gives the same result.")] = 0,
) -> None:
    """Examine how good synthetic rows are.

    Are they distributed like the real ones, do they serve to learn from, do they give single rows away. The last two
    need --holdout, real rows that the model was not fitted to.

    \b
    Examples:
      skvae evaluate train.csv new.csv --holdout test.csv --target income
      skvae evaluate train.parquet new.csv --html report.html
      skvae evaluate train.csv new.csv --holdout test.csv --json > report.json
    """
    from skvae.evaluation import quality_report

    if target and holdout is None:
        raise typer.BadParameter(
            "a prediction is tested on rows not seen; name them with --holdout", param_hint="--target"
        )
    if page is not None and not page.absolute().parent.is_dir():  # told before the work is done
        raise FileNotFoundError(f"the folder {page.absolute().parent} does not exist; create it first")
    report = quality_report(
        real,
        synthetic,
        holdout,
        target=list(dict.fromkeys(target)) if target else None,
        column_kinds=dict(pairs(column_kind, "--column-kind")) or None,
        max_rows=max_rows,
        random_state=seed,
    )
    if page is not None:
        report.save_html(page)
    typer.echo(json.dumps(report.to_dict(), indent=1, ensure_ascii=False) if as_json else str(report))
