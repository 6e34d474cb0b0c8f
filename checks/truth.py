"""Estimates of spectra against their truth: errors, correlations, and one sentence of verdict."""

import dataclasses
import math
from collections.abc import Callable, Iterator

import numpy as np

from checks import minimums
from checks.estimates import Estimate, Reported, known
from runtime import tables
from runtime.priors import FloatArray
from runtime.records import Record
from runtime.tables import Table

NO_INFORMATION = 0.05  # largest attainable correlation below which an observation is empty
ECHO_SHARE = 0.1  # share of the attainable correlation below which an output is an echo
CHUNK_VALUES = 500_000  # numbers of an array on disk that are in memory at a time

Normalize = Callable[[FloatArray], FloatArray]
PerOutput = dict[str, FloatArray]  # {output: shape (n_ell,), or (m, n_ell) of m rows}


# --- what an output knows of the truth -------------------------------------------------------


def correlation(a: FloatArray, b: FloatArray) -> FloatArray:
    """Pearson correlation per column, shape (n_ell,); NaN where one does not vary."""
    a, b = a - a.mean(0), b - b.mean(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(0) / np.sqrt((a * a).sum(0) * (b * b).sum(0))


def attained_share(corr: FloatArray, limit: FloatArray | None, n: int) -> Estimate:
    """Share of the attainable correlation that an output reaches.

    Args:
        corr: Correlation of output and truth per multipole, shape (n_ell,).
        limit: The best correlation any method could reach, likewise; None counts as 1.
        n: Number of test rows.
    """
    weights = np.ones(len(corr)) if limit is None else limit
    norm = float(weights @ weights)
    return Estimate(float(corr @ weights / norm), 1 / math.sqrt(n * norm))


def is_echo(share: Estimate) -> bool | None:
    """Whether a share of the attainable correlation is too small to be told from a prior draw's.

    None where the rows are so few that all of it could not be told from that either.
    """
    if share.error > minimums.SHARE_ERROR:
        return None
    return share.value < ECHO_SHARE + 3 * share.error


def verdict(corr: FloatArray, limit: FloatArray | None, n: int, skill: float) -> str:
    """What the output knows of the truth, and whether it is a better estimate than the prior mean.

    Args:
        corr: Correlation of output and truth per multipole, shape (n_ell,).
        limit: The best correlation any method could reach, or None.
        n: Number of test rows.
        skill: 1 - MSE / MSE of the prior mean, D_ell in units of S (or uK^2 where S is unknown).

    Returns:
        One or two sentences.
    """
    echo = (
        "the output carries (nearly) no more information than the prior; it is a new draw, "
        "not the denoised sky."
    )
    if n >= minimums.ROWS["correlations"] and not np.isfinite(corr).all():
        return "Truth or output does not vary (as at r = 0): it cannot be told from the prior."
    if limit is not None and limit.max() < NO_INFORMATION:
        return (
            f"The observation holds no information: no method can reach a correlation above "
            f"{limit.max():.1e} with the truth; {echo}"
        )
    needed = minimums.rows_for_share(len(corr) if limit is None else float(limit @ limit))
    if n < needed:
        return minimums.too_few(n, needed, "correlations and a verdict") + ", with their truth."
    share = attained_share(corr, limit, n)
    unit = "correlation with the truth" if limit is None else "correlation that is attainable"
    numbers = f"{100 * share.value:.1f} +- {100 * share.error:.1f} % of the {unit}"
    if is_echo(share):
        return f"The output reaches {numbers}: {echo}"
    if skill < 0:
        return (
            f"The output follows the observation ({numbers}), but as an estimate of the truth it "
            f"is worse than the prior mean: its squared error is {1 - skill:.3g} times as large."
        )
    return (
        f"The output reaches {numbers}; its squared error is {1 - skill:.3g} of the prior mean's."
    )


# --- reports ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class SquaredErrors(Reported):
    """Mean squared errors of one output, mean over ell, in each unit that is known.

    Attributes:
        mse_dl: Of D_ell, uK^4.
        mse_dl_over_signal_squared: In units of the mean power squared.
        mse_normalised: In normalised units.
    """

    mse_dl: float
    mse_dl_over_signal_squared: float | None
    mse_normalised: float | None

    NULLABLE = ("mse_dl_over_signal_squared", "mse_normalised")

    @property
    def relative(self) -> float:
        """In units of the mean power squared where that is known, else in uK^4."""
        known = self.mse_dl_over_signal_squared
        return self.mse_dl if known is None else known


@dataclasses.dataclass(frozen=True, eq=False)
class Correlations(Reported):
    """Correlations with the truth per multipole, shape (n_ell,) each; None where undefined.

    Attributes:
        denoised: Of the output.
        observation: Of the observation.
        limit: The best that any method could reach.
    """

    denoised: FloatArray | None
    observation: FloatArray | None
    limit: FloatArray | None

    NULLABLE = ("denoised", "observation", "limit")


@dataclasses.dataclass(frozen=True, eq=False)
class TruthReport(Reported):
    """Outputs against the truth.

    Attributes:
        mse: Of the output ("denoised"), the observation, the prior mean and, of more than one row,
            a draw from the prior.
        correlation: With the truth.
        verdict: One or two sentences.
    """

    mse: dict[str, SquaredErrors]
    correlation: Correlations
    verdict: str


def error_table(
    errors: PerOutput, normalised: PerOutput, scale: FloatArray | None
) -> dict[str, SquaredErrors]:
    """Mean squared errors of several outputs.

    Args:
        errors: Mean squared errors of D_ell, shape (n_ell,), uK^4.
        normalised: The same in normalised units, of those outputs that have it.
        scale: Mean power per multipole, shape (n_ell,), uK^2, or None.
    """
    if scale is not None and not (scale > 0).all():
        scale = None
    return {
        name: SquaredErrors(
            mse_dl=float(mse.mean()),
            mse_dl_over_signal_squared=None if scale is None else float((mse / scale**2).mean()),
            mse_normalised=float(normalised[name].mean()) if name in normalised else None,
        )
        for name, mse in errors.items()
    }


# --- moments of arrays that may be larger than memory ----------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class _Outputs:
    """What is held against the truth, shape (n, n_ell) each, uK^2, perhaps on disk.

    Observations that are no spectra of the same multipoles are None.
    """

    denoised: np.ndarray
    observed: np.ndarray | None
    truth: np.ndarray
    mean_dl: FloatArray

    @property
    def varying(self) -> list[str]:
        """Those whose correlations are asked for."""
        return ["denoised", *(["observation"] if self.observed is not None else []), "truth"]

    def chunks(self) -> Iterator[PerOutput]:
        """Some rows at a time, the truth among them."""
        n, n_ell = self.denoised.shape
        num_rows = max(1, CHUNK_VALUES // n_ell)
        for first in range(0, n, num_rows):
            for values in (self.denoised, self.observed, self.truth):
                if values is not None:
                    tables.release(values)  # of the rows before
            rows = slice(first, min(first + num_rows, n))
            chunk = {"denoised": self.denoised[rows]}
            if self.observed is not None:
                chunk["observation"] = self.observed[rows]
            chunk |= {"prior_mean": self.mean_dl[None]}
            if n >= minimums.ROWS["another sky"]:
                # its truth is a draw from the prior that never saw the observation
                chunk["prior_draw"] = self.truth[np.arange(rows.start, rows.stop) - 1]
            chunk |= {"truth": self.truth[rows]}
            yield {name: np.array(values, float) for name, values in chunk.items()}


def _add(total: PerOutput, rows: PerOutput) -> None:
    """Add sums over rows to what is there."""
    for name, values in rows.items():
        total[name] = total.get(name, 0.0) + values.sum(0)


def _means(outputs: _Outputs) -> PerOutput:
    total: PerOutput = {}
    for chunk in outputs.chunks():
        _add(total, {name: chunk[name] for name in outputs.varying})
    return {name: value / len(outputs.denoised) for name, value in total.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class _Moments:
    """Second moments, {output: shape (n_ell,)} each: of errors, and about the means."""

    mse: PerOutput = dataclasses.field(default_factory=dict)
    mse_normalised: PerOutput = dataclasses.field(default_factory=dict)
    variance: PerOutput = dataclasses.field(default_factory=dict)
    covariance: PerOutput = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, outputs: _Outputs, normalize: Normalize | None) -> "_Moments":
        means, sums = _means(outputs), cls()
        for chunk in outputs.chunks():
            sums._add_errors(chunk, normalize)
            centred = {name: chunk[name] - mean for name, mean in means.items()}
            _add(sums.variance, {name: values**2 for name, values in centred.items()})
            products = {name: values * centred["truth"] for name, values in centred.items()}
            _add(sums.covariance, products)
        n = len(outputs.denoised)
        fields = (getattr(sums, field.name) for field in dataclasses.fields(cls))
        return cls(*({name: value / n for name, value in total.items()} for total in fields))

    def _add_errors(self, chunk: PerOutput, normalize: Normalize | None) -> None:
        truth = chunk["truth"]
        others = {name: values for name, values in chunk.items() if name != "truth"}
        _add(self.mse, {name: np.square(values - truth) for name, values in others.items()})
        if normalize is None:
            return
        x_true = normalize(truth)
        for name, values in others.items():
            x = 0.0 if name == "prior_mean" else normalize(values)
            _add(self.mse_normalised, {name: np.square(x - x_true)})

    def correlation(self, name: str) -> FloatArray:
        """Of an output with the truth; NaN where one does not vary."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.covariance[name] / np.sqrt(self.variance[name] * self.variance["truth"])


def compare_with_truth(
    observed: Table,
    truth: Table,
    denoised: np.ndarray,
    trained_on: Record,
    normalize: Normalize | None,
) -> TruthReport:
    """Errors of denoised spectra against their truth, with one sentence of verdict.

    Args:
        observed: The observations, n rows.
        truth: Their truth, row for row.
        denoised: D_ell, shape (n, n_ell), uK^2, perhaps on disk.
        trained_on: Record of the training data; its prior has mean_dl.
        normalize: D_ell (n, n_ell) in uK^2 to normalised units; None leaves errors in these out,
            as for a posterior mean, which is one of D_ell.
    """
    if tables.minimum(truth.values) <= 0:
        normalize = None
    mean_dl = known(trained_on.prior.mean_dl)
    raw = observed.values if observed.values.shape == truth.values.shape else None
    outputs = _Outputs(denoised, raw, truth.values, mean_dl)
    moments = _Moments.of(outputs, normalize)
    corr = moments.correlation("denoised")
    corr_observed = None if raw is None else moments.correlation("observation")
    # the spectrum of a masked sky goes on beyond its truth
    record = observed.record.first_multipoles(truth.values.shape[1])
    signal, contaminants, limit = record.prior.dl_signal, record.contaminants, None
    if signal is not None and contaminants.dl_contaminant is not None:
        # with a fixed foreground on top W stays an upper bound
        limit = signal / (signal + contaminants.dl_contaminant)
    shown = Correlations(None, None, limit)
    enough = len(denoised) >= minimums.ROWS["correlations"]
    if enough and all(np.isfinite(c).all() for c in (corr, corr_observed) if c is not None):
        shown = Correlations(corr, corr_observed, limit)
    mse = error_table(moments.mse, moments.mse_normalised, signal)
    skill = 1 - mse["denoised"].relative / mse["prior_mean"].relative
    return TruthReport(mse, shown, verdict(corr, limit, len(denoised), skill))
