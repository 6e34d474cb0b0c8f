"""The small prior of spectrum and r that the repository holds, made anew.

Simulates spectra of r from 0 to 1 without beam, trains a network of 61,000 weights on them, and
writes what sample.py --likelihood needs of it: averaged weights alone, and nothing that another
commit or folder would change, so that the same command gives the same bytes on the same machine.
The prior is of spectra from which the beam was divided out. Prints each command before it runs it.

Reads:   nothing.
Writes:  into --out-dir data and prior.pth; the checkpoint --file, and beside it README.md with its
         SHA-256.

Takes about three minutes on two cores.

Example:
  python -m studies.pretrained --out-dir results/pretrained
"""

import os
import pathlib

from runtime import atomic, checkpoints, cli, console
from runtime.jsonfiles import Json
from studies import runs
from studies.runs import Files, Flags, Sizes, Step

FILE = "pretrained/prior_nside16.pth"
NSIDE, R = 16, "0-1"
SKIES: Flags = (
    *("--r-range", "0", "1", "--foregrounds", "none", "--fwhm-arcmin", "0"),
    *("--nside", str(NSIDE)),
)
SMALL_NETWORK: Flags = (
    *("--hidden-dim", "64", "--embed-dim", "32", "--num-layers", "2"),
    *("--batch-size", "512", "--lr", "2e-3"),
)
# of one thread, for rounding depends on their number
MACHINE: Flags = ("--device", "cpu", "--threads", "1")
PASSING = ("command", "git_commit", "versions")  # entries that say nothing of the weights
README = """# Pretrained prior

`{name}` holds p(spectrum, r) at NSIDE 16: primordial BB at ell = 2–{lmax}, without beam, r
uniform from 0 to 1, of the Planck 2018 cosmology. It has seen no observation: `sample.py
--likelihood` brings that in, with any noise and any `--r-range` within 0 to 1. Divide the beam
out of spectrum and noise first.

Made by `make pretrained`, from

    {commands}

SHA-256: `{digest}`

The same command gives the same file on the same machine; on another kind of processor, or with
another version of torch, weights differ by rounding. It keeps averaged weights alone.
"""


def steps(out_dir: str, sizes: Sizes) -> list[Step]:
    """All runs, in order."""
    files = Files(f"{out_dir}/data", R)
    rows = (*files.prior, "--param-file", files.path("r_train"))
    return [
        runs.generate(SKIES, sizes.skies(100_000, 10), "--out-dir", files.folder),
        runs.train(
            *(rows, SMALL_NETWORK, sizes.epochs(40), MACHINE, "--out", f"{out_dir}/prior.pth")
        ),
    ]


def distil(content: Json) -> Json:
    """What draws need of a checkpoint: averaged weights, and no trace of commit and folder."""
    kept = {k: v for k, v in content.items() if k not in (*PASSING, "format", "version")}
    kept["data"] = {k: v for k, v in content["data"].items() if k not in PASSING}
    return kept | {"weights": content["ema_weights"]}  # the same tensors, which are written once


def publish(trained: str, path: str, commands: list[str]) -> str:
    """Write the checkpoint that is kept and the README beside it; its SHA-256.

    Args:
        trained: Checkpoint of train.py.
        path: Target.
        commands: That made it.
    """
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    checkpoints.save(path, distil(checkpoints.read(trained)))
    digest, name = checkpoints.file_sha256(path), os.path.basename(path)
    text = README.format(
        name=name, lmax=2 * NSIDE - 1, commands="\n    ".join(commands), digest=digest
    )
    atomic.write_bytes(str(pathlib.Path(path).with_name("README.md")), text.encode())
    return digest


@cli.script
def main(argv: list[str] | None = None) -> None:
    parser = runs.make_parser(__doc__, "results/pretrained")
    parser.add_argument("--file", default=FILE, help="the checkpoint that is kept")
    args = parser.parse_args(argv)
    planned = steps(args.out_dir, Sizes(args.shrink))
    runs.run(planned)
    # as the documents have commands: of no machine
    commands = [" ".join(["python", *step.command[1:]]) for step in planned]
    digest = publish(f"{args.out_dir}/prior.pth", args.file, commands)
    console.print_result(f"wrote {args.file} ({os.path.getsize(args.file):,} bytes), {digest}")


if __name__ == "__main__":
    main()
