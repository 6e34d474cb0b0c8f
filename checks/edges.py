"""Draws that pile up at an edge of their prior, which then makes the answer."""

import dataclasses
from typing import Self

import numpy as np

from checks import minimums
from checks.estimates import Reported
from runtime.priors import FloatArray, Parameter

WINDOW = 0.5  # standard deviations of a posterior, in which the density at an edge is taken
PEAK = 4  # such windows, in which the density at the peak is: of one it would be chance
CUT = 0.5  # density at an edge, over that at the peak, from which on the edge cuts the posterior


def is_physical(parameter: Parameter) -> bool:
    """Whether the lower end of a range is none of the training's: there is no r below 0."""
    return parameter.name == "r" and parameter.low == 0


def edge_densities(draws: FloatArray, parameter: Parameter) -> FloatArray | None:
    """Density of each posterior at the two edges of its prior, over that at its peak.

    Windows are those of the posterior, not of the range: a narrow one near an edge is not cut.

    Args:
        draws: Shape (n, m).
        parameter: Name and range.

    Returns:
        Shape (n, 2); None of too few draws.
    """
    if draws.shape[1] < minimums.EDGE_DRAWS:
        return None
    place = np.clip((draws - parameter.low) / parameter.span, 0, 1)
    return np.array([_ratios(row) for row in place])


def _ratios(place: FloatArray) -> tuple[float, float]:
    """Of draws of one posterior, shape (m,), on 0 ... 1."""
    width, left = WINDOW * place.std(), np.sort(place)
    ends = np.searchsorted(left, left + PEAK * width, side="right")
    peak = float((ends - np.arange(len(left))).max()) / PEAK
    return float((place <= width).sum()) / peak, float((place >= 1 - width).sum()) / peak


@dataclasses.dataclass(frozen=True)
class Edges(Reported):
    """Which edges of the prior cut posteriors.

    Attributes:
        lower: Share of posteriors that the lower edge cuts; None where it is a physical bound.
        upper: Likewise, the upper one.
    """

    lower: float | None
    upper: float

    NULLABLE = ("lower",)

    @classmethod
    def of(cls, draws: FloatArray, parameter: Parameter) -> Self | None:
        """Of draws of shape (n, m); None of too few."""
        ratios = edge_densities(draws, parameter)
        if ratios is None:
            return None
        lower, upper = (ratios > CUT).mean(0).tolist()
        return cls(None if is_physical(parameter) else lower, upper)

    def describe(self, parameter: Parameter) -> str | None:
        """A loud sentence for one posterior; None where no edge cuts it."""
        ends = {"lower": (self.lower, parameter.low), "upper": (self.upper, parameter.high)}
        cut = [f"{side} edge {end:g}" for side, (share, end) in ends.items() if share]
        if not cut:
            return None
        return (
            f"warning: {parameter.name} piles up at the {' and the '.join(cut)} of the prior that "
            "the model was trained on: its estimate and limits are the prior's; train on a wider "
            "range"
        )
