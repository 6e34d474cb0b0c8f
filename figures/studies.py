"""Figures of what combines several runs: the forecast, the quality of solvers."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from figures import style

if TYPE_CHECKING:  # slow to import
    from matplotlib.figure import Figure

SOLVERS: tuple[style.Line, ...] = (  # one for each line of a figure of solvers
    {"color": style.GREY, "ls": "-", "marker": "o"},
    {"color": style.BLACK, "ls": "--", "marker": "x"},
    {"color": style.BLUE, "ls": "-", "marker": "s"},
    {"color": style.SKY, "ls": "--", "marker": "s", "mfc": "white"},
    {"color": style.VERMILION, "ls": ":", "marker": "^"},
    {"color": style.GREEN, "ls": "-.", "marker": "v"},
    {"color": style.PURPLE, "ls": (0, (6, 2)), "marker": "D"},
    {"color": style.ORANGE, "ls": "-", "marker": "P"},
    {"color": style.ORANGE, "ls": ":", "marker": "*", "mfc": "white"},
)
LOG_RANGE = 3  # values that differ by more are drawn on a logarithmic axis


@style.own_style()
def forecast(
    cases: Sequence[Mapping[str, Any]], published: Mapping[str, Mapping[str, Any]]
) -> "Figure":
    """sigma(r = 0) of several cases, beside the exact posterior, Fisher limits and published ones.

    Args:
        cases: From `forecast.load_case`.
        published: {instrument: {"sigma_r0": (low, high), ...}}.
    """
    figure, (axis,) = style.make_axes(1, 7.0, max(2.6, 1.4 + 0.36 * len(cases)))
    heights = np.arange(len(cases))[::-1]
    for key, line, label in (
        ("fisher", {"marker": "|", "ms": 14, "color": style.GREEN}, "Fisher limit"),
        ("exact", {"marker": "o", "ms": 8, "mfc": "none", "color": style.BLACK}, "exact posterior"),
        ("value", {"marker": "s", "ms": 4, "color": style.OUTPUT["color"]}, "learned posterior"),
    ):
        values = [case["sigma_r0"][key] for case in cases]
        known = [(1e3 * v, h) for v, h in zip(values, heights, strict=True) if v is not None]
        axis.plot(*np.transpose(known or np.empty((0, 2))), ls="", **line, label=label)
    for case, height in zip(cases, heights, strict=True):
        if case["instrument"] in published:
            low, high = published[case["instrument"]]["sigma_r0"]
            axis.plot([1e3 * low, 1e3 * high], [height] * 2, color=style.PALE, lw=9, zorder=0)
    axis.plot([], [], color=style.PALE, lw=9, label="published, other assumptions")
    names = [
        f"{case['instrument']}, {case['foregrounds']}, {100 * case['a_lens']:g} % lensing"
        for case in cases
    ]
    axis.set(yticks=heights, yticklabels=names, xlabel=r"$10^3\,\sigma(r=0)$")
    axis.set_xlim(0, None)
    axis.set_ylim(-0.7, len(cases) - 0.3)
    style.legend_above(figure, columns=2)
    return figure


@style.own_style()
def solver_quality(
    results: Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]],
) -> "Figure":
    """Quality against network evaluations, a panel for each SDE and metric.

    Args:
        results: {title: {method: [{"evaluations": int, metric: value, ...}, ...]}}.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    panels = [
        (title, curves, metric)
        for title, curves in results.items()
        for metric in next(iter(curves.values()))[0]
        if metric != "evaluations"
    ]
    figure, axes = style.make_axes(len(panels), 4.5 * len(panels) + 0.5, 4.3)
    for axis, (title, curves, metric) in zip(axes, panels, strict=True):
        for (method, points), line in zip(curves.items(), cycle(SOLVERS), strict=False):
            places, values = zip(*[(p["evaluations"], p[metric]) for p in points], strict=True)
            axis.plot(places, values, **line, ms=3.5, label=method)
        style.log_axis(axis, "network evaluations")
        axis.set(ylabel=metric, title=title)
        found = [point[metric] for points in curves.values() for point in points]
        if max(found) > LOG_RANGE * min(found):
            axis.set_yscale("log")
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter(NullFormatter())
    style.legend_above(figure)
    return figure
