"""What the output of a reverse process is worth: errors, distances, a verdict, figures."""

import math

import numpy as np

from diffusion import sampling
from figures import plots
from runtime import atomic, console, tables

NO_INFORMATION = 0.05  # largest attainable correlation below which an observation is empty
ECHO_SHARE = 0.1  # share of the attainable correlation below which an output is an echo
CHUNK_VALUES = 500_000  # numbers of an array on disk that are in memory at a time
LAW_ROWS, LAW_VALUES = 100_000, 10_000_000  # at most, to hold against the exact law


def correlation(a, b):
    """Pearson correlation per column, shape (n_ell,); NaN where one does not vary."""
    a, b = a - a.mean(0), b - b.mean(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(0) / np.sqrt((a * a).sum(0) * (b * b).sum(0))


def mean_over_rows(function, n, n_ell):
    """Means over the rows of arrays that may be larger than memory.

    Args:
        function: Callable slice of rows -> {name: array (m, n_ell)}.
        n: Number of rows.
        n_ell: Values in a row.

    Returns:
        {name: mean, shape (n_ell,)}.
    """
    total, rows = {}, max(1, CHUNK_VALUES // n_ell)
    for first in range(0, n, rows):
        for name, values in function(slice(first, min(first + rows, n))).items():
            total[name] = total.get(name, 0.0) + values.sum(0)
    return {name: value / n for name, value in total.items()}


def error_table(errors, normalised, scale):
    """Mean squared errors of several outputs, in each unit that is known.

    Args:
        errors: {name: mean squared error of D_ell, shape (n_ell,), uK^4}.
        normalised: {name: the same in normalised units}, of those that have it.
        scale: Mean power per multipole, shape (n_ell,), uK^2, or None.

    Returns:
        {name: {"mse_dl": uK^4, "mse_dl_over_signal_squared", "mse_normalised"}}.
    """
    known = scale is not None and (scale > 0).all()
    return {
        name: {
            "mse_dl": float(mse.mean()),
            "mse_dl_over_signal_squared": float((mse / scale**2).mean()) if known else None,
            "mse_normalised": float(normalised[name].mean()) if name in normalised else None,
        }
        for name, mse in errors.items()
    }


def attained_share(corr, limit, n):
    """Share of the attainable correlation that an output reaches, with its standard error.

    Args:
        corr: Correlation of output and truth per multipole, shape (n_ell,).
        limit: The best correlation any method could reach, likewise; None counts as 1.
        n: Number of test rows.
    """
    weights = np.ones(len(corr)) if limit is None else limit
    norm = float(weights @ weights)
    return float(corr @ weights / norm), 1 / math.sqrt(n * norm)


def is_echo(share, error):
    """Whether a share of the attainable correlation is too small to be told from a prior draw's."""
    return share < ECHO_SHARE + 3 * error


def verdict(corr, limit, n, skill):
    """What the output knows of the truth, and whether it is a better estimate than the prior mean.

    Args:
        corr: Correlation of output and truth per multipole, shape (n_ell,).
        limit: The best correlation any method could reach, or None.
        n: Number of test rows.
        skill: 1 - MSE / MSE of the prior mean, D_ell in units of S (or uK^2 where S is unknown).

    Returns:
        One or two sentences.
    """
    if not np.isfinite(corr).all():
        return "The truth does not vary (r = 0), so that no output can be told from the prior."
    echo = (
        "the output carries (nearly) no more information than the prior; it is a new draw, "
        "not the denoised sky."
    )
    if limit is not None and limit.max() < NO_INFORMATION:
        return (
            f"The observation holds no information: no method can reach a correlation above "
            f"{limit.max():.1e} with the truth; {echo}"
        )
    share, error = attained_share(corr, limit, n)
    unit = "correlation with the truth" if limit is None else "correlation that is attainable"
    numbers = f"{100 * share:.1f} +- {100 * error:.1f} % of the {unit}"
    if is_echo(share, error):
        return f"The output reaches {numbers}: {echo}"
    if skill < 0:
        return (
            f"The output follows the observation ({numbers}), but as an estimate of the truth it "
            f"is worse than the prior mean: its squared error is {1 - skill:.3g} times as large."
        )
    return (
        f"The output reaches {numbers}; its squared error is {1 - skill:.3g} of the prior mean's."
    )


def sample_rows(values):
    """The first rows of an array: no more than make a distribution's distance plain."""
    return values[: min(LAW_ROWS, LAW_VALUES // values.shape[1])]


def compare_with_law(generated, metadata):
    """Distance of generated spectra from the exact law S chi^2_nu / nu, where S is known.

    Args:
        generated: D_ell, shape (n, n_ell), uK^2; `sample_rows` of it are used.
        metadata: Of the rows that the model was trained on.

    Returns:
        {"ks_mean", "ks_low" (ell = 2-6), "skewness_error", "ks" per ell, "ks_rows"}, the skewness
        being that of log D_ell, mean absolute error over ell, and ks_rows the number of rows that
        were used; empty where the law is unknown.
    """
    if metadata.get("quantity") != "primordial BB" or not metadata.get("r"):
        return {}
    from scipy import special, stats

    generated = sample_rows(generated)
    signal = np.array(metadata["dl_signal"])
    nu = 2 * np.arange(2, 2 + len(signal)) + 1
    ks, skewness = [], []
    for column, s, k in zip(generated.T, signal, nu, strict=True):
        ks.append(stats.kstest(column / s, stats.chi2(k, scale=1 / k).cdf).statistic)
        skewness.append(stats.skew(np.log(column)))
    exact = special.polygamma(2, nu / 2) / special.polygamma(1, nu / 2) ** 1.5
    return {
        "ks_mean": float(np.mean(ks)),
        "ks_low": float(np.mean(ks[:5])),
        "skewness_error": float(np.abs(skewness - exact).mean()),
        "ks": np.array(ks).tolist(),
        "ks_rows": len(generated),
    }


def compare_with_truth(observed, truth, dl_out, checkpoint):
    """Metrics of denoised spectra against their truth, with one sentence of verdict.

    Args:
        observed: storage.Table of the observations, n rows.
        truth: storage.Table of their truth, row for row.
        dl_out: Denoised D_ell, shape (n, n_ell), uK^2, perhaps on disk.
        checkpoint: From checkpoints.load. Errors in normalised units are left out where it is
            conditional, for a posterior mean is one of D_ell.

    Returns:
        {"mse", "correlation", "verdict"}, ready for JSON.
    """
    import torch

    n, n_ell = dl_out.shape
    mean_dl = np.array(checkpoint["data"]["mean_dl"])
    positive = tables.minimum(truth.values) > 0
    has_x = checkpoint["cond_normalizer"] is None

    def normalize(dl):
        return checkpoint["normalizer"].normalize(torch.from_numpy(dl)).double().numpy()

    def spectra(rows):
        """D_ell of what is compared, shape (m, n_ell) each."""
        for values in (dl_out, observed.values, truth.values):
            tables.release(values)  # of the rows before
        # the truth of another sky is a draw from the prior that never saw the observation
        other = truth.values[np.arange(rows.start, rows.stop) - 1]
        own = {"denoised": dl_out[rows], "observation": observed.values[rows]}
        own |= {"prior_mean": mean_dl[None], "prior_draw": other, "truth": truth.values[rows]}
        return {name: np.array(values, float) for name, values in own.items()}

    def first_moments(rows):
        dl = spectra(rows)
        return {name: dl[name] for name in ("denoised", "observation", "truth")}

    means = mean_over_rows(first_moments, n, n_ell)

    def second_moments(rows):
        dl = spectra(rows)
        true, result = dl.pop("truth"), {}
        for name, values in dl.items():
            result["mse", name] = np.square(values - true)
        if positive and has_x:
            x_true = normalize(true)
            for name, values in dl.items():
                x = 0.0 if name == "prior_mean" else normalize(values)
                result["mse_x", name] = np.square(x - x_true)
        centred = {k: v - means[k] for k, v in {**dl, "truth": true}.items() if k in means}
        for name, values in centred.items():
            result["variance", name] = values**2
            result["covariance", name] = values * centred["truth"]
        return result

    moments = mean_over_rows(second_moments, n, n_ell)

    def collect(kind):
        return {name: value for (own, name), value in moments.items() if own == kind}

    variance = collect("variance")
    with np.errstate(invalid="ignore", divide="ignore"):
        corr, corr_observed = (
            moments["covariance", k] / np.sqrt(variance[k] * variance["truth"])
            for k in ("denoised", "observation")
        )
    signal, noise = observed.theory("dl_signal"), observed.theory("dl_contaminant")
    # with a fixed foreground on top W stays an upper bound
    limit = None if signal is None or noise is None else signal / (signal + noise)
    finite = np.isfinite(corr).all() and np.isfinite(corr_observed).all()
    mse = error_table(collect("mse"), collect("mse_x"), signal)
    known = mse["denoised"]["mse_dl_over_signal_squared"] is not None
    unit = "mse_dl_over_signal_squared" if known else "mse_dl"
    return {
        "mse": mse,
        "correlation": {
            "denoised": corr.tolist() if finite else None,
            "observation": corr_observed.tolist() if finite else None,
            "limit": None if limit is None else limit.tolist(),
        },
        "verdict": verdict(corr, limit, n, 1 - mse["denoised"][unit] / mse["prior_mean"][unit]),
    }


def print_report(report):
    """The metrics as short lines on stdout."""
    for name, row in report.get("mse", {}).items():
        cells = [f"{k} {v:.4g}" for k, v in row.items() if v is not None]
        console.print_result(f"{name:12s} {'  '.join(cells)}")
    correlations = report.get("correlation", {})
    for name, values in correlations.items():
        if values is not None:
            shown = " ".join(f"{v:+.3f}" for v in values[:5])
            console.print_result(f"correlation with the truth, ell = 2-6, {name}: {shown}")
    if "r" in report:
        console.print_result(
            "row {row}: r = {median:.3g} (+{upper:.2g} -{lower:.2g}), "
            "95 % upper limit {upper_limit_95:.3g}".format(**report["r"])
        )
    for key in ("ks_mean", "ks_low", "skewness_error"):
        if key in report:
            console.print_result(f"{key} {report[key]:.4f}")
    if "verdict" in report:
        console.print_result(report["verdict"])


def example_figure(row, checkpoint, observed, truth, arrays, report):
    """The figure of example spectra: a posterior, or what the recipe gave, or generated."""

    name = "generated.npy" if observed is None else "denoised.npy"
    ell = np.arange(2, 2 + arrays[name].shape[1])
    signal = checkpoint["data"].get("dl_signal")
    signal = None if signal is None else np.array(signal)
    if observed is None:
        return plots.generated_examples(ell, sample_rows(arrays[name]), signal)
    correlations, y = report.get("correlation"), observed.values[row]
    truth_row = None if truth is None else truth.values[row]
    if "posterior_quantiles.npy" not in arrays:
        return plots.denoised_example(ell, y, arrays[name][row], truth_row, signal, correlations)
    r_row = arrays["r_draws.npy"][row] if "r_draws.npy" in arrays else None
    quantiles = arrays["posterior_quantiles.npy"][row]
    return plots.posterior_example(ell, y, quantiles, truth_row, signal, correlations, r_row)


def write_report(report, row, checkpoint, observed, truth, outputs):
    """Measure the arrays that are in place; write and print what they are worth, and the figures.

    Args:
        report: What is known without them.
        row: Observation that the figures show.
        checkpoint: From checkpoints.load.
        observed: storage.Table of the observations, or None.
        truth: storage.Table of their truth, or None.
        outputs: {file name: path}.
    """

    arrays = {k: np.load(v, mmap_mode="r") for k, v in outputs.items() if k.endswith(".npy")}
    if "r_draws.npy" in arrays:
        report = {**report, "r": {"row": row, **sampling.summarise_r(arrays["r_draws.npy"][row])}}
    if truth is not None:
        report |= compare_with_truth(observed, truth, arrays["denoised.npy"], checkpoint)
    elif observed is None:
        report |= compare_with_law(arrays["generated.npy"], checkpoint["data"])
    atomic.write_json(outputs["metrics.json"], report)
    figure = example_figure(row, checkpoint, observed, truth, arrays, report)
    atomic.write_figure(outputs["examples.png"], figure)
    if "trajectory.npy" in arrays:
        states, n_ell = arrays["trajectory.npy"], checkpoint["network_kwargs"]["n_ell"]
        figure = plots.trajectory(states[:, 0], states[:, 1 : 1 + n_ell], np.arange(2, 2 + n_ell))
        atomic.write_figure(outputs["trajectory.png"], figure)
    print_report(report)
