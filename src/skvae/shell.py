"""What the commands of `skvae` have in common: exit codes, messages, streams, options, values written as text.

Errors come up as exceptions, of which `Shell` makes one line and an exit code. What needs torch is imported where
it is used, so that `skvae --help` need not wait for it.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
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

_GLOBAL = ("--debug", "--verbose")


class Shell(TyperGroup):
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
            warnings.showwarning = lambda message, *_: say(f"warning: {message}")
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
                say(f"error: {one_line(error)}")
                raise typer.Exit(1) from None


def end_on_sigterm() -> None:
    """Leave on SIGTERM by way of the clean-up code, so that nothing half written stays behind."""

    def terminated(number: int, frame: Any) -> NoReturn:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, terminated)


def say(text: str) -> None:
    """A line on standard error."""
    typer.echo(f"skvae: {text}", err=True)


def one_line(error: Exception) -> str:
    """An exception in one line; one that nobody foresaw is called a defect."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    text = " ".join(str(error).split()) or type(error).__name__
    usual = isinstance(error, (ValueError, TypeError, OSError, RuntimeError, ImportError)) and str(error)
    return text if usual else f"{type(error).__name__}: {text} (a defect of skvae: please report it, with --debug)"


def talks(ctx: typer.Context) -> bool:
    """Whether someone looks on who wants to know how far it is."""
    return ctx.find_root().params["verbose"] or sys.stderr.isatty()


@contextlib.contextmanager
def progress(pieces: Iterable[Any], n_pieces: int, shown: bool) -> Iterator[Iterable[Any]]:
    """The pieces, with a bar on standard error that counts them."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), disable=not shown) as bar:
        yield bar.track(pieces, total=n_pieces, description="sampling")


def read(data: str, text: Iterable[str], identifiers: Iterable[str] = ()) -> pa.Table:
    """The table in a file, or in standard input; see `source.read`."""
    from skvae.data import source

    if data != "-":
        return source.read(data, text, identifiers)
    if sys.stdin.isatty():
        raise typer.BadParameter("standard input is a terminal; name a file, or pipe rows in", param_hint="DATA")
    return source.read(sys.stdin.buffer, text, identifiers)


def check_output(output: str, format: str | None) -> None:
    """Refuse, before any work is done, what could not be written."""
    from skvae.data import source

    kind = source.check_target(sys.stdout.buffer if output == "-" else output, format)
    if output == "-" and kind == source.PARQUET and sys.stdout.isatty():
        raise typer.BadParameter("standard output is a terminal; name a file with -o", param_hint="--format")


def write(answers: Iterable[Any], output: str, format: str | None, names: Sequence[str]) -> None:
    """Write arrays or frames, one below the other."""
    from skvae.data import source

    tables = (source.as_arrow(answer, names) for answer in answers)
    source.write(tables, sys.stdout.buffer if output == "-" else output, format)
    sys.stdout.flush()


def own_parts(part: Sequence[str] | None) -> list[type]:
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


def load(model: Path, part: Sequence[str] | None) -> Any:
    import skvae

    return skvae.load(model, parts=own_parts(part))


def pairs(texts: Iterable[str] | None, option: str) -> Iterator[tuple[str, str]]:
    """Names and values of an option's NAME=VALUE texts; columns may have an = in their names."""
    for text in texts or ():
        name, equals, value = text.partition("=") if option == "--set" else text.rpartition("=")
        if not (name and equals):
            raise typer.BadParameter(f"{text!r}: expected name=value", param_hint=option)
        yield name, value


def value_of(text: str) -> Any:
    """A value as JSON or Python writes it; else the text itself."""
    for parse in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError):
            return parse(text)
    return text


def with_params(estimator: Any, params: dict[str, Any]) -> Any:
    """The estimator with these parameters, nested ones too: a part given by its alias becomes an object first."""
    from skvae.estimators.making import PARTS
    from skvae.model.component import choices

    try:
        estimator.set_params(**{name: value for name, value in params.items() if "__" not in name})
        for key, value in params.items():
            name, nested, _ = key.partition("__")
            if not nested:
                continue
            current = estimator.get_params(deep=False).get(name)
            known = choices(PARTS[name]) if name in PARTS else {}
            if isinstance(current, str) and current in known:
                estimator.set_params(**{name: known[current]()})
            elif known and not hasattr(current, "set_params"):
                raise ValueError(
                    f"{key!r} asks for a parameter of {name}={current!r}; choose a part with --set {name}=…, one of "
                    f"{sorted(known)}"
                )
            estimator.set_params(**{key: value})
    except ValueError as error:
        raise typer.BadParameter(one_line(error), param_hint="--set") from None
    return estimator


def plain(value: Any) -> Any:
    """The value itself if JSON has it, else its repr."""
    return value if value is None or isinstance(value, str | int | float) else repr(value)


def aligned(title: str, facts: dict[str, Any]) -> str:
    """Names and values below a title, in two columns."""
    width = max(map(len, facts)) + 4
    lines = [
        f"  {name}".ljust(width) + str(value).replace("\n", "\n".ljust(width + 1)) for name, value in facts.items()
    ]
    return "\n".join([title, *lines])
