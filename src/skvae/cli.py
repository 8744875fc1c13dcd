"""The command `skvae`: a thin face over the estimators, for tables in files and pipes.

`fit` and `info` are here, the commands that ask a model in `skvae.cli_ask`; what they share with any command of any
program is in `skvae.shell`. What needs torch is imported where it is used, so that `skvae --help` need not wait.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skvae.cli_ask import diagnose, impute, predict, reconstruct, sample, score, transform
from skvae.cli_evaluate import evaluate
from skvae.cli_plots import plot
from skvae.shell import (
    AsJson,
    Data,
    Model,
    Parts,
    Seed,
    Shell,
    aligned,
    end_on_sigterm,
    load,
    own_parts,
    pairs,
    plain,
    read,
    say,
    talks,
    value_of,
    with_params,
)

if TYPE_CHECKING:
    import pyarrow as pa


app = typer.Typer(
    name="skvae",
    cls=Shell,
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def main() -> None:
    """Run the command line."""
    end_on_sigterm()
    app(prog_name="skvae")


def _version(wanted: bool) -> None:
    if wanted:
        import skvae

        typer.echo(f"skvae {skvae.__version__}")
        raise typer.Exit


@app.callback()
def skvae(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and stop.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show progress even where it is no terminal.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where in the code an error arose.")] = False,
) -> None:
    """Variational autoencoders for tables: fit one to a csv or parquet file, then ask it.

    Rows come from a file or from standard input, and answers go to a file (-o) or to standard output, as csv
    unless the file's name or --format says parquet. Messages go to standard error.

    Exit codes: 0 done, 1 something is wrong with the data, a file or a value, 2 the command line is not
    understood, 130 interrupted.

    \b
    Examples:
      skvae fit wine.csv -o wine.vae
      skvae sample wine.vae -n 1000 -o new.csv
      skvae impute wine.vae holes.csv > complete.csv
      skvae sample wine.vae -n 50 | skvae score wine.vae -
      skvae fit houses.csv --target price -o houses.vae
      skvae predict houses.vae new.csv --interval 0.9
    """


@app.command()
def fit(
    *,
    ctx: typer.Context,
    data: Data = "-",
    output: Annotated[str, typer.Option("-o", "--output", metavar="MODEL", help="Folder to save the model to.")],
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target", metavar="COLUMN", help="A column to be predicted; of numbers, there may be several."
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            metavar="regression|classification",
            help="What is to be predicted, numbers or classes, where the target should be read otherwise than it is.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A parameter of skvae.VAE (with --target, of VAERegressor or VAEClassifier), or of one of its parts "
            "(objective__beta=4); may be repeated.",
        ),
    ] = None,
    quality: Annotated[
        str | None, typer.Option("--quality", metavar="fast|default|high", help="How much work to do.")
    ] = None,
    seed: Seed = None,
    column_kind: Annotated[
        list[str] | None,
        typer.Option(
            "--column-kind",
            metavar="COLUMN=KIND",
            help="continuous, integer, binary, categorical, ordinal or date, where another kind would be inferred; "
            "or identifier, which is not modelled: rows keep theirs, new rows get new ones; may be repeated. A "
            "categorical column of a csv file is read as text, so that 007 is not 7.",
        ),
    ] = None,
    drop: Annotated[
        list[str] | None, typer.Option("--drop", metavar="COLUMN", help="Leave a column out; may be repeated.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model that is there already.")] = False,
    part: Parts = None,
) -> None:
    """Fit a model to a table and save it.

    Entries may be missing: empty, NA, NaN, null. Columns left out with --drop are passed over in later files. DATA
    may also be a folder of image files of one size, or an .npy file of images; answers then go to folders of png
    files or to .npy files.

    With --target the model also predicts that column, from the others: as a number where it holds numbers of more
    than 20 values or with decimals, else as a class. Rows in which it is missing are learned from as well.

    \b
    Examples:
      skvae fit wine.csv -o wine.vae
      skvae fit wine.parquet -o wine.vae --seed 0 --quality high --overwrite
      skvae fit people.csv -o people.vae --drop id --column-kind postcode=categorical
      skvae fit wine.csv -o small.vae --set latent_dim=2 --set "hidden_sizes=(64, 64)"
      skvae fit wine.csv -o beta.vae --set objective__beta=0.5
      skvae fit houses.csv --target price -o houses.vae
      skvae fit people.csv --target rating --task regression -o people.vae --set structure=joint
      zcat wine.csv.gz | skvae fit -o wine.vae
      skvae fit photos/ -o photos.vae
      skvae fit digits.npy -o digits.vae --set "image_shape=(28, 28)"
    """
    params = {name: value_of(text) for name, text in pairs(settings, "--set")}
    kinds = dict(pairs(column_kind, "--column-kind"))
    if quality is not None:
        params["quality"] = quality
    if seed is not None:
        params["random_state"] = seed
    targets = list(dict.fromkeys(target or ()))
    if feature_kinds := {name: kind for name, kind in kinds.items() if name not in targets}:
        params["column_kinds"] = {**(params.get("column_kinds") or {}), **feature_kinds}
    if task is not None and not targets:
        raise typer.BadParameter("there is nothing to predict; name a column with --target", param_hint="--task")
    own_parts(part)

    from skvae import VAE, cli_images, cli_targets, persistence
    from skvae.data import source

    if task not in (None, *cli_targets.TASKS):
        raise typer.BadParameter(f"{task!r}: expected one of {cli_targets.TASKS}", param_hint="--task")
    if Path(output).exists() and not overwrite:
        raise FileExistsError(f"{output} exists; choose another path or add --overwrite")
    persistence.check_target(Path(output), overwrite=overwrite)
    if not targets or task is not None:  # wrong settings are told before the rows are read
        with_params(VAE() if task is None else cli_targets.estimator_for(task), params)
    if cli_images.are_images(data):
        cli_images.refuse_table_options(**{"target": targets, "drop": drop, "column-kind": kinds})
        rows: Any = cli_images.read(data, params.get("image_shape"))
    else:
        rows = _without(read(data, **source.reading(kinds)), drop or ())
        _check_columns(rows, targets, "--target")
    y = None
    if targets:
        rows, y, task = cli_targets.taken(rows, targets, task)
    model = with_params(VAE() if task is None else cli_targets.estimator_for(task), params)
    verbose = model.verbose
    model.set_params(verbose=verbose or int(talks(ctx))).fit(rows, y)
    model.set_params(verbose=verbose).save(output, overwrite=overwrite)
    if talks(ctx):
        what = f", {task} of {', '.join(targets)} (structure={model.structure_!r})" if targets else ""
        say(f"{output}: {len(rows)} rows{what}, {model.history_!r}")


for question in (transform, reconstruct, sample, predict, score, impute, plot):
    app.command()(question)


@app.command()
def info(model: Model, as_json: AsJson = False, part: Parts = None) -> None:
    """Describe a saved model.

    \b
    Examples:
      skvae info wine.vae
      skvae info wine.vae --json | jq .settings.latent_dim
    """
    from skvae import cli_targets

    fitted = load(model, part)
    vae, history = cli_targets.of_rows(fitted), fitted.history_
    parts = {role: repr(part) for role, part in vae.model_.architecture().items()} | {
        "objective": repr(vae._objective)
    }
    target = cli_targets.facts(fitted) if cli_targets.names_of(fitted) else None
    if as_json:
        facts = {
            "estimator": type(fitted).__name__,
            "params": {name: plain(value) for name, value in fitted.get_params(deep=False).items()},
            "settings": vae.settings_,
            "parts": parts,
            "schema": vae.schema_.to_dict(),
            "training": history.info | history.epochs[history.info["best_epoch"] - 1],
        }
        facts |= {} if target is None else {"target": target}
        typer.echo(json.dumps(facts, indent=1, ensure_ascii=False))
        return
    n_rows = f"{history.info['n_train']} rows, {history.info['n_validation']} for validation"
    sections = [
        f"{fitted!r}",
        f"{vae.schema_!r}",
        *([] if target is None else [aligned("Target", target)]),
        aligned("Settings", vae.settings_),
        aligned("Parts", parts),
        f"{history!r}\n{n_rows}, {history.epochs[-1]['seconds']:.1f} s on {history.info['device']}",
    ]
    typer.echo("\n\n".join(sections))


for report in (diagnose, evaluate):
    app.command()(report)


def _without(rows: pa.Table, columns: Sequence[str]) -> pa.Table:
    _check_columns(rows, columns, "--drop")
    return rows.drop_columns(list(columns))


def _check_columns(rows: pa.Table, columns: Sequence[str], option: str) -> None:
    for name in columns:
        if name not in rows.column_names:
            raise typer.BadParameter(f"there is no column {name!r}", param_hint=option)
