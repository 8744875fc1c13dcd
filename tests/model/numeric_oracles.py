"""What scipy makes of the parameters of one entry of a numeric column, in the units of the data.

Each function is an oracle of `test_likelihoods.Case`: (likelihood, params [n_params], column, c) → distribution.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy import integrate, optimize, special, stats

from skvae.data.columns import Column


def rescaled(column: Column, factor: float) -> Column:
    """The same column in another unit."""
    facts = {name: getattr(column, name) * factor for name in ("offset", "scale", "lower", "upper", "resolution")}
    lists = {name: tuple(v * factor for v in getattr(column, name)) for name in ("spikes", "quantiles")}
    return replace(column, **facts, **lists)


def uniform(*shape: int, seed: int = 1) -> torch.Tensor:
    """Probabilities in (0, 1), the same at every call."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).clamp(1e-6, 1 - 1e-6)


def limited(x, lower, upper):
    centre, half = (lower + upper) / 2, (upper - lower) / 2
    return centre + half * np.tanh((x - centre) / half)


def learned(parameter: torch.Tensor) -> np.ndarray:
    return parameter.detach().double().numpy()


@dataclass
class Rounded:
    """A continuous distribution rounded to whole numbers."""

    core: Any

    def logpmf(self, x):
        return np.log(self.pmf(x))

    def pmf(self, x):
        return self.core.cdf(x + 0.5) - self.core.cdf(x - 0.5)

    def cdf(self, x):
        return self.core.cdf(np.floor(x) + 0.5)

    def ppf(self, u):
        return np.rint(self.core.ppf(u))

    def mean(self):
        """Before rounding."""
        return self.core.mean()


@dataclass
class Mixed:
    """A mixture of continuous distributions."""

    shares: Any
    parts: list[Any]

    def mix(self, question, *args):
        return sum(share * getattr(p, question)(*args) for share, p in zip(self.shares, self.parts, strict=True))

    def logpdf(self, x):
        return np.log(self.mix("pdf", x))

    def cdf(self, x):
        return self.mix("cdf", x)

    def mean(self):
        return self.mix("mean")

    def ppf(self, u):
        ends = [part.ppf(u) for part in self.parts]
        return optimize.brentq(lambda x: self.cdf(x) - u, min(ends), max(ends), xtol=1e-12)


@dataclass
class Mapped:
    """x with t(x) normal; t' by central differences."""

    normal: Any
    t: Callable[[np.ndarray], np.ndarray]
    inverse: Callable[[np.ndarray], np.ndarray]
    unit: float

    def logpdf(self, x):
        step = 1e-6 * self.unit
        slope = (self.t(x + step) - self.t(x - step)) / (2 * step)
        return self.normal.logpdf(self.t(x)) + np.log(slope)

    def cdf(self, x):
        return self.normal.cdf(self.t(x))

    def ppf(self, u):
        return self.inverse(self.normal.ppf(u))

    def mean(self):
        z = np.linspace(-8, 8, 20_001)
        return integrate.trapezoid(stats.norm.pdf(z) * self.inverse(self.normal.mean() + self.normal.std() * z), z)


@dataclass
class Spiked:
    """Whole numbers, of which some are more frequent than `rest` would have them."""

    values: np.ndarray
    shares: np.ndarray
    rest: Any

    def pmf(self, x):
        return (self.shares[:-1] * (self.values == x)).sum() + self.shares[-1] * self.rest.pmf(x)

    def logpmf(self, x):
        return np.log(self.pmf(x))

    def cdf(self, x):
        return (self.shares[:-1] * (self.values <= x)).sum() + self.shares[-1] * self.rest.cdf(x)

    def ppf(self, u):
        below, above = -1e6, 1e6
        while above - below > 1:
            middle = np.floor((below + above) / 2)
            below, above = (middle, above) if self.cdf(middle) < u else (below, middle)
        return above

    def mean(self):
        return (self.shares[:-1] * self.values).sum() + self.shares[-1] * self.rest.mean()


def log_scale_of(bound, raw, column):
    """log σ of a normal, which may be narrower than else where values are rounded."""
    narrowest = min(np.log(1 / column.scale / 8), -5.0) if bound.rounded else -5.0
    return limited(raw, narrowest, 5.0)


def normal(column, mean, log_scale):
    return stats.norm(column.offset + column.scale * mean, column.scale * np.exp(log_scale))


def finished(bound, oracle):
    return Rounded(oracle) if bound.rounded else oracle


def gaussian(bound, params, column, c):
    if bound.scale == "row":
        mean, raw = np.split(params, 2)
    else:
        mean, raw = params, np.broadcast_to(learned(bound.log_scale), len(params))
    core = normal(column, mean[c], log_scale_of(bound, raw[c], column))
    broad = stats.norm(column.offset, 3 * column.scale)
    return finished(bound, Mixed([1 - bound.outliers, bound.outliers], [core, broad]) if bound.outliers else core)


def student_t(bound, params, column, c):
    mean, raw = np.split(params, 2)
    df = 1 + np.exp(limited(np.log(4) + learned(bound.log_excess)[c], -3.0, 5.0))
    return stats.t(df, column.offset + column.scale * mean[c], column.scale * np.exp(limited(raw[c], -5.0, 5.0)))


def log_normal(bound, params, column, c):
    mean, raw = np.split(params, 2)
    logs = np.log([column.lower, *column.quantiles, column.upper])
    deviation = logs.std() * np.exp(limited(raw[c], -5.0, 1.0))
    return finished(bound, stats.lognorm(s=deviation, scale=np.exp(logs.mean() + logs.std() * mean[c])))


def beta(bound, params, column, c):
    logit, log_precision = (p[c] for p in np.split(params, 2))
    margin = max(column.resolution / 2, 1e-3 * (column.upper - column.lower))
    lower, width = column.lower - margin, column.upper - column.lower + 2 * margin
    mean = (column.offset - lower) / width
    precision = max(mean * (1 - mean) * (width / column.scale) ** 2 - 1, 0.5)
    mean, precision = special.expit(special.logit(mean) + logit), precision * np.exp(log_precision)
    a, b = (np.exp(limited(np.log(x * precision), -2.0, 9.0)) for x in (mean, 1 - mean))
    return stats.beta(a, b, lower, width)


def mixture_of_gaussians(bound, params, column, c):
    n = bound.n_components
    logits, mean, raw = params.reshape(3, n, -1)[..., c]
    ends = np.quantile(column.quantiles, np.arange(2 * n + 1) / (2 * n))
    start = (ends[1::2] - column.offset) / column.scale
    width = np.log(np.maximum((ends[2::2] - ends[:-2:2]) / 2 / column.scale, np.exp(-3.0)))
    log_scale = log_scale_of(bound, raw + width, column)
    parts = [normal(column, *p) for p in zip(start + mean, log_scale, strict=True)]
    return finished(bound, Mixed(special.softmax(logits), parts))


def quantile_normal(bound, params, column, c):
    """The map is that of the likelihood, in float64, and has tests of its own."""
    mean, raw = np.split(params, 2)
    exact = copy.deepcopy(bound.map).double()

    def at(x):
        return torch.as_tensor(x, dtype=torch.float64).unsqueeze(-1).expand(*np.shape(x), len(exact.x))

    def t(x):
        return exact(at((x - column.offset) / column.scale))[0][..., c].numpy()

    def inverse(y):
        return column.offset + column.scale * exact.inverse(at(y))[..., c].numpy()

    core = stats.norm(mean[c], np.exp(log_scale_of(bound, raw[c], column)))
    return finished(bound, Mapped(core, t, inverse, column.scale))


def spikes_and_gaussian(bound, params, column, c):
    """With the default rest, on whole numbers."""
    n_rest, n_columns, most = bound.part.n_params, *bound.shape
    own = params[n_rest:].reshape(n_columns, most)[c]
    n = len(column.spikes)
    shares = special.softmax(np.append(own[:n], own[-1]))
    rest = gaussian(bound.part, params[:n_rest], column, c)
    return Spiked(np.sort(column.spikes), shares, Rounded(rest.core))
