"""How good each solver is against network evaluations, for every line of the registries.

Without a checkpoint the exact score stands in the network's place, for VE and VP: the target is
what generated spectra follow, log D_ell of a Gaussian sky at ell = 2, 5 and 10, normalised. Its
denoiser is known by quadrature, so that the Kolmogorov-Smirnov distance to the exact law is the
solver's own.

With --model-checkpoint the trained network is integrated: of an unconditional one the mean KS
distance from S chi^2_nu / nu and the skewness error are shown, of a conditional one, which needs
--data-file-noisy, the PIT KS distance of D_ell and the excess of the mean's squared error over the
exact posterior's. All solvers start from the same noise. Prints a table, and writes NAME.png,
NAME.json and NAME.html (all in one file to send) into --out-dir: solvers, solvers_prior or
solvers_posterior.

Examples:
  python -m benchmarks.quality
  python -m benchmarks.quality --model-checkpoint model.pth --evaluations 10 20 50 100
"""

import dataclasses
import functools
import math
import os

import numpy as np
import torch
from scipy import special, stats

import sde_utils
from checks import report
from checks.calibration import PitDistance
from checks.law import compare_with_law
from checks.posteriors import ExactPosteriors
from diffusion import solvers
from diffusion.dynamics import Dynamics, start_posterior
from diffusion.trained import Trained
from figures.studies import solver_quality
from runtime import atomic, cli, console, devices, drawing, html, provenance, run_folder, tables
from runtime.errors import InputError

ELL = (2, 5, 10)
EVALUATIONS = (10, 20, 50, 100, 200, 1000)
CAPTION = "Quality of each solver against the number of network evaluations; less is better."
TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # of adaptive solvers, in the place of EVALUATIONS
NUM_ROWS, NUM_OBSERVATIONS, NUM_DRAWS, BLOCK_ROWS = 20_000, 500, 32, 4096


class LogChiSquared:
    """Normalised log of chi^2_nu / nu: its law, and the exact velocity of its noised version."""

    def __init__(self, nu):
        # U_MIN apart: for noise no smaller than that the trapezoidal rule is exact to 3e-9
        self.x = np.arange(-10, 5, sde_utils.U_MIN)
        mean, variance = special.digamma(nu / 2) - np.log(nu / 2), special.polygamma(1, nu / 2)
        self.cdf = stats.chi2(nu, scale=1 / nu).cdf
        self.dl = lambda x: np.exp(mean + np.sqrt(variance) * x)
        dl = self.dl(self.x)
        weights = stats.chi2.pdf(nu * dl, nu) * dl
        self.x, weights = self.x[weights > 1e-14], weights[weights > 1e-14]
        self.weights = weights / weights.sum()

    @functools.lru_cache(maxsize=2000)  # noqa: B019 (lives as long as the benchmark)
    def _denoiser(self, ratio):
        """E[x_0 | x_0 + ratio z] on a grid of the noised value."""
        grid = np.linspace(-9 - 7 * ratio, 6 + 7 * ratio, 500)
        log_weights = -((grid[:, None] - self.x) ** 2) / (2 * ratio**2)
        weights = np.exp(log_weights - log_weights.max(1, keepdims=True)) * self.weights
        return grid, weights @ self.x / weights.sum(1)

    def velocity(self, sde, x, t):
        """Velocity of the noised law at x, shape (n,), at time t: see `sde_utils`."""
        alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
        grid, denoised = self._denoiser(round(sigma / alpha, 12))
        mean = torch.from_numpy(np.interp(x.numpy() / alpha, grid, denoised))
        noise = (x - alpha * mean) / sigma
        return (alpha * noise - sigma * mean) / math.hypot(alpha, sigma)

    def distance(self, x):
        """KS distance of samples from the exact law."""
        return stats.kstest(self.cdf(self.dl(x)), "uniform").statistic


def exact_velocity(sde, num_rows, step, num_steps):
    """({metric: value}, evaluations) of a solver, mean over `ELL`; the velocity is exact."""
    distances = []
    for k, law in enumerate(chi_squared_laws()):
        generator = torch.Generator().manual_seed(k)
        x = torch.randn(num_rows, generator=generator, dtype=torch.float64)
        x = x * sde_utils.prior_std(sde, torch.ones(()))
        dynamics = Dynamics(sde, functools.partial(law.velocity, sde), generator)
        run = solvers.integrate(step, dynamics, x, sde_utils.reverse_times(sde, 1, num_steps))
        distances.append(law.distance(run.x.numpy()))
    return {"mean KS distance": float(np.mean(distances))}, run.evaluations


@functools.cache
def chi_squared_laws():
    return [LogChiSquared(2 * ell + 1) for ell in ELL]


def integrate_rows(trained, y, num_rows, step, num_steps):
    """(x, evaluations): normalised rows on the CPU, each block from its own seed."""
    sde, network = trained.sde, trained.network
    device, blocks = next(network.parameters()).device, []
    for first in range(0, num_rows, BLOCK_ROWS):
        rows = min(BLOCK_ROWS, num_rows - first)
        generator = torch.Generator(device).manual_seed(first)
        given = None if y is None else y[first : first + rows].to(device)
        velocity_fn = sde_utils.make_velocity_fn(network, given)
        dynamics = Dynamics(sde, velocity_fn, generator)
        shape = (rows, trained.architecture.n_dim)
        z = torch.empty(shape, device=device).normal_(generator=generator)
        with torch.no_grad():
            x = z * sde_utils.prior_std(sde, torch.ones(()))
            if y is not None:
                x = start_posterior(dynamics, z, 1)
            run = solvers.integrate(step, dynamics, x, sde_utils.reverse_times(sde, 1, num_steps))
        blocks.append(run.x.cpu())
    return torch.cat(blocks), run.evaluations + (y is not None)


def prior(trained, num_rows, step, num_steps):
    """As `exact_velocity`, of spectra generated by an unconditional checkpoint."""
    x, calls = integrate_rows(trained, None, num_rows, step, num_steps)
    dl = trained.normalizer.denormalize(x)[0].numpy()
    found = compare_with_law(dl, trained.data)
    if found is None:
        raise InputError("--model-checkpoint: was trained on spectra whose law is unknown")
    return {"mean KS distance": found.ks_mean, "skewness error": found.skewness_error}, calls


def posterior(trained, observed, exact, step, num_steps):
    """As `exact_velocity`, of draws of a conditional checkpoint; exact is an `ExactPosteriors`."""
    n, m = len(observed.values), NUM_DRAWS
    y = trained.cond_normalizer.normalize(torch.tensor(observed.values))
    x, calls = integrate_rows(trained, y.repeat_interleave(m, 0), n * m, step, num_steps)
    dl = trained.normalizer.denormalize(x)[0].numpy().reshape(n, m, -1)
    distance = np.square(dl.mean(1) - exact.mean) - dl.var(1, ddof=1) / m
    excess = 100 * (distance / exact.std**2).mean()
    pit = PitDistance.of_spectra(exact.x.cdf(dl)).value
    return {"PIT KS distance": pit, "excess of the squared error [%]": float(excess)}, calls


def methods():
    """{name: solver} of the registries, the ODE's with each of its solvers."""
    found = {name: solver for name, solver in solvers.SOLVERS.items() if name != "ode"}
    return found | {f"ode {name}": solver for name, solver in solvers.ODE_SOLVERS.items()}


def steps_for(step, evaluations):
    """Steps of a solver that take no more than this many evaluations, with the last one."""
    calls, sde = [], sde_utils.VESDE()
    for num_steps in (3, 4):
        generator = torch.Generator().manual_seed(0)
        dynamics = Dynamics(sde, lambda x, t: 0 * x, generator)
        times = sde_utils.reverse_times(sde, 1, num_steps)
        calls.append(solvers.integrate(step, dynamics, torch.ones(1, 1), times).evaluations)
    cost = calls[1] - calls[0]
    return max(1, 3 + (evaluations - calls[0]) // cost)


def curve(measure, solver, evaluations):
    """[{"evaluations", metric: value, ...}] of one solver, in increasing order."""
    points, step = [], solver.step
    if solver.adaptive:
        runs = [(dataclasses.replace(step, tolerance=tolerance), 1) for tolerance in TOLERANCES]
    else:
        runs = [(step, steps_for(step, n)) for n in evaluations]
    for run in runs:
        values, calls = measure(*run)
        points.append({"evaluations": calls, **values})
    return points


def print_curves(title, curves):
    """Print the curves of {method: points} on stdout, one block for each metric."""
    first = next(iter(curves.values()))[0]
    for metric in first.keys() - {"evaluations"}:
        console.print_result(f"{title}: {metric} (network evaluations)")
        for method, points in curves.items():
            cells = [f"{point[metric]:9.4f} ({point['evaluations']})" for point in points]
            console.print_result(f"  {method:<13}" + "".join(f"{cell:<17}" for cell in cells))


def markdown(results):
    """Tables of {title: {method: points}}: a row for each point."""
    lines = []
    for title, curves in results.items():
        keys = list(next(iter(curves.values()))[0])
        rows = [
            [method, *(f"{point[key]:.4g}" for key in keys)]
            for method, points in curves.items()
            for point in points
        ]
        lines += ["", f"**{title}**", "", *report.table(["method", *keys], rows)]
    return "\n".join(lines) + "\n"


def build_parser():
    parser = cli.make_parser(__doc__)
    group = parser.add_argument_group("files")
    group.add_argument("--model-checkpoint", type=cli.file_argument(".pth"), help="of train.py")
    group.add_argument(
        "--data-file-noisy", type=cli.file_argument(".npy"), help="conditional: observations"
    )
    group.add_argument(
        "--out-dir",
        type=cli.folder_argument,
        default="results",
        help="folder of figure and numbers",
    )
    group.add_argument(
        "--num-rows",
        type=cli.positive_int,
        help=f"spectra (default: {NUM_ROWS}), or observations (default: {NUM_OBSERVATIONS})",
    )
    group.add_argument(
        "--evaluations", type=cli.positive_int, nargs="+", default=EVALUATIONS, help="at most"
    )
    cli.add_run_arguments(parser)
    return parser


def problems(args):
    """(name, {title: measure}) of what the flags ask for."""
    n = args.num_rows or NUM_ROWS
    if not args.model_checkpoint:
        sdes = {name: sde() for name, sde in sde_utils.SDES.items()}
        return "solvers", {k: functools.partial(exact_velocity, v, n) for k, v in sdes.items()}
    trained = Trained.load(args.model_checkpoint)
    trained.network.to(devices.get_device(args.device))
    title = trained.sde_name
    if not trained.conditional:
        return "solvers_prior", {title: functools.partial(prior, trained, n)}
    if not args.data_file_noisy:
        raise InputError("--model-checkpoint: is conditional: it needs --data-file-noisy")
    observed = tables.load_spectra(args.data_file_noisy)
    n = args.num_rows or NUM_OBSERVATIONS
    observed = dataclasses.replace(observed, values=np.asarray(observed.values[:n]))
    exact = ExactPosteriors.of(observed, trained.data.prior)
    if exact.x is None:
        raise InputError(f"{args.data_file_noisy}: the exact posterior of these is unknown")
    return "solvers_posterior", {title: functools.partial(posterior, trained, observed, exact)}


@cli.script
def main(argv=None):
    args = build_parser().parse_args(argv)
    name, measures = problems(args)
    paths = [os.path.join(args.out_dir, f"{name}.{suffix}") for suffix in ("png", "json", "html")]
    atomic.claim_outputs(paths)
    results = {}
    for title, measure in measures.items():
        curves = {k: curve(measure, v, args.evaluations) for k, v in methods().items()}
        print_curves(title, curves)
        results[title] = curves
    made_by = provenance.collect(argv)
    atomic.write_json(paths[1], {"curves": results, **made_by})
    drawn = drawing.render_all({paths[0]: lambda: solver_quality(results)})
    pictures = [html.Picture(CAPTION, png) for png in drawn.values()]
    title = "Solvers: quality against network evaluations"
    page = html.page(title, [], markdown(results), pictures, made_by)
    run_folder.publish({**drawn, paths[2]: page.encode()}, ())
    console.print_result(f"wrote {', '.join(paths)}")


if __name__ == "__main__":
    main()
