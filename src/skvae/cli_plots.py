"""The command `skvae plot`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from skvae.shell import Data, Model, Parts, Seed, load

KINDS = ("map", "reconstruction", "samples", "traversal", "training")


def plot(
    model: Model,
    data: Data = "-",
    *,
    kind: Annotated[str, typer.Option("--kind", metavar="|".join(KINDS), help="What to draw.")],
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="FILE", help="png, svg or pdf file to write the figure to.")
    ],
    color: Annotated[
        str | None,
        typer.Option("--color", metavar="COLUMN", help="A column of DATA by which the rows of a map are coloured."),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option("--column", metavar="COLUMN", help="A column to be drawn; may be repeated."),
    ] = None,
    term: Annotated[
        str, typer.Option("--term", metavar="NAME", help="Of training: bound, loss, kl or another term.")
    ] = "bound",
    seed: Seed = 0,
    dpi: Annotated[int, typer.Option("--dpi", metavar="N", help="Dots per inch of a png file.")] = 150,
    part: Parts = None,
) -> None:
    """Draw what a model does.

    A map of rows by their latents; rows against their reconstructions; samples (of a table, beside the rows of DATA);
    what changes along each latent; the course of training, which needs no DATA.

    \b
    Examples:
      skvae plot wine.vae wine.csv --kind map --color quality -o map.png
      skvae plot digits.vae digits/ --kind reconstruction -o pairs.png
      skvae plot digits.vae --kind samples -o samples.png
      skvae plot wine.vae --kind training -o training.svg
    """
    if kind not in KINDS:
        raise typer.BadParameter(f"{kind!r}: expected one of {KINDS}", param_hint="--kind")
    if color is not None and kind != "map":
        raise typer.BadParameter("colours are for --kind map", param_hint="--color")

    from skvae import cli_images, cli_targets, plotting
    from skvae.plotting.drawing import import_pyplot

    fitted = load(model, part)
    vae = cli_targets.of_rows(fitted)
    of_images = cli_images.is_of_images(vae)
    if column and (of_images or kind not in ("reconstruction", "samples")):
        raise typer.BadParameter(
            "columns are chosen for reconstructions and samples of tables", param_hint="--column"
        )
    needs_rows = kind in ("map", "reconstruction") or (kind == "samples" and not of_images)
    rows = colours = None
    if kind != "training" and (needs_rows or data != "-"):
        rows, colours = _rows(vae, fitted, data, color)
    displays: dict[str, Any] = {
        "map": lambda: plotting.LatentMapDisplay.from_estimator(
            vae, rows, color=colours, color_label=color or "", random_state=seed
        ),
        "reconstruction": lambda: plotting.ReconstructionDisplay.from_estimator(
            vae, rows, columns=column, random_state=seed
        ),
        "samples": lambda: plotting.SampleGridDisplay.from_estimator(vae, rows, columns=column, random_state=seed),
        "traversal": lambda: plotting.TraversalDisplay.from_estimator(vae, rows),
        "training": lambda: plotting.TrainingCurveDisplay.from_estimator(vae, term=term),
    }
    figure = displays[kind]().figure_
    figure.savefig(output, dpi=dpi)
    import_pyplot().close(figure)


def _rows(vae: Any, fitted: Any, data: str, color: str | None) -> tuple[Any, Any]:
    """The rows to be drawn, and the column that colours them."""
    from skvae import cli_images, cli_targets
    from skvae.data import source
    from skvae.shell import read

    if cli_images.is_of_images(vae):
        if color is not None:
            raise typer.BadParameter("images have no named columns; leave it out", param_hint="--color")
        return cli_images.read(data, vae.schema_.layout.shape, vae.schema_), None
    whole = read(data, source.text_columns(vae.schema_))
    if color is not None and color not in whole.column_names:
        raise typer.BadParameter(f"there is no column {color!r}", param_hint="--color")
    colours = None if color is None else whole.column(color).to_numpy()
    known = {column.name for column in vae.schema_.columns}
    spare = [name for name in cli_targets.names_of(fitted) if name in whole.column_names]
    if vae.schema_.container == "numpy" and color is not None and color not in known:
        spare.append(color)
    return source.matched(whole.drop_columns(spare), vae.schema_), colours
