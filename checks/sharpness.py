"""Sharpness: errors of a run's mean against the truth, beside those of the exact posterior mean."""

import dataclasses

import numpy as np

from checks import statistics
from checks.against_map import LostBySpectrum, MeanErrors, SpectrumAgainstMap, typical_r
from checks.estimates import Estimate, Reported, known
from checks.posteriors import ExactPosteriors
from checks.run import Run
from checks.skies import Skies
from checks.truth import attained_share, correlation, is_echo, verdict
from runtime.priors import FloatArray


@dataclasses.dataclass(frozen=True, eq=False)
class Sharpness(Reported):
    """Errors of a run's mean, in units of the skies' scale squared and averaged over ell.

    Attributes:
        mse: Mean squared error.
        shuffled_mse: The same where each observation is that of another sky.
        shuffled_minus_mse: Their difference.
        correlation: With the truth, shape (n_ell,).
        attained_share: Of the attainable correlation.
        echo: Whether that is too small to be told from a draw from the prior; None of few skies.
        r2: 1 - MSE / variance of the truth, shape (n_ell,).
        r2_error: Its standard error.
        slope: Of the regression on the observation, shape (n_ell,).
        slope_error: Its standard error.
        verdict: One or two sentences.
        r2_gap: Expectation of r2_limit - r2, without the scatter of truth and draws; only where
            the skies follow the run's prior, for else the truth varies less than that says.
        r2_gap_error: Its standard error.
        excess_percent: E|mean - exact mean|^2 in percent of the exact posterior's variance, after
            the variance that a finite number of draws adds to their mean has been taken off.
        r2_limit: r2 of the exact posterior mean.
        slope_limit: slope of the exact posterior mean.
        crps_skill: 1 - CRPS / CRPS of draws from the prior.
        map: Errors beside those of E[D_ell | map], by multipole; None of the full sky.
    """

    mse: Estimate
    shuffled_mse: Estimate
    shuffled_minus_mse: Estimate
    correlation: FloatArray
    attained_share: Estimate
    echo: bool | None
    r2: FloatArray
    r2_error: FloatArray
    slope: FloatArray
    slope_error: FloatArray
    verdict: str
    r2_gap: FloatArray | None = None
    r2_gap_error: FloatArray | None = None
    excess_percent: Estimate | None = None
    r2_limit: FloatArray | None = None
    slope_limit: FloatArray | None = None
    crps_skill: Estimate | None = None
    map: SpectrumAgainstMap | None = None

    NULLABLE = ("echo",)


def squared_error(estimates: FloatArray, truth: FloatArray, scale: FloatArray) -> FloatArray:
    """Squared error of each row in units of scale^2, mean over ell, shape (n,)."""
    return np.square((estimates - truth) / scale).mean(1)


def response(estimates: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(slope, error) of the regression of an estimate on the observation, each (n_ell,)."""
    y, estimates = y - y.mean(0), estimates - estimates.mean(0)
    slope = (y * estimates).sum(0) / (y**2).sum(0)
    return slope, np.sqrt(((estimates - slope * y) ** 2).sum(0) / (len(y) - 2) / (y**2).sum(0))


def baselines(skies: Skies, exact: ExactPosteriors) -> dict[str, Estimate]:
    """Mean squared errors of estimates that need no network; the skies must have a scale."""
    y, truth, scale = skies.spectra, known(skies.truth), known(skies.scale)
    others = np.roll(truth, 1, 0)  # the truth of another sky is a draw from the prior
    estimates = {"raw observation": y, "prior mean": truth.mean(0), "fresh prior draw": others}
    if exact.N is not None:
        estimates["noise-debiased observation"] = y - exact.N - exact.F
    if exact.mean is not None:
        estimates["exact posterior mean"] = exact.mean
    return {
        name: Estimate.mean(squared_error(value, truth, scale)) for name, value in estimates.items()
    }


def sharpness(run: Run, skies: Skies, exact: ExactPosteriors) -> Sharpness:
    """Errors of a run; the skies must have a scale."""
    truth, scale, n = known(skies.truth), known(skies.scale), len(skies)
    mean = known(run.mean)
    corr = correlation(mean, truth)
    limit = None if exact.mean is None else correlation(exact.mean, truth)
    errors = squared_error(mean, truth, scale)
    shuffled = squared_error(np.roll(mean, 1, 0), truth, scale)
    # of the prior that the run was trained on, as in sample.py
    mean_dl = truth.mean(0) if run.prior.mean_dl is None else run.prior.mean_dl
    prior_mean = squared_error(mean_dl, truth, scale)
    share = attained_share(corr, limit, n)
    variance = truth.var(0)
    slope, slope_error = response(mean, skies.spectra)
    report = Sharpness(
        mse=Estimate.mean(errors),
        shuffled_mse=Estimate.mean(shuffled),
        shuffled_minus_mse=Estimate.mean(shuffled - errors),
        correlation=corr,
        attained_share=share,
        echo=is_echo(share),
        r2=1 - np.square(mean - truth).mean(0) / variance,
        r2_error=np.square(mean - truth).std(0) / variance / n**0.5,
        slope=slope,
        slope_error=slope_error,
        verdict=verdict(corr, limit, n, 1 - errors.mean() / prior_mean.mean()),
    )
    if exact.mean is not None:
        report = _beside_exact(report, run, skies, exact)
    if run.draws is not None:
        skill = _crps_skill(np.asarray(run.draws), truth, scale)
        report = dataclasses.replace(report, crps_skill=skill)
    return report


def _beside_exact(report: Sharpness, run: Run, skies: Skies, exact: ExactPosteriors) -> Sharpness:
    """The report with what takes the exact posterior mean."""
    truth, n, scale = known(skies.truth), len(skies), known(skies.scale)
    variance = truth.var(0)
    exact_mean, exact_std = known(exact.mean), known(exact.std)
    noise: FloatArray | float = 0
    noise = noise if run.draws is None else run.draws.var(1, ddof=1) / run.draws.shape[1]
    distance = np.square(known(run.mean) - exact_mean) - noise
    if skies.follow_prior_of(run):
        report = dataclasses.replace(
            report,
            r2_gap=distance.mean(0) / variance,
            r2_gap_error=distance.std(0) / variance / n**0.5,
        )
    excess = (distance / scale**2).mean(1)
    given_map = None
    if exact.information is not None:
        own = np.square(known(run.mean) - truth) - noise
        errors = MeanErrors(own, np.square(exact_mean - truth), distance, exact_std**2)
        r = typical_r(exact.r, run.prior.r)
        lost = LostBySpectrum.of(exact.information, r, scale)
        given_map = SpectrumAgainstMap.of(errors, lost)
    return dataclasses.replace(
        report,
        excess_percent=Estimate.mean(100 * excess / np.square(exact_std / scale).mean()),
        r2_limit=1 - np.square(exact_mean - truth).mean(0) / variance,
        slope_limit=response(exact_mean, skies.spectra)[0],
        map=given_map,
    )


def _crps_skill(draws: FloatArray, truth: FloatArray, scale: FloatArray) -> Estimate:
    """1 - CRPS / CRPS of as many draws from the prior."""
    rng, m = np.random.default_rng(0), draws.shape[1]
    fresh = np.stack([truth[rng.permutation(len(truth))] for _ in range(m)], 1)
    prior = (statistics.crps(truth, fresh) / scale).mean(1)
    own = (statistics.crps(truth, draws) / scale).mean(1)
    # the prior's score belongs to the data: only the difference has a Monte-Carlo error
    return Estimate.mean((prior - own) / prior.mean())
