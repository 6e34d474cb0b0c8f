"""Log-likelihoods against the exact law: how many nats a model lacks."""

import dataclasses
from collections.abc import Callable

from scipy import stats

from checks import minimums
from checks.estimates import Estimate, Reported
from checks.exact import GaussianPosterior, degrees
from runtime import console
from runtime.jsonfiles import Json
from runtime.priors import FloatArray
from runtime.records import Record
from runtime.tables import Table

ExactLaw = Callable[[FloatArray, slice], FloatArray]


@dataclasses.dataclass(frozen=True)
class Mean(Reported):
    """A mean over rows, nat.

    Attributes:
        value: The mean.
        error: Its standard error; None of too few rows.
    """

    value: float
    error: float | None

    NULLABLE = ("error",)

    @classmethod
    def of(cls, values: FloatArray) -> "Mean":
        """The mean of values, shape (n,)."""
        if len(values) < minimums.ROWS["a standard error"]:
            return cls(float(values.mean()), None)
        mean = Estimate.mean(values)
        return cls(mean.value, mean.error)


def exact_law(observed: Table | None, truth: Table | None, data: Record) -> ExactLaw | None:
    """Function (D_ell, rows) -> log p, shape (n,), of the exact law or posterior; None if unknown.

    It is that of the model's r: of spectra of another r it is none.

    Args:
        observed: The observations, of which `rows` is a slice; None for the law S chi^2_nu / nu.
        truth: The spectra D_ell.
        data: Of the rows that a model was trained on.
    """
    prior = data.prior
    signal = prior.dl_signal
    if not prior.r or signal is None or data.quantity != "primordial BB":
        return None
    for table in filter(None, (truth, observed)):
        r = table.record.prior.r_or_range
        if r not in (None, prior.r):
            console.info(
                f"the model was trained at r = {prior.r:g}, these spectra have r = {r}: they are "
                "no draws of its law, and no divergence from it is told"
            )
            return None
    if observed is None:
        nu = degrees(len(signal))
        return lambda dl, rows: stats.chi2.logpdf(dl, nu, scale=signal / nu).sum(1)
    contaminants = observed.record.contaminants
    N, F = contaminants.dl_contaminant, contaminants.dl_fixed_foreground
    if N is None or (F is not None and F.any()):
        return None

    def posterior(dl: FloatArray, rows: slice) -> FloatArray:
        return GaussianPosterior(observed.values[rows], signal, N).logpdf(dl).sum(1)

    return posterior


def likelihood_report(log_p: FloatArray, log_exact: FloatArray | None) -> Json:
    """Mean log-likelihood in nats, and what it lacks to the exact one, ready for JSON.

    The mean difference is the Kullback-Leibler divergence of the model from the exact law, of
    which the rows are draws; None of too few.

    Args:
        log_p: Of a model, shape (n,).
        log_exact: Of the exact law, likewise; None where it is unknown.
    """
    report: Json = {"log_likelihood": Mean.of(log_p).to_json()}
    if log_exact is not None:
        report["exact_log_likelihood"] = Mean.of(log_exact).to_json()
        enough = len(log_p) >= minimums.ROWS["a standard error"]
        lacking = Mean.of(log_exact - log_p).to_json()
        report["kullback_leibler"] = lacking if enough else None
    return report


def lines(report: Json, n: int) -> list[str]:
    """A report of `likelihood_report` on n rows as short lines."""
    found = [
        f"{name} {mean['value']:.4f}"
        + ("" if mean["error"] is None else f" +- {mean['error']:.4f}")
        + " nats"
        for name, mean in report.items()
        if mean is not None
    ]
    needed, what = minimums.ROWS["a standard error"], "standard errors and a divergence"
    return found + ([minimums.too_few(n, needed, what)] if n < needed else [])
