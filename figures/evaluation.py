"""Figures of evaluate.py: runs side by side, and one run's posterior on the exact answer."""

import textwrap

import numpy as np

from figures import plots

# Okabe & Ito (2008), with dashes that tell runs apart in print
COLORS = ("#0072B2", "#D55E00", "#CC79A7", "#009E73", "#E69F00", "#56B4E9", "#666666")
DASHES = ("-", "--", "-.", ":")
EXACT = {"color": "#000000", "ls": "--", "lw": 1.5}


def _styles(names):
    return {
        name: {"color": COLORS[k % len(COLORS)], "ls": DASHES[k % len(DASHES)]}
        for k, name in enumerate(names)
    }


def overview(ell, report, curves):
    """Figures of all runs: {"sharpness.png", "calibration.png", "controls.png"}, where known.

    Args:
        ell: Multipoles, shape (n_ell,).
        report: As evaluate.py writes it.
        curves: {run: {"pit", "sbc", "tarp"}}: values that are uniform for exact draws.
    """
    runs = {name: run for name, run in report["runs"].items() if "mse" in run}
    if not runs:
        return {}
    styles = _styles(runs)
    figures = {
        "sharpness.png": _sharpness(ell, runs, styles),
        "controls.png": _controls(runs, report["baselines"]),
    }
    if any(curves.values()):
        figures["calibration.png"] = _calibration(curves, styles)
    return figures


def _sharpness(ell, runs, styles):
    figure, (left, right) = plots._axes()
    known = [run for run in runs.values() if "r2_limit" in run]
    if known:
        left.plot(ell, known[0]["r2_limit"], **plots.LIMIT, label="exact posterior mean")
        right.plot(ell, known[0]["slope_limit"], **plots.LIMIT, label="exact posterior mean")
    for name, run in runs.items():
        for axis, key in ((left, "r2"), (right, "slope")):
            axis.errorbar(ell, run[key], run[f"{key}_error"], **styles[name], lw=1, label=name)
    for axis in (left, right):
        plots._ell_axis(axis)
        axis.axhline(0, color="#BBBBBB", lw=0.8)
    left.legend(fontsize=8)
    left.set(ylabel=r"$R^2$ of the estimate", ylim=(-1.1, 1.05))
    right.set(ylabel=r"response $\mathrm{d}E[x]/\mathrm{d}y$", ylim=(-0.2, 1.05))
    return figure


def _calibration(curves, styles):
    titles = {
        "pit": "PIT under the exact posterior",
        "sbc": "rank of the truth (SBC)",
        "tarp": "TARP rank",
    }
    present = [key for key in titles if any(key in values for values in curves.values())]
    figure, axes = plots._axes(len(present), 4 * len(present), 3.4)
    for key, axis in zip(present, np.atleast_1d(axes), strict=True):
        for name, values in curves.items():
            if key in values:
                u = np.sort(values[key])
                expected = (np.arange(len(u)) + 0.5) / len(u)
                thin = np.linspace(0, len(u) - 1, min(len(u), 500)).astype(int)
                axis.plot(u[thin], (expected - u)[thin], **styles[name], lw=1.2, label=name)
        axis.axhline(0, color="#BBBBBB", lw=0.8)
        axis.set(xlabel=f"{titles[key]}, $u$", ylabel="fraction below $u$, minus $u$", xlim=(0, 1))
        low, high = axis.get_ylim()
        axis.set_ylim(min(low, -0.03), max(high, 0.03))
        axis.legend(fontsize=8)
    return figure


def _controls(runs, baselines):
    figure, axis = plots._axes(1, 6.5, 0.8 + 0.6 * len(runs))
    heights = np.arange(len(runs))[::-1]
    for offset, key, color, label in (
        (0.18, "mse", COLORS[0], "its own observation"),
        (-0.18, "shuffled_mse", COLORS[4], "another sky's observation (control)"),
    ):
        values = [run[key]["value"] for run in runs.values()]
        errors = [run[key]["error"] for run in runs.values()]
        axis.barh(heights + offset, values, 0.34, xerr=errors, color=color, label=label)
    for name, line in (("prior mean", plots.THEORY), ("exact posterior mean", plots.LIMIT)):
        if name in baselines:
            axis.axvline(baselines[name]["value"], **line, label=name)
    axis.set(yticks=heights, yticklabels=list(runs), xlabel="mean squared error in units of $S^2$")
    if max(run["mse"]["value"] for run in runs.values()) > 2:
        axis.set_xscale("log")
    figure.legend(fontsize=8, loc="outside upper center", ncols=2)
    return figure


def r_figures(run, observed, truth, r_true, exact, single, report, row, title):
    """Figures of a run with r: {"r.png", "posterior.png", "getdist.png"}.

    Args:
        run: evaluate.Run with draws of r, shape (n, m).
        observed: storage.Table of the observations.
        truth: True D_ell, shape (n, n_ell), uK^2.
        r_true: True r, shape (n,).
        exact: comparison.Exact of all rows; what it does not know is left out.
        single: comparison.Exact of the row shown.
        report: The part on r of the run's report.
        row: Observation shown.
        title: Of the figures: the mismatch of the run, or empty.
    """
    figures = {
        "r.png": _r_all(run, r_true, report),
        "posterior.png": _posterior(run, observed, truth, r_true, exact, single, row),
        "getdist.png": _getdist(run, truth, r_true, exact, row),
    }
    for name, figure in figures.items():
        if name == "getdist.png":  # makes no room for a title, but its corner is empty
            figure.text(0.98, 0.97, textwrap.fill(title, 55), ha="right", va="top", fontsize=9)
        elif title:
            figure.suptitle(title, fontsize=9, wrap=True)
    return figures


def _r_all(run, r_true, report):
    figure, (left, right) = plots._axes()
    color = COLORS[0]
    if np.ptp(r_true) > 0:
        shown = np.argsort(r_true)[:: max(1, len(r_true) // 150)]
        low, middle, high = np.quantile(run.r[shown], [0.16, 0.5, 0.84], axis=1)
        bars = [middle - low, high - middle]
        left.errorbar(
            r_true[shown], middle, bars, fmt="o", ms=2.5, lw=0.6, color=color, label="median, 68 %"
        )
        left.axline((0, 0), slope=1, color="k", lw=0.8, label="truth")
        left.set(xlabel="true $r$", ylabel=r"$\hat r$")
    else:
        for values, label, tone in (
            (np.median(run.r, 1), "median", color),
            (np.quantile(run.r, 0.95, axis=1, method="weibull"), "95 % upper limit", COLORS[4]),
        ):
            left.hist(values, bins=40, density=True, alpha=0.6, color=tone, label=label)
        left.axvline(r_true[0], color="k", lw=1, label="truth")
        left.set(xlabel=plots.R_LABEL, ylabel="density over skies")
        left.locator_params(axis="x", nbins=5)
    table = report["sigma"]
    r = [line["r"] for line in table]
    marker = {"marker": "_", "ms": 14} if len(r) == 1 else {}
    for key, style, label in (
        ("fisher", plots.LIMIT, "Fisher limit"),
        ("exact", EXACT, "exact posterior"),
    ):
        if table and table[0][key] is not None:
            right.plot(r, [line[key] for line in table], **style, **marker, label=label)
    rms, error = ([line[key] for line in table] for key in ("rms_error", "rms_error_error"))
    label = "rms error of the posterior mean"
    right.errorbar(r, rms, error, color=COLORS[1], ls=":", marker="o", ms=3, label=label)
    sigma, error = ([line[key] for line in table] for key in ("sigma", "error"))
    right.errorbar(r, sigma, error, color=color, marker="s", ms=4, mfc="white", label="learned")
    right.set(xlabel="true $r$", ylabel=r"$\sigma(r)$")
    right.set_ylim(0, None)
    if len(r) == 1:  # no line to follow: the marks above each other, the legend beside them
        right.set(xticks=r, xlim=(r[0] - 0.2, r[0] + 0.8))
    for axis in (left, right):
        axis.legend(fontsize=8)
    return figure


def _posterior(run, observed, truth, r_true, exact, single, row):
    figure, (left, right) = plots._axes()
    order = np.argsort(run.r.mean(1), kind="stable")
    others = order[[len(order) // 10, len(order) // 2, 9 * len(order) // 10]]
    for k, color in zip([row, *others], COLORS, strict=False):
        left.hist(
            run.r[k],
            bins="auto",
            density=True,
            histtype="stepfilled",
            color=color,
            alpha=0.35,
            lw=0,
        )
        if exact.r is not None:
            left.plot(exact.r.r, exact.r.density[k], color=color, lw=1.4)
        left.axvline(r_true[k], color=color, ls=":", lw=1.2)
    left.hist([], color="#888888", alpha=0.5, label="learned")
    if exact.r is not None:
        left.plot([], [], color="#444444", lw=1.4, label="exact")
    left.plot([], [], color="#444444", ls=":", label="true $r$")
    left.set(xlabel=plots.R_LABEL, ylabel=r"$p(r\,|\,y)$", yticks=[])
    low, high = run.metadata["prior"]["r_range"]
    shown = run.r[[row, *others]]
    room = 0.2 * np.ptp(shown)
    left.set_xlim(max(low, shown.min() - room), min(high, shown.max() + room))
    left.legend(fontsize=8)

    ell = observed.ell
    band = [0.16, 0.5, 0.84]
    plots.posterior_band(right, ell, np.quantile(run.draws[row], band, axis=0))
    if single.x is not None:
        draws = single.x.rvs(4000, np.random.default_rng(0))[0]
        low, _, high = np.quantile(draws, band, axis=0)
        right.plot(ell, low, **EXACT, label="exact, 68 %")
        right.plot(ell, high, **EXACT)
    right.plot(ell, observed.values[row], **plots.OBSERVATION, label="observation")
    if (truth[row] > 0).all():
        right.plot(ell, truth[row], **plots.TRUTH, label="truth")
    plots._spectrum_axis(right)
    return figure


def _getdist(run, truth, r_true, exact, row):
    import getdist
    from getdist import plots as getdist_plots

    getdist.chains.print_load_details = False
    ell = [k for k in (2, 4, 6) if k < 2 + run.draws.shape[2]]
    columns = [run.r[row], *(np.log10(run.draws[row][:, k - 2]) for k in ell)]
    names = ["r", *(f"d{k}" for k in ell)]
    samples = getdist.MCSamples(
        samples=np.stack(columns, 1),
        names=names,
        labels=["r", *(rf"\log_{{10}} D_{{{k}}}/\mu\mathrm{{K}}^2" for k in ell)],
        ranges={"r": run.metadata["prior"]["r_range"]},
        label="learned posterior",
        sampler="uncorrelated",  # no chain: nothing to look for, and few draws will do
    )
    markers = {"r": float(r_true[row])}
    if (truth[row] > 0).all():
        markers |= {f"d{k}": float(np.log10(truth[row, k - 2])) for k in ell}
    plotter = getdist_plots.get_subplot_plotter(width_inch=6.5)
    plotter.triangle_plot(samples, names, filled=True, markers=markers)
    if exact.r is not None:
        axis, density = plotter.subplots[0, 0], exact.r.density[row]
        axis.plot(exact.r.r, density / density.max(), **EXACT, label="exact")
        axis.legend(fontsize=8, frameon=False)
    return plotter.fig
