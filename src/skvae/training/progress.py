"""The progress bar."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress


class Progress:
    """A bar over epochs on standard error; silent unless `verbose`."""

    def __init__(self, n_epochs: int, verbose: int) -> None:
        self._bar = RichProgress(
            TextColumn("epoch"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not verbose,
        )
        self._task = self._bar.add_task("", total=n_epochs)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self, record: dict[str, Any]) -> None:
        bounds = [
            f"{which} bound {record[f'{which}_bound']:.4g}"
            for which in ("train", "validation")
            if f"{which}_bound" in record
        ]
        self._bar.update(self._task, advance=1, description=", ".join(bounds))
