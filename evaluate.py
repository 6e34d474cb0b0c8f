"""Hold samples against the exact Bayesian answers, and say what they are worth. Runs no network.

Reads the output folders of sample.py (--runs), each made from the same observations, with these
observations, the truth of their spectra where runs hold spectra, and that of r, or of any
parameters, where runs hold draws of these. Writes into --out-dir report.json, report.md (one table,
a row per method) and figures: sharpness.png, calibration.png, controls.png, where a run holds draws
of r beside a spectrum r.png, posterior.png and getdist.png, and of other parameters parameters.png.

Where the sidecar of the observations gives the law of the contaminants the exact posterior is
known; elsewhere only what needs no more than the truth is computed. A run of a model that was
trained on another sky is a mismatch, and r is never told without it: name in --runs a run of a
model that was trained on the sky of the observations beside it.

Examples:
  python evaluate.py --runs results/ve_sde results/posterior \\
      --data-file-noisy data/dl_noisy_r0.001.npy --data-file-gt data/dl_gt_r0.001.npy
  python evaluate.py --runs results --data-file-noisy y_test.npy --param-file-gt theta_test.npy
"""

import argparse
import dataclasses
import os
from typing import TYPE_CHECKING

import numpy as np

from checks import minimums
from checks.estimates import known
from checks.run import Run
from checks.skies import Skies
from runtime import atomic, cli, console, provenance, tables
from runtime.errors import InputError
from runtime.priors import FloatArray, Prior
from runtime.tables import Table

if TYPE_CHECKING:  # slow to import
    from matplotlib.figure import Figure

    from checks.calibration import Curves
    from checks.evaluation import Report, RunReport
    from checks.posteriors import ExactPosteriors
    from checks.sharpness import Sharpness
    from figures.evaluation import RunResult, SpectrumDraws

FIGURES = ("sharpness.png", "calibration.png", "controls.png")
PARAMETERS_FIGURE = "parameters.png"  # of the last run that holds draws of several
R_FIGURES = ("r.png", "posterior.png", "getdist.png")  # of the last run that holds draws of r
EXACT_DRAWS = 4000  # of an exact posterior that is drawn


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__)
    group = parser.add_argument_group("files")
    npy = cli.file_argument(".npy")
    group.add_argument("--runs", nargs="+", required=True, help="output folders of sample.py")
    group.add_argument("--data-file-noisy", type=npy, required=True, help="their observations")
    group.add_argument(
        "--data-file-gt", type=npy, help="true spectra, row for row, where runs hold spectra"
    )
    group.add_argument(
        "--param-file-gt",
        type=npy,
        help="the true r, or parameters in the columns of the training, where rows have their own",
    )
    group.add_argument("--out-dir", default="evaluation", help="folder of the outputs")
    group.add_argument(
        "--row", type=cli.non_negative_int, default=0, help="observation shown in figures"
    )
    return parser


@dataclasses.dataclass(frozen=True)
class Configuration:
    """What the flags ask for; see `build_parser`."""

    runs: tuple[str, ...]
    data_file_noisy: str
    data_file_gt: str | None
    param_file_gt: str | None
    out_dir: str
    row: int

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> "Configuration":
        """From parsed arguments."""
        return cls(**{**vars(args), "runs": tuple(args.runs)})

    def output(self, name: str) -> str:
        """Path of an output."""
        return os.path.join(self.out_dir, name)


@dataclasses.dataclass(frozen=True, eq=False)
class Inputs:
    """What is evaluated: skies whose truth is known, and runs on them."""

    skies: Skies
    runs: list[Run]


def load_inputs(config: Configuration) -> Inputs:
    """Read all inputs; InputError where they do not fit."""
    observed, noisy = tables.load_spectra(config.data_file_noisy), config.data_file_noisy
    tables.check_quantity("--data-file-noisy", observed, "observed BB")
    what = "a standard error"
    if len(observed.values) < minimums.ROWS[what]:
        few = minimums.too_few(len(observed.values), minimums.ROWS[what], what)
        raise InputError(f"{noisy}: {few}; give more skies with their truth")
    truth = load_truth(config, observed)
    contaminants = observed.record.contaminants.mean_gaussian
    if contaminants is not None and not (contaminants > 0).all():
        raise InputError(
            f"{noisy}: has multipoles without noise or lensing, where the "
            "observation is the truth; there is nothing to evaluate"
        )
    runs = [Run.load(folder, observed) for folder in config.runs]
    spectra = next((run for run in runs if run.mean is not None), None)
    if truth is None and spectra is not None:
        raise InputError(f"--data-file-gt: is needed, for {spectra.name} holds spectra")
    for run in runs:
        if truth is not None and run.mean is not None and run.mean.shape != truth.values.shape:
            raise InputError(f"{run.name}: its spectra have not the shape of {truth.path}")
    skies = Skies.of(observed, truth, true_parameters(config, observed, runs))
    if truth is not None and not skies.aligned:
        if not any(run.columns for run in runs):
            raise InputError(f"{noisy}: does not fit {config.data_file_gt}, or has zeros")
        console.info(
            f"{noisy}: its columns are no spectra beside those of {truth.path}; parameters are "
            "judged, spectra are not"
        )
    return Inputs(skies, runs)


def load_truth(config: Configuration, observed: Table) -> Table | None:
    """True spectra, where they are given."""
    if config.data_file_gt is None:
        return None
    truth = tables.load_spectra(config.data_file_gt)
    tables.check_quantity("--data-file-gt", truth, "primordial BB")
    tables.check_same_rows(observed, truth)
    return truth


def true_parameters(
    config: Configuration, observed: Table, runs: list[Run]
) -> dict[str, FloatArray]:
    """{name: true values, shape (n,)} of the parameters of all runs; InputError where one lacks."""
    wanted = {each.name: run for run in runs for each in run.columns}
    known: dict[str, FloatArray] = {}
    if config.param_file_gt:
        known = load_parameters(config.param_file_gt, observed, runs)
    elif observed.record.prior.r is not None:
        known = {"r": np.full(len(observed.values), observed.record.prior.r)}
    for name, run in wanted.items():
        if name not in known:
            raise InputError(f"--param-file-gt: is needed, for {run.name} holds draws of {name}")
    return known


def load_parameters(path: str, observed: Table, runs: list[Run]) -> dict[str, FloatArray]:
    """True parameters of a file: named by its record, or in the columns of the runs' models."""
    table = tables.load_table(path, (1, 2))
    tables.check_same_rows(observed, table)
    values = np.asarray(table.values, float).reshape(len(table.values), -1)
    priors = [table.record.prior, *(run.prior for run in runs)]
    named = [[each.name for each in prior.parameters] for prior in priors if prior.parameters]
    names = named[0] if named else ["r"]
    if values.shape[1] != len(names):
        raise InputError(
            f"{path}: has {values.shape[1]} columns; needed is one for each of {', '.join(names)}"
        )
    if not table.record.known and any(other != names for other in named):
        raise InputError(f"{path}: runs differ in their parameters; evaluate them one by one")
    return dict(zip(names, values.T, strict=True))


class PosteriorCache:
    """Exact posteriors of the observations, computed once for each prior."""

    def __init__(self, observed: Table) -> None:
        self.observed = observed
        self._known: dict[str, ExactPosteriors] = {}

    def under(self, prior: Prior) -> "ExactPosteriors":
        """Exact posteriors under a prior; says so where that takes time."""
        from checks.posteriors import ExactPosteriors

        key = repr(dataclasses.replace(prior, mean_dl=None).to_json())
        if key not in self._known:
            if self.observed.record.contaminants.law_known:
                console.info(f"exact posterior under the prior r = {prior.r_or_range}")
            self._known[key] = ExactPosteriors.of(self.observed, prior)
        return self._known[key]


def measure(inputs: Inputs, posteriors: PosteriorCache) -> "tuple[Report, dict[str, Curves]]":
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
    return evaluation.Report(len(skies), title, baselines, reports), curves


# --- figures ---------------------------------------------------------------------------------


def draw_runs(
    ell: np.ndarray, report: "Report", curves: "dict[str, Curves]"
) -> "dict[str, Figure]":
    """{file name: figure} of all runs side by side; none where spectra have no scale (r = 0)."""
    from figures import evaluation

    runs, optimum, baselines = [], None, report.baselines
    for name, run in report.runs.items():
        sharp = run.measurements.sharpness
        if sharp is None:
            continue
        runs.append(run_result(name, sharp, curves[name]))
        if optimum is None and sharp.r2_limit is not None and sharp.slope_limit is not None:
            optimum = evaluation.Optimum(sharp.r2_limit, sharp.slope_limit)
    if not runs:
        return {}
    figures = {
        "sharpness.png": evaluation.sharpness(ell, runs, optimum),
        "controls.png": evaluation.controls(runs, {k: v.value for k, v in baselines.items()}),
        "calibration.png": evaluation.calibration(runs),
    }
    return {name: figure for name, figure in figures.items() if figure is not None}


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
    run: Run, report: "RunReport", skies: Skies, exact: "ExactPosteriors", row: int
) -> "dict[str, Figure]":
    """{file name: figure} of a run with draws of r.

    Args:
        run: The run.
        report: On it.
        skies: Its skies.
        exact: Exact posteriors of all rows.
        row: Observation shown.
    """
    from figures import evaluation

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
        )
        for entry in known(report.measurements.r).sigma
    ]
    grid, density = (None, None) if exact.r is None else (exact.r.r, exact.r.density)
    r_range = known(run.prior.r_range)
    r = evaluation.RDraws(known(run.r), known(skies.r), r_range, grid, density)
    overview = {"r.png": evaluation.r_overview(r, bins, title)}
    if not skies.aligned or run.draws is None:
        return overview
    spectrum = spectrum_draws(run, skies, row)
    return overview | {
        "posterior.png": evaluation.posterior(r, spectrum, row, title),
        "getdist.png": evaluation.triangle(r, spectrum, row, title),
    }


def spectrum_draws(run: Run, skies: Skies, row: int) -> "SpectrumDraws":
    """Draws of one row, and as many as a figure needs of its exact posterior."""
    from checks.posteriors import ExactPosteriors
    from figures.evaluation import SpectrumDraws

    observed, draws = skies.observed, None
    y, contaminants = np.asarray(observed.values), observed.record.contaminants
    single = ExactPosteriors.of_spectra(y[[row]], contaminants, run.prior).x
    if single is not None:
        draws = single.rvs(EXACT_DRAWS, np.random.default_rng(0))[0]
    return SpectrumDraws(
        observed.ell, known(run.draws)[row], draws, y[row], known(skies.truth)[row]
    )


def draw_parameters(run: Run, skies: Skies, row: int) -> "dict[str, Figure]":
    """{file name: figure} of the joint posterior of one row; none of r alone or of few draws."""
    from figures import parameters

    ranges = {each.name: (each.low, each.high) for each in run.columns}
    if ranges.keys() <= {"r"}:
        return {}
    draws = {name: run.parameters[name][row] for name in ranges}
    truth = {name: float(skies.parameters[name][row]) for name in ranges}
    figure = parameters.triangle(draws, ranges, truth)
    return {} if figure is None else {PARAMETERS_FIGURE: figure}


@cli.script
def main(argv: list[str] | None = None) -> None:
    parser = build_parser()
    config = Configuration.from_args(parser.parse_args(argv))
    inputs = load_inputs(config)
    skies, with_r = inputs.skies, [run for run in inputs.runs if run.r is not None]
    n = len(skies)
    if config.row >= n:
        parser.error(f"--row {config.row}: there are {n} rows")
    names = ["report.json", "report.md", *FIGURES, *(R_FIGURES if with_r else ())]
    names += [PARAMETERS_FIGURE]
    atomic.claim_outputs(map(config.output, names))

    from checks.report import markdown

    posteriors = PosteriorCache(skies.observed)
    report, curves = measure(inputs, posteriors)
    content = report.to_json() | provenance.collect(argv)
    atomic.write_json(config.output("report.json"), content)
    text = markdown(report)
    atomic.write_bytes(config.output("report.md"), text)
    figures = draw_runs(skies.observed.ell, report, curves)
    for run in with_r[-1:]:
        exact = posteriors.under(run.prior)
        figures |= draw_r(run, report.runs[run.name], skies, exact, config.row)
    for run in inputs.runs:
        figures |= draw_parameters(run, skies, config.row)
    for name, figure in figures.items():
        atomic.write_figure(config.output(name), figure)
    console.print_result(text)
    written = ["report.json", "report.md", *figures]
    console.print_result(f"wrote {', '.join(map(config.output, written))}")


if __name__ == "__main__":
    main()
