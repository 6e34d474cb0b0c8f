"""How good each solver is against network evaluations, for every line of the registries.

Without a checkpoint the exact score stands in the network's place, for VE and VP: the target is
what generated spectra follow, log D_ell of a Gaussian sky at ell = 2, 5 and 10, normalised. Its
denoiser is known by quadrature, so that the Kolmogorov-Smirnov distance to the exact law is the
solver's own.

With --model-checkpoint the trained network is integrated: of an unconditional one the mean KS
distance from S chi^2_nu / nu and the skewness error are shown, of a conditional one, which needs
--data-file-noisy, the PIT KS distance of D_ell and the excess of the mean's squared error over the
exact posterior's, and where r is diffused the width of p(r | y) over the exact one, and the PIT KS
distance of r. Of an unconditional network azula's samplers are shown beside ours, where azula is
installed (benchmarks/requirements.txt). All solvers start from the same noise; one that cannot do
with so few evaluations, or diverges, is left out there. Prints a table, and writes NAME.png,
NAME.json and NAME.html (all in one file to send) into --out-dir: solvers, solvers_prior or
solvers_posterior.

Examples:
  python -m benchmarks.quality
  python -m benchmarks.quality --model-checkpoint model.pth --evaluations 5 10 20
"""

import dataclasses
import functools
import importlib.util
import math
import os
from collections.abc import Callable

import numpy as np
import torch
from scipy import special, stats

import sde_utils
from benchmarks import tools
from checks import r, report
from checks.calibration import PIT_DRAWS, PitDistance
from checks.law import compare_with_law
from checks.posteriors import ExactPosteriors
from diffusion import solvers
from diffusion.dynamics import Dynamics, Frame
from diffusion.sampling import SolverSettings
from diffusion.trained import Trained
from figures.studies import solver_quality
from runtime import atomic, cli, console, devices, drawing, html, provenance, run_folder, tables
from runtime.errors import InputError

ELL = (2, 5, 10)
EVALUATIONS = (5, 7, 10, 20, 50, 100, 1000)
CAPTION = "Quality of each solver against the number of network evaluations; less is better."
TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # of adaptive solvers, in the place of EVALUATIONS
NUM_ROWS, NUM_OBSERVATIONS, NUM_DRAWS, BLOCK_ROWS = 20_000, 500, 64, 4096
AZULA = {"xEABSampler": 1, "HeunSampler": 2}  # the best of azula's: evaluations of a step

# (dynamics, noise of shape (n, n_dim)) -> (normalised rows, evaluations of the network)
Run = Callable[[Dynamics, torch.Tensor], tuple[torch.Tensor, int]]


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


@dataclasses.dataclass(frozen=True)
class OwnRun:
    """A `Run` of a solver of the registries."""

    settings: SolverSettings

    def __call__(self, dynamics: Dynamics, z: torch.Tensor) -> tuple[torch.Tensor, int]:
        t = sde_utils.cpu_time(1)
        times = sde_utils.reverse_times(dynamics.sde, t, self.settings.num_steps)
        step = self.settings.make_step()
        run = solvers.integrate(step, dynamics, dynamics.rows(z, t), times)
        return run.x, run.evaluations


@dataclasses.dataclass(frozen=True, eq=False)
class AzulaRun:
    """A `Run` of a sampler of azula, at its own times, of our network and from the same rows."""

    network: torch.nn.Module
    sampler: str
    num_steps: int

    def __call__(self, dynamics: Dynamics, z: torch.Tensor) -> tuple[torch.Tensor, int]:
        from azula import sample

        denoiser = tools.azula_denoiser(self.network)
        sampler = getattr(sample, self.sampler)(denoiser, steps=self.num_steps, silent=True)
        t = sde_utils.cpu_time(1)
        x = sampler(dynamics.rows(z, t) / dynamics.sde.alpha(t))  # its alpha is 1
        return x, AZULA[self.sampler] * self.num_steps


def own_runs(evaluations) -> dict[str, list[Run]]:
    """{method: its runs} of the registries, the ODE's with each of its solvers.

    A method that takes more evaluations than any of these has no run, and is left out.
    """
    lines = {name: {"method": name} for name in solvers.SOLVERS if name != "ode"}
    ode = {f"ode {name}": {"method": "ode", "ode_solver": name} for name in solvers.ODE_SOLVERS}
    found = {name: settings_of(line, evaluations) for name, line in (lines | ode).items()}
    return {
        name: [OwnRun(each) for each in settings] for name, settings in found.items() if settings
    }


def settings_of(line, evaluations):
    """Settings of a solver with so many evaluations at most, or with each of `TOLERANCES`."""
    if SolverSettings.complete(**line).solver.adaptive:
        return [SolverSettings.complete(**line, tolerance=value) for value in TOLERANCES]
    found = []
    for n in sorted(evaluations):
        try:
            found.append(SolverSettings.complete(**line, num_evaluations=n))
        except InputError:  # too few for a step
            continue
    return list(dict.fromkeys(found))


def azula_runs(network, evaluations) -> dict[str, list[Run]]:
    """As `own_runs`, of azula's samplers with an unconditional network of ours, if it is there."""
    if importlib.util.find_spec("azula") is None:
        console.info(
            "azula is not installed: its samplers are left out; to have them, pip install "
            "--no-deps -r benchmarks/requirements.txt"
        )
        return {}
    return {
        f"azula {name}": [
            AzulaRun(network, name, n // cost) for n in sorted(evaluations) if n >= cost
        ]
        for name, cost in AZULA.items()
    }


def exact_velocity(sde, num_rows, run):
    """({metric: value}, evaluations) of a run, mean over `ELL`; the velocity is exact."""
    distances = []
    for k, law in enumerate(chi_squared_laws()):
        generator = torch.Generator().manual_seed(k)
        z = torch.randn(num_rows, generator=generator, dtype=torch.float64)
        velocity_fn = functools.partial(law.velocity, sde)
        x, calls = run(Dynamics(sde, velocity_fn, generator, from_noise=True), z)
        distances.append(law.distance(x.numpy()))
    return {"mean KS distance": float(np.mean(distances))}, calls


@functools.cache
def chi_squared_laws():
    return [LogChiSquared(2 * ell + 1) for ell in ELL]


def integrate_rows(trained, y, num_rows, run):
    """(x, evaluations): normalised rows on the CPU, each block from its own seed."""
    network, device, blocks = trained.network, trained.device, []
    for first in range(0, num_rows, BLOCK_ROWS):
        rows = min(BLOCK_ROWS, num_rows - first)
        generator = torch.Generator(device).manual_seed(first)
        given = None if y is None else y[first : first + rows].to(device)
        velocity_fn = sde_utils.make_velocity_fn(network, given)
        frame = Frame.of(network.start, given)
        dynamics = Dynamics(trained.sde, velocity_fn, generator, frame, from_noise=True)
        shape = (rows, trained.architecture.n_dim)
        z = torch.empty(shape, device=device).normal_(generator=generator)
        with torch.no_grad():
            x, calls = run(dynamics, z)
        blocks.append(x.cpu())
    return torch.cat(blocks), calls


def prior(trained, num_rows, run):
    """As `exact_velocity`, of spectra generated by an unconditional checkpoint."""
    x, calls = integrate_rows(trained, None, num_rows, run)
    dl = trained.normalizer.denormalize(x)[0].numpy()
    found = compare_with_law(dl, trained.data)
    if found is None:
        raise InputError("--model-checkpoint: was trained on spectra whose law is unknown")
    return {"mean KS distance": found.ks_mean, "skewness error": found.skewness_error}, calls


def posterior(trained, observed, exact, run):
    """As `exact_velocity`, of draws of a conditional checkpoint; exact is an `ExactPosteriors`."""
    n, m = len(observed.values), NUM_DRAWS
    y = trained.cond_normalizer.normalize(torch.tensor(observed.values))
    x, calls = integrate_rows(trained, y.repeat_interleave(m, 0), n * m, run)
    dl, theta = (part.numpy().reshape(n, m, -1) for part in trained.normalizer.denormalize(x))
    distance = np.square(dl.mean(1) - exact.mean) - dl.var(1, ddof=1) / m
    found = {
        "PIT KS distance": PitDistance.of_spectra(exact.x.cdf(dl[:, :PIT_DRAWS])).value,
        "excess of the squared error [%]": float(100 * (distance / exact.std**2).mean()),
    }
    names = [each.name for each in trained.parameters]
    if exact.r is not None and "r" in names:
        draws = theta[..., names.index("r")]
        found["width of r over the exact one"] = r.width_ratio(draws, exact.r).value
        found["PIT KS distance of r"] = PitDistance.of_parameter(exact.r.cdf(draws)).value
    return found, calls


def measured(measure, runs):
    """{method: [{"evaluations", metric: value, ...}]} of {method: runs}, without what diverged."""
    curves = {}
    for method, each in runs.items():
        for run in each:
            with np.errstate(all="ignore"):  # of what diverged
                values, calls = measure(run)
            if np.isfinite(list(values.values())).all():
                curves.setdefault(method, []).append({"evaluations": calls, **values})
            else:
                console.info(f"{method}: diverges with {calls} evaluations, left out there")
    return curves


def print_curves(title, curves):
    """Print the curves of {method: points} on stdout, one block for each metric."""
    first = next(iter(curves.values()))[0]
    for metric in filter("evaluations".__ne__, first):
        console.print_result(f"{title}: {metric} (network evaluations)")
        for method, points in curves.items():
            cells = [f"{point[metric]:9.4f} ({point['evaluations']})" for point in points]
            console.print_result(f"  {method:<19}" + "".join(f"{cell:<17}" for cell in cells))


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
    """(name, {title: measure}, {method: runs}) of what the flags ask for."""
    n, runs = args.num_rows or NUM_ROWS, own_runs(args.evaluations)
    if not args.model_checkpoint:
        sdes = {name: sde() for name, sde in sde_utils.SDES.items()}
        measures = {k: functools.partial(exact_velocity, v, n) for k, v in sdes.items()}
        return "solvers", measures, runs
    trained = Trained.load(args.model_checkpoint).to(devices.get_device(args.device))
    title = trained.sde_name
    if not trained.conditional:
        runs |= azula_runs(trained.network, args.evaluations)
        return "solvers_prior", {title: functools.partial(prior, trained, n)}, runs
    if not args.data_file_noisy:
        raise InputError("--model-checkpoint: is conditional: it needs --data-file-noisy")
    observed = tables.load_spectra(args.data_file_noisy)
    n = args.num_rows or NUM_OBSERVATIONS
    observed = dataclasses.replace(observed, values=np.asarray(observed.values[:n]))
    exact = ExactPosteriors.of(observed, trained.data.prior)
    if exact.x is None:
        raise InputError(f"{args.data_file_noisy}: the exact posterior of these is unknown")
    measure = functools.partial(posterior, trained, observed, exact)
    return "solvers_posterior", {title: measure}, runs


@cli.script
def main(argv=None):
    args = build_parser().parse_args(argv)
    name, measures, runs = problems(args)
    paths = [os.path.join(args.out_dir, f"{name}.{suffix}") for suffix in ("png", "json", "html")]
    atomic.claim_outputs(paths)
    results = {}
    for title, measure in measures.items():
        curves = measured(measure, runs)
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
