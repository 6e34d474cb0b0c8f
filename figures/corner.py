"""Corner figures: the marginals of draws of any parameters, and each pair of them.

Densities are GetDist's kernel estimates (Lewis 2019, arXiv:1910.13970), which know the edges of a
prior; they are drawn here, for GetDist's own plots follow the user's settings of matplotlib.
"""

import contextlib
import dataclasses
import logging
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from figures import style
from figures.style import FloatArray

if TYPE_CHECKING:  # slow to import
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

LEVELS = (0.95, 0.68)  # of the contours
FILLS = ("#CCE1EF", "#80B5D8")  # of the areas within them: BLUE, lighter
MIN_DRAWS = 100  # below, a kernel density invents a shape: the draws are drawn as they are
MAX_WIDTH = 12.0  # inches
GUIDE: style.Line = {"color": style.VERMILION, "ls": "-", "lw": 1.1}


@dataclasses.dataclass(frozen=True, eq=False)
class Marginal:
    """Draws of one parameter, and what is known of it.

    Attributes:
        label: On its axes.
        draws: Shape (m,); draw k of each parameter of a figure belongs together.
        low: Lower edge of its prior; None where it has none.
        high: Upper edge, likewise.
        truth: None where it is unknown.
        grid: Of the exact density, shape (k,), or None.
        density: The exact density on the grid, of any scale, or None.
    """

    label: str
    draws: FloatArray
    low: float | None = None
    high: float | None = None
    truth: float | None = None
    grid: FloatArray | None = None
    density: FloatArray | None = None

    @property
    def limits(self) -> tuple[float, float]:
        """Ends of its axes: all that is shown, with some room within the prior."""
        shown = self.draws if self.truth is None else np.append(self.draws, self.truth)
        if self.grid is not None and self.density is not None:
            shown = np.append(shown, self.grid[self.density > 0.02 * self.density.max()])
        low, high = float(shown.min()), float(shown.max())
        room = 0.08 * (high - low) or 0.1 * abs(low) or 1.0
        return (
            low - room if self.low is None else max(low - room, min(self.low, low)),
            high + room if self.high is None else min(high + room, max(self.high, high)),
        )


def of_draws(
    draws: Mapping[str, FloatArray], ranges: Mapping[str, tuple[float, float]]
) -> "Figure":
    """As `corner`, of draws of parameters within their ranges.

    Args:
        draws: {name: shape (m,)}.
        ranges: {name: (low, high)}.
    """
    return corner({n: Marginal(style.parameter_label(n), d, *ranges[n]) for n, d in draws.items()})


@style.own_style()
def corner(marginals: Mapping[str, Marginal], title: str = "") -> "Figure":
    """Marginals on the diagonal, 68 and 95 % areas of each pair below it.

    Args:
        marginals: {name: draws}, at least one, of equally many draws.
        title: Of the figure.
    """
    shown, size = list(marginals.values()), len(marginals)
    num_draws = len(shown[0].draws)
    width = min(1.3 + 1.75 * size, MAX_WIDTH) if size > 1 else 4.5
    figure = style.make_figure(width, width if size > 1 else 3.4)
    axes = np.atleast_2d(figure.subplots(size, size, squeeze=False))
    samples = _samples(shown) if num_draws >= MIN_DRAWS else None
    for i in range(size):
        for j in range(size):
            axis = axes[i, j]
            if j > i:
                axis.set_axis_off()
                continue
            if j == i:
                _draw_marginal(axis, shown[i], samples, i)
            else:
                _draw_pair(axis, shown[j], shown[i], samples, (j, i))
            axis.set_xlim(shown[j].limits)
            _label(axis.xaxis, shown[j], i == size - 1)
            if i > j:
                axis.set_ylim(shown[i].limits)
                _label(axis.yaxis, shown[i], j == 0)
    handles = _handles(axes[0, 0], shown, samples is not None)
    if size > 1:  # in the empty corner
        title = textwrap.fill(style.plain(title), 26 * (size - 1))
        options: style.Line = {"loc": "upper right", "frameon": False, "alignment": "left"}
        options |= {"title": title, "title_fontsize": 9, "fontsize": style.LEGEND}
        figure.legend(handles=handles, **options)
    else:
        axes[0, 0].legend(handles=handles, fontsize=style.LEGEND)
        axes[0, 0].set_title(textwrap.fill(style.plain(title), 55), fontsize=9)
    return figure


def _samples(marginals: Sequence[Marginal]) -> Any:
    """The draws as GetDist's samples; None where a parameter does not vary."""
    draws = np.stack([each.draws for each in marginals], 1)
    if (np.ptp(draws, axis=0) == 0).any():
        return None
    import getdist

    getdist.chains.print_load_details = False
    names = [f"p{k}" for k in range(len(marginals))]
    edges = {name: (each.low, each.high) for name, each in zip(names, marginals, strict=True)}
    # no chain: its draws are independent, and there is nothing to look for
    return getdist.MCSamples(samples=draws, names=names, ranges=edges, sampler="uncorrelated")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without GetDist's advice on its settings, which no flag here could follow."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _draw_marginal(axis: "Axes", marginal: Marginal, samples: Any, place: int) -> None:
    if samples is None:
        axis.plot(marginal.draws, 0 * marginal.draws, "|", ms=14, color=style.BLUE)
    else:
        with _quiet():
            density = samples.get1DDensity(f"p{place}")
        axis.plot(density.x, density.P / density.P.max(), color=style.BLUE, lw=1.5)
    if marginal.grid is not None and marginal.density is not None:
        axis.plot(marginal.grid, marginal.density / marginal.density.max(), **style.EXACT)
    if marginal.truth is not None:
        axis.axvline(marginal.truth, **GUIDE)
    axis.set(yticks=[], ylim=(0, 1.12))


def _draw_pair(
    axis: "Axes", across: Marginal, up: Marginal, samples: Any, places: tuple[int, int]
) -> None:
    if samples is None:
        axis.plot(across.draws, up.draws, ".", ms=4, color=style.BLUE)
    else:
        with _quiet():
            density = samples.get2DDensity(*(f"p{k}" for k in places))
        levels = [*density.getContourLevels(LEVELS), density.P.max() * 1.001]
        axis.contourf(density.x, density.y, density.P, levels, colors=FILLS)
        axis.contour(density.x, density.y, density.P, levels[:-1], colors=style.BLUE, linewidths=1)
    if across.truth is not None:
        axis.axvline(across.truth, **GUIDE)
    if up.truth is not None:
        axis.axhline(up.truth, **GUIDE)


def _label(axis: "Axis", marginal: Marginal, outer: bool) -> None:
    """Few ticks; their numbers and the name at an outer axis only."""
    from matplotlib.ticker import MaxNLocator, NullFormatter

    axis.set_major_locator(MaxNLocator(4, prune="both"))  # none at corners: panels stay even
    axis.set_tick_params(labelsize=style.LEGEND)
    if outer:
        axis.set_label_text(marginal.label)
    else:
        axis.set_major_formatter(NullFormatter())


def _handles(axis: "Axes", marginals: Sequence[Marginal], smooth: bool) -> "list[Line2D]":
    """What the lines are."""
    num_draws, pairs = len(marginals[0].draws), len(marginals) > 1
    label = f"{num_draws} draw{'s' * (num_draws > 1)}"
    if smooth:
        handles = axis.plot([], [], color=style.BLUE, lw=1.5, label=label + ", 68 and 95 %" * pairs)
    else:
        label += ", too few for a density" * (num_draws < MIN_DRAWS)
        handles = axis.plot([], [], ".", color=style.BLUE, label=label)
    if any(each.density is not None for each in marginals):
        handles += axis.plot([], [], **style.EXACT, label="exact")
    if any(each.truth is not None for each in marginals):
        handles += axis.plot([], [], **GUIDE, label="truth")
    return handles
