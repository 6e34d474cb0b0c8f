"""Reports as Markdown."""

from collections.abc import Iterable, Sequence

from checks import minimums
from checks.against_map import RAgainstMap, SpectrumAgainstMap
from checks.estimates import LOW_ELL, Estimate, known
from checks.evaluation import Report, RunReport
from checks.parameters import ParameterReport
from checks.r import AgainstExact, RReport, UpperLimit
from checks.statistics import Coverage


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table.

    Cells are not padded to a common width, as `tabulate` does: lines stay short, and one changed
    number changes one line.
    """

    def line(cells: Sequence[str]) -> str:
        return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)

    return [line(header), "|---" * len(header) + "|", *map(line, rows)]


def number(entry: Estimate | Coverage | None, scale: float = 1, digits: int = 3) -> str:
    """ "value ± error" of an estimate; a dash where there is none."""
    if entry is None:
        return "–"
    return f"{scale * entry.value:.{digits}g} ± {one_digit(scale * entry.error)}"


def one_digit(error: float) -> str:
    """An error to one digit: 20, not 2e+01."""
    return f"{float(f'{error:.1g}'):g}"


def markdown(report: Report) -> str:
    """The report of evaluate.py as a Markdown document."""
    lines = [f"{report.num_observations} observations{report.prior and ', '}{report.prior}.", ""]
    if any(run.measurements.sharpness is not None for run in report.runs.values()):
        lines[0] += " MSE is in units of S², averaged over ell."
        lines += _methods(report)
    if report.masked_sky is not None:
        lines += ([""] if lines[-1] else []) + [_masked_sky(report)]
    for name, run in report.runs.items():
        sharp = run.measurements.sharpness
        lines += ["", f"**{name}**" + ("" if sharp is None else f". {sharp.verdict}")]
        lines += ["", *_checks(run)] if run.checks else []
        calibration = run.measurements.calibration
        if calibration is not None and calibration.worst_width is not None:
            ell, ratio = calibration.worst_width
            lines += [
                "",
                f"Width of D_ell over the exact one: {ratio:.3f} at ell = {ell}, the worst.",
            ]
        if run.sky.mismatch is not None:
            lines += ["", _mismatch(report, run)]
        lines += [f"\n{note}" for note in _priors(run)]
        if run.measurements.r is not None:
            lines += ["", *_r(run.measurements.r)]
        lines += _beside_map(run)
        if run.measurements.parameters is not None:
            lines += ["", *_parameters(run.measurements.parameters)]
    lines += _limits(report)
    if any(run.sky.mismatch is not None for run in report.runs.values()):
        lines += ["", *_mismatches(report)]
    return "\n".join(lines) + "\n"


def _methods(report: Report) -> list[str]:
    """All methods side by side, a row each."""
    header = ["method", "MSE", "excess over exact, %", "attainable correlation, %", "CRPS skill"]
    header += ["PIT KS (floor)", "SBC p", "TARP p", "68 % coverage", "verdict"]
    rows = [
        [name, number(entry), *["–"] * (len(header) - 2)]
        for name, entry in report.baselines.items()
    ]
    rows += [
        [name, *_method_cells(run)]
        for name, run in report.runs.items()
        if run.measurements.sharpness is not None
    ]
    return table(header, rows)


def _method_cells(run: RunReport) -> list[str]:
    sharp, calibration = known(run.measurements.sharpness), known(run.measurements.calibration)
    pit, sbc, tarp = calibration.pit_ks, calibration.sbc, calibration.tarp
    failed = sum(not check.passed for check in run.checks)
    outcome = f"{failed} of {len(run.checks)} checks failed" if failed else "all checks pass"
    return [
        number(sharp.mse),
        number(sharp.excess_percent),
        number(sharp.attained_share, 100),
        number(sharp.crps_skill),
        "–" if pit is None else f"{pit.value:.4f} ({pit.floor:.4f})",
        "–" if sbc is None else f"{sbc.smallest_times_ell:.2g}",
        "–" if tarp is None else f"{tarp.p_value:.2g}",
        number((calibration.coverage or {}).get(0.68)),
        f"echo of the prior, {outcome}" if sharp.echo else outcome,
    ]


def _checks(run: RunReport) -> list[str]:
    rows = [
        [
            check.name,
            f"{check.value:.4g}" + ("" if check.error is None else f" ± {one_digit(check.error)}"),
            check.limit,
            "pass" if check.passed else "FAIL",
        ]
        for check in run.checks
    ]
    return table(["check", "value", "threshold", ""], rows)


def _r(report: RReport) -> list[str]:
    """Bias, upper limits, and sigma(r) in bins."""
    bias = f"{number(report.bias_truth)} sigma"
    if report.against_exact is not None:
        bias += f" (exact posterior: {report.against_exact.exact_bias_truth.value:.3g})"
    elif report.sbc_p is None:
        bias += " (an exact posterior has some, too, near an edge of its prior)"
    limits = {0.68: report.upper_limit_68, 0.95: report.upper_limit_95}
    words = [_limit(level, limit) for level, limit in limits.items()]
    limits_of = {  # columns of limits that no row has are left out
        name: values
        for name, values in (
            ("exact", [row.exact for row in report.sigma]),
            ("Fisher limit", [row.fisher for row in report.sigma]),
        )
        if any(value is not None for value in values)
    }
    rows = [
        [
            f"{row.r:.3g}",
            number(Estimate(row.sigma, row.error)),
            *("–" if v[k] is None else f"{v[k]:.3g}" for v in limits_of.values()),
            number(Estimate(row.rms_error, row.rms_error_error)),
            number(row.bias),
        ]
        for k, row in enumerate(report.sigma)
    ]
    if any(row.limits is not None for row in report.sigma):
        limits_of = {f"{name}, map": values for name, values in limits_of.items()}
    header = ["true r", "sigma(r)", *limits_of, "rms error", "bias, sigma"]
    return [
        f"Mean of r̂: {number(report.mean_r)}, bias against the truth {bias}. Medians over "
        f"skies: {', '.join(words)}.",
        "",
        *table(header, rows),
    ]


# --- part of the sky -------------------------------------------------------------------------


def _masked_sky(report: Report) -> str:
    """What is seen, and what exact means there."""
    words = f"Part of the sky: {report.masked_sky}."
    if any(run.no_exact_answer is None for run in report.runs.values()):
        words += (
            " What is called exact is the posterior given the map, of which the observed spectrum "
            "holds less."
        )
    return words


def _beside_map(run: RunReport) -> list[str]:
    """A run beside the answer that the maps give, or why there is none."""
    lines = []
    if run.no_exact_answer is not None:
        lines += ["", f"**No exact answer**: {run.no_exact_answer}."]
    r, sharp = run.measurements.r, run.measurements.sharpness
    if r is not None and r.against_exact is not None and r.against_exact.map is not None:
        lines += ["", *_r_beside_map(r.against_exact, r.against_exact.map)]
    if sharp is not None and sharp.map is not None:
        lines += ["", *_spectrum_beside_map(sharp.map)]
    return lines


def _r_beside_map(against: AgainstExact, given_map: RAgainstMap) -> list[str]:
    own = given_map.width_of_spectrum
    words = (
        f"Against p(r | map): width {number(given_map.width_ratio)}, of which the spectrum itself "
        f"makes {own:.3f}; rms deviation of the mean {number(against.rms_deviation)} sigma, of "
        f"which the spectrum itself makes {given_map.rms_deviation_of_spectrum:.2f}; bias "
        f"{number(against.bias)} sigma; rms error over the map's "
        f"{number(given_map.rms_error_ratio)}."
    )
    header = ["true r", "skies", "width over the map's", "the spectrum's own"]
    rows = [
        [
            f"{row.r_low:.4f}–{row.r_high:.4f}",
            str(row.num),
            number(row.width_ratio, digits=4),
            f"{row.width_of_spectrum:.3f}",
            number(row.rms_error_ratio),
        ]
        for row in given_map.widths
    ]
    if not rows:  # too few skies for bins of r
        return [words]
    return [words, "", *table([*header, "rms error over the map's"], rows)]


def _spectrum_beside_map(found: SpectrumAgainstMap) -> list[str]:
    """A row for each of the lowest multipoles."""
    ratios = map(Estimate, found.squared_error_ratio, found.squared_error_ratio_error)
    excess = map(Estimate, found.excess_percent, found.excess_percent_error)
    columns = zip(ratios, excess, found.excess_of_spectrum, strict=True)
    rows = [
        [str(ell), number(ratio), number(percent), f"{own:.2f}"]
        for ell, (ratio, percent, own) in enumerate(columns, 2)
        if ell <= LOW_ELL
    ]
    header = ["ell", "squared error over that of E[x \\| map]", "excess by distance, %"]
    return table([*header, "the spectrum's own, %"], rows)


def _limits(report: Report) -> list[str]:
    """What map, spectrum and the rule of thumb make of sigma(r), of the first run that has them."""
    for run in report.runs.values():
        sigma = [] if run.measurements.r is None else run.measurements.r.sigma
        rows = [
            [
                f"{row.r:.3g}",
                f"{row.limits.map:.3g}",
                f"{row.limits.spectrum:.3g}",
                f"{row.limits.spectrum / row.limits.map:.3f}",
                f"{row.limits.rule_of_thumb:.3g}",
                f"{row.limits.rule_over_map:.3f}",
            ]
            for row in sigma
            if row.limits is not None
        ]
        if rows:
            words = (
                "Fisher limits of sigma(r): of the map, and of the best linear estimate from its "
                "spectrum; beside them the rule of thumb, full sky over √f_sky, which is wrong on "
                "part of the sky and no limit."
            )
            header = ["true r", "map", "spectrum", "spectrum / map", "rule of thumb", "rule / map"]
            return ["", words, "", *table(header, rows)]
    return []


# --- parameters, priors, skies ---------------------------------------------------------------


def _parameters(reports: dict[str, ParameterReport]) -> list[str]:
    """A row for each parameter."""
    header = ["parameter", "bias, sigma", "mean sigma", "SBC p", "68 % coverage", "95 % coverage"]
    rows = [
        [
            name,
            number(report.bias_truth),
            number(report.mean_sigma),
            "–" if report.sbc_p is None else f"{report.sbc_p:.2g}",
            *(number((report.coverage or {}).get(level)) for level in (0.68, 0.95)),
        ]
        for name, report in reports.items()
    ]
    return table(header, rows)


def _priors(run: RunReport) -> list[str]:
    """A sentence for each parameter whose prior makes some of the answers."""
    found = []
    for name, report in (run.priors or {}).items():
        if report.outside:
            found.append(
                f"**{name}**: the true value of {report.outside} observations lies outside of the "
                "prior that the model was trained on; no draw of theirs can reach it."
            )
        if report.edges is not None:
            shares = {"lower": report.edges.lower, "upper": report.edges.upper}
            words = " and ".join(f"{100 * v:.2g} % at the {k}" for k, v in shares.items() if v)
            found.append(f"**{name}**: posteriors cut by an edge of the prior: {words} edge.")
    return found


def _limit(level: float, limit: UpperLimit | None) -> str:
    """The median upper limit of a level, or how many draws it takes."""
    words = f"{100 * level:.0f} % upper limit"
    if limit is None:
        return f"no {words} (it takes {minimums.quantile_draws(level)} draws)"
    words += f" {limit.median:.3g}"
    if limit.exact_median is not None:
        words += f" (exact posterior: {limit.exact_median:.3g})"
    return words


def _mismatch(report: Report, run: RunReport) -> str:
    """One line that stands wherever r of a run with a mismatch does."""
    line = f"**Mismatch**: {known(run.sky.mismatch).title}."
    if run.measurements.r is None:
        return line
    line += f" Bias of r: {number(run.measurements.r.bias_truth)} sigma; "
    matched = [
        f"matched run {name}: {number(other.measurements.r.bias_truth)} sigma"
        for name, other in report.runs.items()
        if other.sky.trained_on_this_sky and other.measurements.r is not None
    ]
    missing = "no matched run beside it: train on this sky, sample, and name its folder in --runs"
    return line + (", ".join(matched) or missing) + "."


def _mismatches(report: Report) -> list[str]:
    """All runs with draws of r, with and without a mismatch."""
    header = ["sky mismatch", "trained on", "observed", "bias of r, sigma", "68 % coverage"]
    rows = []
    for name, run in report.runs.items():
        r = run.measurements.r
        if r is None:
            continue
        skies = ("as observed" if run.sky.trained_on_this_sky else "unknown", "–")
        if run.sky.mismatch is not None:
            skies = run.sky.mismatch.describe()
        covered = (r.coverage or {}).get(0.68)
        rows.append([name, *skies, *map(number, (r.bias_truth, covered, r.mean_sigma))])
    return table([*header, "mean sigma(r)"], rows)
