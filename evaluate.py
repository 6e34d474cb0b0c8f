"""Hold samples against the exact Bayesian answers, and say what they are worth. Runs no network.

Reads the output folders of sample.py (--runs), each made from the same observations, with these
observations, their truth and, where each row has its own r, that r. Writes into --out-dir
report.json, report.md (one table, a row per method) and figures: sharpness.png, calibration.png,
controls.png, and where a run holds draws of r, r.png, posterior.png and getdist.png.

Where the sidecar of the observations gives the law of the contaminants the exact posterior is
known; elsewhere only what needs no more than the truth is computed. A run of a model that was
trained on another sky is a mismatch, and r is never told without it: name in --runs a run of a
model that was trained on the sky of the observations beside it.

Example:
  python evaluate.py --runs results/ve_sde results/posterior \\
      --data-file-noisy data/dl_noisy_r0.001.npy --data-file-gt data/dl_gt_r0.001.npy
"""

import dataclasses
import os

import numpy as np

from runtime import atomic, cli, console, records, tables
from runtime.errors import InputError

FIGURES = ("sharpness.png", "calibration.png", "controls.png")
MIN_ROWS, MIN_DRAWS = 10, 16  # below, a standard error means nothing
R_FIGURES = ("r.png", "posterior.png", "getdist.png")  # of the last run that holds draws of r


@dataclasses.dataclass(frozen=True)
class Run:
    """One output folder of sample.py.

    Attributes:
        name: The folder.
        mean: D_ell, shape (n, n_ell), uK^2: posterior mean, or whatever the recipe gave.
        draws: Posterior draws, shape (n, m, n_ell), uK^2, or None.
        r: Posterior draws of r, shape (n, m), or None.
        metadata: Sidecar of denoised.npy.
    """

    name: str
    mean: np.ndarray
    draws: np.ndarray | None
    r: np.ndarray | None
    metadata: dict


def check_r(path, draws, prior):
    """InputError unless draws of r vary, and come with the prior and the signal of all r."""
    try:
        known = records.signal_template(prior) is not None
    except ValueError:
        known = False
    if not known:
        raise InputError(
            f"{path}: the sidecar of denoised.npy lacks its r_range or signal_template; "
            "run sample.py again"
        )
    if (draws.min(1) == draws.max(1)).any():
        raise InputError(f"{path}: in some row all draws are the same; train again")


def load_run(folder, observed):
    """A `Run`; InputError unless it was made from these observations."""

    def load(name, ndim):
        path = os.path.join(folder, name)
        if ndim > 2 and not os.path.exists(path):
            return None
        table = tables.load_table(path, ndim)
        source, prior = (table.metadata.get(key) for key in ("observation", "prior"))
        if not isinstance(prior, dict) or not isinstance(prior.get("sky", {}), dict):
            raise InputError(f"{path}: its sidecar names no prior; run sample.py again")
        if not isinstance(source, dict) or source.get("sha256") != observed.sha256:
            raise InputError(f"{path}: was not sampled from {observed.path}; run sample.py on it")
        return table

    mean = load("denoised.npy", 2)
    draws = load("posterior_draws.npy", 3)
    r = None
    if draws is not None and os.path.exists(os.path.join(folder, "r_draws.npy")):
        r = load("r_draws.npy", 2).values
        check_r(os.path.join(folder, "r_draws.npy"), r, mean.metadata["prior"])
    shape = observed.values.shape
    for table in filter(None, (mean, draws)):
        if (len(table.values), table.values.shape[-1]) != shape:
            raise InputError(f"{table.path}: has not the {shape[0]} rows of {observed.path}")
    draws = None if draws is None else draws.values
    if draws is not None and draws.shape[1] < MIN_DRAWS:
        raise InputError(
            f"{folder}: has {draws.shape[1]} draws per observation; statistics need {MIN_DRAWS}: "
            "sample.py --num-draws"
        )
    return Run(os.path.normpath(folder), mean.values, draws, r, mean.metadata)


def number(entry, digits=3):
    """ "value +- error" of a report's entry; a dash where there is none."""
    if entry is None:
        return "–"
    return f"{entry['value']:.{digits}g} ± {entry['error']:.1g}"


def markdown(report):
    """The report as a Markdown document."""
    ratio = "MSE is in units of S², averaged over ell"
    lines = [f"{report['num_observations']} observations, {report['prior']}. {ratio}.", ""]
    header = ["method", "MSE", "excess over exact, %", "attainable correlation, %", "CRPS skill"]
    header += ["PIT KS (floor)", "SBC p", "TARP p", "68 % coverage", "verdict"]
    lines += ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for name, entry in report["baselines"].items():
        lines.append(f"| {name} | {number(entry)} |" + " – |" * (len(header) - 2))
    for name, run in report["runs"].items():
        if "mse" not in run:
            continue
        share = {k: 100 * v for k, v in run["attained_share"].items()}
        pit = run.get("pit_ks")
        cells = [name, number(run["mse"]), number(run.get("excess_percent")), number(share)]
        cells.append(number(run.get("crps_skill")))
        cells.append(f"{pit['value']:.4f} ({pit['floor']:.4f})" if pit else "–")
        cells.append(f"{run['sbc']['smallest_times_ell']:.2g}" if "sbc" in run else "–")
        cells.append(f"{run['tarp']['p_value']:.2g}" if "tarp" in run else "–")
        covered = run.get("coverage", {}).get("0.68")
        cells.append(number(covered) if covered else "–")
        failed = sum(not row["passed"] for row in run["checks"])
        told = f"{failed} of {len(run['checks'])} checks failed" if failed else "all checks pass"
        cells.append(f"echo of the prior, {told}" if run["echo"] else told)
        lines.append("| " + " | ".join(cells) + " |")
    for name, run in report["runs"].items():
        lines += ["", f"**{name}**. {run.get('verdict', '')}", ""]
        lines += ["| check | value | threshold | |", "|---|---|---|---|"]
        for row in run["checks"]:
            value = f"{row['value']:.4g}" + (
                "" if row["error"] is None else f" ± {row['error']:.1g}"
            )
            passed = "pass" if row["passed"] else "FAIL"
            lines.append(f"| {row['check']} | {value} | {row['limit']} | {passed} |")
        if "mismatch" in run:
            lines += ["", mismatch_line(report, name)]
        if "r" in run:
            lines += ["", *r_lines(run["r"])]
    if any("mismatch" in run for run in report["runs"].values()):
        lines += ["", *mismatch_table(report)]
    return "\n".join(lines) + "\n"


def r_lines(report):
    """What a run says of r, as lines of Markdown."""
    low, high = report["upper_limit_68"], report["upper_limit_95"]
    told = [f"{number(report['bias_truth'])} sigma", *(f"{v['median']:.3g}" for v in (low, high))]
    if "exact_bias_truth" in report:
        exact = report["exact_bias_truth"]["value"], low["exact_median"], high["exact_median"]
        told = [f"{own} (exact posterior: {v:.3g})" for own, v in zip(told, exact, strict=True)]
    elif "sbc_p" not in report:
        told[0] += " (an exact posterior has some, too, near an edge of its prior)"
    lines = [
        f"Mean of r̂: {number(report['mean_r'])}, bias against the truth {told[0]}. Medians over "
        f"skies: 68 % upper limit {told[1]}, 95 % upper limit {told[2]}.",
        "",
        "| true r | sigma(r) | exact | Fisher limit | rms error | bias, sigma |",
        "|---|---|---|---|---|---|",
    ]
    for row in report["sigma"]:
        exact, fisher = ("–" if row[k] is None else f"{row[k]:.3g}" for k in ("exact", "fisher"))
        sigma = f"{row['sigma']:.3g} ± {row['error']:.1g}"
        rms = f"{row['rms_error']:.3g} ± {row['rms_error_error']:.1g}"
        cells = [f"{row['r']:.3g}", sigma, exact, fisher, rms, number(row["bias"])]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def tell_mismatch(run):
    """(what a run's model was trained on, what was observed), where they differ, in words."""
    trained, observed = run["mismatch"]["trained_on"], run["mismatch"]["observed"]
    words = [(key, *records.describe_difference(trained[key], observed[key])) for key in trained]
    if len(words) == 1:
        (key, own, other) = words[0]
        return f"{key} {own}", other
    return tuple(", ".join(f"{row[0]} {row[k]}" for row in words) for k in (1, 2))


def mismatch_title(run):
    """What a run's model was trained on, and what was observed; empty without a mismatch."""
    return "trained on {}, observed {}".format(*tell_mismatch(run)) if "mismatch" in run else ""


def mismatch_line(report, name):
    """One line that stands wherever r of a run with a mismatch does, as Markdown."""
    run = report["runs"][name]
    line = f"**Mismatch**: {mismatch_title(run)}."
    if "r" not in run:
        return line
    line += f" Bias of r: {number(run['r']['bias_truth'])} sigma; "
    matched = {k: v for k, v in report["runs"].items() if v["trained_on_this_sky"] and "r" in v}
    if not matched:
        return line + (
            "no matched run beside it: train on this sky, sample, and name its folder in --runs."
        )
    told = (f"matched run {k}: {number(v['r']['bias_truth'])} sigma" for k, v in matched.items())
    return line + ", ".join(told) + "."


def mismatch_table(report):
    """All runs with draws of r, with and without a mismatch, as lines of Markdown."""
    header = ["sky mismatch", "trained on", "observed", "bias of r, sigma", "68 % coverage"]
    lines = ["| " + " | ".join([*header, "mean sigma(r)"]) + " |", "|---" * 6 + "|"]
    for name, run in report["runs"].items():
        if "r" not in run:
            continue
        own, observed = "as observed" if run["trained_on_this_sky"] else "unknown", "–"
        if "mismatch" in run:
            own, observed = tell_mismatch(run)
        covered = run["r"].get("coverage", {}).get("0.68")
        entries = (run["r"]["bias_truth"], covered, run["r"]["mean_sigma"])
        lines.append("| " + " | ".join([name, own, observed, *map(number, entries)]) + " |")
    return lines


def sky_of_training(run, observed):
    """What the report says of the sky that a run's model was trained on."""
    trained, seen = run.metadata["prior"].get("sky", {}), records.sky(observed.metadata)
    differing = records.differences(trained, seen)
    if not differing:  # a sky that is unknown is no mismatch, but no match either
        return {"trained_on_this_sky": True if trained and seen else None}
    own, other = ({key: pair[k] for key, pair in differing.items()} for k in (0, 1))
    return {"trained_on_this_sky": False, "mismatch": {"trained_on": own, "observed": other}}


def write_figures(out_dir, figures):
    """Write {name: matplotlib figure} into out_dir."""
    for name, figure in figures.items():
        atomic.write_figure(os.path.join(out_dir, name), figure)


def build_parser():
    parser = cli.make_parser(__doc__)
    group = parser.add_argument_group("files")
    npy = cli.file_argument(".npy")
    group.add_argument("--runs", nargs="+", required=True, help="output folders of sample.py")
    group.add_argument("--data-file-noisy", type=npy, required=True, help="their observations")
    group.add_argument("--data-file-gt", type=npy, required=True, help="the truth, row for row")
    group.add_argument("--param-file-gt", type=npy, help="the true r, where each row has its own")
    group.add_argument("--out-dir", default="evaluation", help="folder of the outputs")
    group.add_argument(
        "--row", type=cli.non_negative_int, default=0, help="observation shown in figures"
    )
    return parser


def load_inputs(args):
    """(observed, truth, r_true, runs); r_true is None where it is unknown."""
    observed = tables.load_spectra(args.data_file_noisy)
    truth = tables.load_spectra(args.data_file_gt)
    tables.check_quantity("--data-file-noisy", observed, "observed BB")
    tables.check_quantity("--data-file-gt", truth, "primordial BB")
    tables.check_same_rows(observed, truth)
    if truth.values.shape != observed.values.shape or (observed.values <= 0).any():
        raise InputError(f"{args.data_file_noisy}: does not fit {args.data_file_gt}, or has zeros")
    if len(observed.values) < MIN_ROWS:
        raise InputError(f"{args.data_file_noisy}: has less than {MIN_ROWS} rows")
    if observed.residual is not None and not (observed.residual > 0).all():
        raise InputError(
            f"{args.data_file_noisy}: has multipoles without noise or lensing, where the "
            "observation is the truth; there is nothing to evaluate"
        )
    r_true = observed.metadata.get("r")
    if args.param_file_gt:
        parameter = tables.load_r(args.param_file_gt)
        tables.check_same_rows(observed, parameter)
        r_true = parameter.values
    elif r_true is not None:
        r_true = np.full(len(observed.values), r_true)
    runs = [load_run(folder, observed) for folder in args.runs]
    if r_true is None and any(run.r is not None for run in runs):
        raise InputError("--param-file-gt: is needed, for a run holds draws of r")
    return observed, truth, r_true, runs


@cli.script
def main(argv=None):
    parser = build_parser()
    args = parser.parse_args(argv)
    observed, truth, r_true, runs = load_inputs(args)
    n = len(observed.values)
    if args.row >= n:
        parser.error(f"--row {args.row}: there are {n} rows")
    names = ["report.json", "report.md", *FIGURES]
    names += R_FIGURES if any(run.r is not None for run in runs) else ()
    atomic.claim_outputs([os.path.join(args.out_dir, name) for name in names])

    from checks import sharpness
    from figures import evaluation

    y, x = np.asarray(observed.values), np.asarray(truth.values)
    scale = x.mean(0) if (x > 0).all() else None
    if scale is not None and observed.metadata.get("dl_signal"):
        scale = observed.theory("dl_signal")
    answers = {}

    def exact_for(prior):
        key = repr([prior.get(k) for k in ("r", "dl_signal", "r_range", "signal_template")])
        if key not in answers:
            if "dl_contaminant" in observed.metadata:
                console.info(f"exact posterior under the prior r = {sharpness.prior_of(prior)}")
            answers[key] = sharpness.Exact(y, observed, prior)
        return answers[key]

    own = exact_for(observed.metadata)
    report = {
        "num_observations": n,
        "prior": f"r = {sharpness.prior_of(observed.metadata)}",
        "baselines": {},
        "runs": {},
    }
    if scale is not None:
        errors = sharpness.baselines(observed, x, own, scale)
        report["baselines"] = {name: sharpness.estimate(values) for name, values in errors.items()}
    curves = {}
    for run in console.progress(runs, desc="evaluating", unit="run"):
        exact = exact_for(run.metadata.get("prior", {}))
        results = sharpness.compare(run, x, observed, exact, r_true, scale)
        curves[run.name] = results[1]
        report["runs"][run.name] = results[0] | sky_of_training(run, observed)

    atomic.write_json(
        os.path.join(args.out_dir, "report.json"), {**report, **records.provenance(argv)}
    )
    text = markdown(report)
    atomic.write_bytes(os.path.join(args.out_dir, "report.md"), text)
    figures = evaluation.overview(observed.ell, report, curves)
    for run in [run for run in runs if run.r is not None][-1:]:
        exact, told = exact_for(run.metadata["prior"]), report["runs"][run.name]
        single = sharpness.Exact(y[[args.row]], observed, run.metadata["prior"])
        common = run, observed, x, r_true, exact, single, told["r"], args.row
        figures |= evaluation.r_figures(*common, mismatch_title(told))
    write_figures(args.out_dir, figures)
    console.print_result(text)
    written = [*names[:2], *figures]
    console.print_result(f"wrote {', '.join(os.path.join(args.out_dir, name) for name in written)}")


if __name__ == "__main__":
    main()
