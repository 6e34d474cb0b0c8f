"""Figure of reverse processes side by side: from noise to data, without and with a likelihood."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from figures import style
from figures.style import FloatArray

if TYPE_CHECKING:  # slow to import
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TICKS = (-30, -10, -3, -1, 0, 1, 3, 10, 30)
TITLES = ("published recipe", "one draw, with the likelihood in each step")
ROOM, APART = 2.6, 1.22  # beyond the last state, for marks: ratios of the logarithmic axis


@dataclasses.dataclass(frozen=True, eq=False)
class Trajectory:
    """States of one spectrum along the reverse process.

    Attributes:
        noise_to_signal: sigma/alpha, decreasing, shape (n_states,); 0 for the last.
        states: x, normalised units, shape (n_states, n_shown).
    """

    noise_to_signal: FloatArray
    states: FloatArray


@dataclasses.dataclass(frozen=True, eq=False)
class Marks:
    """What the end of a trajectory is held against, normalised units.

    Attributes:
        ell: Multipoles that are shown, shape (n_shown,).
        observed: Likewise.
        truth: Likewise.
        band: 16 and 84 % of the exact posterior, shape (2, n_shown).
    """

    ell: npt.NDArray
    observed: FloatArray
    truth: FloatArray
    band: FloatArray


@style.own_style()
def side_by_side(without: Trajectory, given: Trajectory, marks: Marks) -> "Figure":
    """Both trajectories of one row, each with the marks of the same observation at its end.

    Args:
        without: Of the recipe.
        given: Of the posterior.
        marks: Observation, truth and exact posterior.
    """
    figure = style.make_figure(9.0, 4.2)
    axes = figure.subplots(1, 2, sharey=True)
    for axis, trajectory, title in zip(axes, (without, given), TITLES, strict=True):
        _draw(axis, trajectory, marks)
        axis.set_title(title, fontsize=10)
    # the observation where nothing of the signal is left lies far out: asinh keeps both in sight
    axes[0].set_yscale("asinh", linear_width=1)
    axes[0].set_yticks(TICKS)
    axes[0].yaxis.set_major_formatter("{x:g}")
    parts = (without.states, given.states, marks.observed, marks.band, np.array([-3.0, 3.0]))
    values = np.concatenate([part.ravel() for part in parts])
    low, high = values.min(), values.max()
    axes[0].set(ylim=(1.2 * low, 1.2 * high), ylabel=r"$x_t$: $\log D_\ell$, normalised")
    style.legend_above(figure, columns=7)
    return figure


def _draw(axis: "Axes", trajectory: Trajectory, marks: Marks) -> None:
    ratios = trajectory.noise_to_signal
    last = ratios[ratios > 0].min()
    places = np.where(ratios > 0, ratios, last)
    axis.axvspan(last / 1.1, last / ROOM**2, color=style.PALE, alpha=0.4, lw=0)
    for k, ell in enumerate(marks.ell):
        color = style.COLORS[k % len(style.COLORS)]
        dashes = style.DASHES[k % len(style.DASHES)]
        axis.plot(places, trajectory.states[:, k], color=color, ls=dashes, label=f"$\\ell = {ell}$")
        end = last / ROOM / APART ** (k - (len(marks.ell) - 1) / 2)
        axis.vlines(end, *marks.band[:, k], color=color, alpha=0.45, lw=6)
        axis.plot(end, marks.truth[k], ls="", marker="o", ms=4, color=color)
        axis.plot(end, marks.observed[k], ls="", marker="x", ms=6, color=color)
    neutral: style.Line = {"ls": "", "color": style.GREY}
    axis.plot([], [], **neutral, marker="x", ms=6, label="observation")
    axis.plot([], [], **neutral, marker="o", ms=4, label="truth")
    axis.plot([], [], color=style.GREY, alpha=0.45, lw=6, label="exact posterior, 68 %")
    axis.set(xscale="log", xlabel=r"noise to signal, $\sigma(t)/\alpha(t)$")
    axis.set_xlim(ratios.max() * 1.2, last / ROOM**2)
    ends = np.log10([ratios.max(), last])
    axis.set_xticks(10.0 ** np.arange(np.floor(ends[0] + 0.01), np.ceil(ends[1] - 0.01) - 1, -1))
    axis.minorticks_off()
