"""The report of evaluate.py: runs on the same skies, measured, judged and compared."""

import dataclasses

from checks import verdicts
from checks.calibration import Curves, calibrate
from checks.estimates import Estimate, Reported
from checks.parameters import PriorReport, parameter_report, prior_report, tarp_report
from checks.posteriors import ExactPosteriors
from checks.r import r_report
from checks.run import Run
from checks.sharpness import sharpness
from checks.skies import Skies
from checks.verdicts import Check, Measurements
from runtime import records
from runtime.jsonfiles import Json
from runtime.records import Sky


@dataclasses.dataclass(frozen=True)
class Mismatch(Reported):
    """Entries in which two skies differ.

    Attributes:
        trained_on: Of the sky that the model was trained on.
        observed: Of the sky that was observed, under the same names.
    """

    trained_on: Json
    observed: Json

    def describe(self) -> tuple[str, str]:
        """(what the model was trained on, what was observed), where they differ, in words."""
        words = [
            (name, *records.describe_difference(entry, self.observed[name]))
            for name, entry in self.trained_on.items()
        ]
        if len(words) == 1:
            ((name, trained, observed),) = words
            return f"{name} {trained}", observed
        trained, observed = (", ".join(f"{row[0]} {row[k]}" for row in words) for k in (1, 2))
        return trained, observed

    @property
    def title(self) -> str:
        """Both in one line."""
        return "trained on {}, observed {}".format(*self.describe())


@dataclasses.dataclass(frozen=True)
class SkyOfTraining(Reported):
    """The sky that a model was trained on beside the one observed.

    Attributes:
        trained_on_this_sky: Whether they are the same; None where one is unknown.
        mismatch: Where they differ, how.
    """

    trained_on_this_sky: bool | None
    mismatch: Mismatch | None = None

    NULLABLE = ("trained_on_this_sky",)

    @classmethod
    def of(cls, trained: Sky, observed: Sky) -> "SkyOfTraining":
        """Of two skies."""
        differing = trained.differences(observed)
        if not differing:  # a sky that is unknown is no mismatch, but no match either
            return cls(True if trained.known and observed.known else None)
        here, there = ({name: pair[k] for name, pair in differing.items()} for k in (0, 1))
        return cls(False, Mismatch(here, there))


@dataclasses.dataclass(frozen=True)
class RunReport(Reported):
    """What is known of a run.

    Attributes:
        method: Of sampling.
        measurements: Of sharpness, calibration and r.
        checks: What these come to.
        sky: That the model was trained on.
        priors: {parameter: where its prior makes the answer}; None where none does.
        no_exact_answer: Why nothing exact is known of part of the sky; None where it is.
    """

    method: str | None
    measurements: Measurements
    checks: list[Check]
    sky: SkyOfTraining
    priors: dict[str, PriorReport] | None = None
    no_exact_answer: str | None = None

    NULLABLE = ("method",)
    FLAT = ("measurements", "sky")


@dataclasses.dataclass(frozen=True)
class Report(Reported):
    """What evaluate.py reports.

    Attributes:
        num_observations: Number of skies.
        prior: Of their r, in words.
        baselines: {estimate that needs no network: its mean squared error}.
        runs: {folder: its report}.
        masked_sky: What is seen, in words; None of the full sky.
    """

    num_observations: int
    prior: str
    baselines: dict[str, Estimate]
    runs: dict[str, RunReport]
    masked_sky: str | None = None


def compare(run: Run, skies: Skies, exact: ExactPosteriors) -> tuple[RunReport, Curves]:
    """Measure and judge one run.

    Args:
        run: The run.
        skies: Its observations, their truth, and the true values of the parameters that the run
            has draws of.
        exact: Exact posteriors of these observations under the run's prior.

    Returns:
        Its report and calibration curves. Without a spectrum, or a scale of the skies (r = 0),
        sharpness and calibration of the spectrum have no meaning.
    """
    sharp = calibration = r = None
    curves = Curves()
    if skies.scale is not None and run.mean is not None:
        sharp = sharpness(run, skies, exact)
        calibration, curves = calibrate(run, skies, exact)
    if run.r is not None:
        r = r_report(run, skies, exact)
    others = {each.name for each in run.columns} - {"r"}
    parameters = {name: parameter_report(name, run, skies) for name in sorted(others)}
    # draws of r alone are held against its exact posterior, which sees more, but none of y's loss
    alone = exact.r is not None and exact.information is None
    together = None if alone and not others else tarp_report(run, skies)
    measurements = Measurements(sharp, calibration, r, parameters or None, together)
    found = {each.name: prior_report(each, run, skies) for each in run.columns}
    priors = {name: report for name, report in found.items() if report is not None}
    sky = SkyOfTraining.of(run.sampled.sky, skies.observed.record.sky)
    checks = verdicts.judge(measurements)
    report = RunReport(run.sampled.method, measurements, checks, sky, priors or None, exact.missing)
    return report, curves
