"""Held-out log p(x) with the likelihood of each column chosen ("auto"), against a Gaussian for every numeric column.

Nats per row of a third of the rows, which neither training nor choice has seen. Columns rounded to decimals are
measured in their smallest unit, so that both sides score them by the probability of the rounding cell; a density
and the probability of a repeated value could not be compared.

    python benchmarks/likelihoods.py [--seeds 3] [--quality fast]
"""

import argparse

import numpy as np
from sklearn.model_selection import train_test_split

from comparison import mean_and_sd
from data import adult, california_housing, wine_quality
from skvae import VAE, Schema
from skvae.data import Kind
from skvae.data.table import read_table
from skvae.model.likelihoods.table import default_likelihood

GAUSSIAN = {str(kind): default_likelihood(kind) for kind in (Kind.CONTINUOUS, Kind.INTEGER)}
DATA = {"adult": adult, "california housing": california_housing, "wine quality, red": wine_quality}


def in_smallest_units(frame):
    """The frame with columns rounded to decimals turned into whole numbers."""
    for column in Schema.infer(read_table(frame)).modelled:
        if 0 < column.resolution < 1:
            frame[column.name] = np.rint(frame[column.name] / column.resolution)
    return frame


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quality", default="fast")
    parser.add_argument("--data", nargs="*", default=list(DATA), choices=list(DATA))
    arguments = parser.parse_args()
    print(f"{'data':20}{'seed':>6}{'Gaussian':>12}{'auto':>12}{'margin':>10}")
    for name in arguments.data:
        frame, margins = in_smallest_units(DATA[name]()), []
        for seed in range(arguments.seeds):
            train, test = train_test_split(frame, test_size=1 / 3, random_state=seed)
            gaussian, auto = (
                VAE(likelihood=likelihood, quality=arguments.quality, handle_unknown="missing", random_state=seed)
                .fit(train)
                .score_samples(test)
                .mean(dtype=np.float64)
                for likelihood in (GAUSSIAN, "auto")
            )
            margins.append(auto - gaussian)
            print(f"{name:20}{seed:6d}{gaussian:12.3f}{auto:12.3f}{auto - gaussian:10.3f}", flush=True)
        print(f"{name:20}{'mean':>6}{'':24}{mean_and_sd(margins, 3):>18}", flush=True)


if __name__ == "__main__":
    main()
