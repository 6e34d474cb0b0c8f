"""Statistics that tell whether draws follow the posterior that they claim to follow."""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from checks.estimates import Reported
from runtime.priors import FloatArray

IntArray = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, eq=False)
class UniformDistance:
    """Kolmogorov distance of values from the uniform law on [0, 1].

    Attributes:
        value: The distance, shape () or (k,).
        expected: Its mean if the values were uniform (Kolmogorov's limit; its error of order 1/n
            is removed).
        spread: Its standard deviation then.
    """

    value: Any
    expected: float
    spread: float


def ks_uniform(u: FloatArray) -> UniformDistance:
    """Kolmogorov distance of values from the uniform law on [0, 1].

    Args:
        u: Shape (n,) or (n, k): independent along the first axis, each column on its own.
    """
    u = np.sort(u, axis=0)
    n = len(u)
    above = np.arange(1, n + 1).reshape(-1, *(1,) * (u.ndim - 1)) / n
    distance = np.maximum(above - u, u - above + 1 / n).max(axis=0)
    mean = np.sqrt(np.pi / 2) * np.log(2)
    std = np.sqrt(np.pi**2 / 12 - mean**2)
    return UniformDistance(distance, mean / np.sqrt(n) - 1 / (6 * n), std / np.sqrt(n))


def sbc_ranks(truth: FloatArray, draws: FloatArray, seed: int = 0) -> IntArray:
    """Number of draws below the truth: uniform on 0 ... num_draws for exact posterior draws.

    Simulation-based calibration, Talts et al. (2018, arXiv:1804.06788). Draws from the prior pass
    it too, whatever the observation: see `tarp`.

    Args:
        truth: Shape (n,) or (n, k).
        draws: Shape (n, num_draws) or (n, num_draws, k).
        seed: Of the order into which ties are put at random.

    Returns:
        Ranks of truth's shape.
    """
    truth = np.expand_dims(truth, 1)
    ties = (draws == truth).sum(axis=1)
    return (draws < truth).sum(axis=1) + np.random.default_rng(seed).integers(ties + 1)


def tarp(truth: FloatArray, draws: FloatArray, reference: FloatArray, seed: int = 0) -> IntArray:
    """Number of draws closer to a reference point than the truth is: ranks, uniform if exact.

    Tests of accuracy with random points, Lemos et al. (2023, arXiv:2302.03026). The point may
    depend on the observation, and must to tell an echo of the prior from a posterior.

    Args:
        truth: Shape (n, k), in a space whose Euclidean distance means something.
        draws: Shape (n, num_draws, k).
        reference: Shape (n, k).
        seed: Of the order of ties.

    Returns:
        Ranks on 0 ... num_draws, shape (n,).
    """
    distance = np.linalg.norm(draws - reference[:, None], axis=-1)
    return sbc_ranks(np.linalg.norm(truth - reference, axis=-1), distance, seed)


def rank_uniformity(ranks: IntArray, num_draws: int) -> Any:
    """p-value of ranks, shape (n,) or (n, k), being uniform on 0 ... num_draws; shape () or (k,).

    Chi-square over at most 20 bins that hold 10 ranks or more, with their exact probabilities.
    """
    from scipy import stats

    n = len(ranks)
    num_bins = max(2, min(20, num_draws + 1, n // 10))
    share = np.bincount(np.arange(num_draws + 1) * num_bins // (num_draws + 1)) / (num_draws + 1)
    bins = np.asarray(ranks) * num_bins // (num_draws + 1)
    expected = n * share
    terms = [((bins == b).sum(axis=0) - e) ** 2 / e for b, e in enumerate(expected)]
    return stats.chi2.sf(sum(terms), num_bins - 1)


def expected_coverage(ranks: IntArray, num_draws: int) -> tuple[FloatArray, FloatArray]:
    """Credible levels and the fraction of ranks, shape (n,), below each: equal if calibrated."""
    counts = np.bincount(ranks, minlength=num_draws + 1)
    return np.arange(1, num_draws + 2) / (num_draws + 1), np.cumsum(counts) / len(ranks)


@dataclasses.dataclass(frozen=True, eq=False)
class Coverage(Reported):
    """How often the truth lies in a credible interval of its draws.

    Attributes:
        value: Observed fraction, shape () or (k,).
        expected: For draws of the exact posterior.
        error: Standard error of value.
    """

    value: Any
    expected: float
    error: float

    def mean(self) -> "Coverage":
        """Of all columns, taken as independent."""
        error = float(self.error / np.sqrt(np.size(self.value)))
        return Coverage(float(np.mean(self.value)), float(self.expected), error)


def coverage(ranks: IntArray, num_draws: int, level: float) -> Coverage:
    """How often the truth lies in the central interval of its draws.

    Args:
        ranks: From `sbc_ranks`, shape (n,) or (n, k).
        num_draws: Number of draws.
        level: Probability wanted; the nearest that symmetric ranks can have is taken.
    """
    cut = min(round((num_draws + 1) * (1 - level) / 2), num_draws // 2)
    expected = (num_draws + 1 - 2 * cut) / (num_draws + 1)
    inside = (ranks >= cut) & (ranks <= num_draws - cut)
    error = np.sqrt(expected * (1 - expected) / len(ranks))
    return Coverage(inside.mean(axis=0), expected, error)


def crps(truth: FloatArray, draws: FloatArray) -> FloatArray:
    """Continuous ranked probability score, E|X - truth| - E|X - X'| / 2, estimated without bias.

    Gneiting & Raftery (2007, JASA 102, 359), eq. 21; the fair estimate of Ferro (2014, QJRMS 140,
    1917) has the same mean for any number of draws above 1. Smaller is better.

    Args:
        truth: Shape (n,) or (n, k).
        draws: Shape (n, num_draws) or (n, num_draws, k).

    Returns:
        Scores of truth's shape, in its unit.
    """
    m = draws.shape[1]
    order = 2 * np.arange(1, m + 1) - m - 1
    spread = np.moveaxis(np.sort(draws, axis=1), 1, -1) @ order / (m * (m - 1))
    return np.abs(draws - np.expand_dims(truth, 1)).mean(axis=1) - spread
