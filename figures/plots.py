"""Figures from arrays; colours and labels are defined here once."""

from itertools import cycle

import numpy as np

# Okabe & Ito (2008): told apart by the colour-blind; line styles tell them apart in print
TRUTH = {"color": "#000000", "ls": "-", "marker": "o", "ms": 3.5}
OBSERVATION = {"color": "#D55E00", "ls": ":", "marker": "x", "ms": 4.5}
OUTPUT = {"color": "#0072B2", "ls": "--", "marker": "s", "ms": 3.5, "mfc": "white"}
THEORY = {"color": "#666666", "ls": "-", "lw": 1.2}
LIMIT = {"color": "#009E73", "ls": "-.", "lw": 1.5}
PARTS = {  # of a budget
    "lensing": {"color": "#56B4E9", "ls": "--"},
    "foreground": {"color": "#D55E00", "ls": "-", "marker": "^", "ms": 3.5},
    "noise": {"color": "#009E73", "ls": "-.", "lw": 1.5},
    "ILC bias": {"color": "#CC79A7", "ls": "", "marker": "v", "ms": 4},
    "ILC bias, expected": {"color": "#CC79A7", "ls": ":", "lw": 1.5},
}
SOLVERS = (  # one for each line of a figure of solvers
    {"color": "#666666", "ls": "-", "marker": "o"},
    {"color": "#000000", "ls": "--", "marker": "x"},
    {"color": "#0072B2", "ls": "-", "marker": "s"},
    {"color": "#56B4E9", "ls": "--", "marker": "s", "mfc": "white"},
    {"color": "#D55E00", "ls": ":", "marker": "^"},
    {"color": "#009E73", "ls": "-.", "marker": "v"},
    {"color": "#CC79A7", "ls": (0, (6, 2)), "marker": "D"},
)
TENSORS = ({"color": "#999999", "ls": "-"}, {"color": "#444444", "ls": (0, (6, 2))})
ELL_LABEL = r"multipole $\ell$"
R_LABEL = "tensor-to-scalar ratio $r$"
DL_LABEL = r"$D_\ell^{BB}\;[\mu\mathrm{K}^2]$"


def _axes(columns=2, width=9.0, height=3.8):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns)


def _theory_band(axis, ell, dl_signal):
    from scipy.stats import chi2

    nu = 2 * ell + 1
    low, high = (dl_signal * chi2.ppf(q, nu) / nu for q in (0.16, 0.84))
    axis.fill_between(ell, low, high, color="#BBBBBB", lw=0, label="cosmic variance, 68 %")
    axis.plot(ell, dl_signal, **THEORY, label="primordial theory")


def _ell_axis(axis):
    _log_axis(axis, ELL_LABEL)


def _log_axis(axis, label):
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    axis.set(xlabel=label, xscale="log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.xaxis.set_minor_formatter(NullFormatter())


def _spectrum_axis(axis):
    from matplotlib.ticker import NullFormatter

    _ell_axis(axis)
    axis.set(ylabel=DL_LABEL, yscale="log")
    low, high = np.log10(axis.get_ylim())
    if high - low > 1:
        axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_ylim(10**low, 10 ** (high + 0.35 * (high - low)))  # room for the legend
    axis.legend(fontsize=8, loc="upper center", ncols=2)


def budget(ell, left, tensors):
    """What a cleaned spectrum is made of, beside primordial spectra.

    Args:
        ell: Multipoles, shape (n_ell,).
        left: {label: D_ell in uK^2, shape (n_ell,)} of contaminants; parts that are 0 are left
            out, negative ones are drawn by their size.
        tensors: {r: D_ell in uK^2, shape (n_ell,)}.
    """
    figure, axis = _axes(1, 6.5, 4.5)
    for (r, dl), style in zip(tensors.items(), TENSORS, strict=False):
        axis.plot(ell, dl, **style, label=f"tensor, $r = {r:g}$")
    for label, dl in left.items():
        if dl.any():
            sign = "" if (dl >= 0).all() else "$-$"
            axis.plot(ell, np.abs(dl), **PARTS[label], label=f"{sign}{label}")
    total = sum(dl for label, dl in left.items() if "ILC" not in label)
    axis.plot(ell, total, color="#000000", lw=1.8, label="all but tensors, known weights")
    _spectrum_axis(axis)
    return figure


def denoised_example(ell, observed, denoised, truth, dl_signal, correlations):
    """One sky's spectra, and the correlation with the truth of all.

    Args:
        ell: Multipoles, shape (n_ell,).
        observed: D_ell in uK^2, shape (n_ell,); likewise denoised, truth and dl_signal, of which
            the last two may be None.
        denoised: See observed.
        truth: See observed.
        dl_signal: See observed.
        correlations: {"denoised", "observation", "limit"}: lists of n_ell correlations with the
            truth, the limit being the best that is possible; each may be None, or all.
    """
    known = bool(correlations and correlations["denoised"])
    figure, axes = _axes(2 if known else 1, 9.0 if known else 5.0)
    left = np.atleast_1d(axes)[0]
    if dl_signal is not None and (dl_signal > 0).all():
        _theory_band(left, ell, dl_signal)
    left.plot(ell, observed, **OBSERVATION, label="observation")
    if truth is not None and (truth > 0).all():
        left.plot(ell, truth, **TRUTH, label="truth")
    left.plot(ell, denoised, **OUTPUT, label="output")
    _spectrum_axis(left)
    if known:
        _correlations(axes[1], ell, correlations, "output")
    return figure


def _correlations(axis, ell, correlations, label):
    axis.axhline(0, color="#BBBBBB", lw=0.8)
    if correlations["limit"]:
        axis.plot(ell, correlations["limit"], **LIMIT, label="limit of any method, $W$")
    axis.plot(ell, correlations["observation"], **OBSERVATION, label="observation")
    axis.plot(ell, correlations["denoised"], **OUTPUT, label=label)
    _ell_axis(axis)
    axis.set(ylabel="correlation with the truth", ylim=(-0.15, 1.05))
    axis.legend(fontsize=8)


def posterior_band(axis, ell, quantiles):
    """16 to 84 % band and median on D_ell; quantiles of shape (3, n_ell), uK^2."""
    low, median, high = quantiles
    axis.fill_between(
        ell, low, high, color=OUTPUT["color"], alpha=0.3, lw=0, label="posterior, 68 %"
    )
    axis.plot(ell, median, **OUTPUT | {"ls": "-", "marker": None}, label="posterior median")


def r_histogram(axis, draws, r_label=R_LABEL):
    """Posterior draws of r, with their median and 95 % upper limit; draws of shape (m,)."""
    median, limit = np.quantile(draws, [0.5, 0.95])
    axis.hist(draws, bins="auto", density=True, color=OUTPUT["color"], alpha=0.4, label="draws")
    axis.axvline(median, color=OUTPUT["color"], label="median")
    axis.axvline(limit, **LIMIT, label="95 % upper limit")
    axis.set(xlabel=r_label, ylabel="posterior density")
    axis.locator_params(axis="x", nbins=5)


def posterior_example(ell, observed, quantiles, truth, dl_signal, correlations, r_draws):
    """One sky's posterior band on D_ell, beside its r, or the correlation with the truth of all.

    Args:
        ell: Multipoles, shape (n_ell,).
        observed: D_ell in uK^2, shape (n_ell,).
        quantiles: 16, 50 and 84 % quantiles of the draws, shape (3, n_ell), uK^2.
        truth: D_ell in uK^2, shape (n_ell,), or None.
        dl_signal: Theory D_ell, shape (n_ell,), or None.
        correlations: As in `denoised_example`.
        r_draws: Posterior draws of r, shape (m,), or None.
    """
    known = bool(correlations and correlations["denoised"])
    panels = 1 + (known or r_draws is not None)
    figure, axes = _axes(panels, 4.5 * panels + 0.5 * (panels == 1))
    left = np.atleast_1d(axes)[0]
    if dl_signal is not None and (dl_signal > 0).all():
        _theory_band(left, ell, dl_signal)
    posterior_band(left, ell, quantiles)
    left.plot(ell, observed, **OBSERVATION, label="observation")
    if truth is not None and (truth > 0).all():
        left.plot(ell, truth, **TRUTH, label="truth")
    _spectrum_axis(left)
    if r_draws is not None:
        r_histogram(axes[1], r_draws)
        axes[1].legend(fontsize=8)
    elif known:
        _correlations(axes[1], ell, correlations, "posterior mean")
    return figure


def generated_examples(ell, generated, dl_signal):
    """Generated spectra against the theory: examples, and the quantiles at each multipole.

    Args:
        ell: Multipoles, shape (n_ell,).
        generated: D_ell in uK^2, shape (n, n_ell).
        dl_signal: Theory D_ell, shape (n_ell,), or None.
    """
    figure, (left, right) = _axes()
    for axis in (left, right):
        if dl_signal is not None:
            _theory_band(axis, ell, dl_signal)
    left.plot(ell, generated[0], **OUTPUT, lw=0.8, label="generated")
    left.plot(ell, generated[1:4].T, **OUTPUT, lw=0.8)
    quantiles = {**OUTPUT, "marker": None}
    for q, label in ((0.16, "generated: 16, 50, 84 %"), (0.5, None), (0.84, None)):
        right.plot(ell, np.quantile(generated, q, axis=0), **quantiles, label=label)
    _spectrum_axis(left)
    _spectrum_axis(right)
    return figure


def trajectory(noise_to_signal, states, ell):
    """How each multipole of one spectrum moves from noise to data.

    Args:
        noise_to_signal: sigma/alpha, decreasing, shape (n_states,); 0 for the last.
        states: x, normalised units, shape (n_states, n_ell).
        ell: Multipoles, shape (n_ell,).
    """
    import matplotlib

    figure, axis = _axes(1, 5.6)
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
    ticks = [ell[0], *(m for m in (5, 10, 20, 50, 100, 200, 500) if m < ell[-1]), ell[-1]]
    bar = figure.colorbar(scale, ax=axis, label=ELL_LABEL, ticks=ticks, format="%d")
    bar.ax.minorticks_off()
    return figure


def training_loss(history, levels):
    """The loss over the epochs, and by noise level, beside the best linear denoiser.

    Args:
        history: {"train", "validation", "linear"}: lists with one value per epoch.
        levels: {"noise_to_signal", "network", "network_error", "linear"}: equally long lists.
    """
    figure, (left, right) = _axes()
    epochs = np.arange(1, 1 + len(history["train"]))
    linear = history["linear"][-1]
    left.plot(epochs, history["train"], color=OBSERVATION["color"], lw=0.5, label="training rows")
    left.plot(epochs, history["validation"], color=OUTPUT["color"], label="held-out rows (EMA)")
    left.axhline(linear, **LIMIT, label="best linear denoiser, held-out rows")
    # the first epochs would hide what matters: how far below the linear denoiser it ends
    settled = history["validation"][len(epochs) // 10 :]
    margin = 2 * max(abs(value - linear) for value in settled) + 1e-4
    left.set_ylim(linear - margin, linear + margin)
    left.set(xlabel="epoch", ylabel="mean squared error of the noise")
    left.legend(fontsize=8)
    by_level = np.array(levels["linear"])
    right.axhline(0, **LIMIT, label="best linear denoiser")
    right.errorbar(
        levels["noise_to_signal"],
        100 * (np.array(levels["network"]) / by_level - 1),
        100 * np.array(levels["network_error"]) / by_level,
        color=OUTPUT["color"],
        marker="s",
        ms=4,
        capsize=2,
        label="network, held-out rows",
    )
    right.set(
        xscale="log",
        xlabel=r"noise to signal, $\sigma/\alpha$",
        ylabel="loss above the best linear denoiser [%]",
    )
    right.legend(fontsize=8)
    return figure


def forecast(cases, published):
    """sigma(r = 0) of several cases, beside the exact posterior, Fisher limits and published ones.

    Args:
        cases: From `forecast.load_case`.
        published: {instrument: {"sigma_r0": (low, high), ...}}.
    """
    figure, axis = _axes(1, 7.0, max(2.6, 1.4 + 0.36 * len(cases)))
    heights = np.arange(len(cases))[::-1]
    for key, style, label in (
        ("fisher", {"marker": "|", "ms": 14, "color": LIMIT["color"]}, "Fisher limit"),
        ("exact", {"marker": "o", "ms": 8, "mfc": "none", "color": "#000000"}, "exact posterior"),
        ("value", {"marker": "s", "ms": 4, "color": OUTPUT["color"]}, "learned posterior"),
    ):
        values = [case["sigma_r0"][key] for case in cases]
        known = [(1e3 * v, h) for v, h in zip(values, heights, strict=True) if v is not None]
        axis.plot(*np.transpose(known or np.empty((0, 2))), ls="", **style, label=label)
    for case, height in zip(cases, heights, strict=True):
        if case["instrument"] in published:
            low, high = published[case["instrument"]]["sigma_r0"]
            axis.plot([1e3 * low, 1e3 * high], [height] * 2, color="#DDDDDD", lw=9, zorder=0)
    axis.plot([], [], color="#DDDDDD", lw=9, label="published, other assumptions")
    names = [
        f"{case['instrument']}, {case['foregrounds']}, {100 * case['a_lens']:g} % lensing"
        for case in cases
    ]
    axis.set(yticks=heights, yticklabels=names, xlabel=r"$10^3\,\sigma(r=0)$")
    axis.set_xlim(0, None)
    axis.set_ylim(-0.7, len(cases) - 0.3)
    figure.legend(fontsize=8, loc="outside upper center", ncols=2)
    return figure


def solver_quality(results):
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
    figure, axes = _axes(len(panels), 4.5 * len(panels) + 0.5, 4.3)
    for axis, (title, curves, metric) in zip(np.atleast_1d(axes), panels, strict=True):
        for (method, points), style in zip(curves.items(), cycle(SOLVERS), strict=False):
            places, values = zip(*[(p["evaluations"], p[metric]) for p in points], strict=True)
            axis.plot(places, values, **style, ms=3.5, label=method)
        _log_axis(axis, "network evaluations")
        axis.set(yscale="log", ylabel=metric, title=title)
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
    figure.legend(
        *axis.get_legend_handles_labels(), fontsize=8, loc="outside upper center", ncols=4
    )
    return figure
