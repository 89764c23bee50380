"""Which process reads which rows of a list, and in which order."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
from torch.utils.data import Sampler

# Separates the order of rows from the draws of items, which have the same seed.
_ORDER = 0x0BDE5


class TrainSampler(Sampler):
    """Shuffled batches of (epoch, row), the same split over any number of processes.

    An epoch's order is a permutation seeded by (seed, epoch). It is cut into global batches, the
    remainder is dropped, and each process takes its contiguous share of every batch. Workers get
    the epoch with each row, so they need no state. ``batch`` counts the rows of a global batch.
    """

    def __init__(
        self, rows: int, batch: int, *, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.rows, self.batch, self.seed = rows, batch, seed
        self.rank, self.world_size = rank, world_size
        self.epoch, self.start = 0, 0

    def set_epoch(self, epoch: int, start_iteration: int = 0) -> None:
        """Choose the epoch, and the iteration to start from when an epoch is resumed."""
        self.epoch, self.start = epoch, start_iteration

    def __len__(self) -> int:
        return self.rows // self.batch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, share = self.epoch, self.batch // self.world_size
        order = np.random.default_rng((self.seed % 2**64, epoch, _ORDER)).permutation(self.rows)
        for number in range(self.start, len(self)):
            first = number * self.batch + self.rank * share
            yield [(epoch, int(row)) for row in order[first:first + share]]


class EvalSampler(Sampler):
    """Batches of (epoch, row) that visit every row once, in groups of consecutive rows.

    The list is cut into the same groups for any number of processes; they are dealt out to the
    processes in turn. A forward pass takes one group, so its shape, and with it the rounding
    of every score, does not depend on the number of processes either.

    Args:
        rows: how many there are.
        group: rows per group; the last one may have fewer.
        batch: groups per batch of this process.
    """

    def __init__(
        self, rows: int, group: int, batch: int = 1, *, rank: int = 0, world_size: int = 1
    ) -> None:
        self.rows, self.group, self.batch = rows, group, batch
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.skip(())

    def skip(self, done: Collection[int]) -> None:
        """Skip the groups that begin at the rows ``done``, the same in all processes."""
        left = [first for first in range(0, self.rows, self.group) if first not in done]
        self.own = left[self.rank::self.world_size]

    def count_rows(self) -> int:
        """Return how many rows this process visits."""
        return sum(min(self.group, self.rows - first) for first in self.own)

    def set_epoch(self, epoch: int, start_iteration: int = 0) -> None:
        """Choose the epoch, on which random validation clips depend."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.own) // self.batch)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.epoch
        for i in range(0, len(self.own), self.batch):
            yield [
                (epoch, row) for first in self.own[i:i + self.batch]
                for row in range(first, min(first + self.group, self.rows))
            ]
