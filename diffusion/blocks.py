"""Rows cut into blocks, which any process can compute, and blocks into batches with own seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

BATCH_ROWS, GPU_BATCH_ROWS = 1024, 65536  # at NSIDE 16: what fits the cache, what keeps a GPU busy
LEAST_BATCH_ROWS = 128  # what weights are read for


def default_batch_size(device: torch.device, n_dim: int) -> int:
    """Rows of n_dim columns to integrate together on a device."""
    rows = BATCH_ROWS if device.type == "cpu" else GPU_BATCH_ROWS
    return min(rows, max(LEAST_BATCH_ROWS, 32 * rows // n_dim))


def batch_seed(seed: int, batch: int) -> int:
    """Seed of a batch, another for each: hashes of 32 bits, all that a CPU takes, would meet."""
    base = int(np.random.SeedSequence(seed).generate_state(1, np.uint32)[0])
    return (base + batch) % 2**32


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Rows cut into blocks of whole observations, and those into batches.

    A batch is what is integrated together, and has its own stream of random numbers: which rows
    it holds depends on nothing but these numbers, so that any process can compute any block.

    Attributes:
        num_samples: Observations, or spectra to generate.
        num_draws: Rows of each.
        batch_size: Largest number of rows of a batch.
    """

    num_samples: int
    num_draws: int
    batch_size: int

    @property
    def per_block(self) -> int:
        """Observations in a block: as many as there are and fit a batch, or one."""
        return min(self.num_samples, max(1, self.batch_size // self.num_draws))

    @property
    def batches_per_block(self) -> int:
        """More than one where the draws of a single observation do not fit a batch."""
        return -(-self.num_draws * self.per_block // self.batch_size)

    def __len__(self) -> int:
        return -(-self.num_samples // self.per_block)

    def observations(self, block: int) -> slice:
        """Slice of the observations of a block."""
        first = block * self.per_block
        return slice(first, min(first + self.per_block, self.num_samples))

    def owners(self, rows: slice) -> torch.Tensor:
        """Numbers within a block of the observations of some of its rows, shape (n,)."""
        import torch

        return torch.arange(rows.start, rows.stop) // self.num_draws

    def batches(self, block: int) -> Iterator[tuple[int, slice]]:
        """(number, rows) of each batch of a block, the rows a slice of the block's rows."""
        chosen = self.observations(block)
        rows = (chosen.stop - chosen.start) * self.num_draws
        for k, first in enumerate(range(0, rows, self.batch_size)):
            last = min(first + self.batch_size, rows)
            yield block * self.batches_per_block + k, slice(first, last)
