"""Whole batches of examples in memory: collating sample by sample would cost more than a small network."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Batch = tuple[Tensor, Tensor, Tensor]
"""Inputs (n, …), targets (n,) or (n, K), weights (n,) or (n, K)."""


class Examples(Protocol):
    """N rows to learn from: what `ImageSet` and the features of a frozen backbone have in common."""

    @property
    def inputs(self) -> NDArray[Any]:
        """Return what the network is given (N, …)."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """Return class indices (N,)."""

    @property
    def weights(self) -> NDArray[np.float32]:
        """Return how much each row counts (N,), or each label of it (N, K)."""

    @property
    def targets(self) -> NDArray[np.float32] | None:
        """Return what is learnt in place of the labels (N, K), or None."""

    def __len__(self) -> int: ...


class WholeBatches:
    """An iterable of whole batches.

    With `seed`, every pass is another shuffle, drawn from the seed and the number of the pass alone, and a last batch
    that is too small for batch normalisation is left to the next pass; without, the rows come once in their order.
    chances: (N,) above 0; every pass then draws as many rows as there are, with replacement, in proportion to them.
    share: (part, parts); of every batch come the rows of this part only, for one of several processes.
    """

    def __init__(
        self,
        data: Examples,
        batch_size: int,
        seed: int | None = None,
        chances: NDArray[np.float32] | None = None,
    ) -> None:
        self._inputs = torch.from_numpy(data.inputs)
        self._targets = torch.from_numpy(data.labels if data.targets is None else data.targets)
        self._weights = torch.from_numpy(data.weights)
        self._batch_size = batch_size
        self._seed = seed
        self._edges = None if chances is None else torch.from_numpy(np.cumsum(chances, dtype=np.float64))
        self._pass = 0
        self.share = (0, 1)

    batch_sampler = None  # Lightning looks for both

    @property
    def sampler(self) -> WholeBatches:
        """Return what Lightning tells the number of the epoch, after a resumption too."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass the one with this number, from 0."""
        self._pass = epoch

    def rows_of(self, number: int) -> int:
        """Return how many rows batch `number` has in all processes together."""
        return min(self._batch_size, len(self._targets) - number * self._batch_size)

    def __len__(self) -> int:
        rows = len(self._targets)
        batches = math.ceil(rows / self._batch_size)
        left = rows % self._batch_size
        too_small = self._seed is not None and batches > 1 and 0 < left < 2 * self.share[1]
        return batches - 1 if too_small else batches

    def __iter__(self) -> Iterator[Batch]:
        order = self._order()
        self._pass += 1
        part, parts = self.share
        for number in range(len(self)):
            chosen = order[number * self._batch_size : (number + 1) * self._batch_size][part::parts]
            yield self._inputs[chosen], self._targets[chosen], self._weights[chosen]

    def _order(self) -> Tensor:
        rows = len(self._targets)
        if self._seed is None:
            return torch.arange(rows)
        generator = torch.Generator().manual_seed(seed_of(self._seed, self._pass))
        if self._edges is None:
            return torch.randperm(rows, generator=generator)
        # Not torch.multinomial, which refuses more than 2 ** 24 rows.
        drawn = torch.rand(rows, generator=generator, dtype=torch.float64) * self._edges[-1]
        return torch.searchsorted(self._edges, drawn, right=True).clamp_(max=rows - 1)


def seed_of(*numbers: int) -> int:
    """Return a seed of its own for several numbers, such as a run's seed and the epoch's number."""
    entropy = [len(numbers), *(number % 2**63 for number in numbers)]  # its trailing zeros would not count
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)
