"""Rates of train.py and sample.py beside other busy programs, as shares of their rates alone.

Both run as whole processes at their defaults, in turns: alone, beside one busy process, and
beside one for each core. Rates are those that the scripts print, without their start. Writes the
table into benchmarks/RESULTS.md.

Example:
  python -m benchmarks.contention --repeats 3
"""

import argparse
import contextlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import numpy as np

from benchmarks import report
from runtime import cli, console, devices, records, tables

ROWS, N_ELL, EPOCHS, NUM_SAMPLES = 20_000, 30, 4, 40_000
BUSY = "while True: pass"
RATE = re.compile(r"([\d,]+) rows (?:per|a) second")


@contextlib.contextmanager
def busy_processes(number: int) -> Iterator[list[subprocess.Popen]]:
    """That many single-threaded processes that never rest, within the block."""
    running = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(number)]
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.wait()


def rate(words: str) -> float:
    """Rows a second that a command line of this project says it had; its errors end all."""
    command = [sys.executable, *words.split()]
    done = subprocess.run(command, capture_output=True, text=True)
    found = RATE.search(done.stdout + done.stderr)
    if done.returncode or found is None:
        raise SystemExit(f"failed: {words}\n{done.stderr}")
    return float(found[1].replace(",", ""))


def write_rows(folder: str) -> str:
    """Training rows of a full sky; their file."""
    nu = 2 * np.arange(2, 2 + N_ELL) + 1
    rows = 1e-3 * np.random.default_rng(0).chisquare(nu, (ROWS, N_ELL)) / nu
    path = os.path.join(folder, "rows.npy")
    tables.write_array(path, rows, records.Record.from_json({"quantity": "primordial BB"}))
    return path


def measure(neighbours: list[int], repeats: int) -> dict[str, dict[int, list[float]]]:
    """{script: {busy processes: rates}}, in turns."""
    with tempfile.TemporaryDirectory() as folder:
        rows, model = write_rows(folder), os.path.join(folder, "model.pth")
        commands = {
            "train.py": f"train.py --data-file {rows} --epochs {EPOCHS} --out {model}",
            "sample.py": f"sample.py --model-checkpoint {model} --num-samples {NUM_SAMPLES} "
            f"--method ode --out-dir {folder}",
        }
        rates: dict = {script: {number: [] for number in neighbours} for script in commands}
        for _ in range(repeats):
            for number in neighbours:
                with busy_processes(number):
                    for script, words in commands.items():
                        rates[script][number].append(rate(f"{words} --device cpu"))
                        found = f"{rates[script][number][-1]:,.0f} rows / s"
                        console.info(f"{script} beside {number} busy: {found}")
    return rates


def main(argv: list[str] | None = None) -> None:
    """Measure both scripts and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=cli.HelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--repeats", type=cli.positive_int, default=3, help="turns; medians count")
    args = parser.parse_args(argv)
    neighbours = sorted({0, 1, devices.num_threads(None)})
    rows = []
    for script, found in measure(neighbours, args.repeats).items():
        medians = {number: statistics.median(values) for number, values in found.items()}
        for number, median in medians.items():
            rows.append([script, f"{number}", f"{median:,.0f}", f"{median / medians[0]:.2f}"])
    header = ["script", "busy processes", "rows / s", "of the rate alone"]
    text = f"## Beside other programs\n\n`python -m benchmarks.contention`; {report.machine()}. "
    text += f"Medians of {args.repeats} turns of whole processes at their defaults, on rows of "
    text += f"{N_ELL} multipoles, beside single-threaded processes that never rest."
    table = report.table(header, rows)
    report.write_section("contention", f"{text}\n\n{table}")
    console.print_result(table)


if __name__ == "__main__":
    main()
