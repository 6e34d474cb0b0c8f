"""In minutes: the published recipe and a posterior on the same observations, evaluated.

Simulates spectra of r from 0 to 0.01 without foregrounds, trains a model of clean spectra and a
posterior of spectrum and r, lets each answer the same 500 observations, and holds both against
the exact posterior. Prints each command before it runs it.

Reads:   nothing.
Writes:  into --out-dir data, prior.pth and posterior.pth, the runs recipe and posterior, and
         evaluation with report.html: tables and figures in one file.

Takes about six minutes on two cores.

Example:
  python -m studies.demo --out-dir results/demo
"""

from runtime import cli
from studies import runs
from studies.runs import CLEAN, NETWORK, R_RANGE, Files, Sizes, Step


def steps(out_dir: str, sizes: Sizes) -> list[Step]:
    """All runs, in order."""
    files = Files(f"{out_dir}/data")
    prior, posterior = f"{out_dir}/prior.pth", f"{out_dir}/posterior.pth"
    recipe_run, posterior_run = f"{out_dir}/recipe", f"{out_dir}/posterior"
    recipe = ("--method", "sde", *sizes.steps(200), "--plot-trajectories")
    return [
        runs.generate(R_RANGE, CLEAN, sizes.skies(200_000, 500), "--out-dir", files.folder),
        runs.train(NETWORK, files.prior, sizes.epochs(4), "--out", prior),
        runs.train(NETWORK, files.pairs, sizes.epochs(25), "--out", posterior),
        runs.sample(files.tested, "--model-checkpoint", prior, recipe, "--out-dir", recipe_run),
        runs.sample(
            *(files.tested, "--model-checkpoint", posterior, "--method", "ode"),
            *("--out-dir", posterior_run),
        ),
        runs.evaluate(
            *("--runs", recipe_run, posterior_run, files.evaluated),
            *("--out-dir", f"{out_dir}/evaluation"),
        ),
    ]


@cli.script
def main(argv: list[str] | None = None) -> None:
    args = runs.make_parser(__doc__, "results/demo").parse_args(argv)
    runs.run(steps(args.out_dir, Sizes(args.shrink)))


if __name__ == "__main__":
    main()
