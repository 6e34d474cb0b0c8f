"""Quality against network evaluations for every solver: exact scores, then trained networks.

Prints each command before it runs it.

Reads:   of studies.posterior VE.pth, VP.pth, one_r.pth, joint.pth, and their observations in data,
         in --out-dir.
Writes:  into solvers in --out-dir a figure, a .json and a .html of each.

Takes tens of minutes on two cores (estimated).

Example:
  python -m studies.solvers --out-dir results
"""

from runtime import cli
from studies import runs
from studies.runs import RANGE, SMALL, Files, Sizes, Step


def steps(out_dir: str, sizes: Sizes) -> list[Step]:
    """All runs, in order."""
    small = sizes.if_shrunk("--num-rows", "12", "--evaluations", "6")

    def quality(name: str, *flags: str) -> Step:
        folder = f"{out_dir}/solvers/{name}".rstrip("/")
        return Step.of("benchmarks.quality", flags, small, "--out-dir", folder)

    return [
        quality(""),
        *(quality(sde, "--model-checkpoint", f"{out_dir}/{sde}.pth") for sde in ("VE", "VP")),
        *(
            quality(
                *(name, "--model-checkpoint", f"{out_dir}/{name}.pth"),
                *Files(f"{out_dir}/data", r).observed,
            )
            for name, r in (("one_r", SMALL), ("joint", RANGE))
        ),
    ]


@cli.script
def main(argv: list[str] | None = None) -> None:
    args = runs.make_parser(__doc__, "results").parse_args(argv)
    runs.run(steps(args.out_dir, Sizes(args.shrink)))


if __name__ == "__main__":
    main()
