"""The commands that ask a saved model, of rows or for rows: each opens both with `_asked`, asks, and writes.

What needs torch is imported where it is used, so that `skvae --help` need not wait for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skvae.shell import (
    AsJson,
    Data,
    Draws,
    Format,
    Model,
    Output,
    Parts,
    Seed,
    check_output,
    load,
    progress,
    read,
    say,
    talks,
    write,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from skvae import VAE

# Rows that `sample` makes at a time.
_PIECE = 16_384


def transform(
    model: Model, data: Data = "-", output: Output = "-", format: Format = None, part: Parts = None
) -> None:
    """Reduce rows to latents.

    A row of latents holds the means of q(z|x), behind the row's identifiers if the model has columns of that kind.

    \b
    Examples:
      skvae transform wine.vae wine.csv -o latents.csv
      skvae transform wine.vae < wine.csv | head
    """
    from skvae.data import source
    from skvae.data.columns import Kind

    vae, rows, _ = _asked(model, data, output, format, part)
    latents = source.as_arrow(vae.transform(rows), list(vae.get_feature_names_out()))
    for k, column in enumerate(vae.schema_.columns):
        if column.kind == Kind.IDENTIFIER:
            latents = latents.add_column(
                len(latents.column_names) - vae.model_.latent_dim, column.name, rows.column(k)
            )
    write([latents], output, format, [])


def reconstruct(
    model: Model, data: Data = "-", output: Output = "-", format: Format = None, part: Parts = None
) -> None:
    """Encode rows and decode them again.

    The result is what the latents retain of each row: means of numbers and dates, modes of levels.

    \b
    Examples:
      skvae reconstruct wine.vae wine.csv -o smooth.parquet
    """
    vae, rows, _ = _asked(model, data, output, format, part, decoded=True)
    _write(vae, [vae.reconstruct(rows)], output, format, getattr(rows, "column_names", None))


def sample(
    ctx: typer.Context,
    model: Model,
    n_samples: Annotated[int, typer.Option("-n", "--n-samples", metavar="N", help="Number of rows.")] = 1,
    output: Output = "-",
    format: Format = None,
    seed: Seed = None,
    decode: Annotated[
        str, typer.Option("--decode", metavar="draw|mean", help="Draw entries, or take their mean or mode.")
    ] = "draw",
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="COLUMN=VALUE",
            help="Rows for this value of the model's target; of several targets, each is to be given.",
        ),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            metavar="CONDITION",
            help="Rows that meet it: sex=F, city={Bern,Oslo}, 30<=age<40, income>50000, income= for a missing one; "
            "may be repeated, and then all are met.",
        ),
    ] = None,
    part: Parts = None,
) -> None:
    """Generate new rows.

    They are made and written piece by piece, so that there may be any number of them. Of a model with a target, it
    is the last column.

    \b
    Examples:
      skvae sample wine.vae -n 1000 -o new.csv
      skvae sample wine.vae -n 10000000 --seed 0 -o new.parquet
      skvae sample people.vae -n 1000 --where sex=F --where "30<=age<40"
      skvae sample houses.vae -n 100 --target price=250000
      skvae sample wine.vae -n 50 | skvae score wine.vae -
    """
    from skvae import cli_conditions, cli_targets

    fitted = load(model, part)
    of_rows = cli_targets.of_rows(fitted)
    _check_decoded(of_rows, output, format)
    conditions = cli_conditions.parsed(where, of_rows.schema_) or None
    pieces = cli_targets.drawn(fitted, n_samples, _PIECE, decode, target, conditions, seed)
    n_pieces = -(-n_samples // _PIECE)
    with progress(pieces, n_pieces, talks(ctx) and n_pieces > 1) as shown:
        _write(cli_targets.of_rows(fitted), shown, output, format)


def predict(
    model: Model,
    data: Data = "-",
    output: Output = "-",
    format: Format = None,
    std: Annotated[bool, typer.Option("--std", help="Add the standard deviation, price_std.")] = False,
    interval: Annotated[
        float | None,
        typer.Option(
            "--interval", metavar="SHARE", help="Add price_low and price_high, which hold the target of so many rows."
        ),
    ] = None,
    quantile: Annotated[
        list[float] | None,
        typer.Option("--quantile", metavar="P", help="Add a quantile, price_q0.1; may be repeated."),
    ] = None,
    proba: Annotated[
        bool, typer.Option("--proba", help="Add the probability of each class, p_ and its name.")
    ] = False,
    part: Parts = None,
) -> None:
    """Predict the target of each row.

    The rows are written as they are, with columns added: for a target price, price_predicted (the expected number,
    or the likeliest class) and what the options ask for. The target itself, if the rows have it, is not looked at.

    \b
    Examples:
      skvae predict houses.vae new.csv -o predicted.csv
      skvae predict houses.vae new.csv --std --interval 0.9
      skvae predict houses.vae new.csv --quantile 0.1 --quantile 0.9 -o predicted.parquet
      skvae predict people.vae --proba < people.csv
    """
    from skvae import cli_targets

    fitted, rows, whole = _opened(model, data, output, format, part)
    if not cli_targets.names_of(fitted):
        raise ValueError(f"{model} has no target to predict; fit a model with --target COLUMN")
    added = cli_targets.predictions(fitted, rows, std=std, interval=interval, quantiles=quantile or (), proba=proba)
    write([cli_targets.with_columns(whole, added)], output, format, [])


def score(
    model: Model,
    data: Data = "-",
    output: Output = "-",
    format: Format = None,
    n_draws: Draws = 100,
    part: Parts = None,
) -> None:
    """Estimate log p(x) of each row.

    The unit is nats. Missing entries are marginalised. The mean goes to standard error.

    \b
    Examples:
      skvae score wine.vae wine.csv -o log_p.csv
      skvae score wine.vae wine.csv > /dev/null
    """
    vae, rows, _ = _asked(model, data, output, format, part)
    log_p = vae.score_samples(rows, n_draws)
    write([log_p], output, format, ["log_p"])
    say(f"mean log p(x) of {len(log_p)} rows: {log_p.mean(dtype=float):.4f} nats")


def impute(
    model: Model,
    data: Data = "-",
    output: Output = "-",
    format: Format = None,
    n_imputations: Annotated[
        int | None,
        typer.Option(
            "--n-imputations",
            metavar="N",
            help="Fill in independent draws instead, N times: the tables come one below the other, with their number "
            "in a first column, 'imputation'.",
        ),
    ] = None,
    n_draws: Draws = 100,
    part: Parts = None,
) -> None:
    """Fill missing entries.

    Each gets what is expected given the rest of its row. All else stays as it is, columns that the model does
    not know included.

    \b
    Examples:
      skvae impute wine.vae holes.csv -o complete.csv
      skvae impute wine.vae holes.csv -o draws.parquet --n-imputations 20
    """
    from skvae import cli_images

    vae, rows, whole = _asked(model, data, output, format, part, decoded=True)
    if cli_images.is_of_images(vae):
        filled = vae.impute(rows, n_imputations, n_draws)
        _write(vae, filled if n_imputations else [filled], output, format)
        return
    if n_imputations is not None and "imputation" in whole.column_names:
        raise ValueError("the table has a column 'imputation' already; rename it")
    filled = vae.impute(rows, n_imputations, n_draws)
    tables = [filled] if n_imputations is None else filled
    completed = (_completed(whole, table, None if n_imputations is None else k) for k, table in enumerate(tables, 1))
    write(completed, output, format, [])


def diagnose(
    model: Model, data: Data = "-", as_json: AsJson = False, n_draws: Draws = 100, part: Parts = None
) -> None:
    """Examine how well a model fits rows.

    The report names what to change. Rows that the model was not fitted to tell most.

    \b
    Examples:
      skvae diagnose wine.vae test.csv
      skvae diagnose wine.vae test.csv --json > report.json
    """
    vae, rows, _ = _asked(model, data, "-", None, part)
    diagnosis = vae.diagnose(rows, n_draws)
    typer.echo(json.dumps(diagnosis.to_dict(), indent=1, ensure_ascii=False) if as_json else str(diagnosis))


def _asked(
    model: Path, data: str, output: str, format: str | None, part: Sequence[str] | None, *, decoded: bool = False
) -> tuple[VAE, Any, Any]:
    """The model of rows, those it is asked about, and the whole table in which they stand."""
    from skvae import cli_targets

    fitted, rows, whole = _opened(model, data, output, format, part, decoded=decoded)
    return cli_targets.of_rows(fitted), rows, whole


def _opened(
    model: Path, data: str, output: str, format: str | None, part: Sequence[str] | None, *, decoded: bool = False
) -> tuple[Any, Any, Any]:
    """The saved estimator, the rows it is asked about, and the whole table in which they stand; twice the images, of
    a model of images. `decoded` says that the answer will be rows of the same kind."""
    from skvae import cli_images, cli_targets
    from skvae.data import source

    if not decoded:
        check_output(output, format)
    fitted = load(model, part)
    vae = cli_targets.of_rows(fitted)
    schema = vae.schema_
    if decoded:
        _check_decoded(vae, output, format)
    if cli_images.is_of_images(vae):
        images = cli_images.read(data, schema.layout.shape, schema)
        return fitted, images, images
    whole = read(data, source.text_columns(schema))
    targets = [name for name in cli_targets.names_of(fitted) if name in whole.column_names]
    spare = len(whole.column_names) > len(schema.columns)
    # Of a model that was fitted to an array, the columns are told by their number.
    rows = whole.drop_columns(targets) if schema.container == "numpy" and spare else whole
    return fitted, source.matched(rows, schema), whole


def _check_decoded(vae: VAE, output: str, format: str | None) -> None:
    """Refuse, before any work is done, what rows like those at fit could not be written to."""
    from skvae import cli_images

    check = cli_images.check_output if cli_images.is_of_images(vae) else check_output
    check(output, format)


def _write(
    vae: VAE, answers: Iterable[Any], output: str, format: str | None, names: Sequence[str] | None = None
) -> None:
    """Write rows like those at fit; `names` are those of columns, if there are others than at fit."""
    from skvae import cli_images

    if cli_images.is_of_images(vae):
        cli_images.write(answers, output, format, vae.schema_)
    else:
        write(answers, output, format, names or [column.name for column in vae.schema_.columns])


def _completed(whole: pa.Table, filled: Any, number: int | None) -> pa.Table:
    """The whole table with the columns that were filled; numbered in a first column, if that is wanted."""
    import pyarrow as pa

    from skvae.data import source

    columns = dict(zip(whole.column_names, whole.columns, strict=True))
    table = source.as_arrow(filled, whole.column_names)
    columns |= dict(zip(table.column_names, table.columns, strict=True))
    if number is not None:
        columns = {"imputation": pa.array([number] * len(whole)), **columns}
    return pa.table(columns)
