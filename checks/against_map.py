"""Runs on spectra of part of the sky against the exact answer that the maps give.

The spectrum y holds less than its map, so that two losses stand between a run and that answer: what
y lost against the map, and what the run lost against y. The first is known for r: at each r the
Fisher limits of spectrum and map have a ratio, and over the posterior of a sky it has a mean,
    w = E[sigma_y(r) / sigma_map(r) | map],
which is what y itself makes of the width. The means of the two posteriors then differ by
(w^2 - 1)^(1/2) in sigma of the map, for the variances are var(r | y) = E[var(r | map) | y] +
var(E[r | map] | y).
"""

import dataclasses

import numpy as np

from checks import minimums
from checks.estimates import Estimate, Reported
from checks.exact_r import GridPosterior
from checks.map_information import Limits, MapInformation
from runtime.priors import FloatArray

WIDTH_BINS = 4  # of the true r
REPEATS = 32  # of draws from exact posteriors, for the median of their scatter
NUM_TYPICAL = 16  # values of r that stand for those of all skies


def in_bins(truth: FloatArray, num_bins: int) -> list[np.ndarray]:
    """Which rows lie in each bin of r, boolean, shape (n,): equal bins of its range, none empty."""
    edges = np.linspace(truth.min(), truth.max(), num_bins + 1)
    index = np.clip(np.searchsorted(edges, truth, side="right") - 1, 0, num_bins - 1)
    return [index == k for k in np.unique(index)]


def median_ratio(values: FloatArray, others: FloatArray) -> Estimate:
    """Median of values over others, of the same rows, shape (n,) each."""
    ratio = values / others
    order = np.sqrt(len(ratio)) / 2  # standard error of the rank of a median
    middle = np.quantile(ratio, 0.5 + np.array([-1, 1]) * order / len(ratio))
    return Estimate(float(np.median(ratio)), float(np.ptp(middle) / 2))


def finite_draws(exact: GridPosterior, m: int) -> FloatArray:
    """Median standard deviation of m exact draws over that of their law, shape (n,).

    It is below 1, and more so the more skew a law is: by 3 % for 48 draws at an edge of the prior.
    """
    rng = np.random.default_rng(0)
    drawn = [exact.rvs(m, rng).std(1, ddof=1) for _ in range(REPEATS)]
    return np.median(drawn, axis=0) / exact.std()


# --- r ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class LimitRow(Reported):
    """Fisher limits at one r, and a rule that people use; see `map_information.Limits`.

    Attributes:
        map: Of the map.
        spectrum: Of its spectrum.
        rule_of_thumb: Full sky over the root of f_sky: no limit, on part of the sky it is wrong.
        rule_over_map: How wrong.
    """

    map: float
    spectrum: float
    rule_of_thumb: float
    rule_over_map: float

    @classmethod
    def at(cls, r: float, information: MapInformation) -> "LimitRow":
        """That of one r."""
        found: Limits = information.limits(np.array([r]))
        of_map, spectrum, rule = (
            float(each[0]) for each in (found.map, found.spectrum, found.rule_of_thumb)
        )
        return cls(of_map, spectrum, rule, rule / of_map)


@dataclasses.dataclass(frozen=True)
class WidthRow(Reported):
    """Skies in one bin of the true r.

    Attributes:
        r_low: Smallest true r.
        r_high: Largest.
        num: Number of skies.
        width_ratio: Median of sigma over that of p(r | map), see `finite_draws`.
        width_of_spectrum: Median of what y itself makes of it.
        rms_error_ratio: Root mean square error of the posterior mean over that of the map's, of the
            same skies, without what the mean of finite draws scatters.
    """

    r_low: float
    r_high: float
    num: int
    width_ratio: Estimate
    width_of_spectrum: float
    rms_error_ratio: Estimate


@dataclasses.dataclass(frozen=True)
class RAgainstMap(Reported):
    """Draws of r against p(r | map).

    Attributes:
        width_ratio: As `WidthRow.width_ratio`, of all skies.
        width_of_spectrum: What y itself makes of the width, median over skies.
        rms_deviation_of_spectrum: What it makes of the mean, root mean square in sigma of the map.
        rms_error_ratio: As `WidthRow.rms_error_ratio`, of all skies.
        widths: In bins of the true r.
    """

    width_ratio: Estimate
    width_of_spectrum: float
    rms_deviation_of_spectrum: float
    rms_error_ratio: Estimate
    widths: list[WidthRow]

    @classmethod
    def of(
        cls, draws: FloatArray, truth: FloatArray, exact: GridPosterior, information: MapInformation
    ) -> "RAgainstMap":
        """Of draws of shape (n, m), and true r, shape (n,)."""
        std = draws.std(1, ddof=1)
        exact_std = exact.std() * finite_draws(exact, draws.shape[1])
        errors = (draws.mean(1) - truth) ** 2 - std**2 / draws.shape[1]
        exact_errors = (exact.mean() - truth) ** 2
        loss = exact.expect(information.loss(exact.r))
        smallest = minimums.ROWS["a standard error"]

        def row(inside: np.ndarray) -> WidthRow:
            return WidthRow(
                r_low=float(truth[inside].min()),
                r_high=float(truth[inside].max()),
                num=int(inside.sum()),
                width_ratio=median_ratio(std[inside], exact_std[inside]),
                width_of_spectrum=float(np.median(loss[inside])),
                rms_error_ratio=Estimate.ratio(errors[inside], exact_errors[inside]).root(),
            )

        return cls(
            width_ratio=median_ratio(std, exact_std),
            width_of_spectrum=float(np.median(loss)),
            rms_deviation_of_spectrum=float(np.sqrt(np.mean(loss**2 - 1).clip(0))),
            rms_error_ratio=Estimate.ratio(errors, exact_errors).root(),
            widths=[row(k) for k in in_bins(truth, WIDTH_BINS) if k.sum() >= smallest],
        )


# --- the spectrum ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class SpectrumAgainstMap(Reported):
    """A run's mean of D_ell against E[D_ell | map], by multipole, shape (n_ell,) each.

    Attributes:
        squared_error_ratio: Mean squared error over that of the map's mean, of the same skies,
            without what the mean of finite draws scatters.
        squared_error_ratio_error: Its standard error.
        excess_percent: The same less 1, by the mean squared distance of the two means over the
            variance of p(D_ell | map), which the scatter of the truth does not blur.
        excess_percent_error: Its standard error.
        excess_of_spectrum: What y itself makes of it: by the best estimate that is linear in y,
            and knows r, at most.
        mean_excess_of_spectrum: Of `Sharpness.excess_percent`, that of all multipoles.
    """

    squared_error_ratio: FloatArray
    squared_error_ratio_error: FloatArray
    excess_percent: FloatArray
    excess_percent_error: FloatArray
    excess_of_spectrum: FloatArray
    mean_excess_of_spectrum: float

    @classmethod
    def of(cls, errors: "MeanErrors", lost: "LostBySpectrum") -> "SpectrumAgainstMap":
        """Of the errors of a run, and what the spectrum loses."""
        pairs = ((errors.own, errors.exact), (100 * errors.distance, errors.variance))
        found = [list(map(Estimate.ratio, a.T, b.T)) for a, b in pairs]
        ratio, excess = [np.array([e.value for e in part]) for part in found]
        ratio_error, excess_error = [np.array([e.error for e in part]) for part in found]
        return cls(ratio, ratio_error, excess, excess_error, lost.percent, lost.mean_percent)


@dataclasses.dataclass(frozen=True, eq=False)
class MeanErrors:
    """Of the mean of D_ell, shape (n, n_ell) each, uK^4.

    Attributes:
        own: Squared, of the run, less what the mean of finite draws scatters.
        exact: Squared, of E[D_ell | map].
        distance: Of the two means, squared, less the same.
        variance: Of p(D_ell | map).
    """

    own: FloatArray
    exact: FloatArray
    distance: FloatArray
    variance: FloatArray


@dataclasses.dataclass(frozen=True, eq=False)
class LostBySpectrum:
    """What y loses of E[D_ell | map], over the variance of p(D_ell | map), at most.

    Attributes:
        percent: Shape (n_ell,).
        mean_percent: Of all multipoles, in units of the skies' scale.
    """

    percent: FloatArray
    mean_percent: float

    @classmethod
    def of(cls, information: MapInformation, r: FloatArray, scale: FloatArray) -> "LostBySpectrum":
        """Mean over skies of these r, shape (k,); scale of shape (n_ell,), uK^2."""
        parts = [information.lost_of_mean(float(value), len(scale)) for value in r]
        lost, left = np.mean(parts, axis=0)
        mean = float((lost / scale**2).mean() / (left / scale**2).mean())
        return cls(100 * lost / left, 100 * mean)


def typical_r(exact: GridPosterior | None, r: float | None) -> FloatArray:
    """r of all skies together, by their posteriors: the middles of equal shares; or the one r."""
    if exact is None:
        return np.array([r], float)
    shares = (np.arange(NUM_TYPICAL) + 0.5) / NUM_TYPICAL
    return np.quantile(exact.quantile(shares), shares)
