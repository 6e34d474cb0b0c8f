"""Quality against network evaluations for every solver: exact scores, then trained networks.

Prints each command before it runs it.

Reads:   of studies.posterior VE.pth, VP.pth, one_r.pth and data/dl_noisy_r0.001.npy in --out-dir.
Writes:  into solvers in --out-dir a figure, a .json and a .html of each.

Takes tens of minutes on two cores (estimated).

Example:
  python -m studies.solvers --out-dir results
"""

from runtime import cli
from studies import runs
from studies.runs import SMALL, Files, Sizes, Step


def steps(out_dir: str, sizes: Sizes) -> list[Step]:
    """All runs, in order."""
    small = sizes.if_shrunk("--num-rows", "12", "--evaluations", "6")

    def quality(name: str, *flags: str) -> Step:
        folder = f"{out_dir}/solvers/{name}".rstrip("/")
        return Step.of("benchmarks.quality", flags, small, "--out-dir", folder)

    return [
        quality(""),
        *(quality(sde, "--model-checkpoint", f"{out_dir}/{sde}.pth") for sde in ("VE", "VP")),
        quality(
            *("one_r", "--model-checkpoint", f"{out_dir}/one_r.pth"),
            *Files(f"{out_dir}/data", SMALL).observed,
        ),
    ]


@cli.script
def main(argv: list[str] | None = None) -> None:
    args = runs.make_parser(__doc__, "results").parse_args(argv)
    runs.run(steps(args.out_dir, Sizes(args.shrink)))


if __name__ == "__main__":
    main()
