"""How a batch is shared among threads, each of which takes rows of its own through the network.

Threads that share a product wait for the slowest at every product, which is long where another
program has its core; these wait once a step. What they add up depends on their number, to rounding.
"""

import math

MIN_ROWS = 256  # of a thread; fewer gain nothing by a second one
MIN_WORK = 2**20  # multiply-adds of a layer, below which a second thread costs what it gains


def threads_that_pay(rows: int, hidden_dim: int) -> int:
    """Threads that make a step faster, by the size of its products alone.

    Their number grows as the root of the size, and what each has to do with it.

    Args:
        rows: Of a batch, in this process.
        hidden_dim: Width of the network.
    """
    return max(1, min(rows // MIN_ROWS, math.isqrt(rows * hidden_dim**2 // MIN_WORK)))


def cut(first: int, rows: int, parts: int) -> list[slice]:
    """`rows` rows from `first` on in parts, none empty, that differ by a row at most."""
    parts = min(parts, rows)
    edges = [first + rows * part // parts for part in range(parts + 1)]
    return [slice(*pair) for pair in zip(edges[:-1], edges[1:], strict=True)]
