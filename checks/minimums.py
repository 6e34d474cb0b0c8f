"""How many rows or draws a statistic takes: with fewer it is unknown and judges nothing."""

import math

ROWS = {  # independent rows that a number takes
    "another sky": 2,
    "a standard error": 10,
    "correlations": 10,
    "a distance from the law": 10,
    "a bin of r": 5,
}
DRAWS = 16  # of each posterior, where many are judged together
EDGE_DRAWS = 50  # whose pile at an edge of the prior is told from chance
SHARE_ERROR = 0.15  # of the attainable correlation: of more, a perfect output passes for an echo


def rows_for_share(norm: float) -> int:
    """Rows whose share of the attainable correlation has a standard error of SHARE_ERROR.

    Args:
        norm: Sum over multipoles of the squared attainable correlation.
    """
    return max(ROWS["correlations"], math.ceil(1 / (norm * SHARE_ERROR**2)))


def quantile_draws(level: float) -> int:
    """Draws of which one is expected beyond a quantile: 20 for a 95 % limit, 7 for 84 %."""
    return math.ceil(round(1 / min(level, 1 - level), 9))


def too_few(n: int, needed: int, what: str) -> str:
    """The sentence that stands where a number is left out."""
    return f"n = {n}: too few for {what}; {needed} are needed"
