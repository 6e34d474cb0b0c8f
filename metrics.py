"""What the output of a reverse process is worth: errors, correlations, distances, a verdict."""

import math

import numpy as np

import cli

NO_INFORMATION = 0.05  # largest attainable correlation below which an observation is empty
ECHO_SHARE = 0.1  # share of the attainable correlation below which an output is an echo


def correlation(a, b):
    """Pearson correlation per column, shape (n_ell,); NaN where one does not vary."""
    a, b = a - a.mean(0), b - b.mean(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(0) / np.sqrt((a * a).sum(0) * (b * b).sum(0))


def denoising_metrics(outputs, truth, scale, x_truth):
    """Mean squared errors of several outputs against the truth.

    Args:
        outputs: {name: (dl, x)}, D_ell in uK^2 and normalised, broadcastable to (n, n_ell).
        truth: True D_ell, shape (n, n_ell), uK^2.
        scale: Mean power per multipole, shape (n_ell,), or None.
        x_truth: Truth in normalised units, or None where it has none (r = 0).

    Returns:
        {name: {"mse_dl": uK^4, "mse_dl_over_signal_squared", "mse_normalised"}}.
    """
    table = {}
    for name, (dl, x) in outputs.items():
        mse = np.square(dl - truth).mean(0)
        row = {"mse_dl": float(mse.mean()), "mse_dl_over_signal_squared": None}
        if scale is not None and (scale > 0).all():
            row["mse_dl_over_signal_squared"] = float((mse / scale**2).mean())
        known = x_truth is not None
        row["mse_normalised"] = float(np.square(x - x_truth).mean()) if known else None
        table[name] = row
    return table


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


def compare_with_law(generated, metadata):
    """Distance of generated spectra from the exact law S chi^2_nu / nu, where S is known.

    Returns:
        {"ks_mean", "ks_low" (ell = 2-6), "skewness_error", "ks" per ell}, the skewness being that
        of log D_ell, mean absolute error over ell; empty where the law is unknown.
    """
    if metadata.get("quantity") != "primordial BB" or not metadata.get("r"):
        return {}
    from scipy import special, stats

    signal = np.array(metadata["dl_signal"])
    nu = 2 * np.arange(2, 2 + len(signal)) + 1
    ks = np.array(
        [
            stats.kstest(column / s, stats.chi2(k, scale=1 / k).cdf).statistic
            for column, s, k in zip(generated.T, signal, nu, strict=True)
        ]
    )
    exact = special.polygamma(2, nu / 2) / special.polygamma(1, nu / 2) ** 1.5
    skewness = np.abs(stats.skew(np.log(generated), axis=0) - exact).mean()
    return {
        "ks_mean": float(ks.mean()),
        "ks_low": float(ks[:5].mean()),
        "skewness_error": float(skewness),
        "ks": ks.tolist(),
    }


def compare_with_truth(observed, truth, x_out, dl_out, checkpoint):
    """Metrics of denoised spectra against their truth, with one sentence of verdict.

    Args:
        observed: storage.Table of the observations, n rows.
        truth: storage.Table of their truth, row for row.
        x_out: Denoised spectra, normalised, shape (n, n_ell); None for a posterior mean, which
            is one of D_ell.
        dl_out: Denoised D_ell, shape (n, n_ell), uK^2.
        checkpoint: From checkpoints.load.

    Returns:
        {"mse", "correlation", "verdict"}, ready for JSON.
    """
    import torch

    def normalize(dl):
        return checkpoint["normalizer"].normalize(torch.tensor(dl)).double().numpy()

    dl_truth = np.asarray(truth.values, float)
    positive = (dl_truth > 0).all()
    x_truth = normalize(dl_truth) if positive and x_out is not None else None
    x_observed = None if x_out is None else normalize(np.asarray(observed.values, float))
    outputs = {
        "denoised": (dl_out, x_out),
        "observation": (observed.values, x_observed),
        "prior_mean": (np.array(checkpoint["data"]["mean_dl"]), 0.0),
        # the truth of another sky is a draw from the prior that never saw the observation
        "prior_draw": (
            np.roll(dl_truth, 1, 0),
            None if x_truth is None else np.roll(x_truth, 1, 0),
        ),
    }
    signal, noise = observed.theory("dl_signal"), observed.theory("dl_contaminant")
    # with a fixed foreground on top W stays an upper bound
    limit = None if signal is None or noise is None else signal / (signal + noise)
    corr = correlation(dl_out, dl_truth)
    corr_observed = correlation(observed.values, dl_truth)
    finite = np.isfinite(corr).all() and np.isfinite(corr_observed).all()
    mse = denoising_metrics(outputs, dl_truth, signal, x_truth)
    known = mse["denoised"]["mse_dl_over_signal_squared"] is not None
    unit = "mse_dl_over_signal_squared" if known else "mse_dl"
    return {
        "mse": mse,
        "correlation": {
            "denoised": corr.tolist() if finite else None,
            "observation": corr_observed.tolist() if finite else None,
            "limit": None if limit is None else limit.tolist(),
        },
        "verdict": verdict(
            corr, limit, len(dl_truth), 1 - mse["denoised"][unit] / mse["prior_mean"][unit]
        ),
    }


def print_report(report):
    """The metrics as short lines on stdout."""
    for name, row in report.get("mse", {}).items():
        cells = [f"{k} {v:.4g}" for k, v in row.items() if v is not None]
        cli.say(f"{name:12s} {'  '.join(cells)}")
    correlations = report.get("correlation", {})
    for name, values in correlations.items():
        if values is not None:
            shown = " ".join(f"{v:+.3f}" for v in values[:5])
            cli.say(f"correlation with the truth, ell = 2-6, {name}: {shown}")
    if "r" in report:
        cli.say(
            "row {row}: r = {median:.3g} (+{upper:.2g} -{lower:.2g}), "
            "95 % upper limit {upper_limit_95:.3g}".format(**report["r"])
        )
    for key in ("ks_mean", "ks_low", "skewness_error"):
        if key in report:
            cli.say(f"{key} {report[key]:.4f}")
    if "verdict" in report:
        cli.say(report["verdict"])
