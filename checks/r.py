"""Draws of r against the truth and, where it is known, the exact p(r | y)."""

import dataclasses

import numpy as np

from checks import minimums, statistics
from checks.against_map import LimitRow, RAgainstMap, in_bins, median_ratio
from checks.calibration import PitDistance, coverages
from checks.estimates import SIGMAS, Estimate, Reported, known
from checks.exact_r import GridPosterior, ObservationModel, RPosterior, fisher_sigma
from checks.noncentral import degrees
from checks.posteriors import ExactPosteriors
from checks.run import Run
from checks.skies import Skies
from checks.statistics import Coverage
from runtime.priors import FloatArray

R_BINS = 5


@dataclasses.dataclass(frozen=True)
class UpperLimit(Reported):
    """Upper limits on r of one credible level, over the skies; exact ones where these are known."""

    median: float
    mean: float
    quantiles_16_84: list[float]
    exact_median: float | None = None
    exact_mean: float | None = None


@dataclasses.dataclass(frozen=True)
class AgainstExact(Reported):
    """Draws of r against the exact posterior, of part of the sky p(r | map).

    Attributes:
        exact_bias_truth: As `RReport.bias_truth`, of the exact posterior.
        bias: Mean of the posterior mean minus the exact one, in units of the exact sigma.
        rms_deviation: Its root mean square, without what the mean of finite draws scatters.
        width_ratio: Median of sigma over the exact one.
        pit_ks: Draws under the exact posterior; None given a map, of which y holds less.
        map: What of this is the loss of y; None of the full sky.
    """

    exact_bias_truth: Estimate
    bias: Estimate
    rms_deviation: Estimate
    width_ratio: Estimate
    pit_ks: PitDistance | None = None
    map: RAgainstMap | None = None


@dataclasses.dataclass(frozen=True)
class SigmaRow(Reported):
    """sigma(r) of the skies in one bin of the true r.

    Attributes:
        r: Mean true r.
        num: Number of skies.
        sigma: Root mean square of the posterior's sigma.
        error: Its standard error.
        exact: The same of the exact posterior; None where that is unknown.
        fisher: Fisher limit at r, of part of the sky that of the map; None where the contaminants
            are unknown.
        limit: The smallest sigma that is possible; likewise.
        bias: Of the posterior mean, in units of the posterior's own sigma.
        rms_error: Root mean square error of the posterior mean.
        rms_error_error: Its standard error.
        limits: Fisher limits of part of the sky; None of the full sky.
    """

    r: float
    num: int
    sigma: float
    error: float
    exact: float | None
    fisher: float | None
    limit: float | None
    bias: Estimate
    rms_error: float
    rms_error_error: float
    limits: LimitRow | None = None

    NULLABLE = ("exact", "fisher", "limit")


@dataclasses.dataclass(frozen=True)
class RReport(Reported):
    """A run's draws of r.

    Attributes:
        bias_truth: Bias of the posterior mean in units of the posterior's own sigma: 0 over the
            prior, for an exact posterior, but above 0 at the lower edge of it.
        mean_r: Mean of the posterior mean.
        mean_sigma: Mean of the posterior's sigma.
        upper_limit_68: Of skies with r = 0 it is what LiteBIRD calls sigma(r = 0) (PTEP 2023,
            arXiv:2202.02773).
        upper_limit_95: Likewise; None of too few draws.
        against_exact: Where the exact posterior is known.
        sbc_p: p-value of the ranks of the truth, where it follows the run's prior.
        coverage: {level: of central credible intervals}, likewise.
        sigma: In bins of the true r.
    """

    bias_truth: Estimate
    mean_r: Estimate
    mean_sigma: Estimate
    upper_limit_68: UpperLimit | None
    upper_limit_95: UpperLimit | None
    against_exact: AgainstExact | None
    sbc_p: float | None
    coverage: dict[float, Coverage] | None
    sigma: list[SigmaRow]

    FLAT = ("against_exact",)
    NULLABLE = ("upper_limit_68", "upper_limit_95")


@dataclasses.dataclass(frozen=True, eq=False)
class _Moments:
    """Mean and standard deviation of the draws of each sky beside its true r, shape (n,) each."""

    truth: FloatArray
    mean: FloatArray
    std: FloatArray

    @property
    def bias(self) -> FloatArray:
        """In units of the posterior's own sigma."""
        return (self.mean - self.truth) / self.std


def r_report(run: Run, skies: Skies, exact: ExactPosteriors) -> RReport:
    """Report on a run with draws of r; the true r must be known."""
    draws, truth = known(run.r), known(skies.r)
    moments = _Moments(truth, draws.mean(1), draws.std(1, ddof=1))
    sbc_p = coverage = None
    if np.ptp(truth) > 0 and skies.follow_prior_of(run):  # no ranks at one r
        ranks = statistics.sbc_ranks(truth, draws)
        sbc_p = float(statistics.rank_uniformity(ranks, draws.shape[1]))
        coverage = coverages(ranks, draws.shape[1])
    return RReport(
        bias_truth=Estimate.mean(moments.bias),
        mean_r=Estimate.mean(moments.mean),
        mean_sigma=Estimate.mean(moments.std),
        upper_limit_68=upper_limit(draws, 0.68, exact.r),
        upper_limit_95=upper_limit(draws, 0.95, exact.r),
        against_exact=None if exact.r is None else _against_exact(draws, moments, exact, exact.r),
        sbc_p=sbc_p,
        coverage=coverage,
        sigma=_sigma_table(moments, exact),
    )


def upper_limit(draws: FloatArray, level: float, exact: GridPosterior | None) -> UpperLimit | None:
    """Upper limits on r over the skies, of draws of shape (n, m); None of too few draws."""
    if draws.shape[1] < minimums.quantile_draws(level):
        return None
    # Weibull: another draw is below it with this probability, however few they are
    limits = np.quantile(draws, level, axis=1, method="weibull")
    quantiles = np.quantile(limits, [0.16, 0.84]).tolist()
    found = UpperLimit(float(np.median(limits)), float(limits.mean()), quantiles)
    if exact is None:
        return found
    limits = exact.quantile(np.array([level]))
    median, mean = float(np.median(limits)), float(limits.mean())
    return dataclasses.replace(found, exact_median=median, exact_mean=mean)


def width_ratio(draws: FloatArray, exact: GridPosterior) -> Estimate:
    """Median over skies of the width of draws of r, shape (n, m), over that of the exact posterior.

    A standard deviation of m draws is too small by about 1/(4 m) by itself.
    """
    return median_ratio(draws.std(1, ddof=1), exact.std())


def _against_exact(
    draws: FloatArray, moments: _Moments, exact: ExactPosteriors, of_r: GridPosterior
) -> AgainstExact:
    exact_mean, exact_std = of_r.mean(), of_r.std()
    deviation = (moments.mean - exact_mean) / exact_std
    # what the mean of m draws scatters by itself is no error of the method
    excess = Estimate.mean(deviation**2 - (moments.std / exact_std) ** 2 / draws.shape[1])
    pit = given_map = None
    if exact.information is None:
        pit = PitDistance.of_parameter(of_r.cdf(draws))
    else:
        given_map = RAgainstMap.of(draws, moments.truth, of_r, exact.information)
    return AgainstExact(
        exact_bias_truth=Estimate.mean((exact_mean - moments.truth) / exact_std),
        bias=Estimate.mean(deviation),
        rms_deviation=excess.root(),
        width_ratio=width_ratio(draws, of_r),
        pit_ks=pit,
        map=given_map,
    )


def simulated_std(r_true: FloatArray, model: ObservationModel) -> FloatArray:
    """Standard deviations of exact posteriors of r on other skies of these r, shape (n,).

    The skies have the mean contaminants that are known: what an observation can tell of r at best,
    edges of the prior included, where its own law is unknown.
    """
    C = model.signal(r_true) + model.N
    nu = degrees(C.shape[1])
    y = np.random.default_rng(0).noncentral_chisquare(nu, nu * model.F / C) * C / nu
    return RPosterior(y, model).std()


def _sigma_table(moments: _Moments, exact: ExactPosteriors) -> list[SigmaRow]:
    """sigma(r) in bins of the true r, beside the exact posterior's and the Fisher limit.

    At the edges of the prior a posterior is narrower than the Fisher limit, which knows of no
    edge: there the exact posterior is the limit, or where that is unknown one of simulated skies.
    """
    reference, truth = None, moments.truth
    if exact.r is not None:
        reference = exact.r.std()
    elif exact.model is not None:
        reference = simulated_std(truth, exact.model)
    smallest = minimums.ROWS["a bin of r"]
    bins = (inside for inside in in_bins(truth, R_BINS) if inside.sum() >= smallest)
    return [_sigma_row(moments, inside, exact, reference) for inside in bins]


def _sigma_row(
    moments: _Moments,
    inside: np.ndarray,
    exact: ExactPosteriors,
    reference: FloatArray | None,
) -> SigmaRow:
    sigma = Estimate.root_mean(moments.std[inside] ** 2)
    rms = Estimate.root_mean((moments.mean - moments.truth)[inside] ** 2)
    centre = float(moments.truth[inside].mean())
    best = fisher = limit = limits = None
    if exact.information is not None:
        limits = LimitRow.at(centre, exact.information)
        fisher = limits.map
    elif exact.model is not None:
        model = exact.model
        fisher = float(fisher_sigma(model.signal, model.N, centre, model.F))
    if reference is not None and fisher is not None:
        found = Estimate.root_mean(reference[inside] ** 2)
        if exact.r is not None:
            best = found.value
        limit = min(fisher, found.value if best is not None else found.value - SIGMAS * found.error)
    return SigmaRow(
        r=centre,
        num=int(inside.sum()),
        sigma=sigma.value,
        error=sigma.error,
        exact=best,
        fisher=fisher,
        limit=limit,
        bias=Estimate.mean(moments.bias[inside]),
        rms_error=rms.value,
        rms_error_error=rms.error,
        limits=limits,
    )
