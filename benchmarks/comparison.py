"""Models run over the splits of data sets, and the tables and counts of what they measured."""

import argparse
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

OURS = "skvae"


class Split(NamedTuple):
    data: str
    seed: int
    X: Any
    y: Any
    X_test: Any
    y_test: Any


Measures = dict[str, float]
Model = Callable[[Split], Measures]


def asked(about: str | None, data: Iterable[str]) -> argparse.Namespace:
    """The command line of a benchmark over these data sets."""
    names = list(data)
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=names, choices=names, metavar="NAME")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--quality", default="default")
    parser.add_argument("--peers-only", action="store_true", help="leave out ours")
    return parser.parse_args()


def mean_and_sd(values: list[float], n_digits: int) -> str:
    """Mean ± sd over the seeds; of a single one its value."""
    spread = f" ± {np.std(values, ddof=1):.{n_digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{n_digits}f}{spread}"


def mean_of(runs: Sequence[Measures]) -> Measures:
    """The mean of every measure over runs that have the same ones."""
    return {measure: float(np.mean([run[measure] for run in runs])) for measure in runs[0]}


def shown(seeds: list[Measures]) -> str:
    """Mean ± sd, and the least, of every measure over the seeds; of a single seed its values."""
    pieces = []
    for measure in seeds[0]:
        values = [seed[measure] for seed in seeds]
        least = f" (least {min(values):.4f})" if len(values) > 1 else ""
        pieces.append(f"{measure} {mean_and_sd(values, 4)}{least}")
    return ", ".join(pieces)


class Results:
    """What a section measured: of each data set and model, the measures of every seed."""

    def __init__(self) -> None:
        self.seeds: dict[str, dict[str, list[Measures]]] = {}

    def run(self, data: str, models: dict[str, Model], splits: Iterable[list[Split]]) -> None:
        """Runs every model over the splits, a list of one or more for each seed, and prints the data set's table."""
        rows = self.seeds[data] = {name: [] for name in models}
        for parts in splits:
            for name, model in models.items():
                folds = [model(split) for split in parts]
                rows[name].append(mean_of(folds))
                values = "  ".join(f"{measure} {value:.3f}" for measure, value in rows[name][-1].items())
                print(f"seed {parts[0].seed}  {data}  {name:16} {values}", flush=True)
        self._print(data, rows)

    def over_data(self) -> None:
        """Prints the table of the means over all data sets."""
        means = {
            name: [mean_of(of_seed) for of_seed in zip(*(rows[name] for rows in self.seeds.values()), strict=True)]
            for name in next(iter(self.seeds.values()))
        }
        self._print(f"mean of {len(self.seeds)} sets", means)

    @staticmethod
    def _print(title: str, rows: dict[str, list[Measures]]) -> None:
        measures = list(next(iter(rows.values()))[0])
        print(f"\n{title:32}" + "".join(f"{measure:>18}" for measure in measures))
        for name, seeds in rows.items():
            cells = (mean_and_sd([seed[measure] for seed in seeds], 3) for measure in measures)
            print(f"{name:32}" + "".join(f"{cell:>18}" for cell in cells))
        print(flush=True)

    def values(self, data: str, name: str, measure: str) -> list[float]:
        return [seed[measure] for seed in self.seeds[data][name]]

    def mean(self, data: str, name: str, measure: str) -> float:
        return float(np.mean(self.values(data, name, measure)))

    def best(self, data: str, measure: str, others: Iterable[str] | None = None) -> float:
        """The lowest mean of the other models."""
        others = others or [name for name in self.seeds[data] if not name.startswith(OURS)]
        return min(self.mean(data, name, measure) for name in others)

    def count(self, what: str, holds: Callable[[str], bool], bar: str = "none") -> None:
        won = [data for data in self.seeds if holds(data)]
        lost = ", ".join(data for data in self.seeds if data not in won) or "none"
        print(f"{what}: {len(won)} of {len(self.seeds)} (bar: {bar}); lost: {lost}")
