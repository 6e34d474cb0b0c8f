"""Draws of any parameters against the truth: bias, ranks, coverage, TARP of all together."""

import dataclasses

import numpy as np

from checks import statistics
from checks.calibration import TarpReport, coverages
from checks.edges import Edges
from checks.estimates import Estimate, Reported
from checks.run import Run
from checks.skies import Skies
from checks.statistics import Coverage
from runtime.priors import FloatArray, Parameter

CLIP = 1e-9  # of the prior: what lies on an edge, or outside, has no probit


@dataclasses.dataclass(frozen=True)
class ParameterReport(Reported):
    """A run's draws of one parameter.

    Attributes:
        bias_truth: Bias of the posterior mean in units of the posterior's own sigma: 0 over the
            prior, for an exact posterior.
        mean_sigma: Mean of the posterior's sigma.
        sbc_p: p-value of the ranks of the truth, where it follows the run's prior.
        coverage: {level: of central credible intervals}, likewise.
    """

    bias_truth: Estimate
    mean_sigma: Estimate
    sbc_p: float | None
    coverage: dict[float, Coverage] | None


def parameter_report(name: str, run: Run, skies: Skies) -> ParameterReport:
    """Report on a run's draws of a parameter, whose truth must be known."""
    draws, truth = run.parameters[name], skies.parameters[name]
    mean, std = draws.mean(1), draws.std(1, ddof=1)
    sbc_p = coverage = None
    if np.ptp(truth) > 0 and skies.follow_prior_of(run):  # no ranks at one value
        ranks = statistics.sbc_ranks(truth, draws)
        sbc_p = float(statistics.rank_uniformity(ranks, draws.shape[1]))
        coverage = coverages(ranks, draws.shape[1])
    bias = Estimate.mean((mean - truth) / std)
    return ParameterReport(bias, Estimate.mean(std), sbc_p, coverage)


# --- all together ----------------------------------------------------------------------------


def probit(values: FloatArray, parameter: Parameter) -> FloatArray:
    """Standard normal under the prior: the probit of the place in the range."""
    from scipy import special

    place = (values - parameter.low) / parameter.span
    return special.ndtri(np.clip(place, CLIP, 1 - CLIP))


def features(y: FloatArray) -> FloatArray:
    """Columns of observations, standardised: logarithms where all are above 0, else arsinh.

    Args:
        y: Shape (n, n_columns).
    """
    scale = np.median(np.abs(y), axis=0)
    scaled = y / np.where(scale > 0, scale, 1)
    positive = (y > 0).all(0)
    columns = np.where(positive, np.log(np.where(positive, scaled, 1)), np.arcsinh(scaled))
    spread = columns.std(0)
    return (columns - columns.mean(0)) / np.where(spread > 0, spread, 1)


def cross_fitted(y: FloatArray, target: FloatArray) -> FloatArray:
    """Linear regression of targets on observations, each half predicted by that of the other.

    So a prediction depends on its own row through the observation alone. A ridge of one row for
    each column lets columns be collinear, or more than rows.

    Args:
        y: Shape (n, n_columns).
        target: Shape (n, k).

    Returns:
        Predictions, shape (n, k).
    """
    x, found = features(y), np.empty_like(target)
    half = np.random.default_rng(0).permutation(len(y)) % 2 == 0
    for here, there in ((half, ~half), (~half, half)):
        mean, ridge = target[there].mean(0), x.shape[1] * np.eye(x.shape[1])
        moments = x[there].T @ x[there] + ridge
        weights = np.linalg.solve(moments, x[there].T @ (target[there] - mean))
        found[here] = mean + x[here] @ weights
    return found


def tarp_report(run: Run, skies: Skies) -> TarpReport | None:
    """TARP of all parameters together; None where the truth does not follow the run's prior.

    Distances are those of probits, and the reference point is a regression on the observation:
    draws that ignore it are farther from that point than the truth.
    """
    names = [each for each in run.prior.parameters if each.name in run.parameters]
    if not names or not skies.follow_prior_of(run):
        return None
    if any(np.ptp(skies.parameters[each.name]) == 0 for each in names):
        return None
    truth = np.stack([probit(skies.parameters[each.name], each) for each in names], -1)
    draws = np.stack([probit(run.parameters[each.name], each) for each in names], -1)
    reference = cross_fitted(np.asarray(skies.observed.values, float), truth)
    ranks = statistics.tarp(truth, draws, reference)
    return TarpReport(float(statistics.rank_uniformity(ranks, draws.shape[1])))


@dataclasses.dataclass(frozen=True)
class PriorReport(Reported):
    """A run's prior of one parameter beside its skies and posteriors.

    Attributes:
        outside: Number of skies whose true value lies outside of the prior.
        edges: Share of posteriors that its edges cut; None of too few draws.
    """

    outside: int | None
    edges: Edges | None


def prior_report(parameter: Parameter, run: Run, skies: Skies) -> PriorReport | None:
    """Where the prior of a parameter makes the answer; None where it does nowhere."""
    truth = skies.parameters.get(parameter.name)
    outside = 0
    if truth is not None:
        outside = int(((truth < parameter.low) | (truth > parameter.high)).sum())
    edges = Edges.of(run.parameters[parameter.name], parameter)
    if edges is not None and not (edges.lower or edges.upper):
        edges = None
    return PriorReport(outside or None, edges) if outside or edges is not None else None
