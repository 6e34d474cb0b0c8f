"""Calibration of draws: PIT under the exact posterior, ranks of the truth, TARP, coverage."""

import dataclasses

import numpy as np

from checks import statistics
from checks.estimates import Reported, known
from checks.posteriors import ExactPosteriors, OfSpectra
from checks.run import Run
from checks.skies import Skies
from checks.statistics import Coverage
from runtime.priors import FloatArray

LEVELS = (0.5, 0.68, 0.95)  # of the central credible intervals whose coverage is checked
PIT_DRAWS = 32  # draws per observation that enter the PIT: the exact CDF is what takes the time


@dataclasses.dataclass(frozen=True, eq=False)
class PitDistance(Reported):
    """Kolmogorov distance of PIT values from a uniform law.

    Attributes:
        value: Distance; over several columns their mean.
        error: Its scatter if the values were uniform.
        floor: Its mean then.
        num_values: Values in a column.
        per_ell: Distances of the columns, shape (n_ell,).
    """

    value: float
    error: float
    floor: float
    num_values: int | None = None
    per_ell: FloatArray | None = None

    @classmethod
    def of_spectra(cls, values: FloatArray) -> "PitDistance":
        """Of values of shape (n, m, n_ell).

        For draws of the exact posterior the values at one ell are uniform, and independent.
        """
        distance = statistics.ks_uniform(values.reshape(-1, values.shape[-1]))
        return cls(
            value=float(distance.value.mean()),
            error=float(distance.spread / np.sqrt(len(distance.value))),
            floor=float(distance.expected),
            num_values=len(values) * values.shape[1],
            per_ell=distance.value,
        )

    @classmethod
    def of_parameter(cls, values: FloatArray) -> "PitDistance":
        """Of values of shape (n, m)."""
        distance = statistics.ks_uniform(values.ravel())
        return cls(float(distance.value), float(distance.spread), float(distance.expected))


@dataclasses.dataclass(frozen=True, eq=False)
class SbcReport(Reported):
    """p-values of the ranks of the truth being uniform.

    Attributes:
        p_values: Per ell, shape (n_ell,).
        smallest_times_ell: The smallest, times their number, at most 1.
    """

    p_values: FloatArray
    smallest_times_ell: float


@dataclasses.dataclass(frozen=True)
class TarpReport(Reported):
    """p-value of the TARP ranks being uniform."""

    p_value: float


@dataclasses.dataclass(frozen=True)
class Calibration(Reported):
    """Calibration of draws of spectra; None where the exact posterior or ranks have no meaning.

    Attributes:
        pit_ks: Draws under the exact posterior.
        sbc: Ranks of the truth.
        tarp: Ranks of its distance to the observation.
        coverage: {level: of central credible intervals}, over all ell.
        width_of_spectrum: Root mean variance of draws over that of the exact posterior, (n_ell,).
    """

    pit_ks: PitDistance | None = None
    sbc: SbcReport | None = None
    tarp: TarpReport | None = None
    coverage: dict[float, Coverage] | None = None
    width_of_spectrum: FloatArray | None = None

    @property
    def worst_width(self) -> tuple[int, float] | None:
        """(ell, width over the exact one) where the two differ most; None where it is unknown."""
        if self.width_of_spectrum is None:
            return None
        k = int(np.abs(np.log(self.width_of_spectrum)).argmax())
        return 2 + k, float(self.width_of_spectrum[k])


@dataclasses.dataclass(frozen=True, eq=False)
class Curves:
    """Values in (0, 1) that are uniform for exact draws, shape (k,) each; None where unknown."""

    pit: FloatArray | None = None
    sbc: FloatArray | None = None
    tarp: FloatArray | None = None


def coverages(ranks: statistics.IntArray, m: int) -> dict[float, Coverage]:
    """Coverage at each of `LEVELS`, of ranks on 0 ... m, over all columns.

    A level whose interval would hold all draws is left out: m is too small for it.
    """
    found = {level: statistics.coverage(ranks, m, level) for level in LEVELS}
    return {level: each.mean() for level, each in found.items() if each.expected < 1}


def calibrate(run: Run, skies: Skies, exact: ExactPosteriors) -> tuple[Calibration, Curves]:
    """Calibration of a run, and the values behind it.

    Ranks are left out where the observations follow another prior than the run's.
    """
    draws = known(run.mean)[:, None] if run.draws is None else run.draws
    pit = None
    if isinstance(exact.x, OfSpectra):  # p(x | map) has no distribution function
        pit = exact.x.cdf(np.asarray(draws[:, :PIT_DRAWS]))
    distance = None if pit is None else PitDistance.of_spectra(pit)
    curve = None if pit is None else pit.ravel()
    width = None
    if run.draws is not None and exact.std is not None:
        width = np.sqrt(run.draws.var(1, ddof=1).mean(0) / (exact.std**2).mean(0))
    if run.draws is None or not skies.follow_prior_of(run):
        return Calibration(distance, width_of_spectrum=width), Curves(curve)
    m = draws.shape[1]
    ranks = statistics.sbc_ranks(known(skies.truth), draws)
    p = statistics.rank_uniformity(ranks, m)
    tarp = _tarp_ranks(draws, skies)
    report = Calibration(
        pit_ks=distance,
        sbc=SbcReport(p, float(min(1, p.min() * len(p)))),
        tarp=TarpReport(float(statistics.rank_uniformity(tarp, m))),
        coverage=coverages(ranks, m),
        width_of_spectrum=width,
    )
    # spread over their cell, ranks of an exact posterior are uniform on (0, 1)
    rng = np.random.default_rng(0)
    spread = [(values + rng.random(values.shape)) / (m + 1) for values in (ranks.ravel(), tarp)]
    return report, Curves(curve, *spread)


def _tarp_ranks(draws: FloatArray, skies: Skies) -> statistics.IntArray:
    """Ranks by the distance of log spectra to a point that depends on the data: the observation."""
    values = known(skies.truth)
    log_truth, log_y = np.log(values), np.log(skies.spectra)
    centre, width = log_truth.mean(0), log_truth.std(0)
    reference = (log_y - log_y.mean(0)) / log_y.std(0)
    truth, draws = ((np.log(dl) - centre) / width for dl in (values, draws))
    return statistics.tarp(truth, draws, reference)
