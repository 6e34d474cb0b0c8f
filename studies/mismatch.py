"""r on ECHO's cleaned d1 s1 skies, by models trained on other foregrounds and on these.

Trains a posterior of spectrum and r on each of three skies, Gaussian foregrounds, an ensemble of
them, and PySM3's d1 s1; lets all three answer d1 s1 skies of r = 0, and of r from 0 to 0.01.
Prints each command before it runs it.

Reads:   PySM3's templates, from the folder that PYSM_LOCAL_DATA names or from the network.
Writes:  into --out-dir a folder of each sky with data and posterior.pth, the runs
         r*/trained_on_SKY, and evaluation_r0 and evaluation_r0-0.01.

Takes about a quarter of an hour on two cores (estimated: half of it is training).

Example:
  python -m studies.mismatch --out-dir results/mismatch
"""

from runtime import cli
from studies import runs
from studies.runs import NETWORK, NULL, R_RANGE, RANGE, Files, Flags, Sizes, Step

INSTRUMENT: Flags = ("--instrument", "echo", "--clean", "hilc")
SKIES = (("gaussian",), ("gaussian-ensemble",), ("d1", "s1"))
OBSERVED = SKIES[-1]


def name_of(sky: Flags) -> str:
    """Foregrounds as a folder is called."""
    return "+".join(sky)


def training(out_dir: str, sky: Flags, sizes: Sizes) -> list[Step]:
    """Data of a sky, and the posterior that they teach."""
    folder = f"{out_dir}/{name_of(sky)}"
    size = sizes.skies(100_000, 1000)
    return [
        runs.generate(INSTRUMENT, "--foregrounds", sky, R_RANGE, size, "--out-dir", folder),
        runs.train(
            *(NETWORK, Files(folder).pairs, sizes.epochs(20)),
            *("--out", f"{folder}/posterior.pth"),
        ),
    ]


def answers(out_dir: str, r: str) -> list[Step]:
    """All models on the observed skies of one r, or of a range, and their evaluation."""
    files = Files(f"{out_dir}/{name_of(OBSERVED)}", r)
    folders = {name_of(sky): f"{out_dir}/r{r}/trained_on_{name_of(sky)}" for sky in SKIES}
    return [
        *(
            runs.sample(
                *(files.observed, "--method", "ode"),
                *("--model-checkpoint", f"{out_dir}/{name}/posterior.pth", "--out-dir", folder),
            )
            for name, folder in folders.items()
        ),
        runs.evaluate(
            *("--runs", tuple(sorted(folders.values())), files.evaluated),
            *("--out-dir", f"{out_dir}/evaluation_r{r}"),
        ),
    ]


def steps(out_dir: str, sizes: Sizes) -> list[Step]:
    """All runs, in order."""
    folder = f"{out_dir}/{name_of(OBSERVED)}"
    null = ("--r", NULL, *sizes.skies(1, 300), "--out-dir", folder)
    return [
        *(step for sky in SKIES for step in training(out_dir, sky, sizes)),
        runs.generate(INSTRUMENT, "--foregrounds", OBSERVED, null),
        *(step for r in (NULL, RANGE) for step in answers(out_dir, r)),
    ]


@cli.script
def main(argv: list[str] | None = None) -> None:
    args = runs.make_parser(__doc__, "results/mismatch").parse_args(argv)
    runs.run(steps(args.out_dir, Sizes(args.shrink)))


if __name__ == "__main__":
    main()
