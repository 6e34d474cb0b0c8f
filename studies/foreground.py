"""A posterior at r = 0.001 under a fixed foreground: PySM3's d1 s1, a thousandth of it left.

Prints each command before it runs it.

Reads:   PySM3's templates, from the folder that PYSM_LOCAL_DATA names or from the network.
Writes:  into --out-dir the data, posterior.pth, the run posterior, and evaluation;
         in few the same with 5, 7 and 21 network evaluations.

Takes about ten minutes on two cores (estimated: the training takes nine).

Example:
  python -m studies.foreground --out-dir results/foreground
"""

from runtime import cli
from studies import runs
from studies.runs import NETWORK, SMALL, Files, Flags, Sizes, Step

SKY: Flags = (
    *("--foregrounds", "d1", "s1", "--foreground-scale", "0.001"),
    *("--noise-uk-arcmin", "1"),
)


def steps(out_dir: str, sizes: Sizes) -> list[Step]:
    """All runs, in order."""
    files, model, run = Files(out_dir, SMALL), f"{out_dir}/posterior.pth", f"{out_dir}/posterior"
    solved = ("--method", "ode", "--out-dir", run)
    return [
        runs.generate("--r", SMALL, SKY, sizes.skies(100_000, 2000), "--out-dir", out_dir),
        runs.train(NETWORK, files.pairs, sizes.epochs(80), "--out", model),
        runs.sample(files.tested, "--model-checkpoint", model, solved),
        runs.evaluate("--runs", run, files.evaluated, "--out-dir", f"{out_dir}/evaluation"),
        *runs.few_evaluations(model, files, f"{out_dir}/few"),
    ]


@cli.script
def main(argv: list[str] | None = None) -> None:
    args = runs.make_parser(__doc__, "results/foreground").parse_args(argv)
    runs.run(steps(args.out_dir, Sizes(args.shrink)))


if __name__ == "__main__":
    main()
