"""How good each solver is against network evaluations, with the exact score in the network's place.

The target is what generated spectra follow: log D_ell of a Gaussian sky at ell = 2, 5 and 10,
normalised. Its denoiser is known by quadrature, so that the Kolmogorov-Smirnov distance to the
exact law is the solver's own error. Prints a table and writes results/solvers.png.

Example:
  python -m benchmarks.quality
"""

import functools

import numpy as np
import torch
from scipy import stats

import cli
import files
import plots
import sde_utils
import solvers

ELL = (2, 5, 10)
NUM_ROWS, EVALUATIONS = 50_000, (10, 20, 50, 100, 200, 1000)
LINES = {"sde": "-", "pc": "--", "ode heun": "-.", "ode ab3": "-"}


class LogChiSquared:
    """Normalised log of chi^2_nu / nu: its law, and the exact score of its noised version."""

    def __init__(self, nu):
        z = np.linspace(-16, 5, 1201)
        weights = stats.chi2.pdf(nu * np.exp(z), nu) * np.exp(z)
        weights /= weights.sum()
        mean = weights @ z
        self.x = (z - mean) / np.sqrt(weights @ (z - mean) ** 2)
        self.weights, self.below = weights, np.cumsum(weights) - weights / 2

    @functools.cache  # noqa: B019 (lives as long as the benchmark)
    def _denoiser(self, ratio):
        """E[x_0 | x_0 + ratio z] on a grid of the noised value."""
        grid = np.linspace(-9 - 7 * ratio, 6 + 7 * ratio, 500)
        log_weights = -((grid[:, None] - self.x) ** 2) / (2 * ratio**2)
        weights = np.exp(log_weights - log_weights.max(1, keepdims=True)) * self.weights
        return grid, weights @ self.x / weights.sum(1)

    def score(self, sde, x, t):
        """Score of the noised law at x, shape (n,), at time t."""
        alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
        grid, denoised = self._denoiser(round(sigma / alpha, 12))
        mean = torch.from_numpy(np.interp(x.numpy() / alpha, grid, denoised))
        return (alpha * mean - x) / sigma**2

    def distance(self, x):
        """KS distance of samples from the exact law."""
        return stats.kstest(np.interp(x, self.x, self.below), "uniform").statistic


def quality(make, sde, laws, num_steps):
    """(mean KS distance, evaluations) of a solver; the score is exact."""
    one, distances = torch.ones((), dtype=torch.float64), []
    for k, law in enumerate(laws):
        generator = torch.Generator().manual_seed(k)
        x = torch.randn(NUM_ROWS, generator=generator, dtype=torch.float64)
        x = x * sde_utils.prior_std(sde, one)
        score = solvers.CountedScore(functools.partial(law.score, sde))
        x = solvers.integrate(make(), score, sde, x, one, num_steps, generator)
        distances.append(law.distance(x.numpy()))
    return float(np.mean(distances)), score.calls


def main():
    """Print and draw the table."""
    laws = [LogChiSquared(2 * ell + 1) for ell in ELL]
    corrected = functools.partial(solvers.with_corrector, corrector_steps=1, step_size=0.1)
    methods = {  # name: makes a step, evaluations of a step
        "sde": (solvers.SOLVERS["sde"].make, 1),
        "pc": (lambda: corrected(solvers.SOLVERS["pc"].make()), 2),
        "ode heun": (solvers.ODE_SOLVERS["heun"].make, 2),
        "ode ab3": (solvers.ODE_SOLVERS["ab3"].make, 1),
    }
    floor = stats.kstwo.mean(NUM_ROWS)
    figure, axes = plots._axes(len(sde_utils.SDES))
    cli.say("mean KS distance" + "".join(f"{n:>9}" for n in EVALUATIONS) + "  evaluations")
    for axis, (name, sde_class) in zip(axes, sde_utils.SDES.items(), strict=True):
        for method, (make, cost) in methods.items():
            results = [
                quality(make, sde_class(), laws, max(1, (n - 1) // cost)) for n in EVALUATIONS
            ]
            distances, evaluations = zip(*results, strict=True)
            cli.say(f"{name} {method:<13}" + "".join(f"{d:9.4f}" for d in distances))
            axis.loglog(evaluations, distances, LINES[method], marker="o", ms=3, label=method)
        axis.axhline(floor, color="#BBBBBB", lw=0.8, label="Monte-Carlo floor")
        axis.set(xlabel="network evaluations", ylabel="mean KS distance", title=name)
        axis.legend(fontsize=8)
    files.claim_outputs(["results/solvers.png"])
    files.write_figure("results/solvers.png", figure)
    cli.say(f"floor of {NUM_ROWS} rows {floor:.4f}; wrote results/solvers.png")


if __name__ == "__main__":
    main()
