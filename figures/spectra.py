"""Figures of spectra: what an observation is made of, examples of outputs, trajectories."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from figures import style
from figures.style import FloatArray

if TYPE_CHECKING:  # slow to import
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PARTS: dict[str, style.Line] = {  # of a budget
    "lensing": {"color": style.SKY, "ls": "--"},
    "foreground": {"color": style.VERMILION, "ls": "-", "marker": "^", "ms": 3.5},
    "noise": {"color": style.GREEN, "ls": "-.", "lw": 1.5},
    "ILC bias": {"color": style.PURPLE, "ls": "", "marker": "v", "ms": 4},
    "ILC bias, expected": {"color": style.PURPLE, "ls": ":", "lw": 1.5},
}
MIN_DRAWS = 20  # below, a histogram and quantiles mean nothing
TENSORS: tuple[style.Line, ...] = (
    {"color": "#999999", "ls": "-"},
    {"color": style.DARK, "ls": (0, (6, 2))},
)


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
    """One sky's spectra, D_ell of shape (n_ell,) each, uK^2.

    Attributes:
        ell: Multipoles.
        observed: Observation; None where it is no spectrum of these multipoles.
        truth: None where it is unknown.
        dl_signal: Expected primordial spectrum; None where it is unknown.
    """

    ell: npt.NDArray
    observed: FloatArray | None
    truth: FloatArray | None
    dl_signal: FloatArray | None


@dataclasses.dataclass(frozen=True, eq=False)
class Correlations:
    """Correlations of all skies with the truth, shape (n_ell,) each.

    Attributes:
        output: Of the output.
        observation: Of the observation.
        limit: The best that any method could reach; None where it is unknown.
    """

    output: FloatArray
    observation: FloatArray
    limit: FloatArray | None


@style.own_style()
def budget(
    ell: npt.NDArray, left: Mapping[str, FloatArray], tensors: Mapping[float, FloatArray]
) -> "Figure":
    """What a cleaned spectrum is made of, beside primordial spectra.

    Args:
        ell: Multipoles, shape (n_ell,).
        left: {label: D_ell in uK^2, shape (n_ell,)} of contaminants; parts that are 0 are left
            out, negative ones are drawn by their size.
        tensors: {r: D_ell in uK^2, shape (n_ell,)}.
    """
    figure, (axis,) = style.make_axes(1, 6.5, 4.5)
    for (r, dl), line in zip(tensors.items(), TENSORS, strict=False):
        axis.plot(ell, dl, **style.along(line, ell), label=f"tensor, $r = {r:g}$")
    for label, dl in left.items():
        if dl.any():
            sign = "" if (dl >= 0).all() else "$-$"
            axis.plot(ell, np.abs(dl), **style.along(PARTS[label], ell), label=f"{sign}{label}")
    total = sum(dl for label, dl in left.items() if "ILC" not in label)
    sum_line = style.along({"color": style.BLACK, "lw": 1.8}, ell)
    axis.plot(ell, total, **sum_line, label="all but tensors, known weights")
    style.spectrum_axis(axis)
    return figure


@style.own_style()
def denoised_example(
    example: Example, denoised: FloatArray, correlations: Correlations | None
) -> "Figure":
    """One sky's spectra, and the correlation with the truth of all.

    Args:
        example: The sky.
        denoised: Output D_ell, shape (n_ell,), uK^2.
        correlations: Of the output, where they are known.
    """
    known = correlations is not None
    figure, axes = style.make_axes(2 if known else 1, 9.0 if known else 5.0)
    left, ell = axes[0], example.ell
    _draw_theory(left, example)
    _draw_observation(left, example)
    _draw_truth(left, example)
    left.plot(ell, denoised, **style.OUTPUT, label="output")
    style.spectrum_axis(left)
    if correlations is not None:
        _draw_correlations(axes[1], ell, correlations, "output")
    return figure


@style.own_style()
def posterior_example(
    example: Example,
    quantiles: FloatArray,
    correlations: Correlations | None,
    r_draws: FloatArray | None,
) -> "Figure":
    """One sky's posterior band on D_ell, beside its r, or the correlation with the truth of all.

    Args:
        example: The sky.
        quantiles: 16, 50 and 84 % quantiles of the draws, shape (3, n_ell), uK^2.
        correlations: Of the posterior mean, where they are known.
        r_draws: Posterior draws of r, shape (m,), or None.
    """
    panels = 1 + (correlations is not None or r_draws is not None)
    figure, axes = style.make_axes(panels, 4.5 * panels + 0.5 * (panels == 1))
    left, ell = axes[0], example.ell
    _draw_theory(left, example)
    style.posterior_band(left, ell, quantiles)
    _draw_observation(left, example)
    _draw_truth(left, example)
    style.spectrum_axis(left)
    if r_draws is not None:
        r_histogram(axes[1], r_draws)
        axes[1].legend(fontsize=style.LEGEND)
    elif correlations is not None:
        _draw_correlations(axes[1], ell, correlations, "posterior mean")
    return figure


def _draw_theory(axis: "Axes", example: Example) -> None:
    if example.dl_signal is not None and (example.dl_signal > 0).all():
        style.theory_band(axis, example.ell, example.dl_signal)


def _draw_observation(axis: "Axes", example: Example) -> None:
    if example.observed is not None:
        style.observation(axis, example.ell, example.observed)


def _draw_truth(axis: "Axes", example: Example) -> None:
    if example.truth is not None and (example.truth > 0).all():
        axis.plot(example.ell, example.truth, **style.TRUTH, label="truth")


def _draw_correlations(
    axis: "Axes", ell: npt.NDArray, correlations: Correlations, label: str
) -> None:
    axis.axhline(0, **style.ZERO)
    if correlations.limit is not None:
        axis.plot(
            ell,
            correlations.limit,
            **style.along(style.LIMIT, ell),
            label="limit of any method, $W$",
        )
    axis.plot(ell, correlations.observation, **style.OBSERVATION, label="observation")
    axis.plot(ell, correlations.output, **style.OUTPUT, label=label)
    style.ell_axis(axis)
    axis.set(ylabel="correlation with the truth", ylim=(-0.15, 1.05))
    axis.legend(fontsize=style.LEGEND)


def r_histogram(axis: "Axes", draws: FloatArray, r_label: str = style.R_LABEL) -> None:
    """Posterior draws of r, with their median and 95 % upper limit; draws of shape (m,)."""
    if len(draws) < MIN_DRAWS or np.ptp(draws) == 0:
        label = f"{len(draws)} draw{'s' * (len(draws) > 1)}"
        axis.plot(draws, 0 * draws, "|", ms=14, color=style.BLUE, label=label)
        axis.set(yticks=[], ylim=(0, 1))
    else:
        median, limit = np.quantile(draws, [0.5, 0.95])
        axis.hist(draws, bins="auto", density=True, color=style.BLUE, alpha=0.4, label="draws")
        axis.axvline(median, color=style.BLUE, label="median")
        axis.axvline(limit, **style.LIMIT, label="95 % upper limit")
    axis.set(xlabel=r_label, ylabel="posterior density")
    axis.locator_params(axis="x", nbins=5)


@style.own_style()
def output_example(
    example: Example,
    arrays: Mapping[str, npt.NDArray],
    row: int,
    correlations: Correlations | None,
) -> "Figure":
    """One sky's posterior, or what the recipe made of it, as the arrays that are there allow.

    Args:
        example: The sky.
        arrays: {file name: array} of sample.py, rows first.
        row: Of the sky.
        correlations: Of all skies with their truth, or None.
    """
    if "posterior_quantiles.npy" not in arrays:
        return denoised_example(example, arrays["denoised.npy"][row], correlations)
    r = arrays["r_draws.npy"][row] if "r_draws.npy" in arrays else None
    return posterior_example(example, arrays["posterior_quantiles.npy"][row], correlations, r)


@style.own_style()
def generated_examples(
    ell: npt.NDArray, generated: FloatArray, dl_signal: FloatArray | None
) -> "Figure":
    """Generated spectra against the theory: examples, and the quantiles at each multipole.

    Args:
        ell: Multipoles, shape (n_ell,).
        generated: D_ell in uK^2, shape (n, n_ell).
        dl_signal: Theory D_ell, shape (n_ell,), or None.
    """
    figure, (left, right) = style.make_axes()
    for axis in (left, right):
        if dl_signal is not None:
            style.theory_band(axis, ell, dl_signal)
    left.plot(ell, generated[0], **style.OUTPUT, lw=0.8, label="generated")
    left.plot(ell, generated[1:4].T, **style.OUTPUT, lw=0.8)
    quantiles = style.along({**style.OUTPUT, "marker": None}, ell)
    if len(generated) < MIN_DRAWS:
        right.plot(ell, generated[0], **style.OUTPUT, lw=0.8, label="generated, all")
        right.plot(ell, generated[1:].T, **style.OUTPUT, lw=0.8)
    else:
        for q, label in ((0.16, "generated: 16, 50, 84 %"), (0.5, None), (0.84, None)):
            right.plot(ell, np.quantile(generated, q, axis=0), **quantiles, label=label)
    style.spectrum_axis(left)
    style.spectrum_axis(right)
    return figure


@style.own_style()
def trajectory(noise_to_signal: FloatArray, states: FloatArray, ell: npt.NDArray) -> "Figure":
    """How each multipole of one spectrum moves from noise to data.

    Args:
        noise_to_signal: sigma/alpha, decreasing, shape (n_states,); 0 for the last.
        states: x, normalised units, shape (n_states, n_ell).
        ell: Multipoles, shape (n_ell,).
    """
    import matplotlib

    figure, (axis,) = style.make_axes(1, 5.6)
    colormap = matplotlib.colormaps["viridis"]
    norm = matplotlib.colors.LogNorm(ell[0], ell[-1])
    floor = noise_to_signal[-2] / 2  # where the final state stands on the log axis
    positions = np.where(noise_to_signal > 0, noise_to_signal, floor)
    for column, multipole in zip(states.T, ell, strict=True):
        axis.plot(positions, column, color=colormap(norm(multipole)), lw=0.8)
    axis.set(
        xscale="log", xlabel=r"noise to signal, $\sigma(t)/\alpha(t)$", ylabel=r"$x_t$ (normalised)"
    )
    axis.set_yscale("asinh", linear_width=1)
    axis.set_yticks([-30, -10, -3, -1, 0, 1, 3, 10, 30])
    axis.yaxis.set_major_formatter("{x:g}")
    axis.set_ylim(1.1 * min(states.min(), -3), 1.1 * max(states.max(), 3))
    axis.invert_xaxis()
    scale = matplotlib.cm.ScalarMappable(norm, colormap)
    ticks = [m for m in (5, 10, 20, 50, 100, 200, 500) if ell[0] < m < ell[-1]]
    ticks = sorted({ell[0], *ticks, ell[-1]})
    bar = figure.colorbar(scale, ax=axis, label=style.ELL_LABEL, ticks=ticks, format="%d")
    bar.ax.minorticks_off()
    return figure
