"""The memory that is announced is a bound on what a run takes."""

import pathlib
import re
import subprocess
import sys

import pytest

import data_generation
from runtime import resources

ROOT = pathlib.Path(__file__).parents[2]
RUN = """
import sys
import data_generation
from runtime import resources
data_generation.main(sys.argv[1:])
print("peak", resources.peak_memory())
"""
LARGE = "--nside 256 --num-samples 50 --num-test 2 --foregrounds gaussian-ensemble"


MASKED = "--nside 16 --foregrounds none --noise-uk-arcmin 1 --num-samples 400 --num-test 2 --mask"


def promised_and_peak(words, tmp_path):
    """Bytes that a run announces, and those that it takes."""
    command = [sys.executable, "-c", RUN, *words.split(), "--out-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    announced = re.search(r"up to ([\d.]+) (MB|GB) of memory", done.stderr)
    promised = float(announced[1]) * {"MB": 1e6, "GB": 1e9}[announced[2]]
    return promised, float(re.search(r"peak (\d+)", done.stdout)[1])


@pytest.mark.parametrize(
    "words", [LARGE, f"{LARGE} --instrument echo --clean hilc --ilc-weights model"]
)
def test_what_is_announced_is_enough(words, tmp_path):
    """Ensembles and many bands are what takes most; never three times what is needed."""
    promised, peak = promised_and_peak(words, tmp_path)
    assert peak < promised < 3 * peak


@pytest.mark.parametrize("sky", ["galactic:20", "galactic:60 --e-modes known"])
def test_what_is_announced_is_enough_for_part_of_the_sky(sky, tmp_path):
    promised, peak = promised_and_peak(f"{MASKED} {sky}", tmp_path)
    assert peak < promised < 1.7 * peak


def test_a_machine_without_room_for_a_masked_sky_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(resources, "machine_memory", lambda: 6e8)
    with pytest.raises(SystemExit) as stop:
        data_generation.main([*MASKED.split(), "galactic:20", "--out-dir", str(tmp_path / "data")])
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.count("error: --nside 16: with this --mask it takes") == 1
    assert "has 600.0 MB; lower --nside, or mask more of the sky" in err
    assert not (tmp_path / "data").exists()
