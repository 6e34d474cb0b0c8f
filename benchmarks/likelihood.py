"""What a likelihood costs: guided evaluations beside plain ones, draws beside a conditional model.

Networks of train.py's default size, hardly trained, for the time does not depend on the weights. An
evaluation is timed on rows that sample.py integrates together, plain and guided in turns, and the
median of the ratios counts; draws are those of the default of `ode`, tables of the observations
included, with a likelihood and by a conditional model in turns.

Example:
  python -m benchmarks.likelihood
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch

import data_generation
import train
from benchmarks import report
from checks.estimates import known
from diffusion import guided
from diffusion.blocks import BATCH_ROWS
from diffusion.guidance import GuidedVelocity
from diffusion.trained import Trained
from runtime import cli, console, tables
from runtime.tables import Table
from sde_utils import cpu_time, make_velocity_fn, prior_std

ROWS, OBSERVATIONS, DRAWS, REPEATS = 1000, 32, 64, 5
TIMES = (0.2, 0.5, 0.8)  # of the reverse process, over which evaluations are summed
SKIES = {"one r": ("--r", "0.001"), "spectrum and r": ("--r-range", "0", "0.01")}
HEADER = (
    *("prior", "guided evaluation over plain", "draws / s, likelihood"),
    *("draws / s, conditional", "likelihood over conditional"),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Models:
    """Models of one sky, and its observations.

    Attributes:
        prior: Without observations.
        guided: The same with the likelihood.
        conditional: Of pairs.
        observed: Observations.
    """

    prior: Trained
    guided: Trained
    conditional: Trained
    observed: Table


def make_models(folder: str, flags: tuple[str, ...]) -> Models:
    """Simulate and train both models in a folder.

    Args:
        folder: Of all files.
        flags: Of data_generation.py, that say which r there are.
    """
    words = ["--foregrounds", "none", "--noise-uk-arcmin", "1", "--num-samples", str(ROWS)]
    data_generation.main([*flags, *words, "--num-test", str(OBSERVATIONS), "--out-dir", folder])
    r = "-".join(flags[1:])
    files = ["--data-file", f"{folder}/dl_train_r{r}.npy"]
    files += ["--param-file", f"{folder}/r_train_r{r}.npy"] if "-" in r else []
    pairs = ["--cond-file", f"{folder}/dl_train_noisy_r{r}.npy"]
    for name, given in (("prior", files), ("conditional", [*files, *pairs])):
        train.main([*given, "--epochs", "1", "--device", "cpu", "--out", f"{folder}/{name}.pth"])
    prior, conditional = (Trained.load(f"{folder}/{n}.pth") for n in ("prior", "conditional"))
    observed = tables.load_spectra(f"{folder}/dl_noisy_r{r}.npy")
    with_likelihood = guided.with_likelihood(prior, observed.record.contaminants)
    return Models(prior, with_likelihood, conditional, observed)


def in_turns(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    """Median seconds of two functions over turns A B A B ..., after one that is not counted."""
    seconds: list[list[float]] = []
    for _ in range(REPEATS + 1):
        turn = []
        for function in (first, second):
            began = time.perf_counter()
            function()
            turn.append(time.perf_counter() - began)
        seconds.append(turn)
    one, other = zip(*seconds[1:], strict=True)
    return statistics.median(one), statistics.median(other)


def time_evaluations(models: Models) -> float:
    """Seconds of guided evaluations over those of plain ones, of one batch."""
    y = torch.tensor(np.asarray(models.observed.values))
    owners = torch.arange(BATCH_ROWS) % len(y)
    observations = known(models.guided.guidance).given(y).rows(owners, torch.zeros(1))
    velocity, sde = make_velocity_fn(models.prior.network), models.prior.sde
    guided_velocity = GuidedVelocity(sde, velocity, observations)
    z = torch.randn(BATCH_ROWS, models.prior.architecture.n_dim)
    times = [cpu_time(t) for t in TIMES]
    states = [(z * prior_std(sde, t), t) for t in times]
    with torch.no_grad():
        seconds, plain = in_turns(
            lambda: [guided_velocity(x, t) for x, t in states],
            lambda: [velocity(x, t) for x, t in states],
        )
    return seconds / plain


def time_draws(models: Models) -> tuple[float, float]:
    """Draws a second, with the likelihood and of the conditional model."""
    y = np.asarray(models.observed.values)
    seconds = in_turns(
        lambda: models.guided.posterior(y, DRAWS), lambda: models.conditional.posterior(y, DRAWS)
    )
    guided_rate, conditional_rate = (y.shape[0] * DRAWS / each for each in seconds)
    return guided_rate, conditional_rate


def main(argv: list[str] | None = None) -> None:
    """Measure both priors and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=cli.HelpFormatter, allow_abbrev=False
    )
    parser.parse_args(argv)
    rows = []
    for name, flags in SKIES.items():
        with tempfile.TemporaryDirectory() as folder:
            models = make_models(folder, flags)
        ratio, (likelihood, conditional) = time_evaluations(models), time_draws(models)
        rates = [f"{likelihood:,.0f}", f"{conditional:,.0f}", f"{likelihood / conditional:.2f}"]
        rows.append([name, f"{ratio:.1f}", *rates])
    text = f"## Likelihood\n\n`python -m benchmarks.likelihood`; {report.machine()}. Medians of "
    text += f"{REPEATS} turns; {OBSERVATIONS} observations with {DRAWS} draws each, networks of "
    text += "the default size, 10 evaluations a draw."
    table = report.table(HEADER, rows)
    report.write_section("likelihood", f"{text}\n\n{table}")
    console.print_result(table)


if __name__ == "__main__":
    main()
