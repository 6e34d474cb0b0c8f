"""The memory that is announced is a bound on what a run takes."""

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
RUN = """
import sys
import data_generation
from runtime import resources
data_generation.main(sys.argv[1:])
print("peak", resources.peak_memory())
"""
LARGE = "--nside 256 --num-samples 50 --num-test 2 --foregrounds gaussian-ensemble"


@pytest.mark.parametrize(
    "words", [LARGE, f"{LARGE} --instrument echo --clean hilc --ilc-weights model"]
)
def test_what_is_announced_is_enough(words, tmp_path):
    """Ensembles and many bands are what takes most; never three times what is needed."""
    command = [sys.executable, "-c", RUN, *words.split(), "--out-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    announced = re.search(r"up to ([\d.]+) (MB|GB) of memory", done.stderr)
    promised = float(announced[1]) * {"MB": 1e6, "GB": 1e9}[announced[2]]
    peak = float(re.search(r"peak (\d+)", done.stdout)[1])
    assert peak < promised < 3 * peak
