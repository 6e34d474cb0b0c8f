"""The exact law of spectra, S chi^2_nu / nu, and how far draws are from it."""

import dataclasses

import numpy as np

from checks import minimums
from checks.estimates import Reported
from runtime.priors import FloatArray
from runtime.records import Record

MAX_ROWS, MAX_VALUES = 100_000, 10_000_000  # that are held against the law
LOW_ELL = slice(0, 5)  # ell = 2-6


@dataclasses.dataclass(frozen=True, eq=False)
class LawDistance(Reported):
    """Distance of generated spectra from the exact law; None of too few.

    Attributes:
        ks_mean: Kolmogorov-Smirnov distance, mean over ell.
        ks_low: The same over ell = 2-6.
        skewness_error: Mean absolute error over ell of the skewness of log D_ell.
        ks: Per ell, shape (n_ell,).
        ks_rows: Number of spectra that were used.
    """

    ks_mean: float | None
    ks_low: float | None
    skewness_error: float | None
    ks: FloatArray | None
    ks_rows: int

    NULLABLE = ("ks_mean", "ks_low", "skewness_error", "ks")


def sample_rows(values: np.ndarray) -> np.ndarray:
    """The first rows of an array: no more than make a distribution's distance plain."""
    return values[: min(MAX_ROWS, MAX_VALUES // values.shape[1])]


def compare_with_law(generated: np.ndarray, trained_on: Record) -> LawDistance | None:
    """Distance of generated spectra from the exact law S chi^2_nu / nu; None where S is unknown.

    Args:
        generated: D_ell, shape (n, n_ell), uK^2; `sample_rows` of it are used.
        trained_on: Record of the rows that the model was trained on.
    """
    signal = trained_on.prior.dl_signal
    if trained_on.quantity != "primordial BB" or not trained_on.prior.r or signal is None:
        return None
    from scipy import special, stats

    from checks.noncentral import degrees

    generated = sample_rows(generated)
    if len(generated) < minimums.ROWS["a distance from the law"]:
        return LawDistance(None, None, None, None, len(generated))
    nu = degrees(len(signal))
    ks, skewness = [], []
    for column, s, k in zip(generated.T, signal, nu, strict=True):
        ks.append(stats.kstest(column / s, stats.chi2(k, scale=1 / k).cdf).statistic)
        skewness.append(stats.skew(np.log(column)))
    exact = special.polygamma(2, nu / 2) / special.polygamma(1, nu / 2) ** 1.5
    return LawDistance(
        ks_mean=float(np.mean(ks)),
        ks_low=float(np.mean(ks[LOW_ELL])),
        skewness_error=float(np.abs(skewness - exact).mean()),
        ks=np.array(ks),
        ks_rows=len(generated),
    )
