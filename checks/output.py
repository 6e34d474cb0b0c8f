"""What the output of one reverse process is worth: the numbers and lines of sample.py."""

import dataclasses
from collections.abc import Mapping
from typing import Self

import numpy as np

from checks import minimums
from checks.corrected import CorrectionReport
from checks.edges import Edges
from checks.estimates import Reported
from checks.law import LawDistance, compare_with_law
from checks.paper import MIN_DRAWS, paper_line
from checks.truth import Normalize, TruthReport, compare_with_truth
from runtime.priors import FloatArray, Parameter, Prior
from runtime.records import Record
from runtime.tables import Table

RECIPE_ADVICE = (
    "This is the published recipe; with --likelihood the same checkpoint draws the posterior of "
    "the observation."
)
LAW = ("ks_mean", "ks_low", "skewness_error")  # what is printed of a distance from the law


@dataclasses.dataclass(frozen=True)
class Summary(Reported):
    """Draws of a parameter of one observation; None where they are too few.

    Attributes:
        row: The observation.
        num_draws: How many there are.
        median: Of the draws.
        upper: Distance to the 84 % quantile.
        lower: Distance to the 16 % quantile.
        upper_limit_95: 95 % quantile.
        line: What a paper says of it.
    """

    row: int
    num_draws: int
    median: float | None
    upper: float | None
    lower: float | None
    upper_limit_95: float | None
    line: str | None

    NULLABLE = ("median", "upper", "lower", "upper_limit_95", "line")

    @classmethod
    def of(cls, draws: FloatArray, row: int, parameter: Parameter) -> Self:
        """Summary of draws of shape (m,)."""
        m, levels = len(draws), (0.5, 0.84, 0.16, 0.95)
        median, high, low, limit = (
            float(np.quantile(draws, level)) if m >= minimums.quantile_draws(level) else None
            for level in levels
        )
        upper = None if median is None or high is None else high - median
        lower = None if median is None or low is None else median - low
        line = paper_line(parameter, draws) if m >= MIN_DRAWS else None
        return cls(row, m, median, upper, lower, limit, line)

    def lines(self, name: str) -> list[str]:
        """In words, and what takes more draws."""
        if self.line is not None:
            return [f"row {self.row}: {self.line}"]
        words = []
        if self.median is not None:
            words.append(f"{name} = {self.median:.3g}")
        if self.upper is not None and self.lower is not None:
            words[0] += f" (+{self.upper:.2g} -{self.lower:.2g})"
        if self.upper_limit_95 is not None:
            words.append(f"95 % upper limit {self.upper_limit_95:.3g}")
        found = [f"row {self.row}: {', '.join(words)}"] if words else []
        missing = {"a median": 0.5, "a 68 % interval": 0.84, "a 95 % limit": 0.95}
        needs = [
            f"{what} ({needed})"
            for what, level in missing.items()
            if self.num_draws < (needed := minimums.quantile_draws(level))
        ]
        if needs:
            few = f"row {self.row}: n = {self.num_draws} draws of {name}: too few for"
            found.append(f"{few} {', '.join(needs)}; see --num-draws")
        return found


@dataclasses.dataclass(frozen=True)
class OutputReport(Reported):
    """What is known of an output.

    Attributes:
        r: Draws of r of one row, where there are some.
        parameters: {name: draws of it of that row}, of any others.
        truth: Against the truth, where that is known.
        law: Of generated spectra, where their exact law is known.
        warnings: Where an edge of a prior cuts the posterior of that row; None where none does.
        correction: Of weighted draws.
    """

    r: Summary | None = None
    parameters: Mapping[str, Summary] | None = None
    truth: TruthReport | None = None
    law: LawDistance | None = None
    warnings: list[str] | None = None
    correction: CorrectionReport | None = None

    FLAT = ("truth", "law")


@dataclasses.dataclass(frozen=True, eq=False)
class Inputs:
    """What a reverse process started from.

    Attributes:
        observed: The observations; None where spectra were generated.
        truth: Their truth, row for row, or None.
        trained_on: Record of the model's training data.
        normalize: D_ell to the model's normalised units; None for a conditional model.
    """

    observed: Table | None
    truth: Table | None
    trained_on: Record
    normalize: Normalize | None


def measure(arrays: Mapping[str, np.ndarray], row: int, inputs: Inputs) -> OutputReport:
    """Measure the outputs of a reverse process.

    Args:
        arrays: {file name: array, perhaps on disk}, as sample.py writes them.
        row: Observation whose parameters are summarised.
        inputs: What they were made from.
    """
    if inputs.observed is None:
        return OutputReport(law=compare_with_law(arrays["generated.npy"], inputs.trained_on))
    prior = inputs.trained_on.prior
    found = {
        each.name: Summary.of(arrays[f"{each.name}_draws.npy"][row], row, each)
        for each in prior.parameters
        if f"{each.name}_draws.npy" in arrays
    }
    warnings = _warnings(arrays, row, prior)
    weights = CorrectionReport.of(arrays)
    report = OutputReport(
        found.pop("r", None), found or None, warnings=warnings or None, correction=weights
    )
    if inputs.truth is None or "denoised.npy" not in arrays:
        return report
    pair, denoised = (inputs.observed, inputs.truth), arrays["denoised.npy"]
    truth = compare_with_truth(*pair, denoised, inputs.trained_on, inputs.normalize)
    return dataclasses.replace(report, truth=truth)


def _warnings(arrays: Mapping[str, np.ndarray], row: int, prior: Prior) -> list[str]:
    """A sentence for each parameter whose posterior an edge of its prior cuts."""
    found = []
    for parameter in prior.parameters:
        draws = arrays.get(f"{parameter.name}_draws.npy")
        edges = None if draws is None else Edges.of(draws[[row]], parameter)
        warning = None if edges is None else edges.describe(parameter)
        if warning is not None:
            found.append(f"row {row}: {warning}")
    return found


def lines(report: OutputReport, inputs: Inputs) -> list[str]:
    """A report on the outputs of a reverse process, and what it started from, as short lines."""
    found = []
    if report.truth is not None:
        for name, errors in report.truth.mse.items():
            units = {k: v for k, v in errors.to_json().items() if v is not None}
            found.append(f"{name:12s} {'  '.join(f'{k} {v:.4g}' for k, v in units.items())}")
        for name, values in report.truth.correlation.to_json().items():
            if values is not None:
                shown = [f"{v:+.3f}" for v in values[:5]]
                ell = f"ell = 2-{1 + len(shown)}"
                found.append(f"correlation with the truth, {ell}, {name}: {' '.join(shown)}")
    summaries = {} if report.r is None else {"r": report.r}
    for name, summary in (summaries | dict(report.parameters or {})).items():
        found += summary.lines(name)
    found += report.warnings or []
    found += [] if report.correction is None else report.correction.lines()
    if report.law is not None:
        numbers = {name: getattr(report.law, name) for name in LAW}
        found += [f"{name} {value:.4f}" for name, value in numbers.items() if value is not None]
        what = "a distance from the law"
        if report.law.ks is None:
            found.append(minimums.too_few(report.law.ks_rows, minimums.ROWS[what], what))
    if report.truth is not None:
        found.append(report.truth.verdict)
    if inputs.observed is not None and inputs.normalize is not None:
        found.append(RECIPE_ADVICE)
    return found
