"""Joint posterior of the parameters of one observation, by GetDist."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from figures import style
from figures.style import FloatArray

if TYPE_CHECKING:  # slow to import
    from matplotlib.figure import Figure

MIN_DRAWS = 100  # below, a kernel density invents a shape


def triangle(
    draws: Mapping[str, FloatArray],
    ranges: Mapping[str, tuple[float, float]],
    truth: Mapping[str, float],
) -> "Figure | None":
    """Marginals and pairs of parameters; None of too few draws.

    Args:
        draws: {name: shape (m,)}.
        ranges: {name: ends of its prior}.
        truth: {name: true value}, of those that are known.
    """
    import getdist
    from getdist import plots as getdist_plots

    names = list(draws)
    if len(draws[names[0]]) < MIN_DRAWS:
        return None
    getdist.chains.print_load_details = False
    samples = getdist.MCSamples(
        samples=np.stack([draws[name] for name in names], 1),
        names=names,
        labels=[name.replace("_", r"\_") for name in names],
        ranges=dict(ranges),
        sampler="uncorrelated",  # no chain: nothing to look for
    )
    plotter = getdist_plots.get_subplot_plotter(width_inch=max(4.0, 1.6 * len(names)))
    plotter.triangle_plot(
        samples, names, filled=True, markers=dict(truth), contour_colors=[style.BLUE]
    )
    return plotter.fig
