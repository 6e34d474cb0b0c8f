"""How time, memory and disk space grow with NSIDE and rows: the three scripts as people run them.

Each script runs as a process of its own, of which peak memory is read from the operating system
and held against what the script announced. Writes the table into benchmarks/RESULTS.md, row
by row. Sizes are those of the largest runs divided by --shrink; 1 takes an hour or two, and 25 GB.

Example:
  python -m benchmarks.scale --shrink 10
"""

import argparse
import dataclasses
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from benchmarks import report
from runtime import cli, console, resources

FOLDER = "results/scale"
R = "0-0.01"
NETWORK = "--hidden-dim 128 --num-layers 2 --batch-size 4096 --lr 4e-3 --epochs 1"
DRAWS = 64
EVALUATIONS = 5  # of the network: memory and disk do not depend on them
CASES = [  # NSIDE, training rows, observations; the longest last
    (512, 10_000, 100),
    (512, 100_000, 1_000),
    (64, 100_000, 10_000),
    (16, 100_000, 10_000),
    (16, 1_000_000, 100_000),
    (16, 10_000_000, 1_000_000),
]


@dataclasses.dataclass(frozen=True)
class Usage:
    """What a script took.

    Attributes:
        seconds: Wall time of the whole process.
        peak_bytes: Peak memory.
        announced: Memory that it named beforehand, in words.
    """

    seconds: float
    peak_bytes: int
    announced: str


def run(words: str) -> Usage:
    """Run a command line of this project; its errors end all."""
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as stderr:
        command = [sys.executable, *words.split()]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
        stderr.seek(0)
        messages = stderr.read()
    if status:
        raise SystemExit(f"failed: {words}\n{messages}")
    announced = re.search(r"([\d.]+ \w*B) of memory", messages)
    if announced is None:
        raise SystemExit(f"names no memory: {words}\n{messages}")
    return Usage(seconds, usage.ru_maxrss * 1024, announced[1])


def disk(names: tuple[str, ...]) -> int:
    """Bytes of the files of FOLDER whose names begin so."""
    with os.scandir(FOLDER) as entries:
        return sum(e.stat().st_size for e in entries if e.name.startswith(names))


def measure(nside: int, rows: int, observations: int) -> Iterator[list[str]]:
    """Rows of the table for one size, one after the other."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    os.makedirs(FOLDER)
    data = f"--foregrounds none --noise-uk-arcmin 1 --r-range 0 0.01 --nside {nside}"
    data += f" --num-samples {rows} --num-test {observations} --out-dir {FOLDER}"
    rows_of = f"--data-file {FOLDER}/dl_train_r{R}.npy --cond-file {FOLDER}/dl_train_noisy_r{R}.npy"
    rows_of += f" --param-file {FOLDER}/r_train_r{R}.npy"
    pair = f"--data-file-noisy {FOLDER}/dl_noisy_r{R}.npy --model-checkpoint {FOLDER}/model.pth"
    commands = {
        "data_generation.py": (data, rows + observations, ("dl_", "r_train", "r_gt")),
        "train.py": (f"{rows_of} {NETWORK} --out {FOLDER}/model.pth", rows, ("model", "training")),
        "sample.py": (
            f"{pair} --method ode --num-evaluations {EVALUATIONS} --num-draws {DRAWS} "
            f"--out-dir {FOLDER}",
            DRAWS * observations,
            ("posterior", "denoised", "r_draws"),
        ),
    }
    for script, (words, count, names) in commands.items():
        console.info(f"nside {nside}: {script} {words}")
        used = run(f"{script} {words}")
        cells = [f"{nside}", script, f"{count:,}"]
        cells += [f"{used.seconds:.0f}", f"{count / used.seconds:,.0f}"]
        cells += [resources.format_size(used.peak_bytes), used.announced]
        cells.append(resources.format_size(disk(names)))
        console.print_result("  ".join(cells))
        yield cells
    shutil.rmtree(FOLDER)


def main(argv: list[str] | None = None) -> None:
    """Measure all sizes and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=cli.HelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--shrink", type=cli.positive_int, default=10, help="divides rows and observations"
    )
    args = parser.parse_args(argv)
    header = ["NSIDE", "script", "rows", "s", "rows / s", "peak memory", "said before", "disk"]
    head = f"## Scale\n\n`python -m benchmarks.scale --shrink {args.shrink}`; {report.machine()}. "
    head += f"Rows are pairs, rows of one epoch, and draws ({DRAWS} for each observation, with "
    head += f"`--num-evaluations {EVALUATIONS}`). Seconds are those of whole processes."
    cells = []
    for nside, *sizes in CASES:
        for row in measure(nside, *(max(2, size // args.shrink) for size in sizes)):
            cells.append(row)
            report.write_section("scale", f"{head}\n\n{report.table(header, cells)}")


if __name__ == "__main__":
    main()
