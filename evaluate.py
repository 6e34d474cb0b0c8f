"""Hold samples against the exact Bayesian answers, and say what they are worth. Runs no network.

Reads the output folders of sample.py (--runs), each made from the same observations, with these
observations, the truth of their spectra where runs hold spectra, and that of r, or of any
parameters, where runs hold draws of these. Writes into --out-dir report.json, report.md (one table,
a row per method), report.html (the same with all figures, one file to send) and figures:
sharpness.png, calibration.png, controls.png, where a run holds draws of r beside a spectrum r.png,
posterior.png and getdist.png, and of other parameters parameters.png.

Where the sidecar of the observations gives the law of the contaminants the exact posterior is
known; elsewhere only what needs no more than the truth is computed. Of part of the sky no law of
spectra is known, but that of the maps is: with --modes-file-noisy runs are held against the exact
posterior given the maps, and the loss of the spectra themselves is told. A run of a model that was
trained on another sky is a mismatch, and r is never told without it: name in --runs a run of a
model that was trained on the sky of the observations beside it.

Examples:
  python evaluate.py --runs results/ve_sde results/posterior \\
      --data-file-noisy data/dl_noisy_r0.001.npy --data-file-gt data/dl_gt_r0.001.npy
  python evaluate.py --runs results --data-file-noisy y_test.npy --param-file-gt theta_test.npy
  python evaluate.py --runs results/masked --data-file-noisy data/dl_noisy_r0-0.01.npy \\
      --modes-file-noisy data/modes_noisy_r0-0.01.npy --data-file-gt data/dl_gt_r0-0.01.npy \\
      --param-file-gt data/r_gt_r0-0.01.npy
"""

import argparse
import dataclasses
import functools
import os
from typing import TYPE_CHECKING

import numpy as np

from checks import inputs as evaluated
from checks.estimates import known
from checks.inputs import Files, Inputs
from checks.run import Run
from checks.skies import Skies
from runtime import (
    atomic,
    cli,
    console,
    conventions,
    drawing,
    formats,
    locks,
    provenance,
    run_folder,
)
from runtime.conventions import Conventions
from runtime.errors import InputError

if TYPE_CHECKING:  # slow to import
    from checks.calibration import Curves
    from checks.evaluation import Report, RunReport
    from checks.map_posteriors import Maps
    from checks.posterior_cache import PosteriorCache
    from checks.sharpness import Sharpness
    from figures.evaluation import RunResult

FIGURES = ("sharpness.png", "calibration.png", "controls.png")
PARAMETERS_FIGURE = "parameters.png"  # of the last run that holds draws of several
R_FIGURES = ("r.png", "posterior.png", "getdist.png")  # of the last run that holds draws of r
SAME_SPECTRA = 1e-4  # relative difference of spectra of the same map


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__)
    group = parser.add_argument_group("files")
    spectra, npy = formats.file_argument, cli.file_argument(".npy")
    group.add_argument("--runs", nargs="+", required=True, help="output folders of sample.py")
    group.add_argument("--data-file-noisy", type=spectra, required=True, help="their observations")
    group.add_argument(
        "--data-file-gt", type=spectra, help="true spectra, row for row, where runs hold spectra"
    )
    group.add_argument(
        "--param-file-gt",
        type=npy,
        help="the true r, or parameters in the columns of the training, where rows have their own",
    )
    group.add_argument(
        "--modes-file-noisy",
        type=npy,
        help="what the maps of the observations hold, modes_noisy_*.npy, where part of the sky is "
        "seen; for the exact answer",
    )
    group.add_argument(
        "--out-dir", type=cli.folder_argument, default="evaluation", help="folder of the outputs"
    )
    group.add_argument(
        "--row", type=cli.non_negative_int, default=0, help="observation shown in figures"
    )
    conventions.add_arguments(parser)
    return parser


@dataclasses.dataclass(frozen=True)
class Configuration:
    """What the flags ask for; see `build_parser`."""

    files: Files
    out_dir: str
    row: int

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> "Configuration":
        """From parsed arguments."""
        files = Files(
            runs=args.runs,
            noisy=args.data_file_noisy,
            truth=args.data_file_gt,
            parameters=args.param_file_gt,
            conventions=Conventions.from_arguments(args),
            modes=args.modes_file_noisy,
        )
        return cls(files, args.out_dir, args.row)

    def output(self, name: str) -> str:
        """Path of an output."""
        return os.path.join(self.out_dir, name)


def recover_maps(inputs: Inputs) -> "Maps | None":
    """Maps of the observations, of part of the sky; None where no exact answer takes them.

    Raises:
        InputError: If they are not those of the observations.
    """
    observed, modes = inputs.skies.observed, inputs.modes
    powers = observed.record.map_powers
    if modes is None or powers is None or not powers.law_known:
        return None
    from checks.exact_map import recover
    from checks.map_posteriors import Maps
    from sky.analysis import Analysis

    console.info("building the response of the maps, for the exact answer: this takes a while")
    try:
        analysis = Analysis.from_json(known(observed.record.sky.analysis))
    except ValueError as error:
        raise InputError(f"{observed.path}: {error}; generate it again") from None
    part = analysis.masked_sky()
    estimator = analysis.estimator(part)
    if modes.values.shape[1] != part.response.shape[1]:
        raise InputError(f"{modes.path}: has not the {part.response.shape[1]} modes of the maps")
    v = recover(np.asarray(modes.values), part.response)
    apart = ~np.isclose(estimator.spectra(v), observed.values, rtol=SAME_SPECTRA).all(1)
    if apart.any():
        raise InputError(
            f"{modes.path}: the spectrum of row {apart.argmax()} is not that of {observed.path}; "
            "they are not of the same skies"
        )
    dl_lensing = observed.record.contaminants.dl_lensing
    return Maps(
        v=v,
        response=part.response,
        weights=estimator.weights,
        powers=powers,
        dl_tensors=analysis.dl_fiducial - (0.0 if dl_lensing is None else dl_lensing),
        dl_noise=analysis.masking.survey.dl_noise,
        f_sky=analysis.masking.survey.f_sky,
    )


def measure(inputs: Inputs, posteriors: "PosteriorCache") -> "tuple[Report, dict[str, Curves]]":
    """The report, and {run: calibration curves}."""
    from checks import evaluation, sharpness

    skies, baselines = inputs.skies, {}
    prior = skies.observed.record.prior
    exact = posteriors.under(prior)
    if skies.scale is not None:
        baselines = sharpness.baselines(skies, exact)
    reports, curves = {}, {}
    for run in console.progress(inputs.runs, desc="evaluating", unit="run"):
        exact = posteriors.under(run.prior)
        reports[run.name], curves[run.name] = evaluation.compare(run, skies, exact)
    title = "" if prior.r_or_range is None else f"r = {prior.r_or_range}"
    sky = skies.observed.record.sky
    masked = None if sky.analysis is None else str(sky.analysis["name"])
    return evaluation.Report(len(skies), title, baselines, reports, masked), curves


# --- figures ---------------------------------------------------------------------------------


def draw_runs(
    ell: np.ndarray, report: "Report", curves: "dict[str, Curves]"
) -> dict[str, drawing.Draw]:
    """{file name: its figure} of all runs; none where spectra have no scale (r = 0)."""
    from figures import evaluation

    runs, optimum = [], None
    baselines = {name: baseline.value for name, baseline in report.baselines.items()}
    for name, run in report.runs.items():
        sharp = run.measurements.sharpness
        if sharp is None:
            continue
        runs.append(run_result(name, sharp, curves[name]))
        if optimum is None and sharp.r2_limit is not None and sharp.slope_limit is not None:
            optimum = evaluation.Optimum(sharp.r2_limit, sharp.slope_limit)
    if not runs:
        return {}
    return {
        "sharpness.png": functools.partial(evaluation.sharpness, ell, runs, optimum),
        "controls.png": functools.partial(evaluation.controls, runs, baselines),
        "calibration.png": functools.partial(evaluation.calibration, runs),
    }


def run_result(name: str, sharp: "Sharpness", curves: "Curves") -> "RunResult":
    """What figures show of a run."""
    from figures.evaluation import Errorbars, RunResult

    return RunResult(
        name=name,
        r2=Errorbars(sharp.r2, sharp.r2_error),
        slope=Errorbars(sharp.slope, sharp.slope_error),
        mse=Errorbars(sharp.mse.value, sharp.mse.error),
        shuffled_mse=Errorbars(sharp.shuffled_mse.value, sharp.shuffled_mse.error),
        pit=curves.pit,
        sbc=curves.sbc,
        tarp=curves.tarp,
    )


def draw_r(
    run: Run, report: "RunReport", skies: Skies, posteriors: "PosteriorCache", row: int
) -> dict[str, drawing.Draw]:
    """{file name: its figure} of a run with draws of r.

    Args:
        run: The run.
        report: On it.
        skies: Its skies.
        posteriors: Exact ones of all rows.
        row: Observation shown.
    """
    from figures import evaluation

    exact = posteriors.under(run.prior)
    title = "" if report.sky.mismatch is None else report.sky.mismatch.title
    bins = [
        evaluation.SigmaBin(
            r=entry.r,
            sigma=entry.sigma,
            sigma_error=entry.error,
            rms_error=entry.rms_error,
            rms_error_error=entry.rms_error_error,
            exact=entry.exact,
            fisher=entry.fisher,
            spectrum=None if entry.limits is None else entry.limits.spectrum,
            rule_of_thumb=None if entry.limits is None else entry.limits.rule_of_thumb,
        )
        for entry in known(report.measurements.r).sigma
    ]
    grid, density = (None, None) if exact.r is None else (exact.r.r, exact.r.density)
    r_range = known(run.prior.r_range)
    r = evaluation.RDraws(known(run.r), known(skies.r), r_range, grid, density, skies.masked)
    overview: dict[str, drawing.Draw] = {
        "r.png": functools.partial(evaluation.r_overview, r, bins, title)
    }
    if not skies.aligned or run.draws is None:
        return overview
    draws = posteriors.draws(run.prior, row)
    observed, truth = skies.spectra[row], known(skies.truth)[row]
    spectrum = evaluation.SpectrumDraws(skies.ell, run.draws[row], draws, observed, truth)
    return overview | {
        "posterior.png": functools.partial(evaluation.posterior, r, spectrum, row, title),
        "getdist.png": functools.partial(evaluation.triangle, r, spectrum, row, title),
    }


def draw_parameters(run: Run, skies: Skies, row: int) -> dict[str, drawing.Draw]:
    """{file name: its figure} of the joint posterior of one row; none of r alone."""
    from figures import corner, style

    if {each.name for each in run.columns} <= {"r"}:
        return {}
    marginals = {
        each.name: corner.Marginal(
            label=style.parameter_label(each.name),
            draws=run.parameters[each.name][row],
            low=each.low,
            high=each.high,
            truth=float(skies.parameters[each.name][row]),
        )
        for each in run.columns
    }
    return {PARAMETERS_FIGURE: functools.partial(corner.corner, marginals)}


def draw_all(
    report: "Report", curves: "dict[str, Curves]", inputs: Inputs, exact: "PosteriorCache", row: int
) -> dict[str, bytes]:
    """{file name: PNG}; of runs with draws of r the last one is drawn."""
    skies = inputs.skies
    figures = draw_runs(skies.ell, report, curves)
    for run in [run for run in inputs.runs if run.r is not None][-1:]:
        figures |= draw_r(run, report.runs[run.name], skies, exact, row)
    for run in inputs.runs:
        figures |= draw_parameters(run, skies, row)
    return drawing.render_all(figures)


@cli.script
def main(argv: list[str] | None = None) -> None:
    parser = build_parser()
    config = Configuration.from_args(parser.parse_args(argv))
    inputs = evaluated.load(config.files)
    n = len(inputs.skies)
    if config.row >= n:
        parser.error(f"--row {config.row}: there are {n} rows")

    from checks.posterior_cache import PosteriorCache

    posteriors = PosteriorCache(inputs.skies, recover_maps(inputs))
    with locks.hold(config.output("report.json")):
        evaluate(config, inputs, posteriors, argv)


def evaluate(
    config: Configuration, inputs: Inputs, posteriors: "PosteriorCache", argv: list[str] | None
) -> None:
    """Measure, draw, and put all in place of what an earlier run left; then print the table."""
    with_r = any(run.r is not None for run in inputs.runs)
    names = ["report.json", "report.md", "report.html", *FIGURES, *(R_FIGURES if with_r else ())]
    outdated = run_folder.outdated("evaluate.py", config.out_dir, names)
    atomic.claim_outputs(map(config.output, names), outdated=outdated)

    from checks.page import report_page
    from checks.report import markdown

    report, curves = measure(inputs, posteriors)
    run = provenance.run_id(inputs.identity() | {"--row": config.row})
    made_by = {"run": run, **provenance.collect(argv)}
    text = markdown(report)
    drawn = draw_all(report, curves, inputs, posteriors, config.row)
    contents = {"report.json": atomic.json_bytes(report.to_json() | made_by)}
    contents |= {"report.md": text.encode(), **drawn}
    contents["report.html"] = report_page(report, drawn, made_by).encode()
    run_folder.publish(
        {config.output(name): content for name, content in contents.items()},
        run_folder.outdated("evaluate.py", config.out_dir, ()),
    )
    console.print_result(text)
    console.print_result(f"wrote {', '.join(map(config.output, contents))}")


if __name__ == "__main__":
    main()
