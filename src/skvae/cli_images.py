"""Images on the command line: folders and .npy files in and out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import typer

from skvae import shell
from skvae.data import source
from skvae.data.image import Images, is_folder, read_images, write_folder
from skvae.data.image_schema import ImageSchema

_ARRAY = ".npy"


def are_images(data: str) -> bool:
    """Whether DATA, by its name, holds images: a folder, or an array."""
    return is_folder(data) or Path(data).suffix == _ARRAY


def read(data: str, image_shape: Sequence[int] | None, schema: ImageSchema | None = None) -> Images:
    """The images in a folder, an array, or a table of pixels, whose columns are found by the names of a schema."""
    if not are_images(data):
        table = shell.read(data, ())
        return read_images(table if schema is None else source.matched(table, schema), image_shape)
    if image_shape is None and not is_folder(data):
        raise typer.BadParameter(
            f'{data} does not say how its images are shaped; add --set image_shape="(28, 28)"', param_hint="--set"
        )
    return read_images(data, image_shape)


def refuse_table_options(**given: Any) -> None:
    """Refuse options of `fit` that are for tables."""
    for name, value in given.items():
        if value:
            raise typer.BadParameter("images have no named columns; leave it out", param_hint=f"--{name}")


def is_of_images(vae: Any) -> bool:
    return isinstance(vae.schema_, ImageSchema)


def check_output(output: str, format: str | None) -> None:
    """Refuse, before any work is done, what images could not be written to."""
    if output == "-" or format is not None or Path(output).suffix in (".csv", ".gz", ".parquet", ".pq"):
        shell.check_output(output, format)
        return
    path = Path(output)
    if path.suffix not in ("", _ARRAY):
        raise source.SourceError(f"{output}: expected a folder for png files, .npy, .csv, .csv.gz or .parquet")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"the folder {path.absolute().parent} does not exist; create it first")
    if path.is_dir() and any(path.iterdir()):
        raise FileExistsError(f"{output} is a folder that is not empty; choose another")


def write(answers: Iterable[Any], output: str, format: str | None, schema: ImageSchema) -> None:
    """Write images to a folder of png files, to an array, or, flat, to a table."""
    path = Path(output)
    if output == "-" or format is not None or path.suffix not in ("", _ARRAY):
        shell.write(answers, output, format, [column.name for column in schema.columns])
        return
    images = np.concatenate([_array(answer) for answer in answers])
    if path.suffix == _ARRAY:
        np.save(path, images)
    else:
        write_folder(schema.for_files(images), path)


def _array(answer: Any) -> np.ndarray:
    """An answer as an array, NaN where it is masked."""
    if isinstance(answer, np.ma.MaskedArray):
        return np.where(np.ma.getmaskarray(answer), np.nan, answer.data)
    return answer if isinstance(answer, np.ndarray) else nw.from_native(answer, eager_only=True).to_numpy()
