"""The report of evaluate.py as a page to send: verdicts first."""

import dataclasses
from collections.abc import Mapping

from checks.evaluation import Report, RunReport
from checks.report import markdown
from runtime import html
from runtime.html import Verdict
from runtime.jsonfiles import Json

MAX_NAMED = 5  # failed checks in one verdict
CAPTIONS = {  # of the figures of evaluate.py
    "sharpness.png": "How much of the truth the estimate holds (R²), and how it responds to the "
    "observation, by multipole; beside the exact posterior mean where it is known.",
    "calibration.png": "Distance of PIT values and ranks from a uniform law, which exact draws "
    "follow: the nearer to zero, the better.",
    "controls.png": "Squared error with each sky's own observation and, as a control, with that "
    "of another sky, which must be worse.",
    "r.png": "Estimates of r against the truth, and σ(r) beside its limits.",
    "posterior.png": "Posterior of r of a few skies, and of the spectrum of one.",
    "getdist.png": "Joint posterior of one sky, 68 and 95 %.",
}


def verdicts(report: Report) -> list[Verdict]:
    """What each run comes to, and what has to be known beside it."""
    found = []
    for name, run in report.runs.items():
        found.append(_verdict(name, run))
        if run.sky.mismatch is not None:
            found.append(Verdict(name, f"mismatch: {run.sky.mismatch.title}"))
    return found


def _verdict(name: str, run: RunReport) -> Verdict:
    failed = [check.name for check in run.checks if not check.passed]
    sharp = run.measurements.sharpness
    echo = "an echo of the prior; " if sharp is not None and sharp.echo else ""
    if not run.checks:
        return Verdict(name, f"{echo}no check applies")
    if failed:
        more = [f"{len(failed) - MAX_NAMED} more"] if len(failed) > MAX_NAMED else []
        named = "; ".join(failed[:MAX_NAMED] + more)
        words = f"{len(failed)} of {len(run.checks)} checks failed: {named}"
    else:
        words = f"all {len(run.checks)} checks pass"
    return Verdict(name, echo + words, passed=not failed and not echo)


def report_page(report: Report, figures: Mapping[str, bytes], made_with: Json) -> str:
    """The page, as HTML.

    Args:
        report: Of evaluate.py.
        figures: {file name: PNG}.
        made_with: From `provenance.collect`.
    """
    names = {name: html.escape_markdown(name) for name in report.runs}
    escaped = dataclasses.replace(
        report, runs={names[name]: run for name, run in report.runs.items()}
    )
    pictures = [html.Picture(CAPTIONS.get(name, name), png) for name, png in figures.items()]
    title = f"Evaluation of {report.num_observations} observations, {report.prior}"
    return html.page(title, verdicts(report), markdown(escaped), pictures, made_with)
