"""Figure of a user's own map: what is seen of it, its spectrum, and r with and without the network.

The full sky's rule of thumb stands beside the exact posterior, for people use it.
"""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from figures import style
from figures.masked import ROOM, Bandpowers, draw_bandpowers, draw_sphere
from figures.style import FloatArray

if TYPE_CHECKING:  # slow to import
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RULE: style.Line = {"color": style.GREY, "lw": 1.4, "ls": "--"}
EXACT: style.Line = {"color": style.BLACK, "lw": 1.6}
CURVE_POINTS = 400


@dataclasses.dataclass(frozen=True, eq=False)
class OwnSpectrum:
    """What is known of the spectrum; D_ell in uK^2, the first multipole is 2.

    Attributes:
        bandpowers: Of what is seen.
        quantiles: 16, 50 and 84 % of the posterior of the primordial one, shape (3, n_x), or None.
        truth: Primordial, where it is known, shape (n_x,).
    """

    bandpowers: Bandpowers
    quantiles: FloatArray | None
    truth: FloatArray | None


@dataclasses.dataclass(frozen=True, eq=False)
class OwnR:
    """What is known of r.

    Attributes:
        draws: Of the learned posterior, shape (m,).
        grid: r of the exact posterior, shape (k,); None where it is unknown.
        density: Of it, likewise.
        rule_of_thumb: Standard deviation of the full sky over the root of f_sky, at the mean.
    """

    draws: FloatArray
    grid: FloatArray | None = None
    density: FloatArray | None = None
    rule_of_thumb: float | None = None


@style.own_style()
def own_map(
    image: FloatArray, f_sky: float, spectrum: OwnSpectrum, r: OwnR | None, title: str = ""
) -> "Figure":
    """A map, its spectrum and its r.

    Args:
        image: Q in uK, an image of the sphere in an ellipse, shape (h, 2 h): NaN where nothing is
            seen, infinite outside of the sphere.
        f_sky: Share of the sky that is seen.
        spectrum: Of the map.
        r: Of the map; None of a model without.
        title: Above all of it, such as a warning.
    """
    figure = style.make_figure(13.5 if r is not None else 9.5, 3.9)
    widths = (1.15, 1, 0.95) if r is not None else (1.15, 1)
    axes = figure.subplots(1, len(widths), width_ratios=widths)
    _draw_map(axes[0], image, f_sky)
    _draw_spectrum(axes[1], spectrum)
    if r is not None:
        _draw_r(axes[2], r)
    if title:
        figure.suptitle(title, fontsize=9, color=style.VERMILION, wrap=True)
    return figure


def _draw_map(axis: "Axes", image: FloatArray, f_sky: float) -> None:
    seen = np.where(np.isfinite(image), image, np.nan)
    largest = float(np.nanquantile(np.abs(seen), 0.995))
    shades: style.Line = {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest}
    draw_sphere(axis, image, "Stokes $Q$ [µK]", shades)
    axis.set_title(f"the map, {100 * f_sky:.3g} % of the sky", fontsize=10)


def _draw_spectrum(axis: "Axes", spectrum: OwnSpectrum) -> None:
    bandpowers = spectrum.bandpowers
    if spectrum.quantiles is not None:
        ell = 2 + np.arange(spectrum.quantiles.shape[1])
        style.posterior_band(axis, ell, spectrum.quantiles)
    if spectrum.truth is not None:
        ell = 2 + np.arange(len(spectrum.truth))
        axis.plot(ell, spectrum.truth, **style.TRUTH | {"ms": 2.5, "lw": 0.8}, label="truth")
    above = bandpowers.dl[bandpowers.dl > 0]
    low = 0.3 * min(above.min() if len(above) else np.inf, bandpowers.expected.min())
    if spectrum.quantiles is not None:
        low = min(low, float(spectrum.quantiles.min()))
    draw_bandpowers(axis, bandpowers, low)
    style.spectrum_axis(axis)
    bottom, top = axis.get_ylim()
    axis.set_ylim(bottom, bottom * (top / bottom) ** ROOM)
    axis.legend(fontsize=style.LEGEND, loc="upper left")
    axis.set_title("primordial, and all that is seen", fontsize=10)


def _draw_r(axis: "Axes", r: OwnR) -> None:
    axis.hist(r.draws, bins="auto", density=True, color=style.BLUE, alpha=0.4, label="learned")
    if r.grid is not None and r.density is not None:
        axis.plot(r.grid, r.density, **EXACT, label="exact, of the map")
        if r.rule_of_thumb is not None:
            mean = float(np.trapezoid(r.grid * r.density, r.grid))
            at = np.linspace(r.grid[0], r.grid[-1], CURVE_POINTS)
            rule = np.exp(-(((at - mean) / r.rule_of_thumb) ** 2) / 2)
            label = "rule of thumb: full sky,\nerror over $\\sqrt{f_\\mathrm{sky}}$"
            axis.plot(at, rule / np.trapezoid(rule, at), **RULE, label=label)
    axis.set(xlabel=style.R_LABEL, ylabel="posterior density")
    axis.set_xlim(*np.quantile(r.draws, [0, 1]) * np.array([0.9, 1.1]))
    axis.locator_params(axis="x", nbins=5)
    axis.legend(fontsize=style.LEGEND)
