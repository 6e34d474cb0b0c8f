"""Figure of part of the sky: how deeply it is seen, and the spectrum of one sky there."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from figures import style
from figures.style import FloatArray

if TYPE_CHECKING:  # slow to import
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SURE = 1.645  # standard deviations of a one-sided limit of 95 %
BANDPOWER: style.Line = {"color": style.VERMILION, "ls": "", "marker": "s", "ms": 4.5}
BANDPOWER |= {"elinewidth": 1.3, "capsize": 2.5, "zorder": 3}
TOTAL: style.Line = {"color": style.SKY, "lw": 1.6}
ROOM = 1.6  # for the legend: the height of the panel over that of what is drawn
SEEN = "#8FBFE0"
BELOW, DECADES = 0.5, 7.0  # decades below the least that is expected at most ell, and in all


@dataclasses.dataclass(frozen=True, eq=False)
class Bandpowers:
    """Spectrum in bins; D_ell in uK^2.

    Attributes:
        edges: edges[b] <= ell < edges[b + 1], shape (n_bins + 1,).
        dl: Shape (n_bins,), of either sign.
        errors: Standard deviations, likewise.
        expected: Mean of dl over skies, likewise.
    """

    edges: npt.NDArray
    dl: FloatArray
    errors: FloatArray
    expected: FloatArray


@dataclasses.dataclass(frozen=True, eq=False)
class Sky:
    """What one sky holds; D_ell in uK^2, the first multipole is 2.

    Attributes:
        title: Of the panel.
        truth: Realised, of the full sky, shape (n_x,).
        dl_signal: Expected, shape (n_ell,).
        dl_total: Likewise of all that bandpowers hold, but for noise.
        parts: What dl_total is the sum of, in words.
    """

    title: str
    truth: FloatArray
    dl_signal: FloatArray
    dl_total: FloatArray
    parts: str


@style.own_style()
def masked_sky(depth: FloatArray, f_sky: float, sky: Sky, bandpowers: Bandpowers) -> "Figure":
    """Depth of what is seen, beside one sky's truth and bandpowers.

    Args:
        depth: Noise in uK-arcmin, an image of the sphere in an ellipse, shape (h, 2 h): NaN where
            nothing is seen, infinite outside of the sphere.
        f_sky: Share of the sky that is seen.
        sky: One sky.
        bandpowers: What its map says.
    """
    figure = style.make_figure(10.0, 4.0)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.1))
    _draw_depth(left, depth, f_sky)
    _draw_bandpowers(right, sky, bandpowers)
    return figure


def draw_sphere(axis: "Axes", image: FloatArray, label: str, shades: style.Line) -> None:
    """A map in an ellipse, with a scale of colours below; what is not seen is pale.

    Args:
        axis: Where to.
        image: Shape (h, 2 h): NaN where nothing is seen, infinite outside of the sphere.
        label: Of the scale, with the unit; empty for no scale.
        shades: cmap, vmin, vmax and the like.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Ellipse

    place: style.Line = {"extent": (-2.0, 2.0, -1.0, 1.0), "origin": "lower"}
    place["interpolation"] = "nearest"
    axis.imshow(np.where(np.isnan(image), 1, np.nan), cmap=ListedColormap([style.PALE]), **place)
    axis.set_axis_off()
    axis.add_patch(Ellipse((0, 0), 4, 2, fill=False, color=style.GREY, lw=1.0))
    axis.set(xlim=(-2.03, 2.03), ylim=(-1.03, 1.03))
    values = np.where(np.isfinite(image), image, np.nan)
    drawn = axis.imshow(values, **place, **shades)
    if not label:
        return
    scale = axis.inset_axes((0.15, -0.1, 0.7, 0.06))
    scale.set_in_layout(False)
    ends = np.nanmin(values) < drawn.norm.vmin, np.nanmax(values) > drawn.norm.vmax
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max"}
    bar = axis.figure.colorbar(
        drawn, cax=scale, orientation="horizontal", extend=extend.get(ends, "both")
    )
    bar.set_label(label)


def _draw_depth(axis: "Axes", depth: FloatArray, f_sky: float) -> None:
    from matplotlib.colors import ListedColormap

    values = np.where(np.isfinite(depth), depth, np.nan)
    low, high = np.nanmin(values), np.nanquantile(values, 0.98)
    words = f"{100 * f_sky:.3g} % of the sky is seen"
    if high <= low * (1 + 1e-6):  # a scale of colours would say nothing
        draw_sphere(axis, depth, "", {"cmap": ListedColormap([SEEN])})
        words += f", at {low:.3g} µK-arcmin"
    else:
        shades: style.Line = {"cmap": "viridis_r", "vmin": low, "vmax": high}
        draw_sphere(axis, depth, "noise [µK-arcmin]", shades)
    axis.set_title(words, fontsize=10)


def _draw_bandpowers(axis: "Axes", sky: Sky, bandpowers: Bandpowers) -> None:
    ell, n_x = 2 + np.arange(len(sky.dl_total)), len(sky.truth)
    if (sky.dl_signal > 0).all():
        axis.plot(ell, sky.dl_signal, **style.THEORY, label="signal, expected")
    axis.plot(ell, sky.dl_total, **TOTAL, ls="--", label=f"{sky.parts}, expected")
    first, last = bandpowers.edges[:-1], bandpowers.edges[1:] - 1
    axis.hlines(bandpowers.expected, first - 0.3, last + 0.3, **TOTAL, label="the same in bins")
    if (sky.truth > 0).all():
        truth: style.Line = style.TRUTH | {"ms": 2.5, "lw": 0.8}
        axis.plot(ell[:n_x], sky.truth, **truth, label="signal of this sky, all of it")
    top = max(sky.dl_total.max(), (bandpowers.dl + bandpowers.errors).max())
    drawn = np.concatenate([sky.dl_total[:n_x], sky.dl_signal[:n_x]])
    low = max(drawn[drawn > 0].min() / 10**BELOW, top / 10**DECADES)
    draw_bandpowers(axis, bandpowers, 3 * low)
    style.spectrum_axis(axis)
    axis.set_ylim(low, low * (top / low) ** ROOM)
    axis.legend(fontsize=style.LEGEND, loc="upper left", ncols=1)
    axis.set_title(sky.title, fontsize=10)


def draw_bandpowers(axis: "Axes", bandpowers: Bandpowers, lowest: float) -> None:
    """Bandpowers with their errors; limits, not below the lowest, for those that are no power."""
    centres = np.sqrt(bandpowers.edges[:-1] * (bandpowers.edges[1:] - 1))
    dl, errors, above = bandpowers.dl, bandpowers.errors, bandpowers.dl > 0
    axis.errorbar(
        centres[above], dl[above], errors[above], **BANDPOWER,
        label="bandpowers of what is seen, noise taken out;\nerrors at the fiducial sky",
    )  # fmt: skip
    if not above.all():
        limit = np.maximum(dl + SURE * errors, lowest)[~above]
        down = BANDPOWER | {"marker": "_", "ms": 9, "uplims": True, "capsize": 3}
        label = "bandpower below 0: 95 % limit"
        axis.errorbar(centres[~above], limit, 0.55 * limit, **down, label=label)
