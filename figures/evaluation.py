"""Figures of evaluate.py: runs side by side, and one run's posterior on the exact answer."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from figures import corner, style
from figures.corner import Marginal
from figures.style import FloatArray

if TYPE_CHECKING:  # slow to import
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MIN_SKIES = 10  # below, a histogram over skies means nothing
MIN_DRAWS = 20  # likewise, of draws
RULE_OF_THUMB = r"full sky $/\sqrt{f_\mathrm{sky}}$ (wrong)"
BAND = (0.16, 0.5, 0.84)


# --- runs side by side -----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Errorbars:
    """Values and their standard errors, of one shape: () or (n_ell,)."""

    values: FloatArray | float
    errors: FloatArray | float


@dataclasses.dataclass(frozen=True, eq=False)
class RunResult:
    """What is drawn of a run.

    Attributes:
        name: In the legend.
        r2: Of the estimate, per ell.
        slope: Of the response to the observation, per ell.
        mse: Mean squared error, in units of S^2.
        shuffled_mse: The same with observations of other skies.
        pit: PIT values, uniform for exact draws, shape (k,); None where unknown.
        sbc: Ranks of the truth, likewise.
        tarp: TARP ranks, likewise.
    """

    name: str
    r2: Errorbars
    slope: Errorbars
    mse: Errorbars
    shuffled_mse: Errorbars
    pit: FloatArray | None
    sbc: FloatArray | None
    tarp: FloatArray | None


@dataclasses.dataclass(frozen=True, eq=False)
class Optimum:
    """The exact posterior mean, shape (n_ell,) each."""

    r2: FloatArray
    slope: FloatArray


@style.own_style()
def sharpness(ell: npt.NDArray, runs: Sequence[RunResult], optimum: Optimum | None) -> "Figure":
    """R^2 and response of the runs, beside those of the exact posterior mean where it is known."""
    figure, (left, right) = style.make_axes()
    lines = style.run_styles([run.name for run in runs])
    if optimum is not None:
        limit = style.along(style.LIMIT, ell)
        left.plot(ell, optimum.r2, **limit, label="exact posterior mean")
        right.plot(ell, optimum.slope, **limit, label="exact posterior mean")
    for run in runs:
        for axis, bars in ((left, run.r2), (right, run.slope)):
            axis.errorbar(
                ell,
                bars.values,
                bars.errors,
                **lines[run.name],
                lw=1,
                label=style.run_label(run.name),
            )
    for axis in (left, right):
        style.ell_axis(axis)
        axis.axhline(0, **style.ZERO)
    style.legend_above(figure)
    left.set(ylabel=r"$R^2$ of the estimate", ylim=(-1.1, 1.05))
    right.set(ylabel=r"response $\mathrm{d}E[x]/\mathrm{d}y$", ylim=(-0.2, 1.05))
    return figure


@style.own_style()
def calibration(runs: Sequence[RunResult]) -> "Figure | None":
    """Distance of PIT values and ranks from a uniform law; None where no run has any."""
    panels = [
        ("PIT under the exact posterior", {run.name: run.pit for run in runs}),
        ("rank of the truth (SBC)", {run.name: run.sbc for run in runs}),
        ("TARP rank", {run.name: run.tarp for run in runs}),
    ]
    present = [
        (title, {name: values for name, values in curves.items() if values is not None})
        for title, curves in panels
        if any(values is not None for values in curves.values())
    ]
    if not present:
        return None
    lines = style.run_styles([run.name for run in runs])
    figure, axes = style.make_axes(len(present), 4 * len(present), 3.4)
    for (title, curves), axis in zip(present, axes, strict=True):
        for name, values in curves.items():
            u = np.sort(values)
            expected = (np.arange(len(u)) + 0.5) / len(u)
            thin = np.linspace(0, len(u) - 1, min(len(u), 500)).astype(int)
            marker = "." if len(u) < 50 else None
            axis.plot(
                u[thin],
                (expected - u)[thin],
                **lines[name],
                lw=1.2,
                marker=marker,
                label=style.run_label(name),
            )
        axis.axhline(0, **style.ZERO)
        axis.set(xlabel=f"{title}, $u$", ylabel="fraction below $u$, minus $u$", xlim=(0, 1))
        low, high = axis.get_ylim()
        axis.set_ylim(min(low, -0.03), max(high, 0.03))
    style.legend_above(figure)
    return figure


@style.own_style()
def controls(runs: Sequence[RunResult], baselines: Mapping[str, float]) -> "Figure":
    """Squared errors with the right and with shuffled observations.

    Args:
        runs: All runs.
        baselines: {estimate that needs no network: mean squared error, in units of S^2}.
    """
    figure, (axis,) = style.make_axes(1, 6.5, 0.8 + 0.6 * len(runs))
    heights = np.arange(len(runs))[::-1]
    for offset, bars, color, label in (
        (0.18, [run.mse for run in runs], style.BLUE, "its own observation"),
        (
            -0.18,
            [run.shuffled_mse for run in runs],
            style.ORANGE,
            "another sky's observation (control)",
        ),
    ):
        values = np.array([bar.values for bar in bars])
        errors = np.array([bar.errors for bar in bars])
        axis.barh(heights + offset, values, 0.34, xerr=errors, color=color, label=label)
    for name, line in (("prior mean", style.THEORY), ("exact posterior mean", style.LIMIT)):
        if name in baselines:
            axis.axvline(baselines[name], **line, label=name)
    names = [style.run_label(run.name) for run in runs]
    axis.set(yticks=heights, yticklabels=names, xlabel="mean squared error in units of $S^2$")
    if max(run.mse.values for run in runs) > 2:
        axis.set_xscale("log")
    style.legend_above(figure, columns=2)
    return figure


# --- one run with draws of r -----------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class RDraws:
    """Draws of r of all skies, and the exact p(r | y) where it is known.

    Attributes:
        draws: Shape (n, m).
        truth: True r, shape (n,).
        r_range: (r_min, r_max) of the prior.
        grid: Of the exact density, shape (k,), or None.
        density: Exact p(r | y), shape (n, k), or None.
        given_map: Whether it is p(r | map), of part of the sky.
    """

    draws: FloatArray
    truth: FloatArray
    r_range: tuple[float, float]
    grid: FloatArray | None
    density: FloatArray | None
    given_map: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class SpectrumDraws:
    """Draws of one sky's spectrum, uK^2.

    Attributes:
        ell: Multipoles, shape (n_ell,).
        draws: D_ell, shape (m, n_ell).
        exact: Draws of the exact posterior, shape (k, n_ell), or None.
        observed: Shape (n_ell,).
        truth: Shape (n_ell,).
    """

    ell: npt.NDArray
    draws: FloatArray
    exact: FloatArray | None
    observed: FloatArray
    truth: FloatArray


@dataclasses.dataclass(frozen=True)
class SigmaBin:
    """sigma(r) of the skies in one bin of the true r; None where a number is unknown.

    Of part of the sky limits are those of the map and of its spectrum, and there is a rule of thumb
    that is none.
    """

    r: float
    sigma: float
    sigma_error: float
    rms_error: float
    rms_error_error: float
    exact: float | None
    fisher: float | None
    spectrum: float | None = None
    rule_of_thumb: float | None = None


@style.own_style()
def r_overview(r: RDraws, bins: Sequence[SigmaBin], title: str = "") -> "Figure":
    """Estimates of r against the truth, and sigma(r) beside its limits."""
    figure, (left, right) = style.make_axes()
    if np.ptp(r.truth) > 0 or len(r.truth) < MIN_SKIES:
        _draw_estimates(left, r)
    else:
        _draw_null(left, r)
    _draw_sigma(right, bins)
    for axis in (left, right):
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=style.LEGEND)
    return _with_title(figure, title)


def _with_title(figure: "Figure", title: str) -> "Figure":
    if title:
        figure.suptitle(style.plain(title), fontsize=9, wrap=True)
    return figure


def _draw_estimates(axis: "Axes", r: RDraws) -> None:
    """Median and 68 % interval over the true r."""
    shown = np.argsort(r.truth)[:: max(1, len(r.truth) // 150)]
    low, middle, high = np.quantile(r.draws[shown], BAND, axis=1)
    bars = [middle - low, high - middle]
    points: style.Line = {"fmt": "o", "ms": 2.5, "lw": 0.6, "color": style.BLUE}
    axis.errorbar(r.truth[shown], middle, bars, **points, label="median, 68 %")
    axis.axline((0, 0), slope=1, color="k", lw=0.8, label="truth")
    axis.set(xlabel="true $r$", ylabel=r"$\hat r$")


def _draw_null(axis: "Axes", r: RDraws) -> None:
    """Distribution of median and upper limit over skies of one r."""
    limits = np.quantile(r.draws, 0.95, axis=1, method="weibull")
    for values, label, color in (
        (np.median(r.draws, 1), "median", style.BLUE),
        (limits, "95 % upper limit", style.ORANGE),
    ):
        axis.hist(values, bins=40, density=True, alpha=0.6, color=color, label=label)
    axis.axvline(r.truth[0], color="k", lw=1, label="truth")
    axis.set(xlabel=style.R_LABEL, ylabel="density over skies")
    axis.locator_params(axis="x", nbins=5)


def _draw_sigma(axis: "Axes", bins: Sequence[SigmaBin]) -> None:
    r = [row.r for row in bins]
    if not r:
        style.note(axis, "too few skies for $\\sigma(r)$")
        return
    marker: style.Line = {"marker": "_", "ms": 14} if len(r) == 1 else {}
    masked = bins[0].spectrum is not None
    of_map, given_map = (" of the map", " given the map") if masked else ("", "")
    for values, line, label in (
        ([row.fisher for row in bins], style.LIMIT, f"Fisher limit{of_map}"),
        ([row.spectrum for row in bins], style.LIMIT_OF_LESS, "Fisher limit of its spectrum"),
        ([row.rule_of_thumb for row in bins], style.RULE, RULE_OF_THUMB),
        ([row.exact for row in bins], style.EXACT, f"exact posterior{given_map}"),
    ):
        if values[0] is not None:
            axis.plot(r, np.array(values, float), **line, **marker, label=label)
    rms, errors = [row.rms_error for row in bins], [row.rms_error_error for row in bins]
    label = "rms error of the posterior mean"
    axis.errorbar(r, rms, errors, color=style.VERMILION, ls=":", marker="o", ms=3, label=label)
    sigma, errors = [row.sigma for row in bins], [row.sigma_error for row in bins]
    points: style.Line = {"color": style.BLUE, "marker": "s", "ms": 4, "mfc": "white"}
    axis.errorbar(r, sigma, errors, **points, label="learned")
    axis.set(xlabel="true $r$", ylabel=r"$\sigma(r)$")
    axis.set_ylim(0, None)
    if len(r) == 1:  # no line to follow: the marks above each other, the legend beside them
        axis.set(xticks=r, xlim=(r[0] - 0.2, r[0] + 0.8))


@style.own_style()
def posterior(r: RDraws, spectrum: SpectrumDraws, row: int, title: str = "") -> "Figure":
    """p(r | y) of a few skies, and one sky's spectrum.

    Args:
        r: Of all skies.
        spectrum: Of the sky that is shown.
        row: Its number.
        title: Of the figure.
    """
    figure, (left, right) = style.make_axes()
    _draw_densities(left, r, row)
    ell = spectrum.ell
    style.posterior_band(right, ell, np.quantile(spectrum.draws, BAND, axis=0))
    if spectrum.exact is not None:
        low, _, high = np.quantile(spectrum.exact, BAND, axis=0)
        line = style.along(style.EXACT, ell)
        right.plot(ell, low, **line, label="exact, 68 %")
        right.plot(ell, high, **line)
    style.observation(right, ell, spectrum.observed)
    if (spectrum.truth > 0).all():
        right.plot(ell, spectrum.truth, **style.TRUTH, label="truth")
    style.spectrum_axis(right)
    return _with_title(figure, title)


def _draw_densities(axis: "Axes", r: RDraws, row: int) -> None:
    """Histograms of the draws of a sky, and of skies with small, middle and large estimates."""
    order = np.argsort(r.draws.mean(1), kind="stable")
    others = order[[len(order) // 10, len(order) // 2, 9 * len(order) // 10]]
    few = r.draws.shape[1] < MIN_DRAWS or np.ptp(r.draws, axis=1).min() == 0
    bars: style.Line = {"bins": "auto", "density": True, "alpha": 0.35, "lw": 0}
    for k, color in zip(dict.fromkeys([row, *others]), style.COLORS, strict=False):
        if few:
            axis.plot(r.draws[k], 0 * r.draws[k], "|", ms=14, color=color)
        else:
            axis.hist(r.draws[k], color=color, histtype="stepfilled", **bars)
        if r.grid is not None and r.density is not None:
            axis.plot(r.grid, r.density[k], color=color, lw=1.4)
        axis.axvline(r.truth[k], color=color, ls=":", lw=1.2)
    axis.hist([], color="#888888", alpha=0.5, label="learned")
    if r.density is not None:
        label = r"exact, $p(r\,|\,\mathrm{map})$" if r.given_map else "exact"
        axis.plot([], [], color=style.DARK, lw=1.4, label=label)
    axis.plot([], [], color=style.DARK, ls=":", label="true $r$")
    axis.set(xlabel=style.R_LABEL, ylabel=r"$p(r\,|\,y)$", yticks=[])
    axis.set_ylim(0, 1 if few and r.density is None else None)
    axis.locator_params(axis="x", nbins=5)
    shown = r.draws[[row, *others]]
    room = 0.2 * np.ptp(shown) or 0.02 * (r.r_range[1] - r.r_range[0])
    axis.set_xlim(max(r.r_range[0], shown.min() - room), min(r.r_range[1], shown.max() + room))
    axis.legend(fontsize=style.LEGEND)


@style.own_style()
def triangle(r: RDraws, spectrum: SpectrumDraws, row: int, title: str = "") -> "Figure":
    """Joint posterior of r and a few multipoles of one sky; see `posterior`."""
    grid, density = (None, None) if r.density is None else (r.grid, r.density[row])
    truth = float(r.truth[row])
    marginals = {
        "r": Marginal(style.R_LABEL, r.draws[row], *r.r_range, truth, grid, density),
    }
    for column, ell in enumerate(spectrum.ell):
        if ell in (2, 4, 6):
            label = rf"$\log_{{10}} D_{{{ell}}}/\mu\mathrm{{K}}^2$"
            dl = spectrum.truth[column]
            known = float(np.log10(dl)) if dl > 0 else None
            draws = np.log10(spectrum.draws[:, column])
            marginals[f"d{ell}"] = Marginal(label, draws, truth=known)
    return corner.corner(marginals, title)
