"""The measured posteriors of the README: at r = 0.001, for r from 0 to 0.01, and the null test.

Trains a posterior of the spectrum at one r, and one of spectrum and r; lets the latter answer
skies of r = 0, too. Beside them the published recipe, for both SDEs and every method. All are
held against exact posteriors. Prints each command before it runs it.

Reads:   nothing.
Writes:  into --out-dir data and prior, the checkpoints one_r.pth, joint.pth, VE.pth and VP.pth, a
         folder of each run, and evaluation_one_r, evaluation_range and evaluation_null;
         in few both posteriors with 5, 7 and 21 network evaluations.

Takes about an hour on two cores.

Example:
  python -m studies.posterior --out-dir results
"""

from runtime import cli
from studies import runs
from studies.runs import CLEAN, NETWORK, NULL, R_RANGE, SMALL, Files, Flags, Sizes, Step

ODE: Flags = ("--method", "ode")
SDE_NAMES = ("VE", "VP")
METHODS = ("sde", "ode", "pc")


def trained_posteriors(out_dir: str, sizes: Sizes) -> list[Step]:
    """Data, and posteriors of one r and of a range of r."""
    data = f"{out_dir}/data"
    one, ranged, null = (Files(data, r) for r in (SMALL, runs.RANGE, NULL))
    one_model, joint_model = f"{out_dir}/one_r.pth", f"{out_dir}/joint.pth"
    one_size, joint_size = sizes.skies(100_000, 2000), sizes.skies(500_000, 1000)
    return [
        runs.generate("--r", NULL, SMALL, CLEAN, one_size, "--out-dir", data),
        runs.generate(R_RANGE, CLEAN, joint_size, "--out-dir", data),
        runs.train(NETWORK, one.pairs, sizes.epochs(80), "--out", one_model),
        runs.train(NETWORK, ranged.pairs, sizes.epochs(36), "--out", joint_model),
        runs.sample(
            one.tested, "--model-checkpoint", one_model, ODE, "--out-dir", f"{out_dir}/one_r"
        ),
        runs.sample(
            *(ranged.tested, "--model-checkpoint", joint_model, ODE, sizes.draws(256)),
            *("--out-dir", f"{out_dir}/joint"),
        ),
        runs.sample(
            null.observed, "--model-checkpoint", joint_model, ODE, "--out-dir", f"{out_dir}/null"
        ),
    ]


def recipe(out_dir: str, sde: str, sizes: Sizes) -> list[Step]:
    """The published recipe with one SDE, by every method; its data lie in prior."""
    files, model = Files(f"{out_dir}/data", SMALL), f"{out_dir}/{sde}.pth"
    training = Files(f"{out_dir}/prior", SMALL).prior
    common = (*files.tested, "--model-checkpoint", model)
    solved = ("--out-dir", f"{out_dir}/{sde}_ode")
    steps = [
        runs.train(training, "--sde-type", sde, sizes.if_shrunk("--epochs", "1"), "--out", model),
        runs.sample(common, ODE, solved),
    ]
    for method in ("sde", "pc"):
        flags = ("--method", method, *sizes.steps(200), "--out-dir", f"{out_dir}/{sde}_{method}")
        steps.append(runs.sample(common, flags))
    return steps


def evaluations(out_dir: str) -> list[Step]:
    """Every run against the truth and the exact posterior."""
    one, ranged, null = (Files(f"{out_dir}/data", r) for r in (SMALL, runs.RANGE, NULL))
    recipes = tuple(f"{out_dir}/{sde}_{method}" for sde in SDE_NAMES for method in METHODS)
    return [
        runs.evaluate(
            *(one.evaluated, "--out-dir", f"{out_dir}/evaluation_one_r"),
            *("--runs", recipes, f"{out_dir}/one_r"),
        ),
        runs.evaluate(
            *("--runs", f"{out_dir}/joint", ranged.evaluated),
            *("--out-dir", f"{out_dir}/evaluation_range"),
        ),
        runs.evaluate(
            *("--runs", f"{out_dir}/null", null.evaluated),
            *("--out-dir", f"{out_dir}/evaluation_null"),
        ),
    ]


def steps(out_dir: str, sizes: Sizes) -> list[Step]:
    """All runs, in order."""
    rows = sizes.if_shrunk("--num-samples", "100")
    one, ranged = (Files(f"{out_dir}/data", r) for r in (SMALL, runs.RANGE))
    return [
        *trained_posteriors(out_dir, sizes),
        runs.generate(
            "--r", SMALL, CLEAN, rows, "--num-test", "10", "--out-dir", f"{out_dir}/prior"
        ),
        *(step for sde in SDE_NAMES for step in recipe(out_dir, sde, sizes)),
        *evaluations(out_dir),
        *runs.few_evaluations(f"{out_dir}/one_r.pth", one, f"{out_dir}/few/one_r"),
        *runs.few_evaluations(
            f"{out_dir}/joint.pth", ranged, f"{out_dir}/few/joint", sizes.draws(256)
        ),
    ]


@cli.script
def main(argv: list[str] | None = None) -> None:
    args = runs.make_parser(__doc__, "results").parse_args(argv)
    runs.run(steps(args.out_dir, Sizes(args.shrink)))


if __name__ == "__main__":
    main()
