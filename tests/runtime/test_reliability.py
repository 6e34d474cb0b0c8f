"""train.py is killed at random moments, in processes of its own, and loses nothing."""

import multiprocessing
import os
import signal
import sys
import time

import numpy as np
import pytest
import torch

import train
from diffusion import trainer
from diffusion.trained import Trained
from runtime import drawing, priors, records, signals, tables

ARGV = ["--data-file", "x.npy", "--batch-size", "50", "--epochs", "12", "--hidden-dim", "16"]
ARGV += ["--embed-dim", "8", "--num-layers", "1", "--device", "cpu", "--resume", "--out"]
NUM_STEPS = 12 * 7
MOMENTS = 0.1, 1.2  # when it is killed, as a share of the time that it takes without a save


def run(argv, save_seconds):
    """The script's main in a process of its own."""
    with open("log.txt", "a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    trainer.SAVE_SECONDS = save_seconds
    drawing.render = lambda path, draw: b"{}"
    train.main(argv)


def log():
    """What the processes said."""
    with open("log.txt") as file:
        return file.read()


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Callable (out, save_seconds) that starts a training; its `seconds` are those of a whole one.

    Processes are forks of a server that has imported torch already.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("training"))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        yield _start()


def _start():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["test_reliability", "torch", "runtime.checkpoints", "figures.plots"]
    )
    rng = np.random.default_rng(0)
    record = records.Record(prior=priors.Prior(r=0.001))
    tables.write_array("x.npy", 1e-5 * rng.chisquare(9, (400, 6)), record)

    def started(out, save_seconds=0):
        process = context.Process(target=run, args=([*ARGV, out], save_seconds))
        process.start()
        return process

    for out in ("first.pth", "whole.pth"):  # the first waits for the server
        began = time.monotonic()
        process = started(out, 1000)
        process.join()
        assert process.exitcode == 0, log()
        started.seconds = time.monotonic() - began
    return started


def steps_saved(path):
    """Steps that a checkpoint, which must be sound, has behind it; 0 where there is none."""
    if not os.path.exists(path):
        return 0
    state = Trained.load(path).resume
    return state["step"] if state else NUM_STEPS + 1


def assert_same(one, other):
    one, other = Trained.load(one), Trained.load(other)
    assert one.training == other.training and not other.resume
    for name, tensor in one.weights.items():
        assert torch.equal(tensor, other.weights[name])
    for name, tensor in one.ema_weights.items():
        assert torch.equal(tensor, other.ema_weights[name])


@pytest.mark.parametrize("num_kills", [10, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_trainings_lose_nothing_and_end_as_if_never_killed(num_kills, start):
    moments = np.random.default_rng(num_kills).uniform(*MOMENTS, 100 * num_kills) * start.seconds
    kills, amid, saved = 0, 0, 0
    for moment in moments:
        process = start("killed.pth")
        process.join(moment if kills < num_kills else None)
        process.kill()
        process.join()
        before, saved = saved, steps_saved("killed.pth")
        assert saved >= before
        if process.exitcode == 0:
            assert_same("whole.pth", "killed.pth")
            if kills == num_kills:
                break
            os.unlink("killed.pth")
            saved = 0
        else:
            assert process.exitcode == -signal.SIGKILL, log()
            kills, amid = kills + 1, amid + (saved > before)
    assert kills == num_kills and amid > 0


@pytest.mark.parametrize("number", signals.STOP_SIGNALS)
def test_signals_save_and_end_with_their_exit_code(number, start):
    out = f"stopped_{number}.pth"
    process = start(out)
    while not os.path.exists(out) and process.is_alive():
        time.sleep(0.01)
    os.kill(process.pid, number)  # soon after the first of many steps, each of which is saved
    process.join()
    assert process.exitcode == signals.STOP_SIGNALS[number], log()
    assert 0 < steps_saved(out) < NUM_STEPS
    process = start(out, 1000)
    process.join()
    assert_same("whole.pth", out)
