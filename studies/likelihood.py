"""Posteriors by a prior's network and a likelihood: any noise, one training, beside exact answers.

Trains the published recipe's network for both SDEs on 10,000 and on 100,000 spectra of r = 0.001,
and lets each answer observations that it has not been told of, with sample.py --likelihood; beside
it stand the recipe itself and a conditional model. The networks of 100,000 rows then answer other
noise, lensing and r and a fixed foreground, with nothing trained. A prior of spectrum and r, up to
r = 1, answers two ranges of r under two noise levels, and skies of r = 0. Prints each command
before it runs it; at the end all reports are gathered into one table.

Reads:   PySM3's templates, from the folder that PYSM_LOCAL_DATA names or from the network.
Writes:  into --out-dir data, the checkpoints VE_10k.pth, VE_100k.pth, VP_10k.pth, VP_100k.pth,
         conditional.pth and joint.pth, runs, evaluations, likelihood.md (one table), and
         trajectories.png: one sky's way from noise to data, without and with the likelihood.

Takes about an hour on two cores.

Example:
  python -m studies.likelihood --out-dir results/likelihood
"""

import dataclasses

from runtime import cli
from studies import likelihood_results, runs
from studies.runs import CLEAN, NETWORK, NULL, SMALL, Files, Flags, Sizes, Step

ODE: Flags = ("--method", "ode")
SDE_NAMES = ("VE", "VP")
# 150 of 10,000 rows are the default of train.py, 11,100 steps; of 100,000 rows 30 take 22,260: the
# number of rows is compared at training times of one order
EPOCHS = {"10k": 150, "100k": 30}
JOINT_RANGE = "0-1"  # as far as the tensors of CAMB are known to go with r
WHOLE: Flags = ("--r-range", "0", "1")
FEW_ROWS, SHOWN_STEPS = 10, 60  # rows of a set that is not used; steps of a drawn trajectory


def bare(noise_uk_arcmin: float, *flags: str) -> Flags:
    """Flags of data_generation.py: no foregrounds, and a noise."""
    return ("--foregrounds", "none", "--noise-uk-arcmin", f"{noise_uk_arcmin:g}", *flags)


@dataclasses.dataclass(frozen=True)
class Given:
    """Observations that no network of the study was trained for.

    Attributes:
        name: Of their folder, and of those of their runs.
        words: What they are, in the table.
        flags: Of data_generation.py.
        r: As file names have it.
        r_range: Prior of r in their posterior, for the network of spectrum and r.
    """

    name: str
    words: str
    flags: Flags
    r: str = SMALL
    r_range: Flags = ()

    @property
    def r_flags(self) -> Flags:
        """Flags of data_generation.py that say which r there are."""
        return ("--r-range", *self.r.split("-")) if "-" in self.r else ("--r", self.r)


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A run on the observations of r = 0.001 at 1 uK-arcmin.

    Attributes:
        name: Of its folder.
        words: What it is, in the table.
        model: Name of the checkpoint.
        flags: Of sample.py, beside files.
        num_draws: Of each observation; None for the recipe, which has one.
    """

    name: str
    words: str
    model: str
    flags: Flags
    num_draws: int | None = 64


LIKELIHOOD: Flags = ("--likelihood",)  # of every run that has one; what all are to have goes here
RUNS = (
    Drawn("recipe", "recipe, VE, `sde`", "VE_10k", ("--method", "sde"), None),
    Drawn("VE_10k_sde", "the same + likelihood", "VE_10k", ("--method", "sde", *LIKELIHOOD)),
    Drawn("conditional", "conditional, VE, `ode`", "conditional", ODE),
    Drawn("VE_10k_pc", "VE, 10,000 rows, `pc`", "VE_10k", ("--method", "pc", *LIKELIHOOD)),
    Drawn("VE_10k", "VE, 10,000 rows, `ode`", "VE_10k", (*ODE, *LIKELIHOOD)),
    Drawn("VP_10k", "VP, 10,000 rows, `ode`", "VP_10k", (*ODE, *LIKELIHOOD)),
    Drawn("VE_100k", "VE, 100,000 rows, `ode`", "VE_100k", (*ODE, *LIKELIHOOD)),
    Drawn("VP_100k", "VP, 100,000 rows, `ode`", "VP_100k", (*ODE, *LIKELIHOOD)),
)
STEPS = {"sde": 100, "pc": 50}  # of the methods that take many
LEAST_STEPS = 30  # in a try-out: with 10 and fewer draws with a likelihood diverge

OTHERS = (
    Given("noise_0.3", "0.3 µK-arcmin", bare(0.3)),
    Given("noise_3", "3 µK-arcmin", bare(3)),
    Given("noise_11.9", "11.9 µK-arcmin", bare(11.9)),
    Given("delensed", "no lensing", bare(1, "--a-lens", "0")),
    Given("a_lens_0.16", "16 % of the lensing", bare(1, "--a-lens", "0.16")),
    Given("r_0.003", "r = 0.003, the prior is wrong", bare(1), "0.003"),
    Given("r_0.01", "r = 0.01, the prior is wrong", bare(1), "0.01"),
    Given(
        "foreground",
        "0.001 of d1 s1",
        ("--foregrounds", "d1", "s1", "--foreground-scale", "0.001", "--noise-uk-arcmin", "1"),
    ),
)
CORRECTED = Given("corrected", "the same, 500 skies", bare(1))
TRAINED_ONCE = ("VE_100k", "VP_100k")  # the networks that answer them
RANGES = tuple(
    Given(
        name=f"joint_{high}_{noise:g}",
        words=f"r ≤ {high}, {noise:g} µK-arcmin",
        flags=bare(noise),
        r=f"0-{high}",
        r_range=("--r-range", "0", high),
    )
    for high in ("0.01", "0.05")
    for noise in (1, 11.9)
)
NULLS = tuple(
    dataclasses.replace(each, name=f"{each.name}_null", words=f"r = 0: {each.words}", r=NULL)
    for each in RANGES
)


def trainings(out_dir: str, sizes: Sizes) -> list[Step]:
    """Data at r = 0.001 and up to r = 1, and all networks."""
    few = sizes.skies(10_000, FEW_ROWS)
    sets = {"10k": Files(f"{out_dir}/data_10k", SMALL), "100k": Files(f"{out_dir}/data", SMALL)}
    ranged = Files(f"{out_dir}/data", JOINT_RANGE)
    at = ("--r", SMALL, *CLEAN)
    trained = [
        runs.train(
            *(files.prior, "--sde-type", sde, sizes.epochs(EPOCHS[rows])),
            *("--out", f"{out_dir}/{sde}_{rows}.pth"),
        )
        for rows, files in sets.items()
        for sde in SDE_NAMES
    ]
    whole = (*ranged.prior, "--param-file", ranged.path("r_train"))
    return [
        runs.generate(at, few, "--out-dir", sets["10k"].folder),
        runs.generate(at, sizes.skies(100_000, 2000), "--out-dir", sets["100k"].folder),
        runs.generate(WHOLE, CLEAN, sizes.skies(100_000, FEW_ROWS), "--out-dir", ranged.folder),
        *trained,
        runs.train(
            *(NETWORK, sets["100k"].pairs, sizes.epochs(80)),
            *("--out", f"{out_dir}/conditional.pth"),
        ),
        runs.train(whole, sizes.epochs(EPOCHS["100k"]), "--out", f"{out_dir}/joint.pth"),
    ]


def side_by_side(out_dir: str, sizes: Sizes) -> list[Step]:
    """Every run on the same observations, and one evaluation of all."""
    files = Files(f"{out_dir}/data", SMALL)
    steps = []
    for run in RUNS:
        flags: list[str | Flags] = [run.flags]
        if run.num_draws is not None:
            flags.append(sizes.draws(run.num_draws))
        if run.flags[1] in STEPS:
            num_steps = sizes.rows(STEPS[run.flags[1]], LEAST_STEPS)
            flags.append(("--num-steps", str(num_steps)))
        given = ("--model-checkpoint", f"{out_dir}/{run.model}.pth")
        steps.append(
            runs.sample(files.tested, given, *flags, "--out-dir", f"{out_dir}/runs/{run.name}")
        )
    folders = tuple(f"{out_dir}/runs/{run.name}" for run in RUNS)
    into = ("--out-dir", f"{out_dir}/evaluations/side_by_side")
    return [*steps, runs.evaluate("--runs", folders, files.evaluated, into)]


def corrected(out_dir: str, sizes: Sizes) -> list[Step]:
    """Draws of fewer skies by the network of fewer rows, as they are and with exact weights."""
    files = Files(f"{out_dir}/observed/{CORRECTED.name}", CORRECTED.r)
    first, *others = answers(out_dir, CORRECTED, ("VE_10k",), sizes, num_test=500)
    folder = f"{out_dir}/runs/{CORRECTED.name}_weighted"
    model = ("--model-checkpoint", f"{out_dir}/VE_10k.pth")
    draws = ("--num-draws", "64")  # in a try-out too: fewer have no k-hat
    weighted = runs.sample(
        files.tested, model, ODE, LIKELIHOOD, "--correct", draws, "--out-dir", folder
    )
    both = (f"{out_dir}/runs/{CORRECTED.name}_VE_10k", folder)
    into = ("--out-dir", f"{out_dir}/evaluations/{CORRECTED.name}")
    return [first, others[0], weighted, runs.evaluate("--runs", both, files.evaluated, into)]


def answers(
    out_dir: str, given: Given, models: tuple[str, ...], sizes: Sizes, num_test: int = 2000
) -> list[Step]:
    """Other observations, what networks that were not trained for them say, its evaluation."""
    files = Files(f"{out_dir}/observed/{given.name}", given.r)
    folders = tuple(f"{out_dir}/runs/{given.name}_{model}" for model in models)
    small = sizes.skies(FEW_ROWS, num_test)
    # a 95 % limit of 64 draws lies 5 % too high by itself
    tested, num_draws = (files.observed, 256) if given.r == NULL else (files.tested, 64)
    return [
        runs.generate(given.r_flags, given.flags, small, "--out-dir", files.folder),
        *(
            runs.sample(
                *(tested, "--model-checkpoint", f"{out_dir}/{model}.pth", ODE, LIKELIHOOD),
                *(given.r_range, sizes.draws(num_draws), "--out-dir", folder),
            )
            for model, folder in zip(models, folders, strict=True)
        ),
        runs.evaluate(
            *("--runs", folders, files.evaluated),
            *("--out-dir", f"{out_dir}/evaluations/{given.name}"),
        ),
    ]


def trajectories(out_dir: str, sizes: Sizes) -> list[Step]:
    """One row of the recipe and of the posterior, along the flow, in more steps than needed."""
    files = Files(f"{out_dir}/data", SMALL)
    common = (*files.tested, "--model-checkpoint", f"{out_dir}/VE_10k.pth", *ODE)
    drawn = (*sizes.steps(SHOWN_STEPS), "--plot-trajectories")
    with_likelihood = (*LIKELIHOOD, "--num-draws", "1")
    without, given = likelihood_results.trajectory_folders(out_dir)
    return [
        runs.sample(common, drawn, "--out-dir", without),
        runs.sample(common, with_likelihood, drawn, "--out-dir", given),
    ]


def steps(out_dir: str, sizes: Sizes) -> list[Step]:
    """All runs, in order."""
    return [
        *trainings(out_dir, sizes),
        *side_by_side(out_dir, sizes),
        *trajectories(out_dir, sizes),
        *corrected(out_dir, sizes),
        *(step for each in OTHERS for step in answers(out_dir, each, TRAINED_ONCE, sizes)),
        *(
            step
            for each in (*RANGES, *NULLS)
            for step in answers(out_dir, each, ("joint",), sizes, num_test=1000)
        ),
    ]


def rows(out_dir: str) -> list[likelihood_results.Row]:
    """Rows of the table: every run, and the report that it stands in."""

    def row(observed: str, network: str, evaluation: str, run: str) -> likelihood_results.Row:
        folders = f"{out_dir}/evaluations/{evaluation}", f"{out_dir}/runs/{run}"
        return likelihood_results.Row(observed, network, *folders)

    first = "r = 0.001, 1 µK-arcmin"
    return [
        *(row(first, run.words, "side_by_side", run.name) for run in RUNS),
        row(CORRECTED.words, "VE, 10,000 rows", CORRECTED.name, f"{CORRECTED.name}_VE_10k"),
        row(CORRECTED.words, "the same, `--correct`", CORRECTED.name, f"{CORRECTED.name}_weighted"),
        *(
            row(each.words, model.replace("_100k", ""), each.name, f"{each.name}_{model}")
            for each in OTHERS
            for model in TRAINED_ONCE
        ),
        *(
            row(each.words, "spectrum and r", each.name, f"{each.name}_joint")
            for each in (*RANGES, *NULLS)
        ),
    ]


@cli.script
def main(argv: list[str] | None = None) -> None:
    args = runs.make_parser(__doc__, "results/likelihood").parse_args(argv)
    runs.run(steps(args.out_dir, Sizes(args.shrink)))
    likelihood_results.write_trajectories(args.out_dir)
    likelihood_results.write_table(args.out_dir, rows(args.out_dir))


if __name__ == "__main__":
    main()
