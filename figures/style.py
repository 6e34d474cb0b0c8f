"""One palette, one style, and the axes that all figures share.

Figures look the same everywhere: they are made without pyplot, and drawn and saved in
`own_style`, so that a user's matplotlibrc, style sheets and backend have no say.
"""

import contextlib
import functools
from collections.abc import Iterator
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
LIMIT_OF_LESS: Line = {"color": PURPLE, "ls": (0, (1, 1)), "lw": 1.5}
RULE: Line = {"color": GREY, "ls": "--", "lw": 1.2}
EXACT: Line = {"color": BLACK, "ls": "--", "lw": 1.5}
ZERO: Line = {"color": LIGHT, "lw": 0.8}
COLORS = (BLUE, VERMILION, PURPLE, GREEN, ORANGE, SKY, GREY)  # of runs side by side
DASHES = ("-", "--", "-.", ":")
LEGEND = 8  # font size
MAX_NAME = 36  # characters of a run's name

ELL_LABEL = r"multipole $\ell$"
FEW = 4  # high over low of an axis of few multipoles
R_LABEL = "tensor-to-scalar ratio $r$"
DL_LABEL = r"$D_\ell^{BB}\;[\mu\mathrm{K}^2]$"


@contextlib.contextmanager
def own_style() -> Iterator[None]:
    """Matplotlib's defaults in place of the user's settings; decorates what makes a figure."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield


@functools.cache
def _figure_class() -> "type[Figure]":
    from matplotlib.backend_bases import RendererBase
    from matplotlib.figure import Figure

    class StyledFigure(Figure):
        """A figure whose late parts, such as ticks and their labels, have the style as well."""

        def draw(self, renderer: RendererBase) -> None:
            with own_style():
                super().draw(renderer)

        def savefig(self, *args: Any, **kwargs: Any) -> None:
            with own_style():
                super().savefig(*args, **kwargs)

    return StyledFigure


def make_figure(width: float, height: float) -> "Figure":
    """An empty figure in the project's own style; sizes in inches."""
    return _figure_class()(figsize=(width, height), layout="constrained")


def make_axes(
    columns: int = 2, width: float = 9.0, height: float = 3.8
) -> "tuple[Figure, list[Axes]]":
    """A figure of panels in a row; sizes in inches."""
    figure = make_figure(width, height)
    return figure, list(np.atleast_1d(figure.subplots(1, columns)))


def plain(name: str) -> str:
    """A user's own words, such as the name of a folder, as text: no formula, shown in legends."""
    text = name.encode("utf-8", "replace").decode().replace("$", r"\$")
    return f"\u200b{text}" if text.startswith("_") else text  # matplotlib hides such labels


def run_label(name: str) -> str:
    """A folder of a run in a legend; the end of a long one, for that is where runs differ."""
    return plain(name if len(name) <= MAX_NAME else f"…{name[1 - MAX_NAME :]}")


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
    """A logarithmic x axis of multipoles, after all is drawn."""
    from matplotlib.ticker import MaxNLocator

    log_axis(axis, ELL_LABEL)
    low, high = axis.get_xlim()
    if high < FEW * low:  # where 1, 2 and 5 are too few ticks, and others no multipoles
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))


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


def parameter_label(name: str) -> str:
    """Label of an axis of a parameter."""
    return R_LABEL if name == "r" else plain(name)


def note(axis: "Axes", text: str) -> None:
    """Words in place of what cannot be drawn."""
    axis.set_axis_off()
    axis.text(0.5, 0.5, text, ha="center", va="center", color=GREY, transform=axis.transAxes)


def legend_above(figure: "Figure", columns: int = 4) -> None:
    """One legend for all panels, of so many columns."""
    handles: dict[str, Any] = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    place: Line = {"loc": "outside upper center", "ncols": min(len(handles), columns)}
    figure.legend(list(handles.values()), list(handles), fontsize=LEGEND, **place)


def along(line: Line, points: npt.NDArray) -> Line:
    """A line through points; a mark where there is only one, through which no line goes."""
    return line | {"marker": "_", "ms": 14} if len(points) == 1 else line


def observation(axis: "Axes", ell: npt.NDArray, dl: FloatArray) -> None:
    """Observed D_ell, shape (n_ell,), uK^2; negative ones by their size, hollow."""
    axis.plot(ell, np.where(dl > 0, dl, np.nan), **OBSERVATION, label="observation")
    if (dl < 0).any():
        hollow = OBSERVATION | {"ls": "", "marker": "o", "mfc": "white"}
        size = np.where(dl < 0, -dl, np.nan)
        axis.plot(ell, size, **hollow, label="observation, negative: $-D_\\ell$")


def _fill(axis: "Axes", ell: npt.NDArray, band: tuple[FloatArray, FloatArray], area: Line) -> None:
    """The area between two curves; a bar where there is one multipole."""
    low, high = band
    if len(ell) == 1:
        axis.vlines(ell, low, high, **area | {"lw": 8})
    else:
        axis.fill_between(ell, low, high, **area | {"lw": 0})


def theory_band(axis: "Axes", ell: npt.NDArray, dl_signal: FloatArray) -> None:
    """Theory D_ell with its cosmic variance; shapes (n_ell,), uK^2."""
    from scipy.stats import chi2

    nu = 2 * ell + 1
    low, high = (dl_signal * chi2.ppf(q, nu) / nu for q in (0.16, 0.84))
    _fill(axis, ell, (low, high), {"color": LIGHT, "label": "cosmic variance, 68 %"})
    axis.plot(ell, dl_signal, **along(THEORY, ell), label="primordial theory")


def posterior_band(axis: "Axes", ell: npt.NDArray, quantiles: FloatArray) -> None:
    """16 to 84 % band and median on D_ell; quantiles of shape (3, n_ell), uK^2."""
    low, median, high = quantiles
    _fill(axis, ell, (low, high), {"color": BLUE, "alpha": 0.3, "label": "posterior, 68 %"})
    line = along(OUTPUT | {"ls": "-", "marker": None}, ell)
    axis.plot(ell, median, **line, label="posterior median")
