"""One run against the truth and the exact posterior: sharpness, calibration, r, verdicts."""

import numpy as np

from checks import metrics, statistics, verdicts
from checks.exact import (
    FixedForegroundPosterior,
    GaussianPosterior,
    MarginalPosterior,
    RPosterior,
    degrees,
    fisher_sigma,
)
from runtime import records

LEVELS = (0.5, 0.68, 0.95)  # of the central credible intervals whose coverage is checked
LOW_ELL = 8  # response slopes are judged up to here: above, almost nothing can be denoised
PIT_DRAWS = 32  # draws per observation that enter the PIT: the exact CDF is what takes the time
R_BINS = 5
SIGMAS = 3  # a difference counts where it is this many standard errors


class Exact:
    """The exact posterior of observations under a prior; `x` and `r` are None where unknown.

    The law of an observation is unknown where its sidecar has no dl_contaminant: the weights of a
    cleaning were estimated from the sky itself, or foregrounds have parameters of their own in each
    sky. Then `N` is None as well; `residual` is the mean of what lies on the signal.

    Args:
        y: Observed D_ell, shape (n, n_ell), uK^2.
        observed: storage.Table, whose sidecar names the contaminants.
        prior: Dict with r and dl_signal, or with r_range and signal_template.
    """

    def __init__(self, y, observed, prior):
        self.x = self.r = self.mean = self.std = None
        self.N, self.residual = observed.theory("dl_contaminant"), observed.residual
        F = observed.theory("dl_fixed_foreground")
        self.F = np.zeros(y.shape[1]) if F is None else F
        self.signal = records.signal_template(prior)
        if self.N is None:
            return
        if self.signal is not None:
            common = (y, self.signal, self.N, self.F)
            self.r = RPosterior(*common, *prior["r_range"])
            self.x = MarginalPosterior(*common, self.r)
        elif prior.get("dl_signal") and self.F.any():
            self.x = FixedForegroundPosterior(y, prior["dl_signal"], self.N, self.F)
        elif prior.get("dl_signal"):
            self.x = GaussianPosterior(y, prior["dl_signal"], self.N)
        if self.x is not None:
            self.mean, self.std = self.x.mean(), self.x.std()


def estimate(values):
    """{"value", "error"}: mean over the first axis and its standard error."""
    values = np.asarray(values, float)
    return {
        "value": float(values.mean()),
        "error": float(values.std(ddof=1) / np.sqrt(len(values))),
    }


def root_mean(squares):
    """Root of the mean of squares, shape (n,), and its standard error."""
    root = np.sqrt(squares.mean())
    return float(root), float(squares.std() / np.sqrt(len(squares)) / (2 * root))


def squared_error(estimates, truth, scale):
    """Squared error of each row in units of scale^2, mean over ell, shape (n,)."""
    return np.square((estimates - truth) / scale).mean(1)


def response(estimates, y):
    """(slope, error) of the regression of an estimate on the observation, each (n_ell,)."""
    y, estimates = y - y.mean(0), estimates - estimates.mean(0)
    slope = (y * estimates).sum(0) / (y**2).sum(0)
    return slope, np.sqrt(((estimates - slope * y) ** 2).sum(0) / (len(y) - 2) / (y**2).sum(0))


def baselines(observed, truth, exact, scale):
    """Estimates that need no network: {name: squared errors of the rows, shape (n,)}."""
    y = observed.values
    others = np.roll(truth, 1, 0)  # the truth of another sky is a draw from the prior
    estimates = {"raw observation": y, "prior mean": truth.mean(0), "fresh prior draw": others}
    if exact.N is not None:
        estimates["noise-debiased observation"] = y - exact.N - exact.F
    if exact.mean is not None:
        estimates["exact posterior mean"] = exact.mean
    return {name: squared_error(value, truth, scale) for name, value in estimates.items()}


def sharpness(run, truth, observed, exact, scale):
    """Errors of a run's mean against the truth, beside those of the exact posterior mean.

    Returns:
        A JSON-ready dict. mse and excess are in units of scale^2, averaged over ell; the excess
        is E|mean - exact mean|^2, in percent of the exact posterior's variance, after the
        variance that a finite number of draws adds to their mean has been taken off.
    """
    corr = metrics.correlation(run.mean, truth)
    limit = None if exact.mean is None else metrics.correlation(exact.mean, truth)
    errors = squared_error(run.mean, truth, scale)
    shuffled = squared_error(np.roll(run.mean, 1, 0), truth, scale)
    # of the prior that the run was trained on, as in sample.py
    own_prior = np.array(run.metadata["prior"].get("mean_dl", truth.mean(0)))
    prior_mean = squared_error(own_prior, truth, scale)
    share, share_error = metrics.attained_share(corr, limit, len(truth))
    variance = truth.var(0)
    slope, slope_error = response(run.mean, observed.values)
    report = {
        "mse": estimate(errors),
        "shuffled_mse": estimate(shuffled),
        "shuffled_minus_mse": estimate(shuffled - errors),
        "correlation": corr.tolist(),
        "attained_share": {"value": share, "error": share_error},
        "echo": metrics.is_echo(share, share_error),
        "r2": (1 - np.square(run.mean - truth).mean(0) / variance).tolist(),
        "r2_error": (np.square(run.mean - truth).std(0) / variance / len(truth) ** 0.5).tolist(),
        "slope": slope.tolist(),
        "slope_error": slope_error.tolist(),
        "verdict": metrics.verdict(corr, limit, len(truth), 1 - errors.mean() / prior_mean.mean()),
    }
    if exact.mean is not None:
        noise = 0 if run.draws is None else run.draws.var(1, ddof=1) / run.draws.shape[1]
        distance = np.square(run.mean - exact.mean) - noise
        if shares_prior(run, observed):  # else the truth varies less than the prior says
            # the expectation of r2_limit - r2, without the scatter of truth and draws
            report["r2_gap"] = (distance.mean(0) / variance).tolist()
            report["r2_gap_error"] = (distance.std(0) / variance / len(truth) ** 0.5).tolist()
        excess = (distance / scale**2).mean(1)
        report["excess_percent"] = estimate(100 * excess / np.square(exact.std / scale).mean())
        report["r2_limit"] = (1 - np.square(exact.mean - truth).mean(0) / variance).tolist()
        report["slope_limit"] = response(exact.mean, observed.values)[0].tolist()
    if run.draws is not None:
        m = run.draws.shape[1]
        rng = np.random.default_rng(0)
        fresh = np.stack([truth[rng.permutation(len(truth))] for _ in range(m)], 1)
        prior = (statistics.crps(truth, fresh) / scale).mean(1)
        own = (statistics.crps(truth, np.asarray(run.draws)) / scale).mean(1)
        # the prior's score belongs to the data: only the difference has a Monte-Carlo error
        report["crps_skill"] = estimate((prior - own) / prior.mean())
    return report


def pit_distances(values):
    """KS distance of PIT values, shape (n, m, n_ell), per ell: mean over ell, floor and its spread.

    For draws of the exact posterior the values at one ell are uniform, and independent.
    """
    distance, floor, spread = statistics.ks_uniform(values.reshape(-1, values.shape[-1]))
    return {
        "value": float(distance.mean()),
        "error": float(spread / np.sqrt(len(distance))),
        "floor": float(floor),
        "num_values": len(values) * values.shape[1],
        "per_ell": distance.tolist(),
    }


def prior_of(metadata):
    """The prior of r that a sidecar names: a number, a list of two, or None."""
    return metadata.get("r_range", metadata.get("r"))


def shares_prior(run, observed):
    """Whether a run was trained on the prior of r that its observations follow, if that is known.

    Ranks of the truth are uniform under no other.
    """
    return prior_of(observed.metadata) in (None, prior_of(run.metadata["prior"]))


def calibration_report(run, truth, observed, exact):
    """PIT under the exact posterior, ranks of the truth, TARP, coverage of a run.

    Ranks are left out where the observations follow another prior than the run's.

    Returns:
        (report, curves): JSON-ready; and {"pit", "sbc", "tarp"}: values in (0, 1) for a figure.
    """
    report, curves = {}, {}
    draws = run.mean[:, None] if run.draws is None else run.draws
    if exact.x is not None:
        pit = exact.x.cdf(np.asarray(draws[:, :PIT_DRAWS]))
        report["pit_ks"], curves["pit"] = pit_distances(pit), pit.ravel()
    if run.draws is None or not shares_prior(run, observed):
        return report, curves
    m = draws.shape[1]
    ranks = statistics.sbc_ranks(truth, draws)
    p = statistics.rank_uniformity(ranks, m)
    report["sbc"] = {"p_values": p.tolist(), "smallest_times_ell": float(min(1, p.min() * len(p)))}
    # distances of log spectra, from a point that depends on the data: the observation itself
    centre, width = np.log(truth).mean(0), np.log(truth).std(0)
    log_y = np.log(observed.values)
    reference = (log_y - log_y.mean(0)) / log_y.std(0)
    points = ((np.log(values) - centre) / width for values in (truth, draws))
    tarp = statistics.tarp(*points, reference)
    report["tarp"] = {"p_value": float(statistics.rank_uniformity(tarp, m))}
    report["coverage"] = coverage(ranks, m)
    # spread over their cell, ranks of an exact posterior are uniform on (0, 1)
    rng = np.random.default_rng(0)
    for name, values in (("sbc", ranks.ravel()), ("tarp", tarp)):
        curves[name] = (values + rng.random(values.shape)) / (m + 1)
    return report, curves


def coverage(ranks, m):
    """{level: {"value", "expected", "error"}} over all columns, taken as independent."""
    table = {}
    for level in LEVELS:
        observed, expected, error = statistics.coverage(ranks, m, level)
        table[f"{level:g}"] = {
            "value": float(np.mean(observed)),
            "expected": float(expected),
            "error": float(error / np.sqrt(np.size(observed))),
        }
    return table


def r_report(run, r_true, exact, ranked):
    """A run's draws of r against the truth and, where it is known, the exact p(r | y).

    Args:
        run: evaluate.Run with draws of r, shape (n, m).
        r_true: True r, shape (n,).
        exact: An `Exact`.
        ranked: Whether the true r follow the run's prior.

    Returns:
        A JSON-ready dict. bias_truth is the bias of the posterior mean in units of the posterior's
        own sigma: 0 over the prior, for an exact posterior, but above 0 at the lower edge of it.
        upper_limit_68 of skies with r = 0 is what LiteBIRD calls sigma(r = 0) (PTEP 2023,
        arXiv:2202.02773).
    """
    m = run.r.shape[1]
    mean, std = run.r.mean(1), run.r.std(1, ddof=1)
    report = {
        "bias_truth": estimate((mean - r_true) / std),
        "mean_r": estimate(mean),
        "mean_sigma": estimate(std),
        "upper_limit_68": upper_limit(run, 0.68, exact),
        "upper_limit_95": upper_limit(run, 0.95, exact),
    }
    if exact.r is not None:
        report["exact_bias_truth"] = estimate((exact.r.mean() - r_true) / exact.r.std())
        report |= against_exact(run.r, mean, std, exact.r)
    if ranked:
        ranks = statistics.sbc_ranks(r_true, run.r)
        report["sbc_p"] = float(statistics.rank_uniformity(ranks, m))
        report["coverage"] = coverage(ranks, m)
    report["sigma"] = sigma_table(run, r_true, mean, std, exact)
    return report


def upper_limit(run, level, exact):
    """Upper limits on r over the skies, {"median", "mean", "quantiles_16_84"}, and the exact."""
    # Weibull: another draw is below it with this probability, however few they are
    limits = np.quantile(run.r, level, axis=1, method="weibull")
    entry = {"median": float(np.median(limits)), "mean": float(limits.mean())}
    entry["quantiles_16_84"] = np.quantile(limits, [0.16, 0.84]).tolist()
    if exact.r is not None:
        limits = exact.r.quantile(np.array([level]))
        entry |= {"exact_median": float(np.median(limits)), "exact_mean": float(limits.mean())}
    return entry


def against_exact(draws, mean, std, posterior):
    """Draws of r, shape (n, m), their means and standard deviations against an RPosterior."""
    exact_mean, exact_std = posterior.mean(), posterior.std()
    deviation = (mean - exact_mean) / exact_std
    # what the mean of m draws scatters by itself is no error of the method
    excess = estimate(deviation**2 - (std / exact_std) ** 2 / draws.shape[1])
    rms = np.sqrt(max(excess["value"], 0))
    ratio = np.sort(std / exact_std)
    order = np.sqrt(len(ratio)) / 2  # standard error of the rank of a median
    middle = np.quantile(ratio, 0.5 + np.array([-1, 1]) * order / len(ratio))
    pit, floor, spread = statistics.ks_uniform(posterior.cdf(draws).ravel())
    return {
        "bias": estimate(deviation),
        "rms_deviation": {"value": float(rms), "error": excess["error"] / max(2 * rms, 1e-9)},
        "width_ratio": {"value": float(np.median(ratio)), "error": float(np.ptp(middle) / 2)},
        "pit_ks": {"value": float(pit), "error": float(spread), "floor": float(floor)},
    }


def simulated_std(r_true, exact, r_range):
    """Standard deviations of exact posteriors of r on other skies of these r, shape (n,).

    The skies have the mean residuals and weights that are known: what an observation can tell of r
    at best, edges of the prior included, where its own law is unknown.
    """
    C = exact.signal(r_true) + exact.residual
    nu = degrees(C.shape[1])
    y = np.random.default_rng(0).noncentral_chisquare(nu, nu * exact.F / C) * C / nu
    return RPosterior(y, exact.signal, exact.residual, exact.F, *r_range).std()


def sigma_table(run, r_true, mean, std, exact):
    """sigma(r) in bins of the true r, beside the exact posterior's and the Fisher limit.

    At the edges of the prior a posterior is narrower than the Fisher limit, which knows of no
    edge: there the exact posterior is the limit, or where that is unknown one of simulated skies.
    """
    reference, paired = None, exact.r is not None
    if paired:
        reference = exact.r.std()
    elif exact.residual is not None:
        reference = simulated_std(r_true, exact, run.metadata["prior"]["r_range"])
    edges = np.linspace(r_true.min(), r_true.max(), R_BINS + 1)
    index = np.clip(np.searchsorted(edges, r_true, side="right") - 1, 0, R_BINS - 1)
    rows = []
    for k in np.unique(index):
        inside = index == k
        n = inside.sum()
        if n < 2:
            continue
        sigma, error = root_mean(std[inside] ** 2)
        rms, rms_error = root_mean((mean - r_true)[inside] ** 2)
        centre = float(r_true[inside].mean())
        fisher = limit = None
        if reference is not None:
            fisher = float(fisher_sigma(exact.signal, exact.residual, centre, exact.F))
            best, scatter = root_mean(reference[inside] ** 2)
            limit = min(fisher, best if paired else best - SIGMAS * scatter)
        rows.append(
            {
                "r": centre,
                "num": int(n),
                "sigma": sigma,
                "error": error,
                "exact": best if paired else None,
                "fisher": fisher,
                "limit": limit,
                "bias": estimate(((mean - r_true) / std)[inside]),
                "rms_error": rms,
                "rms_error_error": rms_error,
            }
        )
    return rows


def compare(run, truth, observed, exact, r_true, scale):
    """(report, curves) of one run; the sharpness of r = 0 has no meaning and is left out."""
    report, curves = {"method": run.metadata.get("method")}, {}
    if scale is not None:
        report |= sharpness(run, truth, observed, exact, scale)
        calibrated, curves = calibration_report(run, truth, observed, exact)
        report |= calibrated
    if run.r is not None:
        ranked = np.ptp(r_true) > 0 and shares_prior(run, observed)  # no ranks at one r
        report["r"] = r_report(run, r_true, exact, ranked)
    return {**report, "checks": verdicts.verdicts(report)}, curves
