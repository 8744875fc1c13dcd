"""All randomness of the package, made from a seed and a name."""

from __future__ import annotations

import contextlib
import itertools
import zlib
from collections.abc import Iterator
from numbers import Integral
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_random_state
from torch import Tensor


class Noise:
    """Reproducible noise: every (seed, name, number) has a stream of its own.

    The answer to one question therefore never depends on what was asked before.

    Parameters
    ----------
    seed : int
    device : torch.device or str
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self.seed = seed
        self.device = torch.device(device)

    def stream(self, name: str, number: int = 0) -> torch.Generator:
        """A generator for the `number`-th use of `name`."""
        entropy = (self.seed, zlib.crc32(name.encode()), number)
        state = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])
        return torch.Generator(self.device).manual_seed(state % 2**63)

    def normal(self, name: str, *shape: int, number: int = 0) -> Tensor:
        return torch.randn(shape, generator=self.stream(name, number), device=self.device)

    def uniform(self, name: str, *shape: int, number: int = 0) -> Tensor:
        return open_uniform(shape, self.stream(name, number))


def open_uniform(shape: tuple[int, ...], stream: torch.Generator) -> Tensor:
    """Uniform on the open interval (0, 1), so that every quantile is finite."""
    return torch.rand(shape, generator=stream, device=stream.device).clamp_(2.0**-25, 1 - 2.0**-24)


def random_mask(shape: tuple[int, int], stream: torch.Generator, share: float) -> Tensor:
    """Entries to hide, bool [n, C].

    A random `share` of the rows loses entries; in each of those, every entry is hidden with a probability
    that is itself uniform, so that any number of given columns occurs. The other rows stay whole.
    """
    n_rows, n_columns = shape
    draws = torch.rand((n_rows, 2), generator=stream, device=stream.device)
    rate = torch.where(draws[:, :1] < share, draws[:, 1:], 0.0)  # [n, 1]
    return torch.rand((n_rows, n_columns), generator=stream, device=stream.device) < rate


@contextlib.contextmanager
def seeded_torch(seed: int) -> Iterator[None]:
    """Seed torch's global stream for library code that draws from it, and put it back afterwards."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.random.manual_seed(seed)
        yield


def new_seed(random_state: Any) -> int:
    """A seed drawn from a `random_state` parameter; None leaves numpy's global stream alone."""
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0]) >> 1
    return int(check_random_state(random_state).randint(2**31 - 1))


def seeds_of_batches(random_state: Any) -> Iterator[Any]:
    """A `random_state` for each of any number of batches; the first is that given."""
    yield random_state
    for batch in itertools.count(1):
        if isinstance(random_state, Integral):
            yield int(np.random.SeedSequence([int(random_state), batch]).generate_state(1)[0] >> 1)
        else:  # None, or a stream that has moved on
            yield random_state
