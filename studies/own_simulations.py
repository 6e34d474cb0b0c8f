"""Bare arrays of a simulator that is not ours: two parameters, 12 band powers, an exact posterior.

The simulator is a toy of a noise-debiased B-mode analysis: band powers are r times a tensor-like
template plus A_d times a dust-like one, with correlated Gaussian noise that makes some of them
negative. Given y the two parameters are then Gaussian within their ranges, in closed form. train.py
sees arrays alone; what it learned is held against that. Prints each command before it runs it.

Reads:   nothing.
Writes:  into --out-dir theta_train.npy, y_train.npy, theta_test.npy and y_test.npy, posterior.pth,
         the run posterior, evaluation, and exact.json and exact.md, the comparison.

Takes about four minutes on two cores.

Example:
  python -m studies.own_simulations --out-dir results/own_simulations
"""

import dataclasses
import os

import numpy as np

from checks.calibration import PitDistance
from checks.estimates import Estimate
from checks.report import number, table
from runtime import atomic, cli, console, tables
from runtime.jsonfiles import to_json
from runtime.priors import FloatArray, Parameter
from studies import runs
from studies.runs import Sizes, Step

ELL = 37.5 + 35 * np.arange(12)  # centres of the bands
PARAMETERS = (Parameter("r", 0.0, 0.3), Parameter("A_d", 0.0, 10.0))
TENSORS = 0.1 * (80 / ELL) ** 1.2 * np.exp(-((ELL / 220) ** 2))  # D_b per unit of r, uK^2
DUST = 0.004 * (ELL / 80) ** -0.42  # D_b per uK^2 of dust power at 353 GHz, uK^2
NOISE = 0.003 * (1 + ELL / 200)  # standard deviation of a band power, uK^2
NEIGHBOURS = -0.1  # correlation of the noise of neighbouring bands
NUM_TRAIN, NUM_TEST, NUM_DRAWS = 200_000, 4000, 64
GRID = 1001  # points of a marginal
SEED = 0


def covariance() -> FloatArray:
    """Of the noise, shape (12, 12), uK^4."""
    correlation = np.eye(len(ELL)) + NEIGHBOURS * (np.eye(len(ELL), k=1) + np.eye(len(ELL), k=-1))
    return NOISE[:, None] * correlation * NOISE


def simulate(n: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Parameters, shape (n, 2), from their prior, and noisy band powers, shape (n, 12), uK^2."""
    low, high = ([getattr(each, end) for each in PARAMETERS] for end in ("low", "high"))
    theta = rng.uniform(low, high, (n, 2))
    noise = rng.standard_normal((n, len(ELL))) @ np.linalg.cholesky(covariance()).T
    return theta, theta @ np.array([TENSORS, DUST]) + noise


# --- the exact posterior ---------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Marginal:
    """Exact p(parameter | y) of each observation, on a grid.

    Attributes:
        values: Of the parameter, shape (n, GRID).
        density: Likewise.
    """

    values: FloatArray
    density: FloatArray

    def _mean_of(self, weights: FloatArray) -> FloatArray:
        return np.asarray(np.trapezoid(weights * self.density, self.values, axis=1))

    def mean(self) -> FloatArray:
        """Shape (n,)."""
        return self._mean_of(self.values)

    def std(self) -> FloatArray:
        """Shape (n,)."""
        return np.sqrt(self._mean_of((self.values - self.mean()[:, None]) ** 2))

    def cdf(self, draws: FloatArray) -> FloatArray:
        """Of draws, shape (n, m)."""
        steps = np.diff(self.values) * (self.density[:, 1:] + self.density[:, :-1]) / 2
        cumulative = np.pad(steps.cumsum(1), ((0, 0), (1, 0)))
        rows = zip(draws, self.values, cumulative / cumulative[:, -1:], strict=True)
        return np.array([np.interp(*row) for row in rows])


def exact_marginals(y: FloatArray) -> dict[str, Marginal]:
    """{parameter: its exact posterior}: two Gaussian variables, cut off at the ends of the prior.

    Args:
        y: Band powers, shape (n, 12), uK^2.
    """
    from scipy.stats import norm

    weighted = np.linalg.solve(covariance(), np.array([TENSORS, DUST]).T)
    cov = np.linalg.inv(np.array([TENSORS, DUST]) @ weighted)
    means = y @ weighted @ cov
    found = {}
    for k, each in enumerate(PARAMETERS):
        other, std = PARAMETERS[1 - k], np.sqrt(cov[k, k])
        low, high = (np.clip(means[:, k] + 8 * sign * std, each.low, each.high) for sign in (-1, 1))
        values = np.linspace(low, high, GRID, axis=1)
        slope = cov[0, 1] / cov[k, k]
        mean = means[:, [1 - k]] + slope * (values - means[:, [k]])
        rest = np.sqrt(cov[1 - k, 1 - k] - slope * cov[0, 1])
        ends = [norm.cdf((end - mean) / rest) for end in (other.low, other.high)]
        density = norm.pdf(values, means[:, [k]], std) * (ends[1] - ends[0])
        density /= np.trapezoid(density, values, axis=1)[:, None]
        found[each.name] = Marginal(values, density)
    return found


@dataclasses.dataclass(frozen=True)
class AgainstExact:
    """Draws of a parameter against its exact posterior.

    Attributes:
        width_ratio: Median of the standard deviations over the exact ones.
        bias: Mean distance of the means, in exact standard deviations.
        pit_ks: Kolmogorov distance of the draws under the exact posterior from uniform.
    """

    width_ratio: Estimate
    bias: Estimate
    pit_ks: PitDistance

    @classmethod
    def of(cls, draws: FloatArray, exact: Marginal) -> "AgainstExact":
        """Of draws, shape (n, m)."""
        ratio = draws.std(1, ddof=1) / exact.std()
        error = 1.2533 * ratio.std() / np.sqrt(len(ratio))  # of a median
        bias = Estimate.mean((draws.mean(1) - exact.mean()) / exact.std())
        pit = PitDistance.of_parameter(exact.cdf(draws))
        return cls(Estimate(float(np.median(ratio)), float(error)), bias, pit)


# --- runs ------------------------------------------------------------------------------------


def write_simulations(out_dir: str, sizes: Sizes) -> None:
    """Bare arrays, as another simulator would leave them."""
    rng = np.random.default_rng(SEED)
    for split, n in (("train", sizes.rows(NUM_TRAIN, 100)), ("test", sizes.rows(NUM_TEST, 12))):
        theta, y = simulate(n, rng)
        atomic.write_npy(f"{out_dir}/theta_{split}.npy", theta)
        atomic.write_npy(f"{out_dir}/y_{split}.npy", y)


def steps(out_dir: str, sizes: Sizes) -> list[Step]:
    """All runs, in order."""
    files = {name: f"{out_dir}/{name}.npy" for name in ("y_train", "theta_train", "y_test")}
    model, run, observed = f"{out_dir}/posterior.pth", f"{out_dir}/posterior", files["y_test"]
    named = [word for each in PARAMETERS for word in ("--param", *str(each).split())]
    return [
        runs.train(
            *("--cond-file", files["y_train"], "--param-file", files["theta_train"], *named),
            *(runs.NETWORK, sizes.epochs(20), "--out", model),
        ),
        runs.sample(
            *("--data-file-noisy", observed, "--model-checkpoint", model, "--method", "ode"),
            *(sizes.draws(NUM_DRAWS), "--out-dir", run),
        ),
        runs.evaluate(
            *("--runs", run, "--data-file-noisy", observed),
            *("--param-file-gt", f"{out_dir}/theta_test.npy", "--out-dir", f"{out_dir}/evaluation"),
        ),
    ]


def compare(out_dir: str) -> dict[str, AgainstExact]:
    """{parameter: draws against the exact posterior} of the run that is there."""
    exact = exact_marginals(tables.read_npy(f"{out_dir}/y_test.npy"))
    draws = {name: f"{out_dir}/posterior/{name}_draws.npy" for name in exact}
    return {
        name: AgainstExact.of(np.asarray(tables.load_table(path, 2).values), exact[name])
        for name, path in draws.items()
    }


@cli.script
def main(argv: list[str] | None = None) -> None:
    args = runs.make_parser(__doc__, "results/own_simulations").parse_args(argv)
    sizes, out_dir = Sizes(args.shrink), args.out_dir
    results = [os.path.join(out_dir, f"exact.{kind}") for kind in ("json", "md")]
    atomic.claim_outputs([*results, f"{out_dir}/theta_train.npy"])
    write_simulations(out_dir, sizes)
    runs.run(steps(out_dir, sizes))
    found = compare(out_dir)
    header = [
        "parameter",
        "width over exact (1 ± 0.03)",
        "bias, sigma",
        "PIT KS (≤ 0.015)",
        "floor",
    ]
    lines = table(
        header,
        [
            [name, number(each.width_ratio), number(each.bias)]
            + [f"{each.pit_ks.value:.4f}", f"{each.pit_ks.floor:.4f}"]
            for name, each in found.items()
        ],
    )
    atomic.write_json(results[0], {name: to_json(each) for name, each in found.items()})
    atomic.write_bytes(results[1], "\n".join(lines) + "\n")
    console.print_result("\n".join(lines))


if __name__ == "__main__":
    main()
