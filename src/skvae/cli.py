"""The command `skvae`: a thin face over the estimators, for tables in files and pipes.

A command opens model and rows with `_asked`, asks the model, and writes the answer with `_write`; errors come up
as exceptions, of which `_Shell` makes one line and an exit code. What needs torch is imported where it is used,
so that `skvae --help` need not wait for it.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import itertools
import json
import operator
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    import pyarrow as pa

    from skvae.estimators.base import BaseVAE

# Rows that `sample` makes at a time.
_PIECE = 16_384

_GLOBAL = ("--debug", "--verbose")


class _Shell(TyperGroup):
    """The group of commands: what goes wrong in one becomes a line on standard error and an exit code."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Let options that concern every command stand behind its name as well."""
        end = args.index("--") if "--" in args else len(args)
        moved = [word for word in args[:end] if word in _GLOBAL]
        return super().parse_args(ctx, moved + [word for word in args[:end] if word not in _GLOBAL] + args[end:])

    def invoke(self, ctx: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("default", UserWarning)
            # A file has names, whether the model was fitted to an array or not.
            warnings.filterwarnings("ignore", "X has feature names")
            warnings.showwarning = lambda message, *_: _say(f"warning: {message}")
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt:
                raise typer.Exit(130) from None
            except BrokenPipeError:  # whoever reads the output has enough; nothing more may be flushed to it
                with contextlib.suppress(OSError):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise typer.Exit(128 + 13) from None
            except Exception as error:
                if hasattr(error, "exit_code") or isinstance(error, typer.Abort):
                    raise
                if ctx.params.get("debug"):
                    traceback.print_exc()
                _say(f"error: {_one_line(error)}")
                raise typer.Exit(1) from None


app = typer.Typer(
    name="skvae",
    cls=_Shell,
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGTERM, _terminated)
    app(prog_name="skvae")


def _terminated(number: int, frame: Any) -> NoReturn:
    """Leave by way of the clean-up code, so that nothing half written stays behind."""
    sys.exit(128 + number)


def _say(text: str) -> None:
    typer.echo(f"skvae: {text}", err=True)


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    text = " ".join(str(error).split()) or type(error).__name__
    usual = isinstance(error, (ValueError, TypeError, OSError, RuntimeError, ImportError)) and str(error)
    return text if usual else f"{type(error).__name__}: {text} (a defect of skvae: please report it, with --debug)"


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
    """


Model = Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a saved model.")]
Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA", help="csv, csv.gz or parquet file; without it, or as -, standard input.", show_default=False
    ),
]
Output = Annotated[
    str,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE",
        help="csv, csv.gz or parquet file to write, in place of standard output.",
        show_default=False,
    ),
]
Format = Annotated[
    str | None,
    typer.Option("--format", metavar="csv|parquet", help="Format of the output, where its name does not tell."),
]
Draws = Annotated[int, typer.Option("--n-draws", metavar="N", help="Latents per row, for importance sampling.")]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="The same seed gives the same result.")]
Parts = Annotated[
    list[str] | None,
    typer.Option(
        "--part",
        metavar="MODULE:CLASS",
        help="A class of your own that the model uses, imported from the current folder or the Python path; may be "
        "repeated.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON.")]


@app.command()
def fit(
    *,
    ctx: typer.Context,
    data: Data = "-",
    output: Annotated[str, typer.Option("-o", "--output", metavar="MODEL", help="Folder to save the model to.")],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A parameter of skvae.VAE, or of one of its parts (objective__beta=4); may be repeated.",
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
            "may be repeated. A categorical column of a csv file is read as text, so that 007 is not 7.",
        ),
    ] = None,
    drop: Annotated[
        list[str] | None, typer.Option("--drop", metavar="COLUMN", help="Leave a column out; may be repeated.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model that is there already.")] = False,
    part: Parts = None,
) -> None:
    """Fit a model to a table and save it.

    Entries may be missing: empty, NA, NaN, null. Columns left out with --drop are passed over in later files.

    \b
    Examples:
      skvae fit wine.csv -o wine.vae
      skvae fit wine.parquet -o wine.vae --seed 0 --quality high --overwrite
      skvae fit people.csv -o people.vae --drop id --column-kind postcode=categorical
      skvae fit wine.csv -o small.vae --set latent_dim=2 --set "hidden_sizes=(64, 64)"
      skvae fit wine.csv -o beta.vae --set objective__beta=0.5
      zcat wine.csv.gz | skvae fit -o wine.vae
    """
    params = {name: _value(text) for name, text in _pairs(settings, "--set")}
    kinds = dict(_pairs(column_kind, "--column-kind"))
    if quality is not None:
        params["quality"] = quality
    if seed is not None:
        params["random_state"] = seed
    if kinds:
        params["column_kinds"] = {**(params.get("column_kinds") or {}), **kinds}
    _own_parts(part)

    from skvae import VAE, persistence

    if Path(output).exists() and not overwrite:
        raise FileExistsError(f"{output} exists; choose another path or add --overwrite")
    persistence.check_target(Path(output), overwrite=overwrite)
    vae = _with_params(VAE(), params)
    labels = [name for name, kind in kinds.items() if kind == "categorical"]
    rows = _without(_read(data, labels), drop or ())
    verbose = vae.verbose
    vae.set_params(verbose=verbose or int(_talks(ctx))).fit(rows)
    vae.set_params(verbose=verbose).save(output, overwrite=overwrite)
    if _talks(ctx):
        _say(f"{output}: {len(rows)} rows, {vae.history_!r}")


@app.command()
def transform(
    model: Model, data: Data = "-", output: Output = "-", format: Format = None, part: Parts = None
) -> None:
    """Reduce rows to latents.

    A row of latents holds the means of q(z|x).

    \b
    Examples:
      skvae transform wine.vae wine.csv -o latents.csv
      skvae transform wine.vae < wine.csv | head
    """
    vae, rows, _ = _asked(model, data, output, format, part)
    _write([vae.transform(rows)], output, format, vae.get_feature_names_out())


@app.command()
def reconstruct(
    model: Model, data: Data = "-", output: Output = "-", format: Format = None, part: Parts = None
) -> None:
    """Encode rows and decode them again.

    The result is what the latents retain of each row: means of numbers and dates, modes of levels.

    \b
    Examples:
      skvae reconstruct wine.vae wine.csv -o smooth.parquet
    """
    vae, rows, _ = _asked(model, data, output, format, part)
    _write([vae.reconstruct(rows)], output, format, rows.column_names)


@app.command()
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
    part: Parts = None,
) -> None:
    """Generate new rows.

    They are made and written piece by piece, so that there may be any number of them.

    \b
    Examples:
      skvae sample wine.vae -n 1000 -o new.csv
      skvae sample wine.vae -n 10000000 --seed 0 -o new.parquet
      skvae sample wine.vae -n 50 | skvae score wine.vae -
    """
    _check_output(output, format)
    vae = _load(model, part)
    sizes = [min(_PIECE, n_samples - first) for first in range(0, n_samples, _PIECE)] or [n_samples]
    pieces = (
        vae.sample(size, decode=decode, random_state=random_state)
        for size, random_state in zip(sizes, _seeds(seed), strict=False)
    )
    with _progress(pieces, len(sizes), _talks(ctx) and len(sizes) > 1) as shown:
        _write(shown, output, format, [column.name for column in vae.schema_.columns])


@app.command()
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
    _write([log_p], output, format, ["log_p"])
    _say(f"mean log p(x) of {len(log_p)} rows: {log_p.mean(dtype=float):.4f} nats")


@app.command()
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
    vae, rows, whole = _asked(model, data, output, format, part)
    if n_imputations is not None and "imputation" in whole.column_names:
        raise ValueError("the table has a column 'imputation' already; rename it")
    filled = vae.impute(rows, n_imputations, n_draws)
    tables = [filled] if n_imputations is None else filled
    completed = (_completed(whole, table, None if n_imputations is None else k) for k, table in enumerate(tables, 1))
    _write(completed, output, format, [])


@app.command()
def info(model: Model, as_json: AsJson = False, part: Parts = None) -> None:
    """Describe a saved model.

    \b
    Examples:
      skvae info wine.vae
      skvae info wine.vae --json | jq .settings.latent_dim
    """
    vae = _load(model, part)
    parts = {role: repr(part) for role, part in vae.model_.architecture().items()} | {
        "objective": repr(vae._objective)
    }
    if as_json:
        facts = {
            "estimator": type(vae).__name__,
            "params": {name: _plain(value) for name, value in vae.get_params(deep=False).items()},
            "settings": vae.settings_,
            "parts": parts,
            "schema": vae.schema_.to_dict(),
            "training": vae.history_.info | vae.history_.epochs[vae.history_.info["best_epoch"] - 1],
        }
        typer.echo(json.dumps(facts, indent=1, ensure_ascii=False))
        return
    seconds = vae.history_.epochs[-1]["seconds"]
    n_rows = f"{vae.history_.info['n_train']} rows, {vae.history_.info['n_validation']} for validation"
    sections = [
        f"{vae!r}",
        f"{vae.schema_!r}",
        _aligned("Settings", vae.settings_),
        _aligned("Parts", parts),
        f"{vae.history_!r}\n{n_rows}, {seconds:.1f} s on {vae.history_.info['device']}",
    ]
    typer.echo("\n\n".join(sections))


@app.command()
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
    model: Path, data: str, output: str, format: str | None, part: Sequence[str] | None
) -> tuple[BaseVAE | Any, pa.Table, pa.Table]:
    """The model, the rows it is asked about, and the whole table in which they stand."""
    from skvae.data import source

    _check_output(output, format)
    vae = _load(model, part)
    whole = _read(data, source.text_columns(vae.schema_))
    return vae, source.matched(whole, vae.schema_), whole


def _load(model: Path, part: Sequence[str] | None) -> Any:
    import skvae

    return skvae.load(model, parts=_own_parts(part))


def _own_parts(part: Sequence[str] | None) -> list[type]:
    """The classes that the caller names, imported."""
    if part and "" not in sys.path:
        sys.path.insert(0, "")  # the current folder, as for `python -m`
    found = []
    for text in part or ():
        module, _, name = text.partition(":")
        try:
            found.append(operator.attrgetter(name)(importlib.import_module(module)))
        except (ImportError, AttributeError, ValueError) as error:
            raise typer.BadParameter(f"{text!r}: {error}; expected module:Class", param_hint="--part") from None
    return found


def _read(data: str, text: Iterable[str]) -> pa.Table:
    from skvae.data import source

    if data != "-":
        return source.read(data, text)
    if sys.stdin.isatty():
        raise typer.BadParameter("standard input is a terminal; name a file, or pipe rows in", param_hint="DATA")
    return source.read(sys.stdin.buffer, text)


def _check_output(output: str, format: str | None) -> None:
    """Refuse, before any work is done, what could not be written."""
    from skvae.data import source

    kind = source.check_target(sys.stdout.buffer if output == "-" else output, format)
    if output == "-" and kind == source.PARQUET and sys.stdout.isatty():
        raise typer.BadParameter("standard output is a terminal; name a file with -o", param_hint="--format")


def _write(answers: Iterable[Any], output: str, format: str | None, names: Sequence[str]) -> None:
    """Write arrays or frames, one below the other."""
    from skvae.data import source

    tables = (source.as_arrow(answer, names) for answer in answers)
    source.write(tables, sys.stdout.buffer if output == "-" else output, format)
    sys.stdout.flush()


def _without(rows: pa.Table, columns: Sequence[str]) -> pa.Table:
    for name in columns:
        if name not in rows.column_names:
            raise typer.BadParameter(f"there is no column {name!r}", param_hint="--drop")
    return rows.drop_columns(list(columns))


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


def _seeds(seed: int | None) -> Iterator[int | None]:
    """One for each piece; the first is that given, so that a single piece is what `VAE.sample` draws."""
    import numpy as np

    yield seed
    for piece in itertools.count(1):
        yield None if seed is None else int(np.random.SeedSequence([seed, piece]).generate_state(1)[0] >> 1)


@contextlib.contextmanager
def _progress(pieces: Iterable[Any], n_pieces: int, shown: bool) -> Iterator[Iterable[Any]]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), disable=not shown) as bar:
        yield bar.track(pieces, total=n_pieces, description="sampling")


def _talks(ctx: typer.Context) -> bool:
    """Whether someone looks on who wants to know how far it is."""
    return ctx.find_root().params["verbose"] or sys.stderr.isatty()


def _pairs(texts: Iterable[str] | None, option: str) -> Iterator[tuple[str, str]]:
    for text in texts or ():
        name, equals, value = text.rpartition("=") if option == "--column-kind" else text.partition("=")
        if not (name and equals):
            raise typer.BadParameter(f"{text!r}: expected name=value", param_hint=option)
        yield name, value


def _value(text: str) -> Any:
    """A value as JSON or Python writes it; else the text itself."""
    for parse in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError):
            return parse(text)
    return text


def _with_params(estimator: Any, params: dict[str, Any]) -> Any:
    """The estimator with these parameters, nested ones too: a part given by its alias becomes an object first."""
    from skvae.estimators.base import _PARTS
    from skvae.model.component import choices

    try:
        estimator.set_params(**{name: value for name, value in params.items() if "__" not in name})
        for key, value in params.items():
            name, nested, _ = key.partition("__")
            if not nested:
                continue
            current = estimator.get_params(deep=False).get(name)
            known = choices(_PARTS[name]) if name in _PARTS else {}
            if isinstance(current, str) and current in known:
                estimator.set_params(**{name: known[current]()})
            elif known and not hasattr(current, "set_params"):
                raise ValueError(
                    f"{key!r} asks for a parameter of {name}={current!r}; choose a part with --set {name}=…, one of "
                    f"{sorted(known)}"
                )
            estimator.set_params(**{key: value})
    except ValueError as error:
        raise typer.BadParameter(_one_line(error), param_hint="--set") from None
    return estimator


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float) else repr(value)


def _aligned(title: str, facts: dict[str, Any]) -> str:
    width = max(map(len, facts)) + 4
    lines = [
        f"  {name}".ljust(width) + str(value).replace("\n", "\n".ljust(width + 1)) for name, value in facts.items()
    ]
    return "\n".join([title, *lines])
