"""One palette, one style, and the axes that all figures share."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # slow to import
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FloatArray = npt.NDArray[np.float64]
Line = dict[str, Any]  # arguments of matplotlib's plot

# Okabe & Ito (2008): told apart by the colour-blind; line styles tell them apart in print
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#666666"
PALE, LIGHT, DARK = "#DDDDDD", "#BBBBBB", "#444444"  # ranges, guides, tones

TRUTH: Line = {"color": BLACK, "ls": "-", "marker": "o", "ms": 3.5}
OBSERVATION: Line = {"color": VERMILION, "ls": ":", "marker": "x", "ms": 4.5}
OUTPUT: Line = {"color": BLUE, "ls": "--", "marker": "s", "ms": 3.5, "mfc": "white"}
THEORY: Line = {"color": GREY, "ls": "-", "lw": 1.2}
LIMIT: Line = {"color": GREEN, "ls": "-.", "lw": 1.5}
EXACT: Line = {"color": BLACK, "ls": "--", "lw": 1.5}
ZERO: Line = {"color": LIGHT, "lw": 0.8}
COLORS = (BLUE, VERMILION, PURPLE, GREEN, ORANGE, SKY, GREY)  # of runs side by side
DASHES = ("-", "--", "-.", ":")
LEGEND = 8  # font size

ELL_LABEL = r"multipole $\ell$"
R_LABEL = "tensor-to-scalar ratio $r$"
DL_LABEL = r"$D_\ell^{BB}\;[\mu\mathrm{K}^2]$"


def make_axes(
    columns: int = 2, width: float = 9.0, height: float = 3.8
) -> "tuple[Figure, list[Axes]]":
    """A figure of panels in a row; sizes in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(np.atleast_1d(figure.subplots(1, columns)))


def run_styles(names: list[str]) -> dict[str, Line]:
    """{run: its colour and dashes}."""
    return {
        name: {"color": COLORS[k % len(COLORS)], "ls": DASHES[k % len(DASHES)]}
        for k, name in enumerate(names)
    }


def log_axis(axis: "Axes", label: str) -> None:
    """A logarithmic x axis with plain numbers at 1, 2 and 5."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    axis.set(xlabel=label, xscale="log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.xaxis.set_minor_formatter(NullFormatter())


def ell_axis(axis: "Axes") -> None:
    """A logarithmic x axis of multipoles."""
    log_axis(axis, ELL_LABEL)


def spectrum_axis(axis: "Axes") -> None:
    """Axes of D_ell over ell, after all is drawn: room for the legend, and the legend."""
    from matplotlib.ticker import NullFormatter

    ell_axis(axis)
    axis.set(ylabel=DL_LABEL, yscale="log")
    low, high = np.log10(axis.get_ylim())
    if high - low > 1:
        axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_ylim(10**low, 10 ** (high + 0.35 * (high - low)))  # room for the legend
    axis.legend(fontsize=LEGEND, loc="upper center", ncols=2)


def theory_band(axis: "Axes", ell: npt.NDArray, dl_signal: FloatArray) -> None:
    """Theory D_ell with its cosmic variance; shapes (n_ell,), uK^2."""
    from scipy.stats import chi2

    nu = 2 * ell + 1
    low, high = (dl_signal * chi2.ppf(q, nu) / nu for q in (0.16, 0.84))
    axis.fill_between(ell, low, high, color=LIGHT, lw=0, label="cosmic variance, 68 %")
    axis.plot(ell, dl_signal, **THEORY, label="primordial theory")


def posterior_band(axis: "Axes", ell: npt.NDArray, quantiles: FloatArray) -> None:
    """16 to 84 % band and median on D_ell; quantiles of shape (3, n_ell), uK^2."""
    low, median, high = quantiles
    axis.fill_between(ell, low, high, color=BLUE, alpha=0.3, lw=0, label="posterior, 68 %")
    axis.plot(ell, median, **OUTPUT | {"ls": "-", "marker": None}, label="posterior median")
