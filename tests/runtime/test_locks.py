"""Of two processes that write the same output the second is refused; nothing stays behind."""

import fcntl
import os
import signal
import subprocess
import sys

import pytest
from test_pipeline import TINY, fails, folder  # noqa: F401  folder is a fixture

import data_generation
import evaluate
import sample
import train
from runtime import locks
from runtime.errors import InputError

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(locks.__file__)))
HOLD = """
import sys
from runtime import locks
with locks.hold(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def place(tmp_path):
    """An empty folder."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


def other_process(path):
    """Another process that holds a path until its stdin is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        env={**os.environ, "PYTHONPATH": ROOT},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    process.stdout.readline()
    return process


def test_the_second_is_refused_and_the_next_is_not(place):
    path = place / "a.pth"
    process = other_process(path)
    with pytest.raises(InputError, match="another process is writing it"), locks.hold(str(path)):
        pass
    with locks.hold(str(place / "b.pth")):  # another output of the same folder
        assert len(os.listdir(place)) == 2
    (place / "link.pth").symlink_to(path)
    with pytest.raises(InputError), locks.hold(str(place / "link.pth")):
        pass
    process.communicate()
    with locks.hold(str(path)):
        pass
    assert os.listdir(place) == ["link.pth"]


def test_a_killed_process_blocks_nobody(place):
    path = place / "a.pth"
    process = other_process(path)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(os.listdir(place)) == 1  # the file, which nobody holds
    with locks.hold(str(path)):
        pass
    assert os.listdir(place) == []


def test_folders_that_stay_empty_go(place):
    (place / "empty").mkdir()
    with locks.hold(str(place / "a" / "b" / "c"), str(place / "empty" / "d")):
        assert (place / "a" / "b").is_dir()
    assert os.listdir(place) == ["empty"]
    with locks.hold(str(place / "a" / "b" / "c")):
        (place / "a" / "b" / "c").touch()
    assert (place / "a" / "b" / "c").exists()


def test_the_first_of_two_that_is_refused_lets_go_of_both(place):
    a, b = str(place / "a"), str(place / "b")
    with locks.hold(b):
        with pytest.raises(InputError), locks.hold(a, b):
            pass
        with locks.hold(a):
            pass
    assert os.listdir(place) == []


@pytest.mark.parametrize("fault", ["no locks", "no folder", "long name"])
def test_where_there_can_be_no_lock_work_goes_on(fault, place, monkeypatch):
    path = place / "a"
    if fault == "no locks":

        def unknown(*args):
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr(fcntl, "flock", unknown)
    if fault == "no folder":
        path.touch()
        path = path / "b"
    if fault == "long name":
        path = place / ("a" * 255)
    before = os.listdir(place)
    with locks.hold(str(path)):
        pass
    assert os.listdir(place) == before


def test_every_script_holds_its_outputs(tmp_path, capsys):
    """sample.py is tested with its jobs."""
    for path, main, argv in (
        ("model.pth", train.main, TINY),
        (
            "d/dl_gt_r0.1.npy",
            data_generation.main,
            ["--r", "0.2", "0.1", "--nside", "2", "--num-samples", "3", "--out-dir", "d"],
        ),
    ):
        with locks.hold(path):
            before = set(os.listdir("."))
            assert f"{path}: another process is writing it" in fails(main, argv, 2, capsys)
            assert set(os.listdir(".")) <= before | {"d"}
    with locks.hold("model.pth"):  # another training in the same folder goes its way
        train.main([*TINY, "--epochs", "1", "--out", "other.pth"])
    files = ["--data-file-noisy", "data/dl_noisy_r0.001.npy"]
    files += ["--data-file-gt", "data/dl_gt_r0.001.npy", "--out-dir", "e", "--runs", "x"]
    train.main([*TINY, "--epochs", "1", "--out", "other.pth"])
    sampled = ["--num-steps", "3", "--model-checkpoint", "other.pth", "--out-dir", "x"]
    sample.main([*files[:4], *sampled])
    with locks.hold("e/report.json"):
        assert "another process" in fails(evaluate.main, files, 2, capsys)
    assert not [name for name in os.listdir(".") if name.startswith(".")]
